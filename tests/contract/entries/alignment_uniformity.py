"""``mmda/losses/alignment_uniformity.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.reference import redundancy

ENTRIES = (
    Entry(
        "AlignmentUniformityLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: redundancy.alignment_uniformity(p.anchor, p.positive, s.uniformity, s.sharpness),
            (move("uniformity", 0.3), move("sharpness", 0.7)),
        ),
        no_digits="paired rows",
    ),
)
