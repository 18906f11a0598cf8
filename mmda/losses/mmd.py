"""Maximum mean discrepancy."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mmda._core.checks import check_choice, check_count, fail, shape_text
from mmda._core.components import check_kernel
from mmda._core.counts import zero_if_empty
from mmda._core.masking import full_precision
from mmda._core.rows import two_samples
from mmda._engine.kernel_sums import squared_mmd
from mmda._math.domain_sums import KernelSum, is_kernel_sum
from mmda._math.kernel_tensors import current_kernel, register_bandwidth
from mmda.kernels import Gaussian, Kernel, settle_bandwidth
from mmda.losses._domain_modules import KernelModule
from mmda.losses._sample_modules import DiscrepancyModule

Estimator = Literal["biased", "unbiased", "linear"]
_ESTIMATORS = ("biased", "unbiased", "linear")


def mmd_loss(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(),
    estimator: Estimator = "biased",
    block_size: int | None = None,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared maximum mean discrepancy between two samples; lower means closer distributions.

    With source rows :math:`x_1 \dots x_n`, target rows :math:`y_1 \dots y_m` and kernel k, the estimators are

    .. math::

       \text{biased:}\quad & \frac{1}{n^2} \sum_{i, j} k(x_i, x_j) + \frac{1}{m^2} \sum_{i, j} k(y_i, y_j)
           - \frac{2}{n m} \sum_{i, j} k(x_i, y_j) \\
       \text{unbiased:}\quad & \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j)
           + \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j) - \frac{2}{n m} \sum_{i, j} k(x_i, y_j) \\
       \text{linear:}\quad & \frac{1}{\lfloor n / 2 \rfloor} \sum_{i} k(x_{2i}, x_{2i + 1}) + k(y_{2i}, y_{2i + 1})
           - k(x_{2i}, y_{2i + 1}) - k(x_{2i + 1}, y_{2i})

    Args:
        source: source features.
        target: target features; the number of rows may differ (except for ``"linear"``).
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set from the pooled sample of this call.
        estimator: ``"biased"`` (V-statistic), ``"unbiased"`` (U-statistic) or ``"linear"`` (disjoint pairs).
        block_size: rows per tile of the kernel matrix, which affects only speed and memory; chosen by size by default.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input). Biased: in [0, 2], up to rounding, for the bounded kernels here.
        Unbiased and linear may be negative and are never clamped. Zero if either sample is empty after masks and
        weights, or with ``"unbiased"`` has a total weight of at most one.

    Raises:
        ValueError: wrong shapes; a single row with ``"unbiased"``; fewer than two rows, unequal sizes, weights or masks
            with ``"linear"``; a block size below one.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m)^2 d) time and O((n + m) d) memory: the kernel matrix is processed tile by tile, and the gradient is
        computed in the same pass (see the page on performance). Your own kernel runs in the same tiles, with its
        gradient from autograd on each tile; inside a compiled graph it is dense. If a weight or a parameter of your own
        kernel requires a gradient, and for function transforms, forward-mode and second derivatives, the dense formula
        is used, with O((n + m)^2) memory; not for a bandwidth that does. Linear: O((n + m) d) time plus that of the
        bandwidth. Under autocast everything is computed in float32. The bandwidth has no gradient unless the kernel was
        given a tensor that requires one. Weights are counts, not shares: with ``"unbiased"``, a sample with a total
        weight of at most one gives zero.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> source = torch.randn(64, 16, generator=generator)
        >>> target = torch.randn(48, 16, generator=generator) + 1.0
        >>> bool(mmd_loss(source, target) > 10 * mmd_loss(source, target - 1.0))
        True

    References:
        Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012), equations 3 (unbiased), 5 (biased, squared) and
        lemma 14 (linear); Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015,
        for the kernel averaged over bandwidths.
    """
    check_choice("mmd_loss", "estimator", estimator, _ESTIMATORS)
    if block_size is not None:
        check_count("mmd_loss", "block_size", block_size)
    check_kernel("mmd_loss", "kernel", kernel)
    caller, unbiased = "mmd_loss", estimator == "unbiased"
    with full_precision(source):
        weights, masks = (source_weight, target_weight), (source_mask, target_mask)
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, weights, masks, unbiased=unbiased, dropped=estimator != "linear"
        )
        if estimator == "linear":
            if x_weight is not None or y_weight is not None:
                fail("mmd_loss", "estimator", "be 'biased' or 'unbiased' with weights or masks", "'linear'")
            return _linear(x, y, kernel)
        value = squared_mmd(x, y, x_weight, y_weight, kernel=kernel, unbiased=unbiased, block_size=block_size)
        return zero_if_empty(value, x, y, (x_weight, y_weight), unbiased)


def _linear(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    if x.shape != y.shape:
        rule = f"have the shape of `source` {shape_text(x)} for estimator='linear'"
        fail("mmd_loss", "target", rule, shape_text(y))
    pairs = x.shape[0] // 2
    if pairs == 0:
        fail("mmd_loss", "source", "have at least 2 samples for estimator='linear'", shape_text(x))
    bandwidth = settle_bandwidth(kernel, x, y, None, None)
    x_even, x_odd = x[: 2 * pairs : 2], x[1 : 2 * pairs : 2]
    y_even, y_odd = y[: 2 * pairs : 2], y[1 : 2 * pairs : 2]

    def mean_similarity(a: Tensor, b: Tensor) -> Tensor:
        # in float64, because the four terms nearly cancel for similar samples
        return kernel.evaluate((a.double() - b.double()).square().sum(1), bandwidth.double()).mean()

    within = mean_similarity(x_even, x_odd) + mean_similarity(y_even, y_odd)
    return (within - mean_similarity(x_even, y_odd) - mean_similarity(x_odd, y_even)).to(x.dtype)


class MMDLoss(DiscrepancyModule, KernelModule):
    """Module form of :func:`mmd_loss`, which documents the formula, shapes and errors.

    Args:
        kernel: any :class:`mmda.kernels.Kernel`. A tensor bandwidth is registered as a buffer, or as a parameter if it
            is one.
        estimator: ``"biased"``, ``"unbiased"`` or ``"linear"``.
        block_size: rows per tile, or None.

    Example:
        >>> MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")
        MMDLoss(kernel=Gaussian(bandwidth='mean', scales=(0.25, 0.5, 1, 2, 4)), estimator='unbiased')
    """

    _function = staticmethod(mmd_loss)

    def __init__(
        self, *, kernel: Kernel = Gaussian(), estimator: Estimator = "biased", block_size: int | None = None
    ) -> None:
        super().__init__()
        check_choice("MMDLoss", "estimator", estimator, _ESTIMATORS)
        if block_size is not None:
            check_count("MMDLoss", "block_size", block_size)
        check_kernel("MMDLoss", "kernel", kernel)
        self.kernel = kernel
        register_bandwidth(self, kernel)
        self.estimator: Estimator = estimator
        self.block_size = block_size

    def extra_repr(self) -> str:
        return super().extra_repr().removesuffix(", block_size=None")


is_kernel_sum(
    mmd_loss,
    KernelSum(Gaussian(), "biased"),
    MMDLoss,
    lambda loss: KernelSum(current_kernel(loss, loss.kernel), loss.estimator, block_size=loss.block_size),
)
