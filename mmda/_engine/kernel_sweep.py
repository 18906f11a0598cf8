r"""Exact kernel sums over all pairs of rows, tile by tile: at most the time of the dense formula, O(n d) memory.

The module computes

.. math:: S = \sum_{i \ne j} C_{ij} \, k(z_i, z_j), \qquad C \text{ symmetric},

over the pooled rows z of two samples, with C constant over each pair of samples (the squared MMD), scaled by row
weights (the same with weights and masks), or of low rank (classes). The sum is a scalar, so its gradient is computed in
the same pass as its value and the backward pass only scales it; no pair matrix is stored. See
:mod:`mmda._engine.scaffold` for autograd, compiled graphs and transforms.

Distances are computed from inner products of centred rows, which is inaccurate for pairs that are much closer to each
other than to the centre. Such near pairs are computed from the difference of their rows, in value and gradient. If
there are many of them (outliers, or distant clusters), the pass restarts with the median as centre, and then in
float64. It also restarts in float64 if the sum is so small relative to its terms that rounding dominates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmda._core.digits import LOST, with_enough_digits
from mmda._core.transforms import is_plain, values_are_known
from mmda._engine import fused, native, native_kernels
from mmda._engine.kernel_tiles import Found, KernelOnTiles, formula_on_tiles
from mmda._engine.own_kernels import OwnKernelOnTiles
from mmda._engine.scaffold import ACCELERATOR_BLOCK, Gradients, Needed, Sweep, edges
from mmda.kernels import NEAR, NEAR_FLOAT32, NEAR_WIDENED, Formula, Kernel, distances_about, formula_of, is_built_in

#: Rows per tile: two float32 tiles fit about in the caches, and matrix products run at full speed.
CPU_BLOCK = 512
#: Up to this many pooled rows the pair matrix is a single tile, and operator calls dominate the time.
SMALL = 256
#: Near pairs need no special treatment while the largest squared length times the kernel's steepest derivative stays
#: below this: the float32 error of the distances then changes kernel values by at most 1e-5.
HARMLESS = 16.0
#: In float32, at most this fraction of a tile's pairs (plus :data:`SOME`) is recomputed as near pairs.
FEW, SOME = 1 / 16, 64


#: Squared lengths between which float32 keeps the digits of squared differences of rows.
_LEAST, _MOST = 1e-24, 1e34


class Samples(NamedTuple):
    """Two samples and the coefficients of their pairs.

    Attributes:
        x: rows (n, d).
        y: more rows (m, d).
        left: None: C is constant over each pair of samples, given by the estimator. (n + m, 2): with g_j = 0 for a row
            of x and 1 for a row of y, C_ij = left[i, g_j] right[j]. (n + m, 2 q): C_ij = left[i, g_j q : g_j q + q] .
            right[j], of rank q per pair of samples.
        right: (n + m,) or (n + m, q). Both may be float64 for float32 rows, for sums that nearly cancel.
        bandwidth: the kernel's bandwidth, a scalar.
        centre: (d,), subtracted from the rows to remove a common offset; the mean of all rows by default.
        plus: float64 scalar, added before the sum is cast to the output dtype.
    """

    x: Tensor
    y: Tensor
    left: Tensor | None
    right: Tensor | None
    bandwidth: Tensor
    centre: Tensor | None
    plus: Tensor | None


class KernelSum(NamedTuple):
    """Settings of the sum: the kernel as a :class:`mmda.kernels.Formula`, and the estimator.

    Attributes:
        estimator: ``"biased"`` or ``"unbiased"`` squared MMD, used if there is no ``left``.
        block: rows per tile; 0 chooses by device.
    """

    kind: str
    rates: list[float]
    exponent: float
    estimator: str
    block: int


class OwnKernelSum(NamedTuple):
    """Settings of the sum with an arbitrary kernel object, which cannot be passed to a custom operator."""

    kernel: Kernel
    estimator: str
    block: int


def can_stream(kernel: Kernel, rows: Sequence[Tensor], constants: Sequence[Tensor | None]) -> bool:
    """Whether :func:`pair_sum` may use tiles: no gradient for constants or kernel, no function transform.

    In a compiled graph this requires a kernel with a formula.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in constants):
        return False
    known = is_built_in(kernel)
    if torch.compiler.is_compiling():
        return known
    if not is_plain(*rows, *constants):
        return False
    return known or not OwnKernelOnTiles(kernel, rows[0].new_ones(())).learns()


