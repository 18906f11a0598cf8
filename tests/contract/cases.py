"""What the contract suite tests, found by signature.

Every ``nn.Module`` that :mod:`mmda.losses` and :mod:`mmda.layers` export becomes a case, and so does every loss
function that takes other tensors than its module (logits, where the module asks its discriminator for them). A case
needs no entry here when its constructor has defaults for everything and each required argument of its ``forward`` has
a name of :data:`ROLES`: the name says which axes the tensor has, how to draw it and which rows belong together. So a
loss ``forward(source, target, *, source_weight, ...)`` is tested the moment it is exported, and one with an argument
that nobody described fails with a message that says what to add.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import mmda.layers
import mmda.losses
from mmda.kernels import Gaussian
from mmda.layers import (
    AttentionPool,
    DomainDiscriminator,
    DomainSpecificBatchNorm1d,
    DomainSpecificBatchNorm2d,
    DomainSpecificBatchNorm3d,
    GradientReversal,
    LearnableTemperature,
)
from mmda.losses import (
    AdaptiveFeatureNormLoss,
    AttendedContrastiveLoss,
    BlockMMDLoss,
    ConditionalAdversarialLoss,
    ContrastiveDomainDiscrepancyLoss,
    CORALLoss,
    DomainAdversarialLoss,
    HSICLoss,
    InfoNCELoss,
    JointMMDLoss,
    JointTransportLoss,
    LocalMMDLoss,
    MMDLoss,
    MomentTargets,
    MultiDomainAdversarialLoss,
    MultiDomainLoss,
    PrototypeContrastiveLoss,
    RandomFeatureMMDLoss,
    RandomMultilinearMap,
    SlicedWassersteinLoss,
    WassersteinCriticLoss,
)

Shape = Mapping[str, int]
Draw = Callable[[torch.Generator, Shape, tuple[str, ...]], Any]

#: Small on purpose: the suite is wide. n source rows, m target rows, b paired rows, t frames, d features (e of
#: another space), c classes, p projections, h and w of an image.
SIZES: dict[str, int] = {"n": 5, "m": 7, "b": 6, "t": 4, "d": 3, "c": 3, "e": 2, "p": 8, "h": 4, "w": 4}


@dataclasses.dataclass(frozen=True)
class Role:
    """What an argument of this name is: its axes, how it is drawn, and whether a gradient flows to it."""

    axes: tuple[str, ...]
    draw: Draw | None
    differentiable: bool = False
    #: "input" is always drawn when required; "mask" and "weight" are given by the conditions about them;
    #: "setting" is an optional argument that is drawn too (the sample of a randomised loss).
    use: str = "input"
    #: Any number of leading axes is right.
    rank_free: bool = False
    #: Padding may hold anything here too: NaN, infinities, a label of -1.
    pads: bool = True


def normal(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    return torch.randn([sizes[a] for a in axes], generator=generator, dtype=torch.float64)


def shifted(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    return 1.3 * normal(generator, sizes, axes) + 0.4


def simplex(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    return normal(generator, sizes, axes).softmax(-1)


def classes(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    """Every class is there as soon as there are rows enough."""
    count = 1
    for axis in axes:
        count *= sizes[axis]
    return (torch.arange(count) % sizes["c"]).reshape([sizes[a] for a in axes])


def inside(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> Tensor:
    """Some frames of every row, never all of them unless there is one."""
    steps = torch.arange(sizes["t"])
    return ((steps >= 1) | (sizes["t"] == 1)).expand(sizes["b"], -1).clone() & (steps < max(sizes["t"] - 1, 2))


def moment(generator: torch.Generator, sizes: Shape, axes: tuple[str, ...]) -> MomentTargets:
    chosen = inside(generator, sizes, axes)
    first, last = chosen & (chosen.cumsum(-1) == 1), chosen & (chosen.flip(-1).cumsum(-1) == 1).flip(-1)
    return MomentTargets(first.double(), last.double(), chosen)


FEATURES = Role(("b", "d"), normal, differentiable=True)
SEQUENCES = Role(("b", "t", "d"), normal, differentiable=True)

#: The vocabulary of the library's call signatures. A new name is one line here.
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
    "source_class_logits": Role(("n", "c"), normal),  # condition the adversary, without a gradient
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

#: The same name in another call shape: (class, argument) before argument.
SPECIAL: dict[tuple[str, str], Role] = {
    ("MomentLocalizationLoss", "targets"): Role(("b", "t"), moment, pads=False),
    ("MaskedMeanPool", "x"): SEQUENCES,
    ("MaskedMeanPool", "mask"): Role(("b", "t"), None, use="mask"),
    ("DomainSpecificBatchNorm1d", "x"): FEATURES,
    ("DomainSpecificBatchNorm2d", "x"): Role(("b", "d", "h", "w"), normal, differentiable=True),
    ("DomainSpecificBatchNorm2d", "mask"): Role(("b", "h", "w"), None, use="mask"),
    ("DomainSpecificBatchNorm3d", "x"): Role(("b", "d", "t", "h", "w"), normal, differentiable=True),
    ("DomainSpecificBatchNorm3d", "mask"): Role(("b", "t", "h", "w"), None, use="mask"),
    # the constant side of a divergence: no gradient flows to it
    ("VirtualAdversarialLoss", "logits"): Role(("b", "c"), normal),
    ("SpanEntropyLoss", "mask"): Role(("b", "t"), None, use="mask"),
    ("HSICLoss", "positive"): Role(("b", "e"), normal, differentiable=True),
    ("domain_adversarial_loss", "source_logits"): Role(("n",), normal, differentiable=True),
    ("domain_adversarial_loss", "target_logits"): Role(("m",), shifted, differentiable=True),
    ("conditional_adversarial_loss", "source_logits"): Role(("n",), normal, differentiable=True),
    ("conditional_adversarial_loss", "target_logits"): Role(("m",), shifted, differentiable=True),
    ("AttentionPool", "x"): SEQUENCES,
    ("AttentionPool", "mask"): Role(("b", "t"), None, use="mask"),
}

Build = Callable[[int], nn.Module]
CLASSES = SIZES["c"]


def discriminator(d: int, domains: int = 2) -> DomainDiscriminator:
    return DomainDiscriminator(d, hidden=[8], domains=domains)


def random_map(d: int) -> RandomMultilinearMap:
    return RandomMultilinearMap(d, CLASSES, 5, generator=torch.Generator().manual_seed(2))


#: Modules whose constructor asks for something, made under a fixed seed for the width ``d`` of the problem.
BUILD: dict[str, Build] = {
    "AttentionPool": lambda d: AttentionPool(d),
    "ConditionalAdversarialLoss": lambda d: ConditionalAdversarialLoss(discriminator(d * CLASSES), strength=0.6),
    "DomainAdversarialLoss": lambda d: DomainAdversarialLoss(discriminator(d), strength=0.6),
    "DomainDiscriminator": lambda d: discriminator(d),
    "DomainSpecificBatchNorm1d": lambda d: DomainSpecificBatchNorm1d(d, 3),
    "DomainSpecificBatchNorm2d": lambda d: DomainSpecificBatchNorm2d(d, 3),
    "DomainSpecificBatchNorm3d": lambda d: DomainSpecificBatchNorm3d(d, 3),
    "MultiDomainAdversarialLoss": lambda d: MultiDomainAdversarialLoss(discriminator(d, 3), strength=0.6),
    "MultiDomainLoss": lambda d: MultiDomainLoss(MMDLoss(), domains=3),
    "PrototypeContrastiveLoss": lambda d: PrototypeContrastiveLoss(classes=CLASSES, confidence=0.0),
    "RandomFeatureMMDLoss": lambda d: RandomFeatureMMDLoss(draws="fixed"),
    "RandomMultilinearMap": lambda d: random_map(d),
    "WassersteinCriticLoss": lambda d: WassersteinCriticLoss(discriminator(d), strength=0.6),
    "SlicedWassersteinLoss": lambda d: SlicedWassersteinLoss(draws="fixed"),
}

#: Further rows of the grid: other settings of the same module that take another path through it.
VARIANTS: dict[str, Build] = {
    "DomainSpecificBatchNorm1d(track_running_stats=False)": lambda d: DomainSpecificBatchNorm1d(
        d, 3, track_running_stats=False
    ),
    "CORALLoss(match_mean=True)": lambda d: CORALLoss(match_mean=True),
    "ConditionalAdversarialLoss(random_map=...)": lambda d: ConditionalAdversarialLoss(
        discriminator(5), strength=0.6, random_map=random_map(d)
    ),
    "InfoNCELoss(temperature=LearnableTemperature())": lambda d: InfoNCELoss(temperature=LearnableTemperature()),
    "MMDLoss(estimator='linear')": lambda d: MMDLoss(estimator="linear"),
    "MMDLoss(estimator='unbiased')": lambda d: MMDLoss(estimator="unbiased"),
    "MultiDomainLoss(scheme='one_vs_rest')": lambda d: MultiDomainLoss(MMDLoss(), domains=3, scheme="one_vs_rest"),
    "MultiDomainLoss(scheme='to_mean')": lambda d: MultiDomainLoss(MMDLoss(), domains=3, scheme="to_mean"),
}

FIXED = Gaussian(1.5)

#: The same module with every detached quantity (a bandwidth by heuristic, say) fixed, so that a finite difference
#: sees the function whose gradient is claimed.
SETTLED: dict[str, Build] = {
    # the stepwise target follows the norm without a gradient; a fixed radius does not
    "AdaptiveFeatureNormLoss": lambda d: AdaptiveFeatureNormLoss(variant="hard", radius=2.0),
    # attention carries no gradient: at this temperature it is uniform and has none to carry
    "AttendedContrastiveLoss": lambda d: AttendedContrastiveLoss(attention_temperature=1e6),
    "BlockMMDLoss": lambda d: BlockMMDLoss(kernel=FIXED),
    "ContrastiveDomainDiscrepancyLoss": lambda d: ContrastiveDomainDiscrepancyLoss(kernel=FIXED),
    # a reversal of strength -1 is the identity in both directions
    "ConditionalAdversarialLoss": lambda d: ConditionalAdversarialLoss(discriminator(d * CLASSES), strength=-1.0),
    "ConditionalAdversarialLoss(random_map=...)": lambda d: ConditionalAdversarialLoss(
        discriminator(5), strength=-1.0, random_map=random_map(d)
    ),
    "DomainAdversarialLoss": lambda d: DomainAdversarialLoss(discriminator(d), strength=-1.0),
    "GradientReversal": lambda d: GradientReversal(-1.0),
    "HSICLoss": lambda d: HSICLoss(kernel=FIXED),
    # a solver that stops early leaves its gradient 1e-12 apart at neighbouring inputs, and their quotient 1e-6
    "JointTransportLoss": lambda d: JointTransportLoss(iterations=400),
    "JointMMDLoss": lambda d: JointMMDLoss(kernel=FIXED),
    "LocalMMDLoss": lambda d: LocalMMDLoss(kernel=FIXED),
    "MMDLoss": lambda d: MMDLoss(kernel=FIXED),
    "MMDLoss(estimator='linear')": lambda d: MMDLoss(kernel=FIXED, estimator="linear"),
    "MMDLoss(estimator='unbiased')": lambda d: MMDLoss(kernel=FIXED, estimator="unbiased"),
    "MultiDomainAdversarialLoss": lambda d: MultiDomainAdversarialLoss(discriminator(d, 3), strength=-1.0),
    "MultiDomainLoss": lambda d: MultiDomainLoss(MMDLoss(kernel=FIXED), domains=3),
    "MultiDomainLoss(scheme='one_vs_rest')": lambda d: MultiDomainLoss(
        MMDLoss(kernel=FIXED), domains=3, scheme="one_vs_rest"
    ),
    "MultiDomainLoss(scheme='to_mean')": lambda d: MultiDomainLoss(MMDLoss(kernel=FIXED), domains=3, scheme="to_mean"),
    "RandomFeatureMMDLoss": lambda d: RandomFeatureMMDLoss(kernel=FIXED, draws="fixed"),
    # the penalty reaches no feature
    "WassersteinCriticLoss": lambda d: WassersteinCriticLoss(discriminator(d), strength=-1.0, penalty=0),
}

#: Sizes that a case asks for (equal samples, say).
OWN_SIZES: dict[str, dict[str, int]] = {
    "DomainSpecificBatchNorm2d": {"h": 2, "w": 2},
    "DomainSpecificBatchNorm3d": {"t": 2, "h": 2, "w": 1},
    "MMDLoss(estimator='linear')": {"n": 6, "m": 6},
}

#: Settings that refuse weights and masks: conditions about something else do not bring any.
BARE = ("MMDLoss(estimator='linear')",)

#: Contrastive losses whose ``weight`` counts a repeated pair as a duplicate of its twin, hence not as its negative.
TWINS_ARE_DUPLICATES = ("AttendedContrastiveLoss", "MultipleInstanceLoss")

#: Losses beside the pair losses that claim not to feel a common factor on all features.
SCALE_FREE = ("AttendedContrastiveLoss", "FrameQueryLoss", "MMDLoss", "MultipleInstanceLoss")

#: Exported modules that are no row of the grid, and why.
NOT_IN_GRID: dict[str, str] = {
    "MemoryBank": "returns rows and masks, and changes by push alone, tested in tests/layers",
    "DomainSpecificModel": "holds a model of any call, tested in tests/layers",
    "LearnableTemperature": "takes no input: a bounded parameter with a repr, tested in tests/layers",
}


class FunctionLoss(nn.Module):
    """A loss function as a module, for the conditions that ask for one."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"function={self.function.__name__}"


