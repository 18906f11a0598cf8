"""From predicted spans to a row of a table: metrics with their per-query values, intervals and paired tests.

Everything is in seconds and float64. Queries of one video share its content, so every interval and test here
draws whole videos, never single queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mmda._core.checks import check_count, check_floating, check_mask, check_number, fail, shape_text
from mmda.metrics import DEFAULT, Preset, best_iou, recall_at_iou, select_spans

if TYPE_CHECKING:
    from mmda.vmr.annotations import VMRQuery

Floats = NDArray[np.float64]
# Cells of one (draws, videos) block of signs.
_BLOCK = 1 << 21
# Cells of one such block of draws: in the nearest caches it takes less than half of the time; the draws are the same.
_DRAWN = 1 << 15


@dataclass(frozen=True)
class Interval:
    """A mean with an interval around it; not-a-number bounds say that one value has no interval.

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
        p_value: of the sign-flip test, in (0, 1].
    """

    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        """In points of per cent."""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.difference:+.1f} [{low:+.1f}, {high:+.1f}], p = {self.p_value:.4f}"


@dataclass(frozen=True)
class Evaluation:
    """One row of a table, with what every query contributed to it.

    Args:
        name: the row's label.
        hits: (queries, n, m) bool, see :class:`mmda.metrics.Recall`.
        ious: (queries,) best IoU of the first prediction.
        videos: (queries,) video of each query, the unit of resampling.
        n: numbers of predictions.
        iou: thresholds.
        preset: the convention it was computed under.
    """

    name: str
    hits: NDArray[np.bool_] = field(repr=False)
    ious: Floats = field(repr=False)
    videos: NDArray[Any] = field(repr=False)
    n: tuple[int, ...]
    iou: tuple[float, ...]
    preset: Preset = DEFAULT

    def __len__(self) -> int:
        return len(self.ious)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names that :meth:`values` knows, in the order of the row: ``"R@1, IoU=0.5"``, ..., ``"mIoU"``."""
        return (*(f"R@{n}, IoU={iou:g}" for n in self.n for iou in self.iou), "mIoU")

    def values(self, metric: str) -> Floats:
        """Per-query values of one metric; their mean is the metric.

        Raises:
            ValueError: the metric is not one of :attr:`metrics`.
        """
        if metric not in self.metrics:
            fail("Evaluation.values", "metric", f"be one of {', '.join(map(repr, self.metrics))}", repr(metric))
        if metric == "mIoU":
            return self.ious
        at = self.metrics.index(metric)
        return self.hits.reshape(len(self), -1)[:, at].astype(np.float64)

    def __getitem__(self, metric: str) -> float:
        return float(self.values(metric).mean())

    def as_dict(self) -> dict[str, float]:
        """Every metric, as shares in [0, 1]."""
        return {metric: self[metric] for metric in self.metrics}

    def interval(self, metric: str, *, seed: int = 0, samples: int = 2000, level: float = 0.95) -> Interval:
        """Bootstrap interval of one metric by video, see :func:`bootstrap_interval`."""
        values = self.values(metric)
        return bootstrap_interval(values, groups=self.videos, seed=seed, samples=samples, level=level)

    def compare(self, other: Evaluation, metric: str, *, seed: int = 0, samples: int = 10_000) -> PairedTest:
        """Paired test of this row against another on the same queries, see :func:`paired_test`.

        Raises:
            ValueError: the rows are not over the same queries.
        """
        if not np.array_equal(self.videos, other.videos):
            fail("Evaluation.compare", "other", "be over the same queries in the same order", f"{len(other)} rows")
        mine, theirs = self.values(metric), other.values(metric)
        return paired_test(mine, theirs, groups=self.videos, seed=seed, samples=samples)

    def header(self, *, width: int = 28) -> str:
        """The line above :meth:`row`."""
        return f"{'':{width}}" + "".join(f"{metric:>14}" for metric in self.metrics)

    def row(self, *, width: int = 28) -> str:
        """The name and every metric in per cent, in columns."""
        return f"{self.name:{width}}" + "".join(f"{100 * v:14.1f}" for v in self.as_dict().values())

    def __str__(self) -> str:
        """Header and row."""
        return f"{self.header()}\n{self.row()}"


