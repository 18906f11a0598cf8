"""Elementwise operations of a softmax over tiles: an interface with two implementations.

:class:`Operations` uses PyTorch. The compiled loops of ``native_logits.py`` are preferred where they are available.
All logits are in base 2, because on a CPU ``exp2`` takes a third of the time of ``exp``.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mmda._engine.scaffold import ACCELERATOR_BLOCK

#: Rows per tile for PyTorch operations on a CPU, so that a tile fits in the caches.
CPU_BLOCK = 512
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

    #: Rows per tile.
    block: int

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        """Add a tile of logits to the sums of its rows and columns; if these are safe, the tile becomes powers."""

    def probabilities(self, s: Tensor, rows: Sums, columns: Sums | None, *, collected: bool) -> None:
        """Replace a tile of logits (or the result of ``collect``) by softmax over rows plus softmax over columns.

        The sums are :meth:`Sums.turned`.
        """

    def at_once(
        self, s: Tensor, scale: Tensor | float, symmetric: bool, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """InfoNCE from all natural logits ``scale * s``: the value, the gradient for ``s`` over a factor, and the
        factor.

        Without ``gradient`` the last two are undefined.
        """


class Operations:
    """:class:`Loops` in PyTorch operations."""

    def __init__(self, like: Tensor) -> None:
        self.block = CPU_BLOCK if like.device.type == "cpu" else ACCELERATOR_BLOCK

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        both = ((rows, 1), (columns, 0))
        if rows.safe:
            s.exp2_()
        for of, dim in both:
            if of is None:
                continue
            if of.safe:
                of.sums.add_(s.sum(dim))
                continue
            top = torch.maximum(of.tops, s.amax(dim)).clamp_(max=torch.finfo(s.dtype).max)
            of.sums.mul_(of.tops.sub_(top).exp2_()).add_((s - top.unsqueeze(dim)).exp2_().sum(dim))
            of.tops.copy_(top)

    def probabilities(self, s: Tensor, rows: Sums, columns: Sums | None, *, collected: bool) -> None:
        factor = rows.sums.unsqueeze(1)
        if rows.safe:
            powers = s if collected else s.exp2_()
            powers.mul_(factor if columns is None else factor + columns.sums)
            return
        p = s - rows.tops.unsqueeze(1) if columns is not None else s.sub_(rows.tops.unsqueeze(1))
        p.exp2_().mul_(factor)
        if columns is not None:
            s.sub_(columns.tops).exp2_().mul_(columns.sums).add_(p)

    def at_once(
        self, s: Tensor, scale: Tensor | float, symmetric: bool, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        share = (0.5 if symmetric else 1.0) / s.shape[0]
        s = s.mul_(scale)
        g = torch.log_softmax(s, 1)
        own = g.diagonal()
        if symmetric:
            by_column = torch.log_softmax(s, 0)
            own = own + by_column.diagonal()
        value = own.sum().mul_(-share)
        if gradient:
            g.exp_()
            if symmetric:
                g.add_(by_column.exp_())
            g.diagonal().sub_(2 if symmetric else 1)
        return value, g, scale * share
