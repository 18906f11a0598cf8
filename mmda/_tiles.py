r"""Exact kernel sums over all pairs of rows, one tile at a time: time of the dense formula or less, memory O(n d).

Everything here computes one number,

.. math:: S = \sum_{i \ne j} C_{ij} \, k(z_i, z_j), \qquad C = L R^\top \text{ symmetric, of low rank},

over the pooled rows z of one or two samples. The squared MMD is C of rank one (biased) or two (unbiased), several
domains or classes are C of a few columns more. The sum is a scalar, so its gradient is made in the same sweep as
its value and the backward pass only scales it: no matrix of pairs is ever kept.

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
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mmda.kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic, centred_squared_distances

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


def transform_is_active() -> bool:
    """Whether a ``torch.func`` transform is running; the only use of PyTorch's private interface, and a cautious one.

    Where the private name is missing the answer is True: the dense formula, slower and never wrong.
    """
    try:
        return torch._C._functorch.maybe_current_level() is not None
    except AttributeError:  # pragma: no cover - no released version lacks it
        return True


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether ordinary eager reverse mode is all that can happen to these tensors."""
    if transform_is_active():
        return False
    return not any(t is not None and _has_tangent(t) for t in tensors)


def _has_tangent(tensor: Tensor) -> bool:
    dual: Any = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return dual.tangent is not None


def can_stream(kernel: Kernel, rows: Sequence[Tensor], constants: Sequence[Tensor | None]) -> bool:
    """Whether :func:`pair_sum` may sweep tiles: a kernel it knows, constants without gradient, no transform."""
    if kernel_spec(kernel) is None:
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in constants):
        return False
    return torch.compiler.is_compiling() or is_plain(*rows, *constants)


def pair_sum(
    x: Tensor,
    y: Tensor | None,
    left: Tensor,
    right: Tensor,
    *,
    kernel: Kernel,
    bandwidth: Tensor,
    centre: Tensor,
    block_size: int | None = None,
) -> Tensor:
    """Sum over i != j of (left_i . right_j) k(z_i, z_j) with z the rows of ``x``, then of ``y``; a float64 scalar.

    Args:
        x: rows (n, d) in the working dtype.
        y: more rows (m, d), or None.
        left: (n + m,) or (n + m, q), without gradient.
        right: the same shape; ``left @ right.T`` is symmetric. One column: ``left`` and ``right`` are proportional.
        kernel: a kernel of the library (:func:`can_stream` said yes).
        bandwidth: settled scalar, without gradient.
        centre: (d,), subtracted from the rows so that a common offset costs no digits.
        block_size: rows of a tile; by size of the sample and kind of device by default.
    """
    spec = kernel_spec(kernel)
    assert spec is not None
    if left.ndim == 1:
        left, right = left.unsqueeze(1), right.unsqueeze(1)
    y = x[:0] if y is None else y
    block = (CPU_BLOCK if x.device.type == "cpu" else ACCELERATOR_BLOCK) if block_size is None else block_size
    arguments = (x, y, left.detach(), right.detach(), bandwidth.detach(), centre, *spec, block)
    value: Tensor
    if torch.compiler.is_compiling():
        value = _pair_sum_op(*arguments)[0]
    else:
        value = _PairSum.apply(*arguments)  # type: ignore[no-untyped-call]
    return value


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
    ctx.save_for_backward(*arguments[:6], gx, gy)
    ctx.options = arguments[6:9]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, left, right, bandwidth, centre, gx, gy = ctx.saved_tensors
    need_x, need_y = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
    if torch.is_grad_enabled():
        inputs = [t for t, needed in ((x, need_x), (y, need_y)) if needed]
        value = dense_pair_sum(x, y, left, right, bandwidth, centre, *ctx.options)
        found = list(torch.autograd.grad(value, inputs, grad, create_graph=True))
        gx = found.pop(0) if need_x else None
        gy = found.pop(0) if need_y else None
    else:
        factor = grad.to(x.dtype)
        gx = gx * factor if need_x else None
        gy = gy * factor if need_y else None
    return (gx, gy, *([None] * 8))


