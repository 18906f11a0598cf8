"""Kernel two-sample tests: is the difference between two samples more than chance?

:func:`permutation_test` shuffles which row belongs to which sample and is exact at any size;
:func:`wild_bootstrap_test` multiplies paired rows by random signs, and has a form for rows that depend on their
neighbours in time; :func:`optimised_power_test` first chooses the bandwidth on one half of the data. The statistic is
the squared maximum mean discrepancy on the kernels of the losses. Nothing here carries a gradient.

Rows are taken as independent unless said otherwise. Frames of one video are not: pool them, or take one a video,
before a permutation test, or its p-values are far too small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import (
    check_choice,
    check_count,
    check_features,
    check_number,
    check_same_width,
    check_sequence,
    fail,
    shape_text,
)
from mmda._core.components import check_kernel
from mmda._core.masking import full_precision
from mmda._math.relabelling import Splits, matrix, similarities
from mmda.kernels import Energy, Gaussian, Kernel, distances_about

Estimator = Literal["unbiased", "biased"]
_ESTIMATORS = ("unbiased", "biased")

#: Multiples of the kernel's own bandwidth that :func:`select_bandwidth` tries: powers of two.
BANDWIDTH_FACTORS: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

#: Draws of the null distribution that are computed at once: the memory beside the Gram matrix.
_AT_ONCE = 256

#: Seed of the draws where no generator is given: unlike the small ones that data are made with.
_SEED = 0x6D6D6461


@dataclass(frozen=True)
class TwoSampleResult:
    """Outcome of a two-sample test.

    Args:
        statistic: squared maximum mean discrepancy of the two samples.
        p_value: share of the draws under the null hypothesis, the observed one among them, that are at least as large;
            in [1 / (1 + B), 1], never 0.
        null: the B draws, sorted, float64.
        bandwidth: the bandwidth that the kernel was used with.
        method: what was drawn.

    Example:
        >>> result = TwoSampleResult(0.5, 0.25, torch.tensor([0.125, 0.25, 0.625]), 1.0, "permutation")
        >>> result.rejects(0.05), result.quantile(0.5)
        (False, 0.25)
        >>> print(result)
        squared MMD 0.5, p = 0.25 (permutation, 3 draws; 95 % of them at most 0.625)
    """

    statistic: float
    p_value: float
    null: Tensor = field(repr=False, compare=False)  # a comparison of tensors is no truth value
    bandwidth: float
    method: str

    def quantile(self, share: float) -> float:
        """The smallest draw that is at least as large as this share of the draws."""
        check_number("TwoSampleResult.quantile", "share", share, above=0, at_most=1)
        return float(self.null[max(math.ceil(share * len(self.null) - 1e-9), 1) - 1])

    def rejects(self, level: float = 0.05) -> bool:
        """Whether equality of the distributions is rejected at this level."""
        check_number("TwoSampleResult.rejects", "level", level, above=0, below=1)
        return self.p_value <= level

    def __str__(self) -> str:
        return (
            f"squared MMD {self.statistic:.4g}, p = {self.p_value:.4g} ({self.method}, {len(self.null)} draws; "
            f"95 % of them at most {self.quantile(0.95):.4g})"
        )


@torch.no_grad()
def permutation_test(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(),
    estimator: Estimator = "unbiased",
    permutations: int = 500,
    generator: torch.Generator | None = None,
) -> TwoSampleResult:
    r"""Test by relabelling whether two samples come from one distribution; a low p-value means that they do not.

    With the statistic T of :func:`mmda.losses.mmd_loss`, the pooled rows z and B random permutations
    :math:`\pi_1 \dots \pi_B` of them,

    .. math:: p = \frac{1 + \#\{b : T(z_{\pi_b}) \ge T(z)\}}{1 + B}

    Args:
        source: source rows.
        target: target rows; their number may differ.
        kernel: any :class:`mmda.kernels.Kernel`, settled once on the pooled rows.
        estimator: ``"unbiased"`` or ``"biased"``.
        permutations: B; the smallest p-value that can come out is 1 / (1 + B).
        generator: where the permutations are drawn from, on the CPU. Without one they are the same in every call.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        The statistic and its p-value, computed in float64, and the draws: in float64 too, but for samples of more than
        some 750 different rows on a CPU, where those that are far enough from the statistic come from float32 (within
        1e-6 of the largest similarity; the p-value does not depend on it).

    Raises:
        ValueError: wrong shapes or widths, fewer than two rows, rows that are not finite, no permutation.
        TypeError: rows that are not floating point.

    Notes:
        The level is exact at any size: under the null hypothesis :math:`P(p \le \alpha) \le \alpha`. Rows must be
        exchangeable under it, which frames of one video are not.

        Ties count as ties. Data that repeat (counts, one-hot, rounded rows) give most relabellings the same T, and
        rounding must not order them: equal rows are one row with a count, sums run over the smaller sample, and two
        values are equal where they differ by no more than a bound on the rounding of both. It is proved for kernels
        that are convex in the squared distance, as those of :mod:`mmda.kernels` are.

        O((n + m)^2 (d + B)) time and O((n + m)^2) memory, 6 bytes a pair at most: the upper half of one Gram matrix K
        of the different rows, and for the indicator vectors s of all relabellings the product K s, since
        :math:`s^\top K s` and the row sums of K give all three means. For large samples, test a random subset of rows.

    Example:
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> permutation_test(x[:20], x[20:]).rejects(), permutation_test(x[:20], x[20:] + 1).rejects()
        (False, True)

    References:
        Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012), equations 3 and 5; Phipson & Smyth, "Permutation
        P-values Should Never Be Zero", Statistical Applications in Genetics and Molecular Biology 9 (2010), equation
        2.
    """
    caller = "permutation_test"
    check_choice(caller, "estimator", estimator, _ESTIMATORS)
    check_count(caller, "permutations", permutations)
    check_kernel(caller, "kernel", kernel)
    x, y = _samples(caller, source, target)
    generator = _or_fixed(generator)
    with full_precision(x):
        z = torch.cat([x, y])
        bandwidth = _settle(kernel, z, generator)
        return _permute(z, x.shape[0], kernel, bandwidth, estimator, permutations, generator)


def _permute(
    z: Tensor,
    n: int,
    kernel: Kernel,
    bandwidth: Tensor,
    estimator: Estimator,
    permutations: int,
    generator: torch.Generator,
    method: str = "permutation",
) -> TwoSampleResult:
    m = z.shape[0] - n
    splits = Splits(similarities(z, kernel, bandwidth), min(n, m), unbiased=estimator == "unbiased")
    first = torch.arange(n + m).unsqueeze(1) < n
    observed = splits.values(splits.counts(first if n <= m else ~first))
    drawn, at_least = [], 0
    for size in _chunks(permutations):
        keys = torch.rand(size, n + m, generator=generator, dtype=torch.float64)
        chosen = _smallest(keys, n).T
        values, reached = splits.compared(splits.counts(chosen if n <= m else ~chosen), observed)
        drawn.append(values)
        at_least += int(reached.sum())
    return _result(observed, torch.cat(drawn), at_least, bandwidth, method)


def _smallest(keys: Tensor, count: int) -> Tensor:
    """Which entries of each row are its ``count`` smallest (bool)."""
    chosen = keys <= keys.kthvalue(count, 1, keepdim=True).values
    if int(chosen.sum()) > count * len(keys):  # equal keys: once in some hundred million rows
        chosen = torch.zeros_like(chosen).scatter_(1, keys.argsort(1)[:, :count], True)
    return chosen


@torch.no_grad()
def wild_bootstrap_test(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(),
    estimator: Estimator = "unbiased",
    dependence: float = 0.0,
    draws: int = 500,
    generator: torch.Generator | None = None,
) -> TwoSampleResult:
    r"""Test by random multipliers whether two samples of one size are alike; a low p-value means that they are not.

    With :math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)`, the statistic is

    .. math:: T = \frac{1}{n (n - 1)} \sum_{i \ne j} h_{ij}, \qquad
              T_b = \frac{1}{n (n - 1)} \sum_{i \ne j} w_i w_j h_{ij}, \qquad
              p = \frac{1 + \#\{b : T_b \ge T\}}{1 + B}

    (``"biased"``: all i, j and :math:`n^2`). The multipliers w are independent signs, or with a dependence
    :math:`\ell > 0` the stationary process

    .. math:: w_t = e^{-1 / \ell} w_{t - 1} + \sqrt{1 - e^{-2 / \ell}}\, \epsilon_t, \qquad
              \epsilon_t \sim \mathcal N(0, 1)

    Args:
        source: source rows; in the order of time with a dependence.
        target: as many target rows.
        kernel: any :class:`mmda.kernels.Kernel`, settled once on the pooled rows.
        estimator: ``"unbiased"`` or ``"biased"``.
        dependence: :math:`\ell \ge 0`, over how many rows the samples remember; 0 for independent rows.
        draws: B.
        generator: where the multipliers are drawn from, on the CPU. Without one they are the same in every call.

    Shape:
        ``source`` (n, d), ``target`` (n, d).

    Returns:
        The statistic, its p-value and the draws, computed in float64. The unbiased statistic leaves out the pairs
        :math:`(x_i, y_i)` and so differs a little from :func:`permutation_test`'s; the biased one is the same.

    Raises:
        ValueError: wrong shapes, fewer than two rows, unequal sizes, rows that are not finite, a negative dependence.
        TypeError: rows that are not floating point.

    Notes:
        A sign of -1 exchanges :math:`x_i` and :math:`y_i`, so with independent rows this is a permutation test on
        swaps, exact at any size, with matrices a quarter of the size: O(n^2 (d + B)) time. With a dependence the level
        holds for long series only, and :math:`\ell` has to grow with them, slower than n; a few dozen correlation
        lengths are needed.

    Example:
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> wild_bootstrap_test(x[:20], x[20:]).rejects(), wild_bootstrap_test(x[:20], x[20:] + 1).rejects()
        (False, True)

    References:
        Gretton et al., JMLR 13 (2012), equation 4 for the statistic; Fromont et al., "Kernels Based Tests with
        Non-asymptotic Bootstrap Approaches for Two-sample Problems", COLT 2012, for the signs; Chwialkowski,
        Sejdinovic & Gretton, "A Wild Bootstrap for Degenerate Kernel Tests", NIPS 2014, for the process.
    """
    caller = "wild_bootstrap_test"
    check_choice(caller, "estimator", estimator, _ESTIMATORS)
    check_number(caller, "dependence", dependence, at_least=0)
    check_count(caller, "draws", draws)
    check_kernel(caller, "kernel", kernel)
    x, y = _samples(caller, source, target)
    if x.shape[0] != y.shape[0]:
        fail(caller, "target", f"have as many rows as `source` ({x.shape[0]})", y.shape[0])
    generator = _or_fixed(generator)
    with full_precision(x):
        z, n = torch.cat([x, y]), x.shape[0]
        bandwidth = _settle(kernel, z, generator)
        gram = similarities(z, kernel, bandwidth)
        difference = _difference(matrix(gram), n)
        pairs = n * n
        if estimator == "unbiased":
            difference.fill_diagonal_(0)
            pairs = n * (n - 1)
        observed = difference.sum().reshape(1) / pairs
        drawn, at_least = [], 0
        # Four similarities an entry, n^2 entries in a sum: what rounding moves one value by, for signs.
        error = 4 * (gram.entry_error + 2 * n * torch.finfo(z.dtype).eps * gram.size) * n * n / pairs
        for size in _chunks(draws):
            w = _multipliers(n, size, float(dependence), generator).to(x.device)
            values = (w * (difference @ w)).sum(0) / pairs
            # Multipliers that are no signs may be larger than one.
            slack = error * (1 + w.square().mean(0))
            drawn.append(values)
            at_least += int((values >= observed - slack).sum())
        return _result(observed, torch.cat(drawn), at_least, bandwidth, "wild bootstrap")


def _multipliers(n: int, count: int, dependence: float, generator: torch.Generator) -> Tensor:
    """(n, count): signs, or columns of the Gaussian process."""
    if dependence == 0:
        return 2.0 * torch.randint(0, 2, (n, count), generator=generator).double() - 1
    steps = torch.randn(n, count, generator=generator, dtype=torch.float64)
    keep = math.exp(-1 / dependence)
    new = math.sqrt(-math.expm1(-2 / dependence))
    w = torch.empty_like(steps)
    w[0] = steps[0]
    for t in range(1, n):
        w[t] = keep * w[t - 1] + new * steps[t]
    return w


class BandwidthChoice(NamedTuple):
    """What :func:`select_bandwidth` chose, and from what.

    Args:
        bandwidth: the candidate of the largest criterion.
        candidates: all bandwidths that were tried.
        criteria: the criterion at each of them.
    """

    bandwidth: float
    candidates: tuple[float, ...]
    criteria: tuple[float, ...]


@torch.no_grad()
def select_bandwidth(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(scales=(1.0,)),
    factors: Sequence[float] = BANDWIDTH_FACTORS,
    stabiliser: float = 1e-8,
) -> BandwidthChoice:
    r"""Bandwidth whose test has the most power, by its asymptotic criterion; higher criteria mean more power.

    With :math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)` for a bandwidth, the criterion is the
    statistic over its standard deviation under the alternative,

    .. math::

       J = \frac{1}{\hat\sigma\, n (n - 1)} \sum_{i \ne j} h_{ij}, \qquad
       \hat\sigma^2 = \frac{4}{n^3} \sum_i \Big(\sum_j h_{ij}\Big)^2 - \frac{4}{n^4} \Big(\sum_{i, j} h_{ij}\Big)^2
           + \lambda

    Args:
        source: source rows **that are not tested afterwards**.
        target: target rows, likewise. Of unequal samples the first min(n, m) rows of each are used.
        kernel: a kernel with a bandwidth; what it settles on is multiplied by the factors.
        factors: the candidates.
        stabiliser: :math:`\lambda > 0`.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        The best bandwidth, for ``Gaussian(bandwidth, scales=(1.0,))`` and its like, with all candidates and criteria.

    Raises:
        ValueError: wrong shapes, fewer than two rows, rows that are not finite, no candidate, a factor or a
            stabiliser that is not above 0, a kernel without a bandwidth.

    Notes:
        O(n^2 (d + candidates)) time, O(n^2) memory. A bandwidth chosen on the tested rows makes p-values too small:
        :func:`optimised_power_test` splits the data.

    Example:
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> fine = select_bandwidth(x[:100], x[100:].round(decimals=0))  # the same but for the digits
        >>> coarse = select_bandwidth(x[:100], x[100:] + 1)
        >>> fine.bandwidth < coarse.bandwidth
        True

    References:
        Sutherland et al., "Generative Models and Model Criticism via Optimized Maximum Mean Discrepancy", ICLR 2017,
        section 3; Liu et al., "Learning Deep Kernels for Non-Parametric Two-Sample Tests", ICML 2020, equations 3 to
        5.
    """
    caller = "select_bandwidth"
    check_number(caller, "stabiliser", stabiliser, above=0)
    _check_bandwidth(caller, kernel)
    check_sequence(caller, "factors", factors, "factor")
    for factor in factors:
        check_number(caller, "factors", factor, above=0)
    x, y = _samples(caller, source, target)
    n = min(x.shape[0], y.shape[0])
    with full_precision(x):
        z = torch.cat([x[:n], y[:n]])
        base = kernel.settle(z).double()
        squared = _squared(z)
        criteria, candidates = [], []
        for factor in factors:
            candidate = base * factor
            h = _difference(kernel.evaluate(squared, candidate), n)
            sums = h.sum(1)
            variance = 4 / n**3 * sums.square().sum() - 4 / n**4 * sums.sum().square()
            value = (sums.sum() - h.diagonal().sum()) / (n * (n - 1))
            criteria.append(float(value / (variance.clamp_min(0) + stabiliser).sqrt()))
            candidates.append(float(candidate))
    best = max(range(len(criteria)), key=criteria.__getitem__)
    return BandwidthChoice(candidates[best], tuple(candidates), tuple(criteria))


@torch.no_grad()
def optimised_power_test(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(scales=(1.0,)),
    factors: Sequence[float] = BANDWIDTH_FACTORS,
    held_out: float = 0.5,
    estimator: Estimator = "unbiased",
    permutations: int = 500,
    generator: torch.Generator | None = None,
) -> TwoSampleResult:
    """Permutation test with the bandwidth of most power, chosen on rows that the test does not see.

    The rows of each sample are split at random; :func:`select_bandwidth` chooses on one part and
    :func:`permutation_test`, where the formula stands, tests on the other.

    Args:
        source: source rows.
        target: target rows; their number may differ.
        kernel: a kernel with a bandwidth; what it settles on is multiplied by the factors.
        factors: the candidates.
        held_out: share of each sample on which the bandwidth is chosen, in (0, 1).
        estimator: ``"unbiased"`` or ``"biased"``.
        permutations: number of permutations.
        generator: where split and permutations are drawn from, on the CPU. Without one they are the same in every
            call.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        The statistic of the tested part with its p-value, the draws and the chosen bandwidth.

    Raises:
        ValueError: as its two parts; fewer than two rows of a sample in either part; a kernel without a bandwidth.

    Notes:
        The level is exact, since the choice and the test share no row. Half of the rows pay for the choice: it wins
        where the median distance is a poor bandwidth, as with differences on a small scale, and loses a little where
        it is a good one.

    Example:
        >>> x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
        >>> optimised_power_test(x[:40], x[40:] + 1).rejects()
        True

    References:
        Gretton et al., "Optimal kernel choice for large-scale two-sample tests", NIPS 2012; Liu et al., ICML 2020,
        algorithm 1.
    """
    caller = "optimised_power_test"
    check_choice(caller, "estimator", estimator, _ESTIMATORS)
    check_count(caller, "permutations", permutations)
    check_number(caller, "held_out", held_out, above=0, below=1)
    _check_bandwidth(caller, kernel)
    x, y = _samples(caller, source, target)
    generator = _or_fixed(generator)
    parts = []
    for name, rows in (("source", x), ("target", y)):
        first = round(held_out * rows.shape[0])
        if not 2 <= first <= rows.shape[0] - 2:
            fail(caller, name, "have at least 2 rows in either part", f"{first} and {rows.shape[0] - first}")
        order = torch.randperm(rows.shape[0], generator=generator).to(rows.device)
        parts.append((rows[order[:first]], rows[order[first:]]))
    (x_choose, x_test), (y_choose, y_test) = parts
    choice = select_bandwidth(x_choose, y_choose, kernel=kernel, factors=factors)
    with full_precision(x):
        bandwidth = torch.full((), choice.bandwidth, dtype=torch.float64, device=x.device)
        z = torch.cat([x_test, y_test])
        method = "permutation, bandwidth chosen on other rows"
        return _permute(z, x_test.shape[0], kernel, bandwidth, estimator, permutations, generator, method)


# Shared parts


def _check_bandwidth(caller: str, kernel: Kernel) -> None:
    """A kernel whose similarities change with the bandwidth: the others leave nothing to choose."""
    check_kernel(caller, "kernel", kernel)
    if isinstance(kernel, Energy):
        fail(caller, "kernel", "have a bandwidth", repr(kernel))


def _samples(caller: str, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples in float64: finite rows of one width, at least two a side."""
    for name, rows in (("source", source), ("target", target)):
        check_features(caller, name, rows)
        if rows.shape[0] < 2:
            fail(caller, name, "have at least 2 rows", shape_text(rows))
        if not bool(torch.isfinite(rows).all()):
            fail(caller, name, "be finite", "NaN or infinity")
    check_same_width(caller, "source", source, "target", target)
    return source.detach().double(), target.detach().double()