class UnknownSignature(AssertionError):
    """An exported module asks for an argument that the suite cannot draw."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arguments of one call by name; a value is a tensor or a nest of tensors with the same axes."""

    values: dict[str, Any]

    def map(self, change: Callable[[str, Tensor], Any]) -> Problem:
        return Problem(
            {
                name: pytree.tree_map(lambda leaf, name=name: change(name, leaf), value)
                for name, value in self.values.items()
            }
        )

    def with_values(self, **more: Any) -> Problem:
        return Problem({**self.values, **more})


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the grid."""

    name: str
    module: str
    namespace: str
    signature: inspect.Signature
    roles: dict[str, Role]
    build: Build
    settled: Build
    function: Callable[..., Any] | None
    sizes: dict[str, int]

    # What kind of call it is.

    @property
    def is_layer(self) -> bool:
        return self.namespace == "mmda.layers" or not self.module.lower().endswith("loss")

    @property
    def kind(self) -> str:
        names = list(self.signature.parameters)
        if self.is_layer:
            return "layer"
        if names[:2] == ["source", "target"]:
            return "discrepancy"
        if names[:2] == ["anchor", "positive"]:
            return "pair"
        return "other"

    def names(self, use: str) -> list[str]:
        return [name for name, role in self.roles.items() if role.use == use]

    @property
    def drawn(self) -> list[str]:
        return self.names("input") + self.names("setting")

    @property
    def differentiable(self) -> list[str]:
        return [name for name in self.drawn if self.roles[name].differentiable]

    @property
    def axes(self) -> set[str]:
        return {axis for name in self.drawn for axis in self.roles[name].axes}

    @property
    def bare(self) -> bool:
        return self.name in BARE

    @property
    def row_axes(self) -> list[str]:
        return [axis for axis in ("n", "m", "b") if axis in self.axes]

    # Drawing and calling.

    def draw(self, *, dtype: torch.dtype = torch.float32, seed: int = 0, **sizes: int) -> Problem:
        generator = torch.Generator().manual_seed(1000 + seed)
        shape = {**SIZES, **self.sizes, **sizes}
        values = {}
        for name in self.drawn:
            role = self.roles[name]
            assert role.draw is not None
            value = role.draw(generator, shape, role.axes)
            if self.wants_sequence(name):
                value = (value, role.draw(generator, shape, role.axes))
            values[name] = pytree.tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, value)
        return Problem(values)

    def wants_sequence(self, name: str) -> bool:
        return "Sequence" in str(self.signature.parameters[name].annotation)

    def make(self, *, settled: bool = False, dtype: torch.dtype = torch.float32, d: int = SIZES["d"]) -> nn.Module:
        """A fresh module under a fixed seed; its parameters are float64 for float64 problems only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = (self.settled if settled else self.build)(d)
        return module.double() if dtype == torch.float64 else module

    def call(self, problem: Problem, module: Callable[..., Any] | None = None, *, settled: bool = False) -> Any:
        """What comes back for this problem, from a fresh module unless one is given."""
        args, kwargs = self.arguments(problem)
        if module is None:
            width = self.length(problem, "d") if "d" in self.axes else SIZES["d"]
            module = self.make(settled=settled, dtype=widest(problem), d=width)
        return module(*args, **kwargs)

    def arguments(self, problem: Problem) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = [], {}
        for name, parameter in self.signature.parameters.items():
            if name == "generator" and parameter.default is inspect.Parameter.empty:
                kwargs[name] = torch.Generator().manual_seed(7)
            elif name in problem.values and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                args.append(problem.values[name])
            elif name in problem.values:
                kwargs[name] = problem.values[name]
        return args, kwargs

    def value(
        self,
        problem: Problem,
        module: Callable[..., Any] | None = None,
        *,
        settled: bool = False,
        front: list[torch.Size] | None = None,
    ) -> Tensor:
        """One scalar: the loss, or a fixed linear functional of everything that a layer returns.

        ``front`` cuts a layer's outputs to these shapes: what it returns for padding is nobody's business.
        """
        result = self.call(problem, module, settled=settled)
        if front is not None:
            leaves = pytree.tree_leaves(result)
            result = [leaf[tuple(slice(size) for size in shape)] for leaf, shape in zip(leaves, front, strict=True)]
        if not self.is_layer:
            assert isinstance(result, Tensor), f"a loss returns a tensor, got {type(result).__name__}"
            assert result.shape == (), f"a loss returns a scalar, got shape {tuple(result.shape)}"
            return result
        return probe(result)

    def value_and_gradients(
        self, problem: Problem, module: Callable[..., Any] | None = None, *, front: list[torch.Size] | None = None
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """The value and the gradient on every differentiable input (zero where none flows)."""
        problem = self.leaves(problem)
        value = self.value(problem, module, front=front)
        tensors = {name: pytree.tree_leaves(problem.values[name]) for name in self.differentiable}
        flat = [leaf for leaves in tensors.values() for leaf in leaves]
        assert value.requires_grad, "the value has no graph although the inputs require a gradient"
        found = torch.autograd.grad(value, flat, allow_unused=True)
        filled = iter(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(flat, found))
        return value.detach(), {name: [next(filled) for _ in leaves] for name, leaves in tensors.items()}

    def leaves(self, problem: Problem) -> Problem:
        """The same problem with differentiable inputs as fresh leaves."""
        return problem.map(
            lambda name, leaf: leaf.detach().clone().requires_grad_() if name in self.differentiable else leaf
        )

    # Changes of rows: everything that carries the axis changes together.

    def select(self, problem: Problem, axis: str, index: Tensor) -> Problem:
        def change(name: str, leaf: Tensor) -> Tensor:
            axes = self.roles[name].axes
            for position, own in enumerate(axes):
                if own == axis:
                    leaf = leaf.index_select(position, index)
            return leaf

        return problem.map(change)

    def extend(self, problem: Problem, axis: str, count: int, filler: float) -> Problem:
        """``count`` more entries on the axis: ``filler``, and beside an infinite one a label of -1."""

        def change(name: str, leaf: Tensor) -> Tensor:
            for position, own in enumerate(self.roles[name].axes):
                if own == axis:
                    more = torch.zeros_like(leaf.narrow(position, 0, 1).repeat_interleave(count, position))
                    if self.roles[name].pads and leaf.is_floating_point():
                        more = torch.full_like(more, filler)
                    elif self.roles[name].pads and leaf.dtype == torch.int64 and not math.isfinite(filler):
                        more = more - 1
                    leaf = torch.cat([leaf, more], position)
            return leaf

        return problem.map(change)

    def weight_of(self, axis: str) -> str | None:
        return next((name for name in self.names("weight") if self.roles[name].axes == (axis,)), None)

    def mask_of(self, axis: str) -> str | None:
        return next((name for name in self.names("mask") if self.roles[name].axes[-1] == axis), None)

    def length(self, problem: Problem, axis: str) -> int:
        for name in self.drawn:
            axes = self.roles[name].axes
            if axis in axes:
                position = axes.index(axis) - len(axes)  # from behind: a broken problem may have an axis too many
                return int(pytree.tree_leaves(problem.values[name])[0].shape[position])
        raise KeyError(axis)

    def mask(self, problem: Problem, axis: str, keep: int) -> dict[str, Tensor]:
        """The mask over this axis that keeps the first ``keep`` entries of it."""
        name = self.mask_of(axis)
        assert name is not None
        lengths = [self.length(problem, own) for own in self.roles[name].axes]
        return {name: (torch.arange(lengths[-1]) < keep).expand(lengths).clone()}

    def replace(self, **changes: Any) -> Case:
        return dataclasses.replace(self, **changes)


def widest(problem: Problem) -> torch.dtype:
    leaves = [leaf for leaf in pytree.tree_leaves(problem.values) if isinstance(leaf, Tensor)]
    return torch.float64 if any(leaf.dtype == torch.float64 for leaf in leaves) else torch.float32


def probe(result: Any) -> Tensor:
    """A fixed linear functional of all floating-point outputs."""
    total = None
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            wide = leaf.double() if leaf.dtype == torch.float64 else leaf.float()  # a sum in half would lose it all
            direction = torch.cos(1.0 + torch.arange(leaf.numel(), dtype=wide.dtype, device=leaf.device))
            part = (wide * direction.reshape(leaf.shape)).sum()
            total = part if total is None else total + part
    assert total is not None, "no floating-point output"
    return total


def exported_modules() -> Iterable[tuple[str, str, type[nn.Module]]]:
    for namespace in (mmda.losses, mmda.layers):
        for name in sorted(namespace.__all__):
            item = getattr(namespace, name)
            if inspect.isclass(item) and issubclass(item, nn.Module) and name not in NOT_IN_GRID:
                yield namespace.__name__, name, item


def function_of(name: str, namespace: str) -> Callable[..., Any] | None:
    """``MMDLoss`` -> ``mmd_loss``: the exported function whose name is the module's, letter for letter."""
    owner = {"mmda.losses": mmda.losses, "mmda.layers": mmda.layers}[namespace]
    for other in owner.__all__:
        if (
            other != name
            and other.replace("_", "").lower() == name.lower()
            and inspect.isfunction(getattr(owner, other))
        ):
            return getattr(owner, other)
    return None


def roles_of(name: str, signature: inspect.Signature) -> dict[str, Role]:
    """The role of each argument of a ``forward``; optional arguments without one are left at their default."""
    roles: dict[str, Role] = {}
    unknown = []
    for argument, parameter in signature.parameters.items():
        role = SPECIAL.get((name, argument), ROLES.get(argument))
        required = parameter.default is inspect.Parameter.empty
        if role is not None and (required or role.use != "input"):
            roles[argument] = role
        elif required:
            unknown.append(argument)
    if unknown:
        listed = ", ".join(f"`{u}`" for u in unknown)
        raise UnknownSignature(
            f"{name}.forward{signature} asks for {listed}, which the contract suite cannot draw. Add the argument to "
            f"ROLES in tests/contract/cases.py (its axes, how to draw it, whether a gradient flows to it), or to "
            f"SPECIAL as ({name!r}, argument) where the name means something else here."
        )
    return roles


def functions_apart(modules: Iterable[tuple[str, str, type[nn.Module]]]) -> Iterable[tuple[str, Callable[..., Any]]]:
    """Loss functions that ask for an argument which neither the call nor the constructor of their module takes."""
    takes: dict[str, set[str]] = {}
    for namespace, name, cls in modules:
        function = function_of(name, namespace)
        if function is not None:
            takes[function.__name__] = {*signature_of(cls).parameters, *inspect.signature(cls).parameters}
    for name in sorted(mmda.losses.__all__):
        function = getattr(mmda.losses, name)
        if name.endswith("_loss") and not {*inspect.signature(function).parameters} <= takes.get(name, set()):
            yield name, function


def signature_of(cls: type[nn.Module]) -> inspect.Signature:
    """The call's signature, without ``self``."""
    return inspect.Signature(list(inspect.signature(cls.forward).parameters.values())[1:])


def make_case(
    name: str,
    module: str,
    namespace: str,
    cls: type[nn.Module],
    build: Build,
    signature: inspect.Signature | None = None,
) -> Case:
    signature = signature_of(cls) if signature is None else signature
    return Case(
        name=name,
        module=module,
        namespace=namespace,
        signature=signature,
        roles=roles_of(module, signature),
        build=build,
        settled=SETTLED.get(name, build),
        function=function_of(module, namespace),
        sizes=OWN_SIZES.get(name, OWN_SIZES.get(module, {})),
    )


def needs(cls: type[nn.Module]) -> list[str]:
    """Constructor arguments without a default."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        p.name
        for p in inspect.signature(cls).parameters.values()
        if p.default is inspect.Parameter.empty and p.kind not in kinds
    ]


def discover() -> tuple[list[Case], dict[str, UnknownSignature]]:
    """All rows of the grid, variants after the module they belong to, and the modules that nobody described."""
    cases, unknown = [], {}
    for namespace, name, cls in exported_modules():
        try:
            if name not in BUILD and needs(cls):
                listed = ", ".join(f"`{n}`" for n in needs(cls))
                raise UnknownSignature(
                    f"{name}(...) needs {listed}, which has no default: add a builder to BUILD in "
                    f"tests/contract/cases.py"
                )
            cases.append(make_case(name, name, namespace, cls, BUILD.get(name, lambda d, cls=cls: cls())))
        except UnknownSignature as error:
            unknown[name] = error
            continue
        for label, build in VARIANTS.items():
            if label.split("(")[0] == name:
                cases.append(make_case(label, name, namespace, cls, build))
    for name, function in functions_apart(exported_modules()):
        build = functools.partial(lambda function, d: FunctionLoss(function), function)
        try:
            case = make_case(name, name, "mmda.losses", FunctionLoss, build, inspect.signature(function))
        except UnknownSignature as error:
            unknown[name] = error
            continue
        cases.append(case)
    return cases, unknown
