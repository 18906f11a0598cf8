"""``mmda/losses/sliced_wasserstein.py`` in the contract suite."""

from __future__ import annotations

from mmda.losses import SlicedWassersteinLoss
from tests.contract.entry import Entry, Reference, move
from tests.contract.pieces import GIVEN
from tests.reference import sliced_wasserstein

ENTRIES = (
    Entry(
        "SlicedWassersteinLoss",
        build=lambda d: SlicedWassersteinLoss(draws="fixed"),
        reference=Reference(
            lambda p, s: sliced_wasserstein.sliced_wasserstein(p.source, p.target, p.projections, s.order),
            (move("order", 1),),
            excused={"n_projections": GIVEN, "draws": GIVEN},
        ),
    ),
)
