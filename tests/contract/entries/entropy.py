"""``mmda/losses/entropy.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference
from tests.reference import predictions

ENTRIES = (
    Entry("EntropyLoss", reference=Reference(lambda p, s: predictions.mean_entropy(p.logits))),
    Entry(
        "InformationMaximisationLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(lambda p, s: -predictions.mutual_information(p.logits)),
    ),
)
