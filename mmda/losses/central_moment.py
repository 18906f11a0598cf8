"""Central moment discrepancy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_number, check_sequence, fail
from mmda._core.counts import pooled_centre, total_weight
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import two_samples
from mmda._core.scales import unit_of
from mmda._core.transforms import values_are_known
from mmda._math.logits import weighted_mean
from mmda.kernels import safe_sqrt
from mmda.losses._sample_modules import DiscrepancyModule

#: Features up to this many interval lengths from the centre are computed in float32, farther ones in float64.
_FAR = 256.0
#: Range of the largest squared power within which no scaling is needed in float32.
_SQUARES = (1e-20, 1e30)


def central_moment_discrepancy_loss(
    source: Tensor,
    target: Tensor,
    *,
    orders: int = 5,
    interval: tuple[float, float] = (0.0, 1.0),
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Distance between the means and the central moments, feature by feature; lower means closer marginals.

    .. math::

       \frac{\lVert \bar x - \bar y \rVert}{b - a}
       + \sum_{k = 2}^{K} \frac{\lVert c_k(x) - c_k(y) \rVert}{(b - a)^k}, \qquad
       c_k(x) = \frac{1}{n} \sum_i (x_i - \bar x)^k \ \text{(elementwise)}

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        orders: K, the highest moment; 1 compares only means.
        interval: (a, b), the range of one feature: (0, 1) after a sigmoid, (-1, 1) after a hyperbolic tangent.
            Values outside are allowed, but their higher moments grow as powers of them.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if either sample is empty after masks and weights.

    Raises:
        ValueError: wrong shapes, ``orders`` below 1, an empty interval.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m) d K) time, O((n + m) d) memory in addition to the autograd graph. A norm is not differentiable where
        two moments are equal; its gradient there is zero.

    Example:
        >>> import torch
        >>> source, target = torch.tensor([[0.0], [0.5]]), torch.tensor([[0.25], [0.75]])
        >>> central_moment_discrepancy_loss(source, target).item()  # a shift moves the mean alone
        0.25

    References:
        Zellinger et al., "Central Moment Discrepancy (CMD) for Domain-Invariant Representation Learning", ICLR 2017,
        equation 10 (empirical form of definition 1).
    """
    caller = "central_moment_discrepancy_loss"
    width = _check_options(caller, orders, interval)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask)
        )
        centre = pooled_centre(x, y, x_weight, y_weight)
        near = (x - centre) / width, (y - centre) / width
        known = values_are_known(*near, x_weight, y_weight)
        bounds = [bound for side in near for bound in side.detach().aminmax()] if known else []
        top = float(torch.stack(bounds).abs().amax()) if known else math.inf
        if top <= _FAR and _SQUARES[0] <= top ** (2 * orders) <= _SQUARES[1]:
            value = _plain_total(*near, x_weight, y_weight, orders)
        else:
            if not top <= _FAR:
                # powers of large values overflow float32, or round the small ones away
                near = (x.double() - centre) / width, (y.double() - centre) / width
            value = _total(*near, x_weight, y_weight, orders).to(dtype)
        if x_weight is None and y_weight is None:
            return value
        both = (total_weight(x, x_weight) > 0) & (total_weight(y, y_weight) > 0)
        return torch.where(both, value, 0 * value)


def _plain_total(x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None, orders: int) -> Tensor:
    """The formula as written, for values whose powers stay in the range of float32."""
    x_mean, y_mean = weighted_mean(x, x_weight), weighted_mean(y, y_weight)
    total = safe_sqrt((x_mean - y_mean).square().sum())
    x, y = x - x_mean, y - y_mean
    x_power, y_power = x, y
    for _ in range(2, orders + 1):
        x_power, y_power = x_power * x, y_power * y
        difference = weighted_mean(x_power, x_weight) - weighted_mean(y_power, y_weight)
        total = total + safe_sqrt(difference.square().sum())
    return total


def _total(x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None, orders: int) -> Tensor:
    x_weight, y_weight = (None if weight is None else weight.to(x.dtype) for weight in (x_weight, y_weight))
    x_mean, y_mean = weighted_mean(x, x_weight), weighted_mean(y, y_weight)
    between, x, y = x_mean - y_mean, x - x_mean, y - y_mean
    gap, unit = unit_of(between), unit_of(x, y)
    total = safe_sqrt((between / gap).square().sum()) * gap.double()
    x, y = x / unit, y / unit
    wide = unit.double()  # its powers may overflow float32 although the value does not
    x_power, y_power = x, y
    for order in range(2, orders + 1):
        x_power, y_power = x_power * x, y_power * y
        difference = weighted_mean(x_power, x_weight) - weighted_mean(y_power, y_weight)
        total = total + safe_sqrt(difference.square().sum()) * wide**order
    return total


def _check_options(caller: str, orders: int, interval: tuple[float, float]) -> float:
    """Check the options and return the length of the interval."""
    check_count(caller, "orders", orders)
    check_sequence(caller, "interval", interval, "number")
    if len(interval) != 2:
        fail(caller, "interval", "be two numbers (low, high)", interval)
    low, high = interval
    check_number(caller, "interval", low)
    check_number(caller, "interval", high)
    if high <= low:
        fail(caller, "interval", "have low < high", interval)
    return float(high - low)


class CentralMomentDiscrepancyLoss(DiscrepancyModule):
    """Module form of :func:`central_moment_discrepancy_loss`, which documents the formula, shapes and errors.

    Args:
        orders: the highest moment.
        interval: the range of one feature.

    Example:
        >>> CentralMomentDiscrepancyLoss(orders=3, interval=(-1.0, 1.0))
        CentralMomentDiscrepancyLoss(orders=3, interval=(-1.0, 1.0))
    """

    _function = staticmethod(central_moment_discrepancy_loss)

    def __init__(self, *, orders: int = 5, interval: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        _check_options("CentralMomentDiscrepancyLoss", orders, interval)
        self.orders = orders
        self.interval = (float(interval[0]), float(interval[1]))
