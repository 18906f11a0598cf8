"""``mmda/losses/sigmoid_contrastive.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.contract.pieces import CANDIDATES, KEPT, NEGATIVE, POSITIVE, WANTED, scaled
from tests.reference import contrastive

ENTRIES = (
    Entry(
        "SigmoidContrastiveLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: contrastive.sigmoid(scaled(p, s), s.bias, s.positive_mask, s.negative_mask),
            (
                move("temperature", 0.3),
                move("bias", -2.0),
                move("normalize", False),
                move("positive_mask", POSITIVE),
                move("negative_mask", NEGATIVE),
                move("candidate_mask", KEPT, positive=CANDIDATES, positive_mask=WANTED),
            ),
        ),
        no_digits="paired rows",
    ),
)
