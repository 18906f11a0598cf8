"""The joined data set: dropped queries, errors, clip times, views, and real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmda.vmr import (
    Annotations,
    ArrayStore,
    ClosedMomentsError,
    Report,
    VMRDataError,
    VMRDataset,
    VMRLoader,
    VMRQuery,
    load_packed,
    open_features,
    pack_features,
    read_splits,
    validate_queries,
)

NOTES = validate_queries(
    [
        VMRQuery("q1", "a", "The dog runs.", 10.0, ((2.0, 6.0), (8.0, 12.0))),
        VMRQuery("q2", "b", "a cat", 7.0, ((0.0, 3.0),)),
        VMRQuery("q3", "a", "the dog  runs", 10.0, ((1.0, 2.0),)),
    ]
)


def video(**changed: Any) -> ArrayStore:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((5, 4)), "b": rng.standard_normal((3, 4)), **changed}
    return ArrayStore({vid: x for vid, x in arrays.items() if x is not None}, source="clips")


def query(**changed: Any) -> ArrayStore:
    arrays = {"q1": np.ones((3, 6)), "q2": np.ones((2, 6)), "q3": np.ones(6), **changed}
    return ArrayStore({qid: x for qid, x in arrays.items() if x is not None}, source="words")


class TestJoin:
    def test_examples(self) -> None:
        data = VMRDataset(NOTES, video(), query())
        assert (len(data), data.vids, data.frame_width, data.word_width) == (3, ("a", "b"), 4, 6)
        assert data.lengths == [5, 3, 5]
        first, second, third = data
        assert (first.qid, first.windows) == ("q1", ((2.0, 6.0), (8.0, 10.0)))
        np.testing.assert_allclose(first.frames, video()["a"])
        assert first.words.shape == (3, 6)
        assert [x.video_index for x in (first, second, third)] == [0, 1, 0]
        assert [x.text_index for x in (first, second, third)] == [0, 1, 0]
        assert data.report.ok

    @pytest.mark.parametrize(
        ("videos", "queries", "rule", "id", "message"),
        [
            ({"b": None}, {}, "no_video", "b", "clips: `b` must have video features: .* got none; it has a, ..."),
            ({"b": np.full((3, 4), np.nan)}, {}, "bad_video", "b", "clips: `b` must hold finite numbers, got 12 NaN"),
            (
                {"b": np.zeros((3, 4))},
                {},
                "bad_video",
                "b",
                "clips: `b` must hold a number other than zero, got 12 zeros",
            ),
            ({}, {"q2": np.zeros((1, 6))}, "bad_query", "q2", "words: `q2` must hold a number other than zero, got 6"),
            ({"b": np.zeros((0, 4))}, {}, "bad_video", "b", "clips: `b` must hold a non-empty array"),
            ({"b": np.ones((3, 5))}, {}, "bad_video", "b", "clips: `b` must have width 4 like the others, got 5"),
            ({}, {"q2": None}, "no_query", "q2", "words: `q2` must have query features"),
            ({}, {"q2": np.full((1, 6), np.inf)}, "bad_query", "q2", "words: `q2` must hold finite .* 6 infinite"),
            ({}, {"q2": np.zeros((0, 6))}, "bad_query", "q2", "words: `q2` must hold a non-empty array"),
        ],
    )
    def test_faults_raise_or_are_dropped(
        self, videos: dict[str, Any], queries: dict[str, Any], rule: str, id: str, message: str
    ) -> None:
        with pytest.raises(VMRDataError, match=message):
            VMRDataset(NOTES, video(**videos), query(**queries))
        data = VMRDataset(NOTES, video(**videos), query(**queries), on_bad="drop")
        assert [q.qid for q in data.queries] == ["q1", "q3"]
        assert data.report.findings == {rule: (id,)}
        assert not data.report.ok
        assert len(data.report.errors) == 1

    def test_the_width_is_that_of_most_annotated_ids(self) -> None:
        clips = {"first": np.ones((2, 9)), "a": np.ones((5, 7)), "b": np.ones((3, 4)), "c": np.ones((3, 4))}
        notes = validate_queries([VMRQuery(f"q{vid}", vid, "x", 9.0) for vid in ("a", "b", "c")])
        words = ArrayStore({"0": np.ones(3), "qa": np.ones(6), "qb": np.ones(6), "qc": np.ones(6)})
        with pytest.raises(VMRDataError, match="clips: `a` must have width 4 like the others, got 7"):
            VMRDataset(notes, ArrayStore(clips, source="clips"), words)
        data = VMRDataset(notes, ArrayStore(clips, source="clips"), words, on_bad="drop")
        assert (data.vids, data.frame_width, data.word_width) == (("b", "c"), 4, 6)
        assert data.report.findings == {"bad_video": ("a",)}

    def test_a_damaged_first_file_is_one_fault_of_its_own(self, tmp_path: Path) -> None:
        for vid in ("0stats", "a", "b"):
            np.save(tmp_path / f"{vid}.npy", np.ones((3, 4)))
        (tmp_path / "0stats.npy").write_bytes(b"")  # named by no annotation
        assert len(VMRDataset(NOTES, open_features(tmp_path), query())) == 3
        whole = (tmp_path / "a.npy").read_bytes()
        (tmp_path / "a.npy").write_bytes(whole[:100])
        data = VMRDataset(NOTES, open_features(tmp_path), query(), on_bad="drop")
        assert (data.vids, data.report.findings) == (("b",), {"bad_video": ("a",)})

    def test_nothing_left(self) -> None:
        with pytest.raises(
            VMRDataError, match=r"must share a usable query .* first problem: clips: `a` must have video"
        ):
            VMRDataset(NOTES, ArrayStore({"z": np.ones((2, 4))}, source="clips"), query(), on_bad="drop")

    def test_moments_made_by_hand_are_checked(self) -> None:
        for window in ((2.0, 11.0), (3.0, 3.0), (-1.0, 2.0)):
            raw = Annotations((VMRQuery("q1", "a", "x", 10.0, (window,)),), Report("mine"), "mine")
            with pytest.raises(VMRDataError, match=r"mine: `q1` must have moments with 0 <= start < end <= 10"):
                VMRDataset(raw, video(), query())

    @pytest.mark.parametrize("option", ["max_clips", "max_words", "clip_seconds"])
    def test_options(self, option: str) -> None:
        with pytest.raises(ValueError, match=f"`{option}` must be above 0, got 0"):
            VMRDataset(NOTES, video(), query(), **{option: 0})
        with pytest.raises(ValueError, match="`on_bad` must be one of"):
            VMRDataset(NOTES, video(), query(), on_bad="warn")  # type: ignore[arg-type]

    def test_max_words(self) -> None:
        assert [len(x.words) for x in VMRDataset(NOTES, video(), query(), max_words=2)] == [2, 2, 1]

    def test_from_the_store_each_time_equals_memory(self, tmp_path: Path) -> None:
        packed = pack_features(video(), tmp_path / "p", dtype="float32")
        held = VMRDataset(NOTES, video(), query(), max_clips=2, max_words=2)
        read = VMRDataset(NOTES, packed, query(), max_clips=2, max_words=2, in_memory=False)
        for one, two in zip(held, read):
            torch.testing.assert_close(one.frames, two.frames, rtol=0, atol=0)
            torch.testing.assert_close(one.words, two.words, rtol=0, atol=0)

    def test_examples_do_not_write_into_the_store(self) -> None:
        arrays = {"a": np.ones((5, 4), np.float32), "b": np.ones((3, 4), np.float32)}
        VMRDataset(NOTES, ArrayStore(arrays), query())[0].frames.zero_()
        assert arrays["a"].sum() == 20


class TestFaultsOfTime:
    """Contradictory clips, durations and moments raise errors."""

    @staticmethod
    def joined(rows: dict[str, int], durations: dict[str, float], seconds: float | None, **options: Any) -> VMRDataset:
        notes = validate_queries([VMRQuery(vid, vid, "a dog", durations[vid], ((0.0, 1.0),)) for vid in rows])
        store = ArrayStore({vid: np.ones((n, 2)) for vid, n in rows.items()}, source="clips", clip_seconds=seconds)
        return VMRDataset(notes, store, ArrayStore({vid: np.ones(2) for vid in rows}), **options)

    @pytest.mark.parametrize("rows", [180, 15])
    @pytest.mark.parametrize("on_bad", ["raise", "drop"])
    def test_a_clip_length_that_the_lengths_contradict(self, rows: int, on_bad: Any) -> None:
        """60 clips of 2 s are right for 120 s; 180 or 15 of them are another clip length."""
        vids = [f"v{k}" for k in range(5)]
        durations = dict.fromkeys(vids, 120.0)
        self.joined(dict.fromkeys(vids, 60), durations, 2.0)
        with pytest.raises(
            VMRDataError, match=rf"clips: must fit a clip length of 2 s .* 5 of 5 .* about {120 / rows:.3g} s"
        ):
            self.joined(dict.fromkeys(vids, rows), durations, 2.0, on_bad=on_bad)

    def test_one_video_in_ten_may_be_off(self) -> None:
        vids = [f"v{k}" for k in range(10)]
        data = self.joined(dict.fromkeys(vids, 60) | {"v3": 15}, dict.fromkeys(vids, 120.0), 2.0)
        assert data.report.findings["short_video"] == ("v3",)
        with pytest.raises(VMRDataError, match="2 of 10"):
            self.joined(dict.fromkeys(vids, 60) | {"v3": 15, "v7": 15}, dict.fromkeys(vids, 120.0), 2.0)

    def test_a_video_that_does_not_fit_the_others_is_counted(self) -> None:
        """75 clips are 150 s where the others' clips have 2 s, and 126 s is annotated."""
        vids = [f"v{k}" for k in range(6)]
        data = self.joined(dict.fromkeys(vids, 75), dict.fromkeys(vids, 150.0) | {"v2": 126.0}, None)
        assert data.report.findings["odd_length"] == ("v2",)
        assert data.report.ok  # reported, and clips are spread over the duration as without a clip length
        sampled = dict.fromkeys(vids, 64)  # so many clips of every video, whatever its length
        assert (
            "odd_length"
            not in self.joined(sampled, {v: 50.0 + 40 * k for k, v in enumerate(vids)}, None).report.findings
        )

    def test_a_moment_past_the_features_is_a_fault(self) -> None:
        """15 clips of 0.5 s end at 7.5 s; the moment begins at 28 s."""
        notes = validate_queries(
            [
                VMRQuery("late", "v", "a dog", 30.0, ((28.0, 30.0),)),
                VMRQuery("both", "v", "a cat", 30.0, ((2.0, 4.0), (7.5, 9.0))),
            ]
            + [VMRQuery(f"q{k}", f"w{k}", "a cow", 7.5, ((1.0, 2.0),)) for k in range(10)]
        )
        names = {"v": 15} | {f"w{k}": 15 for k in range(10)}
        store = ArrayStore({vid: np.ones((n, 2)) for vid, n in names.items()}, source="clips", clip_seconds=0.5)
        words = ArrayStore({q.qid: np.ones(2) for q in notes})
        with pytest.raises(
            VMRDataError, match=r"`late` must have moments that begin before .* at 7.5 s, got \(28, 30\)"
        ):
            VMRDataset(notes, store, words)
        data = VMRDataset(notes, store, words, on_bad="drop")
        assert data.report.findings["past_features"] == ("late", "both")
        assert not data.report.ok
        assert len(data) == 12  # kept, since an evaluation counts them
        assert VMRDataset(notes.without_moments(), store, words).report.ok  # with closed=True moments are not read

    def test_arrays_on_their_side(self) -> None:
        vids = ["a", "b", "c"]
        notes = validate_queries([VMRQuery(vid, vid, "a dog", 30.0) for vid in vids])
        sides = ArrayStore({vid: np.ones((512, 20 + k)) for k, vid in enumerate(vids)}, source="clips")
        with pytest.raises(
            VMRDataError, match=r"clips: must have shape \(time, features\), got 512 rows .* 20 to 22 columns"
        ):
            VMRDataset(notes, sides, ArrayStore({vid: np.ones(2) for vid in vids}), on_bad="drop")


