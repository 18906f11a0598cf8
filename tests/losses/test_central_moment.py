"""Central moment discrepancy against sums over rows, closed forms and its invariances."""

from __future__ import annotations

import pytest
import torch

from mmda.losses import CentralMomentDiscrepancyLoss, central_moment_discrepancy_loss
from tests.losses._samples import unequal_sample
from tests.reference.central_moment import central_moment_discrepancy


@pytest.mark.parametrize("orders", [1, 2, 3, 5])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (-1.0, 1.0), (0, 10)])
def test_equals_the_sums_over_rows(orders: int, interval: tuple[float, float]) -> None:
    x, y = unequal_sample()
    expected = central_moment_discrepancy(x.numpy(), y.numpy(), orders, *interval)
    value = central_moment_discrepancy_loss(x, y, orders=orders, interval=interval)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_two_point_distributions_in_closed_form() -> None:
    # +-a has moments a^2, 0, a^4, 0: only even orders differ
    x, y = torch.tensor([[[0.5], [-0.5]], [[0.2], [-0.2]]], dtype=torch.float64)
    value = central_moment_discrepancy_loss(x, y, orders=5)
    assert value.item() == pytest.approx((0.25 - 0.04) + (0.5**4 - 0.2**4), rel=1e-12)


def test_scaling_features_and_interval_together_changes_nothing() -> None:
    x, y = unequal_sample()
    torch.testing.assert_close(
        central_moment_discrepancy_loss(x, y), central_moment_discrepancy_loss(7 * x, 7 * y, interval=(0, 7))
    )


def test_equal_moments_have_slope_zero_not_nan() -> None:
    x = unequal_sample()[0].requires_grad_()
    value = central_moment_discrepancy_loss(x, x.detach().flip(0))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert x.grad is not None
    assert torch.all(torch.isfinite(x.grad))
    single = central_moment_discrepancy_loss(torch.tensor([[0.25]]), torch.tensor([[0.75]]))
    assert single.item() == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": 0}, "`orders` must be an integer >= 1, got 0"),
        ({"orders": 2.0}, "`orders` must be an integer >= 1, got float"),
        ({"interval": (1.0, 1.0)}, r"`interval` must have low < high, got \(1.0, 1.0\)"),
        ({"interval": (0.0, float("inf"))}, "`interval` must be a finite number, got inf"),
        ({"interval": (0.0, 1.0, 2.0)}, r"`interval` must be two numbers \(low, high\)"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    x, y = unequal_sample()
    with pytest.raises((ValueError, TypeError), match="central_moment_discrepancy_loss: " + message):
        central_moment_discrepancy_loss(x, y, **change)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match="CentralMomentDiscrepancyLoss: " + message):
        CentralMomentDiscrepancyLoss(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [1.0, None, "01"])
def test_an_interval_is_two_numbers(interval: object) -> None:
    with pytest.raises(TypeError, match="CentralMomentDiscrepancyLoss: `interval` must be a sequence of numbers, got"):
        CentralMomentDiscrepancyLoss(interval=interval)


@pytest.mark.parametrize("scale", [1e-8, 1e4, 1e7])
def test_moments_that_float32_can_hold_are_right_at_any_scale(scale: float) -> None:
    x, y = (rows.float() * scale for rows in unequal_sample())
    value = central_moment_discrepancy_loss(x.requires_grad_(), y)
    wide = x.detach().double().requires_grad_()
    exact = central_moment_discrepancy_loss(wide, y.double())
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    if scale < 1e7:  # the powers of the scale overflow float32 in the backward pass
        (gradient,), (slope,) = torch.autograd.grad(value, x), torch.autograd.grad(exact, wide)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-5 * slope.abs().max().item())
