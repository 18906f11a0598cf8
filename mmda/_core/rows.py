"""Samples, masks and weights become rows and row counts: the one place where they do.

What padding holds never matters, NaN and infinities included: values and gradients on padding are exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_floating, check_mask, check_samples, check_weight, fail, shape_text
from mmda._core.masking import zero_padding
from mmda._core.transforms import carries_slope


def as_rows(
    caller: str, argument: str, x: Tensor, *, mask: Tensor | None, weight: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Check and flatten samples ``(n, d)`` or ``(b, t, d)`` to rows ``(n, d)`` and row weights ``(n,)``.

    The weights are ``None`` where every row counts once; a masked row gets weight 0. What becomes of rows that count 0
    says :func:`zero_uncounted`.
    """
    check_samples(caller, argument, x, mask=mask)
    if weight is not None:
        check_weight(caller, argument + "_weight", weight, x.shape[:-1])
    return counted_rows(x, mask=mask, weight=weight, dtype=dtype)


def counted_rows(
    x: Tensor, *, mask: Tensor | None, weight: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Rows ``(n, d)`` of checked ``x`` (..., d) and how often each counts ``(n,)``; ``None``: once each.

    What becomes of rows that count 0 says :func:`zero_uncounted`.
    """
    rows = x.to(dtype)
    counts = None if weight is None else weight.to(dtype)
    if mask is not None:
        one = torch.ones((), dtype=dtype, device=x.device)
        counts = torch.where(mask, one if counts is None else counts, torch.zeros_like(one))
    if counts is not None:
        rows, counts = zero_uncounted(rows, counts, mask), counts.reshape(-1)
    return rows if rows.ndim == 2 else rows.reshape(-1, rows.shape[-1]), counts


def zero_uncounted(rows: Tensor, counts: Tensor, mask: Tensor | None) -> Tensor:
    """``rows`` (..., d) with zeros in those that count 0, whatever they held.

    Where the counts are differentiated only masked rows become zeros: the slope on a count of 0 asks what the row
    holds.
    """
    kept = mask if carries_slope(counts) else counts != 0
    return rows if kept is None else zero_padding(rows, kept)


def as_weighted_rows(
    caller: str,
    argument: str,
    x: Tensor,
    *,
    dtype: torch.dtype,
    mask: Tensor | None,
    weight: Tensor | None,
    mask_name: str = "mask",
    weight_name: str = "weight",
    axis: str = "features",
    least: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """Rows ``(n, k)`` and row weights ``(n,)`` of ``(n, k)`` or, with a mask, ``(b, t, k)``; k at least ``least``.

    The weights are ``None`` where every row counts once. For rows of weight 0 see :func:`zero_uncounted`.
    """
    check_floating(caller, argument, x)
    rule = f"have shape (samples, {axis})" + ("" if mask is None else f" or (batch, time, {axis})")
    if x.ndim not in ((2,) if mask is None else (2, 3)):
        fail(caller, argument, rule, shape_text(x))
    if 0 in x.shape:
        fail(caller, argument, "have no empty axis", shape_text(x))
    if x.shape[-1] < least:
        fail(caller, argument, f"have at least {least} {axis}", x.shape[-1])
    if mask is not None:
        check_mask(caller, mask_name, mask, x.shape[:-1])
    if weight is not None:
        check_weight(caller, weight_name, weight, x.shape[:-1])
    return counted_rows(x, mask=mask, weight=weight, dtype=dtype)


def normalized_rows(x: Tensor) -> Tensor:
    """Rows divided by their length, whatever their scale (no overflow or underflow of squares); zero rows stay."""
    top = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(top > 0, top, torch.ones_like(top))
    squared = x.square().sum(-1, keepdim=True)
    return x * torch.where(squared > 0, squared, torch.ones_like(squared)).rsqrt()


def unit_of(*tensors: Tensor) -> Tensor:
    """A power of two between a quarter and a half of the largest entry, detached; 1 / 4 where all are zero.

    Powers of what is divided by it stay in the range of its type, powers of it too for as long as may be, and the
    division rounds nothing.
    """
    top = torch.stack([tensor.detach().abs().amax() for tensor in tensors]).amax()
    return torch.exp2(torch.where(top > 0, top, torch.ones_like(top)).log2().ceil() - 2)
