"""Numbers that look random and never change: what a randomised loss draws when no generator is given.

A counter goes through an integer hash, so there is no random state to read or leave changed, the same numbers come
on every device, and a compiled graph holds plain arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOW_32 = 0xFFFFFFFF


def fixed_bits(count: int, device: torch.device) -> Tensor:
    """``count`` int64 numbers spread over 0 .. 2^32 - 1 (a bijective 32-bit mix of 1 .. count)."""
    z = torch.arange(1, count + 1, device=device) * 0x1E3779B9 & _LOW_32
    z = ((z ^ (z >> 16)) * 0x21F0AAAD) & _LOW_32
    z = ((z ^ (z >> 15)) * 0x735A2D97) & _LOW_32
    return z ^ (z >> 15)


def fixed_normal(rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal numbers (rows, columns), by Box and Muller's transform."""
    count = rows * columns
    uniform = (fixed_bits(2 * count, device).to(torch.float64) + 0.5) / 2**32
    radius = (-2 * uniform[:count].log()).sqrt()
    return (radius * (2 * math.pi * uniform[count:]).cos()).reshape(rows, columns).to(dtype)


def fixed_integers(rows: int, columns: int, *, below: int, device: torch.device) -> Tensor:
    """Integers 0 .. below - 1, (rows, columns)."""
    return (fixed_bits(rows * columns, device) % below).reshape(rows, columns)
