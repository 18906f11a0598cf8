"""Kernel two-sample tests: do two samples come from the same distribution?

:func:`permutation_test` permutes the assignment of rows to samples and is exact at any size;
:func:`wild_bootstrap_test` multiplies paired rows by random signs, with a variant for time series;
:func:`optimised_power_test` first selects the bandwidth on one half of the data. The statistic is the squared maximum
mean discrepancy with the kernels of the losses. Results have no gradient. :func:`kernel_inception_distance` is no test:
it reports the discrepancy of a polynomial kernel over random subsets.

Rows are assumed independent unless stated otherwise. Frames of one video are not: pool them, or take one frame per
video, before a permutation test, otherwise its p-values are far too small.
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
    check_finite,
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
from mmda.losses import polynomial_mmd_loss

Estimator = Literal["unbiased", "biased"]
_ESTIMATORS = ("unbiased", "biased")

#: Factors on the kernel's bandwidth that :func:`select_bandwidth` tries: powers of two.
BANDWIDTH_FACTORS: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

#: Draws of the null distribution computed at once, which limits the memory in addition to the Gram matrix.
_AT_ONCE = 256

#: Default seed, chosen unlike the small seeds that data are often generated with.
_SEED = 0x6D6D6461


@dataclass(frozen=True)
class TwoSampleResult:
    """Outcome of a two-sample test.

    Args:
        statistic: squared maximum mean discrepancy of the two samples.
        p_value: fraction of the draws under the null hypothesis, including the observed one, that are at least as
            large; in [1 / (1 + B), 1], never 0.
        null: the B draws, sorted, float64.
        bandwidth: the kernel bandwidth used.
        method: how the null distribution was drawn.

    Example:
        >>> result = TwoSampleResult(0.5, 0.25, torch.tensor([0.125, 0.25, 0.625]), 1.0, "permutation")
        >>> result.rejects(0.05), result.quantile(0.5)
        (False, 0.25)
        >>> print(result)
        squared MMD 0.5, p = 0.25 (permutation, 3 draws; 95 % of them at most 0.625)
    """

    statistic: float
    p_value: float
    null: Tensor = field(repr=False, compare=False)  # comparing tensors gives no single bool
    bandwidth: float
    method: str

    def quantile(self, share: float) -> float:
        """The smallest draw that is at least as large as this fraction of the draws."""
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
    r"""Permutation test of whether two samples come from one distribution; a low p-value means that they do not.

    With the statistic T of :func:`mmda.losses.mmd_loss`, the pooled rows z and B random permutations
    :math:`\pi_1 \dots \pi_B` of them,

    .. math:: p = \frac{1 + \#\{b : T(z_{\pi_b}) \ge T(z)\}}{1 + B}

    Args:
        source: source rows.
        target: target rows; the number may differ.
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set once from the pooled rows.
        estimator: ``"unbiased"`` or ``"biased"``.
        permutations: B; the smallest possible p-value is 1 / (1 + B).
        generator: CPU generator of the permutations. Without one they are the same in every call.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        The statistic and its p-value, computed in float64, and the draws. For samples of more than some 750 distinct
        rows on a CPU, draws far enough from the statistic are computed in float32 (accurate to 1e-6 of the largest
        similarity; this does not affect the p-value).

    Raises:
        ValueError: wrong shapes or widths, fewer than two rows, rows that are not finite, fewer than one permutation.
        TypeError: rows that are not floating point.

    Notes:
        The level is exact at any size: under the null hypothesis :math:`P(p \le \alpha) \le \alpha`. Rows must be
        exchangeable under the null hypothesis, which frames of one video are not.

        Ties are exact. With repetitive data (counts, one-hot, rounded rows) most relabellings give the same T, and
        rounding must not order them: equal rows are merged into one row with a count, sums run over the smaller sample,
        and two values are treated as equal if they differ by at most a bound on their rounding errors. The bound holds
        for kernels that are convex in the squared distance, as those of :mod:`mmda.kernels`.

        O((n + m)^2 (d + B)) time and O((n + m)^2) memory, at most 6 bytes per pair: the upper half of one Gram matrix K
        of the distinct rows, and the product K s for the indicator vectors s of all relabellings, since :math:`s^\top K
        s` and the row sums of K give all three means. For large samples, test a random subset of rows.

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
    """Mask of the ``count`` smallest entries of each row."""
    chosen = keys <= keys.kthvalue(count, 1, keepdim=True).values
    if int(chosen.sum()) > count * len(keys):  # equal keys, about once in a hundred million rows
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
    r"""Wild bootstrap test of whether two samples of equal size have one distribution; a low p-value means they do not.

    With :math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)`, the statistic is

    .. math:: T = \frac{1}{n (n - 1)} \sum_{i \ne j} h_{ij}, \qquad
              T_b = \frac{1}{n (n - 1)} \sum_{i \ne j} w_i w_j h_{ij}, \qquad
              p = \frac{1 + \#\{b : T_b \ge T\}}{1 + B}

    (``"biased"``: all i, j and :math:`n^2`). The multipliers w are independent signs, or with a dependence
    :math:`\ell > 0` the stationary process

    .. math:: w_t = e^{-1 / \ell} w_{t - 1} + \sqrt{1 - e^{-2 / \ell}}\, \epsilon_t, \qquad
              \epsilon_t \sim \mathcal N(0, 1)

    Args:
        source: source rows; in temporal order with a dependence.
        target: the same number of target rows.
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set once from the pooled rows.
        estimator: ``"unbiased"`` or ``"biased"``.
        dependence: :math:`\ell \ge 0`, correlation length in rows; 0 for independent rows.
        draws: B, the number of draws of the statistic under the null hypothesis.
        generator: CPU generator of the multipliers. Without one they are the same in every call.

    Shape:
        ``source`` (n, d), ``target`` (n, d).

    Returns:
        The statistic, its p-value and the draws, computed in float64. The unbiased statistic excludes the pairs
        :math:`(x_i, y_i)` and so differs slightly from that of :func:`permutation_test`; the biased one is the same.

    Raises:
        ValueError: wrong shapes, fewer than two rows, unequal sizes, rows that are not finite, a negative dependence.
        TypeError: rows that are not floating point.

    Notes:
        A sign of -1 exchanges :math:`x_i` and :math:`y_i`, so for independent rows this is a permutation test with
        swaps, exact at any size, on matrices of a quarter of the size: O(n^2 (d + B)) time. With a dependence the level
        only holds for long series (at least a few dozen correlation lengths), and :math:`\ell` has to grow with n, but
        more slowly.

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
        # Rounding error of a value for signs: four similarities per entry, n^2 entries per sum.
        error = 4 * (gram.entry_error + 2 * n * torch.finfo(z.dtype).eps * gram.size) * n * n / pairs
        for size in _chunks(draws):
            w = _multipliers(n, size, float(dependence), generator).to(x.device)
            values = (w * (difference @ w)).sum(0) / pairs
            # Gaussian multipliers may be larger than one.
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
    """Result of :func:`select_bandwidth`.

    Args:
        bandwidth: the candidate with the largest criterion.
        candidates: all bandwidths tried.
        criteria: the criterion of each candidate.
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
    r"""Select the bandwidth of the most powerful test by its asymptotic criterion; higher criteria mean more power.

    With :math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)` for a given bandwidth, the criterion is
    the statistic over its standard deviation under the alternative,

    .. math::

       J = \frac{1}{\hat\sigma\, n (n - 1)} \sum_{i \ne j} h_{ij}, \qquad
       \hat\sigma^2 = \frac{4}{n^3} \sum_i \Big(\sum_j h_{ij}\Big)^2 - \frac{4}{n^4} \Big(\sum_{i, j} h_{ij}\Big)^2
           + \lambda

    Args:
        source: source rows **that are not tested afterwards**.
        target: target rows, likewise. For unequal samples the first min(n, m) rows of each are used.
        kernel: a kernel with a bandwidth, which is multiplied by the factors.
        factors: the candidates.
        stabiliser: :math:`\lambda > 0`.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        The best bandwidth, to be used as ``Gaussian(bandwidth, scales=(1.0,))``, with all candidates and criteria.

    Raises:
        ValueError: wrong shapes, fewer than two rows, rows that are not finite, no candidate, a factor or a
            stabiliser that is not above 0, a kernel without a bandwidth.

    Notes:
        O(n^2 (d + candidates)) time, O(n^2) memory. A bandwidth chosen on the tested rows makes p-values too small:
        :func:`optimised_power_test` splits the data.

    Example:
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> fine = select_bandwidth(x[:100], x[100:].round(decimals=0))  # the same up to rounding
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
    """Permutation test with the most powerful bandwidth, selected on held-out rows.

    The rows of each sample are split at random; :func:`select_bandwidth` uses one part, and :func:`permutation_test`
    (see there for the formula) tests on the other.

    Args:
        source: source rows.
        target: target rows; the number may differ.
        kernel: a kernel with a bandwidth, which is multiplied by the factors.
        factors: the candidates.
        held_out: fraction of each sample used to select the bandwidth, in (0, 1), rounded down: an odd row is tested.
        estimator: ``"unbiased"`` or ``"biased"``.
        permutations: number of permutations.
        generator: CPU generator of split and permutations. Without one they are the same in every call.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        The statistic of the tested part with its p-value, the draws and the selected bandwidth.

    Raises:
        ValueError: as in both functions; fewer than two rows of a sample in either part; a kernel without a bandwidth.

    Notes:
        The level is exact, since selection and test share no rows. The selection costs half of the rows: the test gains
        power if the median distance is a poor bandwidth, as for small-scale differences, and loses a little if it is a
        good one.

        A small sample of few distinct rows has few possible p-values, so the level may be far below the nominal one,
        never above it. Of five rows three are tested: for zeros and ones against 1,000 rows the level at 0.05 is 0.028
        if a tenth are ones, 0.008 if a fifth and 0 if half are, as three equal rows then have p = 1/8 or more. No split
        is better for all of them (two rows: 0.010, 0.035, 0; four: 0.021, 0.027, 0.012), and neither is a test of all
        five (0.010, 0.019, 0.026).

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
        first = int(held_out * rows.shape[0] + 1e-9)  # an odd row is tested
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


class InceptionDistance(NamedTuple):
    """Outcome of :func:`kernel_inception_distance`.

    Attributes:
        mean: mean over the subsets, the number usually reported.
        std: standard deviation over the subsets, with the divisor S.
        values: the distance of each of the S subsets, float64.
    """

    mean: float
    std: float
    values: Tensor


def kernel_inception_distance(
    source: Tensor,
    target: Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    scale: float | None = None,
    offset: float = 1.0,
    generator: torch.Generator | None = None,
) -> InceptionDistance:
    r"""Kernel inception distance (KID) over random subsets, as published; lower means closer distributions.

    .. math:: \text{KID} = \frac{1}{S} \sum_{s=1}^{S} \widehat{\text{MMD}}{}^2_u(X_s, Y_s), \qquad
              k(x, y) = (\gamma\, x \cdot y + c)^p

    with the unbiased :func:`mmda.losses.polynomial_mmd_loss` of :math:`X_s` and :math:`Y_s`, drawn from source and
    target without replacement, anew for every s.

    Args:
        source: source features, for the published number of the Inception network's last pooling layer.
        target: target features; the number of rows may differ.
        subsets: S, the number of subsets.
        subset_size: rows of each sample in a subset.
        degree: p, the degree of the polynomial.
        scale: :math:`\gamma > 0`; None for 1 / d.
        offset: :math:`c \ge 0`.
        generator: source of the draws, on the CPU: first a permutation of the source, then one of the target, for each
            subset. By default the same draws in every call.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        :class:`InceptionDistance`. Values may be negative.

    Raises:
        ValueError: fewer rows than ``subset_size``, a subset of fewer than two, a setting out of its range, rows that
            are not finite.
        TypeError: features that are not floating point.

    Notes:
        O(S k^2 d) time for subsets of k rows, O(k^2 + k d) memory beyond the samples, in float64. Subsets share rows,
        so ``std`` describes the spread between subsets and is no standard error of ``mean``.

    Example:
        >>> x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
        >>> near, far = (kernel_inception_distance(x[:30], x[30:] + by, subset_size=20) for by in (0.0, 1.0))
        >>> near.mean < far.mean, len(far.values)
        (True, 100)

    References:
        Binkowski, Sutherland, Arbel & Gretton, "Demystifying MMD GANs", ICLR 2018, section 4 and appendix D.
    """
    caller = "kernel_inception_distance"
    check_count(caller, "subsets", subsets)
    check_count(caller, "subset_size", subset_size, at_least=2)
    x, y = _samples(caller, source, target)
    for name, rows in (("source", x), ("target", y)):
        if rows.shape[0] < subset_size:
            fail(caller, name, f"have at least `subset_size` rows ({subset_size})", shape_text(rows))
    generator = _or_fixed(generator)

    def subset(rows: Tensor) -> Tensor:
        chosen = torch.randperm(rows.shape[0], generator=generator)[:subset_size]
        return rows[chosen.to(rows.device)]

    draws = [
        polynomial_mmd_loss(subset(x), subset(y), degree=degree, scale=scale, offset=offset) for _ in range(subsets)
    ]
    values = torch.stack(draws)
    return InceptionDistance(values.mean().item(), values.std(correction=0).item(), values)


# Shared parts


def _check_bandwidth(caller: str, kernel: Kernel) -> None:
    """Require a kernel with a bandwidth."""
    check_kernel(caller, "kernel", kernel)
    if isinstance(kernel, Energy):
        fail(caller, "kernel", "have a bandwidth", repr(kernel))


def _samples(caller: str, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples in float64: finite rows of the same width, at least two each."""
    for name, rows in (("source", source), ("target", target)):
        check_features(caller, name, rows)
        if rows.shape[0] < 2:
            fail(caller, name, "have at least 2 rows", shape_text(rows))
        check_finite(caller, name, rows)
    check_same_width(caller, "source", source, "target", target)
    return source.detach().double(), target.detach().double()


def _or_fixed(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(_SEED) if generator is None else generator


def _settle(kernel: Kernel, z: Tensor, generator: torch.Generator) -> Tensor:
    """The bandwidth from the pooled rows in random order, because a heuristic may use a subsample of the rows."""
    order = torch.randperm(z.shape[0], generator=generator).to(z.device)
    return kernel.settle(z[order]).detach().double()


def _squared(z: Tensor) -> Tensor:
    return distances_about(z.median(0).values, z, z, same=True)  # a centre robust to outliers


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
    "InceptionDistance",
    "TwoSampleResult",
    "kernel_inception_distance",
    "optimised_power_test",
    "permutation_test",
    "select_bandwidth",
    "wild_bootstrap_test",
]
