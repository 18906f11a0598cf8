"""Correlation alignment."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mmda._core.counts import pooled_centre
from mmda._core.digits import widened_where_lost
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import two_samples
from mmda.losses._sample_modules import DiscrepancyModule

#: Covariances whose squared difference is below this share of the squared sum of their variances have lost too many
#: digits to each other in float32.
_LOST = 1e-7


def coral_loss(
    source: Tensor,
    target: Tensor,
    *,
    match_mean: bool = False,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared distance between the covariances of two samples; lower means closer second moments.

    With d features, covariances :math:`C_s, C_t` and means :math:`\mu_s, \mu_t`,

    .. math::

       L = \frac{1}{4 d^2} \lVert C_s - C_t \rVert_F^2
           \;\Big[ + \frac{1}{4 d} \lVert \mu_s - \mu_t \rVert^2 \text{ if } \texttt{match\_mean} \Big],
       \qquad C = \frac{1}{W - 1} \sum_i w_i (x_i - \mu)(x_i - \mu)^\top,
       \quad \mu = \frac{1}{W} \sum_i w_i x_i

    where :math:`W = \sum_i w_i` is the weighted number of rows.

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        match_mean: add the term in brackets; both terms are then a quarter of a mean squared difference of entries.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if masks and weights leave a sample with at most one row,
        whose covariance is undefined.

    Raises:
        ValueError: wrong shapes; a sample with a single row.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m) d min(n + m, d)) time and O(min(n + m, d)^2) memory: with fewer rows than features the norm is
        computed from Gram matrices of the rows, without a d x d matrix. In that case samples of equal size without
        masks and weights stay accurate as row i of one approaches row i of the other. All others are compared in
        float64, because large sums are subtracted: for covariances at a relative distance :math:`\delta` the relative
        error is about :math:`10^{-16} / \delta^2`. Covariances that differ by less than some 3e-4 of the variance are
        computed in float64 too, and so is everything under ``torch.compile`` and function transforms. The value grows
        with the fourth power of the features' scale. Under autocast everything is computed in float32 or float64. The
        paper has no term for the means.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> source = torch.randn(64, 16, generator=generator)
        >>> target = torch.randn(48, 16, generator=generator)
        >>> bool(coral_loss(source, 2 * target) > 10 * coral_loss(source, target + 1.0))
        True

    References:
        Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016 Workshops,
        equations 1 to 3.
    """
    dtype = working_dtype(source, target)
    with full_precision(source):
        weights, masks = (source_weight, target_weight), (source_mask, target_mask)
        x, y, x_weight, y_weight = two_samples("coral_loss", source, target, weights, masks, fewest=2, dropped=True)
        compute = partial(_value, match_mean=match_mean)
        value = widened_where_lost(compute, x, y, x_weight, y_weight, dtype=dtype)
        if x_weight is None and y_weight is None:
            return value
        enough = torch.stack([w.sum() > 1 for w in (x_weight, y_weight) if w is not None]).all()
        return torch.where(enough, value, 0 * value)


def _value(
    x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None, *, match_mean: bool, look: bool
) -> Tensor | None:
    """The loss; None where the covariances differ by less than the root of this share of their size."""
    width = x.shape[1]
    centre = pooled_centre(x, y, x_weight, y_weight)
    x_mean, x, x_share = _centred(x - centre, x_weight)
    y_mean, y, y_share = _centred(y - centre, y_weight)
    norm = _through_rows if x.shape[0] + y.shape[0] < width else _through_features
    squared = norm(x, y, x_share, y_share, look)
    if squared is None:
        return None
    value = squared / (4 * width * width)
    return value + (x_mean - y_mean).square().sum() / (4 * width) if match_mean else value


def _centred(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | float]:
    """Mean, centred rows, and the factor of each row in the covariance."""
    if weight is None:
        mean = x.mean(0)
        return mean, x - mean, 1.0 / (x.shape[0] - 1)
    total = weight.sum()
    mean = safe_divide(weight @ x, total)
    return mean, x - mean, safe_divide(weight, total - 1)


def _is_lost(look: bool, squared: Tensor, first: Tensor, second: Tensor, factor: float = 1.0) -> bool:
    """Whether the squared difference is below a share of the square of these two variances."""
    if not look:
        return False
    variance = factor * (float(first.detach().trace()) + float(second.detach().trace()))
    return float(squared.detach()) < _LOST * variance**2


def _through_features(
    x: Tensor, y: Tensor, x_share: Tensor | float, y_share: Tensor | float, look: bool
) -> Tensor | None:
    """||C_x - C_y||_F^2 from the d x d covariances of centred rows."""
    a, b = _covariance(x, x_share), _covariance(y, y_share)
    squared = (a - b).square().sum()
    return None if _is_lost(look, squared, a, b) else squared


def _covariance(x: Tensor, share: Tensor | float) -> Tensor:
    return (x * share.unsqueeze(1)).T @ x if isinstance(share, Tensor) else (x.T @ x) * share


def _through_rows(x: Tensor, y: Tensor, x_share: Tensor | float, y_share: Tensor | float, look: bool) -> Tensor | None:
    """||C_x - C_y||_F^2 from inner products of rows, <A^T A, B^T B> = ||A B^T||_F^2.

    Samples of equal size are compared through sums a and differences b of rows, as :math:`2 (x^T x - y^T y) = a^T b +
    b^T a`, so small differences enter as factors and nothing cancels. Otherwise large sums are subtracted, in float64.
    A negative value from rounding is raised to zero without changing the gradient.
    """
    if isinstance(x_share, float) and isinstance(y_share, float) and x.shape[0] == y.shape[0]:
        a, b = x + y, x - y
        sums, differences, mixed = a @ a.T, b @ b.T, a @ b.T
        value = (sums * differences + mixed * mixed.T).sum() * (x_share * y_share / 2)
        if _is_lost(look, value, sums, differences, x_share / 2):
            return None
    else:
        a, b = x.double(), y.double()
        within = _inner(a, a, x_share, x_share) + _inner(b, b, y_share, y_share)
        value = within - 2 * _inner(a, b, x_share, y_share)
    return (value - value.detach().clamp(max=0)).to(x.dtype)


def _inner(x: Tensor, y: Tensor, x_share: Tensor | float, y_share: Tensor | float) -> Tensor:
    squared = (x @ y.T).square()
    squared = x_share.double() @ squared if isinstance(x_share, Tensor) else squared.sum(0) * x_share
    return squared @ y_share.double() if isinstance(y_share, Tensor) else squared.sum() * y_share


class CORALLoss(DiscrepancyModule):
    """Module form of :func:`coral_loss`, which documents the formula, shapes and errors.

    Args:
        match_mean: add the squared distance between the means.

    Example:
        >>> CORALLoss(match_mean=True)
        CORALLoss(match_mean=True)
    """

    _function = staticmethod(coral_loss)

    def __init__(self, *, match_mean: bool = False) -> None:
        super().__init__()
        self.match_mean = match_mean
