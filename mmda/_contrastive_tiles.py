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
formula is used; ``torch.compile`` sees one operator. See :mod:`mmda._tiles`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._contrastive import normalized_rows
from mmda._masking import full_precision
from mmda._tiles import ACCELERATOR_BLOCK, _edges, usable
from mmda._transforms import is_plain

#: Rows of a tile. In large ones the products run faster; one list and itself are less work in smaller ones.
CPU_BLOCKS = {"info_nce": 2048, "symmetric": 2048, "nt_xent": 512, "sigmoid": 1024}
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


def contrastive(
    kind: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    unit: bool = False,
    bound: float | None = None,
    block_size: int | None = None,
) -> Tensor:
    """One of the three numbers above, by tiles where they can serve.

    Args:
        kind: ``"info_nce"``, ``"symmetric"``, ``"nt_xent"`` or ``"sigmoid"``.
        a: rows (n, d).
        b: rows (n, d).
        bias: scalar, for ``"sigmoid"``.
        temperature: what the similarities are divided by.
        unit: compare directions: every row is divided by its length.
        bound: no logit is larger in size, where the caller knows; the exponential is then taken without a shift. On a
            CPU the rows themselves are asked.
        block_size: rows of a tile.
    """
    shift = a.new_zeros(()) if bias is None else bias
    tau = temperature if isinstance(temperature, Tensor) else a.new_full((), temperature)
    compiling = torch.compiler.is_compiling()
    compared = (2 if kind == "nt_xent" else 1) * a.shape[0]
    few = block_size is None and compared < FEWEST and (compiling or kind not in AT_ONCE)
    if few or not (compiling or is_plain(a, b, shift, tau)):
        return dense(kind, a, b, shift, temperature, unit)
    block = (CPU_BLOCKS[kind] if a.device.type == "cpu" else ACCELERATOR_BLOCK) if block_size is None else block_size
    if bound is None:
        bound = 1 / temperature if unit and not isinstance(temperature, Tensor) else math.inf
    if not torch.is_grad_enabled():
        a, b, shift, tau = a.detach(), b.detach(), shift.detach(), tau.detach()
    arguments = (*map(usable, (a, b, shift, tau)), kind, unit, bound, block)
    value: Tensor
    if compiling:
        value = _contrastive_op(*arguments)[0]
    else:
        value = _Contrastive.apply(*arguments)  # type: ignore[no-untyped-call]
    return value


def dense(
    kind: str, a: Tensor, b: Tensor, bias: Tensor, temperature: float | Tensor = 1.0, unit: bool = False
) -> Tensor:
    """The same number from the matrix of all logits, in plain operations that every transform knows."""
    n = a.shape[0]
    if unit:
        a, b = normalized_rows(a), normalized_rows(b)
    if kind == "nt_xent":
        rows = torch.cat([a, b])
        similarity = (rows / temperature) @ rows.T
        others = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=a.device), -torch.inf)
        return (others.logsumexp(1) - similarity.diagonal(n).repeat(2)).mean()
    similarity = (a / temperature) @ b.T
    if kind == "sigmoid":
        sign = torch.where(torch.eye(n, dtype=torch.bool, device=a.device), -1.0, 1.0).to(a.dtype)
        return -F.logsigmoid(-sign * (similarity + bias)).sum() / n
    partner = torch.arange(n, device=a.device)
    one_way = F.cross_entropy(similarity, partner)
    return (one_way + F.cross_entropy(similarity.T, partner)) / 2 if kind == "symmetric" else one_way


