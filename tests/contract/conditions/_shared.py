"""The registry of conditions, and helpers for their checks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.contract.cases import Case, Problem

DOUBLE = torch.float64
PRIMES = (0.7, 1.9, 1.3, 0.4, 1.1, 2.3, 0.9)


@dataclasses.dataclass(frozen=True)
class Condition:
    """A column of the grid."""

    name: str
    family: str
    title: str
    promise: str
    check: Callable[[Case], None]
    applies: Callable[[Case], bool]
    needs_gpu: bool = False


REGISTER: dict[str, Condition] = {}


def always(case: Case) -> bool:
    return True


def is_loss(case: Case) -> bool:
    return not case.is_layer


def is_function(case: Case) -> bool:
    return case.name == case.name.lower()


def condition(
    family: str, title: str, *, applies: Callable[[Case], bool] = always, needs_gpu: bool = False
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a check; the first line of its docstring is printed below the grid."""

    def register(check: Callable[[Case], None]) -> Callable[[Case], None]:
        name = check.__name__.removeprefix("check_")
        promise = (check.__doc__ or "").strip().splitlines()[0]
        REGISTER[name] = Condition(name, family, title, promise, check, applies, needs_gpu)
        return check

    return register


def assert_close(
    actual: Tensor, expected: Tensor, *, rtol: float = 1e-9, atol: float = 1e-9, what: str = "value"
) -> None:
    actual, expected = actual.detach().to(DOUBLE), expected.detach().to(DOUBLE)
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} against {tuple(expected.shape)}"
    assert bool(torch.isfinite(actual).all()), f"{what} is not finite: {actual}"
    gap = (actual - expected).abs().max().item() if actual.numel() else 0.0
    size = expected.abs().max().item() if expected.numel() else 0.0
    assert gap <= atol + rtol * size, f"{what}: {actual.tolist()} against {expected.tolist()}, {gap:.2e} apart"


def assert_same_gradients(
    actual: dict[str, list[Tensor]], expected: dict[str, list[Tensor]], *, rtol: float = 1e-8, atol: float = 1e-9
) -> None:
    assert actual.keys() == expected.keys()
    for name in actual:
        for one, other in zip(actual[name], expected[name]):
            assert_close(one, other, rtol=rtol, atol=atol, what=f"gradient on `{name}`")


def assert_defined(case: Case, problem: Problem) -> None:
    """Assert that value and gradients are finite."""
    value, gradients = case.value_and_gradients(problem)
    assert bool(torch.isfinite(value)), f"the value is {value.item()}"
    for name, leaves in gradients.items():
        for leaf in leaves:
            assert bool(torch.isfinite(leaf).all()), f"the gradient on `{name}` is not finite"


def assert_same_on(case: Case, actual: Problem, expected: Problem) -> None:
    """Assert that both problems have the same value."""
    assert_close(case.value(actual), case.value(expected))


def outputs(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def differentiable_function(
    case: Case, problem: Problem, module: nn.Module
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The value as a function of only the differentiable tensors, and these tensors."""
    parts = [(name, *pytree.tree_flatten(problem.values[name])) for name in case.differentiable]

    def function(*tensors: Tensor) -> Tensor:
        left = list(tensors)
        changed = {}
        for name, leaves, spec in parts:
            changed[name] = pytree.tree_unflatten([left.pop(0) for _ in leaves], spec)
        return case.value(problem.with_values(**changed), module)

    return function, tuple(leaf.detach().clone() for _, leaves, _ in parts for leaf in leaves)


def padded(case: Case, problem: Problem, axis: str, filler: float) -> Problem:
    """The same problem with three padding entries at the end of the axis, and the mask that excludes them."""
    keep = case.length(problem, axis)
    longer = case.extend(problem, axis, 3, filler)
    return longer.with_values(**case.mask(longer, axis, keep))


def masked_axes(case: Case) -> list[str]:
    return [axis for axis in ("n", "m", "b", "t", "w") if axis in case.axes and case.mask_of(axis) is not None]


def weighted_axes(case: Case) -> list[str]:
    return [axis for axis in case.row_axes if case.weight_of(axis) is not None]


def folds(case: Case) -> bool:
    """Row masks over unpaired samples also come as (batch, time)."""
    return any(axis in masked_axes(case) for axis in ("n", "m"))


def takes_masks(case: Case) -> bool:
    return bool(masked_axes(case)) or case.kind in ("discrepancy", "pair")


def takes_weights(case: Case) -> bool:
    return bool(weighted_axes(case)) or case.kind in ("discrepancy", "pair")


def dressable(case: Case) -> bool:
    return bool(masked_axes(case) or weighted_axes(case)) and not case.bare


def require(found: list[str], case: Case, what: str) -> list[str]:
    assert found, f"{case.name}.forward{case.signature} takes no {what}"
    return found


def dressed(case: Case, problem: Problem) -> Problem:
    """The problem with every weight and every mask set."""
    more: dict[str, Tensor] = {}
    for axis in weighted_axes(case):
        name = case.weight_of(axis)
        assert name is not None
        rows = case.length(problem, axis)
        dtype = next(leaf.dtype for leaf in pytree.tree_leaves(problem.values) if leaf.is_floating_point())
        more[name] = torch.tensor([PRIMES[row % len(PRIMES)] for row in range(rows)], dtype=dtype)
    for axis in masked_axes(case):
        more.update(case.mask(problem, axis, max(case.length(problem, axis) - 1, 1)))
    return problem.with_values(**more)


def problems_dressed(case: Case, dtype: torch.dtype = DOUBLE, **sizes: int) -> list[Problem]:
    problem = case.draw(dtype=dtype, **sizes)
    return [problem, dressed(case, problem)] if dressable(case) else [problem]


def has_features(case: Case) -> bool:
    return case.kind == "discrepancy"


def constructor(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The arguments of the module's constructor."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in inspect.signature(type(module)).parameters.items() if p.kind not in variadic}


def assert_dtype(case: Case, result: Any, dtype: torch.dtype) -> None:
    for leaf in outputs(result):
        if leaf.is_floating_point():
            assert leaf.dtype == dtype, f"came back as {leaf.dtype}, {dtype} expected"


def all_counted(case: Case, problem: Problem) -> Problem:
    """The problem with every weight one and every mask true."""
    more = {}
    for name in (*case.names("weight"), *case.names("mask")):
        ones = torch.ones([case.length(problem, axis) for axis in case.roles[name].axes])
        more[name] = ones.bool() if case.roles[name].use == "mask" else ones
    return problem.with_values(**more)
