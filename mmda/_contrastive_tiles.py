r"""Contrastive losses of plain pairs, one tile of logits at a time: exact, and O(n d) memory for large batches.

Row i of ``a`` belongs to row i of ``b``, every row counts once, logits are :math:`s_{ij} = a_i \cdot b_j` (the
temperature is already in ``a``). Three numbers are computed here:

* ``"info_nce"``: mean of :math:`\log \sum_j e^{s_{ij}} - s_{ii}`; ``"symmetric"``: half of it and half of the same over
  columns. Each tile's exponential serves its rows and its columns;
* ``"nt_xent"``: the rows of a and b are one list z, logits :math:`z_u \cdot z_w`, every row looks for its partner
  among all others. The tiles above the diagonal serve both sides;
* ``"sigmoid"``: :math:`\frac{1}{n} \sum_{ij} \log(1 + e^{s_{ij} + \beta}) - \frac{1}{n} \sum_i (s_{ii} + \beta)`.

The gradient is made in the forward pass. Tiles are kept for it while they fit ``KEEP_BYTES``, else computed twice.
Where ordinary reverse mode is not all that happens (function transforms, forward mode, second derivatives), the dense
formula is used; ``torch.compile`` sees one operator. See :mod:`mmda._tiles`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._tiles import ACCELERATOR_BLOCK, CPU_BLOCK, _edges, is_plain

#: Tiles are kept between the two passes while all of them fit.
KEEP_BYTES = 64 * 2**20
#: Below so many pairs the dense formula is as fast.
FEWEST = 256
#: Logits within this bound need no shift: their exponentials, summed over any batch, stay inside float32.
SAFE_LOGIT = 40.0


def contrastive(
    kind: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    bound: float | None = None,
    block_size: int | None = None,
) -> Tensor:
    """One of the three numbers above, by tiles where they can serve.

    Args:
        kind: ``"info_nce"``, ``"symmetric"``, ``"nt_xent"`` or ``"sigmoid"``.
        a: rows (n, d), over the temperature (``"nt_xent"``: both over its square root).
        b: rows (n, d).
        bias: scalar, for ``"sigmoid"``.
        bound: no logit is larger in size, where the caller knows; the exponential is then taken without a shift.
        block_size: rows of a tile.
    """
    shift = a.new_zeros(()) if bias is None else bias
    n = a.shape[0]
    compiling = torch.compiler.is_compiling()
    if (block_size is None and n < FEWEST) or not (compiling or is_plain(a, b, shift)):
        return dense(kind, a, b, shift)
    block = (CPU_BLOCK if a.device.type == "cpu" else ACCELERATOR_BLOCK) if block_size is None else block_size
    safe = bound is not None and bound <= SAFE_LOGIT
    if compiling:
        value: Tensor = _contrastive_op(a, b, shift, kind, safe, block)[0]
    else:
        value = _Contrastive.apply(a, b, shift, kind, safe, block)  # type: ignore[no-untyped-call]
    return value.to(a.dtype)


def dense(kind: str, a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """The same number from the matrix of all logits, in plain operations that every transform knows."""
    n = a.shape[0]
    if kind == "nt_xent":
        rows = torch.cat([a, b])
        similarity = rows @ rows.T
        others = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=a.device), -torch.inf)
        return (others.logsumexp(1) - similarity.diagonal(n).repeat(2)).mean()
    similarity = a @ b.T
    if kind == "sigmoid":
        sign = torch.where(torch.eye(n, dtype=torch.bool, device=a.device), -1.0, 1.0).to(a.dtype)
        return -F.logsigmoid(-sign * (similarity + bias)).sum() / n
    own = similarity.diagonal()
    one_way = (similarity.logsumexp(1) - own).mean()
    return (one_way + (similarity.logsumexp(0) - own).mean()) / 2 if kind == "symmetric" else one_way


class _Contrastive(torch.autograd.Function):
    """Value and gradient from the sweep; the second derivative from the dense formula."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor, kind: str, safe: bool, block: int) -> Tensor:
        needed = any(ctx.needs_input_grad)
        value, *gradients = _sweep(a, b, bias, kind, safe, block, needed)
        ctx.save_for_backward(a, b, bias, *(gradients if needed else ()))
        ctx.kind = kind
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs, gradients = ctx.saved_tensors[:3], list(ctx.saved_tensors[3:])
    needed = ctx.needs_input_grad[:3]
    if torch.is_grad_enabled():
        with torch.enable_grad():
            value = dense(ctx.kind, *inputs).to(torch.float64)
        wanted = [t for t, need in zip(inputs, needed) if need]
        found = iter(torch.autograd.grad(value, wanted, grad, create_graph=True, allow_unused=True))
        gradients = [next(found) if need else None for need in needed]
    else:
        factor = grad.to(inputs[0].dtype)
        gradients = [g * factor if need else None for g, need in zip(gradients, needed)]
    return (*gradients, None, None, None)


