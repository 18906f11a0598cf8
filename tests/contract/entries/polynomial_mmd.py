"""``mmda/losses/polynomial_mmd.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse, Reference, move
from tests.reference import polynomial_mmd

ENTRIES = (
    Entry(
        "PolynomialMMDLoss",
        excuses=(
            Excuse(
                ("translation",),
                "uncentred singular values and inner products, as in the paper, depend on the origin",
            ),
            Excuse(
                ("one_row",),
                "the U-statistic has no pairs to average over",
                ValueError,
                "`source` must have at least 2 samples for estimator='unbiased'",
            ),
        ),
        reference=Reference(
            lambda p, s: polynomial_mmd.polynomial_mmd(
                p.source,
                p.target,
                s.degree,
                1 / p.source.shape[1] if s.scale is None else s.scale,
                s.offset,
                s.estimator == "unbiased",
            ),
            (move("degree", 2), move("scale", 0.9), move("offset", 0.2), move("estimator", "biased")),
        ),
        no_digits="not measured yet",
    ),
)
