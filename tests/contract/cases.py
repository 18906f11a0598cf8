"""The cases of the contract suite, discovered by signature.

Every ``nn.Module`` exported by :mod:`mmda.losses` and :mod:`mmda.layers` is a case, and so is every loss function that
takes other tensors than its module (such as logits, which the module gets from its discriminator). A case needs no
entry in :mod:`tests.contract.entries` if its constructor has defaults for everything and each required argument of its
``forward`` has a name in :data:`tests.contract.vocabulary.ROLES`, which gives the axes of the tensor, how to draw it
and which rows belong together. So a loss ``forward(source, target, *, source_weight, ...)`` is tested as soon as it is
exported, and one with an unknown argument fails with a message that says what to add.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import mmda.layers
import mmda.losses
from tests.contract.entries import ENTRIES
from tests.contract.entry import Build, Entry, Excuse, Variant
from tests.contract.vocabulary import ROLES, SIZES, Role

#: Exported modules without a row in the grid, and why.
NOT_IN_GRID: dict[str, str] = {entry.name: entry.no_row for entry in ENTRIES.values() if entry.no_row}


class FunctionLoss(nn.Module):
    """A loss function as a module, for conditions that need one."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"function={self.function.__name__}"


class UnknownSignature(AssertionError):
    """An exported module has an argument that the suite cannot draw."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arguments of one call by name; a value is a tensor or a nested structure of tensors with the same axes."""

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
    bare: bool = False
    twins_are_duplicates: bool = False
    scale_free: bool = False
    excuses: tuple[Excuse, ...] = ()

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
        """A new module with a fixed seed; its parameters are float64 for float64 problems only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = (self.settled if settled else self.build)(d)
        return module.double() if dtype == torch.float64 else module

    def call(self, problem: Problem, module: Callable[..., Any] | None = None, *, settled: bool = False) -> Any:
        """The result for this problem, from a new module unless one is given."""
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
        """A scalar: the loss, or a fixed linear functional of the outputs of a layer.

        ``front`` crops a layer's outputs to these shapes, since values for padding are unspecified.
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
        """The value and the gradient of every differentiable input (zero if there is none)."""
        problem = self.leaves(problem)
        value = self.value(problem, module, front=front)
        tensors = {name: pytree.tree_leaves(problem.values[name]) for name in self.differentiable}
        flat = [leaf for leaves in tensors.values() for leaf in leaves]
        assert value.requires_grad, "the value has no graph although the inputs require a gradient"
        found = torch.autograd.grad(value, flat, allow_unused=True)
        filled = iter(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(flat, found))
        return value.detach(), {name: [next(filled) for _ in leaves] for name, leaves in tensors.items()}

    def leaves(self, problem: Problem) -> Problem:
        """The same problem with differentiable inputs as new leaves."""
        return problem.map(
            lambda name, leaf: leaf.detach().clone().requires_grad_() if name in self.differentiable else leaf
        )

    # Changes of rows: all tensors with the axis change together.

    def select(self, problem: Problem, axis: str, index: Tensor) -> Problem:
        def change(name: str, leaf: Tensor) -> Tensor:
            axes = self.roles[name].axes
            for position, own in enumerate(axes):
                if own == axis:
                    leaf = leaf.index_select(position, index)
            return leaf

        return problem.map(change)

    def extend(self, problem: Problem, axis: str, count: int, filler: float) -> Problem:
        """Append ``count`` entries to the axis: ``filler``, and a label of -1 if it is infinite."""

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
                position = axes.index(axis) - len(
                    axes
                )  # from the end: an invalid problem may have an extra leading axis
                return int(pytree.tree_leaves(problem.values[name])[0].shape[position])
        raise KeyError(axis)

    def mask(self, problem: Problem, axis: str, keep: int) -> dict[str, Tensor]:
        """The mask over this axis that keeps its first ``keep`` entries."""
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
            wide = (
                leaf.double() if leaf.dtype == torch.float64 else leaf.float()
            )  # a sum in half precision would be too inaccurate
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
    """``MMDLoss`` -> ``mmd_loss``: the exported function with the same name as the module."""
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
    """The role of each argument of a ``forward``; optional arguments without a role keep their default."""
    own = ENTRIES.get(name, Entry(name)).roles
    roles: dict[str, Role] = {}
    unknown = []
    for argument, parameter in signature.parameters.items():
        role = own.get(argument, ROLES.get(argument))
        required = parameter.default is inspect.Parameter.empty
        if role is not None and (required or role.use != "input"):
            roles[argument] = role
        elif required:
            unknown.append(argument)
    if unknown:
        listed = ", ".join(f"`{u}`" for u in unknown)
        raise UnknownSignature(
            f"{name}.forward{signature} asks for {listed}, which the contract suite cannot draw. Add the argument to "
            f"ROLES in tests/contract/vocabulary.py (its axes, how to draw it, whether a gradient flows to it), or to "
            f"`roles` of the entry of {name} in tests/contract/entries/ where the name means something else here."
        )
    return roles


def functions_apart(modules: Iterable[tuple[str, str, type[nn.Module]]]) -> Iterable[tuple[str, Callable[..., Any]]]:
    """Loss functions with a required argument that neither ``forward`` nor the constructor of their module has."""
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
    module: str,
    namespace: str,
    cls: type[nn.Module],
    build: Build,
    signature: inspect.Signature | None = None,
    variant: Variant | None = None,
) -> Case:
    signature = signature_of(cls) if signature is None else signature
    entry = ENTRIES.get(module, Entry(module))
    settled = entry.settled if variant is None else variant.settled
    build = build if variant is None else variant.build
    excuses = tuple(excuse for excuse in entry.excuses if variant is None or excuse.variants)
    return Case(
        name=module if variant is None else f"{module}({variant.settings})",
        module=module,
        namespace=namespace,
        signature=signature,
        roles=roles_of(module, signature),
        build=build,
        settled=build if settled is None else settled,
        function=function_of(module, namespace),
        sizes={**entry.sizes, **({} if variant is None else variant.sizes)},
        bare=variant is not None and variant.bare,
        twins_are_duplicates=entry.twins_are_duplicates,
        scale_free=entry.scale_free,
        excuses=(() if variant is None else variant.excuses) + excuses,
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
    """All rows of the grid, variants after their module, and the modules with unknown arguments."""
    cases, unknown = [], {}
    for namespace, name, cls in exported_modules():
        try:
            entry = ENTRIES.get(name, Entry(name))
            if entry.build is None and needs(cls):
                listed = ", ".join(f"`{n}`" for n in needs(cls))
                raise UnknownSignature(
                    f"{name}(...) needs {listed}, which has no default: give its entry in tests/contract/entries/ "
                    f"a `build`"
                )
            build = (lambda d, cls=cls: cls()) if entry.build is None else entry.build
            cases.append(make_case(name, namespace, cls, build))
        except UnknownSignature as error:
            unknown[name] = error
            continue
        cases += [make_case(name, namespace, cls, build, variant=variant) for variant in entry.variants]
    for name, function in functions_apart(exported_modules()):
        build = functools.partial(lambda function, d: FunctionLoss(function), function)
        try:
            case = make_case(name, "mmda.losses", FunctionLoss, build, inspect.signature(function))
        except UnknownSignature as error:
            unknown[name] = error
            continue
        cases.append(case)
    return cases, unknown


def excuse_for(case: Case, condition: str) -> Excuse | None:
    """The first excuse of the case that names this condition."""
    return next((excuse for excuse in case.excuses if condition in excuse.conditions), None)
