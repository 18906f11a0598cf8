"""``mmda/losses/nt_xent.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.contract.pieces import ROWS
from tests.reference import contrastive

ALIKE = (ROWS[:, None] - ROWS) % 3 == 0

ENTRIES = (
    Entry(
        "NTXentLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: contrastive.nt_xent(
                p.anchor, p.positive, s.temperature, s.positive_mask, s.negative_mask, normalize=s.normalize
            ),
            (
                move("temperature", 0.2),
                move("normalize", False),
                move("positive_mask", ALIKE),
                move("negative_mask", (ROWS[:, None] + ROWS) % 3 != 1),
            ),
        ),
        no_digits="paired rows",
    ),
)
