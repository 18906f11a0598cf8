"""Contrast of videos and queries over attended frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mmda.losses import AttendedContrastiveLoss, attended_contrastive_loss
from tests.losses._videos import FILLERS, Videos, draw_videos, negatives_of, repeated
from tests.reference import retrieval as reference

SETTINGS = (
    {"temperature": 0.1, "attention_temperature": 0.1},
    {"temperature": 0.5, "attention_temperature": 0.03},
    {"temperature": 2.0, "attention_temperature": 5.0},
)


def oracle(
    videos: Videos,
    negatives: NDArray[np.bool_],
    *,
    temperature: float = 0.1,
    attention_temperature: float = 0.1,
    attend_by: Videos | None = None,
) -> float:
    by = videos if attend_by is None else attend_by
    attention = reference.attention(by.frames, by.queries, attention_temperature)
    return reference.pair_contrast(
        reference.attended_scores(videos.frames, videos.queries, attention, temperature), negatives
    )


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    setting=st.sampled_from(SETTINGS),
    filler=st.sampled_from(FILLERS),
)
def test_against_loops_whatever_padding_holds(lengths, seed, setting, filler) -> None:
    """Videos of different lengths, false negatives left out, NaN and infinities behind the mask."""
    videos = draw_videos(lengths, seed=seed)
    allowed = np.random.default_rng(seed).random((len(lengths), len(lengths))) < 0.6
    frames, queries, mask = videos.padded(filler, extra=1)
    frames.requires_grad_()
    value = attended_contrastive_loss(
        frames, queries, frame_mask=mask, negative_mask=torch.from_numpy(allowed), **setting
    )
    expected = oracle(videos, negatives_of(range(len(lengths)), allowed), **setting)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(value, frames)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any), setting=st.sampled_from(SETTINGS))
def test_weights_are_counts(counts, setting) -> None:
    """A pair of weight 2 equals two copies that are not negatives of each other; one of weight 0 is never a
    negative."""
    videos = draw_videos()
    allowed = np.random.default_rng(1).random((4, 4)) < 0.7
    frames, queries, mask = videos.padded()
    value = attended_contrastive_loss(
        frames,
        queries,
        frame_mask=mask,
        negative_mask=torch.from_numpy(allowed),
        weight=torch.tensor(counts),
        **setting,
    )
    index = repeated(counts)
    expected = oracle(videos.pick(index), negatives_of(index, allowed), **setting)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_pairs_of_one_video_or_one_text_are_no_negatives(setting) -> None:
    """Pairs 0 and 1 are one video with two texts, pairs 2 and 3 two videos with one text: left out of both sums."""
    videos = draw_videos()
    videos.frames[1], videos.queries[3] = videos.frames[0], videos.queries[2]
    allowed = ~np.eye(4, dtype=bool)
    allowed[[0, 1, 2, 3], [1, 0, 3, 2]] = False
    frames, queries, mask = videos.padded()
    value = attended_contrastive_loss(
        frames, queries, frame_mask=mask, negative_mask=torch.from_numpy(allowed), **setting
    )
    assert value.item() == pytest.approx(oracle(videos, allowed, **setting), rel=1e-9)
    everything = attended_contrastive_loss(frames, queries, frame_mask=mask, **setting)
    assert everything.item() == pytest.approx(oracle(videos, ~np.eye(4, dtype=bool), **setting), rel=1e-9)
    assert everything > value


def test_no_negative_gives_zero() -> None:
    frames, queries, mask = draw_videos().padded()
    alone = torch.zeros(4, 4, dtype=torch.bool)
    assert attended_contrastive_loss(frames, queries, frame_mask=mask, negative_mask=alone).item() == pytest.approx(
        0, abs=1e-12
    )


def test_absent_pairs_may_hold_anything() -> None:
    """A pair that is masked, has no frame or has weight 0 does not affect the loss, not as a negative either."""
    videos = draw_videos((4, 2, 7, 1, 3))
    frames, queries, mask = videos.padded()
    expected = attended_contrastive_loss(frames[:2], queries[:2], frame_mask=mask[:2])
    mask[2] = False
    frames[2:], queries[2:] = math.nan, math.inf
    frames.requires_grad_(), queries.requires_grad_()
    valid = torch.tensor([True, True, True, False, True])
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    value = attended_contrastive_loss(frames, queries, frame_mask=mask, mask=valid, weight=weight)
    value.backward()
    torch.testing.assert_close(value, expected)
    for leaf in (frames, queries):
        assert leaf.grad[:2].abs().max() > 0
        assert leaf.grad.isfinite().all()
        assert torch.equal(leaf.grad[2:], torch.zeros_like(leaf.grad[2:]))


def test_nothing_left_gives_a_connected_zero() -> None:
    frames, queries, mask = draw_videos().padded(math.nan)
    frames.requires_grad_()
    for nothing in ({"mask": torch.zeros(4, dtype=torch.bool)}, {"weight": torch.zeros(4)}):
        value = attended_contrastive_loss(frames, queries, frame_mask=mask, **nothing)
        (gradient,) = torch.autograd.grad(value, frames)
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))
    value = attended_contrastive_loss(frames, queries, frame_mask=torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(value, frames)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_order_of_frames_and_of_pairs_does_not_matter() -> None:
    frames, queries, mask = draw_videos().padded()
    value = attended_contrastive_loss(frames, queries, frame_mask=mask)
    turned = attended_contrastive_loss(frames.flip(0, 1), queries.flip(0), frame_mask=mask.flip(0, 1))
    torch.testing.assert_close(turned, value, rtol=1e-10, atol=0)


def test_autocast_changes_nothing() -> None:
    frames, queries, mask = draw_videos().padded()
    outside = attended_contrastive_loss(frames.float(), queries.float(), frame_mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attended_contrastive_loss(frames.float(), queries.float(), frame_mask=mask)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_cold_attention_takes_the_best_frame_and_hot_attention_the_mean() -> None:
    videos = draw_videos((3, 5, 4))
    frames, queries, mask = videos.padded()
    negatives = ~np.eye(3, dtype=bool)
    best = reference.best_scores(videos.frames, videos.queries, 0.1, "0.001")
    cold = attended_contrastive_loss(frames, queries, attention_temperature=1e-4, frame_mask=mask)
    assert cold.item() == pytest.approx(reference.pair_contrast(best, negatives), rel=1e-9)
    means = [np.mean([f / np.linalg.norm(f) for f in rows], axis=0) for rows in videos.frames]
    scores = np.array([[reference.cosine(m, q) / 0.1 for q in videos.queries] for m in means])
    hot = attended_contrastive_loss(frames, queries, attention_temperature=1e9, frame_mask=mask)
    assert hot.item() == pytest.approx(reference.pair_contrast(scores, negatives), rel=1e-7)


def test_gradient_stops_at_the_attention() -> None:
    """Differences of the loops with the attention of the undisturbed videos; with their own attention they differ."""
    videos = draw_videos((3, 2), d=2)
    frames, queries, mask = videos.padded()
    frames.requires_grad_(), queries.requires_grad_()
    attended_contrastive_loss(frames, queries, temperature=0.5, attention_temperature=0.3, frame_mask=mask).backward()
    frozen, free = (_differences(videos, attend_by) for attend_by in (videos, None))
    np.testing.assert_allclose(frames.grad[mask].numpy(), frozen[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(queries.grad.numpy(), frozen[1], rtol=1e-6, atol=1e-8)
    assert np.abs(frozen[0] - free[0]).max() > 1e-2
    assert np.abs(frozen[1] - free[1]).max() > 1e-2


def _differences(videos: Videos, attend_by: Videos | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Central differences of the oracle by every frame, rows of all videos below one another, and by every query."""
    step = 1e-6

    def value(frames: NDArray[np.float64], queries: NDArray[np.float64]) -> float:
        moved = Videos(np.split(frames, np.cumsum([len(rows) for rows in videos.frames])[:-1]), queries)
        return oracle(moved, ~np.eye(2, dtype=bool), temperature=0.5, attention_temperature=0.3, attend_by=attend_by)

    sides = [np.concatenate(videos.frames), videos.queries]
    slopes = []
    for position, side in enumerate(sides):
        slope = np.empty_like(side)
        for entry in np.ndindex(side.shape):
            ends = []
            for sign in (1, -1):
                moved = [s.copy() for s in sides]
                moved[position][entry] += sign * step
                ends.append(value(*moved))
            slope[entry] = (ends[0] - ends[1]) / (2 * step)
        slopes.append(slope)
    return slopes[0], slopes[1]


