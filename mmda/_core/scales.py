"""Scales that keep powers of features in the range of their type."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_of(*tensors: Tensor) -> Tensor:
    """A power of two between a quarter and a half of the largest entry, detached; 1 / 4 where all are zero.

    Powers of what is divided by it stay in the range of its type, powers of it too for as long as may be, and the
    division rounds nothing.
    """
    top = torch.stack([tensor.detach().abs().amax() for tensor in tensors]).amax()
    return torch.exp2(torch.where(top > 0, top, torch.ones_like(top)).log2().ceil() - 2)
