"""A distant row or distant groups do not reduce the accuracy for other rows: float32 against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmda.kernels import Energy, Gaussian, Laplacian, RationalQuadratic, mean_bandwidth, median_bandwidth
from mmda.losses import (
    adaptive_feature_norm_loss,
    block_mmd_loss,
    central_moment_discrepancy_loss,
    contrastive_domain_discrepancy_loss,
    coral_loss,
    cross_correlation_loss,
    energy_distance_loss,
    frechet_distance_loss,
    higher_order_moment_loss,
    hsic_loss,
    joint_mmd_loss,
    joint_transport_loss,
    local_mmd_loss,
    mmd_loss,
    multi_domain_loss,
    random_feature_mmd_loss,
    sinkhorn_divergence_loss,
    sliced_wasserstein_loss,
)
from mmda.validators import round_trip_accuracy
from tests.reference import mmd as reference

LABELS = torch.arange(64) % 3
WEIGHT = torch.ones(64).index_fill_(0, torch.arange(0, 64, 5), 2.0)

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mmd": mmd_loss,
    "mmd, unbiased": lambda x, y: mmd_loss(x, y, estimator="unbiased"),
    "mmd, Laplacian": lambda x, y: mmd_loss(x, y, kernel=Laplacian()),
    "mmd, rational quadratic": lambda x, y: mmd_loss(x, y, kernel=RationalQuadratic()),
    "mmd, fixed": lambda x, y: mmd_loss(x, y, kernel=Gaussian(4.0)),
    "mmd, linear": lambda x, y: mmd_loss(x, y, kernel=Gaussian(4.0), estimator="linear"),
    "mmd, tiles": lambda x, y: mmd_loss(x, y, kernel=Gaussian(4.0), block_size=32),
    "mmd, weights": lambda x, y: mmd_loss(x, y, kernel=Gaussian(4.0), source_weight=WEIGHT.to(x.dtype)),
    "mmd, mask": lambda x, y: mmd_loss(x, y, kernel=Gaussian(4.0), target_mask=torch.arange(64) < 50),
    "energy": energy_distance_loss,
    "energy, exponent 1.5": lambda x, y: energy_distance_loss(x, y, exponent=1.5),
    "block": lambda x, y: block_mmd_loss(x, y, kernel=Gaussian(4.0), block_rows=16),
    "joint": lambda x, y: joint_mmd_loss([x, x[:, :4]], [y, y[:, :4]], kernel=Gaussian(4.0)),
    "hsic": lambda x, y: hsic_loss(x, y, kernel=Gaussian(4.0)),
    "local": lambda x, y: local_mmd_loss(
        x, y, source_labels=LABELS, target_probabilities=one_hot(x), kernel=Gaussian(4.0)
    ),
    "contrastive domain": lambda x, y: contrastive_domain_discrepancy_loss(
        x, y, source_labels=LABELS, target_probabilities=one_hot(x), kernel=Gaussian(4.0)
    ),
    "several domains": lambda x, y: multi_domain_loss(
        torch.cat([x, y]), torch.arange(128) // 64, discrepancy=mmd_loss, domains=2
    ),
}


def one_hot(x: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(LABELS, 3).to(x.dtype)


def samples(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(64, 16, generator=generator), torch.randn(64, 16, generator=generator) + 1


def assert_as_float64(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, ordinary: Tensor) -> None:
    """Value, and gradient of the ordinary rows, within 1e-3 of float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        a, b = (rows.to(dtype).clone().requires_grad_() for rows in (x, y))
        value = loss(a, b)
        gradients = torch.autograd.grad(value, (a, b))
        found.append((value.double(), torch.cat([gradients[0][ordinary], gradients[1]]).double()))
    (value, gradient), (right, slope) = found
    assert abs(value - right) <= 1e-3 * abs(right)
    assert (gradient - slope).norm() <= 1e-3 * slope.norm()


