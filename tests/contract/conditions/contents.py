"""Sizes and contents: number of rows, values, and memory layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.contract.cases import Case, Problem
from tests.contract.conditions._shared import DOUBLE, all_counted, assert_close, assert_defined, condition, is_loss

#: Heading of this family's column in the overview.
HEAD = "size"


@condition("Sizes and contents", "unequal batches", applies=lambda case: {"n", "m"} <= case.axes)
def check_unequal_batches(case: Case) -> None:
    """Source and target may have different numbers of rows, in either order; value and gradients are finite."""
    assert_defined(case, case.draw(n=4, m=9))
    assert_defined(case, case.draw(n=9, m=4))


@condition("Sizes and contents", "n = 1")
def check_one_row(case: Case) -> None:
    """One row per sample gives a finite value and finite gradients."""
    assert_defined(case, case.draw(**dict.fromkeys(case.row_axes, 1)))


@condition("Sizes and contents", "n = 2")
def check_two_rows(case: Case) -> None:
    """Two rows per sample give a finite value and finite gradients."""
    assert_defined(case, case.draw(**dict.fromkeys(case.row_axes, 2)))


@condition("Sizes and contents", "duplicates")
def check_duplicates(case: Case) -> None:
    """Repeated rows, including all rows of a sample, give a finite value and finite gradients."""
    problem = case.draw()
    for axis in case.row_axes:
        index = torch.arange(case.length(problem, axis)) // 2
        assert_defined(case, case.select(problem, axis, index))
        assert_defined(case, case.select(problem, axis, torch.zeros_like(index)))


@condition("Sizes and contents", "constant features")
def check_constant(case: Case) -> None:
    """Constant features, including all zeros, give a finite value and finite gradients."""
    for number in (0.0, 3.0):
        problem = case.draw().map(
            lambda name, leaf, number=number: torch.full_like(leaf, number) if name in case.differentiable else leaf
        )
        assert_defined(case, problem)


@condition("Sizes and contents", "NaN in, NaN out", applies=is_loss)
def check_nan(case: Case) -> None:
    """A NaN in any row that is not masked makes the value NaN, also with masks and weights of one."""
    plain = case.draw()
    for problem in [plain] if case.bare else [plain, all_counted(case, plain)]:
        for name in case.differentiable:
            value = case.value(problem.map(lambda own, leaf, n=name: _with_nan(leaf) if own == n else leaf))
            assert bool(value.isnan()), f"NaN in `{name}` gives {value.item()}"


def _with_nan(leaf: Tensor) -> Tensor:
    leaf = leaf.clone()
    leaf.reshape(-1)[1] = math.nan
    return leaf


@condition("Sizes and contents", "one feature", applies=lambda case: "d" in case.axes)
def check_one_feature(case: Case) -> None:
    """Rows with a single feature are valid."""
    assert_defined(case, case.draw(d=1))


@condition("Sizes and contents", "strided input")
def check_strided(case: Case) -> None:
    """Transposed and sliced inputs give the value and gradients of a contiguous copy."""
    problem = case.draw(dtype=DOUBLE)

    def spread(name: str, leaf: Tensor) -> Tensor:
        wide = torch.stack([leaf, torch.full_like(leaf, 0)], -1)  # every second element belongs to the tensor
        return wide.transpose(0, -2).contiguous().transpose(0, -2)[..., 0]

    strided = problem.map(spread)
    assert any(not leaf.is_contiguous() for leaf in pytree.tree_leaves(strided.values))
    _assert_views_agree(case, problem, strided)


@condition("Sizes and contents", "expanded input")
def check_expanded(case: Case) -> None:
    """Rows made by ``expand`` (stride zero) give the value and gradients of a copy."""
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
    """A lazily negated view (``torch._neg_view``) gives the value of a copy."""
    problem = case.draw()
    for name in case.differentiable:
        shown = problem.map(lambda own, leaf, n=name: -leaf if own == n else leaf)
        view = problem.map(lambda own, leaf, n=name: torch._neg_view(leaf) if own == n else leaf)
        assert_close(case.value(view), case.value(shown))


def has_integers(case: Case) -> bool:
    return any(leaf.dtype == torch.int64 for leaf in pytree.tree_leaves(case.draw().values))


@condition("Sizes and contents", "integer types", applies=has_integers)
def check_integer_types(case: Case) -> None:
    """Labels and indices of any integer dtype give the value of int64."""
    for problem in (case.draw(dtype=DOUBLE), case.draw(dtype=DOUBLE, **dict.fromkeys(case.row_axes, 3))):
        expected = case.value(problem)
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            narrow = problem.map(lambda name, leaf, dtype=dtype: leaf.to(dtype) if leaf.dtype == torch.int64 else leaf)
            assert_close(case.value(narrow), expected, what=f"value for {dtype}")
