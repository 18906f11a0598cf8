"""Invalid data that could pass for valid is counted or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmda.vmr import (
    Annotations,
    ArrayStore,
    VMRDataError,
    VMRDataset,
    VMRQuery,
    detect_layout,
    read_annotations,
    validate_queries,
)
from mmda.vmr.check import check_data, main

QUERY = np.ones((2, 5), dtype=np.float32)


def notes_of(*rows: tuple[str, float, tuple[tuple[float, float], ...]]) -> Annotations:
    return validate_queries([VMRQuery(f"q{vid}", vid, "a dog", duration, windows) for vid, duration, windows in rows])


def queries_of(notes: Annotations) -> ArrayStore:
    return ArrayStore({query.qid: QUERY for query in notes})


def ones(*rows: int, width: int = 4) -> ArrayStore:
    return ArrayStore({f"v{k}": np.ones((count, width), dtype=np.float32) for k, count in enumerate(rows)})


class TestFeatures:
    def test_rows_and_columns_exchanged(self) -> None:
        notes = notes_of(("v0", 30.0, ((1.0, 2.0),)), ("v1", 30.0, ((1.0, 2.0),)))
        report = check_data(notes, ones(512, 512, width=75))[-1]
        assert report.findings["transposed"] == ("v0", "v1")
        assert not report.ok
        assert check_data(notes, ones(75, 75, width=512))[-1].ok
        assert check_data(notes, ones(256, 256, width=512))[-1].ok

    def test_a_prefix_is_offered(self) -> None:
        for ours, theirs in (("v_abc", "abc"), ("abc", "v_abc")):
            notes = notes_of((ours, 30.0, ((1.0, 2.0),)))
            with pytest.raises(
                VMRDataError, match=rf"got none; it has `{theirs}`: open the features with `prefix=\"v_\"`"
            ):
                VMRDataset(notes, ArrayStore({theirs: QUERY}), queries_of(notes))


class TestMoments:
    def test_shares_of_the_video_instead_of_seconds(self) -> None:
        notes = notes_of(("a", 30.0, ((0.1, 0.5),)), ("b", 60.0, ((0.2, 1.0),)))
        assert notes.report.findings["shares"] == ("qa", "qb")
        assert not notes.report.ok
        assert notes_of(("a", 30.0, ((0.1, 0.5),)), ("b", 60.0, ((0.2, 9.0),))).report.ok

    def test_check_refuses_them(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "train.json"
        file.write_text(json.dumps({"v": {"duration": 30, "timestamps": [[0.1, 0.5]], "sentences": ["a dog"]}}))
        assert main(["check", "--annotations", str(file)]) == 2
        assert "fractions of the video, not seconds?" in capsys.readouterr().out
        assert main(["check", "--annotations", str(file), "--drop"]) == 0

    def test_none_usable_says_why(self) -> None:
        with pytest.raises(VMRDataError, match=r"2 rows, none usable: 1 queries have no words: dropped; 1 quer"):
            validate_queries([VMRQuery("a", "v", " ", 9.0), VMRQuery("b", "w", "x", 0.0)])

    def test_two_lengths_are_told_apart(self) -> None:
        with pytest.raises(VMRDataError, match=r"the length of its other queries, 10 s, got 10\.0000001 s"):
            validate_queries([VMRQuery("a", "v", "x", 10.0), VMRQuery("b", "v", "x", 10.0000001)])

    def test_unusable_truths_can_count_as_misses(self) -> None:
        raw = [VMRQuery("a", "v", "x", 10.0, ((3.0, 3.0),)), VMRQuery("b", "v", "x", 10.0, ((1.0, 3.0),))]
        dropped, kept = validate_queries(raw), validate_queries(raw, unusable="miss")
        assert [query.qid for query in dropped] == ["b"]
        assert [(query.qid, query.windows) for query in kept] == [("a", ()), ("b", ((1.0, 3.0),))]
        assert (kept.report.count("missed"), kept.report.count("no_moment")) == (1, 0)


class TestFurtherLayouts:
    def test_charades_cd(self, tmp_path: Path) -> None:
        entry = {
            "framestamps": [[628, 720]],
            "decode_fps": 16.0,
            "sentences": ["person put a notebook in a bag"],
            "timestamps": [[39.3, 45.0]],
            "video_duration": 47.625,
        }
        file = tmp_path / "charades_test_ood.json"
        file.write_text(json.dumps({"N14BK": entry}))
        query = read_annotations(file)[0]
        assert (detect_layout(file), query.duration, query.windows) == ("activitynet", 47.625, ((39.3, 45.0),))

    def test_didemo(self, tmp_path: Path) -> None:
        row = {"annotation_id": 9, "video": "a@N02_1.mov", "description": "a dog", "num_segments": 6}
        file = tmp_path / "val_data.json"
        file.write_text(json.dumps([row | {"times": [[0, 0], [1, 2], [0, 0], [5, 5]]}]))
        query = read_annotations(file)[0]
        assert detect_layout(file) == "didemo"
        assert (query.qid, query.vid, query.duration) == ("9", "a@N02_1", 30.0)
        assert query.windows == ((0.0, 5.0), (5.0, 15.0), (25.0, 30.0))
        assert read_annotations(file, closed=True)[0].qid == "9"
        for times, message in (([[2, 1]], r"\[2, 1\]"), ([[0, 6]], r"\[0, 6\]"), ([[0]], "list of"), (3, "list of")):
            file.write_text(json.dumps([row | {"times": times}]))
            with pytest.raises(VMRDataError, match=message):
                read_annotations(file)
            assert len(read_annotations(file, closed=True)) == 1
