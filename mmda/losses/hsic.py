"""Hilbert-Schmidt independence criterion."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_mask, check_same_device, check_tensor, check_weight, fail, shape_text
from mmda._core.components import check_kernel
from mmda._core.counts import pooled_centre
from mmda._core.digits import LOST, widened_where_lost
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import as_rows
from mmda._engine.dense_kernels import kernel_matrix
from mmda._math.kernel_tensors import current_kernel, register_bandwidth
from mmda.kernels import Gaussian, Kernel
from mmda.losses._pair_modules import PairedModule

#: Root mean square of a centred float32 matrix of similarities below which rounding is too large a part of it.
SPREAD = 1e-3

Estimator = Literal["biased", "unbiased"]
_ESTIMATORS = ("biased", "unbiased")


def hsic_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    kernel: Kernel = Gaussian(),
    positive_kernel: Kernel | None = None,
    estimator: Estimator = "biased",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Statistical dependence between paired rows; lower means closer to independent.

    With :math:`K_{ij} = k(x_i, x_j)` of the anchors, :math:`L_{ij} = l(z_i, z_j)` of their partners, :math:`H = I -
    \frac{1}{n} 1 1^\top`, and :math:`\tilde K, \tilde L` the same matrices with zero diagonals,

    .. math::

       \text{biased:}\quad & \frac{1}{n^2} \operatorname{tr}(K H L H) \\
       \text{unbiased:}\quad & \frac{1}{n (n - 3)} \left[ \operatorname{tr}(\tilde K \tilde L)
           + \frac{1^\top \tilde K 1 \; 1^\top \tilde L 1}{(n - 1) (n - 2)}
           - \frac{2}{n - 2} 1^\top \tilde K \tilde L 1 \right]

    Minimise it to make features independent of a variable (domain style, a nuisance), or minimise its negative to make
    two modalities depend on each other.

    Args:
        anchor: first row of each pair.
        positive: second row of each pair; its width may differ.
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set from the rows it is applied to.
        positive_kernel: kernel of the second rows, with a separate bandwidth; the same kernel by default.
        estimator: ``"biased"`` (V-statistic) or ``"unbiased"`` (U-statistic).
        weight: pair weights: 2 counts a pair twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``anchor`` (n, d), ``positive`` (n, e), or with a mask (b, t, d) and (b, t, e); weight and mask (n,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input). Biased: >= 0 up to rounding. Unbiased may be negative and is
        never clamped. Zero if no pair is left, or with ``"unbiased"`` if the total weight is at most three.

    Raises:
        ValueError: wrong shapes, different numbers of rows, fewer than four rows with ``"unbiased"``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n^2 (d + e)) time, O(n^2) memory. The first paper divides by (n - 1)^2 instead of n^2.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 100, 3, generator=generator)
        >>> bool(hsic_loss(x, x.square()) > 3 * hsic_loss(x, noise))
        True

    References:
        Gretton, Fukumizu, Teo, Song, Schölkopf & Smola, "A Kernel Statistical Test of Independence", NeurIPS 2007,
        equation 4 (biased); Song, Smola, Gretton, Bedo & Borgwardt, "Feature Selection via Dependence
        Maximization", JMLR 13 (2012), equation 5 (unbiased).
    """
    caller = "hsic_loss"
    check_choice(caller, "estimator", estimator, _ESTIMATORS)
    check_kernel(caller, "kernel", kernel)
    if positive_kernel is not None:
        check_kernel(caller, "positive_kernel", positive_kernel)
    check_tensor(caller, "anchor", anchor)
    check_tensor(caller, "positive", positive)
    check_same_device(caller, "anchor", anchor, "positive", positive)
    dtype = working_dtype(anchor, positive)
    with full_precision(anchor):
        if mask is not None:
            check_mask(caller, "mask", mask, anchor.shape[:-1], device=anchor.device)
        if weight is not None:
            check_weight(caller, "weight", weight, anchor.shape[:-1], device=anchor.device)
        if anchor.shape[:-1] != positive.shape[:-1]:
            fail(caller, "positive", f"have the rows of `anchor` {tuple(anchor.shape[:-1])}", shape_text(positive))
        x, w = as_rows(caller, "anchor", anchor, mask=mask, weight=weight, dtype=dtype)
        z, _ = as_rows(caller, "positive", positive, mask=mask, weight=weight, dtype=dtype)
        if estimator == "unbiased" and x.shape[0] < 4:
            fail(caller, "anchor", "have at least 4 samples for estimator='unbiased'", shape_text(x))
        other = kernel if positive_kernel is None else positive_kernel

        bounded = kernel.at_zero > 0 and other.at_zero > 0

        def by_matrices(x: Tensor, z: Tensor, w: Tensor | None, *, look: bool) -> Tensor | None:
            if look and not bounded:
                return None
            k, l = _gram(x, w, kernel), _gram(z, w, other)  # noqa: E741
            size = 1.0
            if w is None and estimator == "biased":
                k, l = _about_means(k).flatten(), _about_means(l).flatten()  # noqa: E741
                value = torch.linalg.vecdot(k, l) / x.shape[0] ** 2
                if look:  # the rounding error of similarities, some 1e-7, times the other centred matrix
                    spread = [float(torch.linalg.vector_norm(t.detach())) / x.shape[0] for t in (k, l)]
                    size = sum(spread) if min(spread) > SPREAD else math.inf
            elif estimator == "unbiased":
                counts = k.new_ones(k.shape[0]) if w is None else w
                value = _unbiased(k, l, counts, kernel.at_zero, other.at_zero)
            else:
                assert w is not None
                total = w.sum()
                product = w @ (_centred(k, w, total) * _centred(l, w, total)) @ w
                value = safe_divide(product, total.square())
            return None if look and abs(float(value.detach())) < LOST * size else value

        return widened_where_lost(by_matrices, x, z, w, dtype=dtype)


