r"""Contrastive losses of plain pairs, one tile of logits at a time: exact, and O(n d) memory for large batches.

Row i of ``a`` belongs to row i of ``b``, every row counts once, logits are :math:`s_{ij} = a_i \cdot b_j / \tau`, of
rows as they are or of their directions. Three numbers are computed here:

* ``"info_nce"``: mean of :math:`\log \sum_j e^{s_{ij}} - s_{ii}`; ``"symmetric"``: half of it and half of the same over
  columns. Each tile's exponential serves its rows and its columns;
* ``"nt_xent"``: the rows of a and b are one list z, logits :math:`z_u \cdot z_w`, every row looks for its partner
  among all others. The tiles above the diagonal serve both sides;
* ``"sigmoid"``: :math:`\frac{1}{n} \sum_{ij} \log(1 + e^{s_{ij} + \beta}) - \frac{1}{n} \sum_i (s_{ii} + \beta)`.

The gradient is made in the forward pass, through the division by the rows' lengths too. Exponentials and logarithms are
those of base 2, with the factor in the logits: on a processor ``exp2`` takes a third of the time of ``exp``. Tiles are
kept for the gradient while they fit ``KEEP_BYTES``, else computed twice. Up to ``SMALL`` rows the first two are
made of all logits at once.
Where ordinary reverse mode is not all that happens (function transforms, forward mode, second derivatives), the dense
formula is used; ``torch.compile`` sees one operator: see :mod:`mmda._engine.scaffold`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.rows import normalized_rows
from mmda._engine import native, native_logits
from mmda._engine.scaffold import ACCELERATOR_BLOCK, Gradients, Needed, Sweep, edges

#: Rows of a tile. In large ones the products run faster; one list and itself are less work in smaller ones.
CPU_BLOCKS = {"info_nce": 2048, "symmetric": 2048, "nt_xent": 512, "sigmoid": 1024}
#: The same where compiled loops leave so little to do beside the products that less memory costs no time.
COMPILED_BLOCKS = {"info_nce": 1024, "symmetric": 1024, "nt_xent": 512, "sigmoid": 1024}
#: Numbers of a tile that are exponentiated, summed and turned into probabilities at a time.
STRIP = 2**17
#: Tiles are kept between the two passes while all of them fit.
KEEP_BYTES = 64 * 2**20
#: Below so many rows on a side of the matrix the dense formula is as fast.
FEWEST = 256
#: Up to so many rows these two take all logits at once, where the number of operations is what costs.
SMALL, AT_ONCE = 512, ("info_nce", "symmetric")
#: Logits within this bound need no shift: their exponentials, summed over any batch, stay inside float32.
SAFE_LOGIT = 40.0
#: From natural logits to those of base 2.
LOG2_E = 1 / math.log(2)


class Pairs(NamedTuple):
    """Row i of ``a`` belongs to row i of ``b``; products are divided by the temperature, a bias is added."""

    a: Tensor
    b: Tensor
    temperature: Tensor | None
    bias: Tensor | None


class Contrast(NamedTuple):
    """Which number, of which logits.

    Attributes:
        kind: ``"info_nce"``, ``"symmetric"``, ``"nt_xent"`` or ``"sigmoid"``.
        unit: compare directions: every row is divided by its length.
        tau: the temperature, where it is no tensor.
        block: rows of a tile; 0: by kind and device.
    """

    kind: str
    unit: bool
    tau: float
    block: int


def contrastive(
    kind: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    unit: bool = False,
    block_size: int | None = None,
) -> Tensor:
    """One of the three numbers above, by tiles where they can serve.

    Args:
        kind: see :class:`Contrast`.
        a: rows (n, d).
        b: rows (n, d).
        bias: scalar, for ``"sigmoid"``; 0 by default.
        temperature: what the similarities are divided by.
        unit: compare directions: every row is divided by its length.
        block_size: rows of a tile.
    """
    compiling = torch.compiler.is_compiling()
    if compiling and not isinstance(temperature, Tensor):
        temperature = a.new_full((), temperature)  # a number would be a constant of the graph
    learned, tau = (temperature, 1.0) if isinstance(temperature, Tensor) else (None, temperature)
    pairs, how = Pairs(a, b, learned, bias), Contrast(kind, unit, tau, block_size or 0)
    few = not compiling and (2 if kind == "nt_xent" else 1) * a.shape[0] < FEWEST
    if few and kind not in AT_ONCE and block_size is None:
        return dense(pairs, how)
    return SWEEP(pairs, how)


def dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The same number from the matrix of all logits, in plain operations that every transform knows."""
    a, b, learned, bias = pairs
    n, temperature = a.shape[0], how.tau if learned is None else learned
    if how.unit:
        a, b = normalized_rows(a), normalized_rows(b)
    if how.kind == "nt_xent":
        rows = torch.cat([a, b])
        similarity = (rows / temperature) @ rows.T
        others = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=a.device), -torch.inf)
        return (others.logsumexp(1) - similarity.diagonal(n).repeat(2)).mean()
    similarity = (a / temperature) @ b.T
    if how.kind == "sigmoid":
        sign = torch.where(torch.eye(n, dtype=torch.bool, device=a.device), -1.0, 1.0).to(a.dtype)
        return -F.logsigmoid(-sign * (similarity if bias is None else similarity + bias)).sum() / n
    partner = torch.arange(n, device=a.device)
    one_way = F.cross_entropy(similarity, partner)
    return (one_way + F.cross_entropy(similarity.T, partner)) / 2 if how.kind == "symmetric" else one_way


