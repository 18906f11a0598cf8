"""L2 normalisation of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known


def normalized_rows(x: Tensor) -> Tensor:
    """Rows scaled to length one, without overflow or underflow of squares; zero rows stay zero."""
    if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0 or not values_are_known(x):
        return _normalized(x)
    if x.requires_grad and torch.is_grad_enabled():
        unit: Tensor = _UnitRows.apply(x)  # type: ignore[no-untyped-call]
        return unit
    return divided_rows(x)[0]


def _normalized(x: Tensor) -> Tensor:
    top = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(top > 0, top, torch.ones_like(top))
    squared = x.square().sum(-1, keepdim=True)
    return x * torch.where(squared > 0, squared, torch.ones_like(squared)).rsqrt()


def divided_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows scaled to length one, without autograd, and the factor of each row (..., 1)."""
    if x.device.type == "cpu":  # reading values on an accelerator would synchronise
        lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        least, most = torch.stack(lengths.aminmax()).tolist()
        if least > _SHORT and most < _LONG:  # False for NaN
            return x / lengths, lengths.reciprocal_()
    top = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
    top.masked_fill_(top == 0, 1)
    rows = x / top
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min_(1)  # 0 for zero rows
    return rows.div_(lengths), lengths.mul_(top).reciprocal_()


#: Lengths between which squares neither overflow nor underflow float32.
_SHORT, _LONG = 1e-15, 1e15


class _UnitRows(torch.autograd.Function):
    """:func:`divided_rows` with autograd, in four passes over memory instead of some twenty."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        unit, inverse = divided_rows(x)
        ctx.save_for_backward(x, unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        x, unit, inverse = ctx.saved_tensors
        (slope,) = slopes
        if torch.is_grad_enabled():
            alias = x.view_as(x)
            found: Tensor = torch.autograd.grad(_normalized(alias), alias, slope, create_graph=True)[0]
            return found
        along = torch.linalg.vecdot(slope, unit).unsqueeze(-1)
        return torch.addcmul(slope, unit, along, value=-1).mul_(inverse)
