"""``mmda/losses/cross_correlation.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import Entry, Excuse, Reference, move
from tests.reference import redundancy

ENTRIES = (
    Entry(
        "CrossCorrelationLoss",
        excuses=(
            Excuse(("scale",), "the variances' eps, that of the paper's batch normalisation, has the features' scale"),
        ),
        reference=Reference(
            lambda p, s: redundancy.cross_correlation(p.anchor, p.positive, s.redundancy, s.eps),
            (move("redundancy", 0.4), move("eps", 0.1)),
        ),
        no_digits="paired rows",
    ),
)
