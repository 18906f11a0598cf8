r"""Contrastive losses one tile of logits at a time: exact, and O(n d) memory beside the masks that are given.

Three losses are computed here, as :mod:`mmda._engine.logit_formulas` writes them down: InfoNCE in one direction or both
(each tile's exponential serves its rows and its columns), NT-Xent (one list, the tiles above the diagonal serve both
sides) and the sigmoid loss. The gradient is made in the same call, through the division by the rows' lengths too.

* Exponentials and logarithms are those of base 2, with the factor in the rows: on a processor ``exp2`` takes a third
  of the time of ``exp``.
* Rows that count 0 are left out before anything is computed; how often others count is added to the logits, as
  log2 of the counts: row sums of :math:`r_i c_j e^{s_{ij}}` are :math:`r_i` times what is wanted.
* Masks of pairs are read tile by tile. What is no candidate has a logit of minus infinity.
* Where row i belongs to row i, these pairs are left out of the tiles and their n logits treated beside: they count
  once where others count as often as their rows, and a loss of exactly zero stays zero.
* Tiles are kept for the gradient while they fit ``KEEP_BYTES``, else computed twice. Few plain rows are done at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._engine import native
from mmda._engine.logit_formulas import Contrast, Pairs, dense
from mmda._engine.logit_tiles import LOG2_E, Loops, Operations, Rows, Sums, Tiles, parts
from mmda._engine.native_logits import CompiledLoops, softmax_at_once
from mmda._engine.scaffold import ACCELERATOR_BLOCK, Gradients, Needed, Sweep, edges

#: Below so many rows on a side of the matrix the dense formula is as fast.
FEWEST = 256
#: Up to so many rows these two take all logits at once, where the number of operations is what costs.
SMALL, AT_ONCE = 512, ("info_nce", "symmetric")
#: Logits within this bound need no shift: their exponentials, summed over any batch, stay inside float32.
SAFE_LOGIT = 40.0


def contrastive(
    kind: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    unit: bool = False,
    several: str = "mean",
    block_size: int | None = None,
    **known: Tensor | None,
) -> Tensor:
    """One of the losses, by tiles where they can serve.

    Args:
        kind: see :class:`Contrast`.
        a: rows (n, d).
        b: rows (m, d).
        bias: scalar, for ``"sigmoid"``; 0 by default.
        temperature: what the similarities are divided by.
        unit: compare directions: every row is divided by its length.
        several: ``"mean"`` or ``"sum"`` over several positives.
        block_size: rows of a tile.
        **known: counts and masks, see :class:`Pairs`. Those that carry a gradient take the dense formula.
    """
    compiling = torch.compiler.is_compiling()
    if compiling and not isinstance(temperature, Tensor):
        temperature = a.new_full((), temperature)  # a number would be a constant of the graph
    learned, tau = (temperature, 1.0) if isinstance(temperature, Tensor) else (None, temperature)
    pairs, how = Pairs(a, b, learned, bias, **known), Contrast(kind, several, unit, tau, block_size or 0)
    chosen = compiling or block_size is not None or (kind in AT_ONCE and pairs.plain)
    if not chosen and (2 if kind == "nt_xent" else 1) * a.shape[0] < FEWEST:
        return dense(pairs, how)
    return SWEEP(pairs, how)


def _sweep(pairs: Pairs, how: Contrast, needed: Needed) -> tuple[Tensor, Gradients]:
    """The value; where any is needed also its gradients."""
    whole, wanted = pairs, any(needed)
    pairs, places, paired = _present(pairs)
    a, b, temperature = pairs[:3]
    if 0 in (a.shape[0], b.shape[0]):
        return a.new_zeros(()), [None if t is None else torch.zeros_like(t) for t in whole[:4]] if wanted else ()
    scale: Tensor | float
    scale = 1 / how.tau if temperature is None else temperature.to(a).reciprocal()
    if native.serves(a, b):
        scale = float(scale)
    gradient = needed[0] or needed[2], needed[1]  # the slope by the temperature comes from those by the rows of a
    if how.kind in AT_ONCE and pairs.plain and a.shape[0] <= min(SMALL, how.block or SMALL):
        made = _at_once(pairs, how, scale, wanted)
    else:
        made = _tile_by_tile(pairs, paired, how, scale, gradient)
    value = made.value.to(a.dtype)
    if not wanted:
        return value, ()
    ga = gb = slope = None
    joined = made.x is made.y
    if joined or gradient[0]:
        slope, ga = made.x.gradient(made.hx, made.factor, needed[2])
    if slope is not None and temperature is not None:
        # In one list every similarity is there twice.
        slope = (slope * (made.factor * scale)).mul_(-0.5 if joined else -1.0).to(temperature)
    if joined:
        assert ga is not None
        ga, gb = ga.split(a.shape[0])  # type: ignore[no-untyped-call]
    elif gradient[1]:
        gb = made.y.gradient(made.hy, made.factor, False)[1]
    ga, gb = (None if g is None else _spread(g, place, t) for g, place, t in zip((ga, gb), places, whole[:2]))
    of_bias = None if made.of_bias is None or pairs.bias is None else made.of_bias.to(pairs.bias.dtype)
    return value, (ga, gb, slope, of_bias)


SWEEP = Sweep("contrastive", Pairs, Contrast, slopes=4, run=_sweep, dense=dense)


class _Made(NamedTuple):
    """A loss, and its slopes by the rows that were compared over ``factor`` (one list: both are the same)."""

    value: Tensor
    x: Rows
    y: Rows
    hx: Tensor
    hy: Tensor
    factor: Tensor | float
    of_bias: Tensor | None = None


# Rows that count.


def _present(pairs: Pairs) -> tuple[Pairs, tuple[Tensor | None, Tensor | None], int]:
    """The pairs without the rows that count 0; where the rows stood (None: there); how many belong together.

    The latter come first. Nothing is left out where masks of pairs would have to be copied, nor on an accelerator,
    which would have to wait: there what counts 0 stays, with logits of minus infinity.
    """
    a, b, _, _, a_count, b_count = pairs[:6]
    paired = a.shape[0] if pairs.own else 0
    masks = pairs.positive_mask, pairs.positive_weight, pairs.negative_mask
    if (a_count is None and b_count is None) or a.device.type != "cpu":
        return pairs, (None, None), paired
    here = [None if count is None else count > 0 for count in (a_count, b_count)]
    if any(mask is not None for mask in masks) or all(some is None or bool(some.all()) for some in here):
        return _without_ones(pairs), (None, None), paired
    first, second = (a.new_ones(a.shape[0], dtype=torch.bool) if some is None else some for some in here)
    whole = (first & second).nonzero().squeeze(1)
    places = [
        torch.cat((whole, (some & ~other).nonzero().squeeze(1))) for some, other in ((first, second), (second, first))
    ]
    a_count, b_count = (None if c is None else c[k] for c, k in zip((a_count, b_count), places))
    pairs = pairs._replace(a=a[places[0]], b=b[places[1]], a_count=a_count, b_count=b_count)
    return _without_ones(pairs), (places[0], places[1]), whole.shape[0]


def _without_ones(pairs: Pairs) -> Pairs:
    """The pairs without counts that are all 1."""
    kept = (None if count is None or bool((count == 1).all()) else count for count in pairs[4:6])
    return pairs._replace(a_count=next(kept), b_count=next(kept))


def _spread(gradient: Tensor, places: Tensor | None, like: Tensor) -> Tensor:
    """The gradient of all rows from that of those which count."""
    return gradient if places is None else torch.zeros_like(like).index_copy_(0, places, gradient)


def _largest_logit(x: Rows, y: Rows, scale: Tensor | float) -> float:
    """No logit is larger in size. An accelerator is not asked about its numbers, which would make it wait."""
    if x.unit and not isinstance(scale, Tensor):
        return abs(scale)
    return abs(float(x.longest() * y.longest() * scale)) if x.rows.device.type == "cpu" else math.inf


# All at once.


def _at_once(pairs: Pairs, how: Contrast, scale: Tensor | float, gradient: bool) -> _Made:
    """InfoNCE of few plain rows from all logits, in few operations."""
    a, b = pairs.a, pairs.b
    n, symmetric = a.shape[0], how.kind == "symmetric"
    # As one list rows are divided by their length in half of the operations.
    x = Rows(torch.cat((a, b)) if how.unit else a, how.unit)
    y = x if how.unit else Rows(b, False)
    u, v = (x.rows[:n], x.rows[n:]) if how.unit else (x.rows, y.rows)
    g = torch.mm(u, v.T)
    factor: Tensor | float
    if native.serves(g):
        scale = float(scale)
        found = softmax_at_once(g, scale * LOG2_E, symmetric, scale if gradient else None)
        value, factor = a.new_full((), found), 1.0
    else:
        share, ones = (0.5 / n, 2) if symmetric else (1 / n, 1)
        s, factor = g.mul_(scale), scale * share
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
            g.diagonal().sub_(ones)
    if not gradient:
        return _Made(value, x, y, a, b, factor)
    h = a.new_empty(2 * n, a.shape[1])
    torch.mm(g, v, out=h[:n])
    torch.mm(g.T, u, out=h[n:])
    return _Made(value, x, y, h, h, factor) if how.unit else _Made(value, x, y, h[:n], h[n:], factor)


# Tile by tile.


class _Grid(NamedTuple):
    """How rows and columns are cut, and which tiles are looked at.

    Rows that belong together come first on both sides and are cut alike, so that these pairs lie on diagonals of tiles;
    the halves of one list too.
    """

    rows: list[int]
    columns: list[int]
    tiles: list[tuple[int, int]]
    whole: int  # so many parts at the beginning of both sides hold whole pairs; of a list: of each half
    listed: bool = False
    triangle: bool = False

    @property
    def largest(self) -> int:
        """Numbers in the largest tile."""
        return max(self.rows) * max(self.columns)

    @classmethod
    def cut(cls, n: int, m: int, paired: int, block: int) -> _Grid:
        common = _sizes(paired, block)
        rows, columns = common + _sizes(n - paired, block), common + _sizes(m - paired, block)
        tiles = [(i, j) for j in range(len(columns)) for i in range(len(rows))]
        return cls(rows, columns, tiles, len(common))

    @classmethod
    def cut_list(cls, total: int, block: int, triangle: bool) -> _Grid:
        half = _sizes(total // 2, block)
        sizes = half * 2
        tiles = [(i, j) for j in range(len(sizes)) for i in range(j + 1 if triangle else len(sizes))]
        return cls(sizes, sizes, tiles, len(half), True, triangle)

    def pairs_on_diagonal(self, i: int, j: int) -> bool:
        """Whether the diagonal of a tile holds rows that belong together."""
        return abs(i - j) == self.whole if self.listed else i == j < self.whole

    def itself_on_diagonal(self, i: int, j: int) -> bool:
        """Whether the diagonal of a tile holds each row with itself."""
        return self.listed and i == j


class _Masks:
    """Masks of pairs, a tile at a time."""

    def __init__(self, pairs: Pairs, grid: _Grid) -> None:
        self.pairs, self.grid = pairs, grid
        period = pairs.a.shape[0] if grid.listed else None
        self.rows, self.columns = _stretches(grid.rows, period), _stretches(grid.columns, period)
        counts = pairs.a_count, pairs.b_count
        self.present = [None if c is None else c > 0 for c in counts]
        self.several, self.limited = not pairs.own, pairs.negative_mask is not None

    def _of(self, mask: Tensor, i: int, j: int) -> Tensor:
        return mask[self.rows[i], self.columns[j]]

    def positive(self, i: int, j: int) -> Tensor | None:
        """How much each column of a tile is a positive of each row: bool, or numbers."""
        if not self.several:
            return None
        mask, weight = self.pairs.positive_mask, self.pairs.positive_weight
        if weight is None:
            assert mask is not None
            q = self._of(mask, i, j)
        else:
            q = self._of(weight, i, j).to(self.pairs.a.dtype)
            if mask is not None:
                q = torch.where(self._of(mask, i, j), q, 0.0)
            for present, place, dim in zip(self.present, (self.rows[i], self.columns[j]), (1, 0)):
                if present is not None:  # what absent rows hold is not looked at
                    q = torch.where(present[place].unsqueeze(dim), q, 0.0)
        return q.clone().fill_diagonal_(0) if self.grid.itself_on_diagonal(i, j) else q

    def left_out(self, i: int, j: int, q: Tensor | None) -> Tensor | None:
        """Which pairs of a tile are neither positives nor negatives."""
        if self.pairs.negative_mask is None:
            return None
        out = ~self._of(self.pairs.negative_mask, i, j)
        return out if q is None else out & ~(q if q.dtype == torch.bool else q > 0)

    def own(self, mask: Tensor | None, k: int) -> Tensor | None:
        """What a mask says of rows that belong together, of the first k."""
        if mask is None:
            return None
        diagonal = mask.diagonal()
        return diagonal.repeat(2) if self.grid.listed else diagonal[:k]


def _sizes(n: int, block: int) -> list[int]:
    return [stop - start for start, stop in edges(0, n, block)]


def _stretches(sizes: list[int], period: int | None) -> list[slice]:
    """Where parts of these sizes lie; in a list made of two halves, where they lie in a half."""
    stretches, start = [], 0
    for size in sizes:
        stretches.append(slice(start, start + size))
        start += size
        start = 0 if start == period else start
    return stretches


def _tile_by_tile(
    pairs: Pairs, paired: int, how: Contrast, scale: Tensor | float, gradient: tuple[bool, bool]
) -> _Made:
    a, listed = pairs.a, how.kind == "nt_xent"
    gradient = (any(gradient), any(gradient)) if listed else gradient
    loops: Loops = CompiledLoops() if native.serves(a, pairs.b) else Operations(a)
    block = how.block or (loops.blocks[how.kind] if a.device.type == "cpu" else ACCELERATOR_BLOCK)
    x = Rows(torch.cat((a, pairs.b)) if listed else a, how.unit)
    y = x if listed else Rows(pairs.b, how.unit)
    n, m = x.rows.shape[0], y.rows.shape[0]
    if listed:
        masks = pairs.positive_mask, pairs.negative_mask
        grid = _Grid.cut_list(n, block, all(mask is None or torch.equal(mask, mask.T) for mask in masks))
    else:
        grid = _Grid.cut(n, m, paired, block)
    hx = torch.zeros_like(x.rows) if any(gradient) else x.rows
    hy = hx if listed else torch.zeros_like(y.rows) if gradient[1] else y.rows
    of_rows = _Counts.of(pairs.a_count if pairs.a_count is None or not listed else pairs.a_count.repeat(2))
    of_columns = of_rows if listed else _Counts.of(pairs.b_count)
    problem = _Problem(pairs, how, x, y, scale, grid, loops, hx, hy, gradient, paired, (of_rows, of_columns))
    if how.kind == "sigmoid":
        value, of_bias = _pairwise(problem)
        return _Made(value, x, y, hx, hy, scale, of_bias)
    return _Made(_softmax(problem), x, y, hx, hy, scale)


class _Counts(NamedTuple):
    """How often the rows of a side count; the logarithm of it; the same with 0 for minus infinity."""

    each: Tensor
    offset: Tensor
    level: Tensor

    @classmethod
    def of(cls, count: Tensor | None) -> _Counts | None:
        return None if count is None else cls(count, count.log2(), count.masked_fill(count == 0, 1).log2_())

    @property
    def span(self) -> float:
        """How much they add to logits. An accelerator is not asked."""
        return float(self.level.abs().amax()) * math.log(2) if self.level.device.type == "cpu" else math.inf


class _Problem(NamedTuple):
    """What a pass over the tiles needs; the slopes over the scale go to ``hx`` and ``hy``, where they are needed."""

    pairs: Pairs
    how: Contrast
    x: Rows
    y: Rows
    scale: Tensor | float
    grid: _Grid
    loops: Loops
    hx: Tensor
    hy: Tensor
    gradient: tuple[bool, bool]
    paired: int
    counts: tuple[_Counts | None, _Counts | None]

    def has_positive(self, way: _Way, counts: _Counts | None) -> Tensor | None:
        """Which rows of a direction have a positive that counts; None: all. ``counts``: of the other side's rows."""
        if not self.pairs.own:
            return way.total > 0
        n = way.total.shape[0]
        if self.grid.listed or (counts is None and self.paired == n):
            return None
        has = torch.zeros_like(way.total, dtype=torch.bool)
        has[: self.paired] = True if counts is None else counts.each[: self.paired] > 0
        return has

    def collect_slopes(self, s: Tensor, i: int, j: int, cut: list[list[Tensor]]) -> None:
        """Add a tile of slopes by the logits to those by the rows."""
        rows, columns, of_rows, of_columns = cut
        if self.gradient[0]:
            of_rows[i].addmm_(s, columns[j])
        if self.gradient[1] and not (self.grid.triangle and i == j):
            of_columns[j].addmm_(s.T, rows[i])

    def cut(self) -> list[list[Tensor]]:
        """Rows, columns, and their slopes, in parts."""
        sizes = self.grid.rows, self.grid.columns, self.grid.rows, self.grid.columns
        return [list(parts(t, size)) for t, size in zip((self.x.rows, self.y.rows, self.hx, self.hy), sizes)]


