"""The argument names of the library's calls: the meaning of each, and how to draw it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmda.kernels import Gaussian
from mmda.layers import DomainDiscriminator
from mmda.losses import MomentTargets, RandomMultilinearMap

Shape = Mapping[str, int]
Draw = Callable[[torch.Generator, Shape, tuple[str, ...]], Any]

#: Small, because the suite has many cells. n source rows, m target rows, b paired rows, t frames, d features (e of
#: another space), c classes, p projections, h and w of an image.
SIZES: dict[str, int] = {"n": 5, "m": 7, "b": 6, "t": 4, "d": 3, "c": 3, "e": 2, "p": 8, "h": 4, "w": 4}


@dataclasses.dataclass(frozen=True)
class Role:
    """An argument of this name: its axes, how to draw it, and whether it is differentiable."""

    axes: tuple[str, ...]
    draw: Draw | None
    differentiable: bool = False
    #: "input" is drawn if required; "mask" and "weight" are set by the conditions about them; "setting" is an optional
    #: argument that is drawn too (the sample of a randomised loss).
    use: str = "input"
    #: Any number of leading axes is valid.
    rank_free: bool = False
    #: Padding may hold any value: NaN, infinities, a label of -1.
    pads: bool = True


def normal(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    return torch.randn([sizes[a] for a in axes], generator=generator, dtype=torch.float64)


def shifted(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    return 1.3 * normal(generator, sizes, axes) + 0.4


def simplex(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    return normal(generator, sizes, axes).softmax(-1)


def classes(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    """All classes occur if there are enough rows."""
    count = 1
    for axis in axes:
        count *= sizes[axis]
    return (torch.arange(count) % sizes["c"]).reshape([sizes[a] for a in axes])


def inside(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    """Some frames of every row, but not all of them unless there is only one."""
    steps = torch.arange(sizes["t"])
    return ((steps >= 1) | (sizes["t"] == 1)).expand(sizes["b"], -1).clone() & (steps < max(sizes["t"] - 1, 2))


def moment(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> MomentTargets:
    chosen = inside(generator, sizes, axes)
    first, last = chosen & (chosen.cumsum(-1) == 1), chosen & (chosen.flip(-1).cumsum(-1) == 1).flip(-1)
    return MomentTargets(first.double(), last.double(), chosen)


FEATURES = Role(("b", "d"), normal, differentiable=True)
SEQUENCES = Role(("b", "t", "d"), normal, differentiable=True)

#: Roles by argument name. A new name is one line here.
ROLES: dict[str, Role] = {
    # unpaired samples
    "source": Role(("n", "d"), normal, differentiable=True),
    "target": Role(("m", "d"), shifted, differentiable=True),
    "source_logits": Role(("n", "c"), normal, differentiable=True),
    "target_logits": Role(("m", "c"), normal, differentiable=True),
    "source_labels": Role(("n",), classes),
    "target_labels": Role(("m",), classes),
    "source_probabilities": Role(("n", "c"), simplex),
    "target_probabilities": Role(("m", "c"), simplex),
    "source_weight": Role(("n",), None, use="weight"),
    "target_weight": Role(("m",), None, use="weight"),
    "source_mask": Role(("n",), None, use="mask"),
    "target_mask": Role(("m",), None, use="mask"),
    # paired rows
    "anchor": FEATURES,
    "positive": Role(("b", "d"), shifted, differentiable=True),
    "features": FEATURES,
    "logits": Role(("b", "c"), normal, differentiable=True),
    "labels": Role(("b",), classes),
    "weight": Role(("b",), None, use="weight"),
    "mask": Role(("b",), None, use="mask"),
    "probabilities": Role(("b", "c"), simplex, differentiable=True),
    "source_class_logits": Role(("n", "c"), normal),  # condition for the adversary, without a gradient
    "target_class_logits": Role(("m", "c"), shifted),
    "source_assignment": Role(("n",), classes),
    "target_assignment": Role(("m",), classes),
    "domain_index": Role(("b",), classes),
    "perturbed_logits": Role(("b", "c"), shifted, differentiable=True),
    "first_logits": Role(("b", "c"), normal, differentiable=True),
    "second_logits": Role(("b", "c"), shifted, differentiable=True),
    "source_adversary_logits": Role(("n", "c"), shifted, differentiable=True),
    "target_adversary_logits": Role(("m", "c"), shifted, differentiable=True),
    # frames and queries
    "frames": Role(("b", "t", "d"), normal, differentiable=True),
    "queries": Role(("b", "d"), shifted, differentiable=True),
    "moment_mask": Role(("b", "t"), inside),
    "frame_mask": Role(("b", "t"), None, use="mask"),
    "start_logits": Role(("b", "t"), normal, differentiable=True),
    "end_logits": Role(("b", "t"), normal, differentiable=True),
    "inside_logits": Role(("b", "t"), normal, differentiable=True),
    # layers
    "domain": Role(("b",), classes),
    "x": Role(("b", "d"), normal, differentiable=True, rank_free=True),
    # randomness
    "projections": Role(("p", "d"), normal, use="setting"),
}

CLASSES = SIZES["c"]


def discriminator(d: int, domains: int = 2) -> DomainDiscriminator:
    return DomainDiscriminator(d, hidden=[8], domains=domains)


def random_map(d: int) -> RandomMultilinearMap:
    return RandomMultilinearMap(d, CLASSES, 5, generator=torch.Generator().manual_seed(2))


FIXED = Gaussian(1.5)
