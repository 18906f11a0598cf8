"""``mmda/losses/hsic.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from mmda.kernels import Gaussian
from mmda.losses import HSICLoss
from tests.contract.entry import Entry, Reference, move
from tests.contract.pieces import SEVERAL, SINGLE, Array, width
from tests.contract.vocabulary import FIXED, Role, normal
from tests.reference import hsic


def gram(kernel: Gaussian, rows: Array) -> Array:
    sigma = width(kernel, rows[:0], rows)
    return np.asarray(np.mean([hsic.gram(rows, sigma * s**0.5) for s in kernel.scales], axis=0))


def hsic_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    other = s.kernel if s.positive_kernel is None else s.positive_kernel
    return float(getattr(hsic, s.estimator)(gram(s.kernel, p.anchor), gram(other, p.positive)))


ENTRIES = (
    Entry(
        "HSICLoss",
        settled=lambda d: HSICLoss(kernel=FIXED),
        roles={"positive": Role(("b", "e"), normal, differentiable=True)},
        reference=Reference(
            hsic_value,
            (
                move("kernel", SINGLE),
                move("kernel", SEVERAL, positive_kernel=SINGLE),
                move("positive_kernel", SEVERAL),
                move("estimator", "unbiased"),
            ),
        ),
        no_digits="paired rows",
    ),
)
