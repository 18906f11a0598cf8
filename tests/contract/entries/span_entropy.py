"""``mmda/losses/span_entropy.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference, move
from tests.contract.vocabulary import Role
from tests.reference import entropies

ENTRIES = (
    Entry(
        "SpanEntropyLoss",
        roles={"mask": Role(("b", "t"), None, use="mask")},
        reference=Reference(
            lambda p, s: entropies.span_entropy(
                p.start_logits, p.end_logits, [p.start_logits.shape[1]] * len(p.start_logits), s.normalised
            ),
            (move("normalised", False),),
        ),
        no_digits="moments",
    ),
)
