"""``mmda/losses/frame_query.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.reference import retrieval


def frame_query_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    moments = [np.flatnonzero(row).tolist() for row in p.moment_mask]
    return retrieval.frame_query(p.frames, p.queries, moments, s.temperature)


ENTRIES = (
    Entry(
        "FrameQueryLoss",
        scale_free=True,
        excuses=(LEFT_OUT,),
        reference=Reference(frame_query_value, (move("temperature", 0.3),)),
        no_digits="frames and queries",
    ),
)
