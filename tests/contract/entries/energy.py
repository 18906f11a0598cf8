"""``mmda/losses/energy.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Reference, move
from tests.reference import energy

ENTRIES = (
    Entry(
        "EnergyDistanceLoss",
        reference=Reference(
            lambda p, s: energy.energy_distance(p.source, p.target, s.exponent, unbiased=s.estimator == "unbiased"),
            (move("exponent", 1.5), move("estimator", "unbiased")),
        ),
    ),
)