@pytest.mark.parametrize("far", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("place", [0, 31, 63])
@pytest.mark.parametrize("name", LOSSES)
def test_one_far_row_leaves_the_others_their_digits(name: str, place: int, far: float) -> None:
    x, y = samples()
    x[place] = far
    assert_as_float64(LOSSES[name], x, y, torch.arange(64) != place)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_far_in_some_features(name: str) -> None:
    x, y = samples()
    x[7, :3] = -1e6
    assert_as_float64(LOSSES[name], x, y, torch.arange(64) != 7)


FIXED = [name for name in LOSSES if name not in ("mmd", "mmd, unbiased", "mmd, Laplacian", "mmd, rational quadratic")]


@pytest.mark.parametrize("gap", [1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("name", [name for name in FIXED if name != "several domains"])
def test_groups_far_apart(name: str, gap: float) -> None:
    """In both samples half of the rows are shifted by ``gap`` in every feature; the bandwidth fits one group."""
    x, y = samples()
    x[32:] += gap
    y[32:] += gap
    assert_as_float64(LOSSES[name], x, y, torch.ones(64, dtype=torch.bool))


def test_the_value_is_the_loops() -> None:
    """Two tight groups 1e4 apart and a far row, float32, against loops over pairs in float64."""
    x, y = samples()
    x[32:] += 1e4
    y[32:] += 1e4
    x[5] = 1e6
    expected = reference.biased(reference.gaussian(4.0), x.double().numpy(), y.double().numpy())
    found = mmd_loss(x, y, kernel=Gaussian(4.0, scales=(1.0,)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("far", [1e5, 1e8])
@pytest.mark.parametrize("place", range(5))
def test_bandwidths_do_not_see_where_the_far_row_stands(far: float, place: int) -> None:
    near = [0.0, 1.0, 2.0, 3.0]
    rows = torch.tensor([*near[:place], far, *near[place:]])[:, None]
    assert float(median_bandwidth(rows)) == pytest.approx(2.5)  # of 1, 1, 1, 2, 2, 3 and four large distances
    assert float(mean_bandwidth(rows)) == pytest.approx(float(mean_bandwidth(rows.double())), rel=1e-5)


def test_the_median_is_the_same_to_the_last_bit_in_any_order() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 8, generator=generator)
    rows[17] = 1e6
    found = {float(median_bandwidth(rows[torch.randperm(200, generator=generator)])) for _ in range(5)}
    assert len(found) == 1


@pytest.mark.parametrize("kernel", [Laplacian(), Gaussian(0.01), Gaussian(), RationalQuadratic(), Energy()], ids=repr)
@pytest.mark.parametrize(("rows", "width"), [(8, 64), (300, 16)])
def test_a_sample_against_itself_is_zero(kernel: object, rows: int, width: int) -> None:
    """Equal rows have distance zero on every path, so that only the rounding of sums remains."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    for block in (None, 64):
        assert abs(float(mmd_loss(x, x.clone(), kernel=kernel, block_size=block))) < 2e-7  # type: ignore[arg-type]
    assert abs(float(energy_distance_loss(x, x.clone()))) < 2e-6


WIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mmd": mmd_loss,
    "mmd, mean": lambda x, y: mmd_loss(x, y, kernel=Gaussian("mean")),
    "mmd, rational quadratic": lambda x, y: mmd_loss(x, y, kernel=RationalQuadratic()),
    "mmd, linear": lambda x, y: mmd_loss(x, y, estimator="linear"),
    "mmd, tiles": lambda x, y: mmd_loss(x, y, block_size=32),
    "mmd, weights": lambda x, y: mmd_loss(x, y, source_weight=WEIGHT.to(x.dtype)),
    "mmd, learnt": lambda x, y: mmd_loss(x, y, kernel=Gaussian(torch.full((), 3e5, requires_grad=True))),
    "joint": lambda x, y: joint_mmd_loss([x, x[:, :4]], [y, y[:, :4]]),
    "mmd, Laplacian of far": lambda x, y: mmd_loss(x, y, kernel=Laplacian(3e5)),
    "mmd, linear, rational quadratic": lambda x, y: mmd_loss(x, y, kernel=RationalQuadratic(3e5), estimator="linear"),
    "mmd, linear, energy": lambda x, y: mmd_loss(x, y, kernel=Energy(), estimator="linear"),
    "joint, Laplacian": lambda x, y: joint_mmd_loss([x, x[:, :4]], [y, y[:, :4]], kernel=Laplacian(3e5)),
    "joint, energy": lambda x, y: joint_mmd_loss([x, x[:, :4]], [y, y[:, :4]], kernel=Energy(), estimator="unbiased"),
    "mmd, weights of a rational quadratic": lambda x, y: mmd_loss(
        x, y, kernel=RationalQuadratic(3e5), source_weight=(1 + torch.arange(64) % 3).to(x.dtype), block_size=16
    ),
    "block, Laplacian": lambda x, y: block_mmd_loss(x, y, kernel=Laplacian(3e5)),
    "block, energy": lambda x, y: block_mmd_loss(x, y, kernel=Energy()),
    "hsic, energy": lambda x, y: hsic_loss(x, y, kernel=Energy(), estimator="unbiased"),
    "joint, linear": lambda x, y: joint_mmd_loss([x, x[:, :4]], [y, y[:, :4]], estimator="linear"),
    "hsic": lambda x, y: hsic_loss(x, y, kernel=Gaussian(1e7)),
    "local": lambda x, y: local_mmd_loss(x, y, source_labels=LABELS, target_probabilities=one_hot(x)),
    "several domains": LOSSES["several domains"],
    "random features": random_feature_mmd_loss,
    "random features, fixed": lambda x, y: random_feature_mmd_loss(x, y, kernel=Gaussian(4.0)),
    "joint transport": lambda x, y: joint_transport_loss(x, y, LABELS, 3 * one_hot(x)),
    "sinkhorn": sinkhorn_divergence_loss,
    "sinkhorn, distance": lambda x, y: sinkhorn_divergence_loss(x, y, cost="distance"),
    "central moments": central_moment_discrepancy_loss,
}


@pytest.mark.parametrize("gap", [1e3, 1e5])
@pytest.mark.parametrize("name", WIDE)
def test_groups_far_apart_under_a_bandwidth_of_their_distance(name: str, gap: float) -> None:
    """All similarities are near one, and their sums cancel to 1e-10."""
    x, y = samples()
    x[32:] += gap
    y[32:] += gap
    assert_as_float64(WIDE[name], x, y, torch.ones(64, dtype=torch.bool))


LARGE_TERMS = [name for name in WIDE if "energy" in name or "Laplacian" in name or "rational" in name]


@pytest.mark.parametrize("name", LARGE_TERMS)
def test_one_far_row_among_terms_that_cancel(name: str) -> None:
    """Similarities near one (wide bandwidth), or distances: the sum is 1e-5 of its terms."""
    for far, place in ((1e3, 0), (1e4, 32), (1e5, 0), (1e7, 32)):
        x, y = samples()
        x[place] = far
        assert_as_float64(WIDE[name], x, y, torch.arange(64) != place)


@pytest.mark.parametrize("far", [1e5, 1e7])
@pytest.mark.parametrize("name", ["random features", "random features, fixed", "joint transport", "sinkhorn, distance"])
def test_one_far_row_leaves_the_phases_and_plans_of_the_others(name: str, far: float) -> None:
    x, y = samples()
    x[31] = far
    assert_as_float64(WIDE[name], x, y, torch.arange(64) != 31)


@pytest.mark.parametrize(("rows", "far"), [(64, 1e6), (48, 1e7)])
def test_one_far_row_leaves_the_squared_plan_of_the_others(rows: int, far: float) -> None:
    """The far row's mass goes to its cheapest target; the plan of the other rows changes only by that mass."""
    x, y = samples()
    x, y = x[:rows].double(), y.double()
    x[31] = far
    slopes = []
    for shift in (0.0, 1e3):  # moving the far row along its direction changes nothing else
        a = x.clone()
        a[31] += shift
        a.requires_grad_()
        (slope,) = torch.autograd.grad(sinkhorn_divergence_loss(a, y), a)
        slopes.append(slope[torch.arange(rows) != 31])
    single = x.float().requires_grad_()
    (found,) = torch.autograd.grad(sinkhorn_divergence_loss(single, y.float()), single)
    for slope in (slopes[1], found[torch.arange(rows) != 31]):
        assert (slope - slopes[0]).norm() <= 1e-3 * slopes[0].norm()


def test_mass_that_must_move_far() -> None:
    """Two groups of one row each, a quarter of the mass in the wrong one."""
    for gap in (1e5, 1e7):
        x = torch.tensor([[0.0], [gap]])
        value = sinkhorn_divergence_loss(x, x.clone(), source_weight=torch.tensor([3.0, 1.0]))
        assert float(value) == pytest.approx(0.25 * gap**2, rel=1e-6)


@pytest.mark.parametrize("name", ["mmd", "mmd, weights", "local", "random features, fixed", "several domains"])
def test_function_transforms_keep_the_digits_too(name: str) -> None:
    x, y = samples()
    x[32:] += 1e5
    y[32:] += 1e5
    x[5] = 1e6
    found, right = (torch.func.grad(WIDE[name], argnums=1)(x.to(t), y.to(t)) for t in (torch.float32, torch.float64))
    assert (found - right).norm() <= 1e-3 * right.norm()


PROJECTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sliced": sliced_wasserstein_loss,
    "sliced, order 1": lambda x, y: sliced_wasserstein_loss(x, y, order=1),
    "sliced, 64 to 40": lambda x, y: sliced_wasserstein_loss(x, y[:40]),
    "sliced, weights": lambda x, y: sliced_wasserstein_loss(x, y, source_weight=WEIGHT.to(x.dtype)),
    "sliced, mask": lambda x, y: sliced_wasserstein_loss(x, y, target_mask=torch.arange(64) < 50),
    "sliced, few rows": lambda x, y: sliced_wasserstein_loss(x[28:36], y[28:36]),
    "CORAL": coral_loss,
    "CORAL, few rows": lambda x, y: coral_loss(x[28:35], y[28:35], match_mean=True),
    "higher moments": higher_order_moment_loss,
    "higher moments, order 4": lambda x, y: higher_order_moment_loss(x, y, order=4),
    "higher moments, weights": lambda x, y: higher_order_moment_loss(x, y, source_weight=WEIGHT.to(x.dtype)),
    "higher moments, samples": lambda x, y: higher_order_moment_loss(x, y, samples=50),
}


@pytest.mark.parametrize("name", PROJECTED)
def test_projections_and_moments_keep_their_digits(name: str) -> None:
    for gap in (1e3, 1e5):
        x, y = samples()
        x[32:] += gap
        y[32:] += gap
        assert_as_float64(PROJECTED[name], x, y, torch.ones(64, dtype=torch.bool))
    for far in (1e4, 1e4 if name.endswith("order 4") else 1e7):  # its eighth power overflows float32
        x, y = samples()
        x[31] = far
        assert_as_float64(PROJECTED[name], x, y, torch.arange(64) != 31)


def test_neighbours_by_cosine_far_from_the_origin() -> None:
    x, y = samples()
    x, y = x + 1e4, y + 1e4
    right = round_trip_accuracy(x.double(), LABELS, y.double())
    assert float(round_trip_accuracy(x, LABELS, y)) == pytest.approx(float(right), abs=1e-6)


def test_moments_beyond_the_range_of_float32_have_a_gradient() -> None:
    x, y = samples()
    x[3] = 1e7
    x.requires_grad_()
    loss = higher_order_moment_loss(x, y, order=4)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.isinf()
    assert slope[4:].isfinite().all()


def test_moments_of_large_features_have_a_gradient() -> None:
    for scale in (1e-10, 1e4, 1e7):
        x, y = (scale * rows for rows in samples())
        assert_as_float64(central_moment_discrepancy_loss, x, y, torch.ones(64, dtype=torch.bool))


@pytest.mark.parametrize("far", [1e4, 1e6, 1e7])
@pytest.mark.parametrize("place", [0, 63])
def test_one_far_row_leaves_the_covariances_of_the_others(place: int, far: float) -> None:
    x, y = samples()
    x[place] = far
    assert_as_float64(frechet_distance_loss, x, y, torch.arange(64) != place)


#: Losses of squared distances, norms or correlations, at scales where squares leave the range of float32.
SCALED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "energy": energy_distance_loss,
    "mmd": mmd_loss,
    "block": lambda x, y: block_mmd_loss(x, y, block_rows=16),
    "hsic": hsic_loss,
    "joint": lambda x, y: joint_mmd_loss([x, x[:, :4]], [y, y[:, :4]]),
    "local": lambda x, y: local_mmd_loss(x, y, source_labels=LABELS, target_probabilities=one_hot(x)),
    "norm": lambda x, y: adaptive_feature_norm_loss(x) + adaptive_feature_norm_loss(y, variant="hard"),
    "correlation": cross_correlation_loss,
}


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-15, 1e10, 1e20, 1e30])
@pytest.mark.parametrize("name", SCALED)
def test_squares_outside_the_range_of_float32(name: str, scale: float) -> None:
    """The value is that of float64 wherever float32 holds it, and so is the gradient: no NaN, no zero."""
    x, y = (rows * scale for rows in samples())
    value, *gradients = values_of(SCALED[name], x, y)
    right, *slopes = values_of(SCALED[name], x.double(), y.double())
    if abs(right) < torch.finfo(torch.float32).max:
        torch.testing.assert_close(value.double(), right, rtol=1e-3, atol=1e-9)
    for gradient, slope in zip(gradients, slopes):
        if slope.abs().amax() < torch.finfo(torch.float32).max:
            error = (gradient.double() - slope).norm()
            assert error <= 1e-3 * slope.norm() + 1e-37


def values_of(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    a, b = (rows.clone().requires_grad_() for rows in (x, y))
    value = loss(a, b)
    return value.detach(), *torch.autograd.grad(value, (a, b))


def test_a_plan_that_no_float_holds_is_an_error() -> None:
    x, y = (1e7 * rows for rows in samples())
    with pytest.raises(
        ValueError, match=r"`regularisation` must be larger, or `iterations` \(30\), for a marginal error"
    ):
        sinkhorn_divergence_loss(x, y)
