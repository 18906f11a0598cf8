"""Fréchet distance of two samples: that of the Gaussians with their means and covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number, check_same_width
from mmda._core.counts import median_centre, pooled_centre
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import as_rows
from mmda._core.transforms import values_are_known
from mmda._math.spectral import smooth_nuclear_norm
from mmda._math.standardise import centred_rows
from mmda.kernels import safe_sqrt
from mmda.losses._sample_modules import DiscrepancyModule

#: With a number this many times larger than the median, float32 leaves the other rows too few digits.
_FAR = 1e3


def frechet_distance_loss(
    source: Tensor,
    target: Tensor,
    *,
    smoothing: float = 1e-4,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared 2-Wasserstein distance of the Gaussians with the samples' moments; lower means closer.

    With means :math:`\mu` and biased covariances :math:`\Sigma` of both samples,

    .. math::

       L = \lVert \mu_x - \mu_y \rVert^2 + \operatorname{tr} \Sigma_x + \operatorname{tr} \Sigma_y
           - 2 \operatorname{tr} \bigl(\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2}\bigr)^{1/2}

    The last trace is the nuclear norm of :math:`X Y^\top / \sqrt{n m}`, X and Y the centred rows, whose singular values
    :math:`\sigma` are smoothed as :math:`\sigma^2 / \sqrt{\sigma^2 + \epsilon^2}`, :math:`\epsilon` being
    ``smoothing`` times :math:`(\operatorname{tr} \Sigma_x \operatorname{tr} \Sigma_y)^{1/2}`.

    Args:
        source: source features x.
        target: target features y; the number of rows may differ.
        smoothing: > 0, dimensionless. Without it the norm is not differentiable where a singular value is 0.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0 up to rounding, float32 (float64 for float64 input). Zero if either sample is empty after masks and
        weights.

    Raises:
        ValueError: wrong shapes, a smoothing that is not above 0.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n m (d + min(n, m))) time, O(n m) memory: for batches. Unlike CORAL, which compares covariances entry by entry
        in squared units, it is a squared distance in feature space. The smoothing raises the value, by at most 0.6
        ``smoothing`` times the geometric mean of the traces for each dimension. Weights enter by their square roots,
        which have no derivative at weight 0; the gradient there is 0. Differs from the Fréchet inception distance:
        biased covariances.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(frechet_distance_loss(rows, rows + 2).item(), 3)  # the shift: 2 * 2^2
        8.0
        >>> round(frechet_distance_loss(rows, 3 * rows).item(), 3)  # per dimension (3 - 1)^2 / 2
        4.0

    References:
        Dowson & Landau, "The Fréchet Distance between Multivariate Normal Distributions", Journal of Multivariate
        Analysis 12 (1982), equation 4; Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter, "GANs Trained by a Two
        Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, equation 6.
    """
    caller = "frechet_distance_loss"
    check_number(caller, "smoothing", smoothing, above=0)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, x_count = as_rows(caller, "source", source, mask=source_mask, weight=source_weight, dtype=dtype)
        y, y_count = as_rows(caller, "target", target, mask=target_mask, weight=target_weight, dtype=dtype)
        check_same_width(caller, "source", x, "target", y)
        centre = pooled_centre(x, y, x_count, y_count).detach()
        if values_are_known(x, y, x_count, y_count) and _has_far_rows(x, y, median_centre(x, y, x_count, y_count)):
            x, y = x.double(), y.double()
            x_count, y_count = (None if count is None else count.double() for count in (x_count, y_count))
        x, y = x - centre, y - centre
        top = torch.maximum(x.detach().abs().amax(), y.detach().abs().amax())
        top = torch.where(top > 0, top, torch.ones_like(top))  # squares would leave the range of float32
        x_mean, x_total, x = _moments(x / top, x_count)
        y_mean, y_total, y = _moments(y / top, y_count)
        gap = (x_mean - y_mean).square().sum()
        traces = x.square().sum(), y.square().sum()
        scale = safe_sqrt(traces[0]) * safe_sqrt(traces[1])
        unit = torch.where(scale > 0, scale, torch.ones_like(scale))
        overlap = smooth_nuclear_norm(x @ y.transpose(0, 1) / unit, smoothing) * unit
        value = (gap + traces[0] + traces[1] - 2 * overlap) * top.square()
        return torch.where((x_total > 0) & (y_total > 0), value, 0 * value).to(dtype)


def _has_far_rows(x: Tensor, y: Tensor, centre: Tensor) -> bool:
    size = (torch.cat([x.detach(), y.detach()]) - centre).abs()
    return bool(size.amax() > _FAR * size.median())


def _moments(rows: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, total weight, and centred rows scaled by the square roots of their shares."""
    centred, total = centred_rows(rows, count)
    if count is None:
        return rows.mean(0), total, centred / rows.shape[0] ** 0.5
    return safe_divide(count @ rows, total), total, centred * safe_sqrt(safe_divide(count, total)).unsqueeze(1)


class FrechetDistanceLoss(DiscrepancyModule):
    """Module form of :func:`frechet_distance_loss`, which documents the formula, shapes and errors.

    Args:
        smoothing: smooths the nuclear norm near vanishing singular values, above 0.

    Example:
        >>> FrechetDistanceLoss()
        FrechetDistanceLoss(smoothing=0.0001)
    """

    _function = staticmethod(frechet_distance_loss)

    def __init__(self, *, smoothing: float = 1e-4) -> None:
        super().__init__()
        check_number("FrechetDistanceLoss", "smoothing", smoothing, above=0)
        self.smoothing = smoothing
