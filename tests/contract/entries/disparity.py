"""``mmda/losses/disparity.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse, Reference, move
from tests.reference import predictions

ENTRIES = (
    Entry(
        "MarginDisparityLoss",
        excuses=(
            Excuse(
                ("reaches_inputs",),
                "the classifier's logits only enter by their arg max, which has no gradient",
                AssertionError,
                "no gradient reaches `source_logits`",
            ),
        ),
        reference=Reference(
            lambda p, s: (
                -predictions.margin_disparity(
                    p.source_logits, p.source_adversary_logits, p.target_logits, p.target_adversary_logits, s.margin
                )
            ),
            (move("margin", 1.5),),
        ),
    ),
)
