"""``mmda/losses/sinkhorn.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.contract.pieces import SOLVED
from tests.reference import sinkhorn


def sinkhorn_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    a, b = (np.full(len(rows), 1 / len(rows)) for rows in (p.source, p.target))
    across, *own = (
        sinkhorn.costs(x, y, 2 if s.cost == "squared" else 1)
        for x, y in ((p.source, p.target), (p.source, p.source), (p.target, p.target))
    )
    selves = [sinkhorn.of_itself(cost, share, s.regularisation) for cost, share in zip(own, (a, b))]
    return sinkhorn.entropic(across, a, b, s.regularisation) - sum(selves) / 2


ENTRIES = (
    Entry(
        "SinkhornDivergenceLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            sinkhorn_value,
            (move("regularisation", 0.4), move("cost", "distance")),
            excused={"iterations": SOLVED},
            rtol=1e-8,
        ),
    ),
)
