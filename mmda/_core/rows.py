"""Conversion of samples, masks and weights to rows and row weights.

Padding may hold any values, NaN and infinities included: values and gradients there are exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_floating, check_mask, check_same_width, check_weight, fail, shape_text
from mmda._core.masking import working_dtype, zero_padding
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
    fewest: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Check samples and flatten them to rows and row weights.

    Args:
        caller: the caller named in errors.
        argument: the name of ``x`` in errors.
        x: (n, d) or, with a mask, (b, t, d); without a feature axis, one number per row, of any shape.
        mask: bool, of the shape of ``x`` without the features; masked rows get weight 0.
        weight: row weights, of the same shape.
        dtype: dtype of the results.
        prefix: prefix of ``mask`` and ``weight`` in errors; ``argument`` and an underscore by default.
        axis: name of the last axis of ``x``; None if there is no such axis.
        least: minimum length of that axis.
        zeroed: zero rows of weight 0; if False, the caller does, unless the weights require a gradient.
        fewest: on a CPU drop masked rows if there are no weights and at least this many rows are left; None: never. On
            an accelerator counting them would synchronise.

    Returns:
        Rows (n, d), or (n,) without a feature axis; and row weights (n,), None if all are one. Rows of weight 0 are
        zeroed as described in :func:`zero_uncounted`.
    """
    check_rows(caller, argument, x, mask, weight, prefix=prefix, axis=axis, least=least)
    rows = x.to(dtype) if axis is not None else x.to(dtype).unsqueeze(-1)
    if not torch.compiler.is_compiling() and rows.is_neg():
        rows = rows.resolve_neg()  # the compiled loops would read the memory of a negated view with the wrong sign
    kept = mask if weight is None and x.device.type == "cpu" else None
    if kept is not None and fewest is not None and values_are_known(rows, kept) and int(kept.sum()) >= fewest:
        return rows[kept], None
    counts = None if weight is None else weight.to(dtype)
    if mask is not None:
        counts = mask.to(dtype) if counts is None else torch.where(mask, counts, counts.new_zeros(()))
    if counts is not None:
        if zeroed or carries_slope(counts):
            rows = zero_uncounted(rows, counts, mask)
        counts = counts.reshape(-1)
    if axis is None:
        return rows.reshape(-1), counts
    return rows if rows.ndim == 2 else rows.reshape(-1, rows.shape[-1]), counts


def two_samples(
    caller: str,
    source: Tensor,
    target: Tensor,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
    masks: tuple[Tensor | None, Tensor | None] = (None, None),
    *,
    dtype: torch.dtype | None = None,
    fewest: int = 1,
    unbiased: bool = False,
    dropped: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The rows of two samples, of one width, and their counts; see :func:`as_rows`.

    Each needs at least ``fewest`` rows, two for an ``unbiased`` estimator. ``dtype``: by default of both. ``dropped``:
    masked rows may be dropped, as no other argument of the caller is aligned with the rows.
    """
    dtype = working_dtype(source, target) if dtype is None else dtype
    fewest, why = (2, " for estimator='unbiased'") if unbiased else (fewest, "")
    least = fewest if dropped else None
    x, x_weight = as_rows(caller, "source", source, mask=masks[0], weight=weights[0], dtype=dtype, fewest=least)
    y, y_weight = as_rows(caller, "target", target, mask=masks[1], weight=weights[1], dtype=dtype, fewest=least)
    check_same_width(caller, "source", x, "target", y)
    for name, rows in (("source", x), ("target", y)):
        if rows.shape[0] < fewest:
            fail(caller, name, f"have at least {fewest} samples{why}", shape_text(rows))
    return x, y, x_weight, y_weight


def check_rows(
    caller: str,
    argument: str,
    x: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    *,
    prefix: str | None = None,
    axis: str | None = "features",
    least: int = 1,
) -> None:
    """The checks of :func:`as_rows`."""
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
        check_mask(caller, prefix + "mask", mask, shape, device=x.device)
    if weight is not None:
        check_weight(caller, prefix + "weight", weight, shape, device=x.device)


def zero_uncounted(rows: Tensor, counts: Tensor, mask: Tensor | None) -> Tensor:
    """``rows`` (..., d) with zeros in rows of weight 0, even for NaN.

    If the weights require a gradient, only masked rows are zeroed, because the gradient of a weight of 0 depends on the
    features of its row.
    """
    kept = mask if carries_slope(counts) else counts != 0
    return rows if kept is None else zero_padding(rows, kept)
