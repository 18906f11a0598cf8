"""The conditions of the grid: plain functions ``check_<condition>(case)`` that raise when the promise is broken.

Both the contract tests and the mutation tests call them. A condition knows from the call's signature whether it
speaks of this case at all; where it does and cannot hold, :mod:`tests.contract.exceptions` says why.

Identities are checked in float64 (tolerance 1e-9), where nothing but a mistake separates the two sides.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import math
import pickle
import random
import re
import typing
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.contract.cases import SCALE_FREE, TWINS_ARE_DUPLICATES, Case, Problem, probe

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


CONDITIONS: dict[str, Condition] = {}


def always(case: Case) -> bool:
    return True


def is_loss(case: Case) -> bool:
    return not case.is_layer


def is_function(case: Case) -> bool:
    return case.name == case.name.lower()


def condition(
    family: str, title: str, *, applies: Callable[[Case], bool] = always, needs_gpu: bool = False
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a check; its docstring's first line is the promise printed under the grid."""

    def register(check: Callable[[Case], None]) -> Callable[[Case], None]:
        name = check.__name__.removeprefix("check_")
        promise = (check.__doc__ or "").strip().splitlines()[0]
        CONDITIONS[name] = Condition(name, family, title, promise, check, applies, needs_gpu)
        return check

    return register


# What the checks share.


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
    """Value and gradients are finite."""
    value, gradients = case.value_and_gradients(problem)
    assert bool(torch.isfinite(value)), f"the value is {value.item()}"
    for name, leaves in gradients.items():
        for leaf in leaves:
            assert bool(torch.isfinite(leaf).all()), f"the gradient on `{name}` is not finite"


def assert_same_on(case: Case, actual: Problem, expected: Problem) -> None:
    """Both problems have the same value."""
    assert_close(case.value(actual), case.value(expected))


