"""``mmda/losses/variance_covariance.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse, Reference, move
from tests.reference import redundancy

ENTRIES = (
    Entry(
        "VarianceCovarianceLoss",
        excuses=(Excuse(("scale",), "penalises standard deviations below the margin"),),
        reference=Reference(
            lambda p, s: redundancy.variance_covariance(
                p.anchor, p.positive, s.invariance, s.variance, s.covariance, s.margin, s.eps
            ),
            (
                move("invariance", 3.0),
                move("variance", 4.0, margin=2.0),
                move("covariance", 5.0),
                move("margin", 2.0),
                move("eps", 0.3, margin=2.0),
            ),
        ),
        no_digits="paired rows",
    ),
)