class _Itself(NamedTuple):
    """Each row of a list with its twins: their logit, how many count, and how many of these as positives."""

    logits: Tensor
    weight: Tensor
    positive: Tensor


class _Way:
    """One direction of a softmax: rows that look for their positives, how often each counts, and their sums."""

    def __init__(self, like: Tensor, counts: _Counts | None, n: int, safe: bool, several: bool) -> None:
        self.counts = counts
        self.sums = Sums.begin(like, n, safe)
        #: With several positives: the sums over them, or their weights and weighted logits.
        self.found = Sums.begin(like, n, safe) if several else None
        self.total, self.pulled = like.new_zeros(2, n).unbind(0)
        self.own: tuple[Tensor, Tensor | float] | None = None
        self.itself: _Itself | None = None
        self.share = self.pull = self.total

    def add_own(self, logits: Tensor, weight: Tensor | float) -> None:
        """Each of the first rows has its own partner, which counts so often."""
        k = logits.shape[0]
        self.own = logits if self.counts is None else logits + self.counts.level[:k], weight
        for whole, first in zip(self.sums, Sums.of(*self.own, self.sums.safe)):
            if whole.numel():
                whole[:k].copy_(first)

    def add_itself(self, itself: _Itself) -> None:
        """Each row has its twins."""
        assert self.counts is not None
        self.itself = itself._replace(logits=itself.logits + self.counts.level)
        self.sums = self.sums.plus(self.itself.logits, itself.weight)
        self.pulled += itself.logits * itself.positive
        self.total += itself.positive

    def settle(self, has_positive: Tensor | None, factor: float) -> Tensor:
        """The mean loss over the rows that have a positive, times ``factor``; and the share of each row in it."""
        tiny = torch.finfo(self.total.dtype).tiny
        kept = torch.ones_like(self.total) if self.counts is None else self.counts.each
        if has_positive is not None:
            kept = kept * has_positive
        total = kept.sum(dtype=torch.float64).clamp_min_(tiny)
        self.share = kept * (factor / total).to(kept.dtype)
        if self.own is not None:
            k = self.own[0].shape[0]
            each = torch.zeros_like(kept)
            each[:k] = self._first(k).above(self.own[0])
        elif self.found is not None:
            each = self.sums.sums.log2() - self.found.sums.log2()
            each = each if self.sums.safe else each + (self.sums.tops - self.found.tops)
        else:
            some = self.total.clamp_min(tiny)
            self.pull, mean = self.share / some, self.pulled / some
            each = self.sums.above(mean if self.counts is None else mean + self.counts.level)
        loss = (each * kept).masked_fill_(kept <= 0, 0).sum(dtype=torch.float64)
        return loss * (factor * math.log(2)) / total

    def _first(self, k: int) -> Sums:
        return Sums(*(t[:k] for t in self.sums))

    def slopes_of_own(self) -> Tensor:
        """Slopes by the logits of rows with their own partners; zero where a row has none."""
        assert self.own is not None
        logits, weight = self.own
        k, slopes = logits.shape[0], torch.zeros_like(self.share)
        among = self._first(k).share(logits) * weight
        slopes[:k] = among.sub_(1).mul_(self.share[:k]).masked_fill_(self.share[:k] <= 0, 0)
        return slopes

    def slopes_of_itself(self) -> Tensor:
        """Slopes by the logits of rows with their twins."""
        if self.itself is None:
            return torch.zeros_like(self.share)
        logits, weight, positive = self.itself
        among = (self.sums.share(logits) * weight * self.share).masked_fill_(weight <= 0, 0)
        return among.sub_(self.pull * positive).masked_fill_(self.share <= 0, 0)


