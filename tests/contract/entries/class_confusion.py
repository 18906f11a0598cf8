"""``mmda/losses/class_confusion.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Excuse, Reference, move
from tests.reference import predictions

ENTRIES = (
    Entry(
        "MinimumClassConfusionLoss",
        excuses=(
            LEFT_OUT,
            Excuse(
                ("gradcheck", "gradgradcheck"),
                "the certainty weights are detached, as in the authors' code, but change in finite differences",
                Exception,
                "Jacobian mismatch",
            ),
        ),
        reference=Reference(
            lambda p, s: predictions.class_confusion(p.logits, s.temperature), (move("temperature", 1.0),)
        ),
    ),
)
