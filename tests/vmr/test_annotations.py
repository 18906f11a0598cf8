"""Annotation readers: every format from a file written in the test, and the published files by their counts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mmda.vmr import (
    Annotations,
    ClosedMomentsError,
    VMRDataError,
    VMRQuery,
    detect_layout,
    published_splits,
    read_annotations,
    validate_queries,
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def charades(tmp_path: Path) -> Path:
    write(tmp_path / "Charades_v1_train.csv", 'id,script,length\nAAA,"x, y",10.5\nBBB,z,20\n')
    rows = "AAA 1.0 4.0##a person sits.\nAAA 2.0 11.0## stands  up\nBBB 9.0 9.0##nothing\nCCC 0.0 1.0##lost\n"
    return write(tmp_path / "charades_sta_train.txt", rows)


def caption(**changed: object) -> str:
    entry = {"duration": 9, "timestamps": [[0, 1]], "sentences": ["a dog"], **changed}
    return json.dumps({"v": entry})


def highlight(**changed: object) -> str:
    row = {"qid": 1, "vid": "v", "query": "a dog", "duration": 9, "relevant_windows": [[0, 1]], **changed}
    return json.dumps(row)


class TestLayouts:
    def test_charades(self, tmp_path: Path) -> None:
        notes = read_annotations(charades(tmp_path))
        assert notes.queries == (
            VMRQuery("AAA_train_1", "AAA", "a person sits.", 10.5, ((1.0, 4.0),)),
            VMRQuery("AAA_train_2", "AAA", "stands up", 10.5, ((2.0, 10.5),)),
        )
        assert notes.report.findings == {
            "clipped": ("AAA_train_2",),
            "inverted": ("BBB_train_1",),
            "no_moment": ("BBB_train_1",),
            "no_duration": ("CCC_train_1",),
        }
        assert notes.report.facts == {"layout": "charades", "rows": 4, "queries": 2, "videos": 1, "moments": 2}

    def test_charades_durations_can_be_given(self, tmp_path: Path) -> None:
        file = write(tmp_path / "mine.txt", "AAA 1.0 4.0##sits\n")
        with pytest.raises(VMRDataError, match=r"mine\.txt: must have its videos' durations"):
            read_annotations(file)
        as_json = write(tmp_path / "lengths.json", json.dumps({"AAA": {"duration": 3.0}, "BBB": 4}))
        for given in (as_json, {"AAA": 3.0}):
            assert read_annotations(file, durations=given)[0].windows == ((1.0, 3.0),)

    def test_activitynet(self, tmp_path: Path) -> None:
        entry = {"duration": 30, "timestamps": [[0, 10], [20, 15], [-1, 5]], "sentences": [" A.", "B", "C"]}
        notes = read_annotations(write(tmp_path / "val.json", json.dumps({"v_1": entry})))
        assert [(q.qid, q.text, q.windows) for q in notes] == [
            ("v_1_val_1", "A.", ((0.0, 10.0),)),
            ("v_1_val_3", "C", ((0.0, 5.0),)),
        ]
        assert notes.report.count("inverted") == notes.report.count("negative") == 1

    def test_tacos_frames_become_seconds(self, tmp_path: Path) -> None:
        entry = {"fps": 25.0, "num_frames": 1000, "timestamps": [[50, 500], [900, 1100]], "sentences": ["a", "b"]}
        notes = read_annotations(write(tmp_path / "train.json", json.dumps({"s1-d2.avi": entry})))
        assert [(q.vid, q.duration, q.windows) for q in notes] == [
            ("s1-d2", 40.0, ((2.0, 20.0),)),
            ("s1-d2", 40.0, ((36.0, 40.0),)),
        ]
        assert notes.report.facts["layout"] == "tacos"

    def test_qvhighlights_keeps_unlabelled_and_loses_only_the_bad_window(self, tmp_path: Path) -> None:
        rows = [
            {"qid": 7, "query": "x", "vid": "a_60.0_210.0", "duration": 150, "relevant_windows": [[0, 2], [9, 4]]},
            {"qid": 8, "query": "y", "vid": "b", "duration": 10},
            {"qid": 9, "query": " ", "vid": "b", "duration": 10},
            {"qid": 10, "query": "z", "vid": "b", "duration": 10, "relevant_windows": [[12, 14]]},
        ]
        notes = read_annotations(write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"))
        assert [(q.qid, q.vid, q.windows) for q in notes] == [("7", "a_60.0_210.0", ((0.0, 2.0),)), ("8", "b", ())]
        counts = {rule: notes.report.count(rule) for rule in ("inverted", "no_text", "outside", "no_moment", "clipped")}
        assert counts == {"inverted": 1, "no_text": 1, "outside": 1, "no_moment": 1, "clipped": 1}

    def test_nextgqa_from_either_file_or_the_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "val.csv", "video_id,question,answer,qid\n42,why,for fun ,1\n42,how,fast,3\n")
        spans = {"42": {"duration": 9, "location": {"1": [[0, 1], [3, 4.5]]}, "fps": 30}}
        write(tmp_path / "gsub_val.json", json.dumps(spans))
        notes = read_annotations(tmp_path / "val.csv")
        assert notes.queries == (
            VMRQuery("42_1", "42", "why? for fun", 9.0, ((0.0, 1.0), (3.0, 4.5))),
            VMRQuery("42_3", "42", "how? fast", 9.0),
        )
        assert read_annotations(tmp_path / "gsub_val.json").queries == notes.queries
        assert read_annotations(tmp_path, split="val").queries == notes.queries

    def test_audio_names_become_query_names(self, tmp_path: Path) -> None:
        entry = {"duration": 9, "timestamps": [[0, 1]], "sentences": ["a"], "audios": ["AAA_train_3.wav"]}
        file = write(tmp_path / "annotations.json", json.dumps({"AAA": entry}))
        assert read_annotations(file)[0].qid == "AAA_train_3"


class TestPublishedSplits:
    def test_a_folder_is_read_file_by_file(self, tmp_path: Path) -> None:
        charades(tmp_path)
        write(tmp_path / "Charades_v1_test.csv", "id,length\nDDD,9\n")
        write(tmp_path / "charades_sta_test.txt", "DDD 1 2##a dog\n")
        (tmp_path / "video").mkdir()
        assert published_splits(tmp_path) == ("train", "test")
        assert {split: read_annotations(tmp_path, split=split).vids for split in published_splits(tmp_path)} == {
            "train": ("AAA",),
            "test": ("DDD",),
        }

    def test_what_is_no_folder_of_splits(self, tmp_path: Path) -> None:
        assert published_splits(tmp_path) == ()
        assert published_splits(write(tmp_path / "train.json", "{}")) == ()
        write(tmp_path / "my_train.json", "{}")
        assert published_splits(tmp_path) == ()  # two files for one split
        with pytest.raises(VMRDataError, match="nope: must exist"):
            published_splits(tmp_path / "nope")


class TestBadFiles:
    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.txt", "hello\n", r"a\.txt: must be in a known layout .* got a \.txt file that fits none"),
            ("a.bin", "", r"a\.bin: must be in a known layout"),
            ("a.json", "{", r"a\.json: must be valid JSON"),
            ("a.json", "[]", r"a\.json: must be in a known layout"),
            ("a.json", '{"v": {"timestamps": []}}', r"a\.json: `v` must have the keys .*, got no sentences, duration"),
            (
                "a.json",
                '{"v": {"duration": 1, "timestamps": [[0, 1]], "sentences": []}}',
                r"`v` must have as many timestamps as sentences, got 1 and 0",
            ),
            (
                "a.json",
                '{"v": {"duration": 9, "timestamps": [[0]], "sentences": ["x"]}}',
                r"`v_1` must have a list of \[start, end\]",
            ),
            (
                "a.json",
                '{"v": {"duration": 9, "timestamps": [[NaN, 1]], "sentences": ["x"]}}',
                r"`v_1` must have finite moment times",
            ),
            ("a.jsonl", '{"qid": 1}\n', r"a\.jsonl: `line 1` must have the keys .* got no vid, query, duration"),
            ("a.jsonl", "nope\n", r"a\.jsonl: `line 1` must be valid JSON"),
            (
                "a.jsonl",
                '{"qid": 1, "vid": "v", "query": "x", "duration": "long"}\n',
                r"`1` must have a number as `duration`, got 'long'",
            ),
            (
                "a.jsonl",
                '{"qid": 1, "vid": "v", "query": "x", "duration": 2}\n' * 2,
                r"`1` must name one query only, got the same qid twice",
            ),
            ("a.jsonl", "", r"a\.jsonl: must hold at least one usable query, got 0 rows"),
            ("a.json", caption(audios=None), r"a\.json: `v` must have a list of file names as `audios`.* got None"),
            ("a.json", caption(audios=[3]), r"a\.json: `v` must have a list of file names as `audios`.* got \[3\]"),
            ("a.json", caption(sentences=[None]), r"a\.json: `v_1` must have text as `sentences`, got None"),
            (
                "a.json",
                caption(timestamps=[["x" * 999, 1]]),
                r"`v_1` must have a number as `timestamps`, got 'xxx.*\.\.\.$",
            ),
            ("a.json", caption(duration=int("9" * 400)), r"a\.json: must hold at least one usable query, got 1 rows"),
            (
                "a.json",
                caption(timestamps=[[0, int("9" * 400)]]),
                r"`v_1` must have finite moment times, got \(0\.0, inf\)",
            ),
            ("a.json", "[" * 100_000, r"a\.json: must be valid JSON, got brackets nested too deep"),
            ("a.json", f'{{"v": {{}}, {caption()[1:]}', r"a\.json: must have the key `v` once, got it twice"),
            (
                "a.json",
                caption()[:-2] + ', "duration": 1}}',
                r"a\.json: `v` must have the key `duration` once, got it twice",
            ),
            ("a.jsonl", highlight(query=None), r"a\.jsonl: `1` must have text as `query`, got None"),
            ("a.jsonl", highlight(query=["a"]), r"a\.jsonl: `1` must have text as `query`, got \['a'\]"),
            ("a.jsonl", highlight(vid=None), r"a\.jsonl: `1` must have a name as `vid`, got None"),
            ("a.jsonl", highlight(vid=["v"]), r"a\.jsonl: `1` must have a name as `vid`, got \['v'\]"),
            ("a.jsonl", highlight(qid=None), r"a\.jsonl: `line 1` must have a name as `qid`, got None"),
            (
                "a.jsonl",
                highlight(relevant_windows=0),
                r"a\.jsonl: `1` must have a list of \[start, end\] as .*, got 0",
            ),
            ("a.jsonl", "[" * 100_000, r"a\.jsonl: `line 1` must be valid JSON, got brackets nested too deep"),
            (
                "a.jsonl",
                highlight() + "\n" + highlight(qid=2, duration=8),
                r"a\.jsonl: `2` must give video `v` the length of its other queries, 9 s, got 8 s",
            ),
        ],
    )
    def test_one_line_names_file_and_rule(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        with pytest.raises(VMRDataError, match=message) as caught:
            read_annotations(write(tmp_path / name, text))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.json"])
    def test_not_text(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes("caf\xe9 0 1##x".encode("latin-1"))
        with pytest.raises(VMRDataError, match=rf"{name}: must be UTF-8 text"):
            read_annotations(tmp_path / name)

    @pytest.mark.parametrize(
        ("grounded", "message"),
        [
            ([], r"gsub_n\.json: must map video ids to `duration` and `location`, got list"),
            (
                {"v": {"duration": 9, "location": []}},
                r"gsub_n\.json: `v` must map question ids to moments in .* got list",
            ),
        ],
    )
    def test_grounded_spans(self, tmp_path: Path, grounded: object, message: str) -> None:
        file = write(tmp_path / "n.csv", "video_id,question,answer,qid\nv,why,because,0\n")
        write(tmp_path / "gsub_n.json", json.dumps(grounded))
        with pytest.raises(VMRDataError, match=message):
            read_annotations(file)

    def test_tables(self, tmp_path: Path) -> None:
        file = write(tmp_path / "mine.txt", "A 0 1##x\n")
        for text, message in (
            ("id,length\nA,9\nA,8\n", r"d\.csv: `A` must have one length, got 9 and 8"),
            ("id,length\nA,9\n" + "A" * 200_000 + ",1\n", r"d\.csv: `line 3` must be a row of .* field larger"),
            ("id,length\nA\n", r"d\.csv: `line 2` must have the columns id, length, got no length"),
            ("id,script\nA,x\n", r"d\.csv: must have the columns id, length, got id, script"),
        ):
            with pytest.raises(VMRDataError, match=message):
                read_annotations(file, durations=write(tmp_path / "d.csv", text))
        with pytest.raises(VMRDataError, match=r"mine\.txt: `A` must have a number as `durations`, got 1000\d+\.\.\.$"):
            read_annotations(file, durations={"A": 10**400})

    def test_missing_and_ambiguous(self, tmp_path: Path) -> None:
        with pytest.raises(VMRDataError, match=r"nope: must exist"):
            read_annotations(tmp_path / "nope")
        write(tmp_path / "train.json", "{}")
        write(tmp_path / "test.json", "{}")
        with pytest.raises(VMRDataError, match=r"exactly one annotation file .* got test\.json, train\.json"):
            read_annotations(tmp_path)

    def test_a_byte_order_mark_is_no_text(self, tmp_path: Path) -> None:
        mark = "\ufeff"
        lengths = write(tmp_path / "d.csv", mark + "id,length\nv,9\n")
        write(tmp_path / "gsub_n.json", mark + json.dumps({"v": {"duration": 9, "location": {"0": [[0, 1]]}}}))
        for name, text in (
            ("a.txt", "v 0 1##a dog\n"),
            ("a.json", caption()),
            ("a.jsonl", highlight()),
            ("n.csv", "video_id,question,answer,qid\nv,why,because,0\n"),
        ):
            notes = read_annotations(
                write(tmp_path / name, mark + text), durations=lengths if name == "a.txt" else None
            )
            assert [(query.vid, query.windows) for query in notes] == [("v", ((0.0, 1.0),))], name

    def test_options(self, tmp_path: Path) -> None:
        file = charades(tmp_path)
        with pytest.raises(ValueError, match="`layout` must be one of 'charades'"):
            read_annotations(file, "msrvtt")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`durations` must be left out for 'qvhighlights'"):
            read_annotations(write(tmp_path / "a.jsonl", ""), durations={})


class TestClosedMoments:
    notes = validate_queries([VMRQuery("q", "v", "x", 9.0, ((1.0, 2.0),)), VMRQuery("p", "w", "y", 9.0, ((1, 2),))])

    def test_any_way_to_the_moments_raises(self) -> None:
        closed = self.notes.without_moments()
        for read in (
            lambda: closed[0].windows,
            lambda: [q.windows for q in closed],
            lambda: getattr(closed[0], "windows", ()),
            lambda: hasattr(closed[0], "windows"),
            lambda: asdict(closed[0]),
            lambda: replace(closed[0], text="z"),
            lambda: closed.select(["v"])[0].windows,
            lambda: closed.without_moments()[0].windows,
        ):
            with pytest.raises(ClosedMomentsError, match=r"the moments of query `q` are hidden"):
                read()
        assert "windows" not in vars(closed[0])
        assert "1.0" not in repr(closed[0])

    def test_the_pairs_stay(self) -> None:
        closed = self.notes.without_moments()
        assert [(q.qid, q.vid, q.text, q.duration) for q in closed] == [("q", "v", "x", 9.0), ("p", "w", "y", 9.0)]
        assert closed[0] == self.notes.without_moments()[0] != closed[1]
        assert len({closed[0], self.notes.without_moments()[0]}) == 1
        assert self.notes[0].windows == ((1.0, 2.0),)

    def test_select(self) -> None:
        assert [q.qid for q in self.notes.select({"w", "unknown"})] == ["p"]
        with pytest.raises(VMRDataError, match="none on unknown"):
            self.notes.select(["unknown"])


def timestamps(*times: object, tacos: bool = False) -> str:
    length = {"fps": 2.0, "num_frames": 18} if tacos else {"duration": 9.0}
    moments = {"timestamps": list(times)} if times else {}
    return json.dumps({"v": {**length, **moments, "sentences": ["a dog", "a cat"]}})


def highlights(*windows: object) -> str:
    rows = [{"qid": k, "query": "a dog", "vid": "v", "duration": 9} for k in range(2)]
    return "\n".join(json.dumps({**row, "relevant_windows": w}) for row, w in zip(rows, windows or (None, None)))


def spans(location: object) -> str:
    return json.dumps({"v": {"duration": 9.0, **({} if location is None else {"location": location})}})


#: of each layout a good file, and the same with moments that are inverted, not finite, of a wrong type or absent
CLOSED_CASES = [
    ("a_train.txt", "v 1 2##a dog\nv 3 4##a cat\n", ["v 2 1##a dog\nv nan x##a cat\n", "v##a dog\nv 1##a cat\n"]),
    (
        "a_train.json",
        timestamps([1, 2], [3, 4]),
        [timestamps([2, 1], [math.nan, 4]), timestamps("closed", None), timestamps([1]), timestamps()],
    ),
    (
        "a_train.json",
        timestamps([1, 2], [3, 4], tacos=True),
        [timestamps([2, 1], [99, 400], tacos=True), timestamps({}, tacos=True), timestamps(tacos=True)],
    ),
    ("a.jsonl", highlights([[1, 2]], [[3, 4]]), [highlights([[2, 1]], "closed"), highlights(7, [[99, 100]])]),
    ("gsub_a.json", spans({"0": [[1, 2]], "1": [[3, 4]]}), [spans({"0": [[2, 1]], "1": "x"}), spans([]), spans(None)]),
]


class TestClosedReading:
    @pytest.mark.parametrize(("name", "good", "damaged"), CLOSED_CASES)
    def test_moments_decide_nothing(self, tmp_path: Path, name: str, good: str, damaged: list[str]) -> None:
        durations = {"v": 9.0} if name.endswith(".txt") else None
        write(tmp_path / "a.csv", "video_id,question,answer,qid\nv,a dog,yes,0\nv,a cat,no,1\n")
        opened = read_annotations(write(tmp_path / name, good), durations=durations)
        assert len(opened) == 2
        for text in (good, *damaged):
            closed = read_annotations(write(tmp_path / name, text), durations=durations, closed=True)
            assert closed.closed
            assert closed.queries == opened.without_moments().queries
            assert closed.order == opened.order
            assert closed.report.findings == {}
            with pytest.raises(ClosedMomentsError):
                _ = closed[0].windows

    def test_what_is_no_moment_is_still_checked(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.jsonl", '{"qid": 1, "query": "x", "vid": "v", "duration": "long"}')
        with pytest.raises(VMRDataError, match=r"`1` must have a number as `duration`"):
            read_annotations(file, closed=True)
        with pytest.raises(VMRDataError, match=r"`line 1` must read `VID START END##sentence`"):
            read_annotations(write(tmp_path / "a.txt", "##x\n"), closed=True, durations={"v": 1.0})


def count(notes: Annotations, *rules: str) -> tuple[int, ...]:
    return (int(str(notes.report.facts["rows"])), len(notes), *(notes.report.count(rule) for rule in rules))


@pytest.mark.data
class TestPublishedFiles:
    """Counts as the data's own documentation gives them."""

    @pytest.mark.parametrize(
        ("file", "layout", "expected", "videos"),
        [
            ("charades_sta/charades_sta_train.txt", "charades", (12408, 12404, 1805, 4), None),
            ("charades_sta/charades_sta_test.txt", "charades", (3720, 3720, 562, 0), 1334),
            ("activitynet_captions/train.json", "activitynet", (37421, 37417, None, 4), None),
            ("activitynet_captions/val.json", "activitynet", (17505, 17505, None, 0), None),
            ("activitynet_captions/test.json", "activitynet", (17031, 17031, None, 0), None),
            ("tacos/train.json", "tacos", (9790, 9790, 43, 0), 75),
            ("tacos/val.json", "tacos", (4436, 4436, None, 0), 27),
            ("tacos/test.json", "tacos", (4001, 4001, None, 0), 25),
            ("qvhighlights/highlight_val_release.jsonl", "qvhighlights", (1550, 1550, 0, 0), 1519),
            ("nextgqa/val.csv", "nextgqa", (3358, 3358, None, 0), 567),
        ],
    )
    def test_counts(
        self, data_root: Path, file: str, layout: str, expected: tuple[int | None, ...], videos: int | None
    ) -> None:
        path = data_root / "vmr" / "annotations" / file
        assert detect_layout(path) == layout
        notes = read_annotations(path)
        for came, wanted in zip(count(notes, "clipped", "inverted"), expected):
            assert wanted is None or came == wanted
        assert videos is None or len(notes.vids) == videos
        assert not any(q.vid.endswith(".avi") or q.text != q.text.strip() for q in notes)
        assert all(0 <= s < e <= q.duration for q in notes for s, e in q.windows)

    @pytest.mark.parametrize(
        ("folder", "splits"),
        [
            ("charades_sta", ("train", "test")),
            ("activitynet_captions", ("train", "val", "test")),
            ("tacos", ("train", "val", "test")),
        ],
    )
    def test_folders_by_their_own_splits(self, data_root: Path, folder: str, splits: tuple[str, ...]) -> None:
        path = data_root / "vmr" / "annotations" / folder
        assert published_splits(path) == splits
        for split in splits:
            closed = read_annotations(path, split=split, closed=True)
            opened = read_annotations(path, split=split)
            assert closed.order == opened.order
            assert {query.qid for query in opened} <= {query.qid for query in closed}

    def test_charades_train_videos_before_dropping(self, data_root: Path) -> None:
        file = data_root / "vmr" / "annotations" / "charades_sta" / "charades_sta_train.txt"
        notes = read_annotations(file)
        dropped = {id.split("_")[0] for id in notes.report.findings["inverted"]}
        assert len(set(notes.vids) | dropped) == 5338

    def test_nextgqa_equals_the_prepared_jsonl(self, data_root: Path) -> None:
        ours = read_annotations(data_root / "vmr" / "annotations" / "nextgqa" / "gsub_val.json")
        prepared = read_annotations(data_root / "vmr" / "features" / "caption_lsa128" / "nextgqa_val.jsonl")
        assert ours.queries == prepared.queries
        assert prepared.report.facts["layout"] == "qvhighlights"
