"""``mmda/losses/frechet.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.reference import frechet

ENTRIES = (
    Entry(
        "FrechetDistanceLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: frechet.frechet_distance(p.source, p.target, s.smoothing), (move("smoothing", 0.1),)
        ),
        no_digits="compared with CORAL, whose moments these are",
    ),
)
