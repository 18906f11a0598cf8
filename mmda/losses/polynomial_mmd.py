"""Squared MMD with a polynomial kernel: the kernel inception distance (KID) on a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_number
from mmda._core.counts import total_weight, zero_if_empty
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import two_samples
from mmda.losses._sample_modules import DiscrepancyModule

PolynomialEstimator = Literal["biased", "unbiased"]


def polynomial_mmd_loss(
    source: Tensor,
    target: Tensor,
    *,
    degree: int = 3,
    scale: float | None = None,
    offset: float = 1.0,
    estimator: PolynomialEstimator = "unbiased",
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared maximum mean discrepancy under a polynomial kernel (KID); lower means closer moments up to its degree.

    .. math:: k(x, y) = (\gamma\, x \cdot y + c)^p, \qquad
              L = \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{n m} \sum_{i, j} k(x_i, y_j)

    for ``estimator="unbiased"``; the biased one averages over all pairs, including i = j.

    Args:
        source: x, source features.
        target: y, target features; the number of rows may differ.
        degree: p >= 1. Moments of order up to p are compared.
        scale: :math:`\gamma > 0`; None for 1 / d.
        offset: :math:`c \ge 0`; 0 compares only the moments of order p.
        estimator: "unbiased" (may be negative) or "biased" (>= 0).
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input). Zero if masks and weights leave a sample empty, or with at most one
        row for the unbiased estimator.

    Raises:
        ValueError: wrong shapes or widths, a setting out of its range, a single row for the unbiased estimator.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        The defaults are the constants of the kernel inception distance, which is this number on Inception features,
        usually averaged over subsets of 1,000 rows; values from different feature extractors are not comparable. O((n +
        m)^2 d) time, O((n + m)^2) memory, in float64, because large powers cancel. Unlike with kernels of distances, a
        common offset of the features changes the value.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
        >>> round(polynomial_mmd_loss(x, y, degree=1, estimator="biased").item(), 4)  # squared distance of the means
        1.0

    References:
        Binkowski, Sutherland, Arbel & Gretton, "Demystifying MMD GANs", ICLR 2018, section 4 for kernel and estimator.
    """
    caller = "polynomial_mmd_loss"
    _check_settings(caller, degree, scale, offset, estimator)
    with full_precision(source):
        unbiased = estimator == "unbiased"
        weights, masks = (source_weight, target_weight), (source_mask, target_mask)
        x, y, x_weight, y_weight = two_samples(caller, source, target, weights, masks, unbiased=unbiased, dropped=True)
        x, y = x.double(), y.double()
        factor = 1.0 / x.shape[1] if scale is None else scale

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return (factor * (a @ b.transpose(0, 1)) + offset).pow(degree)

        def shares(rows: Tensor, weight: Tensor | None) -> Tensor:
            return torch.ones_like(rows[:, 0]) if weight is None else weight.double()

        def within(rows: Tensor, weight: Tensor | None) -> Tensor:
            count, total = shares(rows, weight), total_weight(rows, weight).to(rows.dtype)
            every = count @ kernel(rows, rows) @ count
            if not unbiased:
                return safe_divide(every, total.square())
            itself = count @ (factor * rows.square().sum(1) + offset).pow(degree)
            return safe_divide(every - itself, total * (total - 1))

        across = shares(x, x_weight) @ kernel(x, y) @ shares(y, y_weight)
        sizes = total_weight(x, x_weight).double() * total_weight(y, y_weight).double()
        value = within(x, x_weight) + within(y, y_weight) - 2 * safe_divide(across, sizes)
        value = zero_if_empty(value, x, y, (x_weight, y_weight), unbiased)
        return value.to(working_dtype(source, target))


def _check_settings(caller: str, degree: int, scale: float | None, offset: float, estimator: str) -> None:
    check_count(caller, "degree", degree)
    if scale is not None:
        check_number(caller, "scale", scale, above=0)
    check_number(caller, "offset", offset, at_least=0)
    check_choice(caller, "estimator", estimator, ("biased", "unbiased"))


class PolynomialMMDLoss(DiscrepancyModule):
    """Module form of :func:`polynomial_mmd_loss` (KID), which documents the formula, shapes and errors.

    Args:
        degree: degree of the kernel.
        scale: factor of the inner products; None for one over the number of features.
        offset: added to the scaled inner products.
        estimator: "unbiased" or "biased".

    Example:
        >>> PolynomialMMDLoss()
        PolynomialMMDLoss(degree=3, scale=None, offset=1, estimator='unbiased')
    """

    _function = staticmethod(polynomial_mmd_loss)

    def __init__(
        self,
        *,
        degree: int = 3,
        scale: float | None = None,
        offset: float = 1.0,
        estimator: PolynomialEstimator = "unbiased",
    ) -> None:
        super().__init__()
        _check_settings("PolynomialMMDLoss", degree, scale, offset, estimator)
        self.degree = degree
        self.scale = scale
        self.offset = offset
        self.estimator: PolynomialEstimator = estimator
