"""Contrastive losses of small batches from the full logit matrix: value and gradients in few operator calls.

For small batches the number of operator calls determines the time. These are the formulas of the tiled sweeps, with
weights and pair masks, in PyTorch operations with analytic gradients. Excluded pairs get a logit so low that its
probability is zero, but finite, so that rows without candidates need no special case. Exponentials use base 2, and
logarithms of zero are avoided: PyTorch's ``exp`` and ``log`` are ten times slower for results of zero and infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._engine.logit_loops import LOG2_E
from mmda._engine.logit_pairs import Pairs, positive_share, twins
from mmda._engine.logit_sweep import Made, Problem, Rows

#: The full matrix is used up to the square of this many logits; for larger ones tiles are as fast. On accelerators an
#: operator call takes as long as a small tile; a softmax over the columns of a large matrix is slow there.
MOST = {"plain": 512, "masked": 256, "list": 400, "sigmoid": 512}
MOST_ON_ACCELERATORS = {"plain": 1024, "masked": 1024, "list": 1024, "sigmoid": 4096}


def are_few(kind: str, like: Tensor, n: int, m: int, block: int) -> bool:
    """Whether to use the full n x m matrix on this device, where a tile has at most ``block`` rows (0: no limit)."""
    most = (MOST if like.device.type == "cpu" else MOST_ON_ACCELERATORS)[kind]
    return n * m <= min(most, block or most) ** 2


class Softmax(NamedTuple):
    """A softmax over ``dim`` of the logits.

    Attributes:
        logits: natural logits plus the logarithms of the candidates' weights; :func:`floor` for excluded pairs.
        dim: the axis of the candidates.
        level: the logarithms of the weights, broadcast to the logits; None: 0.
        rows: weights of the anchors; None: ones.
        positives: weights of the positives times the candidates' weights; None: one each, on the diagonals ``own``.
        own: offsets of the diagonals that hold the positives, and their length.
        factor: factor of the mean over the anchors with a positive.
    """

    logits: Tensor
    dim: int
    level: Tensor | None
    rows: Tensor | None
    positives: Tensor | None
    own: tuple[tuple[int, ...], int]
    factor: float

    def all_of_them(self, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Mean of minus the log-probabilities of the positives, and its gradient for the logits."""
        p, q, dim = torch.log_softmax(self.logits, self.dim), self.positives, self.dim
        if q is None:
            each, weight = _joined(self._own(p)), None
            if self.level is not None:
                each = each - _joined(self._own(self.level.expand_as(p)))
        else:
            weight = q.sum(dim)
            q = q / weight.clamp_min(torch.finfo(q.dtype).tiny).unsqueeze(dim)
            each = torch.linalg.vecdot(q, p if self.level is None else p - self.level, dim=dim)
        share = self._share(weight, each)
        value = -(each.sum() * share if isinstance(share, float) else each @ share[: each.shape[0]])
        if not gradient:
            return value, None
        g = p.mul_(LOG2_E).exp2_()
        if q is None:
            for diagonal in self._own(g):
                diagonal.sub_(1)
        else:
            g.sub_(q)
        return value, g.mul_(share if isinstance(share, float) else share.unsqueeze(dim))

    def any_of_them(self, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Mean of minus the log-probability of any positive, and its gradient for the logits."""
        assert self.positives is not None
        dim, q = self.dim, self.positives
        p = torch.log_softmax(self.logits, dim)
        found = p + (logarithm(q) if self.level is None else logarithm(q).sub_(self.level))
        chosen = torch.log_softmax(found, dim)
        # The log-sum-exp, from the largest term: PyTorch's is much slower where terms vanish.
        each = found.amax(dim) - chosen.amax(dim)
        share = self._share(q.sum(dim), each)
        assert isinstance(share, Tensor)
        value = -(each @ share)
        if not gradient:
            return value, None
        g = p.mul_(LOG2_E).exp2_().sub_(chosen.mul_(LOG2_E).exp2_())
        return value, g.mul_(share.unsqueeze(dim))

    def _own(self, x: Tensor) -> list[Tensor]:
        return [x.diagonal(offset)[: self.own[1]] for offset in self.own[0]]

    def _share(self, weight: Tensor | None, each: Tensor) -> Tensor | float:
        """Each anchor's share of the mean, zero without a positive."""
        n, k = self.logits.shape[1 - self.dim], each.shape[0]
        if weight is None and self.rows is None and k == n:
            return self.factor / n
        if weight is not None:
            kept = (weight > 0).to(each.dtype)
            kept = kept if self.rows is None else kept.mul_(self.rows[:k])
        else:
            kept = torch.ones_like(each) if self.rows is None else self.rows[:k]
        kept = kept * (self.factor / kept.sum().clamp_min_(torch.finfo(each.dtype).tiny))
        return kept if k == n else F.pad(kept, (0, n - k))


def _joined(diagonals: list[Tensor]) -> Tensor:
    return diagonals[0] if len(diagonals) == 1 else torch.cat(diagonals)


def floor(like: Tensor) -> float:
    """The logit of excluded pairs; the sum of four is finite."""
    return torch.finfo(like.dtype).min / 4


def logarithm(count: Tensor) -> Tensor:
    """Logarithm of weights; :func:`floor` for zero."""
    absent = (count <= 0).to(count.dtype).mul_(floor(count))
    return count.clamp_min(torch.finfo(count.dtype).tiny).log_().add_(absent)


def _at_least_one(count: Tensor) -> bool:
    """Whether all weights are at least 1; False on accelerators, where the check would synchronise."""
    return count.device.type == "cpu" and float(count.min()) >= 1


def info_nce_at_once(problem: Problem) -> Made:
    """InfoNCE in one direction or both."""
    pairs, how, scale, paired, wanted = problem
    both, sides = how.kind == "symmetric", Sides(pairs, how.unit, wanted)
    s = torch.mm(sides.u, sides.v.T).mul_(scale)
    count = pairs.a_count
    alone = count is pairs.b_count and pairs.own and pairs.negative_mask is None
    if count is not None and alone and _at_least_one(count):
        return sides.made(*_counted(s, count, both, any(wanted)), wanted, scale)
    q = positive_share(pairs, s.dtype)
    out = None if pairs.negative_mask is None else ~pairs.negative_mask
    if out is not None and q is not None:
        out.logical_and_(q <= 0)
    value, g, of, logarithms = s.new_zeros(()), None, None, s
    for dim, rows, columns in ((1, pairs.a_count, pairs.b_count), (0, pairs.b_count, pairs.a_count))[: 1 + both]:
        t, level, positives = s, None, q
        if columns is not None:
            if columns is not of:
                of, logarithms = columns, logarithm(columns)
            level = logarithms.unsqueeze(1 - dim)
            if q is not None:
                positives = q * columns.unsqueeze(1 - dim)
            elif out is not None or not _at_least_one(columns):
                # A partner of weight w counts once, its w - 1 copies as negatives.
                present = columns[:paired] > 0
                rows = present.to(s.dtype) if rows is None else rows[:paired] * present
                more = twins(columns[:paired], None if out is None else ~out.diagonal()[:paired])
                level = level.expand_as(s).clone()
                level.diagonal()[:paired] = more.log1p_()
            t = s + level
        if out is not None:
            t = t.masked_fill(out, floor(s))
            if q is None:
                own = s.diagonal()[:paired]
                t.diagonal()[:paired] = own if level is None else own + level.diagonal()[:paired]
        softmax = Softmax(t, dim, level, rows, positives, ((0,), paired), 0.5 if both else 1.0)
        some = how.several == "sum" and q is not None
        one, slopes = (softmax.any_of_them if some else softmax.all_of_them)(any(wanted))
        value = value + one
        if slopes is not None:
            g = slopes if g is None else g.add_(slopes)
    return sides.made(value, g, wanted, scale)


def _counted(s: Tensor, count: Tensor, both: bool, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """InfoNCE and its gradient for the logits where each pair counts at least once and there are no pair masks.

    The partner and its copies are the candidates of weight w, so that the logarithms of the weights are all there is to
    add.
    """
    level, share = count.log(), count * ((0.5 if both else 1.0) / count.sum())
    p = torch.log_softmax(s + level, 1)
    own = p.diagonal() - level
    if both:
        q = torch.log_softmax(s + level.unsqueeze(1), 0)
        own += q.diagonal() - level
    value = -(own @ share)
    if not gradient:
        return value, None
    g = p.exp_().mul_(share.unsqueeze(1))
    if both:
        g.addcmul_(q.exp_(), share)
    g.diagonal().sub_(share, alpha=2 if both else 1)
    return value, g


class Sides:
    """Anchors and candidates as compared. Concatenated, they are normalised with half the operator calls."""

    def __init__(self, pairs: Pairs, unit: bool, wanted: tuple[bool, bool]) -> None:
        n = pairs.a.shape[0]
        if unit and wanted[0] == wanted[1]:
            self.x = self.y = Rows(torch.cat((pairs.a, pairs.b)), True)
            self.u, self.v = self.x.rows[:n], self.x.rows[n:]
        else:
            self.x, self.y = Rows(pairs.a, unit), Rows(pairs.b, unit)
            self.u, self.v = self.x.rows, self.y.rows

    def made(self, value: Tensor, g: Tensor | None, wanted: tuple[bool, bool], factor: Tensor | float) -> Made:
        """The loss and its gradients for the rows, from that for the logits."""
        if g is None:
            return Made(value, self.x, self.y, None, None, factor)
        if self.x is self.y:
            h, n = torch.empty_like(self.x.rows), g.shape[0]
            torch.mm(g, self.v, out=h[:n])
            torch.mm(g.T, self.u, out=h[n:])
            return Made(value, self.x, self.y, h, h, factor)
        hx, hy = (torch.mm(g, self.v) if wanted[0] else None), (torch.mm(g.T, self.u) if wanted[1] else None)
        return Made(value, self.x, self.y, hx, hy, factor)


def nt_xent_at_once(problem: Problem, copies: int) -> Made:
    """NT-Xent of one list of both views, or (if ``copies`` is 1) of only the first."""
    pairs, how, scale, _, wanted = problem
    n, x = pairs.a.shape[0], Rows(torch.cat((pairs.a, pairs.b)), how.unit)
    s = torch.mm(x.rows, x.rows.T).mul_(scale)
    low, offsets = floor(s), (n, -n)
    chosen, allowed = (
        None if m is None else m.repeat(copies, copies) for m in (pairs.positive_mask, pairs.negative_mask)
    )
    count = None if pairs.a_count is None else pairs.a_count.repeat(copies)
    out = None if allowed is None else ~allowed
    if out is not None and chosen is not None:
        out.logical_and_(~chosen)
    diagonal = None if chosen is None else chosen.diagonal()
    positives = None if chosen is None else chosen.to(s.dtype)
    t, level = s, None
    if count is None:
        if positives is not None:
            positives.fill_diagonal_(0)
    else:
        more = twins(count, None)
        level = logarithm(count).expand_as(s).clone()
        if positives is None or diagonal is None:
            beside = (more if allowed is None else more * allowed.diagonal()).log1p()[:n]
            for offset in offsets:  # a partner of weight w counts once, its w - 1 copies as negatives
                level.diagonal(offset).copy_(beside)
        else:
            positives.mul_(count).diagonal().copy_(more * diagonal)
        level.diagonal().copy_(logarithm(more))  # a row is not among its own candidates, its w - 1 copies are
        t = s + level
    if out is not None:
        kept = None if positives is not None else [t.diagonal(offset).clone() for offset in offsets]
        t = t.masked_fill(out, low)
        for offset, partners in zip(offsets, kept or ()):
            t.diagonal(offset).copy_(partners)
    if count is None:
        t.fill_diagonal_(low)
    value, g = Softmax(t, 1, level, count, positives, (offsets, n), 1.0).all_of_them(any(wanted))
    if g is None:
        return Made(value, x, x, None, None, scale)
    h = torch.mm(g + g.T, x.rows)
    return Made(value, x, x, h, h, scale)