def pad_spans(spans: Iterable[Sequence[Sequence[float]]]) -> tuple[Tensor, Tensor]:
    """Ragged lists of spans as one tensor (q, k, 2), float64, and a mask (q, k), True where a span is.

    Args:
        spans: for each query its spans, each ``(start, end)``.

    Returns:
        ``(padded, mask)``; k is the longest list's length, at least 1.

    Example:
        >>> padded, mask = pad_spans([[(0.0, 1.0), (2.0, 3.0)], [(4.0, 5.0)]])
        >>> padded.shape, mask.tolist()
        (torch.Size([2, 2, 2]), [[True, True], [True, False]])
    """
    rows = [list(row) for row in spans]
    counts = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    width = max(1, int(counts.max(initial=0)))
    mask = np.arange(width) < counts[:, None]
    padded = np.zeros((len(rows), width, 2))
    flat = [span for row in rows for span in row]
    if flat:
        padded[mask] = np.asarray(flat, dtype=np.float64)
    return torch.from_numpy(padded), torch.from_numpy(mask)


def evaluate(
    predictions: Tensor,
    queries: Iterable[VMRQuery],
    *,
    scores: Tensor | None = None,
    prediction_mask: Tensor | None = None,
    preset: Preset = DEFAULT,
    n: Sequence[int] = (1, 5),
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    name: str = "",
) -> Evaluation:
    """Recall@n at IoU and mean IoU of predicted spans against annotated queries; higher is better.

    A query's best window counts. Predictions are clipped to [0, duration] where the preset says so, as the default one
    does and the public evaluators' do not.

    Args:
        predictions: spans of each query in seconds; best first unless ``scores`` says otherwise.
        queries: the annotated queries, in the order of the predictions.
        scores: rank by these; without them the order given is the rank.
        prediction_mask: True where a prediction exists.
        preset: which convention: comparison, union, suppression, clipping, rounding.
        n: numbers of predictions.
        iou: thresholds.
        name: label of the row.

    Shape:
        ``predictions`` (q, k, 2) or (q, 2), ``scores`` and ``prediction_mask`` (q, k).

    Returns:
        An :class:`Evaluation`.

    Raises:
        ValueError: a query has no moment, a prediction is not finite, or shapes do not fit.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> query = VMRQuery("q", "v", "a dog runs", 10.0, ((2.0, 6.0),))
        >>> result = evaluate(torch.tensor([[[2.0, 5.0]]]), [query], n=(1,), name="one span")
        >>> result["R@1, IoU=0.7"], result["mIoU"]
        (1.0, 0.75)
    """
    rows = list(queries)
    for query in rows:
        if len(query.windows) == 0:
            fail("evaluate", "queries", "each have at least one moment", f"none for query {query.qid!r}")
    check_floating("evaluate", "predictions", predictions)
    if predictions.ndim == 0 or len(predictions) != len(rows):
        fail("evaluate", "predictions", f"have one row for each of {len(rows)} queries", shape_text(predictions))
    windows, window_mask = pad_spans([query.windows for query in rows])
    duration = torch.tensor([query.duration for query in rows], dtype=torch.float64)
    return evaluate_windows(
        predictions,
        windows,
        window_mask=window_mask,
        videos=[query.vid for query in rows],
        duration=duration,
        scores=scores,
        prediction_mask=prediction_mask,
        preset=preset,
        n=n,
        iou=iou,
        name=name,
    )


