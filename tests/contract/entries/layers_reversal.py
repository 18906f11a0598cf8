"""``mmda/layers/reversal.py`` in the contract suite."""

from __future__ import annotations

from mmda.layers import GradientReversal
from tests.contract.entry import Entry

ENTRIES = (Entry("GradientReversal", settled=lambda d: GradientReversal(-1.0)),)
