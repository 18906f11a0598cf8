"""``mmda/losses/classifier_discrepancy.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference
from tests.reference import predictions

ENTRIES = (
    Entry(
        "ClassifierDiscrepancyLoss",
        reference=Reference(lambda p, s: predictions.classifier_discrepancy(p.first_logits, p.second_logits)),
    ),
)
