"""``mmda/layers/temperature.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry

ENTRIES = (
    Entry("LearnableTemperature", no_row="takes no input: a bounded parameter with a repr, tested in tests/layers"),
)
