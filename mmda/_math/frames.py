"""Checks of frames and queries in a joint space."""

from __future__ import annotations

from torch import Tensor

from mmda._core.checks import check_features, check_mask, check_same_device, fail


def check_frames_and_queries(caller: str, frames: Tensor, queries: Tensor, frame_mask: Tensor | None) -> None:
    """Require ``frames`` (b, t, d), ``queries`` (n, d) of the same width, ``frame_mask`` (b, t)."""
    check_features(caller, "frames", frames, axes="(videos, frames, features)", ndim=3)
    check_features(caller, "queries", queries, axes="(queries, features)")
    check_same_device(caller, "frames", frames, "queries", queries)
    if frames.shape[-1] != queries.shape[-1]:
        fail(caller, "queries", f"have as many features as `frames` ({frames.shape[-1]})", queries.shape[-1])
    if frame_mask is not None:
        check_mask(caller, "frame_mask", frame_mask, frames.shape[:2], device=frames.device)
