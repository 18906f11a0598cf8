"""``mmda/losses/supervised_contrastive.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.reference import supervised_contrastive

ENTRIES = (
    Entry(
        "SupervisedContrastiveLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: supervised_contrastive.supervised_contrastive(
                p.features, p.labels.tolist(), s.temperature, s.normalize
            ),
            (move("temperature", 0.3), move("normalize", False)),
        ),
        no_digits="labels of every row",
    ),
)