def _softmax(problem: _Problem) -> Tensor:
    """InfoNCE and NT-Xent: sums over all tiles, then the slopes from these sums."""
    pairs, how, x, y, scale, grid, loops = problem[:7]
    masks = _Masks(pairs, grid)
    several = masks.several and how.several == "sum"
    of_rows, of_columns = problem.counts
    safe = _largest_logit(x, y, scale) + sum(c.span for c in problem.counts if c is not None) <= SAFE_LOGIT
    there = _Way(x.rows, of_rows, x.rows.shape[0], safe, several)
    back = there if grid.triangle else None
    if how.kind == "symmetric":
        back = _Way(y.rows, of_columns, y.rows.shape[0], safe, several)
    scaled = x.rows * (scale * LOG2_E)
    _pairs_beside(problem, masks, there, back, scaled)
    sides = _Sides(problem, masks, there, back, list(parts(scaled, grid.rows)))
    tiles = Tiles(x.rows, len(grid.tiles), grid.largest, any(problem.gradient) and not several)
    sums, found = sides.cut(lambda way: way.sums), sides.cut(lambda way: way.found)
    for index, (i, j) in enumerate(grid.tiles):
        s, t = sides.logits(tiles, index, first=True)
        one_way = grid.triangle and i == j
        loops.collect(s, sums[0][i], None if one_way else sums[1][j])
        if t is not None:
            loops.collect(t, found[0][i], None if one_way else found[1][j])
    value = there.settle(problem.has_positive(there, of_columns), 0.5 if how.kind == "symmetric" else 1.0)
    if how.kind == "symmetric":
        assert back is not None
        value = value + back.settle(problem.has_positive(back, of_rows), 0.5)
    if any(problem.gradient):
        _softmax_slopes(problem, sides, tiles)
    tiles.leave()
    return value


