"""Working precision, and what is hidden by masks: exact zeros where they are False, no division by nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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
    return torch.where(mask.unsqueeze(-1), x, torch.zeros((), dtype=x.dtype, device=x.device))


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, zero (with zero gradient) where the denominator is <= 0."""
    empty = denominator <= 0
    one = torch.ones((), dtype=denominator.dtype, device=denominator.device)
    quotient = numerator / torch.where(empty, one, denominator)
    return torch.where(empty, torch.zeros_like(quotient), quotient)
