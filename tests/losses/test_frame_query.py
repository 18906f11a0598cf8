"""Listwise likelihood of the moment's frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda.losses import FrameQueryLoss, frame_query_loss
from tests.losses._videos import FILLERS, draw_videos, repeated
from tests.reference import retrieval as reference

MOMENTS = [[1, 2], [0], [0, 3, 6], [0]]


def moment_mask(moments: list[list[int]], longest: int) -> Tensor:
    mask = torch.zeros(len(moments), longest, dtype=torch.bool)
    for row, moment in enumerate(moments):
        mask[row, moment] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
    temperature=st.sampled_from([0.05, 0.3, 2.0]),
    filler=st.sampled_from(FILLERS),
)
def test_against_loops_whatever_padding_holds(lengths, seed, temperature, filler) -> None:
    """Moments of any set of frames; a video without a moment frame does not count."""
    videos = draw_videos(lengths, seed=seed)
    rng = np.random.default_rng(seed)
    moments = [[t for t in range(length) if rng.random() < 0.4] for length in lengths]
    moments[0] = moments[0] or [0]
    frames, queries, mask = videos.padded(filler, extra=1)
    frames.requires_grad_()
    inside = moment_mask(moments, frames.shape[1]) | ~mask  # nor do the values of the moment mask in padding
    value = frame_query_loss(frames, queries, inside, temperature=temperature, frame_mask=mask)
    expected = reference.frame_query(videos.frames, videos.queries, moments, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(value, frames)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))


def test_least_value_is_log_of_the_moments_length() -> None:
    """Three frames along the query, two opposite, a low temperature: the three share all of the probability."""
    frames = torch.tensor([[[1.0, 0], [2, 0], [5, 0], [-1, 0], [-3, 0]]])
    inside = torch.tensor([[True, True, True, False, False]])
    value = frame_query_loss(frames, torch.tensor([[4.0, 0]]), inside, temperature=0.05)
    assert value.item() == pytest.approx(math.log(3), rel=1e-6)


def test_equal_frames_in_closed_form() -> None:
    """Equal scores: -log 1/5 for any moment and temperature."""
    frames = torch.ones(1, 5, 3)
    for inside in ([True, False, False, False, False], [True, True, False, True, False]):
        value = frame_query_loss(frames, torch.randn(1, 3), torch.tensor([inside]))
        assert value.item() == pytest.approx(math.log(5), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_weights_are_counts(counts) -> None:
    videos = draw_videos()
    frames, queries, mask = videos.padded()
    inside = moment_mask(MOMENTS, 7)
    value = frame_query_loss(frames, queries, inside, frame_mask=mask, weight=torch.tensor(counts))
    index = repeated(counts)
    chosen = videos.pick(index)
    expected = reference.frame_query(chosen.frames, chosen.queries, [MOMENTS[i] for i in index], 0.1)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_absent_rows_may_hold_anything() -> None:
    """A row without a moment frame, without a frame, or of weight 0 does not affect the loss."""
    videos = draw_videos()
    frames, queries, mask = videos.padded()
    inside = moment_mask(MOMENTS, 7)
    expected = frame_query_loss(frames[:1], queries[:1], inside[:1], frame_mask=mask[:1])
    inside[1], mask[2] = False, False
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    frames[1:], queries[1:] = math.nan, math.inf
    frames.requires_grad_(), queries.requires_grad_()
    value = frame_query_loss(frames, queries, inside, frame_mask=mask, weight=weight)
    value.backward()
    torch.testing.assert_close(value, expected)
    for leaf in (frames, queries):
        assert leaf.grad[0].abs().max() > 0
        assert torch.equal(leaf.grad[1:], torch.zeros_like(leaf.grad[1:]))


def test_no_row_with_a_moment_gives_a_connected_zero() -> None:
    frames = torch.randn(2, 3, 4, requires_grad=True)
    value = frame_query_loss(frames, torch.randn(2, 4), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(frames.grad, torch.zeros_like(frames))


def test_lengths_of_features_do_not_matter() -> None:
    frames, queries, mask = draw_videos().padded()
    inside = moment_mask(MOMENTS, 7)
    scale = torch.rand(4, 7, 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(
        frame_query_loss(scale * frames, 9 * queries, inside, frame_mask=mask),
        frame_query_loss(frames, queries, inside, frame_mask=mask),
        rtol=1e-9,
        atol=0,
    )


def test_derivatives() -> None:
    frames, queries, mask = draw_videos((3, 1, 2), d=2).padded()
    inside = moment_mask([[1], [0], []], 3)
    temperature = torch.tensor(0.7, dtype=torch.float64)
    leaves = tuple(leaf.requires_grad_() for leaf in (frames, queries, temperature))

    def function(f: Tensor, q: Tensor, tau: Tensor) -> Tensor:
        return frame_query_loss(f, q, inside, temperature=tau, frame_mask=mask)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_autocast_changes_nothing() -> None:
    frames, queries, mask = draw_videos().padded()
    arguments = frames.float(), queries.float(), moment_mask(MOMENTS, 7)
    outside = frame_query_loss(*arguments, frame_mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = frame_query_loss(*arguments, frame_mask=mask)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize(
    ("frames", "queries", "inside", "options", "error", "text"),
    [
        (
            (2, 3),
            (2, 4),
            (2, 3),
            {},
            ValueError,
            r"`frames` must have shape \(videos, frames, features\), got \(2, 3\)",
        ),
        ((2, 3, 4), (2, 5), (2, 3), {}, ValueError, r"`queries` must have as many features as `frames` \(4\), got 5"),
        ((2, 3, 4), (3, 4), (2, 3), {}, ValueError, r"`queries` must have one row per video \(2\), got \(3, 4\)"),
        ((2, 3, 4), (2, 4), (2, 4), {}, ValueError, r"`moment_mask` must have shape \(2, 3\), got \(2, 4\)"),
        ((2, 3, 4), (2, 4), (2, 3), {"temperature": 0.0}, ValueError, "`temperature` must be a finite number > 0"),
        ((2, 3, 4), (2, 4), (2, 3), {"frame_mask": torch.ones(2, 3)}, TypeError, "`frame_mask` must be a bool tensor"),
        ((2, 3, 4), (2, 4), (2, 3), {"weight": torch.ones(3)}, ValueError, r"`weight` must have shape \(2,\), got"),
    ],
)
def test_errors(frames, queries, inside, options, error, text) -> None:
    with pytest.raises(error, match="frame_query_loss: " + text):
        frame_query_loss(torch.zeros(frames), torch.zeros(queries), torch.ones(inside, dtype=torch.bool), **options)


def test_module_is_the_function() -> None:
    frames, queries, mask = draw_videos().padded()
    inside = moment_mask(MOMENTS, 7)
    expected = frame_query_loss(frames, queries, inside, temperature=0.3, frame_mask=mask)
    assert torch.equal(FrameQueryLoss(temperature=0.3)(frames, queries, inside, frame_mask=mask), expected)
    with pytest.raises(ValueError, match="FrameQueryLoss: `temperature` must be a finite number > 0, got -1"):
        FrameQueryLoss(temperature=-1)
