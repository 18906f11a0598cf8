"""Weighted sums of kernel values over all pairs of rows, used by every kernel discrepancy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.counts import pooled_centre
from mmda._core.digits import with_enough_digits
from mmda._core.masking import safe_divide
from mmda._core.transforms import is_plain
from mmda._engine.kernel_sweep import Samples, can_stream, pair_sum
from mmda.kernels import Kernel, distances_about, formula_of, settle_bandwidth


class PairMeans(NamedTuple):
    """Means of k over the pairs within each sample and across samples."""

    within_x: Tensor
    within_y: Tensor
    across: Tensor


def pair_means(
    x: Tensor,
    y: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    *,
    kernel: Kernel,
    unbiased: bool = False,
    bandwidth: Tensor | None = None,
) -> PairMeans:
    """Means of k(x_i, x_j), k(y_i, y_j) and k(x_i, y_j) over all pairs; ``unbiased`` leaves out i = j.

    Rows are (n, d) in the working dtype, weights are row weights (n,) or None. A mean over no pair is zero.
    """
    if bandwidth is None:
        bandwidth = settle_bandwidth(kernel, x, y, x_weight, y_weight)
    centre = pooled_centre(x, y, x_weight, y_weight)

    def gram(a: Tensor, b: Tensor, *, same: bool) -> Tensor:
        return kernel.evaluate(distances_about(centre, a, b, same=same), bandwidth)

    return PairMeans(
        _mean_within(gram(x, x, same=True), x_weight, kernel.at_zero, unbiased),
        _mean_within(gram(y, y, same=True), y_weight, kernel.at_zero, unbiased),
        _mean_across(gram(x, y, same=False), x_weight, y_weight),
    )


def squared_mmd(
    x: Tensor,
    y: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    *,
    kernel: Kernel,
    unbiased: bool = False,
    block_size: int | None = None,
) -> Tensor:
    """``within_x + within_y - 2 across`` of :func:`pair_means`: in tiles if possible, otherwise dense."""
    x, y, bandwidth = absorb_bandwidth(kernel, x, y, settle_bandwidth(kernel, x, y, x_weight, y_weight))
    if not can_stream(kernel, (x, y), (x_weight, y_weight, bandwidth)):

        def by_means(dtype: torch.dtype) -> Tensor:
            rows, weights = (
                (x.to(dtype), y.to(dtype)),
                [None if w is None else w.to(dtype) for w in (x_weight, y_weight)],
            )
            means = pair_means(*rows, *weights, kernel=kernel, unbiased=unbiased, bandwidth=bandwidth.to(dtype))
            return means.within_x + means.within_y - 2 * means.across

        bounded = kernel.at_zero > 0
        return with_enough_digits(by_means, x, y, bandwidth, x_weight, y_weight, dtype=x.dtype, bounded=bounded)
    samples = Samples(x, y, None, None, bandwidth.detach(), None, None)
    if x_weight is not None or y_weight is not None:
        a, b = (
            rows.new_ones(rows.shape[0], dtype=torch.float64) if weight is None else weight.detach().double()
            for rows, weight in ((x, x_weight), (y, y_weight))
        )
        left, right, plus = weighted_coefficients(a, b, unbiased)
        centre = pooled_centre(x, y, x_weight, y_weight)
        samples = samples._replace(left=left, right=right, centre=centre, plus=kernel.at_zero * plus)
    return pair_sum(samples, kernel, estimator="unbiased" if unbiased else "biased", block_size=block_size)


def absorb_bandwidth(kernel: Kernel, x: Tensor, y: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The same rows and bandwidth, with the gradient for the bandwidth passing through the rows.

    A built-in kernel depends on distances over the bandwidth:

    .. math:: S(x, y, \sigma) = S(\sigma_0 x / \sigma, \sigma_0 y / \sigma, \sigma_0), \qquad
              \frac{\partial S}{\partial \sigma} = - \frac{1}{\sigma} \sum_i \langle z_i, \nabla_{z_i} S \rangle

    over the rows z of both. With :math:`\sigma_0` the current value the factor is one and the bandwidth a constant, so
    the sum can be computed in tiles. All derivatives are exact. Nothing changes without a gradient for the bandwidth.
    """
    if not (torch.is_grad_enabled() and bandwidth.requires_grad):
        return x, y, bandwidth
    formula = formula_of(kernel)
    if formula is None or formula.kind == "distance":
        return x, y, bandwidth
    if not (torch.compiler.is_compiling() or is_plain(x, y, bandwidth)):
        return x, y, bandwidth
    constant, centre = bandwidth.detach(), pooled_centre(x, y, None, None)
    more = constant / bandwidth - 1  # zero
    return x + (x - centre) * more, y + (y - centre) * more, constant


def weighted_coefficients(a: Tensor, b: Tensor, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
    """C of the squared MMD with these row weights, as two factors, and the total coefficient of k(z, z).

    With ``unbiased`` the latter is not zero for weights above one, because a row of weight 2 is a pair of equal rows.
    """
    n, totals = a.shape[0], (a.sum(), b.sum())
    left = a.new_empty(n + b.shape[0], 2)
    diagonal = a.new_zeros((), dtype=torch.float64)
    across = totals[0] * totals[1]
    for rows, counts, total, column in ((left[:n], a, totals[0], 0), (left[n:], b, totals[1], 1)):
        pairs = total.square() - total if unbiased else total.square()
        rows[:, column] = safe_divide(counts, pairs)
        rows[:, 1 - column] = -safe_divide(counts, across)
        once = counts.square().sum() - total if unbiased else counts.square().sum()
        diagonal = diagonal + safe_divide(once, pairs)
    return left, torch.cat((a, b)), diagonal


def _mean_within(gram: Tensor, weight: Tensor | None, at_zero: float, unbiased: bool) -> Tensor:
    n = gram.shape[0]
    if weight is None:
        if unbiased:
            return (gram.sum() - n * at_zero) / (n * (n - 1))
        return gram.mean()
    total = weight.sum()
    product = weight @ gram @ weight
    if unbiased:
        return safe_divide(product - total * at_zero, total.square() - total)
    return safe_divide(product, total.square())


def _mean_across(gram: Tensor, x_weight: Tensor | None, y_weight: Tensor | None) -> Tensor:
    if x_weight is None and y_weight is None:
        return gram.mean()
    a = gram.new_ones(gram.shape[0]) if x_weight is None else x_weight
    b = gram.new_ones(gram.shape[1]) if y_weight is None else y_weight
    return safe_divide(a @ gram @ b, a.sum() * b.sum())
