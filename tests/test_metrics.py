"""Metrics against counting, per-query loops of the public evaluators, and problems drawn with their answers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import mmda.metrics as metrics
from mmda.metrics import (
    DEFAULT,
    FRAMES,
    MMN,
    MOMENT_DETR,
    MOMENT_DETR_ROUNDED,
    PRESETS,
    TWO_D_TAN,
    VSLNET,
    Preset,
    best_iou,
    mean_iou,
    recall_at_iou,
    select_spans,
    temporal_iou,
    temporal_nms,
)
from tests.reference import metrics as reference

NAN = float("nan")
relaxed = settings(deadline=None, max_examples=60)  # no time limit, because shared machines stall
THRESHOLDS = (0.0, 0.3, 0.4, 0.45, 0.5, 0.7, 1.0)


@st.composite
def grid_spans(draw, count, *, width=20, least=1):
    """``count`` integer spans inside [0, width], at least ``least`` long."""
    starts = draw(st.lists(st.integers(0, width - least), min_size=count, max_size=count))
    return [(s, draw(st.integers(s + least, width))) for s in starts]


@st.composite
def ranked_problem(draw):
    """A few queries of spans on a grid, with scores that tie often."""
    count, batch = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    spans = [draw(grid_spans(count)) for _ in range(batch)]
    scores = [draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count)) for _ in range(batch)]
    windows = draw(grid_spans(batch))
    return spans, scores, windows


class TestIoU:
    @relaxed
    @given(st.data())
    def test_counting_cells(self, data):
        first, second = data.draw(grid_spans(6, least=0)), data.draw(grid_spans(6, least=0))
        a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
        counted = [[reference.cells_iou(x, y) for y in second] for x in first]
        expected = torch.tensor(counted, dtype=torch.float64)
        for union in ("true", "hull"):
            assert torch.equal(temporal_iou(a[:, None], b[None], union=union), expected)

    @relaxed
    @given(st.data())
    def test_counting_frames(self, data):
        first, second = data.draw(grid_spans(6, least=0)), data.draw(grid_spans(6, least=0))
        a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
        counted = [[reference.cells_iou(x, y, inclusive=True) for y in second] for x in first]
        expected = torch.tensor(counted, dtype=torch.float64)
        assert torch.equal(temporal_iou(a[:, None], b[None], union="inclusive"), expected)

    @pytest.mark.parametrize("union", ["true", "hull"])
    def test_nothing_over_nothing_is_zero_with_zero_gradient(self, union):
        a = torch.tensor([3.0, 3.0], requires_grad=True)
        value = temporal_iou(a, torch.tensor([3.0, 3.0]), union=union)
        value.backward()
        assert value.item() == 0
        assert torch.equal(a.grad, torch.zeros(2))

    @pytest.mark.parametrize("union", ["true", "hull", "inclusive"])
    def test_inverted_span_overlaps_nothing(self, union):
        assert temporal_iou(torch.tensor([7.0, 3.0]), torch.tensor([0.0, 10.0]), union=union).item() == 0

    def test_gradient(self):
        a = torch.tensor([[0.0, 4.0], [1.0, 9.0]], dtype=torch.float64, requires_grad=True)
        b = torch.tensor([[1.0, 6.0], [2.0, 3.5]], dtype=torch.float64, requires_grad=True)
        for union in ("true", "hull", "inclusive"):
            assert torch.autograd.gradcheck(lambda x, y, u=union: temporal_iou(x, y, union=u), (a, b))

    def test_broadcasts_and_widens(self):
        a, b = torch.zeros(5, 1, 2, dtype=torch.bfloat16), torch.ones(3, 2)
        assert temporal_iou(a, b).shape == (5, 3)
        assert temporal_iou(a, b).dtype == torch.float32

    def test_error_texts(self):
        with pytest.raises(ValueError, match=r"^temporal_iou: `a` must have shape \(..., 2\), got \(4, 3\)$"):
            temporal_iou(torch.zeros(4, 3), torch.zeros(4, 2))
        with pytest.raises(TypeError, match=r"^temporal_iou: `b` must be a floating-point tensor, got torch.int64$"):
            temporal_iou(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.long))
        with pytest.raises(ValueError, match="`union` must be one of 'true', 'hull', 'inclusive', got 'best'"):
            temporal_iou(torch.zeros(2), torch.zeros(2), union="best")


class TestNMS:
    @relaxed
    @given(ranked_problem(), st.sampled_from(THRESHOLDS), st.integers(1, 11))
    def test_equals_the_public_loops(self, problem, threshold, top_n):
        spans, scores, _ = problem
        tensor = torch.tensor(spans, dtype=torch.float64)
        score = torch.tensor(scores, dtype=torch.float64)
        for union, loop in (("hull", reference.moment_detr_nms), ("true", reference.two_d_tan_nms)):
            index, keep = temporal_nms(tensor, score, threshold=threshold, top_n=top_n, union=union)
            assert index.shape == keep.shape == (len(spans), top_n)
            for row in range(len(spans)):
                expected = loop(tensor[row].numpy(), score[row].numpy(), threshold, top_n)
                assert index[row][keep[row]].tolist() == expected
                assert index[row][~keep[row]].tolist() == [0] * (top_n - len(expected))

    @relaxed
    @given(ranked_problem(), st.data())
    def test_padding_never_matters(self, problem, data):
        spans, scores, _ = problem
        count = len(scores[0])
        mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=count, max_size=count)) for _ in spans])
        tensor = torch.tensor(spans, dtype=torch.float32)
        score = torch.tensor(scores, dtype=torch.float32)
        fill = data.draw(st.sampled_from([NAN, float("inf"), -float("inf"), 1e30]))
        tensor[~mask], score[~mask] = fill, fill
        index, keep = temporal_nms(tensor, score, threshold=0.5, top_n=4, mask=mask)
        for row in range(len(spans)):
            real = mask[row].nonzero()[:, 0]
            expected = reference.two_d_tan_nms(
                tensor[row][real].double().numpy(), score[row][real].double().numpy(), 0.5, 4
            )
            assert index[row][keep[row]].tolist() == real[expected].tolist()

    @relaxed
    @given(st.integers(0, 2**31))
    def test_kept_spans_are_apart_and_ranked(self, seed):
        generator = torch.Generator().manual_seed(seed)
        start = torch.rand(3, 30, generator=generator)
        spans = torch.stack([start, start + torch.rand(3, 30, generator=generator)], -1)
        scores = torch.rand(3, 30, generator=generator)
        index, keep = temporal_nms(spans, scores, threshold=0.4, top_n=10)
        chosen = spans.gather(1, index[..., None].expand(-1, -1, 2))
        overlap = temporal_iou(chosen[:, :, None], chosen[:, None])
        both = keep[:, :, None] & keep[:, None] & ~torch.eye(10, dtype=torch.bool)
        assert (overlap[both] <= 0.4).all()
        ranked = scores.gather(1, index)
        assert ((ranked[:, 1:] <= ranked[:, :-1]) | ~keep[:, 1:]).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("inter", "union", "threshold"), [(9, 20, 0.45), (49, 70, 0.7), (3, 10, 0.3)])
    def test_a_tie_at_the_threshold_is_kept(self, dtype, inter, union, threshold):
        spans = torch.tensor([[[0.0, union], [0.0, inter]]], dtype=dtype)
        _, keep = temporal_nms(spans, torch.tensor([[2.0, 1.0]]), threshold=threshold, top_n=2)
        assert keep.tolist() == [[True, True]]
        _, keep = temporal_nms(spans, torch.tensor([[2.0, 1.0]]), threshold=threshold - 1e-3, top_n=2)
        assert keep.tolist() == [[True, False]]

    def test_degenerate_spans_suppress_nothing(self):
        spans = torch.tensor([[[2.0, 2.0], [2.0, 2.0], [1.0, 3.0]]])
        index, keep = temporal_nms(spans, torch.tensor([[1.0, 3.0, 2.0]]), threshold=0.0, top_n=3)
        assert index.tolist() == [[1, 2, 0]]
        assert keep.all()

    def test_extreme_scores(self):
        spans = torch.arange(10.0).reshape(1, 5, 2)
        scores = torch.tensor([[-float("inf"), NAN, float("inf"), 0.0, -3.4e38]])
        index, keep = temporal_nms(spans, scores, threshold=0.5, top_n=5)
        assert index.tolist()[0][:2] == [2, 3]
        assert sorted(index.tolist()[0]) == [0, 1, 2, 3, 4]
        assert keep.all()

    def test_tiles_do_not_show(self, monkeypatch):
        generator = torch.Generator().manual_seed(0)
        spans = torch.rand(50, 12, 2, generator=generator).sort(-1).values
        scores = torch.rand(50, 12, generator=generator)
        whole = temporal_nms(spans, scores, threshold=0.5, top_n=4)
        monkeypatch.setattr(metrics, "_TILE", 25)
        for a, b in zip(whole, temporal_nms(spans, scores, threshold=0.5, top_n=4)):
            assert torch.equal(a, b)

    def test_no_candidates_and_no_queries(self):
        index, keep = temporal_nms(torch.zeros(2, 0, 2), torch.zeros(2, 0), threshold=0.5, top_n=3)
        assert index.shape == (2, 3)
        assert not keep.any()
        index, keep = temporal_nms(torch.zeros(0, 4, 2), torch.zeros(0, 4), threshold=0.5, top_n=3)
        assert index.shape == keep.shape == (0, 3)

    def test_inputs_unchanged(self):
        spans, scores = torch.rand(4, 6, 2).sort(-1).values, torch.rand(4, 6, requires_grad=True)
        before = spans.clone(), scores.detach().clone()
        index, _ = temporal_nms(spans, scores, threshold=0.1, top_n=3)
        assert torch.equal(spans, before[0])
        assert torch.equal(scores, before[1])
        assert not index.requires_grad

    def test_error_texts(self):
        with pytest.raises(ValueError, match=r"`scores` must have shape \(2, 3\), got \(2, 4\)"):
            temporal_nms(torch.zeros(2, 3, 2), torch.zeros(2, 4), threshold=0.5, top_n=1)
        with pytest.raises(ValueError, match=r"`threshold` must be a finite number >= 0 and <= 1, got 1.5"):
            temporal_nms(torch.zeros(2, 3, 2), torch.zeros(2, 3), threshold=1.5, top_n=1)
        with pytest.raises(ValueError, match="`top_n` must be an integer >= 1, got 0"):
            temporal_nms(torch.zeros(2, 3, 2), torch.zeros(2, 3), threshold=0.5, top_n=0)
        with pytest.raises(ValueError, match=r"`mask` must have shape \(2, 3\)"):
            temporal_nms(
                torch.zeros(2, 3, 2),
                torch.zeros(2, 3),
                threshold=0.5,
                top_n=1,
                mask=torch.ones(2, 2, dtype=torch.bool),
            )


@st.composite
def answered(draw):
    """Queries drawn with their answer: the rank of the only overlapping prediction and its IoU in twentieths."""
    batch, ranks = draw(st.integers(1, 6)), 6
    at = [draw(st.integers(0, ranks)) for _ in range(batch)]  # rank = ranks: not among the predictions
    level = [draw(st.integers(1, 20)) for _ in range(batch)]
    return batch, ranks, at, level


class TestRecall:
    @relaxed
    @given(answered(), st.booleans())
    def test_known_answer(self, problem, strict):
        batch, ranks, at, level = problem
        predictions = torch.full((batch, ranks, 2), 100.0, dtype=torch.float64)
        predictions[..., 1] = 110.0
        # two windows and a padded one; the second is hit
        windows = torch.tensor([[[50.0, 60.0], [0.0, 20.0], [NAN, NAN]]], dtype=torch.float64).repeat(batch, 1, 1)
        window_mask = torch.tensor([[True, True, False]]).repeat(batch, 1)
        for row in range(batch):
            if at[row] < ranks:
                predictions[row, at[row]] = torch.tensor([0.0, float(level[row])])
        result = recall_at_iou(
            predictions, windows, n=(1, 3, 6, 9), iou=(0.3, 0.45, 0.5), strict=strict, window_mask=window_mask
        )
        for row in range(batch):
            for i, n in enumerate(result.n):
                for j, twentieths in enumerate((6, 9, 10)):
                    reached = level[row] > twentieths if strict else level[row] >= twentieths
                    assert bool(result.hits[row, i, j]) == (at[row] < n and at[row] < ranks and reached)
        assert_close(result.rates, result.hits.double().mean(0))

    @pytest.mark.parametrize("fill", [[NAN, NAN], [0.0, 4.0], [-float("inf"), float("inf")]])
    def test_missing_predictions_and_windows(self, fill):
        """Any values in padding, even a perfect match."""
        real = [0.0, 4.0]
        predictions = torch.tensor([[real, fill], [fill, fill], [real, real]])
        prediction_mask = torch.tensor([[True, False], [False, False], [True, True]])
        windows = torch.tensor([[real], [real], [fill]])
        window_mask = torch.tensor([[True], [True], [False]])
        given_ = {"prediction_mask": prediction_mask, "window_mask": window_mask}
        result = recall_at_iou(predictions, windows, n=(1, 2), iou=(0.5,), **given_)
        assert result.hits[:, :, 0].tolist() == [[True, True], [False, False], [False, False]]
        assert_close(mean_iou(predictions, windows, **given_), torch.tensor(1 / 3))
        assert best_iou(predictions, windows, **given_).tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]

    def test_the_unit_of_time_does_not_move_a_tie(self):
        duration = torch.linspace(1, 300, 2000, dtype=torch.float64)
        share = torch.tensor([0.0, 0.3], dtype=torch.float64)
        predictions = share * duration[:, None, None]
        windows = torch.stack([0 * duration, duration], -1).unsqueeze(1)
        exact = recall_at_iou(predictions, windows, n=(1,), iou=(0.3,), tolerance=0)
        assert exact.rates.item() < 1  # the case that the tolerance is for
        assert recall_at_iou(predictions, windows, n=(1,), iou=(0.3,)).rates.item() == 1
        assert recall_at_iou(predictions, windows, n=(1,), iou=(0.3,), strict=True).rates.item() == 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_tie_is_a_hit_unless_strict(self, dtype):
        predictions = torch.tensor([[[0.0, 9.0]]], dtype=dtype)
        windows = torch.tensor([[[0.0, 20.0]]], dtype=dtype)
        for tolerance in (0.0, 1e-9):
            given_ = {"n": (1,), "iou": (0.45,), "tolerance": tolerance}
            assert recall_at_iou(predictions, windows, **given_).hits.all()
            assert not recall_at_iou(predictions, windows, strict=True, **given_).hits.any()

    @relaxed
    @given(st.integers(0, 2**31))
    def test_rises_with_n_and_falls_with_iou(self, seed):
        generator = torch.Generator().manual_seed(seed)
        predictions = torch.rand(40, 7, 2, generator=generator).sort(-1).values
        windows = torch.rand(40, 2, 2, generator=generator).sort(-1).values
        rates = recall_at_iou(predictions, windows, n=(1, 2, 5, 7), iou=(0.1, 0.4, 0.8)).rates
        assert (rates.diff(dim=0) >= 0).all()
        assert (rates.diff(dim=1) <= 0).all()

    def test_tiles_do_not_show(self, monkeypatch):
        generator = torch.Generator().manual_seed(0)
        predictions = torch.rand(50, 5, 2, generator=generator).sort(-1).values
        windows = torch.rand(50, 2, 2, generator=generator).sort(-1).values
        mask = torch.rand(50, 5, generator=generator) > 0.3
        whole = recall_at_iou(predictions, windows, prediction_mask=mask)
        monkeypatch.setattr(metrics, "_TILE", 30)
        assert torch.equal(whole.hits, recall_at_iou(predictions, windows, prediction_mask=mask).hits)

    def test_dict_and_text(self):
        result = recall_at_iou(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.0, 1.0]]]), n=(1,), iou=(0.5,))
        assert result.as_dict() == {"R@1, IoU=0.5": 1.0}
        assert str(result) == "R@1, IoU=0.5 100.0"

    def test_error_texts(self):
        spans = torch.zeros(2, 3, 2)
        with pytest.raises(ValueError, match=r"recall_at_iou: `windows` must have as many rows as `predictions` \(2\)"):
            recall_at_iou(spans, torch.zeros(3, 1, 2))
        with pytest.raises(ValueError, match=r"`predictions` must have shape \(batch, predictions, 2\), got \(3, 2\)"):
            recall_at_iou(torch.zeros(3, 2), torch.zeros(3, 1, 2))
        with pytest.raises(ValueError, match="`iou` must be a finite number > 0 and <= 1, got 50"):
            recall_at_iou(spans, torch.zeros(2, 1, 2), iou=(50,))
        with pytest.raises(ValueError, match="`n` must hold at least one count, got none"):
            recall_at_iou(spans, torch.zeros(2, 1, 2), n=())


class TestPresets:
    """Hits equal those of the public evaluators' loops exactly, ties and rounding included."""

    n, iou = (1, 5), (0.1, 0.3, 0.5, 0.7)

    @staticmethod
    def proposals(seed, *, queries=150, clips=16):
        """All spans of a grid of clips stretched to a duration: the layout of proposal methods, full of ties."""
        rng = np.random.default_rng(seed)
        first, last = np.triu_indices(clips + 1, 1)
        grid = np.stack([first, last], 1)
        duration = rng.choice([30.0, 32.0, 33.3, 150.0, 117.6], size=queries)
        spans = grid[None] * duration[:, None, None] / clips
        scores = np.round(rng.random((queries, len(grid))), 2)
        at = rng.integers(0, len(grid), queries)
        windows = np.round(grid[at] * duration[:, None] / clips, 1)  # one decimal, as in annotations
        exact = rng.random(queries) < 0.5
        windows[exact] = (grid[at] * duration[:, None] / clips)[exact]
        # scores favour the window, so that every outcome occurs
        inter = np.minimum(spans[..., 1], windows[:, 1:]) - np.maximum(spans[..., 0], windows[:, :1])
        hull = np.maximum(spans[..., 1], windows[:, 1:]) - np.minimum(spans[..., 0], windows[:, :1])
        scores += np.round(np.maximum(inter, 0) / hull, 1) * rng.choice([0, 0.5], size=scores.shape)
        return spans, scores, windows, duration

    def ours(self, preset, spans, scores, windows):
        ranked, keep = select_spans(torch.from_numpy(spans), torch.from_numpy(scores), top_n=5, preset=preset)
        return recall_at_iou(
            ranked,
            torch.from_numpy(windows).unsqueeze(1),
            n=self.n,
            iou=self.iou,
            strict=preset.strict,
            union=preset.union,
            tolerance=preset.tolerance,
            prediction_mask=keep,
        ).hits.numpy()

    @pytest.mark.parametrize("name", ["charades_sta", "activitynet_captions", "tacos"])
    def test_two_d_tan(self, name):
        spans, scores, windows, _ = self.proposals(1)
        preset = TWO_D_TAN[name]
        expected = [
            reference.two_d_tan_hits(s, c, w, preset.nms_threshold, self.n, self.iou)
            for s, c, w in zip(spans, scores, windows)
        ]
        got = self.ours(preset, spans, scores, windows)
        assert 0.05 < got[:, 0, 2].mean() < 0.95
        assert np.array_equal(got, np.array(expected))

    def test_mmn(self):
        spans, scores, windows, _ = self.proposals(2, queries=60)
        for preset in MMN.values():
            expected = [
                reference.mmn_hits(s, c, w, preset.nms_threshold, self.n, self.iou)
                for s, c, w in zip(spans.tolist(), scores.tolist(), windows.tolist())
            ]
            assert np.array_equal(self.ours(preset, spans, scores, windows), np.array(expected))

    def test_vslnet(self):
        spans, scores, windows, _ = self.proposals(3)
        expected = [reference.vslnet_hits(s[int(np.argmax(c))], w, self.iou) for s, c, w in zip(spans, scores, windows)]
        assert np.array_equal(self.ours(VSLNET, spans, scores, windows)[:, 0], np.array(expected))

    def test_moment_detr_after_its_post_processing(self):
        rng = np.random.default_rng(4)
        queries, count = 300, 10
        spans = np.sort(rng.uniform(-5, 160, (queries, count, 2)), -1).round(4)
        spans[::7] = np.round(spans[::7])  # odd seconds: halves of a clip
        scores = rng.random((queries, count)).round(4)
        duration = rng.choice([150.0, 120.0, 126.0], queries)
        first = rng.integers(0, 20, (queries, 2)) * 2.0
        windows = np.stack([first, first + rng.integers(1, 30, (queries, 2)) * 2.0], -1)
        mask = np.stack([np.ones(queries, bool), rng.random(queries) < 0.5], 1)
        expected = [
            reference.moment_detr_hits(s.tolist(), c.tolist(), w[m].tolist(), d, self.iou)
            for s, c, w, m, d in zip(spans, scores, windows, mask, duration)
        ]
        windows[~mask] = NAN
        ranked, keep = select_spans(
            torch.from_numpy(spans),
            torch.from_numpy(scores),
            top_n=1,
            preset=MOMENT_DETR_ROUNDED,
            duration=torch.from_numpy(duration),
        )
        got = recall_at_iou(
            ranked,
            torch.from_numpy(windows),
            n=(1,),
            iou=self.iou,
            union=MOMENT_DETR_ROUNDED.union,
            tolerance=MOMENT_DETR_ROUNDED.tolerance,
            prediction_mask=keep,
            window_mask=torch.from_numpy(mask),
        ).hits[:, 0]
        assert 0.05 < got[:, 1].double().mean() < 0.95
        assert np.array_equal(got.numpy(), np.array(expected))

    def test_a_prediction_past_the_video_counts_as_the_evaluator_has_it(self):
        """[0, 10] for (0, 5) of a video of 5 s: clipped 1, on the grid of 2 s 4 / 5, as it comes a half."""
        expected = {"default": 1.0, "moment_detr_rounded": 0.8, "frames": 6 / 11}
        spans, scores, duration = torch.tensor([[[0.0, 10.0]]]), torch.ones(1, 1), torch.tensor([5.0])
        truth = torch.tensor([[[0.0, 5.0]]])
        for preset in PRESETS.values():
            ranked, keep = select_spans(spans, scores, top_n=1, preset=preset, duration=duration)
            value = float(best_iou(ranked, truth, prediction_mask=keep, union=preset.union))
            assert value == pytest.approx(expected.get(preset.name, 0.5))

    def test_only_the_post_processed_preset_rounds(self):
        """[4.9, 9.1] for (5, 9): 4 / 4.2; on the grid of 2 s it becomes [4, 10], 4 / 6."""
        spans, truth = torch.tensor([[[4.9, 9.1]]], dtype=torch.float64), torch.tensor([[[5.0, 9.0]]])
        for preset in PRESETS.values():
            ranked, _ = select_spans(spans, torch.ones(1, 1), top_n=1, preset=preset)
            value = float(best_iou(ranked, truth, union="true"))
            assert value == pytest.approx(4 / 6 if preset is MOMENT_DETR_ROUNDED else 4 / 4.2)

    def test_they_differ(self):
        """On a grid the conventions give different numbers, which is why they have names."""
        spans, scores, windows, _ = self.proposals(5)
        strict = self.ours(TWO_D_TAN["charades_sta"], spans, scores, windows)
        loose = self.ours(replace(TWO_D_TAN["charades_sta"], strict=False), spans, scores, windows)
        assert loose[:, 0, 2].mean() > strict[:, 0, 2].mean()

    def test_values(self):
        assert [TWO_D_TAN[k].nms_threshold for k in ("charades_sta", "activitynet_captions", "tacos")] == [
            0.45,
            0.5,
            0.4,
        ]
        assert [MMN[k].nms_threshold for k in ("charades_sta", "activitynet_captions", "tacos")] == [0.5, 0.5, 0.4]
        assert all(
            PRESETS[p.name] == p for p in (DEFAULT, MOMENT_DETR, MOMENT_DETR_ROUNDED, VSLNET, FRAMES, *MMN.values())
        )
        assert (DEFAULT.strict, DEFAULT.union, DEFAULT.nms_threshold, DEFAULT.round_to) == (False, "true", None, None)
        with pytest.raises(FrozenInstanceError):
            DEFAULT.strict = True  # type: ignore[misc]

    def test_error_texts(self):
        with pytest.raises(ValueError, match="Preset: `nms_threshold` must be a finite number >= 0 and <= 1, got 45"):
            Preset("mine", nms_threshold=45)
        with pytest.raises(ValueError, match="Preset: `round_to` must be a finite number > 0, got 0"):
            Preset("mine", round_to=0)
        with pytest.raises(TypeError, match="Preset: `strict` must be a bool, got str"):
            Preset("mine", strict="yes")
        with pytest.raises(TypeError, match="Preset: `clip` must be a bool, got int"):
            Preset("mine", clip=1)
        with pytest.raises(ValueError, match=r"select_spans: `duration` must have shape \(2,\), got \(3,\)"):
            select_spans(torch.zeros(2, 3, 2), torch.zeros(2, 3), duration=torch.zeros(3))


