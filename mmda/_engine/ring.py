"""Losses over the rows of all ranks by ring communication: O(local n d) memory per rank, exact value and gradient.

Blocks of rows are passed around the ranks. Each rank sums the pairs of its own rows with the current block, in tiles;
no rank ever holds the rows of all ranks. The gradient of a rank's rows depends only on the pairs of these rows, so only
rows (and their softmax sums) are communicated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmda._core.checks import fail
from mmda.kernels import Kernel, distances_about

#: Rows and columns per tile.
TILE = 1024

#: The value in float64, and the gradient of each input; no gradients if none are needed.
Swept = tuple[Tensor, Sequence[Tensor]]
Sweep = Callable[..., Swept]


class Ring:
    """A ring of ranks; each sends to the next and receives from the previous.

    Args:
        group: the ranks.
        sides: rows of this rank, of one or two inputs.

    Attributes:
        counts: number of rows of each input on each rank.
        sent: bytes sent by this rank.
    """

    def __init__(self, group: dist.ProcessGroup | None, *sides: Tensor) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.sent = 0
        own = torch.tensor([len(rows) for rows in sides], device=sides[0].device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=group)
        self.counts: list[list[int]] = [counts.tolist() for counts in every]
        self._next, self._before = (self._peer(self.rank + 1), self._peer(self.rank - 1))

    def _peer(self, rank: int) -> int:
        at = rank % self.size
        return at if self.group is None else dist.get_global_rank(self.group, at)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def pairs(self) -> int:
        """Number of pairs of all ranks; every rank raises if there are none, or if the counts differ on some rank."""
        if any(first != second for first, second in self.counts):
            fail("DistributedLoss", "inputs", "have as many rows on both sides of each rank", self.counts)
        total = sum(first for first, _ in self.counts)
        if not total:
            fail("DistributedLoss", "inputs", "have a row on one of the ranks", "none")
        return total

    def blocks(self, rows: Tensor, sizes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Iterate over (rank, rows) of every rank, starting with this rank; ``sizes`` of them on each rank."""
        held = rows.detach().contiguous()
        for step in range(self.size):
            at = (self.rank - step) % self.size
            coming: list[Any] = []
            if step + 1 < self.size:
                received = held.new_empty((sizes[(at - 1) % self.size], *held.shape[1:]))
                coming = dist.batch_isend_irecv(
                    [
                        dist.P2POp(dist.isend, held, self._next, self.group),
                        dist.P2POp(dist.irecv, received, self._before, self.group),
                    ]
                )
                self.sent += held.numel() * held.element_size()
            yield at, held  # while the next block is in transit
            for work in coming:
                work.wait()
            if coming:
                held = received


def _tiles(n: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE, n)) for start in range(0, n, TILE))


