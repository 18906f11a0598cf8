"""Public evaluators' further metrics: ranked moments, highlights, discounted recall, misses; prediction files."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmda.metrics import EGO4D_NLQ, discounted_recall_at_iou
from mmda.vmr import VMRDataError, VMRQuery, read_annotations, validate_queries
from mmda.vmr.evaluation import (
    Prediction,
    align_predictions,
    average_precision,
    evaluate,
    highlight_scores,
    moment_scores,
    pad_spans,
    qvhighlights_scores,
    read_predictions,
    read_saliency,
    write_predictions,
)
from mmda.vmr.evaluation.ranking import MAP_THRESHOLDS
from tests.reference.rankings import clip_average_precision, discounted, iou, moment_average_precision

SPAN = st.tuples(st.integers(0, 20), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
LEVELS = [Fraction(10 + k, 20) for k in range(10)]


def query(qid: str, *windows: tuple[float, float], duration: float = 150.0) -> VMRQuery:
    return VMRQuery(qid, "v", "a dog", duration, windows)


class TestAveragePrecision:
    @given(st.lists(SPAN, min_size=1, max_size=9), st.lists(SPAN, min_size=1, max_size=4, unique=True))
    @settings(max_examples=150, deadline=None)
    def test_is_the_definition(self, spans: list[tuple[int, int]], windows: list[tuple[int, int]]) -> None:
        scores = [-float(k) for k in range(len(spans))]
        ours = average_precision(spans, scores, windows)
        # a span with equal IoU to two windows may match either: such draws are left out
        for span in spans:
            values = [iou(span, window) for window in windows if iou(span, window) >= LEVELS[0]]
            if len(set(values)) != len(values):
                return
        theirs = [float(moment_average_precision(spans, windows, level)) for level in LEVELS]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    def test_thresholds_are_decimals(self) -> None:
        assert MAP_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)

    def test_rank_is_by_score_and_equal_scores_keep_their_order(self) -> None:
        windows = [(0, 10)]
        assert average_precision([(20, 30), (0, 10)], [0.1, 0.9], windows, iou=(0.5,)) == 1.0
        assert average_precision([(20, 30), (0, 10)], [0.5, 0.5], windows, iou=(0.5,)) == 0.5
        assert average_precision([(0, 10), (20, 30)], [0.5, 0.5], windows, iou=(0.5,)) == 1.0

    def test_a_window_is_found_once(self) -> None:
        assert average_precision([(0, 10), (0, 10)], [0.9, 0.8], [(0, 10), (20, 30)], iou=(0.5,)) == 0.5

    def test_no_span_and_no_window(self) -> None:
        assert average_precision(np.zeros((0, 2)), [], [(0, 1)]).tolist() == [0.0] * 10
        with pytest.raises(ValueError, match="`windows` must hold at least one moment"):
            average_precision([(0, 1)], [1.0], np.zeros((0, 2)))


class TestMomentScores:
    def test_by_length(self) -> None:
        queries = [query("a", (0, 10), (20, 60)), query("b", (0, 30)), query("c", (5, 6))]
        found = {
            "a": Prediction("a", ((0, 10, 0.5), (20, 60, 0.9))),
            "b": Prediction("b", ((0, 24, 0.9),)),
            "c": Prediction("c", ((90, 99, 0.9), (5, 6, 0.1))),
        }
        scores = moment_scores(found, queries)
        assert {name: row["queries"] for name, row in scores.items()} == {"short": 2, "middle": 1, "long": 1, "full": 3}
        # "a": its second span ranks first for mAP, its first counts for R@1
        assert scores["long"]["R1@0.5"] == 0.0
        assert scores["long"]["mAP"] == 1.0
        assert scores["short"]["mAP"] == pytest.approx((0.5 + 0.5) / 2)
        assert scores["short"]["R1@0.95"] == 0.5
        assert scores["middle"]["mAP@0.8"] == 1.0
        assert scores["middle"]["mAP@0.85"] == 0.0
        assert scores["middle"]["mAP"] == pytest.approx(0.7)
        assert scores["full"]["mAP@0.5"] == pytest.approx((1 + 1 + 0.5) / 3)

    def test_bounds_of_the_lengths(self) -> None:
        ends = (10.0, 10.5, 30.0, 30.5, 150.0, 150.5)
        queries = [query(str(end), (0, end)) for end in ends]
        scores = moment_scores({str(end): Prediction(str(end), ((0.0, 9.0, 1.0),)) for end in ends}, queries)
        counts = {name: row["queries"] for name, row in scores.items()}
        assert counts == {"short": 1, "middle": 2, "long": 2, "full": 6}

    def test_the_first_ten_of_the_file_count(self) -> None:
        spans = (*((100.0, 101.0 + k, 0.1) for k in range(10)), (0.0, 10.0, 0.9))
        found = {"a": Prediction("a", spans)}
        assert moment_scores(found, [query("a", (0, 10))])["full"]["mAP"] == 0.0
        assert moment_scores(found, [query("a", (0, 10))], max_spans=11)["full"]["mAP"] == 1.0

    def test_every_query_is_answered(self) -> None:
        for predictions in ({}, {"a": Prediction("a", ())}):
            with pytest.raises(ValueError, match="answer every query with a span, got none for query 'a'"):
                moment_scores(predictions, [query("a", (0, 10))])
        with pytest.raises(ValueError, match="each have at least one moment"):
            moment_scores({}, [query("a")])


class TestHighlights:
    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=9))
    @settings(max_examples=150, deadline=None)
    def test_is_the_definition(self, clips: list[tuple[bool, int]]) -> None:
        highlight, scores = [h for h, _ in clips], [float(s) for _, s in clips]
        table = np.asarray([[4 * h] for h in highlight], dtype=np.float64)
        ours = highlight_scores({"q": Prediction("q", (), tuple(scores))}, {"q": table})["VeryGood"]
        assert ours["mAP"] == pytest.approx(float(clip_average_precision(highlight, scores)), rel=1e-12)
        assert ours["HIT@1"] == float(highlight[scores.index(max(scores))])

    def test_levels_annotators_and_lengths(self) -> None:
        table = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 4], [0, 0, 0]])
        for top, hits in ((0, (1, 0, 0)), (1, (1, 1, 0)), (2, (1, 1, 1)), (3, (0, 0, 0)), (5, (0, 0, 0))):
            scores = tuple(float(k == top) for k in range(6))
            ours = highlight_scores({"q": Prediction("q", (), scores)}, {"q": table})
            assert tuple(ours[name]["HIT@1"] for name in ("Fair", "Good", "VeryGood")) == hits
        # a list that is too short has zeros after it
        short = highlight_scores({"q": Prediction("q", (), (1.0,))}, {"q": table[:, :1]})
        assert short["Fair"]["mAP"] == 1.0
        with pytest.raises(ValueError, match="hold highlight scores of every query, got none for query 'q'"):
            highlight_scores({"q": Prediction("q", ())}, {"q": table})

    def test_annotations(self, tmp_path: Path) -> None:
        row = {"qid": 7, "duration": 7, "relevant_clip_ids": [2], "saliency_scores": [[4, 3, 2]]}
        file = tmp_path / "val.jsonl"
        file.write_text(json.dumps(row))
        assert read_saliency(file)["7"].shape == (3, 3)
        for changed in (
            {"relevant_clip_ids": [3]},
            {"saliency_scores": 5},
            {"duration": 1e10},
            {"relevant_clip_ids": [-1]},
            {"duration": "x"},
        ):
            file.write_text(json.dumps(row | changed))
            with pytest.raises(VMRDataError, match="`line 1` must have `relevant_clip_ids` within its `duration`"):
                read_saliency(file)

    def test_names_and_rounding_of_the_public_table(self) -> None:
        found = {"a": Prediction("a", ((0, 9, 0.9),), saliency=(1.0, 0.0, 0.5))}
        table = {"a": np.array([[4, 4, 4], [0, 0, 0], [0, 0, 0]])}
        assert qvhighlights_scores(found, [query("a", (0, 10), (20, 28), (40, 44))], table) == {
            "HL-min-Fair-Hit1": 100.0,
            "HL-min-Fair-mAP": 100.0,
            "HL-min-Good-Hit1": 100.0,
            "HL-min-Good-mAP": 100.0,
            "HL-min-VeryGood-Hit1": 100.0,
            "HL-min-VeryGood-mAP": 100.0,
            "MR-full-R1@0.5": 100.0,
            "MR-full-R1@0.7": 100.0,
            "MR-full-mAP": 30.0,
            "MR-full-mAP@0.5": 33.33,
            "MR-full-mAP@0.75": 33.33,
            "MR-short-mAP": 30.0,
        }


class TestDiscountedRecall:
    @given(st.lists(st.tuples(SPAN, st.lists(SPAN, min_size=1, max_size=3)), min_size=1, max_size=4), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_is_the_definition(self, rows: list[tuple[tuple[int, int], list[tuple[int, int]]]], strict: bool) -> None:
        truth = torch.tensor([window for window, _ in rows], dtype=torch.float64).unsqueeze(1)
        spans, mask = pad_spans([found for _, found in rows])
        length = torch.full((len(rows),), 16.0, dtype=torch.float64)
        ours = discounted_recall_at_iou(
            spans, truth, length, n=(1, 3), iou=(0.25, 0.5), strict=strict, prediction_mask=mask
        )
        for row, (window, found) in enumerate(rows):
            for i, n in enumerate((1, 3)):
                for j, level in enumerate((Fraction(1, 4), Fraction(1, 2))):
                    overlaps = [(iou(span, window), discounted(span, window, 16)) for span in found[:n]]
                    hits = [d for o, d in overlaps if (o > level if strict else o >= level)]
                    assert float(ours[row, i, j]) == pytest.approx(float(max(hits, default=Fraction(0))), abs=1e-12)

    def test_in_a_row_of_a_table(self) -> None:
        queries = [query("a", (0, 5), duration=10.0), query("b", (0, 5), duration=10.0)]
        spans = torch.tensor([[[0.0, 4.0]], [[6.0, 8.0]]], dtype=torch.float64)
        result = evaluate(spans, queries, n=(1,), iou=(0.5,), discounted=True)
        assert result.metrics == ("R@1, IoU=0.5", "dR@1, IoU=0.5", "mIoU")
        assert result.as_dict() == pytest.approx({"R@1, IoU=0.5": 0.5, "dR@1, IoU=0.5": 0.45, "mIoU": 0.4})
        assert result.values("dR@1, IoU=0.5").tolist() == pytest.approx([0.9, 0.0])

    def test_padding_never_counts(self) -> None:
        nan = torch.full((1, 1, 2), float("nan"), dtype=torch.float64)
        real = torch.tensor([[[0.0, 4.0]]], dtype=torch.float64)
        spans, mask = torch.cat([real, nan], 1), torch.tensor([[True, False]])
        value = discounted_recall_at_iou(
            spans, torch.cat([real, nan], 1), torch.tensor([8.0]), prediction_mask=mask, window_mask=mask
        )
        assert value.tolist() == [[[1.0] * 3] * 2]


class TestMisses:
    def test_unusable_truths_count_as_ego4d_has_it(self) -> None:
        raw = [query("a", (3.0, 3.0)), query("b", (0.0, 10.0))]
        spans = torch.tensor([[[3.0, 4.0]], [[0.0, 5.0]]], dtype=torch.float64)
        queries = validate_queries(raw, unusable="miss")
        with pytest.raises(ValueError, match="each have at least one moment, got none for query 'a'"):
            evaluate(spans, queries)
        result = evaluate(spans, queries, n=(1,), iou=(0.3, 0.5), preset=EGO4D_NLQ, no_moment="miss")
        assert result.as_dict() == {"R@1, IoU=0.3": 0.5, "R@1, IoU=0.5": 0.0, "mIoU": 0.25}


LINE = {"qid": 7, "query": "a dog", "vid": "v.mp4", "pred_relevant_windows": [[0, 4, 0.5], [6, 8, 0.9]]}


class TestPredictionFiles:
    def test_there_and_back(self, tmp_path: Path) -> None:
        file = tmp_path / "p.jsonl"
        found = [
            Prediction("7", ((0.0, 4.0, 0.5),), (0.25, 0.5), "a dog", "v", numeric=True),
            Prediction("7_a", ((1.0, 2.0, 0.5),)),
        ]
        write_predictions(file, found)
        assert list(read_predictions(file).values()) == found
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert [row["qid"] for row in rows] == [7, "7_a"]
        assert "pred_saliency_scores" not in rows[1]

    def test_a_list_pairs_and_the_other_key(self, tmp_path: Path) -> None:
        file = tmp_path / "p.json"
        file.write_text(json.dumps([LINE, {"qid": "x", "spans": [[1, 2], [3, 4]]}]))
        found = read_predictions(file)
        assert found["7"].spans == ((0.0, 4.0, 0.5), (6.0, 8.0, 0.9))
        assert (found["7"].vid, found["7"].numeric, found["x"].numeric) == ("v", True, False)
        assert found["x"].spans == ((1.0, 2.0, 0.0), (3.0, 4.0, -1.0))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "must hold at least one prediction"),
            ("{", "`line 1` must be valid JSON"),
            ("3", "`line 1` must have the keys qid, pred_relevant_windows, got int"),
            ('{"qid": 1}', "must have the keys qid, pred_relevant_windows, got the keys qid"),
            ('{"qid": null, "spans": []}', "must have a name as `qid`"),
            ('{"qid": 1, "spans": [[1]]}', "must have a list of"),
            ('{"qid": 1, "spans": [[1, NaN]]}', "must hold finite numbers, got nan"),
            ('{"qid": 1, "spans": [[1, "2"]]}', "must hold finite numbers, got '2'"),
            ('{"qid": 1, "spans": [], "pred_saliency_scores": 3}', "must have a list of numbers"),
            ('{"qid": 1, "spans": []}\n{"qid": "1", "spans": []}', "`line 2` must answer each query once"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "p.jsonl").write_text(text)
        with pytest.raises(VMRDataError, match=message):
            read_predictions(tmp_path / "p.jsonl")

    def test_aligned_by_name(self) -> None:
        found = {"b": Prediction("b", ((0.0, 4.0, 0.5), (1.0, 2.0, 0.9))), "a": Prediction("a", ((5.0, 6.0, 0.1),))}
        spans, scores, mask = align_predictions(found, [query("a", (5, 6)), query("b", (0, 4))])
        assert spans.tolist() == [[[5.0, 6.0], [0.0, 0.0]], [[0.0, 4.0], [1.0, 2.0]]]
        assert (scores.tolist(), mask.tolist()) == ([[0.1, 0.0], [0.5, 0.9]], [[True, False], [True, True]])
        with pytest.raises(VMRDataError, match="`c` must be answered, got none for 1 of 2; the file answers b, a"):
            align_predictions(found, [query("a"), query("c")])
        assert align_predictions(found, [query("a"), query("c")], missing="miss")[2].tolist() == [[True], [False]]
        with pytest.raises(VMRDataError, match="`c` must be answered"):
            align_predictions(found, [query("c")], missing="miss")
        with pytest.raises(VMRDataError, match="`a` must be about the video v, got w"):
            align_predictions({"a": Prediction("a", (), vid="w")}, [query("a")])

    def test_text_of_any_kind_and_null(self, tmp_path: Path) -> None:
        """Strings may hold other line ends than a line feed; null is not a video; names have two Unicode forms."""
        row = {**LINE, "qid": "cafe\u0301", "query": "a\u2028b\x85c", "vid": None}
        file = tmp_path / "p.jsonl"
        file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        found = read_predictions(file)
        (only,) = found.values()
        assert (only.query, only.vid) == ("a\u2028b\x85c", "")
        spans, _, _ = align_predictions(found, [query("caf\xe9", (5, 6))])
        assert spans[0].tolist() == [[0.0, 4.0], [6.0, 8.0]]

    def test_what_cannot_be_written(self, tmp_path: Path) -> None:
        for bad, message in (
            ([Prediction("a", ()), Prediction("a", ())], "answer each query once, got a twice"),
            ([Prediction("a", (), numeric=True)], "must be a whole number, got 'a'"),
            ([Prediction("a", ((0.0, float("nan"), 1.0),))], "must be finite, got NaN or infinity for a"),
        ):
            with pytest.raises(ValueError, match=message):
                write_predictions(tmp_path / "p.jsonl", bad)
        assert not list(tmp_path.iterdir())

    def test_numbers_of_numpy_and_tensors_are_written(self, tmp_path: Path) -> None:
        span = (np.float32(0.5), torch.tensor(2.0), np.float64(0.25))
        write_predictions(tmp_path / "p.jsonl", [Prediction("a", (span,), saliency=(np.float32(1.5),))])  # type: ignore[arg-type]
        found = read_predictions(tmp_path / "p.jsonl")["a"]
        assert (found.spans, found.saliency) == (((0.5, 2.0, 0.25),), (1.5,))
        with pytest.raises(ValueError, match="must be finite, got NaN or infinity for a"):
            write_predictions(tmp_path / "p.jsonl", [Prediction("a", ((np.float32("nan"), 1.0, 1.0),))])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`predictions` must hold numbers, got PosixPath"):
            write_predictions(tmp_path / "p.jsonl", [Prediction("a", ((tmp_path, 1.0, 1.0),))])  # type: ignore[arg-type]

    def test_ids_that_are_no_text(self) -> None:
        with pytest.raises(
            TypeError, match="align_predictions: `predictions` must be keyed by query ids as text, got int"
        ):
            align_predictions({7: Prediction("7", ((0.0, 1.0, 1.0),))}, [query("7", (0, 1))])  # type: ignore[dict-item]

    def test_triples_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"pad_spans: `spans` must hold pairs .* got 3 numbers, \[0, 1, 0\.9\]"):
            pad_spans([[[0, 1, 0.9]]])


@pytest.mark.data
def test_truth_as_prediction_is_perfect(data_root: Path) -> None:
    file = data_root / "vmr/annotations/qvhighlights/highlight_val_release.jsonl"
    notes = read_annotations(file)
    found = {q.qid: Prediction(q.qid, tuple((s, e, 1.0) for s, e in q.windows)) for q in list(notes)[:200]}
    scores = moment_scores(found, [q for q in notes if q.qid in found], max_spans=50)
    assert scores["full"]["mAP"] == scores["full"]["R1@0.95"] == 1.0
    assert read_saliency(file)[notes[0].qid].shape == (75, 3)