class _Contrastive(torch.autograd.Function):
    """Value and gradient from the sweep; the second derivative from the dense formula."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        needed = ctx.needs_input_grad
        value, *gradients = _sweep(*arguments, gradient=any(needed), tempered=needed[3])
        _keep(ctx, arguments, gradients)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)


def _keep(ctx: Any, arguments: tuple[Any, ...], gradients: Sequence[Tensor | None]) -> None:
    ctx.save_for_backward(*arguments[:4], *gradients)
    ctx.kind, ctx.unit = arguments[4:6]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs, gradients = ctx.saved_tensors[:4], list(ctx.saved_tensors[4:])
    needed = ctx.needs_input_grad[:4]
    if torch.is_grad_enabled():
        # Aliases: where one input is a function of another, or the same, that path is the outer graph's to add.
        a, b, bias, temperature = inputs = [t.view_as(t) for t in inputs]
        wanted = [t for t, need in zip(inputs, needed) if need]
        with full_precision(inputs[0]):
            value = dense(ctx.kind, a, b, bias, temperature, ctx.unit)
            found = iter(torch.autograd.grad(value, wanted, grad, create_graph=True, allow_unused=True))
        gradients = [next(found) if need else None for need in needed]
    else:
        # What the sweep made no slope for, such as a bias that plays no part, has none.
        slopes = (
            torch.zeros_like(t) if g is None else g * grad for t, g, need in zip(inputs, gradients, needed) if need
        )
        gradients = [next(slopes) if need else None for need in needed]
    return (*gradients, None, None, None, None)


@torch.library.custom_op("mmda::contrastive", mutates_args=())
def _contrastive_op(
    a: Tensor, b: Tensor, bias: Tensor, temperature: Tensor, kind: str, unit: bool, bound: float, block: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    value, ga, gb, slope_of_bias, slope_of_temperature = _sweep(
        a, b, bias, temperature, kind, unit, bound, block, gradient=True, tempered=True
    )
    assert ga is not None
    assert gb is not None
    assert slope_of_temperature is not None
    if kind != "sigmoid":
        gb = gb.clone()  # no two outputs share their storage
    return value, ga, gb, torch.zeros_like(bias) if slope_of_bias is None else slope_of_bias, slope_of_temperature


@_contrastive_op.register_fake
def _(
    a: Tensor, b: Tensor, bias: Tensor, temperature: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return a.new_empty(()), a.new_empty(a.shape), b.new_empty(b.shape), bias.new_empty(()), temperature.new_empty(())


def _keep_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _keep(ctx, inputs, output[1:])


def _backward_op(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return _backward(ctx, grad)


_contrastive_op.register_autograd(_backward_op, setup_context=_keep_op)


def _sweep(
    a: Tensor,
    b: Tensor,
    bias: Tensor,
    temperature: Tensor,
    kind: str,
    unit: bool,
    bound: float,
    block: int,
    *,
    gradient: bool,
    tempered: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The value; with ``gradient`` also its gradients for a, b, the bias and, if ``tempered``, the temperature."""
    n = a.shape[0]
    scale = temperature.to(a).reciprocal()
    listed, at_once = kind == "nt_xent", kind in AT_ONCE and n <= min(SMALL, block)
    joined = listed or (at_once and unit)  # one list of rows, with half of the operations on each
    x = _Rows(torch.cat((a, b)) if joined else a, unit)
    y = x if joined else _Rows(b, unit)
    slope_of_bias: Tensor | None = None
    share = 1.0
    if at_once:
        u, v = (x.rows[:n], x.rows[n:]) if joined else (x.rows, y.rows)
        value, h, share = _softmax_at_once(u, v, scale, kind == "symmetric", gradient)
        hx, hy = (h, h) if joined else (h[:n], h[n:])
    elif kind == "sigmoid":
        value, hx, hy, slope_of_bias = _sigmoid(x.rows, y.rows, scale, bias, block, gradient)
        slope_of_bias = slope_of_bias.to(bias.dtype)
    else:
        if bound > SAFE_LOGIT and a.device.type == "cpu":
            bound = float(x.longest() * y.longest() * scale)
        safe = bound <= SAFE_LOGIT
        if listed:
            value, hx = _softmax_list(x.rows, scale, safe, block, gradient)
        else:
            value, hx, hy = _softmax_pairs(x.rows, y.rows, scale, kind == "symmetric", safe, block, gradient)
    value = value.to(a.dtype)
    if not gradient:
        return value, None, None, None, None
    factor = scale * share
    slope, gx = x.gradient(hx, factor, tempered)
    if slope is not None:
        # In one list every similarity is there twice.
        slope = (slope * (factor * scale)).mul_(-0.5 if joined else -1.0).to(temperature)
    gx, gy = (gx[:n], gx[n:]) if joined else (gx, y.gradient(hy, factor, False)[1])
    return value, gx, gy, slope_of_bias, slope


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

    def gradient(self, h: Tensor, scale: Tensor, tempered: bool) -> tuple[Tensor | None, Tensor]:
        """From the slopes by the rows over ``scale``: the slope by ``scale``, and by the given rows (in place of h)."""
        if not (self.unit or tempered):
            return None, h.mul_(scale)
        along = torch.linalg.vecdot(h, self.rows)
        slope = along.sum(dtype=torch.float64) if tempered else None
        if not self.unit:
            return slope, h.mul_(scale)
        h.addcmul_(self.rows, along.unsqueeze(1), value=-1)
        return slope, h.mul_(self.inverse * scale)