def ring_bandwidth(kernel: Kernel, ring: Ring, z: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel's bandwidth for the counted rows of all ranks, and the mean of these rows."""
    total = ring.sum(torch.cat([count.double() @ z.double(), count.sum(dtype=torch.float64).unsqueeze(0)]))
    pairs, centre = total[-1] - 1, total[:-1] / total[-1]
    named = getattr(kernel, "bandwidth", None)
    if named == "mean":
        squares = ring.sum(count.double() @ (z.double() - centre).square().sum(1))
        width = torch.where(pairs > 0, 2 * squares / pairs, torch.zeros_like(squares)).sqrt()
        return torch.where(width > 0, width, torch.ones_like(width)).to(z.dtype), centre.to(z.dtype)
    if isinstance(named, str):
        rule = "have a number or 'mean' as bandwidth for a ring, since no rank has all rows"
        fail("DistributedLoss", "loss", rule, repr(named))
    if isinstance(named, Tensor) and named.requires_grad:
        fail("DistributedLoss", "loss", "have a bandwidth without a gradient for a ring", "one with a gradient")
    return kernel.settle(z).detach(), centre.to(z.dtype)


class _OverRing(torch.autograd.Function):
    """A value that is the same on every rank, of this rank's rows and of parameters that all ranks share.

    ``sweep(needed, *inputs)`` returns the value and, where needed, the gradient of each input: for rows as in one call
    on the rows of all ranks, for parameters the same on every rank. As for a loss of gathered rows, each rank's
    upstream gradient reaches the rows of all ranks.
    """

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, group: dist.ProcessGroup | None, rows: int, *inputs: Tensor) -> Tensor:
        value, gradients = sweep(any(ctx.needs_input_grad[3:]), *(x.detach() for x in inputs))
        ctx.save_for_backward(*(gradient.to(x.dtype) for gradient, x in zip(gradients, inputs)))
        ctx.group, ctx.rows = group, rows
        return value.to(inputs[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        everyone = slope.detach().clone()
        dist.all_reduce(everyone, group=ctx.group)
        found = (g * (everyone if k < ctx.rows else slope) for k, g in enumerate(ctx.saved_tensors))
        return None, None, None, *found


def _over_ring(sweep: Sweep, group: dist.ProcessGroup | None, rows: Sequence[Tensor], *shared: Tensor) -> Tensor:
    value: Tensor = _OverRing.apply(sweep, group, len(rows), *rows, *shared)  # type: ignore[no-untyped-call]
    return value


def ring_mmd(
    x: Tensor,
    y: Tensor,
    x_count: Tensor,
    y_count: Tensor,
    *,
    kernel: Kernel,
    unbiased: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """Squared MMD between the rows ``x`` (n, d) and ``y`` (m, d) of all ranks, counted by positive weights (n,) and
    (m,); the same value on every rank."""

    def sweep(needed: bool, x: Tensor, y: Tensor) -> Swept:
        z = torch.cat([x, y])
        ring = Ring(group, x, y)
        n, m = (sum(counts) for counts in zip(*ring.counts))
        if min(n, m) < (2 if unbiased else 1):
            fail("DistributedLoss", "source", f"have at least {1 + unbiased} rows over all ranks, as `target`", (n, m))
        signed = torch.cat([x_count, -y_count])  # positive for rows of x, negative for rows of y
        bandwidth, centre = ring_bandwidth(kernel, ring, z, signed.abs())
        sums = [each for count in (x_count.double(), y_count.double()) for each in (count.sum(), count.square().sum())]
        x_total, x_squares, y_total, y_squares = ring.sum(torch.stack(sums)).tolist()
        copies = 1 if unbiased else 0  # of a row, that it is not paired with
        enough = bool(min(x_total, y_total) > copies)
        share = [enough / (total * (total - copies) if enough else 1) for total in (x_total, y_total)]
        cross = -enough / (x_total * y_total)
        table = z.new_tensor([[share[0], cross], [cross, share[1]]])
        own = share[0] * (x_squares - copies * x_total) + share[1] * (y_squares - copies * y_total)
        gradient = torch.zeros_like(z)
        value = torch.zeros((), dtype=torch.float64, device=z.device)
        for at, block in ring.blocks(torch.cat([z, signed.unsqueeze(1)], 1), [sum(counts) for counts in ring.counts]):
            for rows in _tiles(len(z)):
                for columns in _tiles(len(block)):
                    ours, theirs = signed[rows], block[columns, -1]
                    weight = table[(ours < 0).long()][:, (theirs < 0).long()] * (ours.unsqueeze(1) * theirs).abs()
                    if at == ring.rank and rows.start == columns.start:
                        weight.fill_diagonal_(0)  # a row paired with itself
                    value += _tile(
                        z[rows], block[columns, :-1], weight, kernel, bandwidth, centre, gradient[rows], needed
                    )
        return ring.sum(value) + kernel.at_zero * own, (gradient[: len(x)], gradient[len(x) :])

    return _over_ring(sweep, group, (x, y))


def _tile(
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    kernel: Kernel,
    bandwidth: Tensor,
    centre: Tensor,
    gradient: Tensor,
    needed: bool,
) -> Tensor:
    """Weighted sum of a tile; adds its gradient for the rows twice, for (i, j) and (j, i)."""
    with torch.enable_grad() if needed else torch.no_grad():
        leaf = a.detach().requires_grad_(needed)
        total = (kernel.evaluate(distances_about(centre, leaf, b), bandwidth) * weight).sum(dtype=torch.float64)
    if needed:
        gradient += torch.autograd.grad(total, leaf)[0] * 2
    return total.detach()


def ring_info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    count: Tensor | None = None,
    *,
    symmetric: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """InfoNCE of the pairs (a_i, b_i) of all ranks with logits ``scale * a @ b.T``; the same value on every rank.

    ``count``: a positive weight of each pair. Two rounds around the ring: one for the softmax sums, one for the
    gradients.
    """

    def sweep(needed: bool, a: Tensor, b: Tensor, factor: Tensor) -> Swept:
        ring, width = Ring(group, a, b), a.shape[1]
        pairs, sizes = ring.pairs(), [first for first, _ in ring.counts]
        counted = a.new_ones(len(a)) if count is None else count
        total = pairs if count is None else ring.sum(count.sum(dtype=torch.float64)).to(a)
        ways = 2 if symmetric else 1
        sums = [a.new_full((len(a),), -torch.inf) for _ in range(2)]  # log of the sum over candidates, over anchors
        travelling = torch.cat([*_column(count), *((a, b) if symmetric else (b,))], 1)
        for at, block in ring.blocks(travelling, sizes):
            times, block = _counts_of(block, count)
            for i, (own, others) in enumerate(((a, block[:, -width:]), (b, block[:, :width]))[:ways]):
                for rows in _tiles(len(own)):
                    for columns in _tiles(len(others)):
                        logits = factor * own[rows] @ others[columns].T
                        each = _times(times, rows, columns, own=at == ring.rank)
                        tile = torch.logsumexp(logits + each.log(), 1)
                        sums[i][rows] = torch.logaddexp(sums[i][rows], tile)
        paired = factor * (a * b).sum(1)
        value = torch.zeros((), dtype=torch.float64, device=a.device)
        for found in sums[:ways]:
            value += (counted * (found - paired)).sum(dtype=torch.float64)
        gradients: tuple[Tensor, ...] = ()
        if needed:
            by_a, by_b = _slopes(ring, a, b, factor, sums, count, ways, 1 / (ways * total))
            gradients = by_a, by_b, ring.sum((by_a * a).sum(dtype=torch.float64)) / factor
        return ring.sum(value) / (ways * total), gradients

    return _over_ring(sweep, group, (a, b), scale)


def _column(count: Tensor | None) -> tuple[Tensor, ...]:
    """The counts as the first column of what travels, if there are any."""
    return () if count is None else (count.unsqueeze(1),)


def _counts_of(block: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor]:
    """The counts of passing rows, ones if they have none, and the other columns."""
    return (block.new_ones(len(block)), block) if count is None else (block[:, 0], block[:, 1:])


def _times(times: Tensor, rows: slice, columns: slice, *, own: bool) -> Tensor:
    """How often each candidate of a tile counts for each row; a row's own one at least once."""
    each = times[columns]
    if own and rows.start == columns.start:
        each = each.repeat(len(each), 1)
        each.diagonal().clamp_(min=1)
    return each


def _slopes(
    ring: Ring,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    sums: list[Tensor],
    count: Tensor | None,
    ways: int,
    share: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of this rank's rows, from logit gradients share w_i (p w_ij + p' w_ij - ways I), softmaxes p by row
    and p' by column, weights w."""
    width, sizes = a.shape[1], [first for first, _ in ring.counts]
    by_a, by_b = -ways * b, -ways * a
    travelling = torch.cat([*_column(count), a, b, sums[0].unsqueeze(1), sums[1].unsqueeze(1)], 1)
    for at, block in ring.blocks(travelling, sizes):
        times, block = _counts_of(block, count)
        others_a, others_b = block[:, :width], block[:, width : 2 * width]
        to_candidates, to_anchors = block[:, -2], block[:, -1]
        for rows in _tiles(len(a)):
            for columns in _tiles(len(block)):
                each = _times(times, rows, columns, own=at == ring.rank)
                logits = scale * a[rows] @ others_b[columns].T
                p = (logits - sums[0][rows].unsqueeze(1)).exp()
                if ways == 2:
                    p += (logits - to_anchors[columns]).exp()
                by_a[rows] += (p * each) @ others_b[columns]
                logits = scale * b[rows] @ others_a[columns].T  # own candidates, passing anchors
                p = (logits - to_candidates[columns]).exp()
                if ways == 2:
                    p += (logits - sums[1][rows].unsqueeze(1)).exp()
                by_b[rows] += (p * each) @ others_a[columns]
    share = scale * share if count is None else (scale * share * count).unsqueeze(1)
    return by_a * share, by_b * share


def ring_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    """Sigmoid loss of the pairs (a_i, b_i) of all ranks with logits ``scale * a @ b.T + bias``; the same value on every
    rank."""

    def sweep(needed: bool, a: Tensor, b: Tensor, factor: Tensor, shift: Tensor) -> Swept:
        ring, width = Ring(group, a, b), a.shape[1]
        total, sizes = ring.pairs(), [first for first, _ in ring.counts]
        by_a, by_b = torch.zeros_like(a), torch.zeros_like(b)
        value = torch.zeros((), dtype=torch.float64, device=a.device)
        lean = torch.zeros_like(value)
        for at, block in ring.blocks(torch.cat([a, b], 1), sizes):
            for rows in _tiles(len(a)):
                for columns in _tiles(len(block)):
                    paired = at == ring.rank and rows.start == columns.start
                    for own, others, found in (
                        (a, block[columns, width:], by_a),
                        (b, block[columns, :width], by_b),
                    ):
                        logits = factor * own[rows] @ others.T + shift
                        slope = logits.sigmoid()
                        if paired:
                            slope.diagonal().sub_(1)
                        found[rows] += slope @ others
                        if found is by_a:
                            value += torch.nn.functional.softplus(logits).sum(dtype=torch.float64)
                            if paired:  # log(1 + exp(-z)) = log(1 + exp(z)) - z
                                value -= logits.diagonal().sum(dtype=torch.float64)
                            lean += slope.sum(dtype=torch.float64)
        turn = ring.sum((by_a * a).sum(dtype=torch.float64)) / total
        lean = ring.sum(lean) / total
        return ring.sum(value) / total, (by_a * factor / total, by_b * factor / total, turn, lean)

    return _over_ring(sweep, group, (a, b), scale, bias)


def as_scale(temperature: Any, like: Tensor) -> Tensor:
    """One over the temperature, as a scalar tensor."""
    value = temperature if isinstance(temperature, Tensor) else like.new_full((), cast(float, temperature))
    return 1 / value.to(like)