def pair_sum(samples: Samples, kernel: Kernel, *, estimator: str = "biased", block_size: int | None = None) -> Tensor:
    """Sum over i != j of C_ij k(z_i, z_j), with z the rows of x and y, plus ``plus``; in the rows' dtype.

    Without ``left``, the biased estimator includes the pairs i = j.
    """
    formula, block = formula_of(kernel), block_size or 0
    how: Any
    if formula is None:
        how = OwnKernelSum(kernel, estimator, block)
    else:
        how = KernelSum(formula.kind, list(formula.rates), formula.exponent, estimator, block)
    return SWEEP(samples, how)


def _evaluate(how: KernelSum | OwnKernelSum) -> Kernel | Formula:
    return how.kernel if isinstance(how, OwnKernelSum) else Formula(how.kind, tuple(how.rates), how.exponent)


def dense(samples: Samples, how: KernelSum | OwnKernelSum) -> Tensor:
    """The same sum from the full pair matrix, in plain operations that support every transform."""
    numbers = [t for t in samples if t is not None]

    def in_digits(dtype: torch.dtype) -> Tensor:
        cast: list[Any] = [None if t is None else t.to(dtype) for t in samples]
        return _dense(Samples(*cast), how)

    bounded = _evaluate(how).at_zero > 0
    return with_enough_digits(in_digits, *numbers, dtype=samples.x.dtype, bounded=bounded)


def _dense(samples: Samples, how: KernelSum | OwnKernelSum) -> Tensor:
    x, y, left, right, bandwidth, centre, plus = samples
    rows, n, kernel = torch.cat([x, y]), x.shape[0], _evaluate(how)
    squared = distances_about(rows.detach().mean(0) if centre is None else centre, rows, rows, same=True)
    if isinstance(kernel, Formula):
        # Divided twice, because the squared bandwidth could overflow or underflow float32.
        gram = kernel.evaluate(squared / bandwidth / bandwidth)
    else:
        gram = kernel.evaluate(squared, bandwidth)
    off_diagonal = gram - torch.diag_embed(gram.diagonal())
    weighted = off_diagonal * _matrix(left, right, _factors(samples, how), n, rows)
    total = weighted.sum(dtype=torch.float64) + _own_pairs(samples, how)
    return (total if plus is None else total + plus).to(x.dtype)


def _factors(samples: Samples, how: KernelSum | OwnKernelSum) -> tuple[float, float, float]:
    """C within x, across, and within y."""
    n, m = samples.x.shape[0], samples.y.shape[0]
    if how.estimator == "unbiased":
        return 1 / (n * (n - 1)), -1 / (n * m), 1 / (m * (m - 1))
    return 1 / (n * n), -1 / (n * m), 1 / (m * m)


def _own_pairs(samples: Samples, how: KernelSum | OwnKernelSum) -> float:
    """Contribution of the pairs i = j to the squared MMD."""
    if samples.left is not None or how.estimator == "unbiased":
        return 0.0
    return _evaluate(how).at_zero * (1 / samples.x.shape[0] + 1 / samples.y.shape[0])


def _matrix(
    left: Tensor | None, right: Tensor | None, factors: tuple[float, float, float], n: int, rows: Tensor
) -> Tensor:
    """C as a matrix."""
    if left is None or right is None:
        matrix = rows.new_full((rows.shape[0], rows.shape[0]), factors[1])
        matrix[:n, :n].fill_(factors[0])
        matrix[n:, n:].fill_(factors[2])
        return matrix
    if right.ndim == 1:
        return torch.cat((left[:, :1] * right[:n], left[:, 1:] * right[n:]), 1)
    q = right.shape[1]
    return torch.cat((left[:, :q] @ right[:n].T, left[:, q:] @ right[n:].T), 1)


