"""The script that builds caption features: the readers read what it writes, and similar texts have similar features."""

from __future__ import annotations

import gzip
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmda.vmr import VMRDataset, open_features, read_annotations

pytest.importorskip("sklearn")
SCENES = ("a dog runs in the park", "two people cook dinner", "a red car drives away", "children play football outside")


def write(folder: Path, name: str, *, layout: str) -> tuple[Path, Path]:
    captions, notes = folder / f"{name}.zip", folder / f"{name}.jsonl"
    with zipfile.ZipFile(captions, "w") as archive:
        for k in range(3):
            scenes = [SCENES[(k + t) % 4] for t in range(11)]
            if layout == "moments":
                lines = [json.dumps({"moment": t, "description": scene}) for t, scene in enumerate(scenes)]
                archive.writestr(f"val/v{k}.jsonl", "\n".join(reversed(lines)))
            else:
                archive.writestr(f"all/v{k}_cap.json", json.dumps({str(t): scene for t, scene in enumerate(scenes)}))
    rows = [{"qid": k, "vid": f"v{k}", "query": "The dog runs.", "duration": 22} for k in range(3)]
    notes.write_text("\n".join(json.dumps(row | {"relevant_windows": [[0, 4]]}) for row in rows))
    return captions, notes


def test_written_features_are_read_and_alike_where_texts_are(tmp_path: Path) -> None:
    from benchmarks.caption_features import main

    one, two = write(tmp_path, "one", layout="moments"), write(tmp_path, "two", layout="seconds")
    arguments = ["--out", str(tmp_path / "out"), "--width", "4"]
    for name, (captions, notes) in (("one", one), ("two", two)):
        arguments += ["--set", name, str(captions), str(notes), "2"]
    assert main(arguments) == 0
    for name, (_, notes) in (("one", one), ("two", two)):
        video = open_features(tmp_path / "out" / f"{name}_video.npz")
        query = open_features(tmp_path / "out" / f"{name}_query.npz", kind="query")
        data = VMRDataset(read_annotations(notes), video, query)
        assert (data.frame_width, video.clip_seconds, data.report.ok) == (4, 2.0, True)
        scores = video["v1"] @ query["1"][0]
        dogs = np.array([SCENES[(1 + t) % 4] == SCENES[0] for t in range(11)])
        np.testing.assert_allclose(scores[dogs], 1, atol=0.05)
        assert scores[~dogs].max() < 0.5
        np.testing.assert_allclose(np.linalg.norm(video["v0"], axis=1), 1, atol=0.02)


def test_captioned_spans_are_means_by_how_short_they_are(tmp_path: Path) -> None:
    from benchmarks.caption_features import read_captions

    spans = [[0.0, 4.0, "long"], [1.0, 2.0, "short"], [7.0, 8.0, "late"]]
    path = tmp_path / "spans.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"vid": "v", "duration": 7.2, "spans": spans}).encode()))
    long, short, late = ("long", 0.25), ("short", 1.0), ("late", 1.0)
    wanted = [[long], [long, short], [long], [long], [long], [long], [late], [late]]  # 4 and 5 lie nearer to 3
    assert read_captions(path) == {"v": wanted}
    assert read_captions(path, 2.0) == {"v": [[long, short], [long], [long], [late]]}  # centres 1, 3, 5 and 7


def test_spans_in_a_text_file_are_those_of_json_lines(tmp_path: Path) -> None:
    from benchmarks.caption_features import read_captions

    rows = [{"vid": v, "duration": 9.0, "spans": [[0.0, 4.0, f"{v} a"], [3.5, 9.0, "b ## c"]]} for v in ("x", "y")]
    path, text = tmp_path / "spans.jsonl", tmp_path / "spans.txt"
    path.write_text("\n".join(map(json.dumps, rows)))
    lines = [f"{row['vid']} {start} {end}##{said}" for row in rows for start, end, said in row["spans"]]
    text.write_text("\n".join([*lines, "unannotated 0.0 3.0##d"]))
    assert read_captions(text, 2.0, {"x": 9.0, "y": 9.0}) == read_captions(path, 2.0)
    text.write_text("x 0.0##a")
    with pytest.raises(SystemExit, match="line 1 must be `VID START END##text`"):
        read_captions(text, 2.0, {"x": 9.0})


