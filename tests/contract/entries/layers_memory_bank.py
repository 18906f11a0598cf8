"""``mmda/layers/memory_bank.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry

ENTRIES = (Entry("MemoryBank", no_row="returns rows and masks, and changes by push alone, tested in tests/layers"),)
