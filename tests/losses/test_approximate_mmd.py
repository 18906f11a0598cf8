"""Approximate MMD: the exact estimators in the limit, and the rate at which each error decreases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmda.kernels import Gaussian, Laplacian
from mmda.losses import BlockMMDLoss, RandomFeatureMMDLoss, block_mmd_loss, mmd_loss, random_feature_mmd_loss
from mmda.losses.approximate_mmd import _draw, _orthogonal

KERNEL = Gaussian(2.0)


def samples(seed: int, n: int, m: int, d: int = 3, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, 1.2 * torch.randn(m, d, generator=generator, dtype=torch.float64) + shift


@pytest.mark.parametrize(("n", "m"), [(20, 20), (17, 31), (2, 5)])
def test_one_block_is_the_unbiased_estimator(n: int, m: int) -> None:
    x, y = samples(0, n, m)
    for kernel in (KERNEL, Laplacian(1.5)):
        exact = mmd_loss(x, y, kernel=kernel, estimator="unbiased")
        assert block_mmd_loss(x, y, kernel=kernel, block_rows=64).item() == pytest.approx(exact.item(), abs=1e-14)


def test_blocks_average_over_consecutive_rows() -> None:
    x, y = samples(1, 25, 38)
    blocks = [
        mmd_loss(x[8 * b : 8 * b + 8], y[12 * b : 12 * b + 12], kernel=KERNEL, estimator="unbiased") for b in range(3)
    ]
    assert block_mmd_loss(x, y, kernel=KERNEL, block_rows=8).item() == pytest.approx(sum(blocks).item() / 3, abs=1e-14)


def test_blocks_are_unbiased_with_variance_falling_in_their_size() -> None:
    trials = [samples(100 + seed, 128, 128, shift=0.0) for seed in range(200)]
    spread = {}
    for rows in (2, 8, 32):
        values = torch.stack([block_mmd_loss(x, y / 1.2, kernel=KERNEL, block_rows=rows) for x, y in trials])
        # equal distributions: the estimated number is zero
        assert abs(values.mean().item()) < 4 * values.std().item() / math.sqrt(len(trials))
        spread[rows] = values.var().item()
    # variance 1 / (n B) up to the factor (B - 1) / B
    assert 2.5 < spread[2] / spread[8] < 10
    assert 2.5 < spread[8] / spread[32] < 8


def test_features_approach_the_exact_number_with_their_count() -> None:
    x, y = samples(2, 60, 80)
    exact = mmd_loss(x, y, kernel=KERNEL, estimator="unbiased")
    error = {}
    for count in (30, 480, 7680):
        values = [
            random_feature_mmd_loss(x, y, kernel=KERNEL, n_features=count, generator=torch.Generator().manual_seed(s))
            for s in range(20)
        ]
        error[count] = (torch.stack(values) - exact).square().mean().sqrt().item()
    # sixteen times the features give a quarter of the error; a loose bound, from 20 draws
    assert error[480] < error[30] / 2.2
    assert error[7680] < error[480] / 2.2
    assert error[7680] < 0.02 * exact.item()


@pytest.mark.parametrize(("scales", "count"), [((1.0,), 7), ((0.25, 1.0, 4.0), 4), ((0.25, 0.5, 1.0, 2.0, 4.0), 6)])
def test_features_are_unbiased_whatever_their_number(scales: tuple[float, ...], count: int) -> None:
    """Scales have equal weight even if one has more frequencies: the mean over draws is the exact value."""
    x, y = samples(4, 30, 20)
    kernel = Gaussian(1.0, scales=scales)
    exact = mmd_loss(x, y, kernel=kernel, estimator="unbiased")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [random_feature_mmd_loss(x, y, kernel=kernel, n_features=count, generator=generator) for _ in range(2000)]
    )
    given = torch.stack(
        [
            random_feature_mmd_loss(
                x, y, kernel=kernel, projections=torch.randn(count, 3, generator=generator, dtype=torch.float64)
            )
            for _ in range(2000)
        ]
    )
    for values in (drawn, given):
        assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(2000)


@pytest.mark.parametrize(("count", "width"), [(5, 12), (12, 12), (30, 12), (6, 1)])
def test_frequencies_are_orthogonal_in_groups_and_no_more_than_asked_for(
    count: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.zeros(1, width, dtype=torch.float64)
    for generator in (None, torch.Generator().manual_seed(0)):
        drawn = _orthogonal(count, _draw(count, rows, "fixed", generator))
        assert drawn.shape == (count, width)
        for group in drawn.split(min(count, width)):
            product = group @ group.T
            torch.testing.assert_close(product, torch.diag(product.diagonal()), rtol=0, atol=1e-10)
    sizes: list[tuple[int, ...]] = []
    decompose = torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda rows: sizes.append(rows.shape) or decompose(rows))
    _orthogonal(count, _draw(count, rows, "fixed", None))
    assert [size[1:] for size in sizes] == [(width, min(count, width))]


def test_features_of_repeated_and_masked_rows() -> None:
    x, y = samples(3, 9, 11)
    counts = torch.tensor([2, 0, 1, 1, 3, 1, 0, 1, 1])
    repeated = x.repeat_interleave(counts, 0)
    expected = random_feature_mmd_loss(repeated, y, kernel=KERNEL).item()
    weighted = random_feature_mmd_loss(x, y, kernel=KERNEL, source_weight=counts)
    assert weighted.item() == pytest.approx(expected, abs=1e-13)
    padded = torch.cat([repeated, torch.full((3, 3), torch.nan, dtype=torch.float64)]).unsqueeze(0)
    mask = torch.arange(13).unsqueeze(0) < 10
    masked = random_feature_mmd_loss(padded, y, kernel=KERNEL, source_mask=mask)
    assert masked.item() == pytest.approx(expected, abs=1e-13)


def test_features_of_one_scale_are_unbiased_for_the_kernel() -> None:
    x, y = samples(4, 2, 2)
    kernel = Gaussian(1.5, scales=(1.0,))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [random_feature_mmd_loss(x, y, kernel=kernel, n_features=3, generator=generator) for _ in range(800)]
    )
    exact = mmd_loss(x, y, kernel=kernel, estimator="unbiased").item()
    assert abs(draws.mean().item() - exact) < 4 * draws.std().item() / math.sqrt(800)


def test_gradients_reach_both_sides() -> None:
    x, y = (t.requires_grad_() for t in samples(5, 4, 5, d=2))
    for loss in (
        BlockMMDLoss(kernel=KERNEL, block_rows=2),
        RandomFeatureMMDLoss(kernel=KERNEL, n_features=5, draws="fixed"),
    ):
        assert torch.autograd.gradcheck(loss, (x, y))
        assert torch.autograd.gradgradcheck(loss, (x, y))


def test_same_frequencies_without_a_generator_and_new_ones_with() -> None:
    x, y = samples(6, 10, 10)
    assert random_feature_mmd_loss(x, y) == random_feature_mmd_loss(x, y)
    generator = torch.Generator().manual_seed(0)
    first, second = (random_feature_mmd_loss(x, y, generator=generator) for _ in range(2))
    assert first != second


def test_messages() -> None:
    x, y = samples(7, 4, 4)
    with pytest.raises(ValueError, match=r"block_mmd_loss: `source` must have at least 2 samples, got \(1, 3\)"):
        block_mmd_loss(x[:1], y)
    with pytest.raises(ValueError, match="block_mmd_loss: `block_rows` must be an integer >= 2, got 1"):
        block_mmd_loss(x, y, block_rows=1)
    with pytest.raises(TypeError, match=r"random_feature_mmd_loss: `kernel` must be a mmda\.kernels\.Gaussian, got L"):
        random_feature_mmd_loss(x, y, kernel=Laplacian())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`projections` must have at least 5 rows, one per scale, got 4"):
        random_feature_mmd_loss(torch.zeros(3, 2), torch.zeros(3, 2), projections=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="RandomFeatureMMDLoss: `n_features` must be an integer >= 5, got 4"):
        RandomFeatureMMDLoss(n_features=4)
