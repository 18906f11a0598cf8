r"""Exact kernel sums over all pairs of rows, one tile at a time: time of the dense formula or less, memory O(n d).

Everything here computes one number,

.. math:: S = \sum_{i \ne j} C_{ij} \, k(z_i, z_j), \qquad C \text{ symmetric},

over the pooled rows z of two samples, with C in one of three forms (:class:`Coefficients`): constant over each pair of
samples (the squared MMD), that times row weights (the same with weights and masks), or of low rank (classes). The sum
is a scalar, so its gradient is made in the same sweep as its value and the backward pass only scales it: no matrix of
pairs is ever kept.

Three ways to the same number, chosen in :func:`pair_sum`:

* ordinary eager code: an :class:`torch.autograd.Function` around the sweep. A second derivative
  (``create_graph=True``) goes through the dense formula, in plain operations;
* ``torch.compile`` and ``torch.export``: the same sweep as one custom operator, one node in the graph;
* inside function transforms (``torch.func``), under forward-mode differentiation, with weights or a bandwidth that
  carry a gradient, and for kernels that are not the library's own: the dense formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmda._core.masking import full_precision
from mmda._core.transforms import is_plain
from mmda._engine import native
from mmda.kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic, distances_about

#: Rows of a tile: two float32 tiles stay near the processor's caches, and its products run at full speed.
CPU_BLOCK = 512
#: Up to so many pooled rows the matrix of pairs is one small tile, and the number of operations is what costs.
SMALL = 256
#: Accelerators want larger products.
ACCELERATOR_BLOCK = 4096


class _Spec(NamedTuple):
    """A kernel of the library as plain numbers: its name, factors on the squared bandwidth, and alpha."""

    kind: str
    scales: list[float]
    alpha: float


def kernel_spec(kernel: Kernel) -> _Spec | None:
    """The kernel as numbers, or None where only the kernel itself knows its formula (then: dense)."""
    kind = type(kernel)
    if kind is Gaussian or kind is Laplacian:
        return _Spec("gaussian" if kind is Gaussian else "laplacian", list(kernel.scales), 1.0)  # type: ignore[attr-defined]
    if kind is RationalQuadratic:
        return _Spec("rational_quadratic", list(kernel.scales), kernel.alpha)  # type: ignore[attr-defined]
    if kind is Energy:
        return _Spec("energy", [1.0], 1.0)
    return None


def usable(tensor: Tensor) -> Tensor:
    """A tensor that a graph may keep: those made under ``torch.inference_mode`` are copied outside of it."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not tensor.is_inference():
        return tensor
    return tensor.clone()


def can_stream(kernel: Kernel, rows: Sequence[Tensor], constants: Sequence[Tensor | None]) -> bool:
    """Whether :func:`pair_sum` may sweep tiles: a kernel it knows, constants without gradient, no transform."""
    if kernel_spec(kernel) is None:
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in constants):
        return False
    return torch.compiler.is_compiling() or is_plain(*rows, *constants)