def _softmax_at_once(
    a: Tensor, b: Tensor, scale: Tensor, symmetric: bool, gradient: bool
) -> tuple[Tensor, Tensor, float]:
    """The loss from all logits at once, in few operations; what times the third number is its slope over the scale."""
    n = a.shape[0]
    share, ones = (0.5 / n, 2) if symmetric else (1 / n, 1)
    s = torch.mm(a, b.T).mul_(scale)
    g = torch.log_softmax(s, 1)
    own = g.diagonal()
    if symmetric:
        by_column = torch.log_softmax(s, 0)
        own = own + by_column.diagonal()
    value = own.sum().mul_(-share)
    h = a.new_empty(2 * n, a.shape[1])
    if gradient:
        g.exp_()
        if symmetric:
            g.add_(by_column.exp_())
        g.diagonal().sub_(ones)
        torch.mm(g, b, out=h[:n])
        torch.mm(g.T, a, out=h[n:])
    return value, h, share


class _Tiles:
    """Work space for tiles of logits: one, or all of them where they are to be kept and fit; and a strip beside.

    What is done to the numbers of a tile one by one is done strip by strip, which stays in the nearest caches.
    """

    def __init__(self, like: Tensor, count: int, side: int, keep: bool) -> None:
        size = side * side
        self.kept = keep and count * size * like.element_size() <= KEEP_BYTES
        self.store = like.new_empty(count if self.kept else 1, size)
        self.filled = 0
        self.strip = max(1, STRIP // side) if like.device.type == "cpu" else side
        self.space = like.new_empty(min(self.strip, side) * side)

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

    def strips(self, tile: Tensor, of_rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some rows of a tile, what belongs to them, and space of their shape beside, free at any time."""
        pieces: Iterable[tuple[Tensor, Tensor]] = zip(tile.split(self.strip), of_rows.split(self.strip))  # type: ignore[no-untyped-call]
        for piece, values in pieces:
            yield piece, values, self.space[: piece.numel()].view(piece.shape)


def _softmax_pairs(
    a: Tensor, b: Tensor, scale: Tensor, symmetric: bool, safe: bool, block: int, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its slopes by a and b over the scale."""
    n = a.shape[0]
    sizes = _sizes(n, block)
    tiles = _Tiles(a, len(sizes) ** 2, max(sizes), gradient)
    rows, columns = _parts(a * (scale * LOG2_E), sizes), _parts(b, sizes)
    # Sums of powers of two where no logit is large, else their running logarithms.
    of_rows = a.new_full((n,), 0.0 if safe else -torch.inf)
    of_columns = of_rows.clone() if symmetric else None
    own = torch.empty_like(of_rows)
    nothing: Sequence[Tensor | None] = [None] * len(sizes)
    row_sums, owns = _parts(of_rows, sizes), _parts(own, sizes)
    column_sums = nothing if of_columns is None else _parts(of_columns, sizes)
    for j, (y, y_sums) in enumerate(zip(columns, column_sums)):
        for i, (x, x_sums) in enumerate(zip(rows, row_sums)):
            s = tiles.next(x, y)
            if i == j:
                owns[i].copy_(s.diagonal())
            _collect(s, x_sums, y_sums, safe, tiles)
    value = _above(of_rows, own, safe)
    if of_columns is not None:
        value = (value + _above(of_columns, own, safe)) / 2
    if not gradient:
        return value / n, a, b
    share, ones = (0.5 / n, 2) if symmetric else (1 / n, 1)
    row_sums = _parts(_turned(of_rows, safe), sizes)
    if of_columns is not None:
        column_sums = _parts(_turned(of_columns, safe), sizes)
    ha, hb = a.new_zeros(a.shape), b.new_zeros(b.shape)
    us, hus, hys = _parts(a, sizes), _parts(ha, sizes), _parts(hb, sizes)
    # From the last tile to the first: those made last are the nearest.
    for j in reversed(range(len(sizes))):
        for i in reversed(range(len(sizes))):
            s = tiles.again(j * len(sizes) + i, rows[i], columns[j])
            g = _probabilities(s, row_sums[i], column_sums[j], safe, tiles)
            if i == j:
                g.diagonal().sub_(ones)
            hus[i].addmm_(g, columns[j], alpha=share)
            hys[j].addmm_(g.T, us[i], alpha=share)
    return value / n, ha, hb


def _softmax_list(z: Tensor, scale: Tensor, safe: bool, block: int, gradient: bool) -> tuple[Tensor, Tensor]:
    """The loss of one list, whose halves are partners, and its slope over the scale."""
    total = z.shape[0]
    half = _sizes(total // 2, block)  # cut alike, so that partners lie on diagonals of tiles
    sizes = half * 2
    tiles = _Tiles(z, len(sizes) * (len(sizes) + 1) // 2, max(sizes), gradient)
    rows, columns = _parts(z * (scale * LOG2_E), sizes), _parts(z, sizes)
    of_rows = z.new_full((total,), 0.0 if safe else -torch.inf)
    own = torch.empty_like(of_rows)
    sums, owns = _parts(of_rows, sizes), _parts(own, sizes)
    pairs = [(i, j) for j in range(len(sizes)) for i in range(j + 1)]
    for i, j in pairs:
        s = tiles.next(rows[i], columns[j])
        if i == j:
            s.fill_diagonal_(-torch.inf)
        elif j == i + len(half):
            owns[i].copy_(s.diagonal())
            owns[j].copy_(s.diagonal())
        _collect(s, sums[i], None if i == j else sums[j], safe, tiles)
    value = _above(of_rows, own, safe) / total
    if not gradient:
        return value, z
    sums = _parts(_turned(of_rows, safe), sizes)
    hz = torch.zeros_like(z)
    slopes = _parts(hz, sizes)
    for index in reversed(range(len(pairs))):
        i, j = pairs[index]
        s = tiles.again(index, rows[i], columns[j])
        if i == j and not tiles.kept:
            s.fill_diagonal_(-torch.inf)
        g = _probabilities(s, sums[i], sums[j], safe, tiles)
        if j == i + len(half):
            g.diagonal().sub_(2)
        slopes[i].addmm_(g, columns[j], alpha=1 / total)
        if i != j:
            slopes[j].addmm_(g.T, columns[i], alpha=1 / total)
    return value, hz


def _sizes(n: int, block: int) -> list[int]:
    return [stop - start for start, stop in _edges(0, n, block)]


def _parts(x: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = x.split(sizes)  # type: ignore[no-untyped-call]
    return parts


def _collect(s: Tensor, of_rows: Tensor, of_columns: Tensor | None, safe: bool, tiles: _Tiles) -> None:
    """Add a tile of logits of base 2 to the sums; safe: the tile becomes its powers of two."""
    for piece, by_row, space in tiles.strips(s, of_rows):
        if safe:
            by_row.add_(piece.exp2_().sum(1))
            if of_columns is not None:
                of_columns.add_(piece.sum(0))
            continue
        for sums, dim in ((by_row, 1), (of_columns, 0)):
            if sums is not None:
                limits = torch.finfo(s.dtype)
                top = piece.amax(dim, keepdim=True).clamp_(limits.min, limits.max)
                powers = torch.sub(piece, top, out=space).exp2_()
                torch.logaddexp2(sums, powers.sum(dim).log2_().add_(top.squeeze(dim)), out=sums)


def _above(sums: Tensor, own: Tensor, safe: bool) -> Tensor:
    """Sum over the rows of how far the logarithm of a row's sum lies above its own logit, a logit of base 2.

    The logits are those of the same tiles: a row that outweighs all others gives exactly zero.
    """
    return ((sums.log2() if safe else sums) - own).sum(dtype=torch.float64) * math.log(2)


def _turned(sums: Tensor, safe: bool) -> Tensor:
    """What turns a tile into its probabilities: a factor, or a shift of the logits."""
    return sums.reciprocal() if safe else sums


def _probabilities(s: Tensor, of_rows: Tensor, of_columns: Tensor | None, safe: bool, tiles: _Tiles) -> Tensor:
    """Softmax over rows, plus softmax over columns, in the place of the tile."""
    for piece, by_row, space in tiles.strips(s, of_rows.unsqueeze(1)):
        if safe:
            if not tiles.kept:
                piece.exp2_()
            piece.mul_(by_row if of_columns is None else torch.add(by_row, of_columns, out=space))
        elif of_columns is None:
            piece.sub_(by_row).exp2_()
        else:
            p = torch.sub(piece, by_row, out=space).exp2_()
            piece.sub_(of_columns).exp2_().add_(p)
    return s


def _sigmoid(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, block: int, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A sum over pairs, from one pass: the loss, its slopes by a and b over the scale, and by the bias."""
    n = a.shape[0]
    sizes = _sizes(n, block)
    tiles = _Tiles(a, 1, max(sizes), False)
    value, total = a.new_zeros((2,), dtype=torch.float64).unbind(0)
    ha, hb = (a.new_zeros(a.shape), b.new_zeros(b.shape)) if gradient else (a, b)
    for i, (x, u, hu) in enumerate(zip(_parts(a * scale, sizes), _parts(a, sizes), _parts(ha, sizes))):
        for j, (y, hy) in enumerate(zip(_parts(b, sizes), _parts(hb, sizes))):
            s = tiles.next(x, y).add_(bias)
            if i == j:  # log(1 + e^s) - s = log(1 + e^-s), with slope -1 / (1 + e^s)
                s.diagonal().neg_()
            for piece, _, space in tiles.strips(s, s):
                value.add_(_softplus_sum(piece, space))
                if gradient:
                    piece.sigmoid_()
            if gradient:
                if i == j:
                    s.diagonal().neg_()
                total.add_(s.sum(1).sum(dtype=torch.float64))
                hu.addmm_(s, y, alpha=1 / n)
                hy.addmm_(s.T, u, alpha=1 / n)
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
