"""Random draws of the losses: the same numbers at every call, or fresh ones.

Fixed numbers come from an integer hash of a counter. They need no random state, are the same on every device, and are
plain arithmetic in a compiled graph.

Fresh numbers come from PyTorch's global generator of the features' device, as in dropout, so ``torch.manual_seed``
reproduces them, and so does activation checkpointing, which restores the generator state. ``vmap`` raises on random
operations by default; here the draw is one operator that is called once for the whole batch. A compiled graph contains
PyTorch's own random operations, which the compiler does not merge; by default these draw other numbers than eager code
with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

_LOW_32 = 0xFFFFFFFF

Draws = Literal["fresh", "fixed"]
DRAWS = ("fresh", "fixed")

#: The current key of draws shared by all ranks, inside :func:`shared_draws`.
_shared: list[Tensor] = []


def _mixed(z: Tensor) -> Tensor:
    """A bijective hash of 32 bits."""
    z = z * 0x1E3779B9 & _LOW_32
    z = ((z ^ (z >> 16)) * 0x21F0AAAD) & _LOW_32
    z = ((z ^ (z >> 15)) * 0x735A2D97) & _LOW_32
    return z ^ (z >> 15)


def fixed_bits(count: int, device: torch.device, key: Tensor | None = None) -> Tensor:
    """``count`` int64 numbers spread over 0 .. 2^32 - 1 (hashes of 1 .. count); different ones for each ``key``."""
    z = _mixed(torch.arange(1, count + 1, device=device))
    return z if key is None else _mixed(z ^ _mixed(key & _LOW_32))


def fixed_normal(
    rows: int, columns: int, *, dtype: torch.dtype, device: torch.device, key: Tensor | None = None
) -> Tensor:
    """Standard normal numbers (rows, columns), by the Box-Muller transform."""
    count = rows * columns
    uniform = (fixed_bits(2 * count, device, key).to(torch.float64) + 0.5) / 2**32
    radius = (-2 * uniform[:count].log()).sqrt()
    return (radius * (2 * math.pi * uniform[count:]).cos()).reshape(rows, columns).to(dtype)


def fixed_integers(rows: int, columns: int, *, below: int, device: torch.device, key: Tensor | None = None) -> Tensor:
    """Integers 0 .. below - 1, (rows, columns)."""
    return (fixed_bits(rows * columns, device, key) % below).reshape(rows, columns)


def fresh_normal(rows: int, columns: int, *, like: Tensor) -> Tensor:
    """Fresh standard normal numbers (rows, columns), with the dtype and device of ``like``."""
    if _shared:
        return fixed_normal(rows, columns, dtype=like.dtype, device=like.device, key=_next_key(like.device))
    return _drawn(like.detach(), rows, columns, 0)


def fresh_integers(rows: int, columns: int, *, below: int, like: Tensor) -> Tensor:
    """Fresh integers 0 .. below - 1, (rows, columns), on the device of ``like``."""
    if _shared:
        return fixed_integers(rows, columns, below=below, device=like.device, key=_next_key(like.device))
    return _drawn(like.detach(), rows, columns, below)


@contextmanager
def shared_draws(key: int) -> Iterator[None]:
    """Context in which fresh numbers are derived from this key, so that processes with the same key draw the same."""
    before = list(_shared)
    _shared[:] = [torch.tensor(key)]
    try:
        yield
    finally:
        _shared[:] = before


def _next_key(device: torch.device) -> Tensor:
    key = _shared[0]
    _shared[0] = _mixed(key & _LOW_32) + 1
    return key.to(device)


def _plain(like: Tensor, rows: int, columns: int, below: int) -> Tensor:
    if below:
        return torch.randint(below, (rows, columns), device=like.device)
    return torch.randn(rows, columns, dtype=like.dtype, device=like.device)


def _drawn(like: Tensor, rows: int, columns: int, below: int) -> Tensor:
    if torch.compiler.is_compiling():
        return _plain(like, rows, columns, below)
    drawn: Tensor = torch.ops.mmda.fresh_draw(like, rows, columns, below)
    return drawn


torch.library.define(
    "mmda::fresh_draw",
    "(Tensor like, int rows, int columns, int below) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)
torch.library.impl("mmda::fresh_draw", "CompositeExplicitAutograd", _plain)


@torch.library.register_fake("mmda::fresh_draw")  # type: ignore[untyped-decorator]
def _(like: Tensor, rows: int, columns: int, below: int) -> Tensor:
    return like.new_empty(rows, columns, dtype=torch.int64 if below else like.dtype)


@torch.library.register_vmap("mmda::fresh_draw")  # type: ignore[untyped-decorator]
def _(
    info: Any, in_dims: tuple[int | None, ...], like: Tensor, rows: int, columns: int, below: int
) -> tuple[Tensor, int | None]:
    if info.randomness == "different":
        one = like.select(in_dims[0], 0) if in_dims[0] is not None else like
        draws = [torch.ops.mmda.fresh_draw(one, rows, columns, below) for _ in range(info.batch_size)]
        return torch.stack(draws), 0
    return torch.ops.mmda.fresh_draw(like, rows, columns, below), None
