"""L2 normalisation of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known


def normalized_rows(x: Tensor) -> Tensor:
    """Rows scaled to length one, without overflow or underflow of squares; zero rows stay zero."""
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


#: Lengths between which squares neither overflow nor underflow float32.
_SHORT, _LONG = 1e-12, 1e12


def _ordinary_lengths(x: Tensor) -> Tensor | None:
    """Lengths of the rows (..., 1), one for zero rows; None if squares of some row would overflow or underflow."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    least, most = torch.stack(lengths.aminmax()).tolist()
    if not most <= _LONG:  # also for NaN and infinite rows
        return None
    if least >= _SHORT:
        return lengths
    short = lengths < _SHORT
    if bool(x[short.squeeze(-1)].any()):  # not exactly zero
        return None
    return lengths.masked_fill_(short, 1)


class _UnitRows(torch.autograd.Function):
    """Rows over their lengths, in four passes over memory instead of some twenty."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Tensor) -> Tensor:
        unit = x / lengths
        ctx.save_for_backward(x, lengths, unit)
        return unit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, lengths, unit = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            alias = x.view_as(x)
            return torch.autograd.grad(_normalized(alias), alias, grad, create_graph=True)[0], None
        along = torch.linalg.vecdot(grad, unit).unsqueeze(-1)
        return torch.addcmul(grad, unit, along, value=-1).div_(lengths), None