def _run(samples: Samples, how: KernelSum | OwnKernelSum, needed: Needed) -> tuple[Tensor, Gradients]:
    """One pass over the tiles on and above the diagonal: the sum, and its gradient for x and y."""
    dtype = samples.x.dtype
    lost = False
    for tried, share, few in _ways(samples):
        if lost and tried.x.dtype == dtype:
            continue
        kernel: KernelOnTiles
        if isinstance(how, OwnKernelSum):
            kernel = OwnKernelOnTiles(how.kernel, tried.bandwidth)
        else:
            kernel = formula_on_tiles(Formula(how.kind, tuple(how.rates), how.exponent))
        numbers = [t for t in tried[:4] if t is not None]
        loops: _Loops = _loops_for(kernel, numbers)(tried, kernel, how, share, few)
        try:
            value, gradients = loops.sweep(needed)
        except _TooManyNear:
            continue
        lost = tried.x.dtype != torch.float64 and loops.is_lost(value)
        if lost:
            continue
        if tried.x.dtype != dtype:
            gradients = [None if g is None else g.to(dtype) for g in gradients]
        return value.to(dtype), gradients
    raise AssertionError("the last attempt accepts any number of near pairs")  # pragma: no cover


def _loops_for(kernel: KernelOnTiles, numbers: Sequence[Tensor]) -> type[_Loops]:
    if kernel.steps is not None and native.serves(*numbers):
        return _Compiled
    narrow = numbers[0].shape[1] <= fused.MOST_WIDTH
    return _Fused if kernel.steps is not None and narrow and fused.serves(*numbers) else _Operations


