"""What a sweep over logits is made of: rows, sums, tiles, and what is done to the numbers of a tile.

The last is :class:`Loops`, a small interface with two implementations: :class:`Operations`, PyTorch's, and
:class:`mmda._engine.native_logits.CompiledLoops`. All logits are of base 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

#: Numbers of a tile that are exponentiated, summed and turned into probabilities at a time.
STRIP = 2**17
#: Tiles are kept between the two passes while all of them fit.
KEEP_BYTES = 64 * 2**20
#: From natural logits to those of base 2.
LOG2_E = 1 / math.log(2)


class Sums(NamedTuple):
    """Sums over logits of a matrix's rows or columns: of 2^(logit - top), with the largest logit so far.

    Where no logit is large the tops are none (0,) and count as zero.
    """

    tops: Tensor
    sums: Tensor

    @classmethod
    def begin(cls, like: Tensor, n: int, safe: bool) -> Sums:
        return cls(like.new_full((0 if safe else n,), torch.finfo(like.dtype).min), like.new_zeros(n))

    @classmethod
    def of(cls, logits: Tensor, weight: Tensor | float, safe: bool) -> Sums:
        """The sums of one logit a row, times ``weight``."""
        if safe:
            return cls(logits[:0], logits.exp2() * weight)
        return cls(logits.clone(), torch.ones_like(logits) * weight)

    def plus(self, logits: Tensor, weight: Tensor) -> Sums:
        """The sums with one more logit a row, times ``weight``."""
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
        """How far the logarithm of each sum lies above a logit of its row.

        Where the logit is among those of the sum, a row that it outweighs gives exactly zero.
        """
        logarithms = self.sums.log2()
        return logarithms - logits if self.safe else logarithms + (self.tops - logits)

    def share(self, logits: Tensor) -> Tensor:
        """The part of each sum that one logit of its row is."""
        return (logits if self.safe else logits - self.tops).exp2() / self.sums

    def turned(self, share: Tensor) -> Sums:
        """What makes ``share`` times the probabilities of powers: reciprocals of the sums. Zero where the share is."""
        return self._replace(sums=(share / self.sums).masked_fill_(share <= 0, 0))


class Loops(Protocol):
    """What is done to the numbers of a tile one by one. Tiles have contiguous rows and are overwritten."""

    #: Rows of a tile by kind of loss: large ones make fast products, small ones need little memory.
    blocks: ClassVar[dict[str, int]]

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        """Add a tile of logits to the sums of its rows, and of its columns; where these are safe it becomes powers."""

    def probabilities(self, s: Tensor, rows: Sums, columns: Sums | None, *, collected: bool) -> None:
        """Softmax over rows plus that over columns in the place of a tile of logits, or of what ``collect`` left.

        The sums are :meth:`Sums.turned`.
        """

    def pairwise(self, s: Tensor, bias: Tensor | None, weights: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Sum of w log(1 + e^x), x natural logits plus ``bias``, and of the slopes, which take the place of the tile.

        ``weights`` are those of rows and of columns, whose product w is; 1 by default.
        """


