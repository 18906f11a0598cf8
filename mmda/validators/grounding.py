"""Validators of temporal grounding, from spans on the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmda._core.checks import (
    check_count,
    check_features,
    check_floating,
    check_mask,
    check_number,
    check_same_shape,
    check_tensor,
    fail,
    shape_text,
)
from mmda._core.masking import working_dtype
from mmda.validators._rows import blocks


@torch.no_grad()
def span_entropy(
    start_logits: Tensor, end_logits: Tensor, mask: Tensor | None = None, *, normalised: bool = True
) -> Tensor:
    r"""Mean entropy of the predicted distribution over spans; lower is better.

    .. math:: P(s, e) = \frac{\exp(u_s + v_e)}{Z}, \quad s \le e, \qquad
              H = - \sum_{s \le e} P(s, e) \log P(s, e)

    Args:
        start_logits: u, one per clip.
        end_logits: v, one per clip.
        mask: bool, True = valid clip.
        normalised: divide each video's H by the log of its number of spans, so that long videos do not dominate.

    Shape:
        All (b, t).

    Returns:
        Scalar: mean over videos with at least one clip; in [0, 1] if normalised, else in nats.

    Raises:
        ValueError: wrong shapes, no clip at all.
        TypeError: a mask that is not bool.

    Notes:
        O(b t), without enumerating spans. A model that always predicts the same span has a low entropy too: use it
        together with :func:`span_constancy`. A video of one clip has entropy 0.

    Example:
        >>> import torch
        >>> round(span_entropy(torch.zeros(1, 3), torch.zeros(1, 3), normalised=False).item(), 4)  # log 6
        1.7918
        >>> round(span_entropy(torch.zeros(1, 3), torch.zeros(1, 3)).item(), 4)
        1.0
    """
    caller = "span_entropy"
    check_features(caller, "start_logits", start_logits, axes="(batch, time)")
    check_floating(caller, "end_logits", end_logits)
    check_same_shape(caller, "start_logits", start_logits, "end_logits", end_logits)
    keep = torch.ones_like(start_logits, dtype=torch.bool)
    if mask is not None:
        check_mask(caller, "mask", mask, start_logits.shape, device=start_logits.device)
        keep = mask[mask.any(1)]
        start_logits, end_logits = start_logits[mask.any(1)], end_logits[mask.any(1)]
        if keep.shape[0] == 0:
            fail(caller, "mask", "keep at least one clip", "none")
    # float64 is cheap here and keeps the small entropies of confident predictions accurate.
    start = torch.where(keep, start_logits.detach().double(), -math.inf)
    end = torch.where(keep, end_logits.detach().double(), -math.inf)
    start, end = start - start.amax(1, keepdim=True), end - end.amax(1, keepdim=True)
    until = start.logcumsumexp(1)  # over starts s <= e
    after = end.flip(1).logcumsumexp(1).flip(1)  # over ends e >= s
    log_z = (start + after).logsumexp(1)

    def expected(logit: Tensor, rest: Tensor) -> Tensor:
        share = (logit + rest - log_z.unsqueeze(1)).exp()
        return (share * torch.where(keep, logit, 0.0)).sum(1)

    entropy = (log_z - expected(start, after) - expected(end, until)).clamp(min=0)
    if normalised:
        clips = keep.sum(1).double()
        most = (clips * (clips + 1) / 2).log()
        entropy = torch.where(most > 0, entropy / torch.where(most > 0, most, 1.0), 0.0)
    return entropy.mean().to(working_dtype(start_logits, end_logits))


@torch.no_grad()
def span_constancy(
    spans: Tensor,
    duration: Tensor | None = None,
    *,
    tolerance: float = 0.05,
    mask: Tensor | None = None,
    block_size: int = 256,
) -> Tensor:
    r"""Fraction of predicted spans that agree, relative to their videos, to detect collapse; lower is better.

    .. math:: \max_i \frac{\#\{j \ne i : |s_i - s_j| \le \delta,\ |e_i - e_j| \le \delta\}}{N - 1}

    with s and e the start and end divided by the video's duration: the fraction of the other predictions that agree
    with the most common one.

    Args:
        spans: the best span of each query.
        duration: duration of each query's video, in the unit of the spans; omit it if the spans are already relative.
        tolerance: :math:`\delta \ge 0`, as a fraction of the video.
        mask: bool, True = valid query.
        block_size: spans compared at once; the value does not depend on it.

    Shape:
        ``spans`` (N, 2), ``duration`` and ``mask`` (N,).

    Returns:
        Scalar in [0, 1]: 0 if no two predictions agree, 1 if all do.

    Raises:
        ValueError: wrong shapes, fewer than two spans left, a negative tolerance.
        TypeError: a mask that is not bool.

    Notes:
        O(N^2) time, O(N block_size) memory. Ground-truth moments repeat too (many begin with the video): compare with
        the value of the source's annotations, and suspect collapse well above it. Do not rank by it: it only detects a
        collapsed localizer while retrieval recall still rises.

    Example:
        >>> import torch
        >>> span_constancy(torch.tensor([[0.0, 0.3], [0.01, 0.32], [0.5, 0.9]])).item()
        0.5
        >>> span_constancy(torch.tensor([[0.0, 3.0], [0.0, 6.0]]), torch.tensor([10.0, 20.0])).item()
        1.0
    """
    caller = "span_constancy"
    check_number(caller, "tolerance", tolerance, at_least=0)
    check_count(caller, "block_size", block_size)
    check_floating(caller, "spans", spans)
    if spans.ndim != 2 or spans.shape[1] != 2:
        fail(caller, "spans", "have shape (queries, 2)", shape_text(spans))
    relative = spans.detach().double()
    if duration is not None:
        check_tensor(caller, "duration", duration)
        if duration.shape != spans.shape[:1]:
            fail(caller, "duration", f"have shape {tuple(spans.shape[:1])}", shape_text(duration))
        relative = relative / duration.detach().double().unsqueeze(1)
    if mask is not None:
        check_mask(caller, "mask", mask, spans.shape[:1], device=spans.device)
        relative = relative[mask]
    n = relative.shape[0]
    if n < 2:
        fail(caller, "spans", "hold at least 2 spans", n)
    most = torch.zeros((), dtype=torch.long, device=spans.device)
    for block in blocks(n, block_size):
        gap = (relative[block].unsqueeze(1) - relative).abs().amax(2)
        # Boundaries exactly one tolerance apart agree, whichever way their difference rounds.
        most = torch.maximum(most, (gap <= tolerance + 1e-9).sum(1).amax() - 1)
    return most.to(working_dtype(spans)) / (n - 1)
