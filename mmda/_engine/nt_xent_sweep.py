"""NT-Xent: each row identifies its positives in one list of rows; in tiles and as a dense formula.

The list is the concatenation of both views, with masks for the pairs of one view; or the first view alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.masking import safe_divide
from mmda._core.unit_rows import normalized_rows
from mmda._core.weighted import weighted_logsumexp
from mmda._engine.logit_loops import LOG2_E, loops_for
from mmda._engine.logit_pairs import Contrast, Pairs, counts, own_pairs, twins, without_padding
from mmda._engine.logit_sweep import Made, Problem, sweep_of
from mmda._engine.logit_tiles import Grid, Rows, cuts
from mmda._engine.logits_at_once import are_few, nt_xent_at_once
from mmda._engine.softmax_sweep import Beside, Side, Softmaxes, are_safe

#: Rows of a tile on a CPU, at most: of larger ones, fewer would be spared below the diagonal.
BLOCK = 512


def _dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The loss from the full logit matrix: O(n^2) memory."""
    pairs = without_padding(pairs)
    rows = torch.cat([normalized_rows(rows) if how.unit else rows for rows in pairs[:2]])
    s = (rows / (how.tau if pairs.temperature is None else pairs.temperature)) @ rows.T
    if not pairs.plain:
        return _masked(s, pairs)
    others = s.masked_fill(own_pairs(s), -torch.inf)
    return (others.logsumexp(1) - s.diagonal(s.shape[0] // 2).repeat(2)).mean()


def _masked(s: Tensor, pairs: Pairs) -> Tensor:
    n, copies = pairs.a.shape[0], _copies(pairs)
    count = counts(pairs.a, pairs.a_count).repeat(copies)
    zero = torch.zeros_like(s)
    itself = own_pairs(s)
    # A row is not its own candidate, but its copies are.
    twins = (count - 1).clamp_min(0).expand_as(s)
    present = torch.where(itself, twins, count.expand_as(s))
    allowed = None if pairs.negative_mask is None else pairs.negative_mask.repeat(copies, copies)
    if pairs.positive_mask is None:
        partner = itself.roll(n, 1)
        share = partner.to(s.dtype)
        others = torch.where(partner, twins, present)
        columns = (others if allowed is None else torch.where(allowed, others, zero)) + share
    else:
        chosen = pairs.positive_mask.repeat(copies, copies)
        share = torch.where(chosen, present, zero)
        columns = present if allowed is None else torch.where(allowed | chosen, present, zero)
    total = share.sum(1)
    each = weighted_logsumexp(s, columns) - safe_divide((share * s).sum(1), total)
    kept = torch.where(total > 0, count, torch.zeros_like(count))
    return safe_divide((kept * torch.where(kept > 0, each, torch.zeros_like(each))).sum(), kept.sum())


def _copies(pairs: Pairs) -> int:
    """The number of times the masks repeat along the list."""
    return 2 if pairs.b.shape[0] else 1


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


def _make(problem: Problem) -> Made:
    length = problem.pairs.a.shape[0] * _copies(problem.pairs)
    if are_few("list", length, length, problem.how.block):
        return nt_xent_at_once(problem, _copies(problem.pairs))
    pairs, how, scale, _, wanted = problem
    a, n, copies = pairs.a, pairs.a.shape[0], _copies(pairs)
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


NT_XENT = sweep_of("nt_xent", _make, _dense)
