"""The passes of NT-Xent over one list of rows, see :mod:`mmda._engine.nt_xent_formula`."""

from __future__ import annotations

import torch

from mmda._engine.logit_loops import LOG2_E
from mmda._engine.logit_pairs import twins
from mmda._engine.logit_sweep import Made, Problem, Rows
from mmda._engine.logit_tiles import Grid, cuts
from mmda._engine.logits_at_once import are_few, nt_xent_at_once
from mmda._engine.native_logits import loops_for
from mmda._engine.nt_xent_formula import copies_of
from mmda._engine.softmax_sweep import Beside, Side, Softmaxes, are_safe

#: Rows of a tile on a CPU, at most: of larger ones, fewer would be spared below the diagonal.
BLOCK = 512


class _ListGrid(Grid):
    """The tiles of a list of rows with itself; the second half holds the partners of the first.

    For symmetric pair masks only the tiles on and above the diagonal are computed.
    """

    def __init__(self, n: int, copies: int, block: int, triangle: bool) -> None:
        half = cuts(0, n, block)
        self.whole, self.triangle, self.half = len(half), triangle, n
        self.rows = self.columns = half + (cuts(n, 2 * n, block) if copies == 2 else [])
        k = len(self.rows)
        self.tiles = [(i, j) for j in range(k) for i in range(j + 1 if triangle else k)]

    def in_masks(self, place: slice) -> slice:
        start = place.start % self.half
        return slice(start, start + place.stop - place.start)

    def partners_on_diagonal(self, i: int, j: int) -> bool:
        return abs(i - j) == self.whole

    def itself_on_diagonal(self, i: int, j: int) -> bool:
        return i == j


def make(problem: Problem) -> Made:
    length = problem.pairs.a.shape[0] * copies_of(problem.pairs)
    if are_few("list", problem.pairs.a, length, length, problem.how.block):
        return nt_xent_at_once(problem, copies_of(problem.pairs))
    pairs, how, scale, _, wanted = problem
    a, n, copies = pairs.a, pairs.a.shape[0], copies_of(pairs)
    loops = loops_for(a, pairs.b)
    block = how.block or (min(loops.block, BLOCK) if a.device.type == "cpu" else loops.block)
    masks = pairs.positive_mask, pairs.negative_mask
    grid = _ListGrid(n, copies, block, all(mask is None or torch.equal(mask, mask.T) for mask in masks))
    x = Rows(torch.cat((a, pairs.b)), how.unit)
    scaled = x.rows * (scale * LOG2_E)
    count = None if pairs.a_count is None else pairs.a_count.repeat(copies)
    rows = columns = Side.of(x.rows, count, any(wanted))
    if not grid.triangle:  # no softmax over the columns
        columns = Side.of(x.rows, count, False)
        columns.slopes = rows.slopes
    rows.begin(are_safe(rows, columns, how.unit, scale), False)
    positive, allowed = (None if mask is None else mask.diagonal().repeat(copies) for mask in masks)
    if pairs.own:
        logits, one = torch.linalg.vecdot(scaled[:n], x.rows[n:]).repeat(2), torch.ones_like(rows.total)
        rows.partner = rows.add(Beside(logits, one if count is None else one + twins(count, allowed), one))
    if count is not None:
        if positive is not None and allowed is not None:
            allowed = allowed | positive
        chosen = torch.zeros_like(count) if positive is None else twins(count, positive)
        logits = torch.linalg.vecdot(scaled, x.rows)
        rows.itself = rows.add(Beside(logits, twins(count, allowed), chosen))
    value = Softmaxes(pairs, how, grid, loops, scaled, rows, columns).value()
    return Made(value, x, x, rows.slopes, rows.slopes, scale)
