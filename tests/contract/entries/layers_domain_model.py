"""``mmda/layers/domain_model.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry

ENTRIES = (Entry("DomainSpecificModel", no_row="holds a model of any call, tested in tests/layers"),)
