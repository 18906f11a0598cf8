"""Confidence intervals and paired tests over per-query values, resampling whole videos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmda._core.checks import check_count, check_number, fail

Floats = NDArray[np.float64]


# Elements per (draws, videos) block of signs.
_BLOCK = 1 << 21


# Elements per block of draws, which fits in the L2 cache and halves the time; does not affect the draws.
_DRAWN = 1 << 15


@dataclass(frozen=True)
class Interval:
    """A mean with a confidence interval; the bounds are NaN for a single value.

    Args:
        mean: the estimate.
        low: lower bound.
        high: upper bound.

    Example:
        >>> print(Interval(0.371, 0.350, 0.392))
        37.1 [35.0, 39.2]
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """In per cent."""
        if math.isnan(self.low):
            return f"{100 * self.mean:.1f}"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class PairedTest:
    """Difference of two rows on the same queries, its interval, and a two-sided p-value.

    Args:
        difference: mean of ``a - b``.
        low: lower bound of the bootstrap interval.
        high: upper bound.
        p_value: p-value of the sign-flip test, in (0, 1].
    """

    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        """In percentage points."""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.difference:+.1f} [{low:+.1f}, {high:+.1f}], p = {self.p_value:.4f}"


def _not_finite(caller: str, argument: str) -> NoReturn:
    fail(caller, argument, "be finite", "NaN or infinity")