def evaluate_windows(
    predictions: Tensor,
    windows: Tensor,
    *,
    window_mask: Tensor | None = None,
    videos: Sequence[object] | NDArray[Any] | None = None,
    duration: Tensor | None = None,
    scores: Tensor | None = None,
    prediction_mask: Tensor | None = None,
    preset: Preset = DEFAULT,
    n: Sequence[int] = (1, 5),
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    name: str = "",
) -> Evaluation:
    """:func:`evaluate` for windows that are tensors already, as a batch holds them.

    Args:
        predictions: spans of each query; best first unless ``scores`` says otherwise.
        windows: true moments of each query.
        window_mask: True where a window exists.
        videos: video of each query, the unit of resampling; ``None`` makes each query its own.
        duration: length of each video; a preset with ``clip`` cuts predictions to it.
        scores: rank by these.
        prediction_mask: True where a prediction exists.
        preset: which convention.
        n: numbers of predictions.
        iou: thresholds.
        name: label of the row.

    Shape:
        ``predictions`` (q, k, 2) or (q, 2), ``windows`` (q, w, 2) or (q, 2), ``duration`` (q,), the others
        (q, k) and (q, w).

    Returns:
        An :class:`Evaluation`.

    Raises:
        ValueError: a query has no window, a prediction is not finite, or shapes do not fit.

    Example:
        >>> spans = torch.tensor([[0.0, 4.0], [1.0, 2.0]])
        >>> evaluate_windows(spans, torch.tensor([[0.0, 4.0], [4.0, 8.0]]), n=(1,))["mIoU"]
        0.5
    """
    caller = "evaluate_windows"
    check_floating(caller, "predictions", predictions)
    check_floating(caller, "windows", windows)
    found = predictions.detach().to("cpu", torch.float64)
    truth = windows.detach().to("cpu", torch.float64)
    found = found.unsqueeze(1) if found.ndim == 2 else found
    truth = truth.unsqueeze(1) if truth.ndim == 2 else truth
    if found.ndim != 3 or found.shape[-1] != 2:
        fail(caller, "predictions", "have shape (queries, predictions, 2)", shape_text(predictions))
    count = found.shape[0]
    mask = torch.ones(found.shape[:2], dtype=torch.bool)
    if prediction_mask is not None:
        check_mask(caller, "prediction_mask", prediction_mask, found.shape[:2])
        mask = prediction_mask.cpu()
    finite = torch.isfinite(found).all(dim=-1) | ~mask
    if not bool(finite.all()):
        row = int((~finite).any(dim=1).nonzero()[0, 0])
        fail(caller, "predictions", "be finite where they are not masked", f"a non-finite span in row {row}")
    if count == 0:
        fail(caller, "predictions", "hold at least one query", shape_text(predictions))
    windows_mask = None
    if truth.ndim != 3 or truth.shape[0] != count or truth.shape[-1] != 2:
        fail(caller, "windows", f"have shape ({count}, windows, 2)", shape_text(windows))
    labelled = torch.full((count,), truth.shape[1] > 0)
    if window_mask is not None:
        check_mask(caller, "window_mask", window_mask, truth.shape[:2])
        windows_mask = window_mask.cpu()
        labelled = windows_mask.any(dim=1)
    if not bool(labelled.all()):
        fail(caller, "windows", "each have at least one moment", f"none in row {int((~labelled).nonzero()[0, 0])}")
    if scores is None:
        order = -torch.arange(found.shape[1], dtype=torch.float64).expand(count, -1)
    else:
        check_floating(caller, "scores", scores)
        order = scores.detach().to("cpu", torch.float64)
    units = np.arange(count) if videos is None else np.asarray(videos)
    if units.shape != (count,):
        fail(caller, "videos", f"name one video for each of {count} queries", f"{units.shape}")
    ranked, keep = select_spans(
        found,
        order,
        top_n=max(n, default=1),
        preset=preset,
        mask=mask,
        duration=None if duration is None else duration.detach().to("cpu", torch.float64),
    )
    recall = recall_at_iou(
        ranked,
        truth,
        n=n,
        iou=iou,
        strict=preset.strict,
        tolerance=preset.tolerance,
        union=preset.union,
        prediction_mask=keep,
        window_mask=windows_mask,
    )
    first = best_iou(ranked[:, :1], truth, prediction_mask=keep[:, :1], window_mask=windows_mask, union=preset.union)
    return Evaluation(
        name=name,
        hits=recall.hits.numpy(),
        ious=first[:, 0].numpy(),
        videos=units,
        n=recall.n,
        iou=recall.iou,
        preset=preset,
    )


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
    """Means of ``samples`` draws of as many groups with replacement."""
    groups, equal = len(sums), counts.min() == counts.max()
    means = np.empty(samples)
    step = max(1, _DRAWN // groups)
    for low in range(0, samples, step):
        drawn = rng.integers(0, groups, size=(min(step, samples - low), groups))
        # every index is valid: "clip" asks none of them, in half of the time
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
    r"""Mean of per-query values and its percentile interval over draws of whole groups with replacement.

    Draw v* of as many groups: :math:`\sum_{g \in v^*} S_g / \sum_{g \in v^*} N_g`, with S the sum and N the
    number of a group's values.

    Args:
        values: one number a query.
        groups: the video of each query; ``None`` draws queries.
        seed: of the draws.
        samples: how many draws.
        level: coverage, in (0, 1).

    Returns:
        An :class:`Interval`; with a single group the bounds are not-a-number.

    Raises:
        ValueError: values are empty or not finite, or groups do not match them.

    Notes:
        O(samples x groups), whatever the number of queries; no loop over draws.

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
    r"""Mean over training seeds and its t-interval :math:`\bar x \pm t_{n-1}\, s / \sqrt n`.

    Args:
        values: one number a seed.
        level: coverage, in (0, 1).

    Returns:
        An :class:`Interval`; one seed has not-a-number bounds.

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
    from scipy.special import stdtrit  # scipy stays out of the import of this module

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
    r"""Is row a better than row b on the same queries? Sign-flip permutation test by group, two-sided.

    With :math:`D_g` the sum of a - b over group g: under the null hypothesis the rows are exchangeable within a
    group, so :math:`\sum_g \pm D_g` with random signs is as likely as :math:`\sum_g D_g`, and
    :math:`p = (1 + \#\{|\sum_g \pm D_g| \ge |\sum_g D_g|\}) / (1 + B)`, never 0.

    Args:
        a: per-query values of one row.
        b: per-query values of the other, same queries in the same order.
        groups: the video of each query.
        seed: of the signs and the draws.
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
    # sums in another order round differently: equal up to rounding counts as equal
    bound = abs(total) - 1e-9 * float(np.abs(sums).sum())
    reached, step = 0, max(1, _BLOCK // len(sums))
    for low in range(0, samples, step):
        rows = min(step, samples - low)
        coins = np.frombuffer(rng.bytes(rows * bytes_a_row), dtype=np.uint8).reshape(rows, bytes_a_row)
        kept = np.unpackbits(coins, axis=1, count=len(sums)) @ sums  # of each sign vector the positive part
        reached += int((np.abs(2 * kept - total) >= bound).sum())
    difference = float((first - second).mean())
    low_bound = high_bound = math.nan
    if len(sums) > 1:
        means = _resampled_means(sums, counts, samples, rng)
        low_bound, high_bound = (float(q) for q in np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return PairedTest(difference, low_bound, high_bound, (1 + reached) / (1 + samples))


def recovered_gap(x: float, source_only: float, target_supervised: float) -> float:
    r"""Share of the domain gap that a method wins back: 0 is source-only, 1 is target-supervised.

    .. math:: \frac{x - \text{source-only}}{\text{target-supervised} - \text{source-only}}

    Args:
        x: the method's metric.
        source_only: the same metric without adaptation.
        target_supervised: the same metric with the target's labels.

    Returns:
        A float, below 0 for negative transfer, above 1 past the ceiling; not-a-number where there is no gap.

    Example:
        >>> recovered_gap(30.0, 20.0, 40.0)
        0.5
    """
    gap = target_supervised - source_only
    return (x - source_only) / gap if gap > 0 else math.nan


__all__ = [
    "Evaluation",
    "Interval",
    "PairedTest",
    "bootstrap_interval",
    "evaluate",
    "evaluate_windows",
    "pad_spans",
    "paired_test",
    "recovered_gap",
    "seed_interval",
]
