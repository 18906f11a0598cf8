"""Joint maximum mean discrepancy: several layers or modalities compared at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mmda._core.checks import (
    check_choice,
    check_mask,
    check_same_width,
    check_tensor,
    check_weight,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.components import check_kernel
from mmda._core.counts import pooled_centre, total_weight
from mmda._core.digits import with_enough_digits
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import as_rows
from mmda._engine.dense_kernels import kernel_matrix
from mmda._engine.kernel_products import can_tile, gram_tile, tile_sum
from mmda._engine.kernel_sums import weighted_coefficients
from mmda._math.kernel_tensors import current_kernel, register_bandwidth
from mmda.kernels import Gaussian, Kernel, settle_bandwidth
from mmda.losses._modules import LossModule
from mmda.losses._sample_modules import of_sides

#: Up to this many pooled rows a matrix of all pairs is as fast as tiles.
FEW = 1000

Estimator = Literal["biased", "unbiased", "linear"]
_ESTIMATORS = ("biased", "unbiased", "linear")


def joint_mmd_loss(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    *,
    kernel: Kernel | Sequence[Kernel] = Gaussian(),
    estimator: Estimator = "biased",
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared MMD between the joint distributions of several layers or modalities; lower means closer.

    Row i of every source layer belongs to one sample, :math:`x_i = (x_i^1, \dots, x_i^L)`, and the kernel between
    two samples is the product over the layers,

    .. math::

       k(x_i, x_j) = \prod_{l = 1}^{L} k_l(x_i^l, x_j^l),

    The estimators are those of :func:`mmda.losses.mmd_loss` with this kernel: biased

    .. math::

       \frac{1}{n^2} \sum_{i, j} k(x_i, x_j) + \frac{1}{m^2} \sum_{i, j} k(y_i, y_j)
       - \frac{2}{n m} \sum_{i, j} k(x_i, y_j),

    unbiased without the pairs i = j, and linear over the disjoint pairs (2i, 2i + 1). Unlike a sum of MMDs, it detects
    layers whose marginals agree but whose dependence on each other differs between the domains.

    Args:
        source: the source's layers, for example ``(video, query)``: one tensor per layer, rows aligned.
        target: the target's layers, in the same order and of the same widths; the number of rows may differ.
        kernel: one kernel for all layers or one per layer; each bandwidth is set from the pooled sample of its layer.
        estimator: ``"biased"`` (V-statistic), ``"unbiased"`` (U-statistic) or ``"linear"`` (disjoint pairs).
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep, shared by all layers. Padding may hold anything.

    Shape:
        layer l: ``source[l]`` (n, d_l), ``target[l]`` (m, d_l), or with a mask (b, t, d_l); weights and masks (n,)
        and (m,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input). Biased: in [0, 2] for the bounded kernels here. Unbiased and
        linear may be negative and are never clamped. Zero if either sample is empty after masks and weights, or with
        ``"unbiased"`` has a total weight of at most one.

    Raises:
        ValueError: no layer, layers that do not match in number, rows or widths; wrong shapes; a single row with
            ``"unbiased"``; fewer than two rows, unequal sizes, weights or masks with ``"linear"``.
        TypeError: a tensor instead of a sequence of layers, a mask that is not bool, features that are not floating
            point.

    Notes:
        O((n + m)^2 (d_1 + ... + d_L)) time; O((n + m) (d_1 + ... + d_L)) memory above some 1,000 pooled rows, which are
        compared tile by tile, O((n + m)^2) below. Second derivatives, function transforms, compiled graphs, and
        bandwidths and weights that require a gradient always use O((n + m)^2). Differs from the paper: each layer's
        bandwidths are averaged, not summed, and set from the pooled sample; the paper trains with the linear estimator.

    Example:
        >>> import torch
        >>> video = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> query = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])  # the same values, but independent of the video
        >>> kernel = Gaussian(1.0, scales=(1.0,))
        >>> round(joint_mmd_loss((video, video), (video, query), kernel=kernel).item(), 4)
        0.1869

    References:
        Long, Zhu, Wang & Jordan, "Deep Transfer Learning with Joint Adaptation Networks", ICML 2017, equations 8
        (biased) and 9 (linear).
    """
    caller = "joint_mmd_loss"
    check_choice(caller, "estimator", estimator, _ESTIMATORS)
    _check_layers(caller, "source", source, source_mask, source_weight)
    _check_layers(caller, "target", target, target_mask, target_weight)
    if len(source) != len(target):
        fail(caller, "target", f"hold as many layers as `source` ({len(source)})", len(target))
    kernels = _kernel_each(caller, kernel, len(source))
    dtype = working_dtype(*source, *target)
    xs, ys = [], []
    with full_precision(source[0]):
        for layer, (raw_x, raw_y) in enumerate(zip(source, target)):
            names = (f"source[{layer}]", f"target[{layer}]")
            x, x_weight = as_rows(caller, names[0], raw_x, mask=source_mask, weight=source_weight, dtype=dtype)
            y, y_weight = as_rows(caller, names[1], raw_y, mask=target_mask, weight=target_weight, dtype=dtype)
            check_same_width(caller, names[0], x, names[1], y)
            xs.append(x)
            ys.append(y)
        bandwidths = [settle_bandwidth(k, x, y, x_weight, y_weight) for k, x, y in zip(kernels, xs, ys)]
        centres = [pooled_centre(x, y, x_weight, y_weight) for x, y in zip(xs, ys)]

        def gram(dtype: torch.dtype) -> Tensor:
            pooled = [torch.cat([x, y]).to(dtype) for x, y in zip(xs, ys)]  # once: gradients nearly cancel
            return _product(
                [
                    kernel_matrix(k, centre.to(dtype), rows, bandwidth.to(dtype))
                    for k, centre, rows, bandwidth in zip(kernels, centres, pooled, bandwidths)
                ]
            )

        n, m = xs[0].shape[0], ys[0].shape[0]
        if estimator == "linear":
            if x_weight is not None or y_weight is not None:
                fail(caller, "estimator", "be 'biased' or 'unbiased' with weights or masks", "'linear'")
            if n != m:
                fail(caller, "target", f"have as many samples as `source` ({n}) for estimator='linear'", m)
            if n < 2:
                fail(caller, "source", "have at least 2 samples for estimator='linear'", n)
            return _linear(xs, ys, kernels, bandwidths)
        unbiased = estimator == "unbiased"
        for name, count in (("source", n), ("target", m)):
            if unbiased and count < 2:
                fail(caller, name, "have at least 2 samples for estimator='unbiased'", count)
        at_zero = 1.0
        for k in kernels:
            at_zero = at_zero * k.at_zero
        a = torch.ones(n, dtype=dtype, device=xs[0].device) if x_weight is None else x_weight
        b = torch.ones(m, dtype=dtype, device=ys[0].device) if y_weight is None else y_weight

        def mean_within(similar: Tensor, weight: Tensor) -> Tensor:
            total, summed = weight.sum(), _bilinear(similar, weight, weight)
            if unbiased:
                return safe_divide(summed - total * at_zero, total.square() - total)
            return safe_divide(summed, total.square())

        def by_tiles(dtype: torch.dtype) -> Tensor:
            pooled = [torch.cat([x, y]).to(dtype) for x, y in zip(xs, ys)]
            left, right, _ = weighted_coefficients(a.double(), b.double(), unbiased)
            settled = [
                (k, centre.to(dtype), bandwidth.detach().to(dtype))
                for k, centre, bandwidth in zip(kernels, centres, bandwidths)
            ]

            def tile(i: slice, j: slice, rows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
                grams = [gram_tile(k, c, pair, sigma) for (k, c, sigma), pair in zip(settled, rows)]
                return left[i, int(j.start >= n)] @ (_product(grams) @ right[j].to(dtype)).double()

            def whole(*rows: Tensor) -> Tensor:
                grams = [gram_tile(k, c, (one, one), sigma) for (k, c, sigma), one in zip(settled, rows)]
                matrix = torch.cat((left[:, :1] * right[:n], left[:, 1:] * right[n:]), 1)
                return (_product(grams) * matrix).sum()

            own = [safe_divide(t.sum(), t.sum().square() - t.sum()) for t in (a.double(), b.double())]
            return tile_sum(pooled, tile, whole, first=n) - (at_zero * sum(own) if unbiased else 0.0)

        def by_means(dtype: torch.dtype) -> Tensor:
            if n + m > FEW and can_tile([*xs, *ys], [*bandwidths, a, b]):
                return by_tiles(dtype)
            p, q, similar = a.to(dtype), b.to(dtype), gram(dtype)
            across = safe_divide(_bilinear(similar[:n, n:], p, q), p.sum() * q.sum())
            return mean_within(similar[:n, :n], p) + mean_within(similar[n:, n:], q) - 2 * across

        value = with_enough_digits(by_means, *xs, *ys, *bandwidths, a, b, dtype=dtype, bounded=at_zero > 0).to(dtype)
        if x_weight is None and y_weight is None:
            return value
        least = 1 if unbiased else 0
        both = (total_weight(xs[0], x_weight) > least) & (total_weight(ys[0], y_weight) > least)
        return torch.where(both, value, 0 * value)


def _product(factors: list[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


def _bilinear(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """left^T gram right, the outer sum in float64."""
    return left.double() @ (gram @ right).double()


def _linear(xs: list[Tensor], ys: list[Tensor], kernels: Sequence[Kernel], bandwidths: list[Tensor]) -> Tensor:
    end = xs[0].shape[0] // 2 * 2

    def mean_similarity(left: list[Tensor], right: list[Tensor], i: int, j: int) -> Tensor:
        return _product(
            [
                k.evaluate((a[i:end:2].double() - b[j:end:2].double()).square().sum(1), bandwidth.double())
                for k, a, b, bandwidth in zip(kernels, left, right, bandwidths)
            ]
        ).mean()

    within = mean_similarity(xs, xs, 0, 1) + mean_similarity(ys, ys, 0, 1)
    return (within - mean_similarity(xs, ys, 0, 1) - mean_similarity(xs, ys, 1, 0)).to(xs[0].dtype)


def _check_layers(caller: str, name: str, layers: object, mask: Tensor | None, weight: Tensor | None) -> None:
    if not isinstance(layers, Sequence):  # a tensor is not a Sequence
        fail_type(caller, name, "be a sequence of tensors, one per layer", layers)
    if len(layers) == 0:
        fail(caller, name, "hold at least one layer", "none")
    for position, layer in enumerate(layers):
        check_tensor(caller, f"{name}[{position}]", layer)
        if layer.shape[:-1] != layers[0].shape[:-1]:
            rule = f"have the rows of `{name}[0]` {tuple(layers[0].shape[:-1])}"
            fail(caller, f"{name}[{position}]", rule, shape_text(layer))
    if mask is not None:
        check_mask(caller, f"{name}_mask", mask, layers[0].shape[:-1], device=layers[0].device)
    if weight is not None:
        check_weight(caller, f"{name}_weight", weight, layers[0].shape[:-1], device=layers[0].device)


def _kernel_each(caller: str, kernel: Kernel | Sequence[Kernel], layers: int) -> Sequence[Kernel]:
    if not isinstance(kernel, Sequence):
        check_kernel(caller, "kernel", kernel)
        return (kernel,) * layers
    for position, one in enumerate(kernel):
        check_kernel(caller, f"kernel[{position}]", one)
    if len(kernel) != layers:
        fail(caller, "kernel", f"be one kernel or one per layer ({layers})", len(kernel))
    return tuple(kernel)


class JointMMDLoss(LossModule):
    """Module form of :func:`joint_mmd_loss`, which documents the formula, shapes and errors.

    Args:
        kernel: one kernel for all layers or one per layer.
        estimator: ``"biased"``, ``"unbiased"`` or ``"linear"``.

    Example:
        >>> JointMMDLoss(kernel=(Gaussian(2.0, scales=(1.0,)), Gaussian(scales=(1.0,))))
        JointMMDLoss(kernel=(Gaussian(bandwidth=2, scales=(1,)), Gaussian(bandwidth='median', scales=(1,))), \
estimator='biased')
    """

    _function = staticmethod(joint_mmd_loss)

    def __init__(self, *, kernel: Kernel | Sequence[Kernel] = Gaussian(), estimator: Estimator = "biased") -> None:
        super().__init__()
        check_choice("JointMMDLoss", "estimator", estimator, _ESTIMATORS)
        if isinstance(kernel, Sequence):
            kernel = tuple(kernel)
            if not kernel:
                fail("JointMMDLoss", "kernel", "be one kernel or one per layer", "none")
            for position, one in enumerate(kernel):
                check_kernel("JointMMDLoss", f"kernel[{position}]", one)
        else:
            check_kernel("JointMMDLoss", "kernel", kernel)
        self.kernel: Kernel | tuple[Kernel, ...] = kernel
        if isinstance(kernel, tuple):
            for layer, each in enumerate(kernel):
                register_bandwidth(self, each, f"bandwidth_{layer}")
        else:
            register_bandwidth(self, kernel)
        self.estimator: Estimator = estimator

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "kernel": self._current()}

    def forward(
        self,
        source: Sequence[Tensor],
        target: Sequence[Tensor],
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`joint_mmd_loss`."""
        return joint_mmd_loss(
            source,
            target,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward

    def _current(self) -> Kernel | tuple[Kernel, ...]:
        if isinstance(self.kernel, tuple):
            return tuple(current_kernel(self, each, f"bandwidth_{layer}") for layer, each in enumerate(self.kernel))
        return current_kernel(self, self.kernel)