def _softmax_slopes(problem: _Problem, sides: _Sides, tiles: Tiles) -> None:
    grid, loops = problem.grid, problem.loops
    sums = sides.cut(lambda way: way.sums.turned(way.share))
    found = sides.cut(lambda way: None if way.found is None else way.found.turned(way.share))
    own = sides.cut(lambda way: None if way.own is None else way.slopes_of_own())
    itself = sides.cut(lambda way: None if way.itself is None else way.slopes_of_itself())
    parts_of_all = problem.cut()
    # From the last tile to the first: those made last are the nearest.
    for index in reversed(range(len(grid.tiles))):
        i, j = grid.tiles[index]
        if tiles.kept:
            s, t = tiles.view(index, grid.rows[i], grid.columns[j]), None
        else:
            s, t = sides.logits(tiles, index, first=False)
        loops.probabilities(s, sums[0][i], sums[1][j], collected=tiles.kept)
        if t is not None:
            loops.probabilities(t, found[0][i], found[1][j], collected=False)
            s.sub_(t)
        else:
            sides.pull(s, i, j)
        for slopes, on_diagonal in ((own, grid.pairs_on_diagonal(i, j)), (itself, grid.itself_on_diagonal(i, j))):
            if on_diagonal and slopes[0][i] is not None:
                both = slopes[0][i] if slopes[1][j] is None else slopes[0][i] + slopes[1][j]
                s.diagonal().copy_(both)
        problem.collect_slopes(s, i, j, parts_of_all)