def _vector(caller: str, argument: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        fail(caller, argument, "be a non-empty vector", f"{array.shape}")
    if not np.isfinite(array).all():
        _not_finite(caller, argument)
    return array


def _group_sums(caller: str, values: Floats, groups: ArrayLike | None) -> tuple[Floats, Floats]:
    """Sum of the values and number of rows, by group."""
    if groups is None:
        return values, np.ones_like(values)
    units = np.asarray(groups)
    if units.shape != values.shape:
        fail(caller, "groups", f"have shape {values.shape}", f"{units.shape}")
    _, index = np.unique(units, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    return sums.astype(np.float64), counts.astype(np.float64)


def _resampled_means(sums: Floats, counts: Floats, samples: int, rng: np.random.Generator) -> Floats:
    """Means of ``samples`` bootstrap draws of groups."""
    groups, equal = len(sums), counts.min() == counts.max()
    means = np.empty(samples)
    step = max(1, _DRAWN // groups)
    for low in range(0, samples, step):
        drawn = rng.integers(0, groups, size=(min(step, samples - low), groups))
        # mode="clip" skips the bounds check, which takes half of the time; all indices are valid
        sizes = groups * counts[0] if equal else counts.take(drawn, mode="clip").sum(1)
        means[low : low + step] = sums.take(drawn, mode="clip").sum(1) / sizes
    return means


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    r"""Mean of per-query values with a percentile bootstrap interval that resamples whole groups.

    For a bootstrap draw v* of groups: :math:`\sum_{g \in v^*} S_g / \sum_{g \in v^*} N_g`, with S the sum and N the
    number of a group's values.

    Args:
        values: one number per query.
        groups: the video of each query; ``None`` resamples queries.
        seed: seed of the draws.
        samples: number of draws.
        level: coverage, in (0, 1).

    Returns:
        An :class:`Interval`; with a single group the bounds are NaN.

    Raises:
        ValueError: values are empty or not finite, or groups do not match them.

    Notes:
        O(samples x groups), independent of the number of queries, without a loop over draws.

    Example:
        >>> print(bootstrap_interval([0.0, 1.0, 1.0, 0.0], groups=["a", "a", "b", "b"]))
        50.0 [50.0, 50.0]
    """
    caller = "bootstrap_interval"
    check_count(caller, "samples", samples)
    check_number(caller, "level", level, above=0, below=1)
    array = _vector(caller, "values", values)
    sums, counts = _group_sums(caller, array, groups)
    mean = float(array.mean())
    if len(sums) == 1:
        return Interval(mean, math.nan, math.nan)
    means = _resampled_means(sums, counts, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def seed_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    r"""Mean over training seeds with the t-interval :math:`\bar x \pm t_{n-1}\, s / \sqrt n`.

    Args:
        values: one number per seed.
        level: coverage, in (0, 1).

    Returns:
        An :class:`Interval`; for one seed the bounds are NaN.

    Raises:
        ValueError: values are empty or not finite.

    Example:
        >>> print(seed_interval([0.30, 0.32, 0.34]))
        32.0 [27.0, 37.0]
    """
    check_number("seed_interval", "level", level, above=0, below=1)
    array = _vector("seed_interval", "values", values)
    mean, count = float(array.mean()), len(array)
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    from scipy.special import stdtrit  # imported here so that the module does not need scipy

    half = float(stdtrit(count - 1, (1 + level) / 2)) * float(array.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    samples: int = 10_000,
    level: float = 0.95,
) -> PairedTest:
    r"""Compare two rows on the same queries by a two-sided sign-flip permutation test over groups.

    With :math:`D_g` the sum of a - b over group g: under the null hypothesis the rows are exchangeable within a
    group, so :math:`\sum_g \pm D_g` with random signs is as likely as :math:`\sum_g D_g`, and
    :math:`p = (1 + \#\{|\sum_g \pm D_g| \ge |\sum_g D_g|\}) / (1 + B)`, never 0.

    Args:
        a: per-query values of one row.
        b: per-query values of the other, same queries in the same order.
        groups: the video of each query.
        seed: seed of signs and draws.
        samples: B, number of sign vectors, and of bootstrap draws for the interval of the difference.
        level: coverage of that interval.

    Returns:
        A :class:`PairedTest`.

    Raises:
        ValueError: lengths differ, or values are empty or not finite.

    Example:
        >>> result = paired_test([1.0] * 12, [0.0] * 12)
        >>> result.difference, result.p_value < 0.01
        (1.0, True)
    """
    caller = "paired_test"
    check_count(caller, "samples", samples)
    check_number(caller, "level", level, above=0, below=1)
    first, second = _vector(caller, "a", a), _vector(caller, "b", b)
    if first.shape != second.shape:
        fail(caller, "b", f"have shape {first.shape}", f"{second.shape}")
    rng = np.random.default_rng(seed)
    sums, counts = _group_sums(caller, first - second, groups)
    total, bytes_a_row = float(sums.sum()), -(-len(sums) // 8)
    # sums in another order differ by rounding, so compare with a tolerance
    bound = abs(total) - 1e-9 * float(np.abs(sums).sum())
    reached, step = 0, max(1, _BLOCK // len(sums))
    for low in range(0, samples, step):
        rows = min(step, samples - low)
        coins = np.frombuffer(rng.bytes(rows * bytes_a_row), dtype=np.uint8).reshape(rows, bytes_a_row)
        kept = np.unpackbits(coins, axis=1, count=len(sums)) @ sums  # the positive part for each sign vector
        reached += int((np.abs(2 * kept - total) >= bound).sum())
    difference = float((first - second).mean())
    low_bound = high_bound = math.nan
    if len(sums) > 1:
        means = _resampled_means(sums, counts, samples, rng)
        low_bound, high_bound = (float(q) for q in np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return PairedTest(difference, low_bound, high_bound, (1 + reached) / (1 + samples))


def recovered_gap(x: float, source_only: float, target_supervised: float) -> float:
    r"""Fraction of the domain gap that a method closes: 0 is source-only, 1 is target-supervised.

    .. math:: \frac{x - \text{source-only}}{\text{target-supervised} - \text{source-only}}

    Args:
        x: the method's metric.
        source_only: the same metric without adaptation.
        target_supervised: the same metric with the target's labels.

    Returns:
        A float, below 0 for negative transfer, above 1 if better than target-supervised; NaN if there is no gap.

    Example:
        >>> recovered_gap(30.0, 20.0, 40.0)
        0.5
    """
    gap = target_supervised - source_only
    return (x - source_only) / gap if gap > 0 else math.nan
