"""``mmda/losses/spectral_penalty.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse, Reference, move
from tests.reference import spectral_penalty

ENTRIES = (
    Entry(
        "BatchSpectralPenaltyLoss",
        excuses=(
            Excuse(
                ("translation",),
                "uncentred singular values and inner products, as in the paper, depend on the origin",
            ),
        ),
        reference=Reference(
            lambda p, s: spectral_penalty.spectral_penalty(p.source, p.target, s.singular_values),
            (move("singular_values", 2),),
        ),
        no_digits="not measured yet",
    ),
)
