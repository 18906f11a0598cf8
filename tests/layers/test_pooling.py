"""Pooling over time, against NumPy on the valid steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda.layers import AttentionPool, MaskedMeanPool
from tests.losses._videos import FILLERS, draw_videos

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def double_pool(seed: int, hidden: int | None = None) -> AttentionPool:
    generator = torch.Generator().manual_seed(seed)
    pool = AttentionPool(3, hidden=hidden).double()
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return pool


def attention_by_loops(pool: AttentionPool, rows: np.ndarray) -> np.ndarray:
    """Equations 5 to 7: u_t = tanh(W x_t + b), a = softmax(w . u), sum of a_t x_t."""
    weight, bias, score = (p.detach().numpy() for p in (pool.inner.weight, pool.inner.bias, pool.score.weight[0]))
    scores = np.array([score @ np.tanh(weight @ row + bias) for row in rows])
    shares = np.exp(scores - scores.max())
    return (shares[:, None] * rows).sum(0) / shares.sum()


@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 2**16), filler=st.sampled_from(FILLERS))
def test_against_numpy_whatever_padding_holds(lengths, seed, filler) -> None:
    videos = draw_videos(lengths, seed=seed)
    x, _, mask = videos.padded(filler, extra=1)
    x.requires_grad_()
    pool = double_pool(seed, hidden=5)
    for found, expected in (
        (MaskedMeanPool()(x, mask=mask), [rows.mean(0) for rows in videos.frames]),
        (pool(x, mask=mask), [attention_by_loops(pool, rows) for rows in videos.frames]),
    ):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
        gradients = torch.autograd.grad(found.square().sum(), [x, *pool.parameters()], allow_unused=True)
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
        assert torch.equal(gradients[0][~mask], torch.zeros_like(gradients[0][~mask]))


def test_without_a_mask_every_step_counts() -> None:
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    everything = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(MaskedMeanPool()(x), x.mean(1))
    pool = double_pool(0)
    assert torch.equal(pool(x), pool(x, mask=everything))


def test_a_row_without_a_step_pools_to_zero() -> None:
    x, nothing = torch.full((2, 3, 3), torch.nan, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.bool)
    x.requires_grad_()
    for pool in (MaskedMeanPool(), double_pool(0)):
        value = pool(x, mask=nothing)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert not value.any()
        assert not gradient.any()


def test_attention_without_score_is_the_mean() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    pool = double_pool(0)
    torch.nn.init.zeros_(pool.score.weight)
    torch.testing.assert_close(pool(x), x.mean(1))


def test_derivatives() -> None:
    x, _, mask = draw_videos((3, 1)).padded()
    for pool in (MaskedMeanPool(), double_pool(0, hidden=2)):
        function = lambda a: pool(a, mask=mask)  # noqa: B023, E731
        assert torch.autograd.gradcheck(function, (x.requires_grad_(),))


def test_half_precision_is_widened_and_autocast_changes_nothing() -> None:
    x: Tensor = torch.randn(2, 3, 4)
    for pool in (MaskedMeanPool(), AttentionPool(4)):
        outside = pool(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = pool(x)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, outside)
        assert torch.equal(pool(x.bfloat16()), pool(x.bfloat16().float()))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: MaskedMeanPool()(torch.zeros(2, 3)),
            ValueError,
            r"MaskedMeanPool: `x` must have shape \(batch, time,",
        ),
        (lambda: AttentionPool(4)(torch.zeros(2, 3)), ValueError, r"AttentionPool: `x` must have shape \(batch, time,"),
        (lambda: AttentionPool(0), ValueError, "AttentionPool: `features` must be an integer >= 1, got 0"),
        (lambda: AttentionPool(4, hidden=0), ValueError, "AttentionPool: `hidden` must be an integer >= 1, got 0"),
        (
            lambda: MaskedMeanPool()(torch.zeros(2, 3, 4), mask=torch.ones(2, 4, dtype=torch.bool)),
            ValueError,
            r"MaskedMeanPool: `mask` must have shape \(2, 3\), got \(2, 4\)",
        ),
        (
            lambda: AttentionPool(4)(torch.zeros(2, 3, 4), mask=torch.ones(2, 3)),
            TypeError,
            r"AttentionPool: `mask` must be a bool tensor \(True = keep\), got torch.float32",
        ),
        (lambda: AttentionPool(4)(torch.zeros(2, 3, 5)), ValueError, "AttentionPool: `x` must have 4 features, got 5"),
    ],
)
def test_errors(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("parameters", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("features", [torch.bfloat16, torch.float32, torch.float64])
def test_attention_computes_in_the_wider_type_of_features_and_parameters(parameters, features) -> None:
    pool = double_pool(2).to(parameters)
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(features)
    expected = copy.deepcopy(pool).double()(x.double())
    found = pool(x)
    assert found.dtype == torch.promote_types(torch.promote_types(parameters, features), torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