class Coefficients(NamedTuple):
    """C, symmetric, without gradient. Three forms; with g_i = 0 for a row of x and 1 for a row of y:

    * ``blocks`` (c_xx, c_xy, c_yy) and no factors: C_ij is the number of the block;
    * ``left`` (n + m, 2) and ``right`` (n + m,): C_ij = left[i, g_j] right[j], row weights times a number a block;
    * ``left`` (n + m, 2 q) and ``right`` (n + m, q): C_ij = left[i, g_j q : g_j q + q] . right[j], of rank q a block.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    blocks: tuple[float, float, float] | None = None


def pair_sum(
    x: Tensor,
    y: Tensor,
    coefficients: Coefficients,
    *,
    kernel: Kernel,
    bandwidth: Tensor,
    centre: Tensor,
    plus: Tensor,
    block_size: int | None = None,
) -> Tensor:
    """Sum over i != j of C_ij k(z_i, z_j), with z the rows of ``x``, then of ``y``, and ``plus``; in the rows' dtype.

    Args:
        x: rows (n, d) in the working dtype.
        y: more rows (m, d).
        coefficients: C.
        kernel: a kernel of the library (:func:`can_stream` said yes).
        bandwidth: settled scalar, without gradient.
        centre: (d,), subtracted from the rows so that a common offset costs no digits; none (0,): the mean of all rows.
        plus: float64 scalar without gradient, added before the sum is rounded to the rows' dtype.
        block_size: rows of a tile; by size of the sample and kind of device by default.
    """
    spec = kernel_spec(kernel)
    assert spec is not None
    left, right, blocks = coefficients
    if not torch.is_grad_enabled():
        x, y = x.detach(), y.detach()
    left = centre.new_empty(0) if left is None else left.detach()
    right = left if right is None else right.detach()
    block = (CPU_BLOCK if x.device.type == "cpu" else ACCELERATOR_BLOCK) if block_size is None else block_size
    tensors = (x, y, left, right, bandwidth.detach(), centre, plus)
    arguments = (*map(usable, tensors), list(blocks or ()), *spec, block)
    value: Tensor
    if torch.compiler.is_compiling():
        value = _pair_sum_op(*arguments)[0]
    else:
        value = _PairSum.apply(*arguments)  # type: ignore[no-untyped-call]
    return value


#: How many arguments of the sweep are tensors, and how many numbers follow that the dense formula needs too.
_TENSORS, _NUMBERS = 7, 4


class _PairSum(torch.autograd.Function):
    """Value and gradient from one sweep; the second derivative from the dense formula."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        need_x, need_y = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        value, gx, gy = _sweep(*arguments, need_x=need_x, need_y=need_y)
        _keep(ctx, arguments, gx, gy)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)


def _keep(ctx: Any, arguments: Sequence[Any], gx: Tensor | None, gy: Tensor | None) -> None:
    ctx.save_for_backward(*arguments[:_TENSORS], gx, gy)
    ctx.options = arguments[_TENSORS : _TENSORS + _NUMBERS]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, gx, gy = ctx.saved_tensors
    need_x, need_y = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
    if torch.is_grad_enabled():
        # Aliases: where one side is a function of the other, or the same, that path is the outer graph's to add.
        tensors[:2] = [t.view_as(t) for t in tensors[:2]]
        inputs = [t for t, needed in ((tensors[0], need_x), (tensors[1], need_y)) if needed]
        with full_precision(tensors[0]):
            value = dense_pair_sum(*tensors, *ctx.options)
            found = list(torch.autograd.grad(value, inputs, grad, create_graph=True))
        gx = found.pop(0) if need_x else None
        gy = found.pop(0) if need_y else None
    else:
        gx = gx * grad if need_x else None
        gy = gy * grad if need_y else None
    return (gx, gy, *([None] * (_TENSORS + _NUMBERS - 1)))


def dense_pair_sum(
    x: Tensor,
    y: Tensor,
    left: Tensor,
    right: Tensor,
    bandwidth: Tensor,
    centre: Tensor,
    plus: Tensor,
    blocks: Sequence[float],
    kind: str,
    scales: Sequence[float],
    alpha: float,
) -> Tensor:
    """The same number from the matrix of all pairs, in plain operations that every transform knows."""
    kernel = _kernel(kind, scales, alpha)
    rows = torch.cat([x, y])
    centre = centre if centre.numel() else rows.detach().mean(0)
    gram = kernel.evaluate(distances_about(centre, rows, rows, same=True), bandwidth)
    off_diagonal = gram - torch.diag_embed(gram.diagonal())
    weighted = off_diagonal * _matrix(left, right, blocks, x.shape[0], rows)
    return (weighted.sum(dtype=torch.float64) + plus).to(x.dtype)


def _matrix(left: Tensor, right: Tensor, blocks: Sequence[float], n: int, rows: Tensor) -> Tensor:
    """C as a matrix."""
    if blocks:
        matrix = rows.new_full((rows.shape[0], rows.shape[0]), blocks[1])
        matrix[:n, :n].fill_(blocks[0])
        matrix[n:, n:].fill_(blocks[2])
        return matrix
    if right.ndim == 1:
        return torch.cat((left[:, :1] * right[:n], left[:, 1:] * right[n:]), 1)
    q = right.shape[1]
    return torch.cat((left[:, :q] @ right[:n].T, left[:, q:] @ right[n:].T), 1)


