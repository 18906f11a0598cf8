"""``mmda/losses/higher_order_moment.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from tests.contract.entry import Entry, Excuse, Reference, move
from tests.reference import higher_order_moment


def higher_moment(p: SimpleNamespace, s: SimpleNamespace) -> float:
    if s.indices is not None:
        return higher_order_moment.sampled(p.source, p.target, s.indices)
    return higher_order_moment.higher_order_moment(p.source, p.target, s.order)


ENTRIES = (
    Entry(
        "HigherOrderMomentLoss",
        excuses=(Excuse(("translation",), "moments about the origin, as in the paper, depend on the origin"),),
        reference=Reference(
            higher_moment,
            (
                move("order", 2),
                move("order", 4),
                move("indices", torch.tensor([[0, 1, 2], [2, 2, 2], [1, 0, 1], [0, 0, 2]])),
            ),
            excused={
                "samples": "how many entries are drawn by chance; `indices` names them, tests/losses counts the draws",
                "draws": "which entries are drawn; `indices` names them",
            },
        ),
    ),
)
