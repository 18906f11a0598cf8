"""The sigmoid loss: a sum over all pairs, so that one pass over the tiles makes value and slopes; and as a formula."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.masking import safe_divide
from mmda._core.rows import normalized_rows
from mmda._engine import native, native_logits
from mmda._engine.logit_loops import LOG2_E
from mmda._engine.logit_pairs import (
    Contrast,
    Pairs,
    counts,
    negative_counts,
    own_pairs,
    positive_share,
    twins,
    without_padding,
)
from mmda._engine.logit_sweep import Made, Problem, sweep_of
from mmda._engine.logit_tiles import Grid, Masks, Rows, Strips, Tiles, parts
from mmda._engine.logits_at_once import Sides, are_few, floor
from mmda._engine.scaffold import ACCELERATOR_BLOCK

#: Rows of a tile on a CPU.
BLOCK = 1024


def _dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The number from the matrix of all logits: O(n m) memory."""
    pairs = without_padding(pairs)
    a, b = (normalized_rows(rows) if how.unit else rows for rows in pairs[:2])
    s = (a / (how.tau if pairs.temperature is None else pairs.temperature)) @ b.T
    s = s if pairs.bias is None else s + pairs.bias
    if pairs.plain:
        sign = torch.where(own_pairs(s), -1.0, 1.0).to(s.dtype)
        return -F.logsigmoid(-sign * s).sum() / s.shape[0]
    share = positive_share(pairs, s.dtype)
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    negative = negative_counts(s, share, pairs.negative_mask, b_count)
    positive = (own_pairs(s) & (b_count > 0)).to(s.dtype) if share is None else share * b_count
    each = -(positive * F.logsigmoid(s) + negative * F.logsigmoid(-s)).sum(1)
    return safe_divide(a_count @ each, a_count.sum())


def _at_once(problem: Problem) -> Made:
    """The loss of few rows from all logits."""
    pairs, how, scale, paired, wanted = problem
    sides, q = Sides(pairs, how.unit, wanted), pairs.positive_mask
    bias = None if pairs.bias is None else pairs.bias.to(pairs.a)
    s = torch.mm(sides.u, sides.v.T).mul_(scale)
    if bias is not None:
        s.add_(bias)
    sign, slopes, value = None, None, s.new_zeros((), dtype=torch.float64)
    own = s.diagonal()[:paired] if q is None else s[:0, 0]
    if q is not None:
        sign = q.to(s.dtype).mul_(-2).add_(1)
        s.mul_(sign)
    elif pairs.b_count is None:
        own.neg_()
    else:  # a partner and its repetitions beside the others
        value, _, slopes = _of_partners(pairs, own)
        own.fill_(floor(s))
    if pairs.negative_mask is not None:
        out, kept = (~pairs.negative_mask if q is None else (q | pairs.negative_mask).logical_not_()), own.clone()
        s.masked_fill_(out, floor(s))
        own.copy_(kept)
    weighted = pairs.a_count is not None or pairs.b_count is not None
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    value = value + _losses(s, None, (a_count, b_count) if weighted else None, Strips(s))[0]
    if sign is not None:
        s.mul_(sign)
    elif slopes is None:
        own.neg_()
    else:
        own.copy_(slopes)
    total = a_count.sum(dtype=torch.float64).clamp_min_(torch.finfo(s.dtype).tiny)
    g = s.mul_((1 / total).to(s))
    made = sides.made(value / total, g if any(wanted) else None, wanted, scale)
    return made if bias is None else made._replace(of_bias=g.sum())


