r"""Softmaxes over the rows, or rows and columns, of a logit matrix that is computed tile by tile and never stored.

* Row weights are added to the logits as log2 of the weights: the row sums of :math:`r_i c_j e^{s_{ij}}` are
  :math:`r_i` times the wanted sums.
* Pairs that are not candidates have a logit of minus infinity.
* A row and its own partner count once, whatever their weights: these logits are left out of the tiles and handled
  separately (:class:`Beside`), so that a loss of exactly zero stays zero.
* Tiles are kept for the gradient if they fit in ``KEEP_BYTES``, otherwise computed twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmda._engine.logit_loops import Loops, Sums
from mmda._engine.logit_pairs import Contrast, Pairs
from mmda._engine.logit_tiles import Grid, Masks, Tiles

#: Logits within this bound need no shift: their exponentials, summed over any batch, do not overflow float32.
SAFE_LOGIT = 40.0


class Beside(NamedTuple):
    """One separate logit per row, its weight in the row's sum, and its weight as a positive."""

    logits: Tensor
    weight: Tensor
    positive: Tensor


@dataclass
class Side:
    """Rows or columns of the logit matrix, or a block of them, with their accumulators; None if not needed.

    Attributes:
        rows: the rows as compared.
        slopes: gradients for the rows, divided by the scale of the natural logits.
        count: row weights; None: ones.
        offset, level: log2 of the weights; ``level`` is 0 for a weight of 0.
        total, pulled: the total weight of each row's positives, and the weighted sum of their logits.
        pull: the derivative of the loss with respect to the weighted mean of each row's positive logits, over
            ``total``.
        partner, itself: logits handled outside the tiles.
        sums, found: sums over each row's logits, and with ``several="sum"`` over those of its positives.
    """

    rows: Tensor
    slopes: Tensor | None
    count: Tensor | None
    offset: Tensor | None
    level: Tensor | None
    total: Tensor
    pulled: Tensor
    pull: Tensor
    partner: Beside | None = None
    itself: Beside | None = None
    sums: Sums | None = None
    found: Sums | None = None

    @classmethod
    def of(cls, rows: Tensor, count: Tensor | None, wanted: bool) -> Side:
        """A side with empty accumulators; ``wanted``: whether gradients for the rows are needed."""
        offset = level = None
        if count is not None:
            offset, level = count.log2(), count.masked_fill(count == 0, 1).log2_()
        total, pulled = rows.new_zeros(2, rows.shape[0]).unbind(0)
        return cls(rows, torch.zeros_like(rows) if wanted else None, count, offset, level, total, pulled, total)

    def span(self) -> float:
        """The largest change of natural logits by the weights; infinite on accelerators, to avoid a synchronisation."""
        if self.level is None:
            return 0.0
        return float(self.level.abs().amax()) * math.log(2) if self.level.device.type == "cpu" else math.inf

    def begin(self, safe: bool, several: bool) -> None:
        """Start the sums of a softmax over these rows' logits; ``safe``: they need no shift, ``several``: also
        ``found``."""
        n = self.rows.shape[0]
        self.sums = Sums.begin(self.rows, n, safe)
        self.found = Sums.begin(self.rows, n, safe) if several else None

    def add(self, beside: Beside) -> Beside:
        """Add one logit per row to the sums."""
        assert self.sums is not None
        logits = beside.logits if self.level is None else beside.logits + self.level
        self.sums = self.sums.plus(logits, beside.weight)
        self.pulled += beside.logits * beside.positive
        self.total += beside.positive
        return beside._replace(logits=logits)

    def settle(self, factor: float) -> Tensor:
        """The mean loss over rows with a positive, times ``factor``. Also turns the sums into factors of the
        gradient."""
        assert self.sums is not None
        tiny = torch.finfo(self.total.dtype).tiny
        kept = (self.total > 0).to(self.total)
        kept = kept if self.count is None else kept * self.count
        rows = kept.sum(dtype=torch.float64).clamp_min_(tiny)
        share, weight = kept * (factor / rows).to(kept.dtype), self.total.clamp_min(tiny)
        if self.found is None:
            mean = self.pulled / weight
            each = self.sums.above(mean if self.level is None else mean + self.level)
        else:
            each = self.sums.sums.log2() - self.found.sums.log2()
            each = each if self.sums.safe else each + (self.sums.tops - self.found.tops)
            self.found = self.found.turned(share)
        self.partner, self.itself = (
            b if b is None else self._slopes(b, share, weight) for b in (self.partner, self.itself)
        )
        self.pull, self.sums = share / weight, self.sums.turned(share)
        return (each * kept).masked_fill_(kept <= 0, 0).sum(dtype=torch.float64) * (factor * math.log(2)) / rows

    def _slopes(self, beside: Beside, share: Tensor, weight: Tensor) -> Beside:
        """Replace the logits by the derivatives with respect to them."""
        assert self.sums is not None
        among = (self.sums.share(beside.logits) * beside.weight).masked_fill_(beside.weight <= 0, 0)
        slopes = among.sub_(beside.positive / weight).mul_(share).masked_fill_(share <= 0, 0)
        return beside._replace(logits=slopes)

    def parts(self, places: list[slice], read: frozenset[str]) -> list[Side]:
        """Views of blocks of the side, of those attributes that are ``read``; the tiles' sums are added to them."""
        if len(places) == 1:
            return [self]
        blocks = {name: value for name, value in vars(self).items() if name in read and value is not None}
        return [replace(self, **{name: _part(value, place) for name, value in blocks.items()}) for place in places]