def _gram(rows: Tensor, weight: Tensor | None, kernel: Kernel) -> Tensor:
    bandwidth = kernel.settle(rows.detach(), None if weight is None else weight.detach())
    centre = pooled_centre(rows, rows, weight, weight)
    return kernel_matrix(kernel, centre, rows, bandwidth)


def _about_means(gram: Tensor) -> Tensor:
    means = gram.mean(1)
    return gram - means.unsqueeze(1) - (means - means.mean())


def _centred(gram: Tensor, counts: Tensor, total: Tensor) -> Tensor:
    means = safe_divide(gram @ counts, total)
    return gram - means.unsqueeze(1) - means + safe_divide(counts @ means, total)


def _unbiased(k: Tensor, l: Tensor, counts: Tensor, k_zero: float, l_zero: float) -> Tensor:  # noqa: E741
    """The U-statistic from U-centred matrices; a pair of weight 2 is treated as two pairs."""
    total = counts.sum()
    enough = total > 3
    total = torch.where(enough, total, torch.full_like(total, 4.0))

    def u_centred(gram: Tensor, at_zero: float) -> Tensor:
        sums = gram @ counts - at_zero
        rows = sums / (total - 2)
        return gram - rows.unsqueeze(1) - rows + counts @ sums / ((total - 1) * (total - 2))

    product = u_centred(k, k_zero) * u_centred(l, l_zero)
    value = (counts @ product @ counts - counts @ product.diagonal()) / (total * (total - 3))
    return torch.where(enough, value, 0 * value)


class HSICLoss(PairedModule):
    """Module form of :func:`hsic_loss`, which documents the formula, shapes and errors.

    Args:
        kernel: kernel of the anchors.
        positive_kernel: kernel of the second rows; the same by default.
        estimator: ``"biased"`` or ``"unbiased"``.

    Example:
        >>> HSICLoss(kernel=Gaussian(1.0, scales=(1.0,)), estimator="unbiased")
        HSICLoss(kernel=Gaussian(bandwidth=1, scales=(1,)), positive_kernel=None, estimator='unbiased')
    """

    _function = staticmethod(hsic_loss)

    def __init__(
        self,
        *,
        kernel: Kernel = Gaussian(),
        positive_kernel: Kernel | None = None,
        estimator: Estimator = "biased",
    ) -> None:
        super().__init__()
        check_choice("HSICLoss", "estimator", estimator, _ESTIMATORS)
        check_kernel("HSICLoss", "kernel", kernel)
        if positive_kernel is not None:
            check_kernel("HSICLoss", "positive_kernel", positive_kernel)
        self.kernel = kernel
        self.positive_kernel = positive_kernel
        register_bandwidth(self, kernel)
        register_bandwidth(self, positive_kernel, "positive_bandwidth")
        self.estimator: Estimator = estimator

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "kernel": current_kernel(self, self.kernel), "positive_kernel": self._other()}

    def _other(self) -> Kernel | None:
        other = self.positive_kernel
        return None if other is None else current_kernel(self, other, "positive_bandwidth")