def test_videos_without_captions_are_an_error_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.caption_features import main

    captions, notes = write(tmp_path, "one", layout="moments")
    more = {"qid": 7, "vid": "silent", "query": "A cat.", "duration": 22, "relevant_windows": [[0, 4]]}
    notes.write_text(notes.read_text() + "\n" + json.dumps(more))
    arguments = ["--out", str(tmp_path / "out"), "--width", "4", "--set", "one", str(captions), str(notes), "2"]
    with pytest.raises(SystemExit, match=r"`silent` must have captions, got none for 1 videos of 4 \(--drop"):
        main(arguments)
    assert main([*arguments, "--drop"]) == 0
    assert capsys.readouterr().out.startswith("one: 1 videos of 4 have no captions and are left out\n")
    with np.load(tmp_path / "out" / "one_query.npz") as content:
        assert content["qids"].tolist() == ["0", "1", "2"]
    notes.write_text(json.dumps(more))
    with pytest.raises(SystemExit, match=r"`silent` must have captions, got none for 1 videos of 1$"):
        main([*arguments, "--drop"])


def test_sentence_embeddings_keep_their_cosines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder in place of tf-idf; all of its energy lies in two directions."""
    from benchmarks.caption_features import main

    class Encoder:
        def __init__(self, name: str) -> None:
            assert name == "some/model"

        def encode(self, texts: list[str]) -> np.ndarray:
            angles = np.array([hash_of(text) for text in texts])
            return 3 * np.stack([0 * angles, np.cos(angles), 0 * angles, np.sin(angles)], 1)

    def hash_of(text: str) -> float:
        return sum(text.encode()) % 7 / 7

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = Encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    captions, notes = write(tmp_path, "one", layout="moments")
    arguments = ["--width", "2", "--encoder", "some/model", "--set", "one", str(captions), str(notes), "2"]
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 0
    video = open_features(tmp_path / "out" / "one_video.npz")["v0"]
    query = open_features(tmp_path / "out" / "one_query.npz", kind="query")["0"][0]
    wanted = [np.cos(hash_of(SCENES[t % 4]) - hash_of("The dog runs.")) for t in range(11)]
    np.testing.assert_allclose(video @ query, wanted, atol=0.02)
    assert video.shape == (11, 2)


def test_clips_of_spans_are_unit_means(tmp_path: Path) -> None:
    from benchmarks.caption_features import main

    captions, notes = write(tmp_path, "one", layout="moments")
    spans = tmp_path / "spans.jsonl"
    rows = [
        {"vid": f"v{k}", "duration": 22.0, "spans": [[0, 10, SCENES[0]], [5, 10, SCENES[1]], [10, 22, SCENES[2]]]}
        for k in range(3)
    ]
    spans.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--width", "4"]
    arguments += ["--set", "one", str(captions), str(notes), "2", "--set", "spans", str(spans), str(notes), "2"]
    assert main(arguments) == 0
    text, mixed = open_features(out / "one_video.npz")["v0"], open_features(out / "spans_video.npz")["v1"]
    assert len(mixed) == 11
    both = text[0] / 10 + text[1] / 5
    for clip, wanted in ((0, text[0]), (3, both / np.linalg.norm(both)), (8, text[2])):
        np.testing.assert_allclose(mixed[clip], wanted, atol=0.03)


def test_features_are_like_themselves_and_unlike_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.caption_features import main

    captions, notes = write(tmp_path, "one", layout="moments")
    arguments = ["--width", "4", "--set", "one", str(captions), str(notes), "2"]
    assert main(["--out", str(tmp_path / "a"), *arguments]) == 0
    assert main(["--out", str(tmp_path / "b"), *arguments, "--like", str(tmp_path / "a")]) == 0
    same = "one: clips 1.000, clips and queries 1.000; same nearest clip 100 %, among ten 100 %"
    assert capsys.readouterr().out.splitlines()[-1] == same
    path = tmp_path / "a" / "one_video.npz"
    content = dict(np.load(path))
    other = np.random.default_rng(0).integers(-127, 128, size=content["feat_int8"].shape, dtype=np.int8)
    np.savez(path, **{**content, "feat_int8": other})
    assert main(["--out", str(tmp_path / "b"), *arguments, "--like", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] != same
    few = tmp_path / "few.jsonl"
    few.write_text(notes.read_text().splitlines()[0])
    arguments[-2] = str(few)
    with pytest.raises(SystemExit, match="features of the same queries, 1, got 3"):
        main(["--out", str(tmp_path / "b"), *arguments, "--like", str(tmp_path / "a")])