#: Attributes of a side read by the first pass over the tiles, and by the second.
FIRST = frozenset({"rows", "count", "offset", "total", "pulled", "sums", "found"})
SECOND = frozenset({"rows", "slopes", "count", "offset", "pull", "partner", "itself", "sums", "found"})


def _part(each: Tensor | Beside | Sums, place: slice) -> Any:
    if isinstance(each, Tensor):
        return each[place]
    return type(each)(*(tensor[place] for tensor in each))


class Softmaxes:
    """The two passes: sums over all tiles, then gradients from these sums.

    Args:
        pairs: masks of the pairs.
        how: settings.
        grid: partition into tiles.
        loops: elementwise operations.
        scaled: the rows of the first side times the scale of the base-2 logits.
        rows: the rows of the matrix, with a softmax over the logits of each.
        columns: the columns, with an optional softmax; the same object as ``rows`` if the matrix is symmetric.
    """

    def __init__(
        self, pairs: Pairs, how: Contrast, grid: Grid, loops: Loops, scaled: Tensor, rows: Side, columns: Side
    ) -> None:
        self.scaled = [scaled[place] for place in grid.rows]
        self.grid, self.loops, self.masks, self.own = grid, loops, Masks(pairs, grid), pairs.own
        self.sides = rows, columns
        self.sum_of_positives = how.several == "sum" and not pairs.own
        self.wanted = rows.slopes is not None or columns.slopes is not None
        self.tiles = Tiles(rows.rows, len(grid.tiles), grid.largest, self.wanted and not self.sum_of_positives)
        self.spare = rows.rows.new_empty(0 if pairs.own else grid.largest)

    def value(self) -> Tensor:
        """The loss; also adds the gradients to both sides."""
        rows, columns = self._parts(FIRST)
        for index, (i, j) in enumerate(self.grid.tiles):
            column = columns[j]
            if self.grid.triangle and i == j:
                column = replace(column, sums=None, found=None)  # rows and columns of the tile are the same
            s, t = self._logits(index, rows[i], column, first=True)
            for tile, sums, others in ((s, rows[i].sums, column.sums), (t, rows[i].found, column.found)):
                if tile is not None and sums is not None:
                    self.loops.collect(tile, sums, others)
        there, back = self.sides
        both = back is not there and back.sums is not None
        value = there.settle(0.5 if both else 1.0)
        value = value + back.settle(0.5) if both else value
        if self.wanted:
            self._add_slopes(*self._parts(SECOND))
        self.tiles.leave()
        return value

    def _parts(self, read: frozenset[str]) -> tuple[list[Side], list[Side]]:
        there, back = self.sides
        rows = there.parts(self.grid.rows, read)
        return rows, rows if back is there else back.parts(self.grid.columns, read)

    def _logits(self, index: int, rows: Side, columns: Side, *, first: bool) -> tuple[Tensor, Tensor | None]:
        """A tile of logits, and with ``several="sum"`` another with only the positives.

        In the ``first`` pass the weights of positives and their logits are summed.
        """
        i, j = self.grid.tiles[index]
        s, t = self.tiles.product(index, self.scaled[i], columns.rows), None
        q = self.masks.positive(i, j)
        if q is not None and first:
            each = self._space(s).copy_(q)
            for of_rows, of_columns in ((rows.total, columns.total), (rows.pulled, columns.pulled)):
                _add_sums(of_rows, each, columns.count)
                if columns.sums is not None:
                    _add_sums(of_columns, each.T, rows.count)
                each.mul_(s)
        if rows.offset is not None:
            s.add_(rows.offset.unsqueeze(1))
        if columns.offset is not None:
            s.add_(columns.offset)
        if q is not None and self.sum_of_positives:
            t = self._space(s)
            if q.dtype == torch.bool:
                t.copy_(s).masked_fill_(~q, -torch.inf)
            else:
                torch.add(s, q.log2(), out=t)
        out = self.masks.left_out(i, j, q)
        if out is not None:
            s.masked_fill_(out, -torch.inf)
        if self.grid.itself_on_diagonal(i, j) or (self.own and self.grid.partners_on_diagonal(i, j)):
            s.fill_diagonal_(-torch.inf)
        return s, t

    def _add_slopes(self, rows: list[Side], columns: list[Side]) -> None:
        grid = self.grid
        # In reverse order, because the last tiles are still in the cache.
        for index, (i, j) in reversed(list(enumerate(grid.tiles))):
            row, column = rows[i], columns[j]
            if self.tiles.kept:
                s, t = self.tiles.view(index, row.rows.shape[0], column.rows.shape[0]), None
            else:
                s, t = self._logits(index, row, column, first=False)
            for tile, sums, others in ((s, row.sums, column.sums), (t, row.found, column.found)):
                if tile is not None and sums is not None:
                    self.loops.probabilities(tile, sums, others, collected=self.tiles.kept)
            q = self.masks.positive(i, j)
            if t is not None:
                s.sub_(t)
            elif q is not None:
                s.sub_(self._pull(s, row, column).mul_(q))
            if self.own and grid.partners_on_diagonal(i, j):
                s.diagonal().copy_(_sum(row.partner, column.partner))
            elif grid.itself_on_diagonal(i, j) and row.itself is not None:
                s.diagonal().copy_(_sum(row.itself, column.itself))
            if row.slopes is not None:
                row.slopes.addmm_(s, column.rows)
            if column.slopes is not None and not (grid.triangle and i == j):
                column.slopes.addmm_(s.T, row.rows)

    def _pull(self, s: Tensor, rows: Side, columns: Side) -> Tensor:
        """Minus the derivative of the loss with respect to each logit as a positive."""
        pull = self._space(s)
        if columns.count is None:
            pull.copy_(rows.pull.unsqueeze(1))
        else:
            torch.outer(rows.pull, columns.count, out=pull)
        if columns.sums is not None:
            pull.add_(columns.pull if rows.count is None else rows.count.unsqueeze(1) * columns.pull)
        return pull

    def _space(self, s: Tensor) -> Tensor:
        return self.spare[: s.numel()].view(s.shape)


def are_safe(rows: Side, columns: Side, unit: bool, scale: Tensor | float) -> bool:
    """Whether no logit needs a shift. On accelerators only bounds known on the host are used, without synchronising."""
    if unit and not isinstance(scale, Tensor):
        largest = abs(scale)
    elif rows.rows.device.type == "cpu":
        lengths = (1.0 if unit else torch.linalg.vector_norm(side.rows, dim=1).amax() for side in (rows, columns))
        largest = abs(float(next(lengths) * next(lengths) * scale))
    else:
        return False
    return largest + rows.span() + columns.span() <= SAFE_LOGIT


def _add_sums(sums: Tensor, tile: Tensor, weight: Tensor | None) -> None:
    """Add the sums of a tile's rows over columns of these weights."""
    if weight is None:
        sums.add_(tile.sum(1))
    else:
        sums.addmv_(tile, weight)


def _sum(one: Beside | None, other: Beside | None) -> Tensor:
    """The gradients of logits that either side may have in addition to its tiles."""
    assert one is not None
    return one.logits if other is None else one.logits + other.logits