def _pairs_beside(problem: _Problem, masks: _Masks, there: _Way, back: _Way | None, scaled: Tensor) -> None:
    """What diagonals hold that counts otherwise than the rest: rows with their own partners, and with their twins."""
    pairs, x, y, grid = problem.pairs, problem.x, problem.y, problem.grid
    if pairs.own:
        if grid.listed:
            half = x.rows.shape[0] // 2
            own = torch.linalg.vecdot(scaled[:half], x.rows[half:]).repeat(2)
        else:
            k = problem.paired
            own = torch.linalg.vecdot(scaled[:k], y.rows[:k])
        allowed = masks.own(pairs.negative_mask, own.shape[0])
        of_rows, of_columns = problem.counts
        there.add_own(own, _twins(of_columns, allowed, own.shape[0]))
        if back is not None and back is not there:
            back.add_own(own, _twins(of_rows, allowed, own.shape[0]))
    if grid.listed and there.counts is not None:
        twins = (there.counts.each - 1).clamp_min_(0)
        positive = masks.own(pairs.positive_mask, 0)
        allowed = masks.own(pairs.negative_mask, 0)
        if positive is not None and allowed is not None:
            allowed = allowed | positive
        weight = twins if allowed is None else twins * allowed
        chosen = torch.zeros_like(twins) if positive is None else twins * positive
        there.add_itself(_Itself(torch.linalg.vecdot(scaled, x.rows), weight, chosen))


