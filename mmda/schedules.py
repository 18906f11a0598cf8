"""Ramps: pure functions from training progress to a strength, to be called by the training loop."""

from __future__ import annotations

import math

from mmda._core.checks import check_number


def dann_ramp(progress: float, *, gamma: float = 10.0) -> float:
    r"""Smooth ramp from 0 to (nearly) 1.

    .. math:: \lambda(p) = \frac{2}{1 + \exp(-\gamma p)} - 1

    Args:
        progress: p, fraction of training done; clipped to [0, 1].
        gamma: steepness, > 0.

    Returns:
        A float in [0, 1], equal to 1 only by rounding (for :math:`\gamma p` of 37 or more).

    Raises:
        ValueError: ``gamma`` is not positive, ``progress`` is not finite.
        TypeError: an argument that is not a number.

    Example:
        >>> [round(dann_ramp(p), 3) for p in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.462, 0.987, 1.0]

    References:
        Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016), section 5.2.2.
    """
    check_number("dann_ramp", "progress", progress)
    check_number("dann_ramp", "gamma", gamma, above=0)
    p = min(max(progress, 0.0), 1.0)
    return 2.0 / (1.0 + math.exp(-gamma * p)) - 1.0


def linear_ramp(progress: float, *, start: float = 0.0, end: float = 1.0) -> float:
    """Zero up to ``start``, one from ``end`` on, linear in between.

    Args:
        progress: fraction of training done.
        start: progress at which the ramp leaves zero.
        end: progress at which it reaches one; ``end == start`` is a step.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: ``end`` lies before ``start``, or a number is not finite.
        TypeError: an argument that is not a number.

    Example:
        >>> [linear_ramp(p, start=0.5) for p in (0.25, 0.75, 1.0)]
        [0.0, 0.5, 1.0]
    """
    check_number("linear_ramp", "progress", progress)
    check_number("linear_ramp", "start", start)
    check_number("linear_ramp", "end", end, at_least=start)
    if progress >= end:
        return 1.0
    return max(0.0, (progress - start) / (end - start)) if end > start else 0.0


def cosine_decay(progress: float, *, floor: float = 0.0) -> float:
    r"""Half a cosine from 1 to ``floor``: :math:`f + (1 - f) (1 + \cos \pi p) / 2`.

    Args:
        progress: p, fraction of training done; clipped to [0, 1].
        floor: f, the value at the end, in [0, 1].

    Returns:
        A float in [floor, 1].

    Raises:
        ValueError: ``floor`` lies outside [0, 1], ``progress`` is not finite.
        TypeError: an argument that is not a number.

    Example:
        >>> [round(cosine_decay(p), 3) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]

    References:
        Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, one cycle.
    """
    check_number("cosine_decay", "progress", progress)
    check_number("cosine_decay", "floor", floor, at_least=0, at_most=1)
    p = min(max(progress, 0.0), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * p))


__all__ = ["cosine_decay", "dann_ramp", "linear_ramp"]