def outputs(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def differentiable_function(
    case: Case, problem: Problem, module: nn.Module
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The value as a function of the differentiable tensors alone, and these tensors."""
    parts = [(name, *pytree.tree_flatten(problem.values[name])) for name in case.differentiable]

    def function(*tensors: Tensor) -> Tensor:
        left = list(tensors)
        changed = {}
        for name, leaves, spec in parts:
            changed[name] = pytree.tree_unflatten([left.pop(0) for _ in leaves], spec)
        return case.value(problem.with_values(**changed), module)

    return function, tuple(leaf.detach().clone() for _, leaves, _ in parts for leaf in leaves)


def padded(case: Case, problem: Problem, axis: str, filler: float) -> Problem:
    """The same problem with three pads behind the axis and the mask that hides them."""
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


# Sizes and contents.


@condition("Sizes and contents", "unequal batches", applies=lambda case: {"n", "m"} <= case.axes)
def check_unequal_batches(case: Case) -> None:
    """Source and target may have different numbers of rows, either way round; value and gradients are finite."""
    assert_defined(case, case.draw(n=4, m=9))
    assert_defined(case, case.draw(n=9, m=4))


@condition("Sizes and contents", "n = 1")
def check_one_row(case: Case) -> None:
    """One row a side gives a finite value and finite gradients."""
    assert_defined(case, case.draw(**dict.fromkeys(case.row_axes, 1)))


@condition("Sizes and contents", "n = 2")
def check_two_rows(case: Case) -> None:
    """Two rows a side give a finite value and finite gradients."""
    assert_defined(case, case.draw(**dict.fromkeys(case.row_axes, 2)))


@condition("Sizes and contents", "duplicates")
def check_duplicates(case: Case) -> None:
    """Repeated rows, all of a side included, give a finite value and finite gradients."""
    problem = case.draw()
    for axis in case.row_axes:
        index = torch.arange(case.length(problem, axis)) // 2
        assert_defined(case, case.select(problem, axis, index))
        assert_defined(case, case.select(problem, axis, torch.zeros_like(index)))


@condition("Sizes and contents", "constant features")
def check_constant(case: Case) -> None:
    """Features that are the same number everywhere, zero included, give a finite value and finite gradients."""
    for number in (0.0, 3.0):
        problem = case.draw().map(
            lambda name, leaf, number=number: torch.full_like(leaf, number) if name in case.differentiable else leaf
        )
        assert_defined(case, problem)


@condition("Sizes and contents", "one feature", applies=lambda case: "d" in case.axes)
def check_one_feature(case: Case) -> None:
    """One feature a row is enough."""
    assert_defined(case, case.draw(d=1))


@condition("Sizes and contents", "strided input")
def check_strided(case: Case) -> None:
    """Transposed and sliced storage gives the value and gradients of the contiguous copy."""
    problem = case.draw(dtype=DOUBLE)

    def spread(name: str, leaf: Tensor) -> Tensor:
        wide = torch.stack([leaf, torch.full_like(leaf, 0)], -1)  # every second element belongs to the tensor
        return wide.transpose(0, -2).contiguous().transpose(0, -2)[..., 0]

    strided = problem.map(spread)
    assert any(not leaf.is_contiguous() for leaf in pytree.tree_leaves(strided.values))
    _assert_views_agree(case, problem, strided)


@condition("Sizes and contents", "expanded input")
def check_expanded(case: Case) -> None:
    """Rows made by ``expand`` (stride zero) give the value and gradients of the copy."""
    problem = case.draw(dtype=DOUBLE).map(lambda name, leaf: leaf[:1].expand_as(leaf))
    copy = problem.map(lambda name, leaf: leaf.clone())
    _assert_views_agree(case, copy, problem)


def _assert_views_agree(case: Case, contiguous: Problem, view: Problem) -> None:
    value, gradients = case.value_and_gradients(contiguous)
    tracked = view.map(lambda name, leaf: leaf.requires_grad_() if name in case.differentiable else leaf)
    other = case.value(tracked)
    assert_close(other, value)
    for name in case.differentiable:
        leaves = pytree.tree_leaves(tracked.values[name])
        found = torch.autograd.grad(other, leaves, retain_graph=True, allow_unused=True)
        for leaf, gradient, expected in zip(leaves, found, gradients[name]):
            assert_close(
                torch.zeros_like(leaf) if gradient is None else gradient, expected, what=f"gradient on `{name}`"
            )


@condition("Sizes and contents", "negated view")
def check_negated_view(case: Case) -> None:
    """A view that negates on reading (``torch._neg_view``) counts as the numbers that it shows."""
    problem = case.draw()
    for name in case.differentiable:
        shown = problem.map(lambda own, leaf, n=name: -leaf if own == n else leaf)
        view = problem.map(lambda own, leaf, n=name: torch._neg_view(leaf) if own == n else leaf)
        assert_close(case.value(view), case.value(shown))


def has_integers(case: Case) -> bool:
    return any(leaf.dtype == torch.int64 for leaf in pytree.tree_leaves(case.draw().values))


@condition("Sizes and contents", "integer types", applies=has_integers)
def check_integer_types(case: Case) -> None:
    """Labels and indices of any integer type count as those of int64 do."""
    for problem in (case.draw(dtype=DOUBLE), case.draw(dtype=DOUBLE, **dict.fromkeys(case.row_axes, 3))):
        expected = case.value(problem)
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            narrow = problem.map(lambda name, leaf, dtype=dtype: leaf.to(dtype) if leaf.dtype == torch.int64 else leaf)
            assert_close(case.value(narrow), expected, what=f"value for {dtype}")


# Precision.


def _assert_dtype(case: Case, result: Any, dtype: torch.dtype) -> None:
    for leaf in outputs(result):
        if leaf.is_floating_point():
            assert leaf.dtype == dtype, f"came back as {leaf.dtype}, {dtype} expected"


@condition("Precision", "float64")
def check_float64(case: Case) -> None:
    """float64 in, float64 out, gradients too."""
    problem = case.leaves(case.draw(dtype=DOUBLE))
    _assert_dtype(case, case.call(problem), DOUBLE)
    _, gradients = case.value_and_gradients(problem)
    assert all(leaf.dtype == DOUBLE for leaves in gradients.values() for leaf in leaves)


@condition("Precision", "float32")
def check_float32(case: Case) -> None:
    """float32 in, float32 out, within float32 rounding of float64 (1e-5), gradients too (1e-4)."""
    problem = case.draw(dtype=torch.float32)
    _assert_dtype(case, case.call(problem), torch.float32)
    exact = problem.map(lambda name, leaf: leaf.double() if leaf.is_floating_point() else leaf)
    value, gradients = case.value_and_gradients(problem)
    reference, expected = case.value_and_gradients(exact)
    assert_close(value, reference, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients, expected, rtol=1e-4, atol=1e-6)


def _check_half(case: Case, dtype: torch.dtype) -> None:
    problem = case.draw(dtype=torch.float32).map(
        lambda name, leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf
    )
    wide = problem.map(lambda name, leaf: leaf.float() if leaf.is_floating_point() else leaf)
    rounding = torch.finfo(torch.float32).eps * 64
    if case.is_layer:
        kept = [leaf.dtype for leaf in outputs(case.call(problem)) if leaf.is_floating_point()]
        assert set(kept) <= {dtype, torch.float32}, f"came back as {kept}"
        rounding = 16 * torch.finfo(dtype).eps if dtype in kept else rounding
    else:
        _assert_dtype(case, case.call(problem), torch.float32)
    value, gradients = case.value_and_gradients(problem)
    expected, wide_gradients = case.value_and_gradients(wide)
    assert_close(value, expected, rtol=rounding, atol=rounding)
    for name in case.differentiable:
        for gradient, exact in zip(gradients[name], wide_gradients[name]):
            assert gradient.dtype == dtype, f"gradient on `{name}` is {gradient.dtype}"
            half = 16 * torch.finfo(dtype).eps
            assert_close(gradient, exact, rtol=half, atol=half * 1e-2, what=f"gradient on `{name}`")


@condition("Precision", "bfloat16")
def check_bfloat16(case: Case) -> None:
    """bfloat16 input is widened: a loss has the value of the widened input, in float32; gradients are bfloat16."""
    _check_half(case, torch.bfloat16)


@condition("Precision", "float16")
def check_float16(case: Case) -> None:
    """float16 input is widened: a loss has the value of the widened input, in float32; gradients are float16."""
    _check_half(case, torch.float16)


def has_parameters(case: Case) -> bool:
    return any(tensor.is_floating_point() for tensor in case.make().state_dict().values())


@condition("Precision", "bfloat16 module", applies=has_parameters)
def check_half_module(case: Case) -> None:
    """A module converted to bfloat16 takes bfloat16 input: its value is that of the same numbers in float32."""
    dtype = torch.bfloat16
    problem = case.draw().map(lambda name, leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
    wide = problem.map(lambda name, leaf: leaf.float() if leaf.is_floating_point() else leaf)
    half = case.make().to(dtype)
    value, gradients = case.value_and_gradients(problem, half)
    expected, wide_gradients = case.value_and_gradients(wide, case.make().to(dtype).float())
    rounding = 16 * torch.finfo(dtype).eps
    assert_close(value, expected, rtol=rounding, atol=rounding)
    assert_same_gradients(gradients, wide_gradients, rtol=rounding, atol=rounding)


def _check_autocast(case: Case, device: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        problem = case.leaves(case.draw().map(lambda name, leaf: leaf.to(device)))
        module = case.make().to(device)
        plain = case.value(problem, module)
        with torch.autocast(device, dtype=dtype):
            _assert_dtype(case, case.call(problem, module), torch.float32)
            inside = case.value(problem, module)
        assert_close(inside, plain, rtol=1e-5, atol=1e-6)
        flat = [leaf for name in case.differentiable for leaf in pytree.tree_leaves(problem.values[name])]
        for one, other in zip(
            torch.autograd.grad(inside, flat, allow_unused=True), torch.autograd.grad(plain, flat, allow_unused=True)
        ):
            if other is not None:
                assert one is not None
                assert_close(one, other, rtol=1e-4, atol=1e-6, what="gradient")


@condition("Precision", "CPU autocast")
def check_cpu_autocast(case: Case) -> None:
    """Inside ``torch.autocast("cpu")``, bfloat16 and float16: float32, within rounding of the value outside."""
    _check_autocast(case, "cpu")


@condition("Precision", "CUDA autocast", needs_gpu=True)
def check_cuda_autocast(case: Case) -> None:
    """Inside ``torch.autocast("cuda")``: the same, and the value on the GPU is the value on the CPU."""
    _check_autocast(case, "cuda")
    problem = case.draw()
    there = case.value(problem.map(lambda name, leaf: leaf.cuda()), case.make().cuda())
    assert_close(there.cpu(), case.value(problem), rtol=1e-5, atol=1e-6)


def _check_offset(case: Case, offset: float) -> None:
    problem = case.draw(dtype=torch.float32).map(
        lambda name, leaf: leaf + offset if name in case.differentiable and "d" in case.roles[name].axes else leaf
    )
    exact = problem.map(lambda name, leaf: leaf.double() if leaf.is_floating_point() else leaf)
    value, gradients = case.value_and_gradients(problem)
    expected, exact_gradients = case.value_and_gradients(exact)
    assert_close(value, expected, rtol=1e-3, atol=0.0)
    assert_same_gradients(gradients, exact_gradients, rtol=1e-2, atol=1e-7)


def has_features(case: Case) -> bool:
    return case.kind == "discrepancy"


@condition("Precision", "offset 1e3", applies=has_features)
def check_offset_1e3(case: Case) -> None:
    """A common offset of 1e3 in float32: within 1e-3 of float64, gradients within 1e-2."""
    _check_offset(case, 1e3)


@condition("Precision", "offset 1e4", applies=has_features)
def check_offset_1e4(case: Case) -> None:
    """A common offset of 1e4 in float32: within 1e-3 of float64, gradients within 1e-2."""
    _check_offset(case, 1e4)


# Masks and weights.


def _check_padding(case: Case, fillers: tuple[float, ...]) -> None:
    problem = case.draw(dtype=DOUBLE)
    value, gradients = case.value_and_gradients(problem)
    shapes = [leaf.shape for leaf in outputs(case.call(problem))]
    for axis in require(masked_axes(case), case, "mask"):
        for filler in fillers:
            longer = padded(case, problem, axis, filler)
            other, more = case.value_and_gradients(longer, front=shapes if case.is_layer else None)
            assert_close(other, value)
            _assert_front(case, more, gradients)


@condition("Masks and weights", "masked = unpadded", applies=takes_masks)
def check_masked_is_unpadded(case: Case) -> None:
    """The masked loss on padded input is the loss on the unpadded samples, gradients too."""
    _check_padding(case, (0.5,))


@condition("Masks and weights", "pads of NaN, inf", applies=takes_masks)
def check_inert_padding(case: Case) -> None:
    """Whatever padding holds, NaN and infinities included: same value, gradient on padding exactly zero."""
    _check_padding(case, (math.nan, math.inf, -math.inf, 1e300))


def _assert_front(case: Case, longer: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    """Equal where both have entries, exactly zero behind."""
    for name in expected:
        for long, short in zip(longer[name], expected[name]):
            front = long
            for position, size in enumerate(short.shape):
                behind = front.narrow(position, size, front.shape[position] - size)
                assert bool((behind == 0).all()), f"gradient on the padding of `{name}` is not exactly zero"
                front = front.narrow(position, 0, size)
            assert_close(front, short, rtol=1e-8, what=f"gradient on `{name}`")


@condition("Masks and weights", "(batch, time)", applies=folds)
def check_batch_time(case: Case) -> None:
    """Rows laid out as (batch, time, features) with a mask count like the kept rows."""
    problem = case.draw(dtype=DOUBLE)
    value = case.value(problem)
    for axes in (["n"], ["m"], ["n", "m"]):
        folded = problem
        for axis in axes:
            folded = _fold(case, folded, axis)
        assert_close(case.value(folded), value)


def _fold(case: Case, problem: Problem, axis: str) -> Problem:
    """Rows 0 .. n - 1 dealt to two sequences of different length, NaN between."""
    count = case.length(problem, axis)
    first = (count + 1) // 2
    longer = case.extend(problem, axis, 2 * first + 2 - count, math.nan)
    gap = [count, count + 1]
    order = [*range(first), gap[0], *range(first, count), *([gap[1]] * (2 * first + 1 - count))]
    dealt = case.select(longer, axis, torch.tensor(order))
    keep = torch.tensor([index < count for index in order]).reshape(2, -1)

    def fold(name: str, leaf: Tensor) -> Tensor:
        return leaf.reshape(2, first + 1, *leaf.shape[1:]) if case.roles[name].axes[0] == axis else leaf

    name = case.mask_of(axis)
    assert name is not None
    return dealt.map(fold).with_values(**{name: keep})


@condition("Masks and weights", "all masked", applies=takes_masks)
def check_all_masked(case: Case) -> None:
    """With nothing kept, of a discrepancy on one side, a loss is a zero with a graph; gradients there are zeros."""
    problem = case.draw()
    axes = require(masked_axes(case), case, "mask")
    sides = [[axis] for axis in axes] + ([axes] if len(axes) > 1 else [])
    for gone in sides:
        for spoiled in (False, True):
            nothing = problem.map(
                lambda name, leaf, gone=gone, spoiled=spoiled: (
                    torch.full_like(leaf, math.nan)
                    if spoiled and name in case.differentiable and {*gone} & {*case.roles[name].axes}
                    else leaf
                )
            )
            masks = {name: mask for axis in gone for name, mask in case.mask(nothing, axis, 0).items()}
            value, gradients = case.value_and_gradients(nothing.with_values(**masks))
            assert bool(torch.isfinite(value)), f"the value is {value.item()}"
            empty = is_loss(case) and (case.kind == "discrepancy" or not {"n", "m"} & {*axes} or gone == axes)
            assert not empty or value.item() == 0, f"the value is {value.item()}"
            for name, leaves in gradients.items():
                for leaf in leaves:
                    zero = empty or {*gone} & {*case.roles[name].axes}
                    assert bool((leaf == 0).all() if zero else torch.isfinite(leaf).all()), f"gradient on `{name}`"


def _check_counts(case: Case, counts: Callable[[int], list[int]]) -> None:
    problem = case.draw(dtype=DOUBLE)
    for axis in require(weighted_axes(case), case, "weight"):
        name = case.weight_of(axis)
        assert name is not None
        times = counts(case.length(problem, axis))
        weighted = problem.with_values(**{name: torch.tensor(times, dtype=DOUBLE)})
        index = torch.tensor([row for row, count in enumerate(times) for _ in range(count)])
        repeated = case.select(problem, axis, index)
        if case.module in TWINS_ARE_DUPLICATES:
            repeated = repeated.with_values(negative_mask=index.unsqueeze(0) != index.unsqueeze(1))
        assert_same_on(case, weighted, repeated)


@condition("Masks and weights", "weight 1", applies=takes_weights)
def check_weight_one(case: Case) -> None:
    """Weights of one change nothing."""
    _check_counts(case, lambda rows: [1] * rows)


@condition("Masks and weights", "weight 2", applies=takes_weights)
def check_weight_two(case: Case) -> None:
    """A weight of 2 equals a repeated row."""
    _check_counts(case, lambda rows: [2, 1, 2] + [1] * (rows - 3))


@condition("Masks and weights", "weight 0", applies=takes_weights)
def check_weight_zero(case: Case) -> None:
    """A weight of 0 equals the row's absence."""
    _check_counts(case, lambda rows: [1, 0] + [1] * (rows - 2))


# Derivatives.


@condition("Derivatives", "reaches all inputs")
def check_reaches_inputs(case: Case) -> None:
    """Every differentiable input gets a gradient that is not zero when the inputs differ."""
    _, gradients = case.value_and_gradients(case.draw())
    for name, leaves in gradients.items():
        for leaf in leaves:
            assert leaf.abs().max() > 1e-6, f"no gradient reaches `{name}`"


@condition("Derivatives", "gradcheck")
def check_gradcheck(case: Case) -> None:
    """The gradient is the finite difference's, weights and masks included where they exist."""
    for problem in _problems_for_derivatives(case):
        function, tensors = differentiable_function(case, problem, case.make(settled=True, dtype=DOUBLE, d=2))
        assert torch.autograd.gradcheck(function, tuple(t.requires_grad_() for t in tensors), atol=1e-6, rtol=1e-4)


@condition("Derivatives", "gradgradcheck")
def check_gradgradcheck(case: Case) -> None:
    """Double backward is the finite difference's, weights and masks included where they exist."""
    for problem in _problems_for_derivatives(case):
        function, tensors = differentiable_function(case, problem, case.make(settled=True, dtype=DOUBLE, d=2))
        leaves = tuple(t.requires_grad_() for t in tensors)
        ones = torch.ones((), dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradgradcheck(function, leaves, (ones,), atol=1e-6, rtol=1e-4)


def _problems_for_derivatives(case: Case) -> list[Problem]:
    problem = case.draw(dtype=DOUBLE, n=4, m=4, b=4, d=2)
    return [problem, _dressed(case, problem)] if dressable(case) else [problem]


def _dressed(case: Case, problem: Problem) -> Problem:
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


def _problems_dressed(case: Case, dtype: torch.dtype = DOUBLE, **sizes: int) -> list[Problem]:
    problem = case.draw(dtype=dtype, **sizes)
    return [problem, _dressed(case, problem)] if dressable(case) else [problem]


@condition("Derivatives", "func.grad")
def check_func_grad(case: Case) -> None:
    """``torch.func.grad`` gives the gradient of ``backward``."""
    for problem in _problems_dressed(case):
        module = case.make(dtype=DOUBLE)
        function, tensors = differentiable_function(case, problem, module)
        found = torch.func.grad(function, argnums=tuple(range(len(tensors))))(*tensors)
        _, expected = case.value_and_gradients(problem)
        flat = [leaf for name in case.differentiable for leaf in expected[name]]
        for one, other in zip(found, flat):
            assert_close(one, other, rtol=1e-8, what="gradient")


@condition("Derivatives", "vmap")
def check_vmap(case: Case) -> None:
    """``torch.func.vmap`` over a stack of problems gives the stack of values; of gradients, composed with grad."""
    pairs = list(zip(*(_problems_dressed(case, seed=seed) for seed in range(3))))
    for problems in pairs:
        module = case.make(dtype=DOUBLE)
        functions = [differentiable_function(case, problem, module) for problem in problems]
        function = functions[0][0]  # every other argument as in the first problem
        stacked = [torch.stack(leaves) for leaves in zip(*(tensors for _, tensors in functions))]
        found = torch.func.vmap(function)(*stacked)
        expected = torch.stack([function(*tensors) for _, tensors in functions])
        assert_close(found, expected)
        slopes = torch.func.vmap(torch.func.grad(function))(*stacked)
        wanted = torch.stack([torch.func.grad(function)(*tensors) for _, tensors in functions])
        assert_close(slopes, wanted, rtol=1e-8, what="gradient")


@condition("Derivatives", "jvp")
def check_jvp(case: Case) -> None:
    """Forward mode (``torch.func.jvp``) agrees with reverse mode."""
    for problem in _problems_dressed(case):
        module = case.make(dtype=DOUBLE)
        function, tensors = differentiable_function(case, problem, module)
        generator = torch.Generator().manual_seed(3)
        tangents = tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on its first use of forward mode
            value, slope = torch.func.jvp(function, tensors, tangents)
        assert_close(value, case.value(problem))
        _, gradients = case.value_and_gradients(problem)
        flat = [leaf for name in case.differentiable for leaf in gradients[name]]
        assert_close(
            slope, sum(((g * t).sum() for g, t in zip(flat, tangents)), torch.zeros((), dtype=DOUBLE)), rtol=1e-8
        )


@condition("Derivatives", "slope at weight 0", applies=lambda case: is_loss(case) and takes_weights(case))
def check_slope_at_weight_zero(case: Case) -> None:
    """Reverse and forward mode give the one-sided slope on a weight that is 0."""
    problem = case.draw(dtype=DOUBLE)
    for axis in require(weighted_axes(case), case, "weight"):
        name = case.weight_of(axis)
        assert name is not None
        module = case.make(settled=True, dtype=DOUBLE)
        generator = torch.Generator().manual_seed(4)  # no sums that agree: there a quantile function has a kink
        weight = 0.5 + torch.rand(case.length(problem, axis), generator=generator, dtype=DOUBLE)
        step = torch.zeros_like(weight)
        weight[1], step[1] = 0.0, 1e-6

        def function(
            weight: Tensor, name: str = name, module: nn.Module = module, problem: Problem = problem
        ) -> Tensor:
            return case.value(problem.with_values(**{name: weight}), module)

        first, second, third = (function(weight + count * step) for count in range(3))
        slope = (-3 * first + 4 * second - third) / (2 * step[1])
        tracked = weight.clone().requires_grad_()
        found = {
            "reverse": torch.autograd.grad(function(tracked), tracked)[0][1],
            "func.grad": torch.func.grad(function)(weight)[1],
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on its first use of forward mode
            found["forward"] = torch.func.jvp(function, (weight,), (step / step[1],))[1]
        for mode, value in found.items():
            assert_close(value, slope, rtol=1e-4, atol=1e-5, what=f"{mode} slope on `{name}` at 0")


def _call_forms(case: Case) -> list[Problem]:
    """The ways to call: bare, with every weight and mask, and with one integer where one a row is the other way."""
    forms = _problems_dressed(case)
    whole = [n for n, p in case.signature.parameters.items() if "int | Tensor" in str(p.annotation)]
    for name in whole:
        forms += [problem.with_values(**{name: number}) for number in (0, 1) for problem in tuple(forms)]
    return forms


@condition("Derivatives", "one backward")
def check_one_backward(case: Case) -> None:
    """Calls in every form, in training and in evaluation, then one backward through all: the gradients of each."""
    forms = _call_forms(case)
    module, left = case.make(dtype=DOUBLE), []
    for training in (True, False, True) if case.is_layer else (True,):
        for form in forms:
            form = case.leaves(form)
            alone = copy.deepcopy(module).train(training)  # with the state of this moment
            left.append((form, case.value(form, module.train(training)), case.value_and_gradients(form, alone)[1]))
    torch.stack([value for _, value, _ in left]).sum().backward()
    for form, _, expected in left:
        leaves = {name: pytree.tree_leaves(form.values[name]) for name in case.differentiable}
        found = {
            name: [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in tensors]
            for name, tensors in leaves.items()
        }
        assert_same_gradients(found, expected)


# Graphs.


@contextlib.contextmanager
def _compiler() -> typing.Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        torch._dynamo.reset()
        try:
            yield
        finally:
            torch._dynamo.reset()


@condition("Graphs", "compile")
def check_compile(case: Case) -> None:
    """``torch.compile(fullgraph=True)``: no graph break, one graph, same value and gradients."""
    problem = _problems_dressed(case, torch.float32)[-1]
    expected, gradients = case.value_and_gradients(problem)
    with _compiler():
        compiled = torch.compile(case.make(), backend="eager", fullgraph=True)
        value, found = case.value_and_gradients(problem, compiled)
    assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(found, gradients, rtol=1e-4, atol=1e-6)


SETTINGS = ("strength", "temperature")


def settings_of(case: Case) -> list[str]:
    """Numbers that a training loop changes while it runs."""
    module = case.make()
    return [name for name in SETTINGS if isinstance(getattr(module, name, None), (float, Tensor))]


@condition("Graphs", "no recompile", applies=lambda case: bool(settings_of(case)))
def check_no_recompile(case: Case) -> None:
    """A strength or temperature that moves at every step compiles no further graph after the second step."""
    problem = case.draw()
    with _compiler():
        graphs: list[nn.Module] = []

        def backend(graph: nn.Module, inputs: object) -> Callable[..., Any]:
            graphs.append(graph)
            return graph.forward

        module = case.make()
        compiled = torch.compile(module, backend=backend, fullgraph=True)
        seen = []
        for step in range(5):
            number = 0.31 + 0.07 * step
            for name in settings_of(case):
                current = getattr(module, name)
                if isinstance(current, Tensor):
                    with torch.no_grad():
                        current.fill_(number)
                else:
                    setattr(module, name, number)
            value, gradients = case.value_and_gradients(problem, compiled)
            plain, expected = case.value_and_gradients(problem, module)
            assert_close(value, plain, rtol=1e-5, atol=1e-6)
            assert_same_gradients(gradients, expected, rtol=1e-4, atol=1e-6)
            seen.append(len(graphs))
        assert seen[-1] == seen[1], f"graphs compiled after each step: {seen}"


#: Rows of the batches that a compiled module is given, and how many graphs it may make of them: one for the first
#: size, one for any size, one for a size that is special.
BATCHES, GRAPHS = (9, 12, 10, 17, 8, 23, 31, 16, 40, 11, 29, 50), 3


@condition("Graphs", "batch sizes")
def check_batch_sizes(case: Case) -> None:
    """Twelve batch sizes compile at most three graphs; four with ``dynamic=True`` or marked as dynamic too."""
    ways: dict[str, bool | None] = {"by itself": None, "dynamic=True": True, "mark_dynamic": None}
    for way, dynamic in ways.items():
        with _compiler():
            graphs: list[nn.Module] = []

            def backend(graph: nn.Module, inputs: object, graphs: list[nn.Module] = graphs) -> Callable[..., Any]:
                graphs.append(graph)
                return graph.forward

            compiled = torch.compile(case.make(), backend=backend, fullgraph=True, dynamic=dynamic)
            for k, rows in enumerate(BATCHES if way == "by itself" else BATCHES[:4]):
                problem = case.leaves(case.draw(seed=k, **_sizes_of_batch(case, rows)))
                if way == "mark_dynamic":
                    problem.map(functools.partial(_mark_rows, case))
                case.call(problem, compiled)
            assert len(graphs) <= GRAPHS, f"{len(graphs)} graphs for batches of other sizes, {way}"


def _sizes_of_batch(case: Case, rows: int) -> dict[str, int]:
    """Rows of both sides, unequal where they may be."""
    equal = case.sizes.get("n") is not None and case.sizes.get("n") == case.sizes.get("m")
    sizes = {"n": rows, "m": rows if equal else rows + 3, "b": rows}
    if equal:
        sizes |= {"n": rows + rows % 2, "m": rows + rows % 2}
    return {axis: size for axis, size in sizes.items() if axis in case.axes}


def _mark_rows(case: Case, name: str, leaf: Tensor) -> Tensor:
    for position, axis in enumerate(case.roles[name].axes):
        if axis in ("n", "m", "b"):
            torch._dynamo.mark_dynamic(leaf, position)
    return leaf


@condition("Graphs", "export")
def check_export(case: Case) -> None:
    """``torch.export`` takes the module; the exported program returns the same."""
    problem = _problems_dressed(case, torch.float32)[-1]
    args, kwargs = case.arguments(problem)
    module = case.make()
    with _compiler():
        program = torch.export.export(module, tuple(args), kwargs)
        found = program.module()(*args, **kwargs)
    for one, other in zip(outputs(found), outputs(case.call(problem, module))):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


# Objects.


def _assert_equal_results(case: Case, module: Callable[..., Any]) -> None:
    problem = case.draw()
    for one, other in zip(outputs(case.call(problem, module)), outputs(case.call(problem)), strict=True):
        assert torch.equal(one, other)


@condition("Objects", "deepcopy")
def check_deepcopy(case: Case) -> None:
    """A deep copy computes the same and shares no parameter."""
    module = case.make()
    twin = copy.deepcopy(module)
    _assert_equal_results(case, twin)
    assert not {id(p) for p in module.parameters()} & {id(p) for p in twin.parameters()}


@condition("Objects", "pickle")
def check_pickle(case: Case) -> None:
    """Through ``pickle`` and back the module computes the same and prints the same."""
    module = case.make()
    back = pickle.loads(pickle.dumps(module))
    _assert_equal_results(case, back)
    assert repr(back) == repr(module)


@condition("Objects", "state_dict")
def check_state_dict(case: Case) -> None:
    """``state_dict`` survives saving with ``weights_only`` and restores a module with other parameters."""
    module, other = case.make(), case.make()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    _assert_equal_results(case, other)


@condition("Objects", "meta device")
def check_meta(case: Case) -> None:
    """On the meta device, where no number can be read, shape and dtype come out right."""
    problem = _problems_dressed(case, torch.float32)[-1]
    expected = outputs(case.call(problem))
    found = outputs(case.call(problem.map(lambda name, leaf: leaf.to("meta")), case.make().to("meta")))
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "meta"
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


@condition("Objects", "module = function", applies=lambda case: is_loss(case) and not is_function(case))
def check_module_is_function(case: Case) -> None:
    """The module is the function: same value, same arguments in the constructor and the call together."""
    function = case.function
    assert function is not None, f"no exported function belongs to {case.module}"
    module = case.make()
    own = constructor(module)
    call = case.signature.parameters
    wanted = inspect.signature(function).parameters
    assert {*own, *call} == {*wanted}, f"{sorted({*own, *call} ^ {*wanted})} differ"
    positional = [n for n, p in wanted.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == [n for n, p in call.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    for name in {*own} & {*wanted}:
        if name == "draws":  # a module knows whether it trains, a function does not
            assert (own[name].default, wanted[name].default) == ("fresh", "fixed")
            continue
        assert own[name].default is wanted[name].default or own[name].default == wanted[name].default, name
    settings = {name: getattr(module, name) for name in own if name not in call}
    problem = case.draw()
    args, kwargs = case.arguments(problem)
    assert torch.equal(function(*args, **kwargs, **settings), case.value(problem, module))


@condition("Objects", "repr")
def check_repr(case: Case) -> None:
    """``repr`` names the class and every setting that the module holds."""
    module = case.make()
    text = repr(module)
    assert text.startswith(type(module).__name__ + "(")
    for name in constructor(module):
        held = getattr(module, name, None)
        assert held is None or isinstance(held, nn.Module) or f"{name}=" in text or f"({name})" in text, (
            f"repr hides `{name}`: {text}"
        )


# Purity.


@condition("Purity", "inputs unchanged")
def check_inputs_unchanged(case: Case) -> None:
    """Forward and backward leave every input as it was, bit for bit."""
    for problem in _problems_dressed(case, torch.float32):
        before = problem.map(lambda name, leaf: leaf.clone())
        tracked = problem.map(lambda name, leaf: leaf.requires_grad_() if name in case.differentiable else leaf)
        case.value(tracked).backward()
        for one, other in zip(pytree.tree_leaves(tracked.values), pytree.tree_leaves(before.values)):
            assert torch.equal(one.detach(), other)


@condition("Purity", "state unchanged")
def check_state_unchanged(case: Case) -> None:
    """Nothing in the module changes in ``forward``: no buffer, no counter, no schedule."""
    module = case.make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = {name: held for name, held in vars(module).items() if isinstance(held, (int, float, str))}
    case.value_and_gradients(case.draw(), module)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), f"`{name}` changed"
    assert plain == {name: held for name, held in vars(module).items() if isinstance(held, (int, float, str))}


@condition("Purity", "global RNG")
def check_global_rng(case: Case) -> None:
    """The global random states of torch, numpy and Python are neither used nor moved."""
    module, problem = case.make(), case.draw()
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    value, _ = case.value_and_gradients(problem, module)
    assert torch.equal(states[0], torch.get_rng_state()), "torch's global generator moved"
    assert bool((states[1] == np.random.get_state()[1]).all()), "numpy's global generator moved"  # noqa: NPY002
    assert states[2] == random.getstate(), "Python's global generator moved"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        again = case.value(problem, case.make())
    assert torch.equal(value, again.detach()), "the value depends on torch's global seed"


@condition("Purity", "deterministic")
def check_deterministic(case: Case) -> None:
    """Same input, same value and gradients, bit for bit; a generator of the same seed gives the same draw."""
    problem = case.draw()
    value, gradients = case.value_and_gradients(problem)
    again, more = case.value_and_gradients(problem)
    assert torch.equal(value, again)
    assert all(torch.equal(a, b) for name in gradients for a, b in zip(gradients[name], more[name]))
    if "generator" in case.signature.parameters:
        args, kwargs = case.arguments(problem)
        kwargs = {
            name: value
            for name, value in kwargs.items()
            if case.roles.get(name) is None or case.roles[name].use != "setting"
        }
        module = case.make()
        draws = []
        for seed in (1, 1, 2):
            kwargs["generator"] = torch.Generator().manual_seed(seed)
            draws.append(probe(module(*args, **kwargs)))
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2]), "the generator is not used"


# Laws.


MIRROR = {"source": "target", "target": "source", "anchor": "positive", "positive": "anchor"}


def mirrored(name: str) -> str | None:
    for one, other in MIRROR.items():
        if name == one or name.startswith(one + "_"):
            return other + name.removeprefix(one)
    return None


@condition("Laws", "symmetric", applies=lambda case: case.kind in ("discrepancy", "pair"))
def check_symmetric(case: Case) -> None:
    """Source and target (anchor and positive) may change places."""
    problem = case.draw(dtype=DOUBLE)
    swapped = {mirrored(name) or name: value for name, value in problem.values.items()}
    assert swapped.keys() == problem.values.keys(), "the two sides do not take the same arguments"
    assert_same_on(case, Problem(swapped), problem)


@condition("Laws", "order of rows")
def check_order(case: Case) -> None:
    """The order of rows does not matter; rows that belong together move together."""
    problem = case.draw(dtype=DOUBLE)
    generator = torch.Generator().manual_seed(5)
    for axis in case.row_axes:
        order = torch.randperm(case.length(problem, axis), generator=generator)
        moved = case.select(problem, axis, order)
        if is_loss(case):
            assert_same_on(case, moved, problem)
            continue
        for one, other in zip(outputs(case.call(moved)), outputs(case.call(problem))):
            assert_close(one, other.index_select(0, order))


@condition("Laws", "translation", applies=has_features)
def check_translation(case: Case) -> None:
    """A common shift of source and target features changes nothing."""
    problem = case.draw(dtype=DOUBLE)
    shift = torch.linspace(
        -2, 5, case.draw().values["source"].shape[-1] if isinstance(problem.values["source"], Tensor) else 3
    )
    moved = problem.map(
        lambda name, leaf: leaf + shift if name in case.differentiable and "d" in case.roles[name].axes else leaf
    )
    assert_same_on(case, moved, problem)


@condition("Laws", "scale", applies=lambda case: case.kind == "pair" or case.module in SCALE_FREE)
def check_scale(case: Case) -> None:
    """A common positive factor on all features changes nothing."""
    problem = case.draw(dtype=DOUBLE)
    scaled = problem.map(
        lambda name, leaf: 3.7 * leaf if name in case.differentiable and "d" in case.roles[name].axes else leaf
    )
    assert_close(case.value(scaled), case.value(problem), rtol=1e-8)


# Errors.


HOUSE = re.compile(r"^\w+: `[\w.\[\]]+` must .+, got .+$", re.DOTALL)


def assert_refused(case: Case, call: Callable[[], Any], what: str) -> None:
    """ValueError or TypeError in the house format, raised by this loss or layer."""
    try:
        call()
    except (ValueError, TypeError) as error:
        text = str(error)
        assert HOUSE.match(text), f"{what}: {text!r} is not in the form: caller: `argument` must rule, got value"
        callers = {type(part).__name__ for part in case.make().modules()} | {case.module}
        callers |= {case.function.__name__} if case.function is not None else set()
        assert text.split(":")[0] in callers, f"{what}: {text!r} names another caller"
        return
    raise AssertionError(f"{what} is taken without a word")


@condition("Errors", "wrong tensors")
def check_error_tensors(case: Case) -> None:
    """Wrong rank, width or dtype, wrong masks and weights: one line that names caller, argument, rule, what came."""
    problem = case.draw()
    for name in case.differentiable:
        role = case.roles[name]

        def broken(change: Callable[[Tensor], Tensor], name: str = name) -> Callable[[], Any]:
            return lambda: case.call(problem.map(lambda own, leaf: change(leaf) if own == name else leaf), case.make())

        if not role.rank_free:
            assert_refused(case, broken(lambda leaf: leaf.unsqueeze(0)), f"`{name}` with one axis too many")
            assert_refused(case, broken(lambda leaf: leaf[0]), f"`{name}` with one axis too few")
            assert_refused(case, broken(lambda leaf: leaf[:0]), f"an empty `{name}`")
        assert_refused(case, broken(lambda leaf: leaf.to(torch.int64)), f"an integer `{name}`")
        listed = functools.partial(case.call, problem.with_values(**{name: [1.0, 2.0]}), case.make())
        assert_refused(case, listed, f"`{name}` as a list")
        shared = [n for n in case.differentiable if n != name and case.roles[n].axes[-1] == role.axes[-1]]
        if shared:
            assert_refused(case, broken(lambda leaf: leaf[..., :-1]), f"a narrower `{name}`")
    for name in (*case.names("mask"), *case.names("weight")):
        right = torch.ones([case.length(problem, axis) for axis in case.roles[name].axes], dtype=torch.bool)
        wrong, right = (right.float(), right) if case.roles[name].use == "mask" else (right, right.float())
        for what, value in ((f"a {wrong.dtype} `{name}`", wrong), (f"a short `{name}`", right[:-1])):
            assert_refused(case, functools.partial(case.call, problem.with_values(**{name: value})), what)


@condition("Errors", "no dense tensor")
def check_error_layouts(case: Case) -> None:
    """Sparse, nested, quantised and foreign layouts, and a tensor on another device, are refused in one line."""
    problem = case.draw()
    quantised = functools.partial(torch.quantize_per_tensor, scale=0.1, zero_point=0, dtype=torch.qint8)
    for name in case.differentiable:
        others: dict[str, Callable[[Tensor], Tensor]] = {
            "sparse": lambda leaf: leaf.to_sparse(),
            "compressed": lambda leaf: leaf.flatten(1).to_sparse_csr() if leaf.ndim > 1 else leaf.to_sparse(),
            "nested": lambda leaf: torch.nested.nested_tensor([leaf[0], leaf[0]]),
            "quantised": lambda leaf: quantised(leaf),
            "mkldnn": lambda leaf: leaf.to_mkldnn() if torch.backends.mkldnn.is_available() else leaf.to_sparse(),
            "complex": lambda leaf: leaf.to(torch.complex64),
        }
        if len(case.differentiable) > 1:
            others["meta"] = lambda leaf: leaf.to("meta")
        for what, change in others.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's word on what is in beta
                odd = problem.map(lambda own, leaf, c=change, n=name: c(leaf) if own == n else leaf)
            assert_refused(case, functools.partial(case.call, odd, case.make()), f"a {what} `{name}`")


def constructor(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The arguments of the module's own constructor."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in inspect.signature(type(module)).parameters.items() if p.kind not in variadic}


def constructor_numbers(case: Case) -> list[str]:
    hints = constructor(case.make())
    return [
        name
        for name, parameter in hints.items()
        if isinstance(parameter.default, (int, float, str)) and not isinstance(parameter.default, bool)
    ]


@condition("Errors", "wrong settings", applies=lambda case: bool(constructor_numbers(case)))
def check_error_settings(case: Case) -> None:
    """A setting that is no finite number, or no known choice, is refused when the module is made."""
    module = case.make()
    own = constructor(module)
    given = {name: getattr(module, name) for name in own if hasattr(module, name)}
    for name in constructor_numbers(case):
        wrong = "nonsense" if isinstance(own[name].default, str) else math.nan
        assert_refused(case, functools.partial(type(module), **{**given, name: wrong}), f"{name}={wrong!r}")
