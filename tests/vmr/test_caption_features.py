"""The script that builds caption features: what it writes is what the readers read, and texts keep their likeness."""

from __future__ import annotations

import json
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
