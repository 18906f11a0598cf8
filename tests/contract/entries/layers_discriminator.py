"""``mmda/layers/discriminator.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse
from tests.contract.vocabulary import discriminator

ENTRIES = (
    Entry(
        "DomainDiscriminator",
        build=lambda d: discriminator(d),
        excuses=(
            Excuse(
                ("bfloat16", "float16"),
                "a network runs in the dtype of its parameters, as torch.nn.Linear does; the losses cast for it",
                TypeError,
                "must have the dtype of the module",
            ),
            Excuse(
                ("cpu_autocast", "cuda_autocast"),
                "a matrix product of a network follows autocast, as torch.nn.Linear does; losses switch it off",
                AssertionError,
                "came back as torch.(bfloat16|float16)",
            ),
            Excuse(
                ("repr",),
                "the inner layers are printed instead of their widths",
                AssertionError,
                "repr hides `domains`",
            ),
        ),
    ),
)
