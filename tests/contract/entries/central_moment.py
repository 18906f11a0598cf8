"""``mmda/losses/central_moment.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference, move
from tests.reference import central_moment

ENTRIES = (
    Entry(
        "CentralMomentDiscrepancyLoss",
        reference=Reference(
            lambda p, s: central_moment.central_moment_discrepancy(p.source, p.target, s.orders, *s.interval),
            (move("orders", 3), move("interval", (-1.0, 2.0))),
        ),
    ),
)