def _ways(samples: Samples) -> Iterator[tuple[Samples, float, float]]:
    """Attempts in increasing accuracy: samples, the threshold for near pairs, the fraction of near pairs allowed."""
    x, left, right = samples.x, samples.left, samples.right
    if x.dtype == torch.float64:
        yield samples, NEAR, 1.0
        return
    single = samples
    if left is not None and right is not None:
        single = samples._replace(left=left.to(x.dtype), right=right.to(x.dtype))
    yield single, NEAR_FLOAT32, FEW
    some = [rows[:: max(rows.shape[0] // 64, 1)] for rows in samples[:2]]
    yield single._replace(centre=torch.cat(some).median(0).values), NEAR_FLOAT32, FEW
    wide: list[Any] = [None if t is None else t.double() for t in samples]
    yield Samples(*wide), NEAR_WIDENED, 1.0


class _TooManyNear(Exception):
    """A tile has too many near pairs to recompute them one by one."""


class _Part(NamedTuple):
    """A block of rows of one sample with its norms, sums, gradient and coefficients."""

    group: int
    given: Tensor
    z: Tensor
    norms: Tensor
    sums: Tensor
    grad: Tensor | None
    left: Tensor | None
    right: Tensor | None


class _Loops:
    """A sweep: the part shared by both implementations, which differ in the operations on a tile.

    Args:
        share: pairs whose squared distance is below this fraction of the sum of their squared lengths are near.
        few: the fraction of a tile's pairs that may be near.
    """

    #: The largest squared length of a row, set by :meth:`prepare`.
    largest: float
    #: Whether Python may read values.
    known = True

    def __init__(
        self, samples: Samples, kernel: KernelOnTiles, how: KernelSum | OwnKernelSum, share: float, few: float
    ) -> None:
        self.samples, self.kernel, self.share, self.few = samples, kernel, share, few
        self.n, self.total = samples.x.shape[0], samples.x.shape[0] + samples.y.shape[0]
        self.weighted = samples.right is not None and samples.right.ndim == 1
        self.low_rank = samples.right is not None and samples.right.ndim == 2
        self.factors, self.plus = _factors(samples, how), _own_pairs(samples, how)
        self.block = how.block or (CPU_BLOCK if samples.x.device.type == "cpu" else ACCELERATOR_BLOCK)

    # Implemented by subclasses

    def prepare(self) -> tuple[Tensor, Tensor]:
        """Centred and scaled rows z, and -|z_i|^2; also decides whether to look for near pairs."""
        raise NotImplementedError

    def begin(self, side: int) -> None:
        """Allocate space for tiles of up to ``side`` rows and columns."""
        raise NotImplementedError

    def tile(self, a: _Part, b: _Part, factor: float) -> Tensor:
        """Add a tile to the value and the sums of slopes, and its near pairs to the gradients; return the slopes."""
        raise NotImplementedError

    def collect(self, a: _Part, slope: Tensor, b: _Part, factor: float) -> None:
        """Add a tile's contribution to the gradient of the rows of a."""
        raise NotImplementedError

    def finish(self, part: _Part) -> None:
        """Turn the sums of slopes times rows into the gradient."""
        raise NotImplementedError

    def at_once(self, needed: Needed) -> tuple[Tensor, Gradients]:
        """The pass for a single small tile, with few operator calls."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """The total value."""
        raise NotImplementedError

    # Shared

    def may_be_near(self, largest: float) -> bool:
        """Whether rounding of squared distances matters for rows up to this squared length."""
        return self.kernel.steepest is None or not largest * self.kernel.steepest <= HARMLESS

    def most(self, rows: int, columns: int) -> int:
        """The number of near pairs allowed in a tile."""
        return int(rows * columns * self.few) + SOME

    def is_lost(self, value: Tensor) -> bool:
        """Whether rounding dominates the sum, small relative to its terms, or squares leave the range of float32."""
        if not self.known:
            return False
        held = _LEAST < self.largest < _MOST
        return not held or abs(float(value)) < LOST * self.kernel.size(self.largest)

    def sweep(self, needed: Needed) -> tuple[Tensor, Gradients]:
        """The sum, and its gradient for x and y."""
        x, y = self.samples[:2]
        z, norms = self.prepare()
        self.z, self.norms = z, norms
        if self.samples.left is None and self.total <= min(SMALL, self.block):
            return self.at_once(needed)
        gradients = [t.new_zeros(t.shape) if need else None for t, need in zip((x, y), needed)]
        parts = self._parts(gradients)
        self.begin(max(part.z.shape[0] for part in parts))
        for a, b in combinations_with_replacement(parts, 2):
            factor = 1.0 if self.weighted or self.low_rank else self.factors[a.group + b.group]
            slope = self.tile(a, b, factor)
            if a.grad is not None:
                self.collect(a, slope, b, factor)
            if b.grad is not None and a is not b:
                self.collect(b, slope.T, a, factor)
        for part in parts:
            if part.grad is not None:
                self.finish(part)
        return self.result(), gradients

    def _parts(self, gradients: Sequence[Tensor | None]) -> list[_Part]:
        """The rows of both samples in blocks of at most ``block``."""
        x, y, left, right = self.samples[:4]
        if left is not None and right is not None and self.weighted:
            left, right = left.T.contiguous().T, right.contiguous()  # contiguous columns
        sums = self.z.new_zeros(self.total)
        parts = []
        for group, (rows, grad, before) in enumerate(((x, gradients[0], 0), (y, gradients[1], self.n))):
            for start, stop in edges(0, rows.shape[0], self.block):
                here, there = slice(start, stop), slice(before + start, before + stop)
                coefficients = [None if t is None else t[there] for t in (left, right)]
                of_grad = None if grad is None else grad[here]
                of_all = self.z[there], self.norms[there], sums[there]
                parts.append(_Part(group, rows[here], *of_all, of_grad, *coefficients))
        return parts

    def column(self, of: _Part, by: _Part) -> Tensor | None:
        """The weights of one part's rows in pairs with rows of the other."""
        return of.left[:, by.group] if self.weighted and of.left is not None else None

    def rank_q(self, a: _Part, b: _Part, out: Tensor) -> Tensor:
        """C of a tile, if it has low rank."""
        assert a.left is not None
        assert b.right is not None
        width = b.right.shape[1]
        return torch.mm(a.left[:, b.group * width : b.group * width + width], b.right.T, out=out)


class _Compiled(_Loops):
    """A sweep in which one compiled loop does all elementwise work of a tile."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.x, self.y = (t.contiguous() for t in self.samples[:2])
        if not (self.x is self.samples.x and self.y is self.samples.y):
            self.samples = self.samples._replace(x=self.x, y=self.y)
        self.value = 0.0

    def prepare(self) -> tuple[Tensor, Tensor]:
        assert self.kernel.stretch is not None
        self.inverse = self.kernel.stretch * float(self.samples.bandwidth.reciprocal())
        z, norms, largest = native_kernels.prepare(self.x, self.y, self.samples.centre, self.inverse)
        self.largest, self.look = largest, self.may_be_near(largest)
        return z, norms

    def near(self, rows: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> native_kernels.Near | None:
        """Arguments of the compiled loop for near pairs."""
        if not self.look:
            return None
        most = self.most(rows[0].shape[0], rows[1].shape[0])
        return native_kernels.Near(self.share, self.inverse, most, (rows[0], rows[1]), (gradients[0], gradients[1]))

    def run(self, products: Tensor, of: native_kernels.Tile) -> float:
        assert self.kernel.steps is not None
        found = native_kernels.tile(self.kernel.steps, products, of)
        if found is None:
            raise _TooManyNear
        return found

    def begin(self, side: int) -> None:
        self.buffers = self.z.new_empty(1 + self.low_rank, side * side)

    def tile(self, a: _Part, b: _Part, factor: float) -> Tensor:
        same, needed, shape = a is b, a.grad is not None or b.grad is not None, (a.z.shape[0], b.z.shape[0])
        tiles: list[Tensor] = [buffer[: shape[0] * shape[1]].view(shape) for buffer in self.buffers]
        tile, *others = tiles
        torch.mm(a.z, b.z.T, out=tile)
        of = native_kernels.Tile((a.norms, b.norms), same, (factor, factor, factor))
        if self.low_rank:
            of.matrix = self.rank_q(a, b, others[0])
        elif self.weighted:
            of.value_weights = self.column(a, b), b.right
            of.sum_weights = self.column(a, b), self.column(b, a)
        if needed:
            of.sums = a.sums, None if same else b.sums
        of.near = self.near((a.given, b.given), (a.grad, None if same else b.grad))
        found = self.run(tile, of)
        self.value += found if same else 2 * found
        return tile

    def collect(self, a: _Part, slope: Tensor, b: _Part, factor: float) -> None:
        assert a.grad is not None
        weight = self.column(b, a)
        a.grad.addmm_(slope, b.z if weight is None else b.z * weight.unsqueeze(1))

    def finish(self, part: _Part) -> None:
        assert part.grad is not None
        weight = part.right if self.weighted else None
        native_kernels.finish(part.grad, part.sums, part.z, weight, self.inverse * 4 * self.kernel.slope_factor)

    def result(self) -> Tensor:
        plus = self.samples.plus
        value = self.value * self.kernel.value_factor + self.plus + (0.0 if plus is None else float(plus))
        return self.x.new_full((), value)

    def at_once(self, needed: Needed) -> tuple[Tensor, Gradients]:
        z, norms, n = self.z, self.norms, self.n
        tile, sums, wanted = torch.mm(z, z.T), z.new_zeros(self.total), any(needed)
        of = native_kernels.Tile((norms, norms), True, self.factors, split=n, sums=(sums if wanted else None, None))
        near_gradient: Tensor | None = None
        assert self.kernel.steps is not None
        if self.look:
            of.near = native_kernels.Near(self.share, self.inverse, 0)
        found = native_kernels.tile(self.kernel.steps, tile, of)
        if found is None:  # there are near pairs
            torch.mm(z, z.T, out=tile)
            sums.zero_()
            rows = torch.cat((self.x, self.y))
            near_gradient = torch.zeros_like(z) if wanted else None
            of.near = self.near((rows, rows), (near_gradient, None))
            found = self.run(tile, of)
        self.value = found
        if not wanted:
            return self.result(), (None, None)
        gradient = torch.mm(tile, z) if near_gradient is None else near_gradient.addmm_(tile, z)
        native_kernels.finish(gradient, sums, z, None, self.inverse * 4 * self.kernel.slope_factor)
        return self.result(), (gradient[:n] if needed[0] else None, gradient[n:] if needed[1] else None)


class _Pairs(NamedTuple):
    """Near pairs of a tile: indices and differences z_j - z_i."""

    i: Tensor
    j: Tensor
    differences: Tensor


class _Operations(_Loops):
    """A sweep in PyTorch operations, on any device."""

    def prepare(self) -> tuple[Tensor, Tensor]:
        x, y, centre = self.samples.x, self.samples.y, self.samples.centre
        stretch = self.kernel.stretch
        bandwidth = self.samples.bandwidth
        self.inverse = bandwidth.new_ones(()) if stretch is None else bandwidth.reciprocal().mul_(stretch)
        self.value = torch.zeros((), dtype=torch.float64, device=x.device)
        z = torch.cat((x, y))
        z.sub_(z.mean(0) if centre is None else centre).mul_(self.inverse)
        norms = torch.linalg.vecdot(z, z).neg_()
        self.known = values_are_known(x)
        self.largest = -float(norms.min()) if self.known else 0.0
        self.look = self.known and self.may_be_near(self.largest)
        return z, norms

    def begin(self, side: int) -> None:
        count = 1 + self.kernel.work + 2 * self.low_rank
        self.buffers = self.z.new_empty(count, side * side).unbind(0)
        self.moved, self.ones = self.z.new_empty(side, self.z.shape[1]), self.z.new_ones(side)
        self.tiles: list[Tensor] = []

    def tile(self, a: _Part, b: _Part, factor: float) -> Tensor:
        same, rows, columns = a is b, a.z.shape[0], b.z.shape[0]
        if not self.tiles or self.tiles[0].shape != (rows, columns):
            self.tiles = [buffer[: rows * columns].view(rows, columns) for buffer in self.buffers]
        t, *work = self.tiles
        torch.add(a.norms.unsqueeze(1), b.norms, out=t).addmm_(a.z, b.z.T, alpha=2)
        near = self.settle_near(t, a.norms, b.norms, (a.given, b.given), same) if self.look else []
        found = Found(work[-1] if self.low_rank else None, b.right if self.weighted else self.ones[:columns])
        needed = a.grad is not None or b.grad is not None
        slope = self.kernel.add(found, t.clamp_(max=0), work, same=same, need_slope=needed)
        similar = found.result
        left, right = self.column(a, b), self.column(b, a)
        if self.low_rank:
            matrix = self.rank_q(a, b, work[-2])
            similar = similar.mul_(matrix).sum(1)
            if slope is not None:
                slope.mul_(matrix)
        elif left is not None:
            similar.mul_(left)
        self.value.add_(similar.sum(dtype=torch.float64), alpha=factor if same else 2 * factor)
        if slope is None:
            return t
        for pairs in near:
            self.spread(pairs, slope, (a, b), (left, right), factor)
        # the sums first, while the tile is in the cache
        a.sums.addmv_(slope, self.ones[:columns] if right is None else right, alpha=factor)
        if not same:
            b.sums.addmv_(slope.T, self.ones[:rows] if left is None else left, alpha=factor)
        return slope

    def settle_near(
        self, t: Tensor, a_norms: Tensor, b_norms: Tensor, given: tuple[Tensor, Tensor], same: bool
    ) -> list[_Pairs]:
        """Overwrite the entries of near pairs in ``t`` with accurate distances; ``same`` leaves no diagonal."""
        farthest = (a_norms.amin() + b_norms.amin()) * self.share
        if same:
            t.diagonal().copy_(farthest)
        if bool(t.amax() <= farthest):
            return []
        places = t > (a_norms.unsqueeze(1) + b_norms).mul_(self.share)
        if same:
            places.fill_diagonal_(False)
        indices = places.nonzero()
        if indices.shape[0] > self.most(*t.shape):
            raise _TooManyNear
        a, b = given
        found = []
        for some in indices.split(max((1 << 22) // a.shape[1], 1)):  # type: ignore[no-untyped-call]
            i, j = some.unbind(1)
            differences = (b[j] - a[i]).mul_(self.inverse)
            t[i, j] = differences.square().sum(1).neg_()
            found.append(_Pairs(i, j, differences))
        return found

    def spread(
        self,
        pairs: _Pairs,
        slope: Tensor,
        parts: tuple[_Part, _Part],
        weights: tuple[Tensor | None, Tensor | None],
        factor: float,
    ) -> None:
        """Move the contribution of near pairs from the tile of slopes directly to the gradients."""
        (a, b), (left, right), (i, j, differences) = parts, weights, pairs
        slopes = slope[i, j].mul_(factor).unsqueeze(1)
        slope[i, j] = 0
        if a.grad is not None:
            by = slopes if right is None else slopes * right[j].unsqueeze(1)
            a.grad.index_add_(0, i, differences * by)
        if b.grad is not None and a is not b:
            by = slopes if left is None else slopes * left[i].unsqueeze(1)
            b.grad.index_add_(0, j, differences * by, alpha=-1)

    def collect(self, a: _Part, slope: Tensor, b: _Part, factor: float) -> None:
        assert a.grad is not None
        rows, weight = b.z, self.column(b, a)
        if weight is not None:
            rows = torch.mul(rows, weight.unsqueeze(1), out=self.moved[: rows.shape[0]])
        a.grad.addmm_(slope, rows, alpha=factor)

    def finish(self, part: _Part) -> None:
        # d/dz_i of C_ij k(t_ij) over ordered pairs, so twice, with t = -|z_i - z_j|^2.
        assert part.grad is not None
        scale = self.inverse * (4 * self.kernel.slope_factor)
        part.grad.addcmul_(part.sums.unsqueeze(1), part.z, value=-1)
        part.grad.mul_(part.right.unsqueeze(1) * scale if self.weighted and part.right is not None else scale)

    def result(self) -> Tensor:
        value = self.value.mul_(self.kernel.value_factor).add_(self.plus)
        return value if self.samples.plus is None else value.add_(self.samples.plus)

    def at_once(self, needed: Needed) -> tuple[Tensor, Gradients]:
        z, norms, n = self.z, self.norms, self.n
        t = (norms.unsqueeze(1) + norms).addmm_(z, z.T, alpha=2)
        near: list[_Pairs] = []
        if self.look:
            rows = torch.cat(self.samples[:2])
            near = self.settle_near(t, norms, norms, (rows, rows), True)
        both = self.kernel.both(t.clamp_(max=0)).mul_(_matrix(None, None, self.factors, n, z))
        self.value.add_(both[0].sum(1).sum(dtype=torch.float64))
        if not any(needed):
            return self.result(), (None, None)
        slope = both[1]
        apart = [(pairs, slope[pairs.i, pairs.j].unsqueeze(1)) for pairs in near]
        for pairs, _ in apart:
            slope[pairs.i, pairs.j] = 0
        # 4 sum_j C_ij k'_ij (z_j - z_i): a product with the graph Laplacian.
        slope.diagonal().sub_(slope.sum(1))
        gradient = slope @ z
        for pairs, slopes in apart:
            gradient.index_add_(0, pairs.i, pairs.differences * slopes)
        gradient.mul_(self.inverse * (4 * self.kernel.slope_factor))
        return self.result(), (gradient[:n] if needed[0] else None, gradient[n:] if needed[1] else None)


class _Fused(_Operations):
    """A sweep in one program on a GPU, without tiles in memory; with near pairs, in operations."""

    def sweep(self, needed: Needed) -> tuple[Tensor, Gradients]:
        left, right, n, wanted = self.samples.left, self.samples.right, self.n, any(needed)
        if self.low_rank and right is not None and right.shape[1] > fused.MOST_RANKS:
            return super().sweep(needed)
        z, norms = self.prepare()
        assert self.kernel.steps is not None
        found = fused.row_sums(
            self.kernel.steps,
            z,
            norms,
            n,
            factors=self.factors,
            left=left,
            right=right,
            share=self.share if self.look else None,
            gradient=wanted,
        )
        if found.near is not None and bool(found.near):
            return super().sweep(needed)
        values = found.values
        if self.weighted and left is not None:
            values = values * left.T
        elif not self.low_rank:
            within_x, across, within_y = self.factors
            values[0, :n] *= within_x
            values[0, n:] *= across
            values[1, :n] *= across
            values[1, n:] *= within_y
        self.value.add_(values.sum(), alpha=1.0 if wanted else 2.0)
        if found.products is None or found.slopes is None:
            return self.result(), (None, None)
        gradient = found.products.addcmul_(found.slopes.unsqueeze(1), z, value=-1)
        gradient.mul_(self.inverse * (4 * self.kernel.slope_factor))
        return self.result(), (gradient[:n] if needed[0] else None, gradient[n:] if needed[1] else None)


SWEEP: Sweep[Samples, Any] = Sweep("pair_sum", Samples, KernelSum, slopes=2, run=_run, dense=dense)
