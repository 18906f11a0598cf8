"""Hilbert-Schmidt independence criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from mmda._engine.kernel_products import can_tile, gram_tile, tile_sum, tiles
from mmda._math.kernel_tensors import current_kernel, register_bandwidth
from mmda.kernels import Gaussian, Kernel
from mmda.losses._pair_modules import PairedModule

#: Root mean square of a centred float32 matrix of similarities below which rounding is too large a part of it.
SPREAD = 1e-3
#: Up to this many rows matrices of all pairs are faster than tiles, where each kernel is evaluated twice.
FEW = 1536

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
        O(n^2 (d + e)) time; O(n (d + e)) memory above some 1,500 rows, which are compared tile by tile, O(n^2) below.
        Second derivatives, function transforms, compiled graphs, and bandwidths and weights that require a gradient
        always use O(n^2). The first paper divides by (n - 1)^2 instead of n^2.

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
            settled = [_settled(x, w, kernel), _settled(z, w, other)]
            if x.shape[0] > FEW and can_tile([x, z], [w, *(one[2] for one in settled)]):
                value, spread = _by_tiles(x, z, w, settled, estimator)
                lost = look and estimator == "biased" and w is None and min(spread) <= SPREAD
                size = sum(spread) if estimator == "biased" and w is None else 1.0
                return None if lost or (look and abs(float(value.detach())) < LOST * size) else value
            k, l = _gram(x, settled[0]), _gram(z, settled[1])  # noqa: E741
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


def _settled(rows: Tensor, weight: Tensor | None, kernel: Kernel) -> tuple[Kernel, Tensor, Tensor]:
    """The kernel, the centre of the rows and the bandwidth for them."""
    bandwidth = kernel.settle(rows.detach(), None if weight is None else weight.detach())
    return kernel, pooled_centre(rows, rows, weight, weight), bandwidth


def _gram(rows: Tensor, settled: tuple[Kernel, Tensor, Tensor]) -> Tensor:
    kernel, centre, bandwidth = settled
    return kernel_matrix(kernel, centre, rows, bandwidth)


def _by_tiles(
    x: Tensor, z: Tensor, w: Tensor | None, settled: Sequence[tuple[Kernel, Tensor, Tensor]], estimator: Estimator
) -> tuple[Tensor, list[float]]:
    """The criterion, and the root mean square of both centred matrices, without a matrix of all pairs.

    Centring is a projection: the gradient for an entry of K is the centred entry of L times the weights, and the means
    count as constants.
    """
    counts = x.new_ones(x.shape[0]) if w is None else w.detach()
    unbiased, total = estimator == "unbiased", counts.double().sum()
    none = total <= (3 if unbiased else 0)
    total = torch.where(none, 4.0, total)
    with torch.no_grad():
        levels = [_levels(rows, counts, total, one, unbiased) for rows, one in zip((x, z), settled)]
    squares = x.new_zeros(2, dtype=torch.float64)

    def tile(i: slice, j: slice, rows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        k, l = (  # noqa: E741
            gram_tile(kernel, centre, pair, sigma) - level[i].unsqueeze(1) - level[j]
            for pair, (kernel, centre, sigma), level in zip(rows, settled, levels)
        )
        product = k * l
        with torch.no_grad():
            twice = 1 if i == j else 2
            for place, one in enumerate((k, l)):
                squares[place] += twice * torch.linalg.vector_norm(one).double().square()
        value = counts[i].double() @ (product @ counts[j]).double()
        return value - counts[i].double() @ product.diagonal().double() if unbiased and i == j else value

    def whole(x: Tensor, z: Tensor) -> Tensor:
        k, l = (_gram(rows, one) for rows, one in zip((x, z), settled))  # noqa: E741
        if unbiased:
            return _unbiased(k, l, counts, settled[0][0].at_zero, settled[1][0].at_zero) * share
        summed = counts.sum()
        return counts @ (_centred(k, counts, summed) * _centred(l, counts, summed)) @ counts

    share = (total * (total - 3)).to(x)
    value = tile_sum((x, z), tile, whole) / (total * (total - 3) if unbiased else total.square())
    return torch.where(none, 0 * value, value).to(x.dtype), [float(t) ** 0.5 / x.shape[0] for t in squares]


def _levels(
    rows: Tensor, counts: Tensor, total: Tensor, settled: tuple[Kernel, Tensor, Tensor], unbiased: bool
) -> Tensor:
    """What centring subtracts from each row and each column."""
    kernel, centre, bandwidth = settled
    sums = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for i, j in tiles(0, rows.shape[0]):
        left = rows[i]
        k = gram_tile(kernel, centre, (left, left if i == j else rows[j]), bandwidth)
        sums[i] += (k @ counts[j]).double()
        if i != j:
            sums[j] += (counts[i] @ k).double()
    if unbiased:
        sums -= kernel.at_zero
        level = sums / (total - 2) - counts.double() @ sums / ((total - 1) * (total - 2)) / 2
    else:
        means = sums / total
        level = means - counts.double() @ means / total / 2
    return level.to(rows.dtype)


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
