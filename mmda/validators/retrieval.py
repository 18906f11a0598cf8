"""Validators of retrieval, from held-out pairs of the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmda._core.checks import (
    check_count,
    check_features,
    check_floating,
    check_integers,
    check_mask,
    check_number,
    check_same_shape,
    fail,
)
from mmda._core.masking import full_precision, working_dtype
from mmda._core.unit_rows import normalized_rows
from mmda.validators._rows import blocks


def _pairs(
    caller: str, anchor: Tensor, positive: Tensor, duplicates: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows and identities of the kept pairs; equal identities are interchangeable."""
    check_features(caller, "anchor", anchor)
    check_floating(caller, "positive", positive)
    check_same_shape(caller, "anchor", anchor, "positive", positive)
    n = anchor.shape[0]
    identity = torch.arange(n, device=anchor.device)
    if duplicates is not None:
        check_integers(caller, "duplicates", duplicates, (n,), device=anchor.device)
        identity = duplicates
    if mask is not None:
        check_mask(caller, "mask", mask, (n,), device=anchor.device)
        anchor, positive, identity = anchor[mask], positive[mask], identity[mask]
        if anchor.shape[0] == 0:
            fail(caller, "mask", "keep at least one pair", "none")
    dtype = working_dtype(anchor, positive)
    unit = (normalized_rows(side.detach().to(dtype)) for side in (anchor, positive))
    return next(unit), next(unit), identity


@torch.no_grad()
def pair_retrieval_recall(
    anchor: Tensor,
    positive: Tensor,
    *,
    n: int = 1,
    duplicates: Tensor | None = None,
    mask: Tensor | None = None,
    block_size: int = 256,
) -> Tensor:
    r"""Recall@n: fraction of anchors whose partner is among the n most similar candidates; higher is better.

    .. math:: \frac{1}{N} \sum_i \mathbf 1 \bigl[\#\{j \notin D_i : s_{ij} \ge \max_{l \in D_i} s_{il}\} < n\bigr],
              \qquad s_{ij} = \cos(a_i, p_j)

    with :math:`D_i` the correct candidates of anchor i: its partner and those of its duplicates.

    Args:
        anchor: features of one modality, for example queries.
        positive: features of the other, row i with anchor i.
        n: number of top candidates.
        duplicates: one integer per pair; pairs with equal integers (repeated texts, queries of one video) are correct
            for each other. Without it all pairs are distinct.
        mask: bool, True = valid pair.
        block_size: anchors compared at once; the value does not depend on it.

    Shape:
        ``anchor`` and ``positive`` (N, d), ``duplicates`` and ``mask`` (N,).

    Returns:
        Scalar in [0, 1]; n / N is chance.

    Raises:
        ValueError: wrong shapes, n below 1, no pair left.
        TypeError: ``duplicates`` is not an integer tensor, a mask that is not bool.

    Notes:
        O(N^2 d) time, O(N block_size) memory. Ties, up to rounding, and NaN count as misses, so collapsed features
        score 0, not 1. Call it twice for both directions.

    Example:
        >>> import torch
        >>> a = torch.eye(3)
        >>> pair_retrieval_recall(a, a.roll(1, 0)).item(), pair_retrieval_recall(a, a).item()
        (0.0, 1.0)
        >>> pair_retrieval_recall(torch.ones(4, 3), torch.ones(4, 3)).item()  # collapsed
        0.0
    """
    caller = "pair_retrieval_recall"
    check_count(caller, "n", n)
    check_count(caller, "block_size", block_size)
    with full_precision(anchor):
        a, p, identity = _pairs(caller, anchor, positive, duplicates, mask)
        rounding = 8 * torch.finfo(a.dtype).eps
        hits = torch.zeros((), dtype=torch.long, device=a.device)
        for block in blocks(a.shape[0], block_size):
            similarity = a[block] @ p.T
            right = identity[block].unsqueeze(1) == identity
            best = torch.where(right, similarity, -math.inf).amax(1, keepdim=True)
            ahead = ~right & ~(similarity < best - rounding)
            hits += (ahead.sum(1) < n).sum()
        return hits.to(a.dtype) / a.shape[0]


@torch.no_grad()
def held_out_pair_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float = 0.07,
    duplicates: Tensor | None = None,
    mask: Tensor | None = None,
    block_size: int = 256,
) -> Tensor:
    r"""Symmetric contrastive cross-entropy over all held-out pairs; lower is better.

    .. math:: - \frac{1}{2 N} \sum_i \log \frac{e^{s_{ii}}}{\sum_{j \in N_i} e^{s_{ij}}}
              - \frac{1}{2 N} \sum_i \log \frac{e^{s_{ii}}}{\sum_{j \in N_i} e^{s_{ji}}},
              \qquad s_{ij} = \cos(a_i, p_j) / \tau

    with :math:`N_i` all pairs except the duplicates of i (but including i).

    Args:
        anchor: features of one modality.
        positive: features of the other, row i with anchor i.
        temperature: :math:`\tau > 0`, the same for all compared checkpoints.
        duplicates: one integer per pair; pairs with equal integers are not negatives of each other.
        mask: bool, True = valid pair.
        block_size: rows compared at once; the value does not depend on it beyond rounding.

    Shape:
        ``anchor`` and ``positive`` (N, d), ``duplicates`` and ``mask`` (N,).

    Returns:
        Scalar >= 0; log N for constant features.

    Raises:
        ValueError: wrong shapes, a temperature that is not above 0, no pair left.
        TypeError: ``duplicates`` is not an integer tensor, a mask that is not bool.

    Notes:
        O(N^2 d) time, O(N block_size) memory. It grows with N: compare checkpoints on the same pairs.

    Example:
        >>> import torch
        >>> round(held_out_pair_loss(torch.ones(4, 3), torch.ones(4, 3)).item(), 4)  # log 4
        1.3863

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
        for the symmetric form.
    """
    caller = "held_out_pair_loss"
    check_number(caller, "temperature", temperature, above=0)
    check_count(caller, "block_size", block_size)
    with full_precision(anchor):
        a, p, identity = _pairs(caller, anchor, positive, duplicates, mask)
        n = a.shape[0]
        total = torch.zeros((), dtype=torch.float64)
        for rows, columns in ((a, p), (p, a)):
            for block in blocks(n, block_size):
                logits = rows[block] @ columns.T / temperature
                own = torch.arange(block.start, block.stop, device=a.device).unsqueeze(1)
                partner = logits.gather(1, own)
                excluded = (identity[block].unsqueeze(1) == identity).scatter(1, own, False)
                others = torch.where(excluded, -math.inf, logits - partner)
                total += others.logsumexp(1).sum().double().cpu()
        return (total / (2 * n)).to(device=a.device, dtype=a.dtype)
