"""Losses over the rows of all ranks by ring communication: O(local n d) memory per rank, exact value and gradient.

Blocks of rows are passed around the ranks. Each rank sums the pairs of its own rows with the current block, in tiles;
no rank ever holds the rows of all ranks. The gradient of a rank's rows depends only on the pairs of these rows, so only
rows (and their softmax sums) are communicated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmda._core.checks import fail
from mmda.kernels import Kernel, distances_about

#: Rows and columns per tile.
TILE = 1024


class Ring:
    """A ring of ranks; each sends to the next and receives from the previous.

    Attributes:
        sent: bytes sent by this rank.
    """

    def __init__(self, group: dist.ProcessGroup | None, rows: Tensor) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.sent = 0
        own = torch.tensor([rows.shape[0]], device=rows.device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=group)
        self.sizes = [int(count) for count in every]
        self._next, self._before = (self._peer(self.rank + 1), self._peer(self.rank - 1))

    def _peer(self, rank: int) -> int:
        at = rank % self.size
        return at if self.group is None else dist.get_global_rank(self.group, at)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def blocks(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Iterate over (rank, rows) of every rank, starting with this rank."""
        held = rows.detach().contiguous()
        for step in range(self.size):
            at = (self.rank - step) % self.size
            coming: list[Any] = []
            if step + 1 < self.size:
                received = held.new_empty((self.sizes[(at - 1) % self.size], *held.shape[1:]))
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


def ring_bandwidth(kernel: Kernel, ring: Ring, z: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel's bandwidth for the rows of all ranks, and the mean of these rows."""
    total = ring.sum(torch.cat([z.double().sum(0), z.new_full((1,), z.shape[0], dtype=torch.float64)]))
    count, centre = total[-1], total[:-1] / total[-1].clamp(min=1)
    named = getattr(kernel, "bandwidth", None)
    if named == "mean":
        squares = ring.sum((z.double() - centre).square().sum())
        width = (2 * squares / (count - 1).clamp(min=1)).sqrt()
        return torch.where(width > 0, width, torch.ones_like(width)).to(z.dtype), centre.to(z.dtype)
    if isinstance(named, str):
        rule = "have a number or 'mean' as bandwidth for a ring, where no rank has the rows of all"
        fail("DistributedLoss", "loss", rule, repr(named))
    if isinstance(named, Tensor) and named.requires_grad:
        fail("DistributedLoss", "loss", "have a bandwidth without a gradient for a ring", "one with a gradient")
    return kernel.settle(z).detach(), centre.to(z.dtype)


def ring_mmd(x: Tensor, y: Tensor, *, kernel: Kernel, unbiased: bool, group: dist.ProcessGroup | None) -> Tensor:
    """Squared MMD between the rows ``x`` (n, d) and ``y`` (m, d) of all ranks; the same value on every rank."""
    value: Tensor = _RingMMD.apply(x, y, kernel, unbiased, group)  # type: ignore[no-untyped-call]
    return value


class _RingMMD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, kernel: Kernel, unbiased: bool, group: dist.ProcessGroup | None
    ) -> Tensor:
        z = torch.cat([x, y]).detach()
        ring = Ring(group, z)
        counts = ring.sum(torch.tensor([len(x), len(y)], dtype=torch.float64, device=x.device)).tolist()
        n, m = counts
        if min(n, m) < (2 if unbiased else 1):
            fail("DistributedLoss", "source", f"have at least {1 + unbiased} rows over all ranks, as `target`", counts)
        bandwidth, centre = ring_bandwidth(kernel, ring, z)
        side = torch.cat([torch.zeros(len(x)), torch.ones(len(y))]).to(z)  # 0 for rows of x, 1 for rows of y
        within = (1 / (n * (n - 1)), 1 / (m * (m - 1))) if unbiased else (1 / n**2, 1 / m**2)
        table = z.new_tensor([[within[0], -1 / (n * m)], [-1 / (n * m), within[1]]])
        needed = any(ctx.needs_input_grad[:2])
        gradient = torch.zeros_like(z)
        value = torch.zeros((), dtype=torch.float64, device=z.device)
        for at, block in ring.blocks(torch.cat([z, side.unsqueeze(1)], 1)):
            for rows in _tiles(len(z)):
                for columns in _tiles(len(block)):
                    weight = table[side[rows].long()][:, block[columns, -1].long()]
                    if at == ring.rank and rows.start == columns.start:
                        weight.fill_diagonal_(0)  # a row paired with itself
                    value += _tile(
                        z[rows], block[columns, :-1], weight, kernel, bandwidth, centre, gradient[rows], needed
                    )
        own = 0.0 if unbiased else kernel.at_zero * (1 / n + 1 / m)
        ctx.save_for_backward(gradient)
        ctx.group, ctx.count = group, len(x)
        return (ring.sum(value) + own).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        scaled = gradient * _of_all(slope, ctx.group)
        return scaled[: ctx.count], scaled[ctx.count :], None, None, None


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