def test_derivatives_where_the_attention_is_flat() -> None:
    """At a high attention temperature the weights are nearly constant, so finite differences agree with autograd."""
    frames, queries, mask = draw_videos((3, 1), d=2).padded()
    temperature = torch.tensor(0.7, dtype=torch.float64)
    leaves = tuple(leaf.requires_grad_() for leaf in (frames, queries, temperature))

    def function(f: Tensor, q: Tensor, tau: Tensor) -> Tensor:
        return attended_contrastive_loss(f, q, temperature=tau, attention_temperature=1e9, frame_mask=mask)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize(
    ("frames", "queries", "options", "error", "text"),
    [
        ((2, 3), (2, 4), {}, ValueError, r"`frames` must have shape \(videos, frames, features\), got \(2, 3\)"),
        ((2, 3, 4), (2, 5), {}, ValueError, r"`queries` must have as many features as `frames` \(4\), got 5"),
        ((2, 3, 4), (3, 4), {}, ValueError, r"`queries` must have one row per video \(2\), got \(3, 4\)"),
        ((2, 3, 4), (2, 4), {"temperature": 0.0}, ValueError, "`temperature` must be a finite number > 0, got 0.0"),
        (
            (2, 3, 4),
            (2, 4),
            {"attention_temperature": -1.0},
            ValueError,
            "`attention_temperature` must be a finite number > 0, got -1.0",
        ),
        ((2, 3, 4), (2, 4), {"frame_mask": torch.ones(2, 3)}, TypeError, "`frame_mask` must be a bool tensor"),
        (
            (2, 3, 4),
            (2, 4),
            {"negative_mask": torch.ones(2, 3, dtype=torch.bool)},
            ValueError,
            r"`negative_mask` must have shape \(2, 2\), got \(2, 3\)",
        ),
        ((2, 3, 4), (2, 4), {"mask": torch.ones(2)}, TypeError, "`mask` must be a bool tensor"),
        ((2, 3, 4), (2, 4), {"weight": torch.ones(3)}, ValueError, r"`weight` must have shape \(2,\), got \(3,\)"),
    ],
)
def test_errors(frames, queries, options, error, text) -> None:
    with pytest.raises(error, match="attended_contrastive_loss: " + text):
        attended_contrastive_loss(torch.zeros(frames), torch.zeros(queries), **options)


def test_module_is_the_function() -> None:
    frames, queries, mask = draw_videos().padded()
    setting = {"temperature": 0.3, "attention_temperature": 0.2}
    expected = attended_contrastive_loss(frames, queries, frame_mask=mask, **setting)
    assert torch.equal(AttendedContrastiveLoss(**setting)(frames, queries, frame_mask=mask), expected)
    with pytest.raises(ValueError, match="AttendedContrastiveLoss: `attention_temperature` must be a finite number"):
        AttendedContrastiveLoss(attention_temperature=0)


def test_frames_that_nearly_cancel_are_pooled_by_the_formula() -> None:
    frames = torch.tensor([[[1.0, 0, 0], [-1.0, 1e-7, 0]], [[0, 0, 1.0], [0, 0, 1.0]]], dtype=torch.float64)
    queries = torch.tensor([[0.0, 1.0, 0], [0, 0, 1.0]], dtype=torch.float64)  # the sum of the first pair's frames
    value = attended_contrastive_loss(frames, queries, temperature=1.0, attention_temperature=1e9)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
