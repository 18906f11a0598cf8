"""References and exceptions shared by several losses."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmda.kernels import Gaussian
from tests.contract.entry import Excuse, Reference, move
from tests.contract.vocabulary import CLASSES, SIZES
from tests.reference import contrastive, mmd

Array = NDArray[np.float64]


class Discriminator(nn.Module):
    """tanh(w . x) for rows of any width, with a fixed w that NumPy can reproduce; no parameters."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.tanh(rows @ torch.from_numpy(direction(rows.shape[1])).to(rows.dtype))


def direction(width: int) -> Array:
    return np.asarray(np.cos(1.0 + np.arange(width)))


def directions(width: int) -> Array:
    return np.asarray(np.cos(1.0 + np.arange(3 * width)).reshape(width, 3))


def told(rows: Array) -> Array:
    return np.asarray(np.tanh(rows @ direction(rows.shape[1])))


def similarity(kernel: Gaussian, x: Array, y: Array) -> mmd.Similarity:
    return mmd.gaussian(width(kernel, x, y), kernel.scales)


def width(kernel: Gaussian, x: Array, y: Array) -> float:
    return mmd.median_distance(x, y) if kernel.bandwidth == "median" else float(kernel.bandwidth)


def over_scales(kernel: Gaussian, x: Array, y: Array, value: Callable[[float], float]) -> float:
    """The mean over the single Gaussians of a kernel, for values that are linear in the kernel."""
    return float(np.mean([value(width(kernel, x, y) * s**0.5) for s in kernel.scales]))


def shares(labels: NDArray[np.int64]) -> Array:
    return np.asarray(np.eye(CLASSES)[labels])


def scaled(p: SimpleNamespace, s: SimpleNamespace) -> Array:
    """Similarities over temperature."""
    alike = contrastive.cosines(p.anchor, p.positive) if s.normalize else p.anchor @ p.positive.T
    return np.asarray(alike / s.temperature)


# Masks of pairs that leave each row a positive and a negative.
ROWS = torch.arange(SIZES["b"])


NEGATIVE = (ROWS[:, None] + 2 * ROWS) % 3 != 1


POSITIVE = (ROWS[:, None] - ROWS).abs() % 5 == 0


# More candidates than anchors; the last candidate is padding.
CANDIDATES = torch.sin(1.0 + torch.arange(8 * SIZES["d"], dtype=torch.float64)).reshape(8, SIZES["d"])


WANTED = (ROWS[:, None] + torch.arange(8)) % 4 == 0


KEPT = torch.arange(8) < 6


SINGLE = Gaussian(1.5, scales=(1.0,))


SEVERAL = Gaussian(0.8, scales=(0.5, 2.0))


EQUAL = {"n": 6, "m": 6}


NO_VALUE = "factor on the gradient of the features, without effect on the value"


GIVEN = "only used to draw directions, which the call passes"


WIDTH = "the number of classes, known from the call; a class without rows adds nothing"


SOLVED = "steps of a solver that has converged on these rows"


def negatives(p: SimpleNamespace, s: SimpleNamespace) -> NDArray[np.bool_]:
    return np.ones((len(p.queries),) * 2, dtype=bool) if s.negative_mask is None else s.negative_mask


#: Exceptions of the modules that hold a discriminator.
ASKS_DISCRIMINATOR = Excuse(
    ("module_is_function",),
    "the function takes logits, which the module gets from its discriminator",
    AssertionError,
    "discriminator",
)


LEARNED_DISCRIMINATOR = (
    Excuse(
        ("symmetric",),
        "the discriminator is trained for one order of the domains",
    ),
    Excuse(("translation",), "the discriminator is a network on the unshifted features"),
)


#: The exception of the losses that take labels of the source and class probabilities of the target.
LABELS_AND_PROBABILITIES = Excuse(
    ("symmetric",),
    "source and target take different arguments: labels and probabilities",
    AssertionError,
    "do not take the same arguments",
)


def of_classes(value: Callable[[Array, Array, Array, Array, float], float]) -> Reference:
    """The reference of a loss with class labels and a Gaussian kernel; ``value`` takes the bandwidth last."""
    return Reference(
        lambda p, s: over_scales(
            s.kernel,
            p.source,
            p.target,
            lambda sigma: value(p.source, p.target, shares(p.source_labels), p.target_probabilities, sigma),
        ),
        (move("kernel", SINGLE), move("kernel", SEVERAL)),
        excused={"classes": WIDTH},
    )
