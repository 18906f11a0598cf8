"""Batch nuclear norm: LAPACK's singular values, and derivatives where other forms divide by zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda._math.spectral import smooth_nuclear_norm
from mmda.losses.nuclear_norm import batch_nuclear_norm_loss
from mmda.validators import nuclear_norm_score
from tests.reference import predictions

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (1, 3)])
def test_equals_the_sum_of_singular_values(shape: tuple[int, int]) -> None:
    logits = 2 * RNG.standard_normal(shape)
    value = batch_nuclear_norm_loss(torch.from_numpy(logits))
    assert value.item() == pytest.approx(-predictions.nuclear_norm(logits), rel=1e-8)


@pytest.mark.parametrize("smoothing", [1e-1, 1e-3])
def test_the_smoothed_formula_is_what_the_docstring_says(smoothing: float) -> None:
    rows = RNG.standard_normal((6, 4))
    sigma = np.linalg.svd(rows, compute_uv=False)
    expected = (sigma**2 / np.sqrt(sigma**2 + smoothing**2)).sum()
    assert smooth_nuclear_norm(torch.from_numpy(rows), smoothing).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_gradient_is_the_polar_factor(shape: tuple[int, int]) -> None:
    # d||A||_* = <U V^T, dA> at full rank.
    rows = RNG.standard_normal(shape)
    u, _, vh = np.linalg.svd(rows, full_matrices=False)
    x = torch.from_numpy(rows).requires_grad_()
    (gradient,) = torch.autograd.grad(smooth_nuclear_norm(x, 1e-6), x)
    np.testing.assert_allclose(gradient.numpy(), u @ vh, atol=1e-10)


def _awkward(name: str) -> torch.Tensor:
    eye = torch.eye(4, dtype=torch.float64)
    return {
        "repeated": 3 * eye,  # four equal singular values
        "repeated pairs": torch.cat([eye[:2] * 2, eye[:2] * 2, eye[2:3]]),
        "rank deficient": torch.cat([eye[:2], eye[:2]]) @ torch.ones(4, 3, dtype=torch.float64),
        "wide and deficient": torch.ones(2, 5, dtype=torch.float64),
        "zero": torch.zeros(3, 2, dtype=torch.float64),
    }[name]


@pytest.mark.parametrize("name", ["repeated", "repeated pairs", "rank deficient", "wide and deficient", "zero"])
def test_derivatives_where_singular_values_repeat_or_vanish(name: str) -> None:
    x = _awkward(name).requires_grad_()

    def value(rows: torch.Tensor) -> torch.Tensor:
        return smooth_nuclear_norm(rows, 0.3)

    assert torch.autograd.gradcheck(value, x)
    assert torch.autograd.gradgradcheck(value, x)


def test_third_derivatives_are_right_too() -> None:
    x = torch.from_numpy(RNG.standard_normal((3, 2)))
    x[2] = x[0]

    def slope_along(rows: torch.Tensor) -> torch.Tensor:
        direction = torch.arange(6, dtype=torch.float64).reshape(3, 2) / 6
        (first,) = torch.autograd.grad(smooth_nuclear_norm(rows, 0.5), rows, create_graph=True)
        return (first * direction).sum()

    assert torch.autograd.gradgradcheck(slope_along, x.requires_grad_())


def test_the_loss_on_repeated_rows_and_repeated_singular_values_has_finite_slopes() -> None:
    for logits in (torch.zeros(6, 3), 50 * torch.eye(4), torch.ones(2, 5).cumsum(1)):
        x = logits.requires_grad_()
        (first,) = torch.autograd.grad(batch_nuclear_norm_loss(x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()


def test_small_singular_values_survive_float32() -> None:
    # sigma = 1 and 1e-4: squaring in float32 would lose the second below 3e-4.
    u, _ = np.linalg.qr(RNG.standard_normal((8, 8)))
    v, _ = np.linalg.qr(RNG.standard_normal((3, 3)))
    rows = (u[:, :3] * np.array([1.0, 1e-4, 5e-5])) @ v.T
    x = torch.from_numpy(rows).float().requires_grad_()
    value = smooth_nuclear_norm(x, 1e-6)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == pytest.approx(1.00015, abs=1e-6)
    np.testing.assert_allclose(gradient.numpy(), u[:, :3] @ v.T, atol=5e-3)


def test_zero_rows_add_nothing() -> None:
    rows = torch.from_numpy(RNG.standard_normal((3, 5)))
    padded = torch.cat([rows, torch.zeros(4, 5, dtype=torch.float64)])
    assert smooth_nuclear_norm(padded, 1e-2).item() == pytest.approx(smooth_nuclear_norm(rows, 1e-2).item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (9, 9)])
def test_float32_has_the_digits_of_float64(shape: tuple[int, int]) -> None:
    """Singular values from 1 to zero; values, gradients, and the value alone."""
    left, right = (torch.linalg.qr(torch.from_numpy(RNG.standard_normal((d, d))))[0] for d in shape)
    sigma = torch.tensor([1.0, 0.3, 1e-2, 1e-3, 1e-4, 0, 0], dtype=torch.float64)
    rows = (left[:, :7] * sigma @ right[:7]).float()
    found, wanted = rows.clone().requires_grad_(), rows.double().requires_grad_()
    value, reference = smooth_nuclear_norm(found, 1e-3), smooth_nuclear_norm(wanted, 1e-3)
    torch.testing.assert_close(value.double(), reference, rtol=1e-7, atol=0)
    torch.testing.assert_close(smooth_nuclear_norm(rows, 1e-3), value, rtol=1e-7, atol=0)
    slopes = (torch.autograd.grad(v, x)[0] for v, x in ((value, found), (reference, wanted)))
    torch.testing.assert_close(next(slopes).double(), next(slopes), rtol=0, atol=1e-6)


def test_smoothing_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"`smoothing` must be a finite number > 0, got 0"):
        batch_nuclear_norm_loss(torch.zeros(2, 2), smoothing=0)


def test_nan_logits_give_nan() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    logits[2, 1] = torch.nan
    assert batch_nuclear_norm_loss(logits).isnan()
    assert nuclear_norm_score(logits).isnan()
    mask = torch.arange(6) != 2
    assert nuclear_norm_score(logits, mask=mask).item() == pytest.approx(nuclear_norm_score(logits[mask]).item())
