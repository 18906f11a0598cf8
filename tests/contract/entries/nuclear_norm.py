"""``mmda/losses/nuclear_norm.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.reference import predictions

ENTRIES = (
    Entry(
        "BatchNuclearNormLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: -predictions.smooth_nuclear_norm(p.logits, s.smoothing), (move("smoothing", 0.2),)
        ),
    ),
)
