"""``mmda/losses/virtual_adversarial.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference
from tests.contract.vocabulary import Role, normal
from tests.reference import entropies

ENTRIES = (
    Entry(
        "VirtualAdversarialLoss",
        roles={
            # the constant side of a divergence: no gradient flows to it
            "logits": Role(("b", "c"), normal)
        },
        reference=Reference(lambda p, s: entropies.divergence(p.logits, p.perturbed_logits)),
        no_digits="not measured yet",
    ),
)