def _sweep(pairs: Pairs, how: Contrast, needed: Needed) -> tuple[Tensor, Gradients]:
    """The value; where any is needed also its gradients."""
    a, b, temperature, bias = pairs
    kind, unit = how.kind, how.unit
    gradient, tempered = any(needed), needed[2]
    n = a.shape[0]
    scale: Tensor | float
    scale = 1 / how.tau if temperature is None else temperature.to(a).reciprocal()
    compiled = native.serves(a, b)
    if compiled:
        scale = float(scale)
    block = how.block
    if not block:
        blocks = COMPILED_BLOCKS if compiled else CPU_BLOCKS
        block = blocks[kind] if a.device.type == "cpu" else ACCELERATOR_BLOCK
    listed, at_once = kind == "nt_xent", kind in AT_ONCE and n <= min(SMALL, block)
    joined = listed or (at_once and unit)  # one list of rows, with half of the operations on each
    x = _Rows(torch.cat((a, b)) if joined else a, unit)
    y = x if joined else _Rows(b, unit)
    slope_of_bias: Tensor | None = None
    factor = scale
    if at_once:
        u, v = (x.rows[:n], x.rows[n:]) if joined else (x.rows, y.rows)
        hx = a.new_empty((2 * n if joined else n), a.shape[1]) if gradient else a
        hy = hx if joined or not gradient else torch.empty_like(hx)
        outs = (hx[:n], hx[n:]) if joined else (hx, hy)
        value, factor = _softmax_at_once(u, v, scale, kind == "symmetric", outs if gradient else None, compiled)
    elif kind == "sigmoid":
        bias = a.new_zeros(()) if bias is None else bias
        value, hx, hy, slope_of_bias = _sigmoid(x.rows, y.rows, scale, bias, block, gradient, compiled)
        slope_of_bias = slope_of_bias.to(bias.dtype)
    else:
        safe = _largest_logit(x, y, scale) <= SAFE_LOGIT
        if listed:
            value, hx = _softmax_list(x.rows, scale, safe, block, gradient, compiled)
        else:
            value, hx, hy = _softmax_pairs(x.rows, y.rows, scale, kind == "symmetric", safe, block, gradient, compiled)
    value = value.to(a.dtype)
    if not gradient:
        return value, ()
    slope, gx = x.gradient(hx, factor, tempered)
    if slope is not None and temperature is not None:
        # In one list every similarity is there twice.
        slope = (slope * (factor * scale)).mul_(-0.5 if joined else -1.0).to(temperature)
    gx, gy = (gx[:n], gx[n:]) if joined else (gx, y.gradient(hy, factor, False)[1])
    return value, (gx, gy, slope, slope_of_bias)


SWEEP = Sweep("contrastive", Pairs, Contrast, slopes=4, run=_sweep, dense=dense)


def _largest_logit(x: _Rows, y: _Rows, scale: Tensor | float) -> float:
    """No logit is larger in size. An accelerator is not asked about its numbers, which would make it wait."""
    if x.unit and not isinstance(scale, Tensor):
        return abs(scale)
    return abs(float(x.longest() * y.longest() * scale)) if x.rows.device.type == "cpu" else math.inf


