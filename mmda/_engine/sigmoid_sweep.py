"""The passes of the sigmoid loss: a sum over all pairs, so one pass over the tiles gives value and gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._engine import native, native_logits
from mmda._engine.logit_loops import LOG2_E
from mmda._engine.logit_pairs import Pairs, counts, twins
from mmda._engine.logit_sweep import Made, Problem, Rows
from mmda._engine.logit_tiles import Grid, Masks, Tiles
from mmda._engine.logits_at_once import Sides, are_few, floor
from mmda._engine.scaffold import ACCELERATOR_BLOCK

#: Rows per tile on a CPU: with the compiled loops, and in PyTorch operations, where a tile should fit in the caches.
BLOCK, SMALL_BLOCK = 1024, 512


def _at_once(problem: Problem) -> Made:
    """The loss of a small batch from the full logit matrix, in few operator calls."""
    pairs, how, scale, paired, wanted = problem
    sides, q = Sides(pairs, how.unit, wanted), pairs.positive_mask
    bias = None if pairs.bias is None else pairs.bias.to(pairs.a)
    s = torch.mm(sides.u, sides.v.T)
    if bias is None:
        s.mul_(scale)
    else:
        s = torch.add(bias, s, alpha=scale) if isinstance(scale, float) else s.mul_(scale).add_(bias)
    sign, slopes, value = None, None, None
    own = s.diagonal()[:paired] if q is None else s[:0, 0]
    if q is not None:
        sign = q.to(s.dtype).mul_(-2).add_(1)
        s.mul_(sign)
    elif pairs.b_count is None:
        own.neg_()
    else:
        value, _, slopes = _partners(pairs, own)
        own.fill_(floor(s))
    if pairs.negative_mask is not None:
        out, kept = (~pairs.negative_mask if q is None else (q | pairs.negative_mask).logical_not_()), own.clone()
        s.masked_fill_(out, floor(s))
        own.copy_(kept)
    a_count, b_count, weights, total = pairs.a_count, pairs.b_count, None, None
    if a_count is not None or b_count is not None:
        weights = (counts(pairs.a, a_count), counts(pairs.b, b_count))
        total = weights[0].sum(dtype=torch.float64).clamp_min_(torch.finfo(s.dtype).tiny)
    found = _losses(s, None, weights)[0]
    value = found if value is None else value + found
    if sign is not None:
        s.mul_(sign)
    elif slopes is None:
        own.neg_()
    else:
        own.copy_(slopes)
    share = 1 / s.shape[0] if total is None else 1 / total
    g = s.mul_(share if isinstance(share, float) else share.to(s))
    made = sides.made(value * share, g if any(wanted) else None, wanted, scale)
    return made if bias is None else made._replace(of_bias=g.sum())


def make(problem: Problem) -> Made:
    n, m = problem.pairs.a.shape[0], problem.pairs.b.shape[0]
    if are_few("sigmoid", problem.pairs.a, n, m, problem.how.block):
        return _at_once(problem)
    pairs, how, scale, paired, wanted = problem
    a, b, bias = pairs.a, pairs.b, None if pairs.bias is None else pairs.bias.to(pairs.a)
    block = BLOCK if native.serves(a, b) else SMALL_BLOCK if a.device.type == "cpu" else ACCELERATOR_BLOCK
    grid = Grid(a.shape[0], b.shape[0], paired, how.block or block)
    x, y = Rows(a, how.unit), Rows(b, how.unit)
    hx, hy = (torch.zeros_like(side.rows) if need else None for side, need in zip((x, y), wanted))
    scaled, masks, tiles = x.rows * scale, Masks(pairs, grid), Tiles(a, 1, grid.largest, False)
    value, slope = a.new_zeros((2,), dtype=torch.float64).unbind(0)
    of_pairs = None
    if pairs.own:
        logits = torch.linalg.vecdot(scaled[:paired], y.rows[:paired])
        value, slope, slopes = _partners(pairs, logits if bias is None else logits + bias)
        of_pairs = [slopes[place] for place in grid.rows[: grid.whole]]
    weighted = pairs.a_count is not None or pairs.b_count is not None
    a_count, b_count = counts(a, pairs.a_count), counts(b, pairs.b_count)
    spare = a.new_empty(grid.largest if masks.several else 0)
    for i, j in grid.tiles:
        of_rows, of_columns = grid.rows[i], grid.columns[j]
        s = tiles.product(0, scaled[of_rows], y.rows[of_columns])
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
        found = _losses(s, shift, (a_count[of_rows], b_count[of_columns]) if weighted else None)
        value = value + found[0]
        if q is not None:
            torch.where(q, torch.neg(s, out=negated), s, out=s)
        slope = slope + (found[1] if q is None else s.sum(1).sum(dtype=torch.float64))
        if on_diagonal and of_pairs is not None:
            s.diagonal().copy_(of_pairs[i])
        if hx is not None:
            hx[of_rows].addmm_(s, y.rows[of_columns])
        if hy is not None:
            hy[of_columns].addmm_(s.T, x.rows[of_rows])
    tiles.leave()
    total = a_count.sum(dtype=torch.float64).clamp_min_(torch.finfo(a.dtype).tiny)
    for h in (hx, hy):
        if h is not None:
            h.mul_((1 / total).to(h))
    return Made(value / total, x, y, hx, hy, scale, slope / total)


def _partners(pairs: Pairs, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of rows with their partners: sum of the losses, sum of their derivatives, and derivatives for each logit.

    A partner of weight w counts once, its w - 1 copies as negatives.
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


def _losses(s: Tensor, bias: Tensor | None, weights: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Sum of w log(1 + e^x), x the logits plus ``bias``, and sum of its derivatives, which overwrite the tile.

    ``weights`` are weights of rows and columns, with product w; 1 by default.
    """
    if native.serves(s):
        found = native_logits.pairwise(s, 0.0 if bias is None else float(bias), weights)
        value, total = s.new_tensor(found, dtype=torch.float64).unbind(0)
        return value, total
    if bias is not None:
        s.add_(bias)
    if weights is None:
        value = _softplus_sum(s)
        s.sigmoid_()
    else:
        of_rows, of_columns = weights
        each = s.abs().mul_(-LOG2_E).exp2_().log1p_().add_(s.clamp_min(0))
        value = torch.mv(each, of_columns).mul_(of_rows).sum(dtype=torch.float64)
        s.sigmoid_().mul_(of_columns).mul_(of_rows.unsqueeze(1))
    return value, s.sum(1).sum(dtype=torch.float64)


def _softplus_sum(s: Tensor) -> Tensor:
    """Sum of log(1 + e^s) = max(s, 0) + log(1 + e^-|s|), with one logarithm per four terms."""
    value = s.clamp_min(0).sum(1).sum(dtype=torch.float64)
    p = s.abs().mul_(-LOG2_E).exp2_()
    for _ in range(2):
        if p.shape[1] % 2 == 0:
            half = p.shape[1] // 2
            left, right = p[:, :half], p[:, half:]
            p = (left + right).addcmul_(left, right)  # (1 + left) (1 + right) - 1
    return value.add_(p.log1p_().sum(1).sum(dtype=torch.float64))
