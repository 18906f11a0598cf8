"""Sliced Wasserstein against repeated and sorted samples, scipy, POT and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from mmda._core.draws import fixed_normal
from mmda.losses import SlicedWassersteinLoss, sliced_wasserstein_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference.sliced_wasserstein import sliced_wasserstein


def _directions(count: int = 7, d: int = 3) -> Tensor:
    directions = np.random.default_rng(5).normal(size=(count, d))
    return torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(9, 6), (6, 9), (5, 5), (1, 4), (7, 5), (1, 1)])
@pytest.mark.parametrize("with_weights", [False, True])
def test_equals_repeating_and_sorting(order: int, n: int, m: int, with_weights: bool) -> None:
    x, y = unequal_sample(n, m)
    weights = {"source_weight": torch.ones(n), "target_weight": torch.ones(m)} if with_weights else {}
    value = sliced_wasserstein_loss(x, y, order=order, projections=_directions(), **weights)  # type: ignore[arg-type]
    expected = sliced_wasserstein(x.numpy(), y.numpy(), _directions().numpy(), order)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_fractional_weights_equal_scipy_on_a_line() -> None:
    x, y = unequal_sample(8, 5, 1)
    a, b = (torch.from_numpy(np.random.default_rng(s).random(k)) for s, k in ((1, 8), (2, 5)))
    expected = scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy(), a.numpy(), b.numpy())
    value = sliced_wasserstein_loss(x, y, order=1, projections=torch.ones(1, 1), source_weight=a, target_weight=b)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_equals_the_power_of_pot(order: int) -> None:
    ot = pytest.importorskip("ot")
    x, y = unequal_sample()
    a, b = (np.random.default_rng(s).dirichlet(np.ones(k)) for s, k in ((1, 9), (2, 6)))
    directions = _directions(50)
    value = sliced_wasserstein_loss(
        x, y, order=order, projections=directions, source_weight=torch.from_numpy(a), target_weight=torch.from_numpy(b)
    )
    # POT returns the p-th root
    root = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), a, b, projections=directions.numpy().T, p=order)
    assert value.item() == pytest.approx(root**order, rel=1e-10)


def test_a_shift_costs_its_mean_square() -> None:
    x, _ = reference_sample()
    shift = torch.linspace(-1, 2, 8, dtype=torch.float64)
    directions = _directions(11, 8)
    value = sliced_wasserstein_loss(x, x + shift, projections=directions)
    torch.testing.assert_close(value, (directions @ shift).square().mean())
    # over all directions the mean square is |shift|^2 / d
    many = sliced_wasserstein_loss(x, x + shift, n_projections=20_000)
    assert many.item() == pytest.approx(shift.square().mean().item(), rel=0.02)


def test_weights_that_split_a_row_change_nothing() -> None:
    x, y = unequal_sample()
    halves = {"source_weight": torch.full((18,), 0.5), "target_weight": torch.ones(6)}
    split = sliced_wasserstein_loss(torch.cat([x, x]), y, projections=_directions(), **halves)
    torch.testing.assert_close(split, sliced_wasserstein_loss(x, y, projections=_directions()))


def test_gradient_to_the_weights() -> None:
    x, y = unequal_sample(5, 4)
    a, b = torch.rand(5, dtype=torch.float64) + 0.5, torch.rand(4, dtype=torch.float64) + 0.5

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sliced_wasserstein_loss(x, y, projections=_directions(), source_weight=a, target_weight=b)

    assert torch.autograd.gradcheck(loss, (a.requires_grad_(), b.requires_grad_()))


def test_padding_never_matters_whatever_the_order_of_values() -> None:
    x, y = unequal_sample()
    weight = torch.tensor([0.1, 0.7, 0, 0.3, 0, 1.3, 0.9, 0, 2], dtype=torch.float64)
    x.requires_grad_()
    for offset in (-50.0, 0.0, 50.0):
        moved = torch.where((weight > 0)[:, None], x, x + offset)
        value = sliced_wasserstein_loss(moved, y, projections=_directions(), source_weight=weight)
        kept = weight > 0
        torch.testing.assert_close(
            value, sliced_wasserstein_loss(x[kept], y, projections=_directions(), source_weight=weight[kept])
        )
        (gradient,) = torch.autograd.grad(value, x)
        assert torch.all(gradient[~kept] == 0)


def test_drawn_directions() -> None:
    x, y = unequal_sample()
    assert sliced_wasserstein_loss(x, y) == sliced_wasserstein_loss(x, y)  # fixed without a generator
    first, second = (sliced_wasserstein_loss(x, y, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert first != second
    assert first == sliced_wasserstein_loss(x, y, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(3)
    loss = SlicedWassersteinLoss(n_projections=4)
    assert loss(x, y, generator=generator) != loss(x, y, generator=generator)


def test_fixed_draws_look_standard_normal() -> None:
    draws = fixed_normal(500, 64, dtype=torch.float64, device=torch.device("cpu"))
    assert scipy.stats.kstest(draws.flatten().numpy(), "norm").pvalue > 0.01
    # covariance of independent columns: entries off the diagonal have standard error 1 / sqrt(500)
    covariance = (draws.T @ draws / 500 - torch.eye(64, dtype=torch.float64)).abs()
    assert covariance.max() < 5 * (2 / 500) ** 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 3}, "`order` must be 1 or 2, got 3"),
        ({"n_projections": 0}, "`n_projections` must be an integer >= 1, got 0"),
        ({"projections": torch.ones(4, 2)}, r"`projections` must have as many features as `source` \(3\), got 2"),
        ({"projections": torch.ones(3)}, r"`projections` must have shape \(projections, features\), got \(3,\)"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    x, y = unequal_sample()
    with pytest.raises(ValueError, match="sliced_wasserstein_loss: " + message):
        sliced_wasserstein_loss(x, y, **change)  # type: ignore[arg-type]
