"""Rows divided by their length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known


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
