"""Masked reductions and the one place where samples, masks and weights become rows and row weights.

Masks are bool, True = keep. What padding holds never matters, NaN and infinities included: values and
gradients on padding are exactly zero. A reduction over an empty row gives zero, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmda._core.transforms import is_plain


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input has it, else float32: half precision is widened, never computed in.

    What is no tensor counts as float32: the caller's own checks, which know its name, refuse it.
    """
    return torch.float64 if any(getattr(t, "dtype", None) == torch.float64 for t in tensors) else torch.float32


@contextmanager
def full_precision(tensor: Tensor) -> Iterator[None]:
    """Autocast off for this tensor's device; free when autocast is not on. What is no tensor is left to the checks."""
    device = tensor.device.type if isinstance(tensor, Tensor) else "meta"
    if device != "meta" and torch.is_autocast_enabled(device):
        with torch.autocast(device_type=device, enabled=False):
            yield
    else:
        yield


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` with exact zeros where ``mask`` (all axes of ``x`` but the last) is False, whatever was there."""
    if (
        x.device.type == "cpu"
        and type(x) in _PLAIN
        and x.numel() >= _MANY
        and x.dtype in _BITS
        and mask.shape == x.shape[:-1]
        and not torch.compiler.is_compiling()
        and not x.is_neg()
        and is_plain(x)
    ):
        if x.requires_grad and torch.is_grad_enabled():
            zeroed: Tensor = _ZeroPadding.apply(x, mask)  # type: ignore[no-untyped-call]
            return zeroed
        return _zeroed(x, mask)
    return torch.where(mask.unsqueeze(-1), x, torch.zeros((), dtype=x.dtype, device=x.device))


#: Integers of the size of floating-point numbers, and the types whose numbers may be read as such.
_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_PLAIN = (Tensor, torch.nn.Parameter)
#: With fewer numbers the operations themselves are what costs.
_MANY = 1 << 16


def _zeroed(x: Tensor, mask: Tensor) -> Tensor:
    """No bit of what is masked: on a CPU some five times faster than a choice, and NaN is no exception either."""
    bits = _BITS[x.dtype]
    return (x.view(bits) & mask.unsqueeze(-1).to(bits).neg_()).view(x.dtype)


class _ZeroPadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return _zeroed(x, mask)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return zero_padding(slopes[0], ctx.saved_tensors[0]), None


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, zero (with zero gradient) where the denominator is <= 0."""
    empty = denominator <= 0
    one = torch.ones((), dtype=denominator.dtype, device=denominator.device)
    quotient = numerator / torch.where(empty, one, denominator)
    return torch.where(empty, torch.zeros_like(quotient), quotient)


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean of ``x`` over ``dim`` where ``mask`` (same shape as ``x``) is True; zero where none is."""
    kept = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return safe_divide(kept.sum(dim), mask.sum(dim).to(x.dtype))


def masked_logsumexp(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """log sum exp over ``dim`` where ``mask`` is True; zero where none is."""
    floor = torch.finfo(x.dtype).min
    some = mask.any(dim)
    filled = torch.where(mask, x, torch.full((), floor, dtype=x.dtype, device=x.device))
    top = filled.detach().amax(dim, keepdim=True)
    total = torch.where(mask, (filled - top).exp(), torch.zeros((), dtype=x.dtype, device=x.device)).sum(dim)
    one = torch.ones((), dtype=x.dtype, device=x.device)
    value = torch.where(some, total, one).log() + torch.where(some, top.squeeze(dim), 0 * one)
    return torch.where(some, value, 0 * one)


def masked_log_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Log-softmax over the kept entries; zero on the others."""
    clean = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    value = clean - masked_logsumexp(clean, mask, dim).unsqueeze(dim)
    return torch.where(mask, value, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the kept entries; zero on the others, all zero where none is kept."""
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    value = torch.where(mask, x, floor).softmax(dim)  # even where none is kept
    return torch.where(mask, value, torch.zeros_like(floor))


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