def _kernel(kind: str, scales: Sequence[float], alpha: float) -> Kernel:
    if kind == "gaussian":
        return Gaussian(scales=scales)
    if kind == "laplacian":
        return Laplacian(scales=scales)
    if kind == "rational_quadratic":
        return RationalQuadratic(alpha=alpha, scales=scales)
    return Energy()


@torch.library.custom_op("mmda::pair_sum", mutates_args=())
def _pair_sum_op(
    x: Tensor,
    y: Tensor,
    left: Tensor,
    right: Tensor,
    bandwidth: Tensor,
    centre: Tensor,
    plus: Tensor,
    blocks: Sequence[float],
    kind: str,
    scales: Sequence[float],
    alpha: float,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    value, gx, gy = _sweep(
        x, y, left, right, bandwidth, centre, plus, blocks, kind, scales, alpha, block, need_x=True, need_y=True
    )
    assert gx is not None
    assert gy is not None
    return value, gx, gy.clone() if gy.storage_offset() else gy  # no two outputs share their storage


@_pair_sum_op.register_fake
def _(x: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(()), x.new_empty(x.shape), y.new_empty(y.shape)


def _keep_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _keep(ctx, inputs, output[1], output[2])


def _backward_op(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    # A graph that outlives this call (create_graph=True) takes the dense formula here too, so that what is
    # differentiated again is a function of x and y and not the stored gradient.
    return _backward(ctx, grad)


_pair_sum_op.register_autograd(_backward_op, setup_context=_keep_op)


def _edges(start: int, stop: int, block: int) -> list[tuple[int, int]]:
    """Cut a range into equal parts of at most ``block``."""
    count = -(-(stop - start) // block)
    cuts = [start + (stop - start) * k // count for k in range(count + 1)] if count else [start]
    return list(pairwise(cuts))


def _sweep(
    x: Tensor,
    y: Tensor,
    left: Tensor,
    right: Tensor,
    bandwidth: Tensor,
    centre: Tensor,
    plus: Tensor,
    blocks: Sequence[float],
    kind: str,
    scales: Sequence[float],
    alpha: float,
    block: int,
    *,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One pass over the tiles on and above the diagonal: the sum, and its gradient for x and y."""
    n, total, d = x.shape[0], x.shape[0] + y.shape[0], x.shape[1]
    evaluate = _evaluator(kind, tuple(scales), alpha)
    if evaluate.steps is not None and native.serves(x, y, left, right):
        return _sweep_compiled(
            x, y, left, right, bandwidth, centre, plus, blocks, evaluate, block, need_x=need_x, need_y=need_y
        )
    inverse = bandwidth.reciprocal().mul_(evaluate.stretch)
    z = torch.cat((x, y))
    z.sub_(centre if centre.numel() else z.mean(0)).mul_(inverse)
    if total <= min(SMALL, block):
        value, gx, gy = _at_once(z, n, _matrix(left, right, blocks, n, z), evaluate, inverse, need_x, need_y)
        return value.add_(plus).to(x.dtype), gx, gy

    # With row weights, rows and their sums are weighted on the way in and the gradient's rows at the end; constant
    # coefficients multiply whole tiles, and what has low rank is multiplied out.
    weighted, low_rank = not blocks and right.ndim == 1, not blocks and right.ndim == 2
    of_x, of_y = _edges(0, n, block), _edges(n, total, block)
    side = max(stop - start for start, stop in of_x + of_y)
    gx, gy = x.new_zeros(x.shape) if need_x else None, y.new_zeros(y.shape) if need_y else None
    buffers = x.new_empty(1 + evaluate.work + 2 * low_rank, side * side).unbind(0)
    moved = x.new_empty(side, d)
    ones = x.new_ones(side)
    norms, slope_sums = x.new_empty(total), x.new_zeros(total)
    for start, stop in of_x + of_y:
        part = z[start:stop]
        torch.sum(torch.mul(part, part, out=moved[: stop - start]), 1, out=norms[start:stop])
    norms.neg_()
    value = torch.zeros((), dtype=torch.float64, device=x.device)
    parts = _parts(n, total, block, z, norms, slope_sums, gx, gy, left, right)

    def collect(a: _Part, slope: Tensor, b: _Part, factor: float) -> None:
        """Add a tile's part to the gradient of the rows of a: those of b by slope."""
        assert a.grad is not None
        rows = b.z
        if weighted:
            rows = torch.mul(rows, b.left[:, a.group].unsqueeze(1), out=moved[: rows.shape[0]])
        a.grad.addmm_(slope, rows, alpha=factor)

    tiles: list[Tensor] | None = None
    for a, b in combinations_with_replacement(parts, 2):
        same = a is b
        rows, columns = a.z.shape[0], b.z.shape[0]
        if tiles is None or tiles[0].shape != (rows, columns):
            tiles = [buffer[: rows * columns].view(rows, columns) for buffer in buffers]
        t = torch.add(a.norms.unsqueeze(1), b.norms, out=tiles[0])
        t.addmm_(a.z, b.z.T, alpha=2).clamp_(max=0)
        similar, slope = evaluate(
            t,
            tiles[1:],
            tiles[-1] if low_rank else None,
            b.right if weighted else ones[:columns],
            same=same,
            need_slope=a.grad is not None or b.grad is not None,
        )
        factor = 1.0
        if low_rank:
            width = right.shape[1]
            matrix = torch.mm(a.left[:, b.group * width : b.group * width + width], b.right.T, out=tiles[-2])
            similar = similar.mul_(matrix).sum(1)
            if slope is not None:
                slope.mul_(matrix)
        elif weighted:
            similar.mul_(a.left[:, b.group])
        else:
            factor = blocks[a.group + b.group]
        value.add_(similar.sum(dtype=torch.float64), alpha=factor if same else 2 * factor)
        if slope is None:
            continue
        # the sums first, as the tile is still near
        a.sums.addmv_(slope, b.left[:, a.group] if weighted else ones[:columns], alpha=factor)
        if not same:
            b.sums.addmv_(slope.T, a.left[:, b.group] if weighted else ones[:rows], alpha=factor)
        if a.grad is not None:
            collect(a, slope, b, factor)
        if b.grad is not None and not same:
            collect(b, slope.T, a, factor)

    # d/dz_i of C_ij k(t_ij), twice over the ordered pairs, with t = -|z_i - z_j|^2.
    scale = inverse * (4 * evaluate.slope_factor)
    for gradient, rows_of in ((gx, slice(0, n)), (gy, slice(n, total))):
        if gradient is not None:
            gradient.addcmul_(slope_sums[rows_of].unsqueeze(1), z[rows_of], value=-1)
            gradient.mul_(right[rows_of].unsqueeze(1) * scale if weighted else scale)
    return value.mul_(evaluate.value_factor).add_(plus).to(x.dtype), gx, gy


def _sweep_compiled(
    x: Tensor,
    y: Tensor,
    left: Tensor,
    right: Tensor,
    bandwidth: Tensor,
    centre: Tensor,
    plus: Tensor,
    blocks: Sequence[float],
    evaluate: _Evaluator,
    block: int,
    *,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The same sweep, in which one compiled loop does all that lies between the products of a tile."""
    n, total = x.shape[0], x.shape[0] + y.shape[0]
    assert evaluate.steps is not None
    inverse = evaluate.stretch * float(bandwidth.reciprocal())
    z, norms = native.prepare(x, y, centre if centre.numel() else None, inverse)
    scale = inverse * 4 * evaluate.slope_factor
    if blocks and total <= min(SMALL, block):
        # One tile of all pairs: the number of operations is what costs.
        tile, sums, wanted = torch.mm(z, z.T), z.new_zeros(total), need_x or need_y
        of_rows = sums if wanted else None
        value = native.tile(evaluate.steps, tile, norms, norms, same=True, factors=blocks, split=n, row_sums=of_rows)
        result = x.new_full((), value * evaluate.value_factor + float(plus))
        if not wanted:
            return result, None, None
        gradient = torch.mm(tile, z)
        native.finish(gradient, sums, z, None, scale)
        return result, gradient[:n] if need_x else None, gradient[n:] if need_y else None
    weighted, low_rank = not blocks and right.ndim == 1, not blocks and right.ndim == 2
    if weighted:
        left, right = left.T.contiguous().T, right.contiguous()  # a column's numbers are neighbours
    gx, gy = x.new_empty(x.shape) if need_x else None, y.new_empty(y.shape) if need_y else None
    parts = _parts(n, total, block, z, norms, z.new_zeros(total), gx, gy, left, right)
    side = max(part.z.shape[0] for part in parts)
    buffers = z.new_empty(1 + low_rank, side * side)
    begun: set[int] = set()

    def collect(a: _Part, slope: Tensor, b: _Part) -> None:
        """Add a tile's part to the gradient of the rows of a; the first starts it."""
        assert a.grad is not None
        rows = b.z * b.left[:, a.group].unsqueeze(1) if weighted else b.z
        a.grad.addmm_(slope, rows, beta=1 if id(a) in begun else 0)
        begun.add(id(a))

    value = 0.0
    for a, b in combinations_with_replacement(parts, 2):
        same, needed = a is b, a.grad is not None or b.grad is not None
        shape = a.z.shape[0], b.z.shape[0]
        tile, *others = (buffer[: shape[0] * shape[1]].view(shape) for buffer in buffers)
        torch.mm(a.z, b.z.T, out=tile)
        matrix: Tensor | None = None
        if low_rank:
            width = right.shape[1]
            matrix = torch.mm(a.left[:, b.group * width : b.group * width + width], b.right.T, out=others[0])
        factor = blocks[a.group + b.group] if blocks else 1.0
        found = native.tile(
            evaluate.steps,
            tile,
            a.norms,
            b.norms,
            same=same,
            factors=(factor, factor, factor),
            matrix=matrix,
            value_weights=(a.left[:, b.group], b.right) if weighted else (None, None),
            sum_weights=(a.left[:, b.group], b.left[:, a.group]) if weighted else (None, None),
            row_sums=a.sums if needed else None,
            column_sums=b.sums if needed and not same else None,
        )
        value += found if same else 2 * found
        if a.grad is not None:
            collect(a, tile, b)
        if b.grad is not None and not same:
            collect(b, tile.T, a)
    for part in parts:
        if part.grad is not None:
            native.finish(part.grad, part.sums, part.z, part.right if weighted else None, scale)
    return x.new_full((), value * evaluate.value_factor + float(plus)), gx, gy


def _parts(
    n: int,
    total: int,
    block: int,
    z: Tensor,
    norms: Tensor,
    sums: Tensor,
    gx: Tensor | None,
    gy: Tensor | None,
    left: Tensor,
    right: Tensor,
) -> list[_Part]:
    """The rows of both samples in stretches of at most ``block``."""
    return [
        _Part(
            group,
            z[start:stop],
            norms[start:stop],
            sums[start:stop],
            None if grad is None else grad[start - first : stop - first],
            left[start:stop] if left.numel() else left,
            right[start:stop] if left.numel() else right,
        )
        for group, first, last, grad in ((0, 0, n, gx), (1, n, total, gy))
        for start, stop in _edges(first, last, block)
    ]


class _Part(NamedTuple):
    """A stretch of rows of one sample, and what belongs to it."""

    group: int
    z: Tensor
    norms: Tensor
    sums: Tensor
    grad: Tensor | None
    left: Tensor
    right: Tensor


def _at_once(
    z: Tensor, n: int, matrix: Tensor, evaluate: _Evaluator, inverse: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The sweep where all pairs are one small tile: the same number in as few operations as possible."""
    norms = torch.mul(z, z).sum(1).neg_()
    t = (norms.unsqueeze(1) + norms).addmm_(z, z.T, alpha=2).clamp_(max=0)
    both = evaluate.both(t).mul_(matrix)
    sums = both.sum(2)
    value = sums[0].sum(dtype=torch.float64).mul_(evaluate.value_factor)
    if not (need_x or need_y):
        return value, None, None
    # 4 sum_j C_ij k'_ij (z_j - z_i): a product with the graph Laplacian.
    slope = both[1]
    slope.diagonal().sub_(sums[1])
    z.mul_(inverse * (4 * evaluate.slope_factor))
    return value, slope[:n] @ z if need_x else None, slope[n:] @ z if need_y else None


class _Evaluator:
    """A kernel and its slope on a tile of t = -|z_i - z_j|^2, z the rows times ``stretch`` over the bandwidth.

    A call overwrites ``t`` and ``self.work`` tiles of ``work``. It returns, both without i = j: k times
    1 / ``value_factor``, in ``similar`` or as sums over each row, weighted if there is a ``weight``; and dk/dt times
    1 / ``slope_factor`` in one of the other tiles, if ``need_slope``.
    """

    def __init__(self, kind: str, scales: Sequence[float], alpha: float) -> None:
        self.kind, self.alpha = kind, alpha
        self.stretch = 1.0
        self.value_factor = self.slope_factor = 1.0 / len(scales)
        self.work = 2 if alpha == 1 else 3
        self.scales = scales
        self.one_chain = False
        # Powers of two in place of e: several times faster on many processors, also where they underflow.
        if kind == "gaussian":
            widest = max(scales)
            self.stretch = math.sqrt(0.5 / (widest * math.log(2)))
            self.slope_factor *= math.log(2)
            self.chains = _doublings([widest / scale for scale in scales])
            self.one_chain = len(self.chains) == 1 and self.chains[0][1][0] == 1
            self.work = 1 if self.one_chain else 2
        elif kind == "laplacian":
            self.stretch = 1 / math.log(2)
            self.slope_factor *= math.log(2) / 2
            self.chains = _doublings([scale**-0.5 for scale in scales])
            self.work = 3
        elif kind == "energy":
            self.value_factor, self.slope_factor, self.work = -1.0, 0.5, 1
        self.steps = self._steps()

    def _steps(self) -> native.KernelSteps | None:
        """The same for the compiled loops; None where they do not know it."""
        if self.kind == "energy":
            return native.KernelSteps(self.kind, [(1.0, 1.0, 1.0)])
        if self.kind == "rational_quadratic":
            if self.alpha != 1:
                return None
            return native.KernelSteps(self.kind, [(0.5 / scale, 1.0, 0.5 / scale) for scale in self.scales])
        steps = []
        for start, counts in self.chains:
            for position, count in enumerate(counts):
                rate = start * 2.0**position
                steps.append((start if position == 0 else 0.0, float(count), count * rate))
        return native.KernelSteps(self.kind, steps)

    def __call__(
        self,
        t: Tensor,
        work: Sequence[Tensor],
        similar: Tensor | None,
        weight: Tensor | None,
        *,
        same: bool,
        need_slope: bool,
    ) -> tuple[Tensor, Tensor | None]:
        found, slope = _Found(similar, weight), work[0] if need_slope else None
        if self.one_chain:
            self._one_chain(t, work[0], found, same, need_slope)
            return found.result, t if need_slope else None
        if self.kind == "gaussian":
            self._chains(t, work[1], slope, found, same)
        elif self.kind == "rational_quadratic":
            self._powers(t, work[1:], slope, found, same)
        else:
            if same:
                t.fill_diagonal_(0)
            # 1 / root, zero where root is zero: the slope of a distance at coinciding rows is taken as zero.
            inverse = torch.rsqrt(t.neg_(), out=work[self.work - 1]).nan_to_num_(nan=math.nan, posinf=0.0, neginf=0.0)
            root = t.mul_(inverse)
            if self.kind == "energy":
                found.add(root)  # the slope is `inverse`: one tile of work
            else:
                self._chains(root.neg_(), work[1], slope, found, same)
                if slope is not None:
                    slope.mul_(inverse)
        return found.result, slope

    def both(self, t: Tensor) -> Tensor:
        """k and dk/dt (2, rows, rows), with the same factors, of one small tile of pairs among the same rows."""
        if not self.one_chain:
            both = t.new_empty(2, *t.shape)
            work = t.new_empty(self.work - 1, *t.shape)
            self(t, (both[1], *work.unbind(0)), both[0], None, same=True, need_slope=True)
            return both
        counts = self.chains[0][1]
        powers = t.new_empty(len(counts), *t.shape)
        power, *higher = powers.unbind(0)
        torch.exp2(t, out=power).fill_diagonal_(0)
        for following in higher:
            power = torch.mul(power, power, out=following)
        mix = t.new_tensor([counts, [count * 2.0**position for position, count in enumerate(counts)]])
        return (mix @ powers.flatten(1)).view(2, *t.shape)

    def _one_chain(self, t: Tensor, e: Tensor, found: _Found, same: bool, need_slope: bool) -> None:
        """Sum of 2^t, 2^(2t), 2^(4t), ...: one power and its squares, the slope gathered in the place of t."""
        power = torch.exp2(t, out=t)
        if same:
            t.fill_diagonal_(0)
        for position, count in enumerate(self.chains[0][1]):
            if position:
                power = torch.mul(power, power, out=e)
            if count:
                found.add(power, count)
                if position and need_slope:
                    t.add_(e, alpha=count * 2**position)

    def _chains(self, t: Tensor, e: Tensor, slope: Tensor | None, found: _Found, same: bool) -> None:
        """Sum of 2^(rate t): one power a chain, squared from rate to doubled rate."""
        begun = False
        for start, counts in self.chains:
            torch.exp2(t if start == 1 else torch.mul(t, start, out=e), out=e)
            if same:
                e.fill_diagonal_(0)
            rate = start
            for position, count in enumerate(counts):
                if position:
                    e.mul_(e)
                    rate *= 2
                if count:
                    found.add(e, count)
                    if slope is not None and begun:
                        slope.add_(e, alpha=count * rate)
                    elif slope is not None:
                        torch.mul(e, count * rate, out=slope)
                        begun = True

    def _powers(self, t: Tensor, work: Sequence[Tensor], slope: Tensor | None, found: _Found, same: bool) -> None:
        """Sum of (1 - t / (2 alpha s)) ** -alpha; with alpha = 1 no power is taken."""
        base = work[0]
        if slope is not None:
            slope.zero_()
        for scale in self.scales:
            torch.mul(t, -0.5 / (self.alpha * scale), out=base).add_(1).reciprocal_()
            power = base if self.alpha == 1 else torch.pow(base, self.alpha, out=work[1])
            if same:
                power.fill_diagonal_(0)
            found.add(power)
            if slope is not None:
                slope.addcmul_(base, power, value=0.5 / scale)


_evaluator = lru_cache(maxsize=64)(_Evaluator)  # plain numbers, never changed


class _Found:
    """Kernel values added up: as a tile, or as weighted sums over its rows."""

    result: Tensor

    def __init__(self, similar: Tensor | None, weight: Tensor | None) -> None:
        self.similar, self.weight, self.begun = similar, weight, False

    def add(self, e: Tensor, count: int = 1) -> None:
        if self.similar is None:
            assert self.weight is not None
            if self.begun:
                self.result.addmv_(e, self.weight, alpha=count)
            else:
                self.result = torch.mv(e, self.weight)
                if count != 1:
                    self.result.mul_(count)
        elif self.begun:
            self.result.add_(e, alpha=count)
        else:
            self.result = torch.mul(e, count, out=self.similar)
        self.begun = True


def _doublings(rates: Sequence[float]) -> list[tuple[float, list[int]]]:
    """Rates as chains r, 2 r, 4 r, ...: each chain's first rate, and how often each doubling of it occurs."""
    chains: list[tuple[float, list[int]]] = []
    for rate in sorted(rates):
        for start, counts in chains:
            steps = math.log2(rate / start)
            step = round(steps)
            if abs(steps - step) < 1e-12 and step < len(counts) + 2:
                counts.extend([0] * (step + 1 - len(counts)))
                counts[step] += 1
                break
        else:
            chains.append((rate, [1]))
    return chains
