"""``mmda/losses/open_set.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference, move
from tests.reference import pseudo_labels

ENTRIES = (
    Entry(
        "OpenSetLoss",
        reference=Reference(lambda p, s: pseudo_labels.open_set(p.logits, s.boundary), (move("boundary", 0.2),)),
        no_digits="classes that the source lacks",
    ),
)
