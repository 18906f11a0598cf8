"""``mmda/losses/coral.py`` in the contract suite."""

from __future__ import annotations

from mmda.losses import CORALLoss
from tests.contract.entry import Entry, Excuse, Reference, Variant, move
from tests.reference import coral

ENTRIES = (
    Entry(
        "CORALLoss",
        excuses=(
            Excuse(
                ("one_row",),
                "a covariance with 1 / (n - 1) needs two rows",
                ValueError,
                "`source` must have at least 2 samples",
            ),
        ),
        variants=(Variant("match_mean=True", lambda d: CORALLoss(match_mean=True)),),
        reference=Reference(
            lambda p, s: (
                coral.coral(p.source, p.target) + (coral.mean_gap(p.source, p.target) if s.match_mean else 0.0)
            ),
            (move("match_mean", True),),
        ),
    ),
)
