"""NaN in a row with weight gives NaN, at settings without a row in the grid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mmda.kernels import Energy, Gaussian, Laplacian, RationalQuadratic
from mmda.losses import AdaptiveFeatureNormLoss, EnergyDistanceLoss, MMDLoss, SinkhornDivergenceLoss, TripletRankingLoss
from tests.contract.cases import discover
from tests.contract.conditions.contents import check_nan

CASES = {case.name: case for case in discover()[0]}

#: Settings beyond the grid's rows that use other code paths with roots, powers, maxima and selections.
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


@pytest.mark.parametrize("label", SETTINGS)
def test_nan_in_nan_out(label: str) -> None:
    check_nan(CASES[label.split("(")[0]].replace(name=label, build=lambda d: SETTINGS[label]()))


def test_a_weight_of_zero_that_carries_a_gradient_asks_what_the_row_holds() -> None:
    """The gradient of a weight at 0 is the limit of its gradient at a small weight."""
    rows = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slope(at: float) -> float:
        weight = torch.ones(5, dtype=torch.float64)
        weight[2] = at
        weight.requires_grad_()
        loss = MMDLoss(kernel=Gaussian(1.0))(rows[:5], rows[5:], source_weight=weight)
        return torch.autograd.grad(loss, weight)[0][2].item()

    assert slope(0.0) == pytest.approx(slope(1e-7), rel=1e-5)
