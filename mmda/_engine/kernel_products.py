"""Sums over pairs of rows of several kernels together, tile by tile: value and gradient in O(n d) memory.

A product of kernels (the joint MMD) or of centred similarities (HSIC) is evaluated on a tile of pairs as it is written
and differentiated by autograd there, so that any kernel can be used. The gradient is computed in the same pass; the
backward pass only scales it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from mmda._core.masking import full_precision
from mmda._core.transforms import values_are_known
from mmda._engine.scaffold import edges, usable
from mmda.kernels import Kernel, distances_about

#: Rows per tile; tiles of 512 rows take as long and three times the memory.
BLOCK = 256

Tile = Callable[[slice, slice, Sequence[tuple[Tensor, Tensor]]], Tensor]


def can_tile(rows: Sequence[Tensor], constants: Sequence[Tensor | None]) -> bool:
    """Whether :func:`tile_sum` may be used: ordinary reverse mode, no gradient for constants."""
    if not values_are_known(*rows, *constants):
        return False
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in constants))


def gram_tile(kernel: Kernel, centre: Tensor, rows: Sequence[Tensor], bandwidth: Tensor) -> Tensor:
    """The kernel of two blocks of rows, or of one with itself if it is the same object."""
    return kernel.evaluate(distances_about(centre, rows[0], rows[1], same=rows[0] is rows[1]), bandwidth)


def tiles(first: int, total: int) -> Iterator[tuple[slice, slice]]:
    """The tiles on and above the diagonal, none of them with rows from both sides of ``first``."""
    parts = [slice(*ends) for ends in edges(0, first, BLOCK) + edges(first, total, BLOCK)]
    return combinations_with_replacement(parts, 2)


def tile_sum(rows: Sequence[Tensor], tile: Tile, whole: Callable[..., Tensor], *, first: int = 0) -> Tensor:
    """Sum of ``tile`` over all tiles of a symmetric matrix of pairs, in float64.

    Args:
        rows: one or more tensors (n, d_l) of the same number of rows.
        tile: takes two slices and, for each tensor, its rows of both (the same object twice on the diagonal); returns
            the tile's sum.
        whole: the sum as a function of ``rows`` in plain operations, for second derivatives.
        first: a number of rows that no tile crosses.
    """
    sum_: Tensor = _TileSum.apply(tile, whole, first, *(usable(t) for t in rows))  # type: ignore[no-untyped-call]
    return sum_


class _TileSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tile: Tile, whole: Callable[..., Tensor], first: int, *rows: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[3:]
        total = torch.zeros((), dtype=torch.float64, device=rows[0].device)
        gradients: list[Tensor | None] = [torch.zeros_like(t) if need else None for t, need in zip(rows, needed)]
        for i, j in tiles(first, rows[0].shape[0]):
            with torch.set_grad_enabled(any(needed)):
                left = [t[i].detach().requires_grad_(need) for t, need in zip(rows, needed)]
                right = left if i == j else [t[j].detach().requires_grad_(need) for t, need in zip(rows, needed)]
                value = tile(i, j, list(zip(left, right))) * (1 if i == j else 2)
            total += value.detach()
            sides = ((i, left),) if i == j else ((i, left), (j, right))
            wanted = [(g[part], t) for part, blocks in sides for g, t in zip(gradients, blocks) if g is not None]
            if wanted:
                for (place, _), slope in zip(wanted, torch.autograd.grad(value, [t for _, t in wanted])):
                    place += slope
        ctx.whole = whole
        ctx.save_for_backward(*rows, *gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        (slope,), saved, needed = slopes, ctx.saved_tensors, ctx.needs_input_grad[3:]
        rows, gradients = saved[: len(needed)], saved[len(needed) :]
        if not torch.is_grad_enabled():
            return None, None, None, *(None if g is None else g * slope.to(g) for g in gradients)
        with full_precision(rows[0]):
            aliases = [t.view_as(t) for t in rows]
            wanted = [t for t, need in zip(aliases, needed) if need]
            found = iter(torch.autograd.grad(ctx.whole(*aliases), wanted, slope, create_graph=True))
        return None, None, None, *(next(found) if need else None for need in needed)
