"""Frame-query attention against loops over the valid frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda.layers import FrameQueryAttention
from tests.losses._videos import FILLERS, Videos, draw_videos
from tests.reference import retrieval as reference


def pooled_by_loops(videos: Videos, video: int, query: int, temperature: float) -> tuple[np.ndarray, list[float]]:
    """The pooled frames and the cosine of each frame."""
    rows, asked = videos.frames[video], videos.queries[query]
    similarity = [reference.cosine(frame, asked) for frame in rows]
    shares = reference.softmax([s / temperature for s in similarity])
    return np.sum([a * f / np.linalg.norm(f) for a, f in zip(shares, rows)], axis=0), similarity


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    temperature=st.sampled_from([0.05, 0.5, 10.0]),
    filler=st.sampled_from(FILLERS),
)
def test_against_loops_whatever_padding_holds(lengths, seed, temperature, filler) -> None:
    videos = draw_videos(lengths, seed=seed)
    frames, queries, mask = videos.padded(filler, extra=1)
    frames.requires_grad_()
    attention = FrameQueryAttention(temperature=temperature)
    pooled, similarity = attention(frames, queries, frame_mask=mask)
    every, cosines = attention(frames, queries, frame_mask=mask, every_pair=True)
    for i, length in enumerate(lengths):
        for j in range(len(lengths)):
            vector, expected = pooled_by_loops(videos, i, j, temperature)
            assert every[i, j].tolist() == pytest.approx(list(vector), rel=1e-9, abs=1e-11)
            assert cosines[i, j, :length].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11)
            assert (cosines[i, j, length:] == 0).all()
    rows = torch.arange(len(lengths))
    torch.testing.assert_close(pooled, every[rows, rows], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(similarity, cosines[rows, rows], rtol=1e-10, atol=1e-13)
    for result in (pooled.sum() + similarity.sum(), every.sum() + cosines.sum()):
        (gradient,) = torch.autograd.grad(result, frames, retain_graph=True)
        assert gradient.isfinite().all()
        assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))


def test_temperature_from_the_best_frame_to_the_mean() -> None:
    frames, query = torch.eye(3).unsqueeze(0), torch.tensor([[0.1, 5.0, 0.2]])
    cold, _ = FrameQueryAttention(temperature=1e-3)(frames, query)
    hot, _ = FrameQueryAttention(temperature=1e6)(frames, query)
    torch.testing.assert_close(cold, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(hot, torch.full((1, 3), 1 / 3))


def test_detached_weights_are_constants_of_the_gradient() -> None:
    """With fixed weights, pooled = sum of a_t f_t / |f_t|, whose gradient is computed in loops; queries get none."""
    videos = draw_videos((3,), d=2)
    frames, queries, _ = videos.padded()
    frames.requires_grad_(), queries.requires_grad_()
    direction = torch.tensor([0.3, -1.1], dtype=torch.float64)
    attached, _ = FrameQueryAttention(temperature=0.5)(frames, queries)
    detached, _ = FrameQueryAttention(temperature=0.5, detach_weights=True)(frames, queries)
    assert torch.equal(attached, detached)
    by_frames, by_queries = torch.autograd.grad(detached[0] @ direction, (frames, queries), allow_unused=True)
    shares = reference.softmax([reference.cosine(f, videos.queries[0]) / 0.5 for f in videos.frames[0]])
    for t, frame in enumerate(videos.frames[0]):
        length = np.linalg.norm(frame)
        unit = frame / length
        slope = shares[t] * (direction.numpy() - unit * (unit @ direction.numpy())) / length
        assert by_frames[0, t].tolist() == pytest.approx(list(slope), rel=1e-9, abs=1e-12)
    assert by_queries is None or torch.equal(by_queries, torch.zeros_like(queries))
    (free,) = torch.autograd.grad(attached[0] @ direction, queries)
    assert free.abs().max() > 1e-3


@pytest.mark.parametrize("every_pair", [False, True])
def test_derivatives(every_pair) -> None:
    frames, queries, mask = draw_videos((3, 1), d=2).padded()
    attention = FrameQueryAttention(temperature=0.5)

    def function(f: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        return attention(f, q, frame_mask=mask, every_pair=every_pair)

    assert torch.autograd.gradcheck(function, (frames.requires_grad_(), queries.requires_grad_()))


def test_a_video_without_a_frame_pools_to_zero() -> None:
    frames = torch.full((2, 3, 4), torch.nan, requires_grad=True)
    none = torch.zeros(2, 3, dtype=torch.bool)
    for every_pair in (False, True):
        pooled, similarity = FrameQueryAttention()(frames, torch.randn(2, 4), frame_mask=none, every_pair=every_pair)
        assert not pooled.any()
        assert not similarity.any()
        (gradient,) = torch.autograd.grad(pooled.sum() + similarity.sum(), frames)
        assert torch.equal(gradient, torch.zeros_like(frames))


def test_more_queries_than_videos_need_every_pair() -> None:
    pooled, similarity = FrameQueryAttention()(torch.randn(2, 3, 4), torch.randn(5, 4), every_pair=True)
    assert pooled.shape == (2, 5, 4)
    assert similarity.shape == (2, 5, 3)
    text = r"FrameQueryAttention: `queries` must have one row per video \(2\) unless every_pair=True, got \(5, 4\)"
    with pytest.raises(ValueError, match=text):
        FrameQueryAttention()(torch.randn(2, 3, 4), torch.randn(5, 4))


def test_half_precision_is_widened() -> None:
    frames, queries = torch.randn(2, 3, 4).bfloat16(), torch.randn(2, 4).bfloat16()
    outside = FrameQueryAttention()(frames.float(), queries.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = FrameQueryAttention()(frames, queries)
    for a, b in zip(inside, outside):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_errors() -> None:
    with pytest.raises(ValueError, match="FrameQueryAttention: `temperature` must be a finite number > 0, got 0"):
        FrameQueryAttention(temperature=0)
    with pytest.raises(ValueError, match=r"`queries` must have as many features as `frames` \(4\), got 5"):
        FrameQueryAttention()(torch.zeros(2, 3, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"`frame_mask` must have shape \(2, 3\), got \(2, 4\)"):
        FrameQueryAttention()(torch.zeros(2, 3, 4), torch.zeros(2, 4), frame_mask=torch.ones(2, 4, dtype=torch.bool))
