"""Maximum mean discrepancy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda.kernels import FIVE_SCALES, Energy, Gaussian, Kernel, Laplacian, RationalQuadratic
from mmda.losses import MMDLoss, mmd_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference import mmd as reference
from tests.reference.energy import energy_distance

SINGLE = Gaussian(2.0, scales=(1.0,))

#: Each kernel with a loop that computes it.
KERNELS: dict[str, tuple[Kernel, reference.Similarity]] = {
    "gaussian": (Gaussian(1.5), reference.gaussian(1.5, FIVE_SCALES)),
    "single gaussian": (SINGLE, reference.gaussian(2.0)),
    "scales without a chain": (Gaussian(1.5, scales=(0.3, 1.0)), reference.gaussian(1.5, (0.3, 1.0))),
    "laplacian": (Laplacian(1.5), reference.laplacian(1.5, FIVE_SCALES)),
    "rational quadratic": (
        RationalQuadratic(1.5, alpha=0.7),
        reference.rational_quadratic(1.5, 0.7, FIVE_SCALES),
    ),
    "cauchy": (RationalQuadratic(1.5, scales=(1.0,)), reference.rational_quadratic(1.5, 1.0)),
    "energy": (Energy(), reference.energy),
}
KERNEL_NAMES = sorted(KERNELS)


class Foreign:
    """The single Gaussian as a user's kernel."""

    at_zero = 1.0

    def settle(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        return torch.full((), 2.0, dtype=rows.dtype)

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return torch.exp(-squared / (2 * bandwidth**2))


# Values.


@pytest.mark.parametrize(
    ("kernel", "estimator", "value"),
    [
        (SINGLE, "biased", 0.1429080862),
        (SINGLE, "unbiased", 0.0899842193),
        (SINGLE, "linear", 0.1278883463),
        (Laplacian(2.0, scales=(1.0,)), "biased", 0.1026040466),
        (Energy(), "biased", 2 * 0.4932777046),
    ],
)
def test_reference_values(kernel, estimator, value) -> None:
    assert mmd_loss(*reference_sample(), kernel=kernel, estimator=estimator).item() == pytest.approx(value, abs=1.1e-10)


@pytest.mark.parametrize("name", KERNEL_NAMES)
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("block_size", [None, 1, 4])
def test_against_loops(name, estimator, block_size) -> None:
    """Sizes differ; by one tile of all pairs and by tiles of 1 and 4 rows that divide neither sample."""
    x, y = unequal_sample()
    kernel, similarity = KERNELS[name]
    expected = getattr(reference, estimator)(similarity, x.numpy(), y.numpy())
    found = mmd_loss(x, y, kernel=kernel, estimator=estimator, block_size=block_size)
    assert found.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", KERNEL_NAMES)
@pytest.mark.parametrize("n", [2, 7, 8])
def test_linear_against_loops(name, n) -> None:
    x, y = unequal_sample(n, n)
    kernel, similarity = KERNELS[name]
    expected = reference.linear(similarity, x.numpy(), y.numpy())
    assert mmd_loss(x, y, kernel=kernel, estimator="linear").item() == pytest.approx(expected, rel=1e-11)


def test_pooled_median_is_the_default_bandwidth() -> None:
    x, y = unequal_sample()
    sigma = reference.median_distance(x.numpy(), y.numpy())
    expected = reference.biased(reference.gaussian(sigma, FIVE_SCALES), x.numpy(), y.numpy())
    assert mmd_loss(x, y).item() == pytest.approx(expected, rel=1e-11)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 7), seed=st.integers(0, 2**16))
def test_biased_from_unbiased(n: int, seed: int) -> None:
    """V_xx = (n - 1) / n U_xx + 1 / n, where two target rows so far away that only k(y, y) = 1 remains of them."""
    x, _ = unequal_sample(n, 2, seed=seed)
    far = torch.tensor([[100.0, 0, 0], [-100.0, 0, 0]], dtype=torch.float64)
    v = mmd_loss(x, far, kernel=SINGLE).item() - 1 / 2
    u = mmd_loss(x, far, kernel=SINGLE, estimator="unbiased").item()
    assert v == pytest.approx((n - 1) / n * u + 1 / n, abs=1e-10)


def test_points_far_apart_in_closed_form() -> None:
    """Every kernel value between different rows is 0: V = 1/n + 1/m, U = 0."""
    x = torch.arange(5, dtype=torch.float64).unsqueeze(1) * 1e6
    y = (torch.arange(3, dtype=torch.float64).unsqueeze(1) + 100) * 1e6
    assert mmd_loss(x, y, kernel=SINGLE).item() == pytest.approx(1 / 5 + 1 / 3, rel=1e-14)
    assert mmd_loss(x, y, kernel=SINGLE, estimator="unbiased").item() == 0