class TestClipTimes:
    def one(self, clips: int, duration: float, seconds: float | None, **options: Any) -> VMRDataset:
        notes = validate_queries([VMRQuery("q", "v", "x", duration)])
        store = ArrayStore({"v": np.arange(clips, dtype=np.float32)[:, None]}, clip_seconds=seconds)
        return VMRDataset(notes, store, ArrayStore({"q": np.ones(2)}), **options)

    @pytest.mark.parametrize(
        ("clips", "duration", "seconds", "ends", "finding"),
        [
            (4, 10.0, None, [2.5, 5.0, 7.5, 10.0], None),
            (4, 8.0, 2.0, [2, 4, 6, 8], None),
            (4, 7.0, 2.0, [2, 4, 6, 7], None),  # the last clip is cut with the video
            (4, 9.5, 2.0, [2, 4, 6, 9.5], None),  # or reaches to its end
            (4, 8.0, 1.0, [1, 2, 3, 4], "short_video"),
            (4, 3.0, 1.0, [1, 2, 3], None),  # one clip too many is rounding
            (6, 3.0, 1.0, [1, 2, 3], "long_video"),
            (20, 1.95, 0.1, [*(k * 0.1 for k in range(1, 20)), 1.95], None),  # to the last bit
        ],
    )
    def test_cover_the_video(
        self, clips: int, duration: float, seconds: float | None, ends: list[float], finding: str | None
    ) -> None:
        data = self.one(clips, duration, seconds)
        times = data.clip_times("v")
        assert times[:, 1].tolist() == ends
        assert times[:, 0].tolist() == [0.0, *times[:-1, 1].tolist()]
        assert len(data.frames("v")) == len(ends)
        assert list(data.report.findings) == ([finding] if finding else [])

    def test_pooled_clips_span_what_they_average(self) -> None:
        data = self.one(7, 7.0, 1.0, max_clips=3)
        assert data.clip_times("v").tolist() == [[0, 2], [2, 4], [4, 7]]
        # clip k holds the number k, the mean number is the middle of the span less half a clip
        torch.testing.assert_close(data.frames("v")[:, 0].double(), data.clip_times("v").mean(1) - 0.5)


