"""Unbiased estimators whose masks or weights leave no pair return a differentiable zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmda.kernels import Gaussian
from mmda.losses import (
    MMDLoss,
    energy_distance_loss,
    joint_mmd_loss,
    mmd_loss,
    multi_domain_loss,
    random_feature_mmd_loss,
)
from tests.losses._samples import unequal_sample

FIXED = Gaussian(1.5)
UNBIASED: dict[str, Callable[..., Tensor]] = {
    "mmd": lambda x, y, **given: mmd_loss(x, y, kernel=FIXED, estimator="unbiased", **given),
    "joint": lambda x, y, **given: joint_mmd_loss((x, x), (y, y), kernel=FIXED, estimator="unbiased", **given),
    "random features": lambda x, y, **given: random_feature_mmd_loss(x, y, kernel=FIXED, **given),
    "energy": lambda x, y, **given: energy_distance_loss(x, y, estimator="unbiased", **given),
    "energy 1.5": lambda x, y, **given: energy_distance_loss(x, y, estimator="unbiased", exponent=1.5, **given),
}


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("how", ["mask", "weight", "half"])
def test_a_side_with_at_most_one_row_gives_zero(name: str, side: str, how: str) -> None:
    x, y = (rows.requires_grad_() for rows in unequal_sample())
    one = torch.arange(len(x if side == "source" else y)) == 2
    given = one if how == "mask" else one.double() * (1.0 if how == "weight" else 0.5)
    value = UNBIASED[name](x, y, **{f"{side}_{'mask' if how == 'mask' else 'weight'}": given})
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", UNBIASED)
def test_two_rows_left_are_two_rows(name: str) -> None:
    x, y = unequal_sample()
    value = UNBIASED[name](x, y, source_mask=torch.arange(len(x)) < 2)
    assert value.item() == pytest.approx(UNBIASED[name](x[:2], y).item(), rel=1e-9)
    assert value.item() != 0


def test_a_domain_of_one_row_adds_nothing() -> None:
    """Domains of 5, 9 and 1 rows: of three comparisons one has pairs on both sides."""
    x, y = unequal_sample(n=5, m=9)
    loss = MMDLoss(kernel=FIXED, estimator="unbiased")
    index = torch.tensor([0] * 5 + [1] * 9 + [2])
    rows = torch.cat([x, y, y[:1] + 3])
    value = multi_domain_loss(rows, index, discrepancy=loss, domains=3)
    assert value.item() == pytest.approx(loss(x, y).item() / 3, rel=1e-9)
