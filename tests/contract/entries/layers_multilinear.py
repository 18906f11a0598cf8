"""``mmda/layers/multilinear.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse
from tests.contract.vocabulary import random_map

ENTRIES = (
    Entry(
        "RandomMultilinearMap",
        build=lambda d: random_map(d),
        excuses=(
            Excuse(
                ("cpu_autocast", "cuda_autocast"),
                "a matrix product of a network follows autocast, as torch.nn.Linear does; losses switch it off",
                AssertionError,
                "came back as torch.(bfloat16|float16)",
            ),
        ),
    ),
)
