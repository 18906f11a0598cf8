"""Energy distance against loops over pairs, the documented value, a one-dimensional identity and public code."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from mmda.kernels import Energy
from mmda.losses import EnergyDistanceLoss, energy_distance_loss, mmd_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference.energy import energy_distance


def test_documented_value() -> None:
    assert energy_distance_loss(*reference_sample()).item() == pytest.approx(0.4932777046, abs=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_equals_the_loop_over_pairs(exponent: float, unbiased: bool) -> None:
    x, y = unequal_sample()
    expected = energy_distance(x.numpy(), y.numpy(), exponent, unbiased=unbiased)
    value = energy_distance_loss(x, y, exponent=exponent, estimator="unbiased" if unbiased else "biased")
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_in_one_dimension_it_is_the_area_between_squared_distribution_functions() -> None:
    x, y = unequal_sample(d=1)
    # Székely & Rizzo (2013), section 2: 2 E|X - Y| - E|X - X'| - E|Y - Y'| = 2 int (F - G)^2; scipy returns its root
    expected = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2 / 2
    assert energy_distance_loss(x, y).item() == pytest.approx(expected, rel=1e-10)


def test_is_half_the_squared_mmd_with_the_energy_kernel() -> None:
    x, y = reference_sample()
    torch.testing.assert_close(energy_distance_loss(x, y), mmd_loss(x, y, kernel=Energy()) / 2)


def test_near_exponent_two_only_the_means_are_left() -> None:
    x, y = unequal_sample()
    limit = (x.mean(0) - y.mean(0)).square().sum()
    assert energy_distance_loss(x, y, exponent=2 - 1e-9).item() == pytest.approx(limit.item(), rel=1e-6)


def test_equals_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = unequal_sample()
    # SamplesLoss("energy") is the half form: the constant between the two is 1; it floors small distances
    value = geomloss.SamplesLoss("energy", backend="tensorized")(x, y)
    assert energy_distance_loss(x, y).item() == pytest.approx(value.item(), rel=1e-3)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_duplicates_have_a_finite_gradient(exponent: float) -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    energy_distance_loss(x, x.detach().clone(), exponent=exponent).backward()
    assert x.grad is not None
    assert torch.all(torch.isfinite(x.grad))


@pytest.mark.parametrize("exponent", [0.0, 2.0, -1.0, float("nan")])
def test_exponent_outside_zero_to_two(exponent: float) -> None:
    x, y = unequal_sample()
    with pytest.raises(ValueError, match="energy_distance_loss: `exponent` must be a finite number > 0 and < 2, got"):
        energy_distance_loss(x, y, exponent=exponent)
    with pytest.raises(ValueError, match="EnergyDistanceLoss: `exponent`"):
        EnergyDistanceLoss(exponent=exponent)


def test_unbiased_needs_two_rows() -> None:
    with pytest.raises(ValueError, match=r"`target` must have at least 2 samples .*, got \(1, 2\)"):
        energy_distance_loss(torch.zeros(3, 2), torch.zeros(1, 2), estimator="unbiased")


def test_module_is_the_function() -> None:
    x, y = unequal_sample()
    assert EnergyDistanceLoss(exponent=0.5)(x, y) == energy_distance_loss(x, y, exponent=0.5)
