"""Masks and weights: padding is ignored, and a weight of k equals k copies of a row."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.contract.cases import Case, Problem
from tests.contract.conditions._shared import (
    DOUBLE,
    assert_close,
    assert_same_gradients,
    assert_same_on,
    condition,
    folds,
    is_loss,
    masked_axes,
    outputs,
    padded,
    require,
    takes_masks,
    takes_weights,
    weighted_axes,
)

#: Heading of this family's column in the overview.
HEAD = "mask"


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
    """The masked loss on padded input equals the loss on unpadded input, gradients too."""
    _check_padding(case, (0.5,))


@condition("Masks and weights", "pads of NaN, inf", applies=takes_masks)
def check_inert_padding(case: Case) -> None:
    """Values in padding, including NaN and infinities, have no effect; the gradient of padding is exactly zero."""
    _check_padding(case, (math.nan, math.inf, -math.inf, 1e300))


def _assert_front(case: Case, longer: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    """Assert equal leading entries, and exact zeros in the padding."""
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
    """Rows of shape (batch, time, features) with a mask give the value of the kept rows."""
    problem = case.draw(dtype=DOUBLE)
    value = case.value(problem)
    for axes in (["n"], ["m"], ["n", "m"]):
        folded = problem
        for axis in axes:
            folded = _fold(case, folded, axis)
        assert_close(case.value(folded), value)


def _fold(case: Case, problem: Problem, axis: str) -> Problem:
    """Split rows 0 .. n - 1 into two sequences of different length, padded with NaN."""
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
    """If a mask keeps no rows (for a discrepancy, of one sample), the loss is a differentiable zero with zero
    gradients."""
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
        if case.twins_are_duplicates:
            repeated = repeated.with_values(negative_mask=index.unsqueeze(0) != index.unsqueeze(1))
        assert_same_on(case, weighted, repeated)


@condition("Masks and weights", "weight 1", applies=takes_weights)
def check_weight_one(case: Case) -> None:
    """Weights of one do not change the value."""
    _check_counts(case, lambda rows: [1] * rows)


@condition("Masks and weights", "weight 2", applies=takes_weights)
def check_weight_two(case: Case) -> None:
    """A weight of 2 equals repeating the row."""
    _check_counts(case, lambda rows: [2, 1, 2] + [1] * (rows - 3))


@condition("Masks and weights", "weight 0", applies=takes_weights)
def check_weight_zero(case: Case) -> None:
    """A weight of 0 equals removing the row."""
    _check_counts(case, lambda rows: [1, 0] + [1] * (rows - 2))


@condition("Masks and weights", "weight 0, NaN", applies=takes_weights)
def check_weight_zero_nan(case: Case) -> None:
    """A row of weight 0 may contain NaN: it has no effect, and its gradient is exactly zero."""
    problem = case.draw(dtype=DOUBLE)
    for axis in require(weighted_axes(case), case, "weight"):
        name = case.weight_of(axis)
        assert name is not None
        weight = torch.ones(case.length(problem, axis), dtype=DOUBLE)
        weight[1] = 0
        weighted = problem.with_values(**{name: weight})

        def spoil(own: str, leaf: Tensor, axis: str = axis, name: str = name) -> Tensor:
            role = case.roles[own]
            if own == name or not leaf.is_floating_point() or axis not in role.axes or not role.pads:
                return leaf
            return leaf.index_fill(role.axes.index(axis), torch.tensor([1]), math.nan)

        value, gradients = case.value_and_gradients(weighted.map(spoil))
        expected, wanted = case.value_and_gradients(weighted)
        assert_close(value, expected)
        assert_same_gradients(gradients, wanted)
        for own, leaves in gradients.items():
            if axis in case.roles[own].axes:
                where = case.roles[own].axes.index(axis)
                assert all(bool(leaf.select(where, 1).eq(0).all()) for leaf in leaves), f"gradient on row of `{own}`"
