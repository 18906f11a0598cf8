"""Sinkhorn divergence against plain iterations, linear programming, public code, and its two limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda._math import transport_sweep
from mmda.losses import SinkhornDivergenceLoss, energy_distance_loss, sinkhorn_divergence_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference import sinkhorn as reference


def _shares(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(s).dirichlet(np.ones(k)) for s, k in ((1, n), (2, m)))  # type: ignore[return-value]


@pytest.mark.parametrize("eps", [10.0, 3.0])
@pytest.mark.parametrize(("cost", "power"), [("squared", 2), ("distance", 1)])
def test_equals_plain_iterations_run_to_convergence(eps: float, cost: str, power: int) -> None:
    x, y = unequal_sample(6, 4)
    a, b = _shares(6, 4)
    expected = reference.divergence(x.numpy(), y.numpy(), a, b, eps, power)
    value = sinkhorn_divergence_loss(
        x,
        y,
        regularisation=eps,
        cost=cost,  # type: ignore[arg-type]
        source_weight=torch.from_numpy(a),
        target_weight=torch.from_numpy(b) * 7,  # only relative weights matter
    )
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_small_regularisation_is_the_documented_wasserstein_distance() -> None:
    x, y = reference_sample()
    assert sinkhorn_divergence_loss(x, y, regularisation=1e-3).item() == pytest.approx(12.2364988841, abs=1e-9)
    single = sinkhorn_divergence_loss(x.float(), y.float(), regularisation=1e-3)
    assert single.item() == pytest.approx(12.2364988841, rel=1e-5)


@pytest.mark.parametrize(("cost", "power"), [("squared", 2), ("distance", 1)])
def test_small_regularisation_is_the_linear_programme(cost: str, power: int) -> None:
    x, y = unequal_sample(9, 6)
    a, b = _shares(9, 6)
    exact = reference.exact(reference.costs(x.numpy(), y.numpy(), power), a, b)
    weights = {"source_weight": torch.from_numpy(a), "target_weight": torch.from_numpy(b)}
    gaps = []
    for eps in (1e-2, 1e-3):
        value = sinkhorn_divergence_loss(x, y, regularisation=eps, cost=cost, iterations=60, **weights)  # type: ignore[arg-type]
        gaps.append(abs(value.item() - exact))
    # what is left is at most eps times the entropies of the margins
    assert gaps[0] < 1e-2 * np.log(54)
    assert gaps[1] < 1e-3 * np.log(54)
    assert gaps[1] < gaps[0]


def test_large_regularisation_is_the_gap_of_the_means_and_the_energy_distance() -> None:
    x, y = unequal_sample()
    means = (x.mean(0) - y.mean(0)).square().sum()
    torch.testing.assert_close(sinkhorn_divergence_loss(x, y, regularisation=1e7), means, rtol=1e-5, atol=1e-7)
    blurred = sinkhorn_divergence_loss(x, y, regularisation=1e7, cost="distance")
    # the product plan costs E|x - y|: debiased, that is the half form of the energy distance
    torch.testing.assert_close(blurred, energy_distance_loss(x, y), rtol=1e-5, atol=1e-7)


def test_equals_twice_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = unequal_sample()
    # geomloss takes |x - y|^2 / 2 and eps = blur^2: half our number at eps = 2 blur^2. It stops with its annealing.
    other = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.7, scaling=0.9, backend="tensorized")(x, y)
    value = sinkhorn_divergence_loss(x, y, regularisation=2 * 0.7**2)
    assert value.item() == pytest.approx(2 * other.item(), rel=1e-2)


def test_transport_cost_equals_the_plan_of_pot() -> None:
    ot = pytest.importorskip("ot")
    from mmda._math.transport import transport_cost

    x, y = unequal_sample()
    cost = torch.cdist(x, y).square()
    a, b = (torch.from_numpy(share) for share in _shares(9, 6))
    plan = ot.sinkhorn(
        a.numpy(), b.numpy(), cost.numpy(), 0.5, method="sinkhorn_log", numItermax=100_000, stopThr=1e-13
    )
    # POT's objective has <P, log P>; relative to a b^T it is the Kullback-Leibler form used here
    expected = (plan * cost.numpy()).sum() + 0.5 * (plan * np.log(plan / (a[:, None] * b).numpy())).sum()
    value = transport_cost(cost, a, b, regularisation=0.5, iterations=30)
    assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("cost", "eps"), [("squared", 0.3), ("distance", 1.0)])
def test_first_and_second_derivatives(cost: str, eps: float) -> None:
    x, y = unequal_sample(3, 2, 2)
    weight = torch.tensor([0.7, 1.2, 2.0], dtype=torch.float64)

    def loss(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return sinkhorn_divergence_loss(
            x,
            y,
            regularisation=eps,
            cost=cost,  # type: ignore[arg-type]
            iterations=12,
            source_weight=weight,
        )

    inputs = tuple(v.requires_grad_() for v in (x, y, weight))
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize("eps", [1.0, 1e-2, 1e-4])
def test_the_gradient_at_small_regularisation_moves_points_to_their_partners(eps: float) -> None:
    x, _ = reference_sample()
    shift = torch.full((8,), 0.01, dtype=torch.float64)
    x.requires_grad_()
    # the divergence of a sample and its shifted copy is |shift|^2 at any regularisation, its slope 2 (x - y) / n
    value = sinkhorn_divergence_loss(x, x.detach() + shift, regularisation=eps)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == pytest.approx(shift.square().sum().item(), rel=1e-6)
    torch.testing.assert_close(gradient.sum(0), -2 * shift, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("eps", [1.0, 1e-3])
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_float32_far_from_the_origin(eps: float, offset: float) -> None:
    x, y = ((rows + offset).float() for rows in reference_sample())
    single = sinkhorn_divergence_loss(x, y, regularisation=eps)
    exact = sinkhorn_divergence_loss(x.double(), y.double(), regularisation=eps)
    assert single.item() == pytest.approx(exact.item(), rel=1e-3)


def _gradients(x: Tensor, y: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = sinkhorn_divergence_loss(x, y, **options)  # type: ignore[arg-type]
    return value.detach(), torch.cat(torch.autograd.grad(value, (x, y)))


@pytest.mark.parametrize("cost", ["squared", "distance"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0, 100.0, 300.0])
def test_float32_gradients_whatever_the_ratio_of_cost_and_regularisation(scale: float, cost: str) -> None:
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(64, 16, generator=generator) * scale
        y = (1.3 * torch.randn(48, 16, generator=generator) + 0.4) * scale
        value, gradient = _gradients(x, y, cost=cost)
        exact, slope = _gradients(x.double(), y.double(), cost=cost, iterations=200)
        assert value.item() == pytest.approx(exact.item(), rel=1e-5)
        assert (gradient - slope).norm() < 1e-3 * slope.norm()


def test_a_cost_beyond_float64_is_an_error() -> None:
    x = torch.tensor([[0.0], [1e7]])
    with pytest.raises(ValueError, match=r"`regularisation` must be at least .*, 1e-12 of the largest cost"):
        sinkhorn_divergence_loss(x, x + 1, cost="distance", regularisation=1e-6)
    assert sinkhorn_divergence_loss(x, x + 1).item() == pytest.approx(
        1.0, rel=1e-9
    )  # large squares of pairs without transported mass


def test_a_plan_that_is_not_found_is_an_error() -> None:
    generator = torch.Generator().manual_seed(6)
    x, y = 300 * torch.randn(64, 5, generator=generator), 300 * torch.randn(48, 5, generator=generator)
    with pytest.raises(ValueError, match=r"`regularisation` must be larger, or `iterations` \(1\)"):
        sinkhorn_divergence_loss(x, y, iterations=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cost", ["squared", "distance"])
@pytest.mark.parametrize("eps", [0.3, 3.0])
def test_tiles_are_the_matrix(cost: str, eps: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (rows.to(dtype) for rows in unequal_sample(23, 17))
    weight = torch.linspace(0, 1, 23, dtype=dtype)
    options = {"cost": cost, "regularisation": eps, "source_weight": weight}
    expected = _gradients(x, y, **options)
    made: list[int] = []
    scaled = transport_sweep._Plan._scaled
    monkeypatch.setattr(transport_sweep, "_KEPT", 0)
    monkeypatch.setattr(transport_sweep, "_TILE", 5)
    monkeypatch.setattr(
        transport_sweep._Plan, "_scaled", lambda plan, i, j: made.append(i.stop - i.start) or scaled(plan, i, j)
    )
    found = _gradients(x, y, **options)
    assert max(made) <= 5
    exact = dtype == torch.float64
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-9 if exact else 1e-4, atol=1e-11 if exact else 1e-5)


@pytest.mark.parametrize(("cost", "eps"), [("squared", 0.5), ("squared", 5.0), ("distance", 0.3)])
def test_the_pass_is_the_dense_formula(cost: str, eps: float) -> None:
    x, y = unequal_sample(19, 14)
    shares = (torch.from_numpy(share) for share in _shares(19, 14))
    inputs = transport_sweep.Inputs(x, y, *shares, x.mean(0))
    settings = transport_sweep.Settings(eps, cost, 60)
    x.requires_grad_()
    y.requires_grad_()
    found, wanted = (
        torch.autograd.grad(make(inputs, settings), (x, y))
        for make in (transport_sweep.sinkhorn_divergence, transport_sweep._dense)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_everyday_regularisation_takes_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 5 % of the mean cost the solver for small regularisation is not called; matrix products are counted."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 16, generator=generator), 1.3 * torch.randn(200, 16, generator=generator) + 0.4
    eps = 0.05 * torch.cdist(x, y).square().mean().item()
    counts = {"rows": 0, "columns": 0}
    for name in counts:
        method = getattr(transport_sweep._Plan, name)

        def counted(plan: object, weight: Tensor, name: str = name, method: object = method) -> Tensor:
            counts[name] += 1
            return method(plan, weight)  # type: ignore[operator]

        monkeypatch.setattr(transport_sweep._Plan, name, counted)
    monkeypatch.setattr(transport_sweep, "_far", None)
    value, gradient = _gradients(x, y, regularisation=eps)
    assert sum(counts.values()) < 250
    exact, slope = _gradients(x.double(), y.double(), regularisation=eps)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert (gradient - slope).norm() < 1e-4 * slope.norm()


def test_constant_features_and_single_rows() -> None:
    same = torch.ones(3, 2, requires_grad=True)
    value = sinkhorn_divergence_loss(same, torch.ones(5, 2))
    value.backward()
    assert value.item() == 0
    assert same.grad is not None
    assert torch.all(same.grad == 0)
    assert sinkhorn_divergence_loss(torch.zeros(1, 2), torch.ones(1, 2)).item() == pytest.approx(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regularisation": 0.0}, "`regularisation` must be a finite number > 0, got 0.0"),
        ({"iterations": 0}, "`iterations` must be an integer >= 1, got 0"),
        ({"cost": "cubed"}, "`cost` must be one of 'squared', 'distance', got 'cubed'"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    x, y = unequal_sample()
    with pytest.raises(ValueError, match="sinkhorn_divergence_loss: " + message):
        sinkhorn_divergence_loss(x, y, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="SinkhornDivergenceLoss: " + message):
        SinkhornDivergenceLoss(**change)  # type: ignore[arg-type]
