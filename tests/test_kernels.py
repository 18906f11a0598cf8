"""Kernels, distances and the bandwidth heuristics, against NumPy in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mmda.kernels import (
    FIVE_SCALES,
    MEDIAN_ROWS,
    Energy,
    Gaussian,
    Kernel,
    Laplacian,
    RationalQuadratic,
    mean_bandwidth,
    median_bandwidth,
    safe_sqrt,
    squared_distances,
)
from mmda.losses import mmd_loss

HEURISTICS = (median_bandwidth, mean_bandwidth)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def pair_distances(rows: NDArray[np.float64]) -> list[float]:
    """Distances of the pairs i < j, one at a time."""
    return [math.dist(a, b) for a, b in itertools.combinations(rows, 2)]


# Distances.


def test_distances_against_loops() -> None:
    x, y = normal(7, 3), normal(5, 3, seed=1)
    expected = [[math.dist(a, b) ** 2 for b in y.tolist()] for a in x.tolist()]
    torch.testing.assert_close(squared_distances(x, y), torch.tensor(expected, dtype=torch.float64))
    own = [[math.dist(a, b) ** 2 for b in x.tolist()] for a in x.tolist()]
    torch.testing.assert_close(squared_distances(x), torch.tensor(own, dtype=torch.float64))


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_distances_in_float32_with_a_common_offset(offset: float) -> None:
    x = (normal(40, 8) + offset).float()
    exact = np.square(x.double().numpy()[:, None] - x.double().numpy()[None]).sum(-1)
    found = squared_distances(x)
    assert torch.equal(found.diagonal(), torch.zeros(40))
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(squared_distances(x, x.clone()).numpy(), exact, rtol=1e-4, atol=1e-4)


def test_distances_are_never_negative() -> None:
    x = normal(50, 16).float()
    assert (squared_distances(x, x + 1e-7) >= 0).all()
    assert (squared_distances(x.repeat(2, 1)) >= 0).all()


def test_distances_of_half_precision_are_float32() -> None:
    x = normal(6, 4).bfloat16()
    torch.testing.assert_close(squared_distances(x), squared_distances(x.float()), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = squared_distances(x.float())
    assert torch.equal(found, squared_distances(x.float()))


def test_derivatives_of_distances() -> None:
    x, y = normal(4, 3).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(squared_distances, (x, y))
    assert torch.autograd.gradgradcheck(squared_distances, (x, y))
    assert torch.autograd.gradcheck(squared_distances, (x,))


def test_slope_of_distances_where_rows_coincide() -> None:
    """The second derivative of |x - y|^2 is 2, also where rounding lifted the value to zero."""
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(squared_distances(x, torch.zeros(1, 1).double()), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    assert slope.item() == 0
    assert curvature.item() == 2


def test_errors_of_distances() -> None:
    with pytest.raises(ValueError, match=r"squared_distances: `x` must have shape \(samples, features\), got \(3,\)"):
        squared_distances(torch.zeros(3))
    with pytest.raises(ValueError, match=r"`y` must have as many features as `x` \(2\), got 3"):
        squared_distances(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"`x` must be a floating-point tensor, got torch.int64"):
        squared_distances(torch.zeros(4, 2, dtype=torch.long))


def test_safe_sqrt_has_slope_zero_at_zero() -> None:
    squared = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(squared)
    root.sum().backward()
    assert root.tolist() == [0, 2]
    assert squared.grad is not None
    assert squared.grad.tolist() == [0, 0.25]


# Heuristics.


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 12), d=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_heuristics_against_loops(n: int, d: int, seed: int) -> None:
    """Odd and even numbers of pairs: n = 2, 3, 6, 7 have an odd one, n = 4, 5, 8, 9 an even one."""
    rows = normal(n, d, seed=seed)
    distances = pair_distances(rows.numpy())
    assert median_bandwidth(rows).item() == pytest.approx(np.median(distances), rel=1e-9)
    assert mean_bandwidth(rows).item() == pytest.approx(math.sqrt(np.mean(np.square(distances))), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=2, max_size=8), seed=st.integers(0, 2**16))
def test_weights_of_heuristics_are_counts(counts: list[int], seed: int) -> None:
    rows = normal(len(counts), 3, seed=seed)
    distances = pair_distances(np.repeat(rows.numpy(), counts, axis=0))
    weight = torch.tensor(counts)
    median = float(np.median(distances)) if distances else 0.0
    mean = math.sqrt(np.mean(np.square(distances))) if distances else 0.0
    assert median_bandwidth(rows, weight).item() == pytest.approx(median or 1.0, rel=1e-9)
    assert mean_bandwidth(rows, weight).item() == pytest.approx(mean or 1.0, rel=1e-9)


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_heuristics_do_not_feel_order_nor_place(heuristic) -> None:
    rows = normal(30, 5)
    value = heuristic(rows)
    torch.testing.assert_close(heuristic(rows.flip(0)), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(heuristic(rows + 1e4), value, rtol=1e-9, atol=0)
    torch.testing.assert_close(heuristic((rows + 1e4).float()).double(), value, rtol=1e-3, atol=0)
    torch.testing.assert_close(heuristic(3 * rows), 3 * value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_heuristics_carry_no_gradient(heuristic) -> None:
    assert not heuristic(normal(5, 2).requires_grad_()).requires_grad


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_heuristics_are_one_where_there_is_no_distance(heuristic) -> None:
    for d in (1, 3, 64):  # values whose mean is inexact in binary
        row = torch.linspace(0.1, 777.7, d)
        assert heuristic(row.repeat(6, 1)).item() == 1
        assert heuristic(row.repeat(700, 1)).item() == 1
        padded = torch.cat([torch.zeros(3, d), row.repeat(7, 1)])
        assert heuristic(padded, (torch.arange(10) >= 3).float()).item() == 1
    assert heuristic(torch.zeros(1, 3)).item() == 1
    assert heuristic(normal(4, 3), torch.zeros(4)).item() == 1
    assert heuristic(normal(4, 3), torch.tensor([0.0, 1.0, 0.0, 0.0])).item() == 1


def test_median_is_one_where_most_pairs_coincide() -> None:
    """Six equal rows and one other: 15 of 21 pairs at distance zero."""
    rows = torch.zeros(7, 2)
    rows[0] = 5
    assert median_bandwidth(rows).item() == 1
    assert mean_bandwidth(rows).item() == pytest.approx(math.sqrt(6 * 50 / 21))


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_rows_of_weight_zero_are_absent(heuristic) -> None:
    """Few and many rows; distant rows of weight 0 change nothing."""
    for n in (9, 700):
        rows = normal(n, 2)
        far = torch.full((n, 2), 1e3, dtype=torch.float64)
        mixed = torch.stack([rows, far], 1).reshape(2 * n, 2)
        weight = torch.tensor([1.0, 0.0]).repeat(n)
        torch.testing.assert_close(heuristic(mixed, weight), heuristic(rows), rtol=1e-9, atol=0)


def test_few_kept_rows_among_many_are_all_seen() -> None:
    """1,000 rows, three with nonzero weight: the median of these three, which a random subsample would miss."""
    rows, weight = normal(1000, 2), torch.zeros(1000)
    kept = [3, 500, 998]
    weight[kept] = 1
    expected = np.median(pair_distances(rows[kept].numpy()))
    assert median_bandwidth(rows, weight).item() == pytest.approx(expected, rel=1e-9)


def test_median_of_many_rows_is_that_of_a_fixed_subsample() -> None:
    rows = normal(MEDIAN_ROWS + 300, 4)
    state = torch.get_rng_state()
    value = median_bandwidth(rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(median_bandwidth(rows.clone()), value)
    torch.manual_seed(1)
    assert torch.equal(median_bandwidth(rows), value)
    assert value.item() == pytest.approx(np.median(pair_distances(rows.numpy())), rel=0.05)
    exact = rows[:MEDIAN_ROWS]
    assert median_bandwidth(exact).item() == pytest.approx(np.median(pair_distances(exact.numpy())), rel=1e-9)


def test_subsample_has_different_rows_of_the_whole_sample() -> None:
    """Rows on a line: the fraction of distances above r is (1 - r / n)^2, one half at the median."""
    n = 5000
    line = torch.arange(float(n), dtype=torch.float64).unsqueeze(1)
    assert median_bandwidth(line).item() == pytest.approx((1 - math.sqrt(0.5)) * n, rel=0.05)


def test_memory_of_the_median_is_bounded() -> None:
    """The pairs of 100,000 rows would need 40 GB."""
    assert median_bandwidth(torch.arange(100_000.0).unsqueeze(1)).isfinite()


# Kernels.


def gaussian(distance: float, sigma: float, scale: float) -> float:
    return math.exp(-(distance**2) / (2 * scale * sigma**2))


def laplacian(distance: float, sigma: float, scale: float) -> float:
    return math.exp(-distance / (math.sqrt(scale) * sigma))


def rational_quadratic(distance: float, sigma: float, scale: float) -> float:
    return (1 + distance**2 / (2 * 0.7 * scale * sigma**2)) ** -0.7


@pytest.mark.parametrize(
    ("kernel", "formula"),
    [
        (Gaussian, gaussian),
        (Laplacian, laplacian),
        (lambda *args, **scales: RationalQuadratic(*args, alpha=0.7, **scales), rational_quadratic),
    ],
)
@pytest.mark.parametrize("scales", [(1.0,), FIVE_SCALES, (0.5, 3.0)])
def test_kernels_against_the_formula(kernel, formula, scales) -> None:
    sigma, distances = 1.7, [0.0, 0.3, 1.0, 4.2]
    expected = [sum(formula(r, sigma, s) for s in scales) / len(scales) for r in distances]
    k = kernel(sigma, scales=scales)
    squared = torch.tensor(distances, dtype=torch.float64) ** 2
    found = k.evaluate(squared, k.settle(torch.zeros(2, 1).double()))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found[0].item() == k.at_zero == 1


def test_energy_kernel_is_minus_the_distance() -> None:
    kernel = Energy()
    squared = torch.tensor([0.0, 9.0], requires_grad=True)
    value = kernel.evaluate(squared, kernel.settle(torch.zeros(2, 1)))
    value.sum().backward()
    assert value.tolist() == [kernel.at_zero, -3]
    assert squared.grad is not None
    assert squared.grad.tolist() == pytest.approx([0, -1 / 6])


def test_rational_quadratic_tends_to_the_gaussian() -> None:
    squared, sigma = torch.linspace(0, 9, 7, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    wide = RationalQuadratic(alpha=1e7, scales=(1.0,)).evaluate(squared, sigma)
    torch.testing.assert_close(wide, Gaussian(scales=(1.0,)).evaluate(squared, sigma), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kernel", [Gaussian, Laplacian, RationalQuadratic])
def test_settling(kernel) -> None:
    rows = normal(9, 3)
    assert torch.equal(kernel("median").settle(rows), median_bandwidth(rows))
    assert torch.equal(kernel("mean").settle(rows), mean_bandwidth(rows))
    assert torch.equal(kernel().settle(rows), median_bandwidth(rows))
    assert kernel(2.5).settle(rows.float()).dtype == torch.float32
    assert kernel(2.5).settle(rows).item() == 2.5
    learned = torch.tensor(1.5, requires_grad=True)
    assert kernel(learned).settle(rows).requires_grad
    assert kernel(learned).settle(rows).dtype == torch.float64
    weight = torch.arange(9)
    assert torch.equal(kernel("mean").settle(rows, weight), mean_bandwidth(rows, weight))


def test_repr_reads_back() -> None:
    for kernel in (
        Gaussian(),
        Gaussian(2.0, scales=(1.0,)),
        Laplacian("mean", scales=(0.5, 2.0)),
        RationalQuadratic(3.0, alpha=0.5),
        Energy(),
    ):
        assert eval(repr(kernel)) == kernel
    assert repr(Gaussian(2.0, scales=(1.0,))) == "Gaussian(bandwidth=2, scales=(1,))"
    assert repr(RationalQuadratic(3.0, scales=(1.0,))) == "RationalQuadratic(alpha=1, bandwidth=3, scales=(1,))"


def test_equality_is_by_value() -> None:
    assert Gaussian(2.0) == Gaussian(2.0)
    assert hash(Gaussian(2.0)) == hash(Gaussian(2.0))
    others = [
        Gaussian(),
        Gaussian("mean"),
        Gaussian(2.0),
        Gaussian(2.0, scales=(1.0,)),
        Laplacian(2.0),
        RationalQuadratic(2.0),
        RationalQuadratic(2.0, alpha=2.0),
        Energy(),
    ]
    assert all(a != b for a, b in itertools.combinations(others, 2))
    assert len(set(others)) == len(others)
    assert Energy() == Energy()
    learned = Gaussian(torch.tensor(1.0))
    assert learned == learned
    assert learned != Gaussian(torch.tensor(1.0))


@pytest.mark.parametrize("bandwidth", [mean_bandwidth, median_bandwidth])
@pytest.mark.parametrize("scale", [1e-25, 1e20])
@pytest.mark.parametrize("counted", [False, True])
def test_bandwidths_grow_with_the_features_over_the_range_of_float32(bandwidth, scale: float, counted: bool) -> None:
    x = torch.randn(21, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.arange(21.0) % 3 if counted else None
    torch.testing.assert_close(bandwidth(scale * x, weight), scale * bandwidth(x, weight), rtol=1e-5, atol=0)


def test_every_kernel_satisfies_the_protocol() -> None:
    assert all(isinstance(kernel, Kernel) for kernel in (Gaussian(), Laplacian(), RationalQuadratic(), Energy()))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Gaussian(0.0), ValueError, "Gaussian: `bandwidth` must be a finite number > 0, got 0.0"),
        (lambda: Laplacian(-1.0), ValueError, "Laplacian: `bandwidth` must be a finite number > 0, got -1.0"),
        (lambda: Gaussian(math.nan), ValueError, "Gaussian: `bandwidth` must be a finite number > 0, got nan"),
        (lambda: Gaussian("modal"), ValueError, "`bandwidth` must be one of 'median', 'mean', got 'modal'"),  # type: ignore[arg-type]
        (lambda: Gaussian(torch.ones(2)), ValueError, r"`bandwidth` must be a scalar tensor, got \(2,\)"),
        (lambda: Gaussian(True), TypeError, "`bandwidth` must be a finite number > 0, got bool"),
        (lambda: Gaussian(scales=()), ValueError, "Gaussian: `scales` must hold at least one factor, got none"),
        (lambda: Gaussian(scales=(1.0, 0.0)), ValueError, "`scales` must be a finite number > 0, got 0.0"),
        (lambda: RationalQuadratic(alpha=0.0), ValueError, "RationalQuadratic: `alpha` must be a finite number > 0"),
        (lambda: median_bandwidth(torch.zeros(3)), ValueError, r"median_bandwidth: `rows` must have shape"),
        (lambda: mean_bandwidth(torch.zeros(3)), ValueError, r"mean_bandwidth: `rows` must have shape"),
    ],
)
def test_errors(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()


# Values outside the usual range.


@pytest.mark.parametrize("bandwidth", [mean_bandwidth, median_bandwidth])
@pytest.mark.parametrize("weight", [None, torch.ones(6), torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0, 1.0])])
@pytest.mark.parametrize("row", [0, 1, 5])
def test_nan_gives_a_nan_bandwidth(bandwidth, weight, row: int) -> None:
    rows = normal(6, 2).float()
    rows[row, 1] = math.nan
    assert bandwidth(rows, weight).isnan()


@pytest.mark.parametrize("bandwidth", [mean_bandwidth, median_bandwidth])
def test_rows_of_weight_zero_may_hold_anything(bandwidth) -> None:
    rows, weight = normal(6, 2), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 2.0])
    expected = bandwidth(rows, weight)
    rows[weight == 0] = math.nan
    assert torch.equal(bandwidth(rows, weight), expected)


@pytest.mark.parametrize("scale", [1e-30, 3e17, 1e35])
@pytest.mark.parametrize("weight", [None, torch.ones(200)])
def test_mean_bandwidth_of_far_and_near_rows_in_float32(scale: float, weight) -> None:
    rows = normal(200, 64).float()
    assert mean_bandwidth(rows * scale, weight).item() / scale == pytest.approx(mean_bandwidth(rows).item(), rel=1e-5)


@pytest.mark.parametrize("kernel", [Gaussian, Laplacian, RationalQuadratic])
@pytest.mark.parametrize("scale", [1e-20, 1e17])
def test_second_order_graphs_of_near_and_far_rows_in_float32(kernel, scale: float) -> None:
    """Gradients with ``create_graph`` and through a function transform equal those of the same rows, rescaled."""
    x, y = normal(8, 4).float(), normal(6, 4).float() + 0.5
    (expected,) = torch.autograd.grad(mmd_loss(x.requires_grad_(), y, kernel=kernel()), x)
    far = (x.detach() * scale).requires_grad_()
    (graph,) = torch.autograd.grad(mmd_loss(far, y * scale, kernel=kernel()), far, create_graph=True)
    transformed = torch.func.grad(lambda rows: mmd_loss(rows, y * scale, kernel=kernel()))(far.detach())
    for found in (graph, transformed):
        torch.testing.assert_close(found.detach() * scale, expected, rtol=1e-3, atol=1e-6)