class TestSelect:
    def test_clips_rounds_then_suppresses(self):
        spans = torch.tensor([[[-3.0, 3.1], [0.2, 4.4], [5.0, 99.0]]])
        preset = Preset("mine", round_to=2.0, nms_threshold=0.9)
        # both first spans round to (0, 4): the later one goes
        best, keep = select_spans(
            spans, torch.tensor([[1.0, 2.0, 0.0]]), top_n=3, preset=preset, duration=torch.tensor([9.0])
        )
        assert best.tolist() == [[[0.0, 4.0], [4.0, 8.0], [0.0, 0.0]]]
        assert keep.tolist() == [[True, True, False]]

    def test_without_candidates(self):
        best, keep = select_spans(torch.zeros(2, 0, 2), torch.zeros(2, 0), top_n=2)
        assert best.tolist() == torch.zeros(2, 2, 2).tolist()
        assert not keep.any()


def test_mean_iou_by_hand():
    predictions = torch.tensor([[[0.0, 2.0], [0.0, 4.0]], [[0.0, 6.0], [0.0, 0.0]]])
    windows = torch.tensor([[[0.0, 4.0], [8.0, 9.0]], [[3.0, 6.0], [1.0, 5.0]]])
    assert_close(mean_iou(predictions, windows), torch.tensor((2 / 4 + 4 / 6) / 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    spans = torch.randint(0, 20, (300, 40, 2), generator=generator).sort(-1).values.double()
    scores = torch.randint(0, 9, (300, 40), generator=generator).double()
    host = temporal_nms(spans, scores, threshold=0.45, top_n=5)
    device = temporal_nms(spans.cuda(), scores.cuda(), threshold=0.45, top_n=5)
    for a, b in zip(host, device):
        assert torch.equal(a, b.cpu())


@pytest.mark.parametrize("union", ["true", "hull", "inclusive"])
@pytest.mark.parametrize("place", [0, 1])
def test_nan_overlaps_by_nan(union, place: int) -> None:
    spans, other = torch.tensor([[0.0, 2.0], [1.0, 3.0]]), torch.tensor([1.0, 4.0])
    spans[0, place] = torch.nan
    found = temporal_iou(spans, other, union=union)
    assert found.isnan().tolist() == [True, False]
    assert temporal_iou(other, spans, union=union).isnan().tolist() == [True, False]