def _of_all(slope: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The upstream gradient summed over ranks, as for a loss of gathered rows."""
    total = slope.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def ring_info_nce(a: Tensor, b: Tensor, scale: Tensor, *, symmetric: bool, group: dist.ProcessGroup | None) -> Tensor:
    """InfoNCE of the pairs (a_i, b_i) of all ranks with logits ``scale * a @ b.T``; the same value on every rank."""
    value: Tensor = _RingInfoNCE.apply(a, b, scale, symmetric, group)  # type: ignore[no-untyped-call]
    return value


class _RingInfoNCE(torch.autograd.Function):
    """Two rounds around the ring: one for the softmax sums, one for the gradients."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, symmetric: bool, group: dist.ProcessGroup | None
    ) -> Tensor:
        a, b, factor = a.detach(), b.detach(), scale.detach()
        ring, width = Ring(group, a), a.shape[1]
        total = max(1, sum(ring.sizes))
        ways = 2 if symmetric else 1
        sums = [a.new_full((len(a),), -torch.inf) for _ in range(2)]  # log of the sum over candidates, over anchors
        travelling = torch.cat([a, b], 1) if symmetric else b
        for _, block in ring.blocks(travelling):
            for i, (own, others) in enumerate(((a, block[:, -width:]), (b, block[:, :width]))[:ways]):
                for rows in _tiles(len(own)):
                    for columns in _tiles(len(others)):
                        tile = torch.logsumexp(factor * own[rows] @ others[columns].T, 1)
                        sums[i][rows] = torch.logaddexp(sums[i][rows], tile)
        paired = factor * (a * b).sum(1)
        value = sum(
            ((sums[i] - paired).sum(dtype=torch.float64) for i in range(ways)), torch.zeros((), device=a.device)
        )
        if any(ctx.needs_input_grad[:3]):
            gradients = _slopes(ring, a, b, factor, sums, ways, 1 / (ways * total))
            turn = ring.sum((gradients[0] * a).sum(dtype=torch.float64)) / factor
            ctx.save_for_backward(*gradients, turn.to(scale.dtype))
        ctx.group = group
        return (ring.sum(value.double()) / (ways * total)).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        by_a, by_b, turn = ctx.saved_tensors
        everyone = _of_all(slope, ctx.group)
        return by_a * everyone, by_b * everyone, turn * slope, None, None


def _slopes(
    ring: Ring, a: Tensor, b: Tensor, scale: Tensor, sums: list[Tensor], ways: int, share: float
) -> tuple[Tensor, Tensor]:
    """Gradients of this rank's rows, from logit gradients share (p + p' - ways I), softmaxes p by row and p' by
    column."""
    width = a.shape[1]
    by_a, by_b = -ways * b, -ways * a
    for _, block in ring.blocks(torch.cat([a, b, sums[0].unsqueeze(1), sums[1].unsqueeze(1)], 1)):
        others_a, others_b = block[:, :width], block[:, width : 2 * width]
        to_candidates, to_anchors = block[:, -2], block[:, -1]
        for rows in _tiles(len(a)):
            for columns in _tiles(len(block)):
                logits = scale * a[rows] @ others_b[columns].T
                p = (logits - sums[0][rows].unsqueeze(1)).exp()
                if ways == 2:
                    p += (logits - to_anchors[columns]).exp()
                by_a[rows] += p @ others_b[columns]
                logits = scale * b[rows] @ others_a[columns].T  # own candidates, passing anchors
                p = (logits - to_candidates[columns]).exp()
                if ways == 2:
                    p += (logits - sums[1][rows].unsqueeze(1)).exp()
                by_b[rows] += p @ others_a[columns]
    return by_a * (scale * share), by_b * (scale * share)


def ring_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    """Sigmoid loss of the pairs (a_i, b_i) of all ranks with logits ``scale * a @ b.T + bias``; the same value on every
    rank."""
    value: Tensor = _RingSigmoid.apply(a, b, scale, bias, group)  # type: ignore[no-untyped-call]
    return value


class _RingSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        a, b, factor, shift = a.detach(), b.detach(), scale.detach(), bias.detach()
        ring, width = Ring(group, a), a.shape[1]
        total = max(1, sum(ring.sizes))
        by_a, by_b = torch.zeros_like(a), torch.zeros_like(b)
        value = torch.zeros((), dtype=torch.float64, device=a.device)
        lean = torch.zeros_like(value)
        for at, block in ring.blocks(torch.cat([a, b], 1)):
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
        ctx.save_for_backward(by_a * factor / total, by_b * factor / total, turn.to(scale.dtype), lean.to(bias.dtype))
        ctx.group = group
        return (ring.sum(value) / total).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        by_a, by_b, turn, lean = ctx.saved_tensors
        everyone = _of_all(slope, ctx.group)
        return by_a * everyone, by_b * everyone, turn * slope, lean * slope, None


def as_scale(temperature: Any, like: Tensor) -> Tensor:
    """One over the temperature, as a scalar tensor."""
    value = temperature if isinstance(temperature, Tensor) else like.new_full((), cast(float, temperature))
    return 1 / value.to(like)
