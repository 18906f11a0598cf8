"""Barlow Twins, VICReg, and alignment and uniformity against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses import alignment_uniformity_loss, cross_correlation_loss, variance_covariance_loss
from tests.reference import redundancy as reference

RNG = np.random.default_rng(42)
A, P = RNG.standard_normal((2, 9, 4))


@pytest.mark.parametrize(("redundancy", "eps"), [(5e-3, 1e-5), (0.7, 0.1)])
def test_cross_correlation_equals_the_paper(redundancy: float, eps: float) -> None:
    value = cross_correlation_loss(torch.from_numpy(A), torch.from_numpy(P), redundancy=redundancy, eps=eps)
    assert value.item() == pytest.approx(reference.cross_correlation(A, P, redundancy, eps), rel=1e-12)


@pytest.mark.parametrize(
    "settings", [(25.0, 25.0, 1.0, 1.0, 1e-4), (1.0, 2.0, 3.0, 1.5, 0.1), (0.0, 0.0, 1.0, 1.0, 1e-4)]
)
def test_variance_covariance_equals_the_paper(settings: tuple[float, ...]) -> None:
    names = ("invariance", "variance", "covariance", "margin", "eps")
    value = variance_covariance_loss(torch.from_numpy(A), torch.from_numpy(P), **dict(zip(names, settings)))
    assert value.item() == pytest.approx(reference.variance_covariance(A, P, *settings), rel=1e-12)


@pytest.mark.parametrize("loss", [cross_correlation_loss, variance_covariance_loss])
def test_a_common_offset_costs_no_digits(loss: object) -> None:
    a, p = torch.from_numpy(A), torch.from_numpy(P)
    exact = loss(a + 1e4, p + 1e4)
    assert loss((a + 1e4).float(), (p + 1e4).float()).item() == pytest.approx(exact.item(), rel=2e-3)


def test_one_pair_and_constant_rows_are_finite() -> None:
    one = torch.ones(1, 3, requires_grad=True)
    for loss in (cross_correlation_loss, variance_covariance_loss):
        for rows in (one, one.expand(4, 3)):
            value = loss(rows, rows)
            (slope,) = torch.autograd.grad(value, one)
            assert torch.isfinite(value)
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize(("uniformity", "sharpness"), [(1.0, 2.0), (0.3, 0.5)])
def test_alignment_uniformity_equals_the_paper(uniformity: float, sharpness: float) -> None:
    value = alignment_uniformity_loss(
        torch.from_numpy(A), torch.from_numpy(P), uniformity=uniformity, sharpness=sharpness
    )
    assert value.item() == pytest.approx(reference.alignment_uniformity(A, P, uniformity, sharpness), rel=1e-12)
