"""Two-sample tests against enumeration of all relabellings, simulated level and power, and a public implementation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda._math import relabelling
from mmda.kernels import Energy, Gaussian, Kernel, Laplacian
from mmda.losses import mmd_loss
from mmda.two_sample import (
    TwoSampleResult,
    kernel_inception_distance,
    optimised_power_test,
    permutation_test,
    select_bandwidth,
    wild_bootstrap_test,
)
from tests.reference import two_sample as reference
from tests.reference.polynomial_mmd import polynomial_mmd

RNG = np.random.default_rng(11)
X = RNG.standard_normal((4, 2))
Y = RNG.standard_normal((3, 2)) + 1.0
SINGLE = Gaussian(1.3, scales=(1.0,))


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# Against enumeration


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_permutations_are_those_of_the_enumeration(estimator: str) -> None:
    """All 35 splits of 7 rows occur equally often, and the p-value is their share."""
    every = reference.every_relabelling(X, Y, reference.gaussian(1.3), unbiased=estimator == "unbiased")
    count = 14_000
    result = permutation_test(
        torch.from_numpy(X), torch.from_numpy(Y), kernel=SINGLE, estimator=estimator, permutations=count
    )
    observed = reference.mmd(X, Y, reference.gaussian(1.3), unbiased=estimator == "unbiased")
    assert result.statistic == pytest.approx(observed, rel=1e-12)
    nearest = np.abs(result.null.numpy()[:, None] - every).argmin(1)
    np.testing.assert_allclose(result.null.numpy(), every[nearest], atol=1e-13)
    share = 1 / len(every)
    assert np.bincount(nearest, minlength=len(every)) / count == pytest.approx(
        share, abs=4.5 * math.sqrt(share / count)
    )
    exact = (every >= observed - 1e-12).mean()
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / count) + 1 / count)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_signs_exchange_paired_rows(estimator: str) -> None:
    """A sign of -1 exchanges x_i and y_i: the draws are the 2^4 exchanges of 4 pairs."""
    x, y = X, RNG.standard_normal((4, 2)) + 1.0
    every = reference.every_swap(x, y, reference.gaussian(1.3), unbiased=estimator == "unbiased")
    result = wild_bootstrap_test(
        torch.from_numpy(x), torch.from_numpy(y), kernel=SINGLE, estimator=estimator, draws=8_000
    )
    observed = reference.statistic_of_core(
        reference.core(x, y, reference.gaussian(1.3)), unbiased=estimator == "unbiased"
    )
    assert result.statistic == pytest.approx(observed, rel=1e-12)
    found = result.null.numpy()
    np.testing.assert_allclose(np.abs(found[:, None] - every).min(1), 0, atol=1e-13)
    np.testing.assert_allclose(np.abs(found[:, None] - every).min(0), 0, atol=1e-13)
    exact = (every >= observed - 1e-12).mean()
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 8_000) + 1e-3)


@pytest.mark.parametrize("kernel", [Gaussian(), Laplacian("mean"), Energy()], ids=repr)
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_statistic_is_the_losss(kernel: Kernel, estimator: str) -> None:
    x, y = normal(13, 3, seed=1), normal(9, 3, seed=2) + 0.5
    result = permutation_test(x, y, kernel=kernel, estimator=estimator, permutations=5)
    assert result.statistic == pytest.approx(mmd_loss(x, y, kernel=kernel, estimator=estimator).item(), rel=1e-10)
    if estimator == "biased":
        paired = wild_bootstrap_test(x[:9], y, kernel=kernel, estimator="biased", draws=5)
        loss = mmd_loss(x[:9], y, kernel=kernel, estimator="biased").item()
        assert paired.statistic == pytest.approx(loss, rel=1e-10)


# P-values


def test_a_p_value_is_never_zero() -> None:
    far = normal(20, 2, seed=3) + 50
    for test, count in ((permutation_test, "permutations"), (wild_bootstrap_test, "draws")):
        result = test(normal(20, 2, seed=4), far, **{count: 99})
        assert result.p_value == 1 / 100


def test_ties_count_as_at_least_as_large() -> None:
    """With equal rows every relabelling has the same value up to rounding, and the p-value is 1."""
    same = torch.full((6, 3), 0.1, dtype=torch.float64)
    assert permutation_test(same, same[:5]).p_value == 1
    assert wild_bootstrap_test(same, same).p_value == 1
    x = torch.tensor([[0.0], [0.0], [1.0]])  # 20 splits, of which the 2 that are the observed one tie
    assert permutation_test(x, 3 * x + 7, permutations=4000).p_value == pytest.approx(0.1, abs=0.02)


# Rows that repeat

ONE = Gaussian(1.0, scales=(1.0,))
ONE_HOT = np.eye(4)
GRID = np.array([[0.1], [0.2], [0.3], [0.7]])  # equal differences that are not equal in binary

#: (values of a row, counts in the source, counts in the target).
REPEATED = {
    "one against two zeros": (np.array([[0.0], [1.0]]), [60, 1], [2, 0]),
    "ones in the large sample": (np.array([[0.0], [1.0]]), [990, 10], [5, 0]),
    "a one in the small sample": (np.array([[0.0], [1.0]]), [991, 9], [4, 1]),
    "halves": (np.array([[0.0], [1.0]]), [20, 20], [13, 9]),
    "one-hot, 3 of 4": (ONE_HOT, [300, 200, 100, 400], [3, 1, 0, 1]),
    "one-hot, rare": (ONE_HOT, [4, 5, 3, 900], [1, 0, 0, 4]),
    "rounded": (GRID, [200, 150, 90, 60], [2, 0, 2, 1]),
    "rounded, equal sizes": (GRID, [4, 3, 2, 1], [1, 2, 3, 4]),
}
COUNT = 3000


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("kernel", [ONE, Gaussian(0.7), Laplacian(1.5), Energy()], ids=repr)
@pytest.mark.parametrize("setting", REPEATED)
def test_ties_are_those_of_the_enumeration(setting: str, kernel: Kernel, estimator: str, exchanged: bool) -> None:
    values, source, target = REPEATED[setting]
    squared = np.square(values[:, None] - values).sum(2)
    width = kernel.bandwidth if not isinstance(kernel, Energy) else 1.0
    gram = kernel.evaluate(torch.from_numpy(squared), torch.tensor(width, dtype=torch.float64)).numpy()
    expected = reference.exact_p_value(source, target, gram, unbiased=estimator == "unbiased")
    x, y = (torch.from_numpy(values[np.repeat(np.arange(len(values)), counts)]) for counts in (source, target))
    order = torch.randperm(len(x), generator=draws(1))
    samples = (y, x[order]) if exchanged else (x[order], y)
    result = permutation_test(*samples, kernel=kernel, estimator=estimator, permutations=COUNT)
    error = math.sqrt(expected * (1 - expected) / COUNT)
    assert result.p_value == pytest.approx(expected, abs=4.5 * error + 1 / COUNT)


def test_far_rows_break_no_ties() -> None:
    """Zeros and ones with two outliers in the larger sample; the other rows remain tied."""
    x = torch.cat([torch.zeros(200, 2), torch.ones(20, 2), torch.tensor([[1e7, 0.0], [3e6, -4e6]])]).double()
    values = np.unique(x.numpy(), axis=0)
    gram = ONE.evaluate(torch.cdist(*(torch.from_numpy(values),) * 2).square(), torch.tensor(1.0)).numpy()
    counts = [int((x.numpy() == value).all(1).sum()) for value in values]
    zeros = [3 * int((value == 0).all()) for value in values]
    expected = reference.exact_p_value(counts, zeros, gram, unbiased=True)
    result = permutation_test(x, torch.zeros(3, 2), kernel=ONE, permutations=COUNT)
    assert result.p_value == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / COUNT) + 1e-3)


def _one_hot(rng: np.random.Generator, n: int) -> Tensor:
    return torch.eye(10, dtype=torch.float64)[torch.from_numpy(rng.integers(0, 10, n))]


def _bernoulli(rng: np.random.Generator, n: int) -> Tensor:
    return torch.from_numpy((rng.random((n, 6)) < 0.3).astype(float))


def _rounded(rng: np.random.Generator, n: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((n, 2)).round())


@pytest.mark.parametrize("sample", [_one_hot, _bernoulli, _rounded])
@pytest.mark.parametrize("sizes", [(1000, 5), (5, 1000)])
def test_level_on_rows_that_repeat(sample: Callable[..., Tensor], sizes: tuple[int, int]) -> None:
    rng, generator = np.random.default_rng(21), draws(22)
    runs = 150
    rejected = sum(
        permutation_test(*(sample(rng, n) for n in sizes), kernel=ONE, permutations=99, generator=generator).rejects()
        for _ in range(runs)
    )
    assert 0.02 <= rejected / runs <= 0.08


@pytest.mark.parametrize("sample", [_one_hot, _bernoulli, _rounded])
def test_level_on_rows_that_repeat_with_a_chosen_bandwidth(sample: Callable[..., Tensor]) -> None:
    rng, generator = np.random.default_rng(23), draws(24)
    runs = 100
    rejected = sum(
        optimised_power_test(
            sample(rng, 1000), sample(rng, 5), permutations=99, factors=(0.5, 1.0, 2.0), generator=generator
        ).rejects()
        for _ in range(runs)
    )
    assert 0.02 <= rejected / runs <= 0.08


def _binary_level(share: float, sizes: tuple[int, int]) -> float:
    """The level at 0.05 on zeros and ones, exactly: every number of ones in both samples with its probability.

    The statistic orders the splits as the squared difference of the shares does, less the variances of both means.
    """
    n, m = sizes
    level, ones = 0.0, np.arange(m + 1).tolist()
    for total in range(n + m + 1):
        every = math.comb(n + m, total)
        within = np.array([math.comb(m, k) * math.comb(n, total - k) / every if k <= total else 0.0 for k in ones])
        a, b = (total - np.array(ones)) / n, np.array(ones) / m
        values = np.square(a - b) - a * (1 - a) / (n - 1) - b * (1 - b) / (m - 1)
        p_values = np.array([within[values >= value - 1e-12].sum() for value in values])
        level += every * share**total * (1 - share) ** (n + m - total) * within[p_values <= 0.05].sum()
    return level


def test_level_on_zeros_and_ones_is_that_of_the_enumeration() -> None:
    """With few rows few p-values are possible, so no split of five rows is near 0.05 for every share of ones."""
    by_tested = {m: [round(_binary_level(share, (500, m)), 3) for share in (0.1, 0.2, 0.5)] for m in (2, 3, 4, 5)}
    assert by_tested == {2: [0.01, 0.035, 0], 3: [0.028, 0.008, 0], 4: [0.021, 0.027, 0.012], 5: [0.01, 0.019, 0.026]}
    rng, generator, runs = np.random.default_rng(31), draws(32), 300
    rejected = 0
    for _ in range(runs):
        x, y = (torch.from_numpy((rng.random((n, 1)) < 0.1).astype(float)) for n in (1000, 5))
        rejected += optimised_power_test(x, y, permutations=199, factors=(1.0,), generator=generator).rejects()
    exact = _binary_level(0.1, (500, 3))
    assert 0.02 <= exact <= 0.08
    assert rejected / runs == pytest.approx(exact, abs=2.5 * math.sqrt(exact / runs))


@pytest.mark.parametrize(("rows", "tested"), [(5, 3), (7, 4), (8, 4), (9, 5)])
def test_an_odd_row_is_tested(rows: int, tested: int) -> None:
    """The statistic of n equal rows against n others takes each of its values on one share of the splits."""
    x, y = torch.zeros(rows, 1), torch.ones(rows, 1)
    result = optimised_power_test(x, y, permutations=4000)
    share = 2 / math.comb(2 * tested, tested)
    assert result.p_value == pytest.approx(share, abs=4 * math.sqrt(share / 4000) + 1 / 4000)


def test_many_different_rows_are_compared_in_float32_and_decided_in_float64() -> None:
    """Half of the rows repeated, many ties: with and without the float32 pass the same draws and the same p-value."""
    rows = normal(500, 2, seed=25)
    x, y = torch.cat([rows, rows.round(decimals=1)]), torch.cat([normal(300, 2, seed=26), rows[:300]])
    fast = permutation_test(x, y, permutations=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relabelling, "FLOAT32_ROWS", 10**9)
        slow = permutation_test(x, y, permutations=300)
    assert fast.p_value == slow.p_value
    assert fast.statistic == slow.statistic
    torch.testing.assert_close(fast.null, slow.null, rtol=0, atol=1e-7)
    assert not torch.equal(fast.null, slow.null)


LEVEL_RUNS = 300


@pytest.mark.parametrize(
    "test",
    [
        lambda x, y, g: permutation_test(x, y, permutations=99, generator=g),
        lambda x, y, g: permutation_test(x[:12], y, permutations=99, estimator="biased", generator=g),
        lambda x, y, g: wild_bootstrap_test(x, y, draws=99, generator=g),
        lambda x, y, g: optimised_power_test(x, y, permutations=99, generator=g),
    ],
    ids=["permutation", "permutation unequal", "wild bootstrap", "optimised power"],
)
def test_level_under_the_null(test: Callable[[Tensor, Tensor, torch.Generator], TwoSampleResult]) -> None:
    """One test in twenty rejects, for heavy tails and unequal scales of the features too; three standard errors."""
    rng, generator = np.random.default_rng(5), draws(17)
    p_values = []
    for _ in range(LEVEL_RUNS):
        x, y = torch.from_numpy(rng.standard_t(2, (2, 30, 2)) * np.array([1.0, 5.0]))
        p_values.append(test(x, y, generator).p_value)
    error = math.sqrt(0.05 * 0.95 / LEVEL_RUNS)
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=3 * error)
    # Uniform over the rest of the range as well.
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / LEVEL_RUNS))


def test_power_against_a_shift() -> None:
    rng, generator = np.random.default_rng(6), draws(3)
    counts = {"permutation": 0, "wild": 0, "optimised": 0}
    for _ in range(40):
        x, y = torch.from_numpy(rng.standard_normal((2, 40, 2)))
        y = y + 0.8
        counts["permutation"] += permutation_test(x, y, permutations=99, generator=generator).rejects()
        counts["wild"] += wild_bootstrap_test(x, y, draws=99, generator=generator).rejects()
        counts["optimised"] += optimised_power_test(x, y, permutations=99, generator=generator).rejects()
    assert counts["permutation"] >= 38
    assert counts["wild"] >= 38
    assert counts["optimised"] >= 24  # half of the rows


def ripples(n: int, rng: np.random.Generator) -> Tensor:
    """A normal sample with a fine oscillation in its density and the moments of a normal sample."""
    values = np.empty(0)
    while len(values) < n:
        drawn = rng.standard_normal(4 * n)
        values = np.concatenate([values, drawn[rng.random(4 * n) < (1 + np.cos(8 * drawn)) / 2]])
    return torch.from_numpy(values[:n, None])


def test_chosen_bandwidth_sees_what_the_median_does_not() -> None:
    rng, generator = np.random.default_rng(7), draws(4)
    median = chosen = 0
    for _ in range(12):
        x, y = torch.from_numpy(rng.standard_normal((200, 1))), ripples(200, rng)
        median += permutation_test(x, y, permutations=99, generator=generator).rejects()
        chosen += optimised_power_test(x, y, permutations=99, generator=generator).rejects()
    assert median <= 4
    assert chosen >= 9


def test_power_criterion_is_the_papers() -> None:
    x, y = RNG.standard_normal((9, 2)), 1.5 * RNG.standard_normal((12, 2)) + 0.3
    kernel = Gaussian(0.8, scales=(1.0,))
    choice = select_bandwidth(
        torch.from_numpy(x), torch.from_numpy(y), kernel=kernel, factors=(0.5, 1.0, 3.0), stabiliser=1e-4
    )
    assert choice.candidates == pytest.approx((0.4, 0.8, 2.4))
    expected = [
        reference.power_criterion(reference.core(x, y[:9], reference.gaussian(s)), 1e-4) for s in choice.candidates
    ]
    assert choice.criteria == pytest.approx(expected, rel=1e-9)
    assert choice.bandwidth == choice.candidates[int(np.argmax(expected))]


def test_multipliers_with_memory_hold_the_level_of_a_series() -> None:
    """Two independent series of one distribution: plain signs reject too often, the dependent process does not."""
    rng, generator = np.random.default_rng(8), draws(5)
    signs = process = 0
    for _ in range(40):
        series = rng.standard_normal((150, 2))
        for t in range(1, 150):
            series[t] = 0.9 * series[t - 1] + math.sqrt(1 - 0.81) * series[t]
        x, y = torch.from_numpy(series[:, :1].copy()), torch.from_numpy(series[:, 1:].copy())
        signs += wild_bootstrap_test(x, y, kernel=SINGLE, draws=99, generator=generator).rejects()
        process += wild_bootstrap_test(x, y, kernel=SINGLE, draws=99, dependence=20.0, generator=generator).rejects()
    assert signs >= 20
    assert process <= 8


# Behaviour


def test_draws_come_from_the_generator_alone() -> None:
    x, y = normal(12, 2, seed=9), normal(12, 2, seed=10)
    state = torch.get_rng_state()
    for test in (permutation_test, wild_bootstrap_test, optimised_power_test):
        assert torch.equal(test(x, y).null, test(x, y).null)
        assert torch.equal(test(x, y, generator=draws(1)).null, test(x, y, generator=draws(1)).null)
        assert not torch.equal(test(x, y, generator=draws(1)).null, test(x, y, generator=draws(2)).null)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_draws_than_are_computed_at_once() -> None:
    x, y = normal(8, 2, seed=12), normal(8, 2, seed=13)
    result = permutation_test(x, y, permutations=601)
    assert len(result.null) == 601
    assert torch.equal(result.null, result.null.sort().values)


def test_a_heuristic_on_some_rows_does_not_know_the_samples() -> None:
    """With more rows than the median uses, sorting a sample does not shift the bandwidth systematically."""
    x, y = normal(400, 1, seed=14), 3 * normal(400, 1, seed=15)
    one = permutation_test(x, y, permutations=1).bandwidth
    other = permutation_test(x.sort(0).values, y.sort(0).values, permutations=1).bandwidth
    assert one == pytest.approx(other, rel=0.1)


def test_half_precision_far_from_the_origin() -> None:
    x, y = normal(20, 4, seed=16).float(), normal(20, 4, seed=17).float()
    near = permutation_test(x, y).p_value
    assert permutation_test(x + 4096, y + 4096).p_value == pytest.approx(near, abs=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert permutation_test(x, y).p_value == near


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: permutation_test(x[0], x), r"`source` must have shape \(samples, features\), got \(2,\)"),
        (lambda x: permutation_test(x, x[:1]), r"`target` must have at least 2 rows, got \(1, 2\)"),
        (lambda x: permutation_test(x, x[:, :1]), r"`target` must have as many features as `source` \(2\), got 1"),
        (lambda x: permutation_test(x, x / 0), "`target` must be finite, got NaN or infinity"),
        (lambda x: permutation_test(x, x, permutations=0), "`permutations` must be an integer >= 1, got 0"),
        (lambda x: permutation_test(x, x, estimator="linear"), "`estimator` must be one of 'unbiased', 'biased'"),
        (lambda x: wild_bootstrap_test(x, x[:5]), r"`target` must have as many rows as `source` \(6\), got 5"),
        (lambda x: wild_bootstrap_test(x, x, dependence=-1), "`dependence` must be a finite number >= 0, got -1"),
        (lambda x: select_bandwidth(x, x, factors=()), "`factors` must hold at least one factor, got none"),
        (lambda x: optimised_power_test(x, x[:3]), "`target` must have at least 2 rows in either part, got 1 and 2"),
    ],
)
def test_errors(call: Callable[[Tensor], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(normal(6, 2, seed=18))


# Beside a public implementation


def test_beside_kerneltests() -> None:
    """The same statistic at each of its bandwidths (exp(-d^2 / h^2): h is sqrt(2) sigma), the same p-values but for
    chance, and the power of a single median bandwidth not far from its aggregate's."""
    kt = pytest.importorskip("kt", reason="kerneltests is not installed")
    rng = np.random.default_rng(19)
    x, y = rng.standard_normal((25, 2)), rng.standard_normal((30, 2)) + 0.35
    count = 4000
    details = kt.two_sample(x, y, kernel="gaussian", number_bandwidths=4, B1=count, B2=200).details
    for h, statistic, p in zip(details["bandwidth"], details["mmd"], details["p_value"]):
        kernel = Gaussian(float(h) / math.sqrt(2), scales=(1.0,))
        result = permutation_test(torch.from_numpy(x), torch.from_numpy(y), kernel=kernel, permutations=count)
        assert result.statistic == pytest.approx(float(statistic), rel=1e-9)
        assert result.p_value == pytest.approx(float(p), abs=4 * math.sqrt(2 * max(p * (1 - p), 1e-3) / count))
    ours = theirs = 0
    for seed in range(20):
        x, y = rng.standard_normal((2, 40, 2))
        y = y + 0.5
        ours += permutation_test(torch.from_numpy(x), torch.from_numpy(y), permutations=199).rejects()
        theirs += bool(kt.two_sample(x, y, B1=199, B2=200, B3=20, seed=seed))
    assert ours >= theirs - 3