def _or_fixed(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(_SEED) if generator is None else generator


def _settle(kernel: Kernel, z: Tensor, generator: torch.Generator) -> Tensor:
    """The bandwidth on the pooled rows in random order: a heuristic that looks at some rows must not know samples."""
    order = torch.randperm(z.shape[0], generator=generator).to(z.device)
    return kernel.settle(z[order]).detach().double()


def _squared(z: Tensor) -> Tensor:
    return distances_about(z.median(0).values, z, z, same=True)  # a centre that one far row cannot move


def _difference(gram: Tensor, n: int) -> Tensor:
    """h_ij of paired rows from the Gram matrix of both samples."""
    across = gram[:n, n:]
    return gram[:n, :n] + gram[n:, n:] - across - across.T


def _chunks(count: int) -> Iterator[int]:
    return (min(_AT_ONCE, count - start) for start in range(0, count, _AT_ONCE))


def _result(observed: Tensor, drawn: Tensor, at_least: int, bandwidth: Tensor, method: str) -> TwoSampleResult:
    p_value = (1 + at_least) / (1 + len(drawn))
    return TwoSampleResult(float(observed), p_value, drawn.cpu().sort().values, float(bandwidth), method)


__all__ = [
    "BANDWIDTH_FACTORS",
    "BandwidthChoice",
    "TwoSampleResult",
    "optimised_power_test",
    "permutation_test",
    "select_bandwidth",
    "wild_bootstrap_test",
]