def test_two_points_in_closed_form() -> None:
    x, y = torch.zeros(1, 1).double(), torch.full((1, 1), 3.0).double()
    assert mmd_loss(x, y, kernel=SINGLE).item() == pytest.approx(2 - 2 * math.exp(-9 / 8), rel=1e-14)


def test_energy_kernel_gives_the_energy_distance() -> None:
    x, y = unequal_sample()
    expected = 2 * energy_distance(x.numpy(), y.numpy())
    assert mmd_loss(x, y, kernel=Energy()).item() == pytest.approx(expected, rel=1e-11)


def test_unbiased_may_be_negative_and_averages_to_zero_under_equal_laws() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 2, 10, 2, dtype=torch.float64, generator=generator)
    values = torch.stack([mmd_loss(x, y, kernel=SINGLE, estimator="unbiased") for x, y in draws])
    assert (values < 0).any()
    assert abs(values.mean().item()) < 3 * values.std().item() / math.sqrt(200)
    biased = torch.stack([mmd_loss(x, y, kernel=SINGLE) for x, y in draws[:50]])
    assert (biased >= 0).all()


# Far from the origin, half precision.


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("block_size", [None, 5])
def test_float32_with_a_common_offset(estimator, offset, block_size) -> None:
    """Against loops over the same float32 numbers, exactly widened."""
    x, y = ((rows + offset).float() for rows in reference_sample())
    exact = getattr(reference, estimator)(reference.gaussian(2.0), x.double().numpy(), y.double().numpy())
    found = mmd_loss(x, y, kernel=SINGLE, estimator=estimator, block_size=block_size)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_float32_gradient_with_a_common_offset(offset) -> None:
    x, y = ((rows + offset).float().requires_grad_() for rows in unequal_sample())
    exact = reference.gaussian_gradient(x.detach().double().numpy(), y.detach().double().numpy(), 2.0)
    mmd_loss(x, y, kernel=SINGLE).backward()
    for rows, expected in zip((x, y), exact):
        np.testing.assert_allclose(rows.grad.numpy(), expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype) -> None:
    x, y = (rows.float() for rows in reference_sample())
    outside = mmd_loss(x, y)
    with torch.autocast("cpu", dtype=dtype):
        inside = mmd_loss(x, y)
        assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    half_x, half_y = x.to(dtype), y.to(dtype)
    assert torch.equal(mmd_loss(half_x, half_y), mmd_loss(half_x.float(), half_y.float()))


# Gradients.


@pytest.mark.parametrize("block_size", [None, 1, 4])
def test_gradient_against_loops(block_size) -> None:
    x, y = (rows.requires_grad_() for rows in unequal_sample())
    mmd_loss(x, y, kernel=SINGLE, block_size=block_size).backward()
    expected = reference.gaussian_gradient(x.detach().numpy(), y.detach().numpy(), 2.0)
    for rows, gradient in zip((x, y), expected):
        np.testing.assert_allclose(rows.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)
        assert (rows.grad != 0).all()