def test_results_compare_without_their_draws() -> None:
    result = TwoSampleResult(0.5, 0.25, torch.tensor([0.125, 0.25, 0.625]), 1.0, "permutation")
    assert result == dataclasses.replace(result, null=result.null.clone())
    assert result != dataclasses.replace(result, p_value=0.5)


def test_the_kernel_inception_distance_is_the_mean_over_its_subsets() -> None:
    x, y = normal(9, 3, seed=1), 1.3 * normal(7, 3, seed=2) + 0.4
    found = kernel_inception_distance(x, y, subsets=5, subset_size=4, generator=draws(3))
    same, expected = draws(3), []
    for _ in range(5):
        a, b = (rows[torch.randperm(len(rows), generator=same)[:4]].numpy() for rows in (x, y))
        expected.append(polynomial_mmd(a, b, 3, 1 / 3, 1.0, True))
    assert found.values.tolist() == pytest.approx(expected, rel=1e-10)
    assert (found.mean, found.std) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-10)


def test_a_kernel_inception_distance_of_whole_samples_has_no_spread() -> None:
    x, y = normal(8, 3, seed=3), normal(8, 3, seed=4)
    found = kernel_inception_distance(x, y, subsets=3, subset_size=8, degree=2, scale=0.5, offset=0.2)
    assert found.mean == pytest.approx(polynomial_mmd(x.numpy(), y.numpy(), 2, 0.5, 0.2, True), rel=1e-10)
    assert found.std == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"`target` must have at least `subset_size` rows \(8\), got \(7, 3\)"):
        kernel_inception_distance(x, y[:7], subset_size=8)