class _Rows:
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


def _softmax_at_once(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    symmetric: bool,
    outs: tuple[Tensor, Tensor] | None,
    compiled: bool,
) -> tuple[Tensor, Tensor | float]:
    """The loss from all logits at once, in few operations; into ``outs`` what times the second number is its slope."""
    n = a.shape[0]
    g = torch.mm(a, b.T)
    factor: Tensor | float
    if compiled:
        scale = float(scale)
        found = native_logits.softmax_at_once(g, scale * LOG2_E, symmetric, scale if outs is not None else None)
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
        if outs is not None:
            g.exp_()
            if symmetric:
                g.add_(by_column.exp_())
            g.diagonal().sub_(ones)
    if outs is not None:
        torch.mm(g, b, out=outs[0])
        torch.mm(g.T, a, out=outs[1])
    return value, factor


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


class _Tiles:
    """Work space for tiles of logits: one, or all of them where they are to be kept and fit; and a strip beside.

    What is done to the numbers of a tile one by one is done strip by strip, which stays in the nearest caches.
    """

    def __init__(self, like: Tensor, count: int, side: int, keep: bool, compiled: bool = False) -> None:
        size = side * side
        self.compiled = compiled
        self.kept = keep and count * size * like.element_size() <= KEEP_BYTES
        self.whole = _take_space(like, (count if self.kept else 1) * size)
        self.store = self.whole[: (count if self.kept else 1) * size].view(-1, size)
        self.filled = 0
        self.strip = max(1, STRIP // side) if like.device.type == "cpu" else side
        self.space = like.new_empty(0 if compiled else min(self.strip, side) * side)

    def next(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits of these rows, in new space where tiles are kept."""
        tile = self.view(self.filled, rows, columns)
        self.filled += 1
        return torch.mm(rows, columns.T, out=tile)

    def view(self, index: int, rows: Tensor, columns: Tensor) -> Tensor:
        """The space of a tile."""
        n, m = rows.shape[0], columns.shape[0]
        return self.store[index if self.kept else 0][: n * m].view(n, m)

    def again(self, index: int, rows: Tensor, columns: Tensor) -> Tensor:
        """A tile of the first pass: as that pass left it where it was kept, else its logits."""
        tile = self.view(index, rows, columns)
        return tile if self.kept else torch.mm(rows, columns.T, out=tile)

    def strips(self, tile: Tensor, *of_rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Some rows of a tile, space of their shape beside, free at any time, and what belongs to them."""
        groups: Iterable[tuple[Tensor, ...]] = zip(*(t.split(self.strip) for t in (tile, *of_rows)))  # type: ignore[no-untyped-call]
        for piece, *values in groups:
            yield piece, self.space[: piece.numel()].view(piece.shape), *values


class _Sums(NamedTuple):
    """Sums over logits of base 2 of a matrix's rows or columns: of 2^(logit - top), with the largest logit so far.

    Where no logit is large the tops are none (0,) and count as zero.
    """

    tops: Tensor
    sums: Tensor

    @classmethod
    def begin(cls, like: Tensor, n: int, safe: bool) -> _Sums:
        return cls(like.new_full((0 if safe else n,), torch.finfo(like.dtype).min), like.new_zeros(n))

    def parts(self, sizes: list[int]) -> list[_Sums]:
        tops = [self.tops] * len(sizes) if self.safe else _parts(self.tops, sizes)
        return [_Sums(*both) for both in zip(tops, _parts(self.sums, sizes))]

    @property
    def safe(self) -> bool:
        return self.tops.numel() == 0

    def above(self, own: Tensor) -> Tensor:
        """Sum over the rows of how far the logarithm of a row's sum lies above its own logit, a logit of base 2.

        The logits are those of the same tiles: a row that outweighs all others gives exactly zero.
        """
        logarithms = self.sums.log2()
        apart = logarithms - own if self.safe else logarithms + (self.tops - own)
        return apart.sum(dtype=torch.float64) * math.log(2)

    def turned(self, share: float) -> _Sums:
        """What makes ``share`` times the probabilities of powers: reciprocals of the sums."""
        return self._replace(sums=self.sums.reciprocal().mul_(share))


def _softmax_pairs(
    a: Tensor, b: Tensor, scale: Tensor | float, symmetric: bool, safe: bool, block: int, gradient: bool, compiled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its slopes by a and b over the scale."""
    n = a.shape[0]
    sizes = _sizes(n, block)
    last = len(sizes) - 1
    tiles = _Tiles(a, len(sizes) ** 2, max(sizes), gradient, compiled)
    scaled, by = _scaled(a, scale, compiled)
    rows, columns = _parts(scaled, sizes), _parts(b, sizes)
    of_rows = _Sums.begin(a, n, safe)
    of_columns = _Sums.begin(a, n, safe) if symmetric else None
    own = a.new_empty(n)
    row_sums, owns = of_rows.parts(sizes), _parts(own, sizes)
    column_sums = [None] * len(sizes) if of_columns is None else of_columns.parts(sizes)
    for j, (y, y_sums) in enumerate(zip(columns, column_sums)):
        for i, (x, x_sums) in enumerate(zip(rows, row_sums)):
            s = tiles.next(x, y)
            if i == j:
                torch.mul(s.diagonal(), by, out=owns[i])
            _collect(s, by, x_sums, y_sums, tiles)
    value = of_rows.above(own)
    if of_columns is not None:
        value = (value + of_columns.above(own)) / 2
    if not gradient:
        _leave_space(tiles.whole)
        return value / n, a, b
    share, ones = (0.5 / n, 2) if symmetric else (1 / n, 1)
    row_sums = of_rows.turned(share).parts(sizes)
    if of_columns is not None:
        column_sums = of_columns.turned(share).parts(sizes)
    ha, hb = a.new_empty(a.shape), b.new_empty(b.shape)
    us, hus, hys = _parts(a, sizes), _parts(ha, sizes), _parts(hb, sizes)
    # From the last tile to the first: those made last are the nearest.
    for j in reversed(range(len(sizes))):
        for i in reversed(range(len(sizes))):
            s = tiles.again(j * len(sizes) + i, rows[i], columns[j])
            _probabilities(s, by, row_sums[i], column_sums[j], ones * share if i == j else 0.0, tiles)
            hus[i].addmm_(s, columns[j], beta=0 if j == last else 1)
            hys[j].addmm_(s.T, us[i], beta=0 if i == last else 1)
    _leave_space(tiles.whole)
    return value / n, ha, hb


def _softmax_list(
    z: Tensor, scale: Tensor | float, safe: bool, block: int, gradient: bool, compiled: bool
) -> tuple[Tensor, Tensor]:
    """The loss of one list, whose halves are partners, and its slope over the scale."""
    total = z.shape[0]
    half = _sizes(total // 2, block)  # cut alike, so that partners lie on diagonals of tiles
    sizes = half * 2
    tiles = _Tiles(z, len(sizes) * (len(sizes) + 1) // 2, max(sizes), gradient, compiled)
    scaled, by = _scaled(z, scale, compiled)
    rows, columns = _parts(scaled, sizes), _parts(z, sizes)
    of_rows = _Sums.begin(z, total, safe)
    own = z.new_empty(total)
    sums, owns = of_rows.parts(sizes), _parts(own, sizes)
    pairs = [(i, j) for j in range(len(sizes)) for i in range(j + 1)]
    nothing = math.copysign(math.inf, -by)  # a product whose logit is minus infinity
    for i, j in pairs:
        s = tiles.next(rows[i], columns[j])
        if i == j:
            s.fill_diagonal_(nothing)
        elif j == i + len(half):
            torch.mul(s.diagonal(), by, out=owns[i])
            owns[j].copy_(owns[i])
        _collect(s, by, sums[i], None if i == j else sums[j], tiles)
    value = of_rows.above(own) / total
    if not gradient:
        _leave_space(tiles.whole)
        return value, z
    sums = of_rows.turned(1 / total).parts(sizes)
    hz = torch.zeros_like(z)
    slopes = _parts(hz, sizes)
    for index in reversed(range(len(pairs))):
        i, j = pairs[index]
        s = tiles.again(index, rows[i], columns[j])
        if i == j and not tiles.kept:
            s.fill_diagonal_(nothing)
        _probabilities(s, by, sums[i], sums[j], 2 / total if j == i + len(half) else 0.0, tiles)
        slopes[i].addmm_(s, columns[j])
        if i != j:
            slopes[j].addmm_(s.T, columns[i])
    _leave_space(tiles.whole)
    return value, hz


def _sizes(n: int, block: int) -> list[int]:
    return [stop - start for start, stop in edges(0, n, block)]


def _parts(x: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = x.split(sizes)  # type: ignore[no-untyped-call]
    return parts


def _scaled(rows: Tensor, scale: Tensor | float, compiled: bool) -> tuple[Tensor, float]:
    """Rows, and by what their products are to be multiplied to be logits of base 2: the compiled loops do it."""
    return (rows, float(scale) * LOG2_E) if compiled else (rows * (scale * LOG2_E), 1.0)


def _collect(s: Tensor, by: float, rows: _Sums, columns: _Sums | None, tiles: _Tiles) -> None:
    """Add a tile of logits (times ``by``) to the sums; where those are safe the tile becomes its powers of two."""
    if tiles.compiled:
        if rows.safe:
            native_logits.powers(s, by, rows.sums, None if columns is None else columns.sums)
        else:
            native_logits.tops(s, by, *rows, *((None, None) if columns is None else columns))
        return
    limits = torch.finfo(s.dtype)
    for piece, space, tops, sums in tiles.strips(s, rows.sums if rows.safe else rows.tops, rows.sums):
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


def _probabilities(s: Tensor, by: float, rows: _Sums, columns: _Sums | None, own: float, tiles: _Tiles) -> None:
    """Softmax over rows plus that over columns, less ``own`` on the diagonal, in the place of the tile.

    The sums are :meth:`_Sums.turned`; the tile is what :func:`_collect` left, or new logits.
    """
    if tiles.compiled:
        kept, made = (
            (native_logits.KEPT, native_logits.PLAIN) if rows.safe else (native_logits.LOGITS, native_logits.PRODUCTS)
        )
        form = kept if tiles.kept else made
        native_logits.shares(s, by, form, own, *rows, *((None, None) if columns is None else columns))
        return
    for piece, space, tops, sums in tiles.strips(s, rows.sums if rows.safe else rows.tops, rows.sums):
        factor = sums.unsqueeze(1)
        if rows.safe:
            if not tiles.kept:
                piece.exp2_()
            piece.mul_(factor if columns is None else torch.add(factor, columns.sums, out=space))
        elif columns is None:
            piece.sub_(tops.unsqueeze(1)).exp2_().mul_(factor)
        else:
            p = torch.sub(piece, tops.unsqueeze(1), out=space).exp2_().mul_(factor)
            piece.sub_(columns.tops).exp2_().mul_(columns.sums).add_(p)
    if own:
        s.diagonal().sub_(own)


def _sigmoid(
    a: Tensor, b: Tensor, scale: Tensor | float, bias: Tensor, block: int, gradient: bool, compiled: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A sum over pairs, from one pass: the loss, its slopes by a and b over the scale, and by the bias."""
    n = a.shape[0]
    sizes = _sizes(n, block)
    tiles = _Tiles(a, 1, max(sizes), False, compiled)
    scaled = a if compiled else a * scale
    value, total = a.new_zeros((2,), dtype=torch.float64).unbind(0)
    ha, hb = (a.new_zeros(a.shape), b.new_zeros(b.shape)) if gradient else (a, b)
    for i, (x, u, hu) in enumerate(zip(_parts(scaled, sizes), _parts(a, sizes), _parts(ha, sizes))):
        for j, (y, hy) in enumerate(zip(_parts(b, sizes), _parts(hb, sizes))):
            s = tiles.next(x, y)
            if compiled:
                of_tile, slopes = native_logits.pairwise(s, float(scale), float(bias), i == j)
                value.add_(of_tile)
                total.add_(slopes)
            else:
                s.add_(bias)
                if i == j:  # log(1 + e^s) - s = log(1 + e^-s), with slope -1 / (1 + e^s)
                    s.diagonal().neg_()
                for piece, space in tiles.strips(s):
                    value.add_(_softplus_sum(piece, space))
                    if gradient:
                        piece.sigmoid_()
                if gradient and i == j:
                    s.diagonal().neg_()
                if gradient:
                    total.add_(s.sum(1).sum(dtype=torch.float64))
            if gradient:
                hu.addmm_(s, y, alpha=1 / n)
                hy.addmm_(s.T, u, alpha=1 / n)
    _leave_space(tiles.whole)
    return value / n, ha, hb, total / n


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
