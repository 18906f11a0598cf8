"""The passes of InfoNCE, in one or both directions: from the full logit matrix, and tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._engine.logit_loops import LOG2_E
from mmda._engine.logit_pairs import twins
from mmda._engine.logit_sweep import Made, Problem, Rows
from mmda._engine.logit_tiles import Grid
from mmda._engine.logits_at_once import are_few, info_nce_at_once
from mmda._engine.native_logits import loops_for
from mmda._engine.softmax_sweep import Beside, Side, Softmaxes, are_safe


def make(problem: Problem) -> Made:
    pairs, how = problem.pairs, problem.how
    n, m = pairs.a.shape[0], pairs.b.shape[0]
    plain = pairs.plain and n == m == problem.paired
    if not are_few("plain" if plain else "masked", pairs.a, n, m, how.block):
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
