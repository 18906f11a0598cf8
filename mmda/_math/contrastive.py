"""What the losses on paired rows share: rows and counts of both sides, unit length, weighted log-sum-exp."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import check_mask, check_number, check_same_width, check_tensor, check_weight, fail, shape_text
from mmda._core.rows import as_weighted_rows, normalized_rows


class Pairs(NamedTuple):
    """Rows of both sides and how often each counts (``None``: once). Rows that count 0 are zeros."""

    anchor: Tensor
    positive: Tensor
    anchor_count: Tensor | None
    positive_count: Tensor | None


def pair_rows(
    caller: str,
    anchor: Tensor,
    positive: Tensor,
    *,
    mask: Tensor | None,
    weight: Tensor | None,
    dtype: torch.dtype,
    candidate_mask: Tensor | None = None,
    normalize: bool = True,
    same_size: bool = True,
) -> Pairs:
    """Check both sides and flatten them to rows; ``mask`` and ``weight`` hold for both where the sizes agree."""
    check_tensor(caller, "anchor", anchor)
    check_tensor(caller, "positive", positive)
    paired = anchor.shape[:-1] == positive.shape[:-1]
    if candidate_mask is None and paired:
        candidate_mask = mask
        mask_name = "mask"
    else:
        mask_name = "candidate_mask"
    x, x_count = as_weighted_rows(caller, "anchor", anchor, dtype=dtype, mask=mask, weight=weight)
    y, y_count = as_weighted_rows(
        caller,
        "positive",
        positive,
        dtype=dtype,
        mask=candidate_mask,
        weight=weight if paired else None,
        mask_name=mask_name,
    )
    check_same_width(caller, "anchor", x, "positive", y)
    if same_size and x.shape[0] != y.shape[0]:
        fail(caller, "positive", f"have as many rows as `anchor` ({x.shape[0]})", y.shape[0])
    if normalize:
        x, y = normalized_rows(x), normalized_rows(y)
    return Pairs(x, y, x_count, y_count)


def plainly_paired(anchor: Tensor, positive: Tensor) -> bool:
    """Whether these are the plain case, for which :func:`pair_rows` has nothing to check or to convert.

    Few operations are spent on few rows, so that what is checked one by one is a good part of the time.
    """
    return (
        isinstance(anchor, Tensor)
        and isinstance(positive, Tensor)
        and not (anchor.is_nested or positive.is_nested)
        and anchor.ndim == 2
        and anchor.shape == positive.shape
        and anchor.numel() > 0
        and anchor.dtype is positive.dtype is torch.float32
        and anchor.layout is positive.layout is torch.strided
        and anchor.device == positive.device
        and anchor.device.type != "meta"  # of which autocast knows nothing
        and (torch.compiler.is_compiling() or not (anchor.is_neg() or positive.is_neg()))
        and not torch.is_autocast_enabled(anchor.device.type)
    )


def normalized_pairs(pairs: Pairs) -> Pairs:
    """The same pairs with both sides' rows divided by their length."""
    return pairs._replace(anchor=normalized_rows(pairs.anchor), positive=normalized_rows(pairs.positive))


def counts(rows: Tensor, count: Tensor | None) -> Tensor:
    """``count``, or ones."""
    return torch.ones(rows.shape[0], dtype=rows.dtype, device=rows.device) if count is None else count


def check_temperature(caller: str, temperature: float | Tensor, argument: str = "temperature") -> None:
    """A number > 0, or a tensor with one value."""
    if not isinstance(temperature, Tensor):
        check_number(caller, argument, temperature, above=0.0)
    elif temperature.ndim != 0:
        fail(caller, argument, "have shape ()", shape_text(temperature))


def check_pairing(caller: str, pairs: Pairs, positive_mask: Tensor | None, negative_mask: Tensor | None) -> None:
    """Masks over pairs are bool and (n, m)."""
    n, m = pairs.anchor.shape[0], pairs.positive.shape[0]
    if positive_mask is not None:
        check_mask(caller, "positive_mask", positive_mask, (n, m))
    if negative_mask is not None:
        check_mask(caller, "negative_mask", negative_mask, (n, m))


def pairing(
    caller: str,
    pairs: Pairs,
    positive_mask: Tensor | None,
    positive_weight: Tensor | None,
) -> Tensor | None:
    """How much each candidate is a positive of each anchor (n, m), zero off the valid rows; None: row i of row i."""
    n, m = pairs.anchor.shape[0], pairs.positive.shape[0]
    if positive_mask is None and positive_weight is None and n == m:
        return None
    zero = torch.zeros((), dtype=pairs.anchor.dtype, device=pairs.anchor.device)
    share: Tensor
    if positive_weight is not None:
        check_weight(caller, "positive_weight", positive_weight, (n, m))
        share = positive_weight.to(pairs.anchor.dtype)
        if positive_mask is not None:
            share = torch.where(positive_mask, share, zero)
    elif positive_mask is not None:
        share = positive_mask.to(pairs.anchor.dtype)
    else:
        fail(caller, "positive_mask", f"be given where `anchor` has {n} rows and `positive` another number", m)
    if pairs.anchor_count is not None:
        share = torch.where((pairs.anchor_count > 0).unsqueeze(1), share, zero)
    if pairs.positive_count is not None:
        share = torch.where((pairs.positive_count > 0).unsqueeze(0), share, zero)
    return share


def negative_counts(like: Tensor, share: Tensor | None, negative_mask: Tensor | None, count: Tensor) -> Tensor:
    """How often each column is a negative of each row (n, m), where column j counts ``count[j]``.

    Positives (``share`` > 0; None: row i of row i) are none. Without ``share``, the twins of a column that counts
    more than once are negatives as every other row is.
    """
    each = count.expand_as(like)
    if share is None:
        twins = (count - 1).clamp_min(0)
        each = torch.where(own_pairs(like), twins.expand_as(like), each)
    else:
        each = torch.where(share > 0, torch.zeros_like(like), each)
    return each if negative_mask is None else torch.where(negative_mask, each, torch.zeros_like(like))


def own_pairs(like: Tensor) -> Tensor:
    """The diagonal, bool."""
    return torch.eye(like.shape[0], dtype=torch.bool, device=like.device)


def weighted_logsumexp(x: Tensor, weight: Tensor) -> Tensor:
    """log sum_j w_ij exp(x_ij) over the last axis; zero where no weight is positive."""
    some = weight > 0
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    top = torch.where(some, x.detach(), floor).amax(-1, keepdim=True)
    shifted = torch.where(some, x - top, torch.zeros_like(top))
    total = (torch.where(some, weight, torch.zeros_like(weight)) * shifted.exp()).sum(-1)
    any_left = some.any(-1)
    value = torch.where(any_left, total, torch.ones_like(total)).log() + top.squeeze(-1)
    return torch.where(any_left, value, torch.zeros_like(value))