def dense_pair_sum(
    x: Tensor,
    y: Tensor,
    left: Tensor,
    right: Tensor,
    bandwidth: Tensor,
    centre: Tensor,
    kind: str,
    scales: Sequence[float],
    alpha: float,
) -> Tensor:
    """The same number from the matrix of all pairs, in plain operations that every transform knows."""
    kernel = _kernel(kind, scales, alpha)
    z = torch.cat([x, y]) - centre
    gram = kernel.evaluate(centred_squared_distances(z, z, same=True), bandwidth)
    off_diagonal = gram - torch.diag_embed(gram.diagonal())
    return ((off_diagonal @ right) * left).sum(dtype=torch.float64)


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
    kind: str,
    scales: Sequence[float],
    alpha: float,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    value, gx, gy = _sweep(x, y, left, right, bandwidth, centre, kind, scales, alpha, block, need_x=True, need_y=True)
    assert gx is not None
    assert gy is not None
    return value, gx.clone(), gy.clone()  # an operator may not return views of one another


@_pair_sum_op.register_fake
def _(x: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty((), dtype=torch.float64), torch.empty_like(x), torch.empty_like(y)


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
    if total <= min(SMALL, block):
        value, gz = _at_once(x, y, left, right, bandwidth, centre, kind, scales, alpha, need_x or need_y)
        return value, gz[:n] if need_x else None, gz[n:] if need_y else None
    evaluate = _Evaluator(kind, scales, alpha)
    # Rows carry two more columns, [z, 1, |z|^2]: with [2 z, -|z|^2, -1] on the other side one product gives
    # -|z_i - z_j|^2, and the product that makes the gradient gives the row sums beside it.
    inverse = bandwidth.to(x.dtype).reciprocal() * evaluate.stretch
    grad = x.new_zeros(total, d + 2) if need_x or need_y else None
    single = left.shape[1] == 1

    of_x, of_y = _edges(0, n, block), _edges(n, total, block)
    edges, wanted = of_x + of_y, [need_x] * len(of_x) + [need_y] * len(of_y)
    rows = x.new_empty(total, d + 2)
    torch.sub(x, centre, out=rows[:n, :d])
    if n < total:
        torch.sub(y, centre, out=rows[n:, :d])
    z = rows[:, :d].mul_(inverse)
    rows[:, d] = 1
    for start, stop in edges:
        torch.sum(z[start:stop].square(), 1, out=rows[start:stop, d + 1])
    side = max(stop - start for start, stop in edges)
    buffers = x.new_empty(2 + evaluate.spare, side * side)
    query = x.new_empty(side, d + 2)
    moved = x.new_empty(side, d + 2)
    value = torch.zeros((), dtype=torch.float64, device=x.device)

    for a, (i, i_stop) in enumerate(edges):
        rows_i = rows[i:i_stop]
        q = query[: i_stop - i]
        torch.mul(rows_i[:, :d], 2, out=q[:, :d])
        torch.neg(rows_i[:, d + 1], out=q[:, d])
        q[:, d + 1] = -1
        left_i = left[i:i_stop]
        weighted_i = rows_i * right[i:i_stop] if single and grad is not None else rows_i
        for b in range(a, len(edges)):
            j, j_stop = edges[b]
            rows_j, right_j = rows[j:j_stop], right[j:j_stop]
            tiles = [buffer[: (i_stop - i) * (j_stop - j)].view(i_stop - i, j_stop - j) for buffer in buffers]
            t, slope = tiles[0], tiles[1]
            torch.mm(q, rows_j.T, out=t)
            t.clamp_(max=0)
            similar = evaluate(t, slope if grad is not None else None, right_j, tiles[2:], same=a == b)
            part = torch.sum(similar.mul_(left_i), dtype=torch.float64)
            value.add_(part, alpha=1 if a == b else 2)
            if grad is None:
                continue
            if single:
                torch.mul(rows_j, right_j, out=moved[: j_stop - j])
                rows_j = moved[: j_stop - j]
            else:
                slope.mul_(torch.mm(left_i, right_j.T, out=t))
            if wanted[a]:
                grad[i:i_stop].addmm_(slope, rows_j)
            if a != b and wanted[b]:
                grad[j:j_stop].addmm_(slope.T, weighted_i)

    value.mul_(evaluate.value_factor)
    if grad is None:
        return value, None, None
    # d/dz_i of C_ij k(t_ij), twice over the ordered pairs, with t = -|z_i - z_j|^2.
    gz = grad[:, :d]
    torch.addcmul(gz, grad[:, d : d + 1], z, value=-1, out=gz)
    scale = inverse * (4 * evaluate.slope_factor)
    gz.mul_(left * scale if single else scale)
    return value, gz[:n] if need_x else None, gz[n:] if need_y else None


def _at_once(
    x: Tensor,
    y: Tensor,
    left: Tensor,
    right: Tensor,
    bandwidth: Tensor,
    centre: Tensor,
    kind: str,
    scales: Sequence[float],
    alpha: float,
    need_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The sweep where all pairs are one small tile: the same number in as few operations as possible."""
    factor = bandwidth.reciprocal()
    z = torch.cat((x, y)).sub_(centre).mul_(factor * math.sqrt(2))
    t = z @ z.T  # 2 z_i . z_j / bandwidth^2
    half = t.diagonal() / 2
    t = t.sub_(half).sub_(half.unsqueeze(1)).clamp_(max=0)
    # Rows of `kinds`: k itself, dk/dt.
    kinds = _kernel_and_slope(t, kind, scales, alpha).view(2, *t.shape)
    kinds.diagonal(dim1=1, dim2=2).zero_()
    weighted = kinds.mul_(left @ right.T)
    sums = weighted.sum(2)
    value = sums[0].sum(dtype=torch.float64)
    if need_gradient:
        # 4 sum_j C_ij k'_ij (z_j - z_i): a product with the graph Laplacian.
        slope = weighted[1]
        slope.diagonal().sub_(sums[1])
        z = (slope @ z).mul_(factor * math.sqrt(8))
    return value, z


def _kernel_and_slope(t: Tensor, kind: str, scales: Sequence[float], alpha: float) -> Tensor:
    """k and dk/dt, (2, pairs), at t = -|x - y|^2 / bandwidth^2."""
    count = len(scales)
    if kind == "gaussian":
        rates = sorted(0.5 / scale for scale in scales)
        e = t.new_empty(count, t.numel())
        rows = e.unbind(0)
        for position, row in enumerate(rows):
            if position and rates[position] == 2 * rates[position - 1]:
                torch.mul(rows[position - 1], rows[position - 1], out=row)
            else:
                torch.mul(t.view(-1), rates[position], out=row).exp_()
        return t.new_tensor([[1 / count] * count, [rate / count for rate in rates]]) @ e
    if kind == "laplacian":
        rates = [scale**-0.5 for scale in scales]
        root = t.view(-1).neg_().sqrt_()
        e = torch.outer(t.new_tensor([-rate for rate in rates]), root).exp_()
        values = t.new_tensor([[1 / count] * count, [0.5 * rate / count for rate in rates]]) @ e
        values[1].mul_(_inverse(root))
        return values
    if kind == "energy":
        root = t.view(-1).neg_().sqrt_()
        return torch.stack((root.neg(), _inverse(root).mul_(0.5)))
    factors = t.new_tensor([-0.5 / (alpha * scale) for scale in scales])
    base = torch.outer(factors, t.view(-1)).add_(1).reciprocal_()
    power = base if alpha == 1 else base.pow(alpha)
    slope = t.new_tensor([0.5 / (scale * count) for scale in scales]) @ (base * power)
    return torch.stack((power.mean(0), slope))


class _Evaluator:
    """A kernel and its slope on a tile of t = -|z_i - z_j|^2, z the rows times ``stretch`` over the bandwidth.

    A call returns the sums over j of k(t_ij) right_j without i = j, times 1 / ``value_factor``, and fills ``slope``
    with dk/dt, times 1 / ``slope_factor``. It overwrites ``t``.
    """

    def __init__(self, kind: str, scales: Sequence[float], alpha: float) -> None:
        self.kind, self.alpha = kind, alpha
        self.stretch = 1.0
        self.value_factor = self.slope_factor = 1.0 / len(scales)
        self.spare = 1
        self.scales = list(scales)
        if kind == "gaussian":
            widest = max(scales)
            self.stretch = 1 / math.sqrt(2 * widest)
            self.chains = _doublings([widest / scale for scale in scales])
            self.spare = 0 if len(self.chains) == 1 else 1
        elif kind == "laplacian":
            self.chains = _doublings([scale**-0.5 for scale in scales])
            self.slope_factor /= 2
        elif kind == "energy":
            self.value_factor, self.slope_factor, self.spare = -1.0, 0.5, 0

    def __call__(
        self, t: Tensor, slope: Tensor | None, right: Tensor, spare: Sequence[Tensor], *, same: bool
    ) -> Tensor:
        sums = right.new_zeros(t.shape[0], right.shape[1])
        if self.kind == "gaussian":
            self._exponentials(t, t if self.spare == 0 else spare[0], slope, sums, right, same)
        elif self.kind == "laplacian":
            root = t.neg_().sqrt_()
            self._exponentials(root.neg_(), spare[0], slope, sums, right, same)
            if slope is not None:
                slope.mul_(_inverse(root.neg_()))
        elif self.kind == "energy":
            root = t.neg_().sqrt_()
            if same:
                root.fill_diagonal_(0)
            sums.addmm_(root, right)
            if slope is not None:
                _inverse(slope.copy_(root))
        else:
            self._powers(t, spare[0], slope, sums, right, same)
        return sums

    def _exponentials(
        self, t: Tensor, e: Tensor, slope: Tensor | None, sums: Tensor, right: Tensor, same: bool
    ) -> None:
        """Sum of exp(rate t): one exponential a chain, squared from rate to doubled rate."""
        begun = False
        for start, rates in self.chains:
            torch.exp(t if start == 1 else torch.mul(t, start, out=e), out=e)
            if same:
                e.fill_diagonal_(0)
            rate = start
            for position, count in enumerate(rates):
                if position:
                    torch.mul(e, e, out=e)
                    rate *= 2
                if count:
                    sums.addmm_(e, right, alpha=count)
                    if slope is not None:
                        if begun:
                            slope.add_(e, alpha=count * rate)
                        else:
                            torch.mul(e, count * rate, out=slope)
                            begun = True

    def _powers(self, t: Tensor, base: Tensor, slope: Tensor | None, sums: Tensor, right: Tensor, same: bool) -> None:
        """Sum of (1 - t / (2 alpha s)) ** -alpha; with alpha = 1 no power is taken."""
        if slope is not None:
            slope.zero_()
        for scale in self.scales:
            torch.mul(t, -0.5 / (self.alpha * scale), out=base).add_(1).reciprocal_()
            power = base if self.alpha == 1 else base.pow(self.alpha)
            if same:
                power.fill_diagonal_(0)
            sums.addmm_(power, right)
            if slope is not None:
                slope.addcmul_(base, power, value=0.5 / scale)


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


def _inverse(root: Tensor) -> Tensor:
    """1 / root in place, zero where root is zero: the slope of a distance at coinciding rows is taken as zero."""
    return root.reciprocal_().nan_to_num_(nan=math.nan, posinf=0.0, neginf=0.0)
