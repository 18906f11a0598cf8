"""``mmda/layers/pooling.py`` in the contract suite."""

from __future__ import annotations

from mmda.layers import AttentionPool
from tests.contract.entry import Entry
from tests.contract.vocabulary import SEQUENCES, Role

ENTRIES = (
    Entry(
        "AttentionPool",
        build=lambda d: AttentionPool(d),
        roles={"x": SEQUENCES, "mask": Role(("b", "t"), None, use="mask")},
    ),
    Entry("MaskedMeanPool", roles={"x": SEQUENCES, "mask": Role(("b", "t"), None, use="mask")}),
)
