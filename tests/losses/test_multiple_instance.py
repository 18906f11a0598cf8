"""Contrast of videos and queries through their best frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mmda.losses import MultipleInstanceLoss, multiple_instance_loss
from tests.losses._videos import FILLERS, Videos, draw_videos, negatives_of, repeated
from tests.reference import retrieval as reference

SETTINGS = (
    {"temperature": 0.1, "top": 0.125},
    {"temperature": 0.5, "top": 0.5},
    {"temperature": 0.5, "top": 1.0, "in_video": 0.3},
    {"temperature": 0.3, "top": 0.3, "in_video": 2.0},
)


def oracle(
    videos: Videos,
    negatives: NDArray[np.bool_],
    *,
    temperature: float = 0.1,
    top: float = 0.125,
    in_video: float = 0.0,
) -> float:
    scores = reference.best_scores(videos.frames, videos.queries, temperature, str(top))
    margin = reference.in_video_margin(videos.frames, videos.queries, temperature, str(top))
    return reference.pair_contrast(scores, negatives) + in_video * margin


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
    value = multiple_instance_loss(frames, queries, frame_mask=mask, negative_mask=torch.from_numpy(allowed), **setting)
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
    value = multiple_instance_loss(
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
    value = multiple_instance_loss(frames, queries, frame_mask=mask, negative_mask=torch.from_numpy(allowed), **setting)
    assert value.item() == pytest.approx(oracle(videos, allowed, **setting), rel=1e-9)
    everything = multiple_instance_loss(frames, queries, frame_mask=mask, **setting)
    assert everything.item() == pytest.approx(oracle(videos, ~np.eye(4, dtype=bool), **setting), rel=1e-9)
    assert everything > value


def test_no_negative_gives_zero() -> None:
    frames, queries, mask = draw_videos().padded()
    alone = torch.zeros(4, 4, dtype=torch.bool)
    assert multiple_instance_loss(frames, queries, frame_mask=mask, negative_mask=alone).item() == pytest.approx(
        0, abs=1e-12
    )
    # what remains is the contrast inside the videos, over the three with further frames
    videos = draw_videos()
    margin = reference.in_video_margin(videos.frames, videos.queries, 0.1, "0.5")
    value = multiple_instance_loss(frames, queries, top=0.5, in_video=0.7, frame_mask=mask, negative_mask=alone)
    assert value.item() == pytest.approx(0.7 * margin, rel=1e-9)


def test_absent_pairs_may_hold_anything() -> None:
    """A pair that is masked, has no frame or has weight 0 does not affect the loss, not as a negative either."""
    videos = draw_videos((4, 2, 7, 1, 3))
    frames, queries, mask = videos.padded()
    expected = multiple_instance_loss(frames[:2], queries[:2], frame_mask=mask[:2])
    mask[2] = False
    frames[2:], queries[2:] = math.nan, math.inf
    frames.requires_grad_(), queries.requires_grad_()
    valid = torch.tensor([True, True, True, False, True])
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    value = multiple_instance_loss(frames, queries, frame_mask=mask, mask=valid, weight=weight)
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
        value = multiple_instance_loss(frames, queries, frame_mask=mask, **nothing)
        (gradient,) = torch.autograd.grad(value, frames)
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))
    value = multiple_instance_loss(frames, queries, frame_mask=torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(value, frames)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_order_of_frames_and_of_pairs_does_not_matter() -> None:
    frames, queries, mask = draw_videos().padded()
    value = multiple_instance_loss(frames, queries, frame_mask=mask)
    turned = multiple_instance_loss(frames.flip(0, 1), queries.flip(0), frame_mask=mask.flip(0, 1))
    torch.testing.assert_close(turned, value, rtol=1e-10, atol=0)


def test_autocast_changes_nothing() -> None:
    frames, queries, mask = draw_videos().padded()
    outside = multiple_instance_loss(frames.float(), queries.float(), frame_mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = multiple_instance_loss(frames.float(), queries.float(), frame_mask=mask)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_share_of_the_frames_is_rounded_up_as_decimals_are(dtype) -> None:
    """Orthogonal frames, the first k of them the query's own: the contrast inside is log(1 + exp(-1)) iff k are taken.

    0.15 of 100 is 15, though in float32 the product is a little more.
    """
    for share, frames in (("0.15", 100), ("0.09", 300), ("0.07", 100), ("0.28", 25), ("0.125", 9), ("0.001", 5)):
        k = reference.best_count(frames, share)
        video = torch.tensor([[1.0, 0]] * k + [[0, 1.0]] * (frames - k), dtype=dtype).unsqueeze(0)
        query = torch.tensor([[1.0, 0]], dtype=dtype)
        value = multiple_instance_loss(video, query, temperature=1.0, top=float(share), in_video=1.0)
        assert value.item() == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6), (share, frames)


def test_share_is_of_each_videos_own_frames() -> None:
    """Half of 4 frames are 2, half of 2 frames 1: the mean of the best frames."""
    long = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    short = torch.tensor([[0.0, 1], [1, 0], [math.nan] * 2, [math.nan] * 2])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    queries = torch.eye(2)
    value = multiple_instance_loss(torch.stack([long, short]), queries, temperature=1.0, top=0.5, frame_mask=mask)
    # every video has its best half along either query: all scores are 1
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)
    more = multiple_instance_loss(torch.stack([long, short]), queries, temperature=1.0, top=0.6, frame_mask=mask)
    # three of four: 2/3 on both queries; two of two: 1/2 on both
    row = math.log(2)
    column = math.log(math.exp(2 / 3) + math.exp(1 / 2)) - (2 / 3 + 1 / 2) / 2
    assert more.item() == pytest.approx((row + column) / 2, rel=1e-6)


def test_the_whole_video_is_its_mean() -> None:
    videos = draw_videos((3, 5))
    frames, queries, mask = videos.padded()
    means = np.array(
        [[np.mean([reference.cosine(f, q) for f in rows]) / 0.1 for q in videos.queries] for rows in videos.frames]
    )
    value = multiple_instance_loss(frames, queries, top=1.0, in_video=5.0, frame_mask=mask)
    assert value.item() == pytest.approx(reference.pair_contrast(means, ~np.eye(2, dtype=bool)), rel=1e-9)


@pytest.mark.parametrize("in_video", [0.0, 0.8])
def test_derivatives(in_video) -> None:
    frames, queries, mask = draw_videos((3, 1), d=2).padded()
    temperature = torch.tensor(0.7, dtype=torch.float64)
    leaves = tuple(leaf.requires_grad_() for leaf in (frames, queries, temperature))

    def function(f: Tensor, q: Tensor, tau: Tensor) -> Tensor:
        return multiple_instance_loss(f, q, temperature=tau, top=0.5, in_video=in_video, frame_mask=mask)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize(
    ("frames", "queries", "options", "error", "text"),
    [
        ((2, 3), (2, 4), {}, ValueError, r"`frames` must have shape \(videos, frames, features\), got \(2, 3\)"),
        ((2, 3, 4), (2, 5), {}, ValueError, r"`queries` must have as many features as `frames` \(4\), got 5"),
        ((2, 3, 4), (3, 4), {}, ValueError, r"`queries` must have one row per video \(2\), got \(3, 4\)"),
        ((2, 3, 4), (2, 4), {"temperature": 0.0}, ValueError, "`temperature` must be a finite number > 0, got 0.0"),
        ((2, 3, 4), (2, 4), {"top": 0.0}, ValueError, "`top` must be a finite number > 0 and <= 1, got 0.0"),
        ((2, 3, 4), (2, 4), {"top": 1.5}, ValueError, "`top` must be a finite number > 0 and <= 1, got 1.5"),
        ((2, 3, 4), (2, 4), {"in_video": -1.0}, ValueError, "`in_video` must be a finite number >= 0, got -1.0"),
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
    with pytest.raises(error, match="multiple_instance_loss: " + text):
        multiple_instance_loss(torch.zeros(frames), torch.zeros(queries), **options)


def test_module_is_the_function() -> None:
    frames, queries, mask = draw_videos().padded()
    setting = {"temperature": 0.3, "top": 0.4, "in_video": 0.5}
    expected = multiple_instance_loss(frames, queries, frame_mask=mask, **setting)
    assert torch.equal(MultipleInstanceLoss(**setting)(frames, queries, frame_mask=mask), expected)
    with pytest.raises(ValueError, match="MultipleInstanceLoss: `top` must be a finite number > 0 and <= 1, got 2"):
        MultipleInstanceLoss(top=2)