@pytest.mark.parametrize("name", ["gaussian", "laplacian", "rational quadratic", "energy"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_derivatives(name, estimator) -> None:
    x, y = (rows.requires_grad_() for rows in unequal_sample(3, 3, 2))
    kernel, _ = KERNELS[name]
    weight = {} if estimator == "linear" else {"source_weight": torch.tensor([1.0, 2.0, 0.0])}
    for block_size in (None, 3):
        function = lambda a, b: mmd_loss(  # noqa: E731
            a,
            b,
            kernel=kernel,
            estimator=estimator,
            block_size=block_size,  # noqa: B023
            **weight,
        )
        assert torch.autograd.gradcheck(function, (x, y))
        if block_size is None:
            assert torch.autograd.gradgradcheck(function, (x, y))


def test_one_side_without_gradient() -> None:
    x, y = unequal_sample()
    expected = reference.gaussian_gradient(x.numpy(), y.numpy(), 2.0)
    for position, rows in enumerate((x, y)):
        sides = [x.clone(), y.clone()]
        sides[position].requires_grad_()
        mmd_loss(*sides, kernel=SINGLE).backward()
        np.testing.assert_allclose(sides[position].grad.numpy(), expected[position], rtol=1e-10, atol=1e-14)
        assert rows.grad is None
        assert sides[1 - position].grad is None


def test_a_learned_bandwidth_has_the_right_slope() -> None:
    x, y = unequal_sample()
    sigma = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mmd_loss(x, y, kernel=Gaussian(sigma, scales=(1.0,))), sigma)
    step = 1e-5
    above, below = (
        reference.biased(reference.gaussian(1.7 + change), x.numpy(), y.numpy()) for change in (step, -step)
    )
    assert slope.item() == pytest.approx((above - below) / (2 * step), rel=1e-7)


def test_a_kernel_of_ones_own() -> None:
    x, y = (rows.requires_grad_() for rows in unequal_sample())
    for estimator in ("biased", "unbiased", "linear"):
        sides = (x, y) if estimator != "linear" else (x[:6], y)
        own, ours = (mmd_loss(*sides, kernel=k, estimator=estimator) for k in (Foreign(), SINGLE))
        torch.testing.assert_close(own, ours, rtol=1e-12, atol=0)
        gradients = [torch.autograd.grad(value, (x, y)) for value in (own, ours)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_more_rows_than_one_tile() -> None:
    """Past the size up to which all pairs are one tile, against the dense formula in autograd."""
    x, y = (rows.requires_grad_() for rows in unequal_sample(310, 290, 3))
    for estimator in ("biased", "unbiased"):
        own, ours = (mmd_loss(x, y, kernel=k, estimator=estimator) for k in (Foreign(), SINGLE))
        torch.testing.assert_close(own, ours, rtol=1e-10, atol=0)
        gradients = [torch.autograd.grad(value, (x, y)) for value in (own, ours)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-13)


# Small, equal and odd samples.


def test_one_row() -> None:
    x, y = unequal_sample()
    expected = reference.biased(reference.gaussian(2.0), x[:1].numpy(), y.numpy())
    assert mmd_loss(x[:1], y, kernel=SINGLE).item() == pytest.approx(expected, rel=1e-12)
    text = r"mmd_loss: `source` must have at least 2 samples for estimator='unbiased', got \(1, 3\)"
    with pytest.raises(ValueError, match=text):
        mmd_loss(x[:1], y, estimator="unbiased")
    with pytest.raises(ValueError, match=r"`target` must have at least 2 samples for estimator='unbiased'"):
        mmd_loss(x, y[:1], estimator="unbiased")


@pytest.mark.parametrize("kernel", [Gaussian(), Gaussian("mean"), Laplacian(), RationalQuadratic(), Energy()])
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_constant_batches(kernel, estimator) -> None:
    """All rows equal, and their mean inexact: value and gradient are zero up to rounding."""
    row = torch.tensor([7.3, -0.1, 1e3])
    x, y = (row.repeat(6, 1).requires_grad_() for _ in range(2))
    value = mmd_loss(x, y, kernel=kernel, estimator=estimator)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert x.grad.abs().max() < 1e-6
    assert y.grad.abs().max() < 1e-6


def test_equal_samples() -> None:
    """The biased value is 0 at its minimum, and so is its gradient; the unbiased one is 2 (U_xx - V_xx) = 2 (U_xx - 1)
    / n."""
    x, _ = unequal_sample()
    x.requires_grad_()
    value = mmd_loss(x, x.detach().clone(), kernel=SINGLE)
    value.backward()
    assert abs(value.item()) < 1e-15
    assert x.grad.abs().max() < 1e-15
    u = reference.mean_of_different(reference.gaussian(2.0), x.detach().numpy())
    found = mmd_loss(x, x.detach().clone(), kernel=SINGLE, estimator="unbiased")
    assert found.item() == pytest.approx(2 * (u - 1) / 9, rel=1e-12)


def test_strided_and_expanded_inputs() -> None:
    x, y = unequal_sample(6, 6, 3)
    expected = mmd_loss(x, y)
    assert torch.equal(mmd_loss(x.T.contiguous().T, y), expected)
    assert torch.equal(mmd_loss(torch.stack([x, y], 2)[..., 0], y), expected)
    row = x[:1].expand(6, 3)
    torch.testing.assert_close(mmd_loss(row, y), mmd_loss(row.clone(), y))


def test_inputs_are_left_as_they_were() -> None:
    x, y = unequal_sample()
    copies = x.clone(), y.clone()
    mmd_loss(x, y, block_size=4)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


# Weights and masks.


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    estimator=st.sampled_from(["biased", "unbiased"]),
    name=st.sampled_from(KERNEL_NAMES),
    block_size=st.sampled_from([None, 4]),
)
def test_weights_are_counts(counts, estimator, name, block_size) -> None:
    x, y = unequal_sample(7, 5)
    a, b = counts[:7], counts[7:]
    least = 2 if estimator == "unbiased" else 1
    if min(sum(a), sum(b)) < least:
        a, b = [1, *a[1:-1], 1], [1, *b[1:-1], 1]
    kernel, similarity = KERNELS[name]
    repeated = np.repeat(x.numpy(), a, axis=0), np.repeat(y.numpy(), b, axis=0)
    weights = {"source_weight": torch.tensor(a), "target_weight": torch.tensor(b)}
    found = mmd_loss(x, y, kernel=kernel, estimator=estimator, block_size=block_size, **weights)
    assert found.item() == pytest.approx(getattr(reference, estimator)(similarity, *repeated), rel=1e-9, abs=1e-12)


def test_weights_are_counts_in_the_bandwidth_too() -> None:
    x, y = unequal_sample()
    count = torch.arange(9) % 3
    for kernel in (Gaussian(), Gaussian("mean")):
        weighted = mmd_loss(x, y, kernel=kernel, source_weight=count)
        torch.testing.assert_close(weighted, mmd_loss(x.repeat_interleave(count, 0), y, kernel=kernel))


def test_weights_may_carry_a_gradient() -> None:
    x, y = unequal_sample(4, 3, 2)
    weight = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: mmd_loss(x, y, kernel=SINGLE, source_weight=w), (weight,))


