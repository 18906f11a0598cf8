"""Elementwise operations of a softmax over tiles: an interface with two implementations.

:class:`Operations` uses PyTorch, :class:`mmda._engine.native_logits.CompiledLoops` the compiled loops. All logits are
in base 2, because on a CPU ``exp2`` takes a third of the time of ``exp``.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from mmda._engine.logit_tiles import Strips, parts

#: Factor from natural logits to logits in base 2.
LOG2_E = 1 / math.log(2)


class Sums(NamedTuple):
    """Running sums of 2^(logit - top) over the rows or columns of a matrix, with the largest logit so far as top.

    If no logit is large (``safe``), ``tops`` is empty and taken as zero.
    """

    tops: Tensor
    sums: Tensor

    @classmethod
    def begin(cls, like: Tensor, n: int, safe: bool) -> Sums:
        return cls(like.new_full((0 if safe else n,), torch.finfo(like.dtype).min), like.new_zeros(n))

    def plus(self, logits: Tensor, weight: Tensor) -> Sums:
        """The sums with one more logit per row, of weight ``weight``."""
        if self.safe:
            return self._replace(sums=self.sums + logits.exp2() * weight)
        tops = torch.where(weight > 0, torch.maximum(self.tops, logits), self.tops)
        more = ((logits - tops).exp2_() * weight).masked_fill_(weight <= 0, 0)
        return Sums(tops, self.sums * (self.tops - tops).exp2() + more)

    def parts(self, sizes: list[int]) -> list[Sums]:
        tops = [self.tops] * len(sizes) if self.safe else parts(self.tops, sizes)
        return [Sums(*both) for both in zip(tops, parts(self.sums, sizes))]

    @property
    def safe(self) -> bool:
        return self.tops.numel() == 0

    def above(self, logits: Tensor) -> Tensor:
        """The logarithm of each sum minus a logit of its row.

        Exactly zero if that logit dominates the sum that includes it.
        """
        logarithms = self.sums.log2()
        return logarithms - logits if self.safe else logarithms + (self.tops - logits)

    def share(self, logits: Tensor) -> Tensor:
        """The fraction of each sum that comes from one logit of its row."""
        return (logits if self.safe else logits - self.tops).exp2() / self.sums

    def turned(self, share: Tensor) -> Sums:
        """``share`` over the sums, which turns powers into ``share`` times probabilities; zero where ``share`` is."""
        return self._replace(sums=(share / self.sums).masked_fill_(share <= 0, 0))


class Loops(Protocol):
    """Elementwise operations on a tile. Tiles have contiguous rows and are overwritten."""

    #: Rows per tile for each loss: large tiles have faster products, small ones need less memory.
    blocks: ClassVar[dict[str, int]]

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        """Add a tile of logits to the sums of its rows and columns; if these are safe, the tile becomes powers."""

    def probabilities(self, s: Tensor, rows: Sums, columns: Sums | None, *, collected: bool) -> None:
        """Replace a tile of logits (or the result of ``collect``) by softmax over rows plus softmax over columns.

        The sums are :meth:`Sums.turned`.
        """


class Operations:
    """:class:`Loops` in PyTorch operations, on strips that fit in the caches."""

    blocks: ClassVar = {"info_nce": 2048, "symmetric": 2048, "nt_xent": 512}

    def __init__(self, like: Tensor) -> None:
        self.strips = Strips(like)

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        limits = torch.finfo(s.dtype)
        for piece, space, tops, sums in self.strips.of(s, rows.sums if rows.safe else rows.tops, rows.sums):
            if rows.safe:
                sums.add_(piece.exp2_().sum(1))
                if columns is not None:
                    columns.sums.add_(piece.sum(0))
                continue
            for top, total, dim in ((tops, sums, 1), (*columns, 0)) if columns is not None else ((tops, sums, 1),):
                found = torch.maximum(top, piece.amax(dim)).clamp_(max=limits.max)
                powers = torch.sub(piece, found.unsqueeze(dim), out=space).exp2_()
                total.mul_(top.sub_(found).exp2_()).add_(powers.sum(dim))
                top.copy_(found)

    def probabilities(self, s: Tensor, rows: Sums, columns: Sums | None, *, collected: bool) -> None:
        for piece, space, tops, sums in self.strips.of(s, rows.sums if rows.safe else rows.tops, rows.sums):
            factor = sums.unsqueeze(1)
            if rows.safe:
                if not collected:
                    piece.exp2_()
                piece.mul_(factor if columns is None else torch.add(factor, columns.sums, out=space))
            elif columns is None:
                piece.sub_(tops.unsqueeze(1)).exp2_().mul_(factor)
            else:
                p = torch.sub(piece, tops.unsqueeze(1), out=space).exp2_().mul_(factor)
                piece.sub_(columns.tops).exp2_().mul_(columns.sums).add_(p)