def _twins(counts: _Counts | None, allowed: Tensor | None, k: int) -> Tensor | float:
    """How often the own partner counts: once, and its twins as negatives."""
    if counts is None:
        return 1.0
    twins = (counts.each[:k] - 1).clamp_min_(0)
    return (twins if allowed is None else twins.mul_(allowed)).add_(1)


class _Sides:
    """Both sides of a softmax in parts, and the logits of a tile with all that counts and masks make of them."""

    def __init__(self, problem: _Problem, masks: _Masks, there: _Way, back: _Way | None, scaled: list[Tensor]) -> None:
        self.problem, self.masks, self.scaled, self.there, self.back = problem, masks, scaled, there, back
        self.columns, grid = problem.cut()[1], problem.grid
        sizes = grid.rows, grid.columns
        self.counts = [_cut(None if c is None else c.each, size) for c, size in zip(problem.counts, sizes)]
        self.offsets = [_cut(None if c is None else c.offset, size) for c, size in zip(problem.counts, sizes)]
        self.totals, self.pulled = self.cut(lambda way: way.total), self.cut(lambda way: way.pulled)
        self.spare = problem.x.rows.new_empty(grid.largest if masks.several else 0)

    def cut(self, what: Callable[[_Way], Any]) -> tuple[list[Any], list[Any]]:
        """Something of both directions, in parts; None where there is none."""
        grid = self.problem.grid
        return _cut(what(self.there), grid.rows), _cut(None if self.back is None else what(self.back), grid.columns)

    def logits(self, tiles: Tiles, index: int, *, first: bool) -> tuple[Tensor, Tensor | None]:
        """A tile, and with ``several="sum"`` another of the positives alone.

        At the ``first`` time the weights of positives, and their logits, are added up.
        """
        problem, grid = self.problem, self.problem.grid
        i, j = grid.tiles[index]
        s, t = tiles.product(index, self.scaled[i], self.columns[j]), None
        q = self.masks.positive(i, j)
        if q is not None and first:
            self._count_positives(s, q, i, j)
        for offset, dim in ((self.offsets[0][i], 1), (self.offsets[1][j], 0)):
            if offset is not None:
                s.add_(offset.unsqueeze(dim))
        if q is not None and problem.how.several == "sum":
            t = self._space(s)
            if q.dtype == torch.bool:
                t.copy_(s).masked_fill_(~q, -torch.inf)
            else:
                torch.add(s, q.log2(), out=t)
        out = self.masks.left_out(i, j, q)
        if out is not None:
            s.masked_fill_(out, -torch.inf)
        if grid.itself_on_diagonal(i, j) or (problem.pairs.own and grid.pairs_on_diagonal(i, j)):
            s.fill_diagonal_(-torch.inf)
        return s, t

    def _space(self, s: Tensor) -> Tensor:
        return self.spare[: s.numel()].view(s.shape)

    def _count_positives(self, s: Tensor, q: Tensor, i: int, j: int) -> None:
        each = self._space(s).copy_(q)
        one_way = self.problem.grid.triangle and i == j
        for sums in (self.totals, self.pulled):
            _add_sums(sums[0][i], each, self.counts[1][j])
            if sums[1][j] is not None and not one_way:
                _add_sums(sums[1][j], each.T, self.counts[0][i])
            each.mul_(s)

    def pull(self, s: Tensor, i: int, j: int) -> None:
        """Subtract the slopes by the positives' own logits."""
        q = self.masks.positive(i, j)
        if q is None:
            return
        pull = self.cut(lambda way: way.pull)
        mine, theirs = pull[0][i], pull[1][j]
        ours, others = self.counts[0][i], self.counts[1][j]
        each = self._space(s)
        each.copy_(mine.unsqueeze(1) if others is None else torch.outer(mine, others, out=each))
        if theirs is not None:
            each.add_(theirs if ours is None else ours.unsqueeze(1) * theirs)
        s.sub_(each.mul_(q))


