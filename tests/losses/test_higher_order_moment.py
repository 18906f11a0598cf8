"""Higher-order moment matching against the moment tensors written out, and far from the origin."""

from __future__ import annotations

import pytest
import torch

from mmda.losses import HigherOrderMomentLoss, higher_order_moment_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference.higher_order_moment import higher_order_moment, sampled


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_equals_the_moment_tensors(order: int, offset: float) -> None:
    x, y = (rows + offset for rows in unequal_sample())
    value = higher_order_moment_loss(x, y, order=order)
    assert value.item() == pytest.approx(higher_order_moment(x.numpy(), y.numpy(), order), rel=1e-10)


def test_order_one_is_the_gap_of_the_means() -> None:
    x, y = reference_sample()
    torch.testing.assert_close(higher_order_moment_loss(x, y, order=1), (x.mean(0) - y.mean(0)).square().mean())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("samples", [None, 400])
def test_float32_far_from_the_origin(order: int, offset: float, samples: int | None) -> None:
    x, y = ((rows + offset).float() for rows in reference_sample())
    value = higher_order_moment_loss(x, y, order=order, samples=samples)
    exact = higher_order_moment_loss(x.double(), y.double(), order=order, samples=samples)
    if samples is None and order < 4:  # the reference is accurate enough only for few and low powers
        assert exact.item() == pytest.approx(
            higher_order_moment(x.double().numpy(), y.double().numpy(), order), rel=1e-4
        )
    assert value.item() == pytest.approx(exact.item(), rel=1e-3)


def test_given_entries_are_the_ones_compared() -> None:
    x, y = unequal_sample()
    indices = torch.tensor([[0, 0, 2], [1, 2, 0], [2, 2, 2], [1, 1, 1]])
    value = higher_order_moment_loss(x, y, indices=indices)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        for rows in (indices, indices[:3]):  # as many entries as features: a uint8 index would be read as a mask
            narrow = higher_order_moment_loss(x, y, indices=rows.to(dtype))
            torch.testing.assert_close(narrow, higher_order_moment_loss(x, y, indices=rows))
    assert value.item() == pytest.approx(sampled(x.numpy(), y.numpy(), indices.numpy()), rel=1e-12)


def test_all_entries_once_are_the_exact_loss() -> None:
    x, y = unequal_sample()
    indices = torch.cartesian_prod(*[torch.arange(3)] * 3)
    torch.testing.assert_close(higher_order_moment_loss(x, y, indices=indices), higher_order_moment_loss(x, y))


def test_many_samples_come_near_the_exact_loss() -> None:
    x, y = reference_sample()
    exact = higher_order_moment_loss(x, y).item()
    assert higher_order_moment_loss(x, y, samples=20_000).item() == pytest.approx(exact, rel=0.05)
    assert higher_order_moment_loss(x, y, samples=50) == higher_order_moment_loss(x, y, samples=50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 0}, "`order` must be an integer >= 1, got 0"),
        ({"samples": 0}, "`samples` must be an integer >= 1, got 0"),
        ({"indices": torch.zeros(4, 2, dtype=torch.long)}, r"`indices` must have shape \(samples, 3\), got \(4, 2\)"),
        ({"indices": torch.zeros(4, 3)}, "`indices` must hold integers, got torch.float32"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    x, y = unequal_sample()
    with pytest.raises((ValueError, TypeError), match="higher_order_moment_loss: " + message):
        higher_order_moment_loss(x, y, **change)  # type: ignore[arg-type]


def test_module_is_the_function() -> None:
    x, y = unequal_sample()
    assert HigherOrderMomentLoss(order=4)(x, y) == higher_order_moment_loss(x, y, order=4)


@pytest.mark.parametrize("samples", [None, 40])
@pytest.mark.parametrize(("order", "scale"), [(3, 1e4), (4, 1e4), (4, 1e-4), (3, 1e5)])
def test_moments_that_float32_can_hold_are_right_at_any_scale(order: int, scale: float, samples: int | None) -> None:
    x, y = (rows.float() * scale for rows in unequal_sample())
    value = higher_order_moment_loss(x.requires_grad_(), y, order=order, samples=samples)
    wide = x.detach().double().requires_grad_()
    exact = higher_order_moment_loss(wide, y.double(), order=order, samples=samples)
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    (gradient,), (slope,) = torch.autograd.grad(value, x), torch.autograd.grad(exact, wide)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-3, atol=1e-4 * slope.abs().max().item())