class Operations:
    """:class:`Loops` in PyTorch's operations, strip by strip, which stays in the nearest caches."""

    blocks: ClassVar = {"info_nce": 2048, "symmetric": 2048, "nt_xent": 512, "sigmoid": 1024}

    def __init__(self, like: Tensor) -> None:
        self.on_cpu = like.device.type == "cpu"
        self.space = like.new_empty(0)

    def strips(self, tile: Tensor, *of_rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Some rows of a tile, space of their shape beside, free at any time, and what belongs to them."""
        rows = max(1, STRIP // tile.shape[1]) if self.on_cpu else tile.shape[0]
        if self.space.numel() < min(rows, tile.shape[0]) * tile.shape[1]:
            self.space = tile.new_empty(min(rows, tile.shape[0]) * tile.shape[1])
        groups: Iterable[tuple[Tensor, ...]] = zip(*(t.split(rows) for t in (tile, *of_rows)))  # type: ignore[no-untyped-call]
        for piece, *values in groups:
            yield piece, self.space[: piece.numel()].view(piece.shape), *values

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        limits = torch.finfo(s.dtype)
        for piece, space, tops, sums in self.strips(s, rows.sums if rows.safe else rows.tops, rows.sums):
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
        for piece, space, tops, sums in self.strips(s, rows.sums if rows.safe else rows.tops, rows.sums):
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

    def pairwise(self, s: Tensor, bias: Tensor | None, weights: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        value, total = s.new_zeros((2,), dtype=torch.float64).unbind(0)
        of_rows, of_columns = (s[:, 0], None) if weights is None else weights
        for piece, space, w in self.strips(s, of_rows):
            if bias is not None:
                piece.add_(bias)
            if of_columns is None:
                value.add_(_softplus_sum(piece, space))
                total.add_(piece.sigmoid_().sum(1).sum(dtype=torch.float64))
                continue
            each = torch.abs(piece, out=space).mul_(-LOG2_E).exp2_().log1p_().add_(piece.clamp_min(0))
            value.add_(torch.mv(each, of_columns).mul_(w).sum(dtype=torch.float64))
            piece.sigmoid_().mul_(of_columns).mul_(w.unsqueeze(1))
            total.add_(piece.sum(1).sum(dtype=torch.float64))
        return value, total


def _softplus_sum(s: Tensor, space: Tensor) -> Tensor:
    """Sum of log(1 + e^s) = max(s, 0) + log(1 + e^-|s|); four factors share a logarithm. Overwrites ``space``."""
    value = torch.clamp_min(s, 0, out=space).sum(1).sum(dtype=torch.float64)
    p = torch.abs(s, out=space).mul_(-LOG2_E).exp2_()
    for _ in range(2):
        if p.shape[1] % 2 == 0:
            half = p.shape[1] // 2
            left, right = p[:, :half], p[:, half:]
            p = (left + right).addcmul_(left, right)  # (1 + left) (1 + right) - 1
    return value.add_(p.log1p_().sum(1).sum(dtype=torch.float64))


class Rows:
    """Rows as they are compared: as given, or divided by their length."""

    def __init__(self, given: Tensor, unit: bool) -> None:
        self.rows, self.inverse = given, given[:0]
        self.unit = unit
        if not unit:
            return
        length = torch.linalg.vector_norm(given, dim=1, keepdim=True)
        if given.device.type == "cpu" and bool(((length > 1e-15) & (length < 1e15)).all()):
            self.rows = given / length
            self.inverse = length.reciprocal_()
            return
        # As :func:`normalized_rows` does it, where squares may leave the range of float32 or rows are zero; and where
        # to ask the rows would make an accelerator wait.
        top = torch.maximum(given.amax(1, keepdim=True), -given.amin(1, keepdim=True))
        top.masked_fill_(top == 0, 1)
        self.rows = given / top
        length = torch.linalg.vector_norm(self.rows, dim=1, keepdim=True).clamp_min_(1)  # 0 where the row is zero
        self.rows.div_(length)
        self.inverse = length.mul_(top).reciprocal_()

    def longest(self) -> Tensor:
        """The largest length."""
        if self.unit:
            return self.rows.new_ones(())
        lengths: Tensor = torch.linalg.vector_norm(self.rows, dim=1)
        return lengths.amax()

    def gradient(self, h: Tensor, scale: Tensor | float, tempered: bool) -> tuple[Tensor | None, Tensor]:
        """From the slopes by the rows over ``scale``: the slope by ``scale``, and by the given rows (in place of h)."""
        bare = isinstance(scale, float) and scale == 1
        if not (self.unit or tempered):
            return None, h if bare else h.mul_(scale)
        along = torch.linalg.vecdot(h, self.rows)
        slope = along.sum(dtype=torch.float64) if tempered else None
        if not self.unit:
            return slope, h if bare else h.mul_(scale)
        h.addcmul_(self.rows, along.unsqueeze(1), value=-1)
        return slope, h.mul_(self.inverse if bare else self.inverse * scale)


class Tiles:
    """Work space for tiles of logits: one, or all of them where they are to be kept and fit."""

    def __init__(self, like: Tensor, count: int, size: int, keep: bool) -> None:
        self.kept = keep and count * size * like.element_size() <= KEEP_BYTES
        places = count if self.kept else 1
        self._whole = _take_space(like, places * size)
        self._store = self._whole[: places * size].view(places, size)

    def product(self, index: int, rows: Tensor, columns: Tensor) -> Tensor:
        """Products of these rows, in the space of this tile."""
        return torch.mm(rows, columns.T, out=self.view(index, rows.shape[0], columns.shape[0]))

    def view(self, index: int, n: int, m: int) -> Tensor:
        """The space of a tile, and what was left there."""
        return self._store[index if self.kept else 0][: n * m].view(n, m)

    def leave(self) -> None:
        """Give the space back; it must not be used afterwards."""
        _leave_space(self._whole)


#: Space of the last sweep. Fresh pages cost as much as the passes over the tiles in them, and a training loop asks for
#: the same again at every step.
_spare: list[Tensor] = []


def _take_space(like: Tensor, count: int) -> Tensor:
    """At least so many numbers of the kind of ``like``: those that the last sweep left, where they are enough."""
    if like.device.type == "cpu" and type(like) is Tensor:
        with suppress(IndexError):  # nothing left, or another thread took it
            space = _spare.pop()
            if space.numel() >= count and space.dtype == like.dtype:
                return space
    return like.new_empty(count)


def _leave_space(space: Tensor) -> None:
    """Keep a CPU's space for the next sweep; one, and none that only ``torch.inference_mode`` may write."""
    if space.device.type == "cpu" and type(space) is Tensor and not space.is_inference():
        _spare[:] = [space]


def parts(x: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    """Rows in stretches of these sizes."""
    split: Sequence[Tensor] = x.split(sizes)  # type: ignore[no-untyped-call]
    return split
