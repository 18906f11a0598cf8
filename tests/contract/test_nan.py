"""NaN in a row that counts gives NaN, in a row that counts nothing it does no harm: every exported loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmda.kernels import Energy, Gaussian, Laplacian, RationalQuadratic
from mmda.losses import (
    AdaptiveFeatureNormLoss,
    EnergyDistanceLoss,
    MMDLoss,
    SinkhornDivergenceLoss,
    TripletRankingLoss,
)
from tests.contract.cases import Case, Problem, discover

LOSSES = [case for case in discover()[0] if not case.is_layer]

#: Settings beside the grid's rows that take another path through roots, powers, maxima and selections.
SETTINGS: dict[str, Callable[[], nn.Module]] = {
    "AdaptiveFeatureNormLoss(hard)": lambda: AdaptiveFeatureNormLoss(variant="hard"),
    "EnergyDistanceLoss(exponent=1.5)": lambda: EnergyDistanceLoss(exponent=1.5),
    "MMDLoss(Energy)": lambda: MMDLoss(kernel=Energy()),
    "MMDLoss(Gaussian(1.0))": lambda: MMDLoss(kernel=Gaussian(1.0)),
    "MMDLoss(Gaussian('mean'))": lambda: MMDLoss(kernel=Gaussian("mean")),
    "MMDLoss(Laplacian(1.0))": lambda: MMDLoss(kernel=Laplacian(1.0)),
    "MMDLoss(RationalQuadratic(1.0))": lambda: MMDLoss(kernel=RationalQuadratic(1.0)),
    "SinkhornDivergenceLoss(cost='distance')": lambda: SinkhornDivergenceLoss(cost="distance"),
    "TripletRankingLoss(all)": lambda: TripletRankingLoss(negatives="all"),
    "TripletRankingLoss(semi_hard)": lambda: TripletRankingLoss(negatives="semi_hard"),
}


def cells() -> list[tuple[Case, str, Callable[[], nn.Module] | None]]:
    plain = [(case, name, None) for case in LOSSES for name in case.differentiable]
    others = [
        (case.replace(name=label), name, make)
        for label, make in SETTINGS.items()
        for case in LOSSES
        if case.name == label.split("(")[0]
        for name in case.differentiable
    ]
    return plain + others


def with_nan(problem: Problem, name: str, entry: int) -> Problem:
    def spoil(own: str, leaf: Tensor) -> Tensor:
        if own != name:
            return leaf
        leaf = leaf.clone()
        leaf.reshape(-1)[entry] = math.nan
        return leaf

    return problem.map(spoil)


@pytest.mark.parametrize(("case", "name", "make"), cells(), ids=lambda part: getattr(part, "name", None) or str(part))
@pytest.mark.parametrize("counted", [False, True], ids=["plain", "weighted"])
def test_nan_in_nan_out(case: Case, name: str, make: Callable[[], nn.Module] | None, counted: bool) -> None:
    """One NaN in one valid row, with and without masks and weights of one."""
    problem = case.draw()
    if counted:
        if case.bare:
            pytest.skip("takes no weight")
        given = {n: case.roles[n].axes for n in (*case.names("weight"), *case.names("mask"))}
        for argument, axes in given.items():
            ones = torch.ones([case.length(problem, axis) for axis in axes])
            problem = problem.with_values(**{argument: ones.bool() if argument in case.names("mask") else ones})
    value = case.value(with_nan(problem, name, 1), None if make is None else make())
    assert value.isnan(), f"NaN in `{name}` gives {value.item()}"


def weighted_cells() -> list[tuple[Case, str]]:
    return [
        (case, axis) for case in LOSSES if not case.bare for axis in case.row_axes if case.weight_of(axis) is not None
    ]


@pytest.mark.parametrize(("case", "axis"), weighted_cells(), ids=lambda part: getattr(part, "name", str(part)))
def test_a_row_of_weight_zero_may_hold_anything(case: Case, axis: str) -> None:
    """Value and gradients are those of the same problem with an ordinary row there, and zero on the row itself."""
    problem = case.draw(dtype=torch.float64)
    name = case.weight_of(axis)
    assert name is not None
    weight = torch.ones(case.length(problem, axis), dtype=torch.float64)
    weight[1] = 0
    problem = problem.with_values(**{name: weight})

    def spoil(own: str, leaf: Tensor) -> Tensor:
        role = case.roles[own]
        if own == name or not leaf.is_floating_point() or axis not in role.axes or not role.pads:
            return leaf
        return leaf.index_fill(role.axes.index(axis), torch.tensor([1]), math.nan)

    expected, wanted = case.value_and_gradients(problem)
    value, gradients = case.value_and_gradients(problem.map(spoil))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    for own, leaves in gradients.items():
        torch.testing.assert_close(leaves, wanted[own], rtol=1e-8, atol=1e-12)
        if axis in case.roles[own].axes:
            where = case.roles[own].axes.index(axis)
            assert all(leaf.select(where, 1).eq(0).all() for leaf in pytree.tree_leaves(leaves))


def test_a_weight_of_zero_that_carries_a_gradient_asks_what_the_row_holds() -> None:
    """The slope on a weight at 0 is the limit of the slope on a small weight."""
    rows = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slope(at: float) -> float:
        weight = torch.ones(5, dtype=torch.float64)
        weight[2] = at
        weight.requires_grad_()
        loss = MMDLoss(kernel=Gaussian(1.0))(rows[:5], rows[5:], source_weight=weight)
        return torch.autograd.grad(loss, weight)[0][2].item()

    assert slope(0.0) == pytest.approx(slope(1e-7), rel=1e-5)