@pytest.mark.parametrize(
    "kernel", [Gaussian(), Gaussian("mean"), Laplacian(), RationalQuadratic(), Energy(), Foreign()]
)
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("filler", [math.nan, math.inf, 1e300])
def test_padding_is_inert(kernel, estimator, filler) -> None:
    x, y = unequal_sample()
    padded = torch.full((3, 5, 3), filler, dtype=torch.float64)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, :4] = mask[1, 1:4] = mask[2, 3:] = True
    padded[mask] = x
    padded.requires_grad_()
    x.requires_grad_()
    inside = mmd_loss(padded, y, kernel=kernel, estimator=estimator, source_mask=mask)
    outside = mmd_loss(x, y, kernel=kernel, estimator=estimator)
    torch.testing.assert_close(inside, outside, rtol=1e-12, atol=0)
    (found,), (expected,) = torch.autograd.grad(inside, padded), torch.autograd.grad(outside, x)
    torch.testing.assert_close(found[mask], expected, rtol=1e-10, atol=1e-15)
    assert torch.equal(found[~mask], torch.zeros_like(found[~mask]))


def test_padding_does_not_move_the_bandwidth_of_large_batches() -> None:
    x, y = unequal_sample(400, 300)
    padded = torch.cat([torch.full((250, 3), math.nan, dtype=torch.float64), x])
    found = mmd_loss(padded, y, source_mask=torch.arange(650) >= 250)
    torch.testing.assert_close(found, mmd_loss(x, y), rtol=1e-10, atol=0)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_nothing_left_gives_a_connected_zero(estimator) -> None:
    x, y = (rows.requires_grad_() for rows in unequal_sample())
    for masks in ({"source_mask": torch.zeros(9, dtype=torch.bool)}, {"target_weight": torch.zeros(6)}):
        value = mmd_loss(x, y, estimator=estimator, **masks)
        assert value.item() == 0
        for gradient in torch.autograd.grad(value, (x, y)):
            assert torch.equal(gradient, torch.zeros_like(gradient))


# Errors and the module.


@pytest.mark.parametrize(
    ("sizes", "options", "error", "text"),
    [
        (((4, 2), (4, 3)), {}, ValueError, r"mmd_loss: `target` must have as many features as `source` \(2\), got 3"),
        (((4,), (4, 3)), {}, ValueError, r"mmd_loss: `source` must have shape \(samples, features\), got \(4,\)"),
        (((4, 2), (3, 2)), {"estimator": "linear"}, ValueError, r"`target` must have the shape of `source` \(4, 2\)"),
        (((1, 2), (1, 2)), {"estimator": "linear"}, ValueError, "`source` must have at least 2 samples for estimator="),
        (
            ((4, 2), (4, 2)),
            {"estimator": "linear", "source_weight": torch.ones(4)},
            ValueError,
            "`estimator` must be 'biased' or 'unbiased' with weights or masks, got 'linear'",
        ),
        (
            ((4, 2), (4, 2)),
            {"estimator": "best"},
            ValueError,
            "`estimator` must be one of 'biased', 'unbiased', 'linear'",
        ),
        (((4, 2), (4, 2)), {"block_size": 0}, ValueError, "`block_size` must be an integer >= 1, got 0"),
        (((4, 2), (4, 2)), {"target_mask": torch.ones(4)}, TypeError, "`target_mask` must be a bool tensor"),
    ],
)
def test_errors(sizes, options, error, text) -> None:
    with pytest.raises(error, match=text):
        mmd_loss(*(torch.zeros(size) for size in sizes), **options)


def test_module_is_the_function() -> None:
    x, y = unequal_sample()
    module = MMDLoss(kernel=SINGLE, estimator="unbiased", block_size=4)
    expected = mmd_loss(x, y, kernel=SINGLE, estimator="unbiased", block_size=4)
    assert torch.equal(module(x, y), expected)
    assert repr(module) == f"MMDLoss(kernel={SINGLE!r}, estimator='unbiased', block_size=4)"
    with pytest.raises(ValueError, match="MMDLoss: `estimator` must be one of"):
        MMDLoss(estimator="best")  # type: ignore[arg-type]
