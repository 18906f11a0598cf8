"""Batch spectral penalty against LAPACK, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses import batch_spectral_penalty_loss
from tests.reference import spectral_penalty as reference

RNG = np.random.default_rng(41)


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("width", [3, 8])
def test_equals_the_singular_values(count: int, width: int) -> None:
    x, y = RNG.standard_normal((5, width)), RNG.standard_normal((7, width)) + 0.5
    value = batch_spectral_penalty_loss(torch.from_numpy(x), torch.from_numpy(y), singular_values=count)
    assert value.item() == pytest.approx(reference.spectral_penalty(x, y, count), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_derivatives_of_rows_and_weights(count: int, shape: tuple[int, int]) -> None:
    x, y = (torch.from_numpy(RNG.standard_normal(shape)).requires_grad_() for _ in range(2))
    weight = torch.rand(shape[0], dtype=torch.float64) + 0.5

    def value(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return batch_spectral_penalty_loss(x, y, singular_values=count, source_weight=weight)

    assert torch.autograd.gradcheck(value, (x, y, weight.requires_grad_()))
    assert torch.autograd.gradgradcheck(value, (x, y, weight))


def test_repeated_singular_values_have_finite_slopes() -> None:
    for rows in (torch.eye(4), torch.zeros(3, 5), torch.ones(4, 2)):
        x = rows.clone().requires_grad_()
        (first,) = torch.autograd.grad(batch_spectral_penalty_loss(x, rows), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()
