"""Cross-entropy over a logit matrix with the positive pairs on its diagonal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import check_mask, check_weight, fail, shape_text
from mmda._core.masking import full_precision, safe_divide, working_dtype, zero_padding
from mmda._core.unit_rows import normalized_rows
from mmda._math.contrastive import check_temperature
from mmda._math.frames import check_frames_and_queries


def pair_cross_entropy(logits: Tensor, candidates: Tensor, counts: Tensor, *, weighted: bool) -> Tensor:
    """Mean of both directions of -log softmax of the diagonal, each softmax over the row's (column's) candidates.

    ``logits`` (n, n), ``candidates`` (n, n) bool (the diagonal is always included), ``counts`` (n,) pair weights, 0 or
    1 unless ``weighted``; a pair of weight 0 is not a candidate of other pairs either.
    """
    n = logits.shape[0]
    diagonal = torch.eye(n, dtype=torch.bool, device=logits.device)
    present = counts > 0
    allowed = (candidates & present.unsqueeze(0) & present.unsqueeze(1)) | diagonal
    own = logits.diagonal()
    row_logits = column_logits = torch.where(allowed, logits, torch.full_like(own[0], -torch.inf))
    if weighted:
        log_counts = torch.where(present, counts, torch.ones_like(counts)).log()
        # A pair of weight 2 counts as two equal pairs, also in the denominators of other pairs. Its copy is a duplicate
        # and not a negative, so the diagonal counts once.
        bias = torch.where(diagonal, torch.zeros_like(logits), log_counts.unsqueeze(0).expand_as(logits))
        row_logits, column_logits = row_logits + bias, column_logits + bias.T
    each = (row_logits.logsumexp(1) + column_logits.logsumexp(0)) / 2 - own
    return safe_divide((torch.where(present, each, torch.zeros_like(own[0])) * counts).sum(), counts.sum())


class PairedFrames(NamedTuple):
    """Paired videos and queries, normalised and masked.

    Attributes:
        frames: (n, t, d), unit rows; finite where padded or absent.
        similarity: (n, n, t), cosine of every query with every frame, by video, query and frame.
        keep: (n, t) bool, the valid frames.
        candidates: (n, n) bool, which pairs may be negatives of each other.
        counts: (n,), pair weights; 0 for a video without frames.
        weighted: whether counts may be other than 0 and 1.
    """

    frames: Tensor
    similarity: Tensor
    keep: Tensor
    candidates: Tensor
    counts: Tensor
    weighted: bool = False

    def of_frames(self, keep: Tensor) -> PairedFrames:
        """The same pairs with other valid frames."""
        return self._replace(keep=keep, counts=torch.where(keep.any(1), self.counts, torch.zeros_like(self.counts)))

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """:func:`pair_cross_entropy` of logits (n, n) for these pairs."""
        return pair_cross_entropy(logits, self.candidates, self.counts, weighted=self.weighted)


def paired_frames(
    caller: str,
    frames: Tensor,
    queries: Tensor,
    *,
    frame_mask: Tensor | None,
    negative_mask: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
) -> PairedFrames:
    """Masks, weights and unit rows of pairs in the working dtype, from checked arguments."""
    dtype = working_dtype(frames, queries)
    f, q, n = frames.to(dtype), queries.to(dtype), frames.shape[0]
    keep = torch.ones(f.shape[:2], dtype=torch.bool, device=f.device) if frame_mask is None else frame_mask
    counts = pair_counts(caller, n, mask, weight, f)
    counts = torch.where(keep.any(1), counts, torch.zeros_like(counts))
    present = counts > 0
    f, q = zero_padding(f, keep & present.unsqueeze(1)), zero_padding(q, present)
    candidates = candidate_mask(caller, n, negative_mask, f.device)
    f, q = normalized_rows(f), normalized_rows(q)
    return PairedFrames(f, frame_cosines(f, q), keep, candidates, counts, weight is not None)


def frame_cosines(frames: Tensor, queries: Tensor) -> Tensor:
    """Products (n, n, t) of unit rows, by video, query and frame."""
    with full_precision(frames):
        return torch.matmul(frames, queries.T).transpose(1, 2)


def check_paired_frames(
    caller: str, frames: Tensor, queries: Tensor, frame_mask: Tensor | None, temperature: float | Tensor
) -> None:
    """Require one query per video, matching shapes and a positive temperature."""
    check_frames_and_queries(caller, frames, queries, frame_mask)
    if queries.shape[0] != frames.shape[0]:
        fail(caller, "queries", f"have one row per video ({frames.shape[0]})", shape_text(queries))
    check_temperature(caller, temperature)


def candidate_mask(caller: str, n: int, negative_mask: Tensor | None, device: torch.device) -> Tensor:
    """Which off-diagonal pairs may be negatives; all by default."""
    if negative_mask is None:
        return torch.ones(n, n, dtype=torch.bool, device=device)
    check_mask(caller, "negative_mask", negative_mask, (n, n), device=device)
    return negative_mask


def pair_counts(caller: str, n: int, mask: Tensor | None, weight: Tensor | None, like: Tensor) -> Tensor:
    """Pair weights (n,) from a mask and a weight."""
    counts = torch.ones(n, dtype=like.dtype, device=like.device)
    if weight is not None:
        check_weight(caller, "weight", weight, (n,), device=like.device)
        counts = weight.to(like.dtype)
    if mask is not None:
        check_mask(caller, "mask", mask, (n,), device=like.device)
        counts = torch.where(mask, counts, torch.zeros_like(counts))
    return counts
