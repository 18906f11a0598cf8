"""Scaling that avoids overflow and underflow of powers of features."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_of(*tensors: Tensor) -> Tensor:
    """A power of two between a quarter and a half of the largest entry, detached; 1 / 4 if all entries are zero.

    Dividing by it is exact, and powers of the scaled entries stay in the range of the dtype.
    """
    top = torch.stack([tensor.detach().abs().amax() for tensor in tensors]).amax()
    return torch.exp2(torch.where(top > 0, top, torch.ones_like(top)).log2().ceil() - 2)