@torch.library.custom_op("mmda::contrastive", mutates_args=())
def _contrastive_op(
    a: Tensor, b: Tensor, bias: Tensor, kind: str, safe: bool, block: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value, ga, gb, gbias = _sweep(a, b, bias, kind, safe, block, True)
    return value, ga, gb, gbias


@_contrastive_op.register_fake
def _(a: Tensor, b: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return a.new_empty((), dtype=torch.float64), a.new_empty(a.shape), b.new_empty(b.shape), bias.new_empty(())


def _keep_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output[1:])
    ctx.kind = inputs[3]


def _backward_op(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return _backward(ctx, grad)


_contrastive_op.register_autograd(_backward_op, setup_context=_keep_op)


def _sweep(
    a: Tensor, b: Tensor, bias: Tensor, kind: str, safe: bool, block: int, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value and gradients for a, b and the bias (empty ones without ``gradient``)."""
    if kind == "sigmoid":
        return _sigmoid(a, b, bias, block, gradient)
    if kind == "nt_xent":
        n = a.shape[0]
        value, gz = _softmax_list(torch.cat((a, b)), safe, block, gradient)
        own = torch.linalg.vecdot(a, b).sum(dtype=torch.float64)
        value = (value - 2 * own) / (2 * n)
        if not gradient:
            return value, gz, gz, gz
        ga, gb = gz[:n].sub_(b, alpha=1 / n), gz[n:].sub_(a, alpha=1 / n)
        return value, ga, gb.clone(), torch.zeros_like(bias)
    value, ga, gb = _softmax_pairs(a, b, kind == "symmetric", safe, block, gradient)
    return value, ga, gb, torch.zeros_like(bias)


class _Tiles:
    """Work space for tiles of logits: one, or all of them where they are to be kept and fit."""

    def __init__(self, like: Tensor, count: int, side: int, keep: bool) -> None:
        size = side * side
        self.kept = keep and count * size * like.element_size() <= KEEP_BYTES
        self.store = like.new_empty(count if self.kept else 1, size)
        self.filled = 0

    def next(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits of these rows, in new space where tiles are kept."""
        tile = self.view(self.filled, rows, columns)
        self.filled += 1
        return torch.mm(rows, columns.T, out=tile)

    def view(self, index: int, rows: Tensor, columns: Tensor) -> Tensor:
        """The space of a tile."""
        n, m = rows.shape[0], columns.shape[0]
        return self.store[index if self.kept else 0][: n * m].view(n, m)


def _softmax_pairs(
    a: Tensor, b: Tensor, symmetric: bool, safe: bool, block: int, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n = a.shape[0]
    edges = _edges(0, n, block)
    side = max(stop - start for start, stop in edges)
    tiles = _Tiles(a, len(edges) ** 2, side, gradient)
    # Sums of exponentials where no logit is large, else their running logarithms.
    of_rows = a.new_full((n,), 0.0 if safe else -torch.inf)
    of_columns = of_rows.clone() if symmetric else of_rows
    for i, i_stop in edges:
        for j, j_stop in edges:
            s = tiles.next(a[i:i_stop], b[j:j_stop])
            _collect(s, of_rows[i:i_stop], of_columns[j:j_stop] if symmetric else None, safe)
    own = torch.linalg.vecdot(a, b).sum(dtype=torch.float64)
    value = (of_rows.log() if safe else of_rows).sum(dtype=torch.float64)
    if symmetric:
        value = (value + (of_columns.log() if safe else of_columns).sum(dtype=torch.float64)) / 2
    value = (value - own) / n
    if not gradient:
        return value, a, b
    share = 0.5 / n if symmetric else 1 / n
    of_rows, of_columns = _turned(of_rows, share, safe), _turned(of_columns, share, safe)
    ga, gb = b * (-1 / n), a * (-1 / n)
    index = 0
    for i, i_stop in edges:
        for j, j_stop in edges:
            rows, columns = a[i:i_stop], b[j:j_stop]
            s = tiles.view(index, rows, columns)
            index += 1
            if not tiles.kept:
                torch.mm(rows, columns.T, out=s)
                if safe:
                    s.exp_()
            g = _probabilities(s, of_rows[i:i_stop], of_columns[j:j_stop] if symmetric else None, safe)
            ga[i:i_stop].addmm_(g, columns)
            gb[j:j_stop].addmm_(g.T, rows)
    return value, ga, gb


def _softmax_list(z: Tensor, safe: bool, block: int, gradient: bool) -> tuple[Tensor, Tensor]:
    """Sum over u of log sum over w != u of exp(z_u . z_w), and its gradient over the number of rows."""
    total = z.shape[0]
    edges = _edges(0, total, block)
    side = max(stop - start for start, stop in edges)
    tiles = _Tiles(z, len(edges) * (len(edges) + 1) // 2, side, gradient)
    sums = z.new_full((total,), 0.0 if safe else -torch.inf)
    for k, (i, i_stop) in enumerate(edges):
        for j, j_stop in edges[k:]:
            s = tiles.next(z[i:i_stop], z[j:j_stop])
            if i == j:
                s.fill_diagonal_(-torch.inf)
            _collect(s, sums[i:i_stop], None if i == j else sums[j:j_stop], safe)
    value = (sums.log() if safe else sums).sum(dtype=torch.float64)
    if not gradient:
        return value, z
    sums = _turned(sums, 1 / total, safe)
    gz = torch.zeros_like(z)
    index = 0
    for k, (i, i_stop) in enumerate(edges):
        for j, j_stop in edges[k:]:
            rows, columns = z[i:i_stop], z[j:j_stop]
            s = tiles.view(index, rows, columns)
            index += 1
            if not tiles.kept:
                torch.mm(rows, columns.T, out=s)
                if i == j:
                    s.fill_diagonal_(-torch.inf)
                if safe:
                    s.exp_()
            g = _probabilities(s, sums[i:i_stop], sums[j:j_stop], safe)
            gz[i:i_stop].addmm_(g, columns)
            if i != j:
                gz[j:j_stop].addmm_(g.T, rows)
    return value, gz


def _collect(s: Tensor, of_rows: Tensor, of_columns: Tensor | None, safe: bool) -> None:
    """Add a tile of logits to the sums; safe: the tile becomes its exponential."""
    if safe:
        s.exp_()
        of_rows.add_(s.sum(1))
        if of_columns is not None:
            of_columns.add_(s.sum(0))
        return
    torch.logaddexp(of_rows, s.logsumexp(1), out=of_rows)
    if of_columns is not None:
        torch.logaddexp(of_columns, s.logsumexp(0), out=of_columns)


def _turned(sums: Tensor, share: float, safe: bool) -> Tensor:
    """What turns a tile into ``share`` times its probabilities: a factor, or a shift of the logits."""
    return share / sums if safe else sums - torch.log(sums.new_full((), share))


def _probabilities(s: Tensor, of_rows: Tensor, of_columns: Tensor | None, safe: bool) -> Tensor:
    """Softmax over rows, plus softmax over columns; overwrites a safe tile."""
    if safe:
        if of_columns is None:
            return s.mul_(of_rows.unsqueeze(1))
        return s.mul_(of_rows.unsqueeze(1) + of_columns)
    g = (s - of_rows.unsqueeze(1)).exp_()
    return g if of_columns is None else g.add_(s.sub_(of_columns).exp_())


def _sigmoid(a: Tensor, b: Tensor, bias: Tensor, block: int, gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A sum over pairs: value and gradient from one pass."""
    n = a.shape[0]
    edges = _edges(0, n, block)
    side = max(stop - start for start, stop in edges)
    tiles = _Tiles(a, 1, side, False)
    value = a.new_zeros((), dtype=torch.float64)
    own = torch.linalg.vecdot(a, b).sum(dtype=torch.float64)
    ga, gb = (b * (-1 / n), a * (-1 / n)) if gradient else (a, b)
    total = a.new_zeros((), dtype=torch.float64)
    for i, i_stop in edges:
        for j, j_stop in edges:
            rows, columns = a[i:i_stop], b[j:j_stop]
            s = tiles.next(rows, columns).add_(bias)
            value.sub_(F.logsigmoid(-s).sum(1).sum(dtype=torch.float64))  # softplus drops e^-20
            if gradient:
                s.sigmoid_()
                total.add_(s.sum(1).sum(dtype=torch.float64))
                ga[i:i_stop].addmm_(s, columns, alpha=1 / n)
                gb[j:j_stop].addmm_(s.T, rows, alpha=1 / n)
    return (value - own) / n - bias, ga, gb, (total / n - 1).to(bias.dtype)
