"""InfoNCE in one or both directions: from the full logit matrix, tile by tile, and as a dense formula."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.masking import safe_divide
from mmda._core.unit_rows import normalized_rows
from mmda._core.weighted import weighted_logsumexp
from mmda._engine.logit_loops import LOG2_E, loops_for
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
from mmda._engine.logit_tiles import Grid, Rows
from mmda._engine.logits_at_once import are_few, info_nce_at_once
from mmda._engine.softmax_sweep import Beside, Side, Softmaxes, are_safe


def _dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The loss from the full logit matrix: O(n m) memory."""
    pairs = without_padding(pairs)
    a, b = (normalized_rows(rows) if how.unit else rows for rows in pairs[:2])
    s = (a / (how.tau if pairs.temperature is None else pairs.temperature)) @ b.T
    both = how.kind == "symmetric"
    if pairs.plain:
        partner = torch.arange(s.shape[0], device=s.device)
        one_way = F.cross_entropy(s, partner)
        return (one_way + F.cross_entropy(s.T, partner)) / 2 if both else one_way
    q, allowed = positive_share(pairs, s.dtype), pairs.negative_mask
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    one_way = _one_way(s, q, allowed, a_count, b_count, how.several)
    if not both:
        return one_way
    q, allowed = (None if t is None else t.T for t in (q, allowed))
    return (one_way + _one_way(s.T, q, allowed, b_count, a_count, how.several)) / 2


def _one_way(
    s: Tensor, q: Tensor | None, allowed: Tensor | None, row_count: Tensor, column_count: Tensor, several: str
) -> Tensor:
    """Mean over rows that have a positive, with positive weights ``q`` (None: row i is the positive of row i)."""
    negative = negative_counts(s, q, allowed, column_count)
    if q is None:
        each = weighted_logsumexp(s, negative + own_pairs(s).to(s.dtype)) - s.diagonal()
        has_positive = column_count > 0
    else:
        numerator = q * column_count
        total = numerator.sum(1)
        has_positive = total > 0
        each = weighted_logsumexp(s, torch.where(q > 0, column_count.expand_as(s), negative))
        if several == "mean":
            each = each - safe_divide((numerator * s).sum(1), total)
        else:
            each = each - weighted_logsumexp(s, numerator)
    kept = torch.where(has_positive, row_count, torch.zeros_like(row_count))
    return safe_divide((kept * torch.where(kept > 0, each, torch.zeros_like(each))).sum(), kept.sum())


def _make(problem: Problem) -> Made:
    pairs, how = problem.pairs, problem.how
    n, m = pairs.a.shape[0], pairs.b.shape[0]
    plain = pairs.plain and n == m == problem.paired
    if not are_few("plain" if plain else "masked", n, m, how.block):
        return _by_tiles(problem)
    return _at_once(problem) if plain else info_nce_at_once(problem)


def _at_once(problem: Problem) -> Made:
    """The loss of a small batch without masks or weights from the full logit matrix, in few operator calls."""
    (a, b, *_), how, scale, _, wanted = problem
    n, symmetric = a.shape[0], how.kind == "symmetric"
    # Concatenated, the rows are normalised with half the operator calls.
    x = Rows(torch.cat((a, b)) if how.unit else a, how.unit)
    y = x if how.unit else Rows(b, False)
    u, v = (x.rows[:n], x.rows[n:]) if how.unit else (x.rows, y.rows)
    g = torch.mm(u, v.T)
    value, g, factor = loops_for(g).at_once(g, scale, symmetric, any(wanted))
    if not any(wanted):
        return Made(value, x, y, None, None, factor)
    h = a.new_empty(2 * n, a.shape[1])
    hx, hy = h[:n], h[n:]
    torch.mm(g, v, out=hx)
    torch.mm(g.T, u, out=hy)
    if how.unit:
        return Made(value, x, y, h, h, factor)
    return Made(value, x, y, hx if wanted[0] else None, hy if wanted[1] else None, factor)


def _by_tiles(problem: Problem) -> Made:
    pairs, how, scale, paired, wanted = problem
    a, b, symmetric = pairs.a, pairs.b, how.kind == "symmetric"
    loops = loops_for(a, b)
    x, y = Rows(a, how.unit), Rows(b, how.unit)
    scaled = x.rows * (scale * LOG2_E)
    rows, columns = (Side.of(side.rows, count, need) for side, count, need in zip((x, y), pairs[4:6], wanted))
    safe = are_safe(rows, columns, how.unit, scale)
    several = how.several == "sum" and not pairs.own
    for side, other in ((rows, columns), (columns, rows))[: 1 + symmetric]:
        side.begin(safe, several)
        if pairs.own:
            logits = torch.linalg.vecdot(scaled[:paired], y.rows[:paired])
            allowed = None if pairs.negative_mask is None else pairs.negative_mask.diagonal()
            side.partner = side.add(_partners(logits, other.count, allowed, side.rows.shape[0]))
    grid = Grid(a.shape[0], b.shape[0], paired, how.block or loops.block)
    value = Softmaxes(pairs, how, grid, loops, scaled, rows, columns).value()
    return Made(value, x, y, rows.slopes, columns.slopes, scale)


def _partners(logits: Tensor, count: Tensor | None, allowed: Tensor | None, n: int) -> Beside:
    """The logits of the first rows with their partners. A partner of weight w counts once, its w - 1 copies as
    negatives."""
    k = logits.shape[0]
    weight = positive = torch.ones_like(logits)
    if count is not None:
        weight, positive = weight + twins(count, allowed)[:k], positive * (count[:k] > 0)
    return Beside(*(F.pad(t, (0, n - k)) for t in (logits, weight, positive)))


INFO_NCE = sweep_of("info_nce", _make, _dense)
