"""Samples, masks and weights become rows and row counts: the one place where they do.

What padding holds never matters, NaN and infinities included: values and gradients on padding are exactly zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmda._core.checks import check_floating, check_mask, check_weight, fail, shape_text
from mmda._core.masking import zero_padding
from mmda._core.transforms import carries_slope, values_are_known


def as_rows(
    caller: str,
    argument: str,
    x: Tensor,
    *,
    mask: Tensor | None,
    weight: Tensor | None,
    dtype: torch.dtype,
    prefix: str | None = None,
    axis: str | None = "features",
    least: int = 1,
    zeroed: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Check samples and flatten them to rows, and to how often each row counts.

    Args:
        caller: whom errors name.
        argument: what they call ``x``.
        x: (n, d) or, with a mask, (b, t, d); without an axis of features, one number a row, of any shape.
        mask: bool, of the shape of ``x`` but for the features; a masked row counts 0.
        weight: how often each row counts, of the same shape.
        dtype: of what comes back.
        prefix: what errors put before ``mask`` and ``weight``; ``argument`` and an underscore by default.
        axis: what the last axis of ``x`` holds; None: there is no such axis.
        least: so many of them are needed.
        zeroed: rows that count 0 become zeros here; False: the caller sees to it, unless the counts are differentiated.

    Returns:
        Rows (n, d), or (n,) without an axis of features; and counts (n,), None where every row counts once. What
        becomes of rows that count 0 says :func:`zero_uncounted`.
    """
    check_floating(caller, argument, x)
    if axis is not None and x.ndim not in ((2,) if mask is None else (2, 3)):
        rule = f"have shape (samples, {axis})" + ("" if mask is None else f" or (batch, time, {axis})")
        fail(caller, argument, rule, shape_text(x))
    if 0 in x.shape:
        fail(caller, argument, "have no empty axis", shape_text(x))
    if axis is not None and x.shape[-1] < least:
        fail(caller, argument, f"have at least {least} {axis}", x.shape[-1])
    shape = x.shape if axis is None else x.shape[:-1]
    prefix = argument + "_" if prefix is None else prefix
    if mask is not None:
        check_mask(caller, prefix + "mask", mask, shape)
    if weight is not None:
        check_weight(caller, prefix + "weight", weight, shape)
    rows = x.to(dtype) if axis is not None else x.to(dtype).unsqueeze(-1)
    if not torch.compiler.is_compiling() and rows.is_neg():
        rows = rows.resolve_neg()  # a view that negates on reading: loops over memory would read the other sign
    counts = None if weight is None else weight.to(dtype)
    if mask is not None:
        counts = (
            mask.to(dtype)
            if counts is None
            else torch.where(mask, counts, torch.zeros((), dtype=dtype, device=x.device))
        )
    if counts is not None:
        if zeroed or carries_slope(counts):
            rows = zero_uncounted(rows, counts, mask)
        counts = counts.reshape(-1)
    if axis is None:
        return rows.reshape(-1), counts
    return rows if rows.ndim == 2 else rows.reshape(-1, rows.shape[-1]), counts


def zero_uncounted(rows: Tensor, counts: Tensor, mask: Tensor | None) -> Tensor:
    """``rows`` (..., d) with zeros in those that count 0, whatever they held.

    Where the counts are differentiated only masked rows become zeros: the slope by a count of 0 depends on
    the features of its row.
    """
    kept = mask if carries_slope(counts) else counts != 0
    return rows if kept is None else zero_padding(rows, kept)


def normalized_rows(x: Tensor) -> Tensor:
    """Rows divided by their length, whatever their scale (no overflow or underflow of squares); zero rows stay."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.numel() > 0 and values_are_known(x):
        lengths = _ordinary_lengths(x.detach())
        if lengths is not None:
            if x.requires_grad and torch.is_grad_enabled():
                unit: Tensor = _UnitRows.apply(x, lengths)  # type: ignore[no-untyped-call]
                return unit
            return x / lengths
    return _normalized(x)


def _normalized(x: Tensor) -> Tensor:
    top = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(top > 0, top, torch.ones_like(top))
    squared = x.square().sum(-1, keepdim=True)
    return x * torch.where(squared > 0, squared, torch.ones_like(squared)).rsqrt()


#: Lengths between which squares are far from the ends of the range of float32.
_SHORT, _LONG = 1e-12, 1e12


def _ordinary_lengths(x: Tensor) -> Tensor | None:
    """Lengths of the rows (..., 1), one for zero rows; None where squares of some row would leave the range."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    least, most = torch.stack(lengths.aminmax()).tolist()
    if not most <= _LONG:  # NaN and infinite rows too
        return None
    if least >= _SHORT:
        return lengths
    short = lengths < _SHORT
    if bool(x[short.squeeze(-1)].any()):  # short, or as good as zero
        return None
    return lengths.masked_fill_(short, 1)


class _UnitRows(torch.autograd.Function):
    """Rows over their lengths, in four passes over them instead of some twenty."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Tensor) -> Tensor:
        unit = x / lengths
        ctx.save_for_backward(x, lengths, unit)
        return unit

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        x, lengths, unit = ctx.saved_tensors
        (slope,) = slopes
        if torch.is_grad_enabled():
            alias = x.view_as(x)
            return torch.autograd.grad(_normalized(alias), alias, slope, create_graph=True)[0], None
        along = torch.linalg.vecdot(slope, unit).unsqueeze(-1)
        return torch.addcmul(slope, unit, along, value=-1).div_(lengths), None