def _make(problem: Problem) -> Made:
    n, m = problem.pairs.a.shape[0], problem.pairs.b.shape[0]
    if are_few("sigmoid", n, m, problem.how.block):
        return _at_once(problem)
    pairs, how, scale, paired, wanted = problem
    a, b, bias = pairs.a, pairs.b, None if pairs.bias is None else pairs.bias.to(pairs.a)
    grid = Grid(a.shape[0], b.shape[0], paired, how.block or (BLOCK if a.device.type == "cpu" else ACCELERATOR_BLOCK))
    x, y = Rows(a, how.unit), Rows(b, how.unit)
    hx, hy = (torch.zeros_like(side.rows) if need else None for side, need in zip((x, y), wanted))
    scaled, masks, tiles = x.rows * scale, Masks(pairs, grid), Tiles(a, 1, grid.largest, False)
    value, slope = a.new_zeros((2,), dtype=torch.float64).unbind(0)
    of_pairs = None
    if pairs.own:
        logits = torch.linalg.vecdot(scaled[:paired], y.rows[:paired])
        value, slope, slopes = _of_partners(pairs, logits if bias is None else logits + bias)
        of_pairs = parts(slopes, grid.rows[: grid.whole])
    weighted = pairs.a_count is not None or pairs.b_count is not None
    a_count, b_count = counts(a, pairs.a_count), counts(b, pairs.b_count)
    left, of_rows, of_columns = (
        parts(t, size) for t, size in ((scaled, grid.rows), (a_count, grid.rows), (b_count, grid.columns))
    )
    rows, columns = parts(x.rows, grid.rows), parts(y.rows, grid.columns)
    row_slopes, column_slopes = (h if h is None else parts(h, n) for h, n in ((hx, grid.rows), (hy, grid.columns)))
    strips, spare = Strips(a), a.new_empty(grid.largest if masks.several else 0)
    for i, j in grid.tiles:
        s = tiles.product(0, left[i], columns[j])
        q, shift = masks.positive(i, j), bias
        negated = spare[: s.numel()].view(s.shape) if q is not None else s
        if q is not None:
            s, shift = s if bias is None else s.add_(bias), None
            torch.where(q, torch.neg(s, out=negated), s, out=s)
        out = masks.left_out(i, j, q)
        if out is not None:
            s.masked_fill_(out, -torch.inf)
        on_diagonal = pairs.own and grid.partners_on_diagonal(i, j)
        if on_diagonal:
            s.fill_diagonal_(-torch.inf)
        found = _losses(s, shift, (of_rows[i], of_columns[j]) if weighted else None, strips)
        value = value + found[0]
        if q is not None:
            torch.where(q, torch.neg(s, out=negated), s, out=s)
        slope = slope + (found[1] if q is None else s.sum(1).sum(dtype=torch.float64))
        if on_diagonal and of_pairs is not None:
            s.diagonal().copy_(of_pairs[i])
        if row_slopes is not None:
            row_slopes[i].addmm_(s, columns[j])
        if column_slopes is not None:
            column_slopes[j].addmm_(s.T, rows[i])
    tiles.leave()
    total = a_count.sum(dtype=torch.float64).clamp_min_(torch.finfo(a.dtype).tiny)
    for h in (hx, hy):
        if h is not None:
            h.mul_((1 / total).to(h))
    return Made(value / total, x, y, hx, hy, scale, slope / total)


def _of_partners(pairs: Pairs, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with their own partners: the sum of their losses, that of the slopes, and the slopes by these logits.

    A partner counts once, and its repetitions as negatives.
    """
    k, right, wrong = logits.shape[0], torch.ones_like(logits), torch.zeros_like(logits)
    if pairs.b_count is not None:
        allowed = None if pairs.negative_mask is None else pairs.negative_mask.diagonal()[:k]
        right, wrong = (pairs.b_count[:k] > 0).to(logits), twins(pairs.b_count[:k], allowed)
    if pairs.a_count is not None:
        right, wrong = right * pairs.a_count[:k], wrong * pairs.a_count[:k]
    value = right * F.softplus(-logits) + wrong * F.softplus(logits)
    slopes = wrong * logits.sigmoid() - right * (-logits).sigmoid()
    return value.sum(dtype=torch.float64), slopes.sum(dtype=torch.float64), slopes


def _losses(
    s: Tensor, bias: Tensor | None, weights: tuple[Tensor, Tensor] | None, strips: Strips
) -> tuple[Tensor, Tensor]:
    """Sum of w log(1 + e^x), x the logits plus ``bias``, and of the slopes, which take the place of the tile.

    ``weights`` are those of rows and of columns, whose product w is; 1 by default.
    """
    if native.serves(s):
        found = native_logits.pairwise(s, 0.0 if bias is None else float(bias), weights)
        value, total = s.new_tensor(found, dtype=torch.float64).unbind(0)
        return value, total
    value, total = s.new_zeros((2,), dtype=torch.float64).unbind(0)
    of_rows, of_columns = (s[:, 0], None) if weights is None else weights
    for piece, space, w in strips.of(s, of_rows):
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


SIGMOID = sweep_of("sigmoid", _make, _dense)