class TestViews:
    data = VMRDataset(NOTES, video(), query())

    def test_select(self) -> None:
        part = self.data.select(["a"])
        assert [x.qid for x in part] == ["q1", "q3"]
        assert part[0].frames.data_ptr() == self.data[0].frames.data_ptr()
        assert len(self.data) == 3
        with pytest.raises(VMRDataError, match="none on zzz"):
            self.data.select(["zzz"])

    def test_closed(self) -> None:
        closed = self.data.without_moments()
        assert closed.closed
        assert closed.select(["a"]).closed
        assert [x.windows for x in closed] == [None, None, None]
        with pytest.raises(ClosedMomentsError):
            _ = closed.queries[0].windows
        assert self.data[0].windows is not None

    def test_closed_annotations_never_need_moments(self) -> None:
        assert VMRDataset(NOTES.without_moments(), video(), query()).closed


def test_load_packed_closed_never_looks_at_moments(tmp_path: Path) -> None:
    rows = [
        {"qid": q, "query": "x", "vid": "a", "duration": 8, "relevant_windows": w} for q, w in ((1, [[3, 1]]), (2, 0))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.savez(tmp_path / "video.npz", video_a=np.ones((4, 3)), text_1=np.ones((2, 5)), text_2=np.ones((1, 5)))
    data = load_packed(tmp_path / "video.npz", tmp_path / "video.npz", tmp_path / "t.jsonl", closed=True)
    assert data.closed
    assert [example.qid for example in data] == ["1", "2"]


class TestSplits:
    def test_reads(self, tmp_path: Path) -> None:
        (tmp_path / "s.json").write_text(json.dumps({"x": {"train": ["a"], "test": ["b", "c"]}}))
        assert read_splits(tmp_path / "s.json") == {"x": {"train": ("a",), "test": ("b", "c")}}

    def test_file_suffixes_are_no_part_of_an_id(self, tmp_path: Path) -> None:
        (tmp_path / "s.json").write_text('\ufeff{"tacos": {"train": ["s1-d2.avi"], "test": [7]}}', encoding="utf-8")
        assert read_splits(tmp_path / "s.json") == {"tacos": {"train": ("s1-d2",), "test": ("7",)}}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"x": {"train": [["a"]]}}', r"s.json: `x, train` must have a name as `video id`, got \['a'\]"),
            ('{"x": {"train": ["a"], "test": ["a.avi"]}}', "s.json: `a` must be in one split of x"),
            ("[", "s.json: must be valid JSON"),
            ("[]", "`the file` must map splits"),
            ('{"x": ["a"]}', "s.json: `x` must map splits to lists"),
            ('{"x": {"train": ["a"], "test": ["a"]}}', "s.json: `a` must be in one split of x, got train and test"),
        ],
    )
    def test_bad(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(VMRDataError, match=message):
            read_splits(tmp_path / "s.json")
        with pytest.raises(VMRDataError, match="nope: must exist"):
            read_splits(tmp_path / "nope")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "queries", "videos", "splits"),
    [("qvhighlights_val", 1550, 1519, (912, 151, 456)), ("nextgqa_val", 3358, 567, (340, 56, 171))],
)
def test_the_real_pair(data_root: Path, name: str, queries: int, videos: int, splits: tuple[int, ...]) -> None:
    features = data_root / "vmr" / "features"
    data = load_packed(
        features / "caption_lsa128" / f"{name}_video.npz",
        features / "caption_minilm256" / f"{name}_query.npz",
        features / "caption_lsa128" / f"{name}.jsonl",
    )
    assert (len(data), len(data.vids), data.frame_width, data.word_width) == (queries, videos, 128, 256)
    assert data.report.ok
    parts = read_splits(features / "splits.json")[name]
    assert tuple(len(data.select(parts[part]).vids) for part in ("train", "val", "test")) == splits
    for vid in data.vids:
        times = data.clip_times(vid)
        assert bool((times[1:, 0] == times[:-1, 1]).all()), "clips touch"
        assert times[0, 0] == 0
        assert times[-1, 1] == data.annotations.durations[vid]
    batch = next(iter(VMRLoader(data.select(parts["train"]), 16, labels=False)))
    assert batch.windows is None
    assert bool(torch.isfinite(batch.frames).all())
