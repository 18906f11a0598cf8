"""Rows, intervals and tests against direct resampling, exhaustive enumeration, scipy and coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmda.metrics import DEFAULT, MOMENT_DETR, MOMENT_DETR_ROUNDED, TWO_D_TAN, VSLNET, Preset
from mmda.vmr.annotations import VMRQuery
from mmda.vmr.evaluation import (
    Interval,
    bootstrap_interval,
    evaluate,
    evaluate_windows,
    pad_spans,
    paired_test,
    recovered_gap,
    seed_interval,
)

NAN = float("nan")
relaxed = settings(deadline=None, max_examples=40)


def query(windows, *, vid="v", qid="q", duration=20.0):
    return VMRQuery(qid, vid, "a dog runs", duration, tuple(windows))


class TestEvaluate:
    def test_by_hand(self):
        queries = [
            query([(0.0, 4.0)], vid="a"),
            query([(10.0, 14.0), (2.0, 6.0)], vid="a"),
            query([(0.0, 10.0)], vid="b"),
        ]
        predictions = torch.tensor([[[0.0, 4.0], [9.0, 9.5]], [[7.0, 9.0], [2.0, 5.0]], [[0.0, 5.0], [0.0, 9.0]]])
        result = evaluate(predictions, queries, n=(1, 2), name="hand")
        assert result.metrics[:3] == ("R@1, IoU=0.3", "R@1, IoU=0.5", "R@1, IoU=0.7")
        assert result.values("R@1, IoU=0.5").tolist() == [1, 0, 1]
        assert result.values("R@1, IoU=0.7").tolist() == [1, 0, 0]
        assert result.values("R@2, IoU=0.7").tolist() == [1, 1, 1]
        assert result.values("mIoU").tolist() == [1.0, 0.0, 0.5]
        assert result["mIoU"] == 0.5
        assert result.videos.tolist() == ["a", "a", "b"]
        assert len(result) == 3
        assert result.row().split() == ["hand", "66.7", "66.7", "33.3", "100.0", "100.0", "100.0", "50.0"]
        assert "R@2, IoU=0.3" in str(result).splitlines()[0]

    def test_scores_rank_and_equal_scores_keep_the_order(self):
        predictions = torch.tensor([[[0.0, 1.0], [0.0, 4.0], [8.0, 9.0]]])
        assert evaluate(predictions, [query([(0.0, 4.0)])], scores=torch.tensor([[0.1, 0.3, 0.2]]))["mIoU"] == 1
        assert evaluate(predictions, [query([(0.0, 4.0)])], scores=torch.zeros(1, 3))["mIoU"] == 0.25
        assert evaluate(predictions, [query([(0.0, 4.0)])])["mIoU"] == 0.25

    def test_predictions_are_clipped_to_the_video(self):
        far, whole = torch.tensor([[-5.0, 50.0]]), [query([(0.0, 20.0)])]
        assert evaluate(far, whole)["mIoU"] == 1
        assert evaluate(far, whole, preset=VSLNET)["mIoU"] == pytest.approx(20 / 55)

    def test_padding_and_missing_predictions(self):
        predictions = torch.tensor([[[NAN, NAN], [0.0, 4.0]], [[NAN, NAN], [NAN, NAN]]])
        mask = torch.tensor([[False, True], [False, False]])
        result = evaluate(predictions, [query([(0.0, 4.0)])] * 2, prediction_mask=mask)
        assert result.ious.tolist() == [1.0, 0.0]
        assert result.hits[0].all()
        assert not result.hits[1].any()

    def test_a_row_without_a_window_is_refused(self):
        spans, mask = torch.zeros(3, 1, 2), torch.tensor([[True], [False], [True]])
        with pytest.raises(ValueError, match=r"`windows` must each have at least one moment, got none in row 1"):
            evaluate_windows(spans, torch.ones(3, 1, 2), window_mask=mask)
        with pytest.raises(ValueError, match=r"at least one moment, got none in row 0"):
            evaluate_windows(spans, torch.ones(3, 0, 2))
        with pytest.raises(ValueError, match=r"`windows` must have shape \(3, windows, 2\)"):
            evaluate_windows(spans, torch.ones(2, 1, 2))

    def test_windows_as_tensors_are_the_same_row(self):
        generator = torch.Generator().manual_seed(0)
        queries = [query([(float(k), k + 3.0)] * (1 + k % 2) + [(0.0, 1.0 + k)], vid=str(k % 3)) for k in range(9)]
        predictions = 20 * torch.rand(9, 6, 2, generator=generator, dtype=torch.float64).sort(-1).values
        windows, mask = pad_spans([q.windows for q in queries])
        windows[~mask] = NAN
        for preset in (DEFAULT, MOMENT_DETR, TWO_D_TAN["tacos"]):
            a = evaluate(predictions, queries, preset=preset)
            b = evaluate_windows(
                predictions,
                windows,
                window_mask=mask,
                videos=[q.vid for q in queries],
                duration=torch.full((9,), 20.0),
                preset=preset,
            )
            assert np.array_equal(a.hits, b.hits)
            assert np.array_equal(a.ious, b.ious)

    def test_a_preset_changes_the_row(self):
        predictions = torch.tensor([[[0.0, 4.9], [0.0, 5.1], [0.0, 10.0]]])
        tie = [query([(0.0, 10.0)])]
        exact = torch.tensor([[[0.0, 5.0]]])
        assert evaluate(exact, tie)["R@1, IoU=0.5"] == 1
        assert evaluate(exact, tie, preset=Preset("strict", strict=True))["R@1, IoU=0.5"] == 0
        assert evaluate(exact, tie, preset=MOMENT_DETR)["R@1, IoU=0.5"] == 1
        assert (
            evaluate(exact, tie, preset=MOMENT_DETR_ROUNDED)["R@1, IoU=0.5"] == 0
        )  # 2.5 clips round to 2, half to even
        # the near duplicate of the first goes, so the second rank is the long span
        assert evaluate(predictions, tie, n=(2,))["R@2, IoU=0.7"] == 0
        assert evaluate(predictions, tie, n=(2,), preset=Preset("nms", nms_threshold=0.5))["R@2, IoU=0.7"] == 1

    def test_pad_spans_empty_rows(self):
        padded, mask = pad_spans([[], [(1.0, 2.0)], []])
        assert padded.tolist() == [[[0.0, 0.0]], [[1.0, 2.0]], [[0.0, 0.0]]]
        assert mask.tolist() == [[False], [True], [False]]

    def test_error_texts(self):
        spans = torch.zeros(1, 1, 2)
        with pytest.raises(
            ValueError, match="evaluate: `queries` must each have at least one moment, got none for query 'x7'"
        ):
            evaluate(spans, [query([], qid="x7")])
        with pytest.raises(
            ValueError, match="`predictions` must be finite where they are not masked, got a non-finite span in row 1"
        ):
            evaluate(torch.tensor([[[0.0, 1.0]], [[NAN, 1.0]]]), [query([(0.0, 1.0)])] * 2)
        with pytest.raises(
            ValueError, match=r"`predictions` must have shape \(queries, predictions, 2\), got \(4, 3\)"
        ):
            evaluate_windows(torch.zeros(4, 3), torch.zeros(4, 2))
        with pytest.raises(ValueError, match=r"`predictions` must have one row for each of 1 queries, got \(2, 1, 2\)"):
            evaluate(torch.zeros(2, 1, 2), [query([(0.0, 1.0)])])
        with pytest.raises(ValueError, match=r"`metric` must be one of 'R@1, IoU=0.3'.* got 'R@7'"):
            evaluate(spans, [query([(0.0, 1.0)])])["R@7"]
        with pytest.raises(ValueError, match="evaluate_windows: `duration` must be above 0, got 0"):
            evaluate(spans, [query([(0.0, 1.0)], duration=0.0)])
        first, other = evaluate(spans, [query([(0.0, 1.0)])]), evaluate(spans, [query([(0.0, 1.0)], vid="w")])
        with pytest.raises(ValueError, match="`other` must be over the same queries in the same order"):
            first.compare(other, "mIoU")


class TestBootstrap:
    def test_equals_a_loop_over_drawn_videos(self):
        """The same distribution as gathering the rows of drawn videos: quantiles agree to Monte-Carlo error."""
        rng = np.random.default_rng(1)
        videos = np.repeat(np.arange(30), rng.integers(1, 12, 30))
        values = (rng.random(len(videos)) < 0.2 + 0.6 * (videos % 3 == 0)).astype(float)
        rows = [np.flatnonzero(videos == v) for v in range(30)]
        draws = []
        for _ in range(4000):
            picked = np.concatenate([rows[v] for v in rng.integers(0, 30, 30)])
            draws.append(values[picked].mean())
        got = bootstrap_interval(values, groups=videos, samples=4000)
        spread = np.std(draws)
        assert got.mean == pytest.approx(values.mean())
        assert got.low == pytest.approx(np.quantile(draws, 0.025), abs=0.2 * spread)
        assert got.high == pytest.approx(np.quantile(draws, 0.975), abs=0.2 * spread)

    def test_wider_by_video_than_by_query(self):
        """Ten identical queries of a video give the interval of one query."""
        values, videos = np.repeat(np.arange(40) % 2, 10), np.repeat(np.arange(40), 10)
        by_video = bootstrap_interval(values, groups=videos)
        by_query = bootstrap_interval(values)
        ratio = (by_video.high - by_video.low) / (by_query.high - by_query.low)
        assert ratio == pytest.approx(math.sqrt(10), rel=0.15)

    def test_covers_at_its_level(self):
        rng = np.random.default_rng(0)
        inside = 0
        for trial in range(200):
            level = np.repeat(rng.random(60), 4)
            got = bootstrap_interval(
                (rng.random(240) < level), groups=np.repeat(np.arange(60), 4), seed=trial, samples=400
            )
            inside += got.low <= 0.5 <= got.high
        assert inside / 200 == pytest.approx(0.95, abs=0.05)

    def test_seed_and_single_group(self):
        values = np.arange(20) ** 1.5 / 100
        assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
        assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
        alone = bootstrap_interval(np.arange(20) % 4 == 0, groups=["v"] * 20)
        assert math.isnan(alone.low)
        assert str(alone) == "25.0"

    @relaxed
    @given(st.floats(0, 1), st.integers(2, 30))
    def test_constant_values_have_a_point(self, value, count):
        got = bootstrap_interval([value] * count, groups=np.arange(count) // 2, samples=50)
        assert got.mean == pytest.approx(value)
        if not math.isnan(got.low):
            assert got.low == pytest.approx(value)
            assert got.high == pytest.approx(value)

    def test_error_texts(self):
        with pytest.raises(ValueError, match=r"bootstrap_interval: `values` must be a non-empty vector, got \(0,\)"):
            bootstrap_interval([])
        with pytest.raises(ValueError, match="`values` must be finite, got NaN or infinity"):
            bootstrap_interval([1.0, NAN])
        with pytest.raises(ValueError, match=r"`groups` must have shape \(2,\), got \(3,\)"):
            bootstrap_interval([1.0, 2.0], groups=[1, 2, 3])
        with pytest.raises(ValueError, match="`level` must be a finite number > 0 and < 1, got 95"):
            bootstrap_interval([1.0, 2.0], level=95)


class TestSeeds:
    @relaxed
    @given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.sampled_from([0.8, 0.95]))
    def test_is_the_t_interval_of_scipy(self, values, level):
        got = seed_interval(values, level=level)
        scale = stats.sem(values)
        half = stats.t.ppf((1 + level) / 2, len(values) - 1) * scale
        assert got.mean == pytest.approx(np.mean(values))
        assert got.low == pytest.approx(np.mean(values) - half, abs=1e-9)
        assert got.high == pytest.approx(np.mean(values) + half, abs=1e-9)

    def test_one_seed_has_no_interval(self):
        got = seed_interval([0.25])
        assert got.mean == 0.25
        assert math.isnan(got.low)
        assert math.isnan(got.high)


class TestPaired:
    @relaxed
    @given(st.lists(st.integers(-3, 3), min_size=2, max_size=8))
    def test_approaches_the_exact_sign_flip_test(self, differences):
        d = np.array(differences, dtype=float)
        flips = [abs(np.dot(signs, d)) >= abs(d.sum()) for signs in itertools.product((-1, 1), repeat=len(d))]
        got = paired_test(d, np.zeros_like(d), samples=4000)
        assert got.difference == pytest.approx(d.mean())
        assert got.p_value == pytest.approx(np.mean(flips), abs=0.045)

    def test_whole_videos_flip(self):
        """Copies of a query add no evidence: with two videos no p-value is below 1/2."""
        a, groups = np.ones(20), np.repeat([0, 1], 10)
        assert paired_test(a, 0 * a, groups=groups).p_value == pytest.approx(0.5, abs=0.03)
        assert paired_test(a, 0 * a).p_value < 0.001

    def test_never_zero(self):
        """None of 100 random sign vectors reaches the statistic of forty equal differences: p is 1 / (1 + B)."""
        assert paired_test(np.ones(40), np.zeros(40), samples=100).p_value == 1 / 101

    def test_level_under_the_null(self):
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(25), 4)
        p = [
            paired_test(rng.random(100) < 0.4, rng.random(100) < 0.4, groups=groups, samples=300, seed=k).p_value
            for k in range(300)
        ]
        assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.035)
        assert min(p) > 0

    def test_interval_is_the_bootstrap_of_the_difference(self):
        rng = np.random.default_rng(2)
        a, b, groups = rng.random(300), rng.random(300), np.arange(300) // 5
        got = paired_test(a, b, groups=groups)
        expected = bootstrap_interval(a - b, groups=groups, samples=10_000)
        spread = (expected.high - expected.low) / 4
        assert got.low == pytest.approx(expected.low, abs=0.2 * spread)
        assert got.high == pytest.approx(expected.high, abs=0.2 * spread)

    def test_rows_compare_by_video(self):
        queries = [query([(0.0, 10.0)], vid=str(k // 5)) for k in range(60)]
        good = evaluate(torch.tensor([[[0.0, 9.0]]]).repeat(60, 1, 1), queries, name="good")
        poor = evaluate(torch.tensor([[[5.0, 20.0]]]).repeat(60, 1, 1), queries, name="poor")
        result = good.compare(poor, "R@1, IoU=0.5")
        assert result.difference == 1
        assert result.p_value < 0.01
        assert str(result).startswith("+100.0 [+100.0, +100.0], p = 0.00")
        interval = good.interval("R@1, IoU=0.5")
        assert (interval.mean, interval.low, interval.high) == (1, 1, 1)

    def test_error_texts(self):
        with pytest.raises(ValueError, match=r"paired_test: `b` must have shape \(2,\), got \(3,\)"):
            paired_test([1.0, 2.0], [1.0, 2.0, 3.0])


class TestGap:
    @relaxed
    @given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 2))
    def test_inverse_of_interpolation(self, low, width, share):
        high = low + max(width, 0.01)
        assert recovered_gap(low + share * (high - low), low, high) == pytest.approx(share, abs=1e-9)

    def test_no_gap_is_not_a_number(self):
        assert math.isnan(recovered_gap(0.4, 0.3, 0.3))
        assert math.isnan(recovered_gap(0.4, 0.5, 0.3))


def test_interval_prints_per_cent():
    assert str(Interval(0.5, 0.4, 0.6)) == "50.0 [40.0, 60.0]"
