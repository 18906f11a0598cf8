"""The entries of losses and layers, one file each: see :mod:`tests.contract.entry`."""

from __future__ import annotations

import importlib
import pkgutil

from tests.contract.entry import Entry

ENTRIES: dict[str, Entry] = {}
for _place in sorted(place.name for place in pkgutil.iter_modules(__path__)):
    for _entry in importlib.import_module(f"{__name__}.{_place}").ENTRIES:
        assert _entry.name not in ENTRIES, f"{_entry.name} has a second entry in tests/contract/entries/{_place}.py"
        ENTRIES[_entry.name] = _entry
