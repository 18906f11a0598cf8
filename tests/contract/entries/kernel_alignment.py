"""``mmda/losses/kernel_alignment.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference
from tests.contract.vocabulary import Role, normal
from tests.reference import kernel_alignment

ENTRIES = (
    Entry(
        "KernelAlignmentLoss",
        roles={"positive": Role(("b", "e"), normal, differentiable=True)},
        reference=Reference(lambda p, s: kernel_alignment.kernel_alignment(p.anchor, p.positive)),
        no_digits="paired rows",
    ),
)