def _add_sums(sums: Tensor, tile: Tensor, weight: Tensor | None) -> None:
    """Add the sums of a tile's rows, over columns that count so often."""
    if weight is None:
        sums.add_(tile.sum(1))
    else:
        sums.addmv_(tile, weight)


def _cut(what: Tensor | Sums | None, sizes: list[int]) -> list[Any]:
    if what is None:
        return [None] * len(sizes)
    return what.parts(sizes) if isinstance(what, Sums) else list(parts(what, sizes))


def _pairwise(problem: _Problem) -> tuple[Tensor, Tensor]:
    """The sigmoid loss, a sum over pairs, from one pass; and its slope by the bias."""
    pairs, x, y, grid, loops = problem.pairs, problem.x, problem.y, problem.grid, problem.loops
    masks, bias = _Masks(pairs, grid), pairs.bias
    of_rows, of_columns = (None if c is None else c.each for c in problem.counts)
    bias = None if bias is None else bias.to(x.rows)
    scaled = x.rows * problem.scale
    value, total = x.rows.new_zeros((2,), dtype=torch.float64).unbind(0)
    beside: list[Any] = [None] * len(grid.rows)
    if pairs.own:
        beside, found, slope = _own_pairwise(problem, masks, scaled, bias)
        value, total = value + found, total + slope
    weights: list[list[Any]] = [_cut(None, grid.rows), _cut(None, grid.columns)]
    if of_rows is not None or of_columns is not None:
        each = (t.new_ones(t.shape[0]) if c is None else c for c, t in ((of_rows, x.rows), (of_columns, y.rows)))
        weights = [_cut(c, sizes) for c, sizes in zip(each, (grid.rows, grid.columns))]
    tiles, of_all = Tiles(x.rows, 1, grid.largest, False), problem.cut()
    left = list(parts(scaled, grid.rows))
    spare = x.rows.new_empty(grid.largest if masks.several else 0)
    for i, j in grid.tiles:
        s = tiles.product(0, left[i], of_all[1][j])
        q, shift, negated = masks.positive(i, j), bias, spare[: s.numel()].view(s.shape) if masks.several else s
        if q is not None:
            if bias is not None:
                s.add_(bias)
            shift = None
            torch.where(q, torch.neg(s, out=negated), s, out=s)
        out = masks.left_out(i, j, q)
        if out is not None:
            s.masked_fill_(out, -torch.inf)
        on_diagonal = pairs.own and grid.pairs_on_diagonal(i, j)
        if on_diagonal:
            s.fill_diagonal_(-torch.inf)
        found, slope = loops.pairwise(s, shift, None if weights[0][i] is None else (weights[0][i], weights[1][j]))
        value = value + found
        if q is not None:
            torch.where(q, torch.neg(s, out=negated), s, out=s)
            slope = s.sum(1).sum(dtype=torch.float64)
        total = total + slope
        if any(problem.gradient):
            if on_diagonal:
                s.diagonal().copy_(beside[i])
            problem.collect_slopes(s, i, j, of_all)
    tiles.leave()
    rows: Tensor | float = float(x.rows.shape[0])
    if of_rows is not None:
        rows = of_rows.sum(dtype=torch.float64).clamp_min_(torch.finfo(of_rows.dtype).tiny)
    for h, need in zip((problem.hx, problem.hy), problem.gradient):
        if need:
            h.mul_((1 / rows).to(h) if isinstance(rows, Tensor) else 1 / rows)
    return value / rows, total / rows


def _own_pairwise(
    problem: _Problem, masks: _Masks, scaled: Tensor, bias: Tensor | None
) -> tuple[list[Any], Tensor, Tensor]:
    """Rows with their own partners: slopes by their logits in parts, sum of losses, sum of slopes."""
    k, (of_rows, of_columns) = problem.paired, problem.counts
    logits = torch.linalg.vecdot(scaled[:k], problem.y.rows[:k])
    logits = logits if bias is None else logits + bias
    right, wrong = torch.ones_like(logits), torch.zeros_like(logits)
    if of_columns is not None:
        right = (of_columns.each[:k] > 0).to(logits)
        wrong = torch.ones_like(logits) * _twins(of_columns, masks.own(problem.pairs.negative_mask, k), k) - 1
    if of_rows is not None:
        right, wrong = right * of_rows.each[:k], wrong * of_rows.each[:k]
    value = right * F.softplus(-logits) + wrong * F.softplus(logits)
    slopes = wrong * logits.sigmoid() - right * (-logits).sigmoid()
    padded = [*parts(slopes, problem.grid.rows[: problem.grid.whole]), *[None] * len(problem.grid.rows)]
    return padded, value.sum(dtype=torch.float64), slopes.sum(dtype=torch.float64)
