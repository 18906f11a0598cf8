"""Readers on randomly damaged files: a store or annotations are returned, or an error of one line names the file.

Each case starts from a valid file; hypothesis draws the changes of its bytes or values.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmda.vmr import VMRDataError, open_features, pack_features, read_annotations, read_glove, read_splits
from mmda.vmr.evaluation import read_predictions, read_saliency

ONES = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
#: (place, value): a byte to change, as a share of the file's length.
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)
CUT = st.floats(0, 1)


def told_or_read(read: Callable[[], object], file: Path) -> None:
    """The call returns, or raises the library's own error in one line with the name of a file in this folder."""
    told = ""
    try:
        read()
    except VMRDataError as error:
        told = str(error)
    assert "\n" not in told
    assert not told or str(file.parent) in told


def damage(content: bytes, changes: list[tuple[float, int]], cut: float) -> bytes:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    return bytes(damaged[: round(cut * len(damaged))]) if cut < 0.5 else bytes(damaged)


def npz(compress: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, **arrays)
    return stream.getvalue()


def read_all(file: Path, **options: Any) -> None:
    store = open_features(file, **options)
    for id in store.ids:
        array = store[id]
        assert array.ndim == 2
        assert array.dtype == np.float32


NPZ = {
    "one": npz(features=ONES),
    "text": npz(last_hidden_state=ONES, attention_mask=np.array([1, 1, 0, 0])),
    "packed": npz(feat=ONES, offsets=np.array([0, 1, 4]), vids=np.array(["a", "b"]), clip_seconds=np.float32(2)),
    "squeezed": npz(True, video_a=ONES, text_a=ONES),
}


@pytest.mark.parametrize("base", NPZ)
@given(changes=CHANGES, cut=CUT)
@BOUNDED
def test_npz_bytes(tmp_path: Path, base: str, changes: list[tuple[float, int]], cut: float) -> None:
    file = tmp_path / "v.npz"
    file.write_bytes(damage(NPZ[base], changes, cut))
    told_or_read(lambda: read_all(file, max_bytes=1 << 20), file)


@given(changes=CHANGES, cut=CUT)
@BOUNDED
def test_npy_bytes(tmp_path: Path, changes: list[tuple[float, int]], cut: float) -> None:
    stream = io.BytesIO()
    np.save(stream, ONES)
    file = tmp_path / "v.npy"
    file.write_bytes(damage(stream.getvalue(), changes, cut))
    told_or_read(lambda: read_all(file), file)


@given(changes=CHANGES, cut=CUT)
@BOUNDED
def test_hdf5_bytes(tmp_path: Path, changes: list[tuple[float, int]], cut: float) -> None:
    h5py = pytest.importorskip("h5py")
    good, file = tmp_path / "good.h5", tmp_path / "v.h5"
    if not good.exists():
        with h5py.File(good, "w") as out:
            out["a"], out["b/c3d_features"] = ONES, ONES
    file.write_bytes(damage(good.read_bytes(), changes, cut))
    told_or_read(lambda: read_all(file, max_bytes=1 << 20), file)


ARRAYS = st.sampled_from(
    [
        ONES,
        ONES[0],
        np.zeros((0, 3)),
        np.array(5),
        np.array(["a", "b"]),
        np.array([0, 2**63, 4], dtype=np.uint64),
        np.array([0, -1, 4]),
        np.array([0.0, np.nan, 4.0]),
        np.array([0, 1, 4]),
        np.zeros((2, 2), dtype=[("x", "f4")]),
        np.array([True, False]),
        np.zeros(3, dtype="M8[s]"),
        np.ones((4, 3), dtype=np.complex64),
    ]
)
KEYS = ("feat", "feat_int8", "scale", "offsets", "vids", "clip_seconds", "features", "attention_mask", "other")


@given(arrays=st.dictionaries(st.sampled_from(KEYS), ARRAYS, min_size=1), named=st.booleans())
@BOUNDED
def test_npz_values(tmp_path: Path, arrays: dict[str, Any], named: bool) -> None:
    file = tmp_path / "v.npz"
    file.write_bytes(npz(**arrays))
    told_or_read(lambda: read_all(file, ids=["a", "b"] if named else None), file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(index=st.dictionaries(st.sampled_from(["ids", "offsets", "clip_seconds", "shape"]), JSON))
@BOUNDED
def test_packed_index(tmp_path: Path, index: dict[str, Any]) -> None:
    folder = tmp_path / "packed"
    if not folder.exists():
        np.save(tmp_path / "a.npy", ONES)
        pack_features(open_features(tmp_path / "a.npy"), folder, dtype="float32")
    good = {"ids": ["a"], "offsets": [0, 4], "clip_seconds": None, "shape": [4, 3]}
    (folder / "index.json").write_text(json.dumps(good | index))
    told_or_read(lambda: read_all(folder), folder)


LAYOUTS: dict[str, tuple[str, Any]] = {
    "activitynet": ("a.json", {"v": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["a dog"]}}),
    "tacos": ("a.json", {"v.avi": {"fps": 2, "num_frames": 9, "timestamps": [[1, 2]], "sentences": ["a dog"]}}),
    "qvhighlights": ("a.jsonl", {"qid": 1, "query": "a dog", "vid": "v", "duration": 9, "relevant_windows": [[1, 2]]}),
    "didemo": ("a.json", [{"annotation_id": 1, "video": "v.mov", "description": "a dog", "times": [[0, 1]]}]),
}


def swapped(value: Any, path: list[int], new: Any) -> Any:
    """The value with one of its parts replaced; ``path`` selects a child at each level, modulo their number."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    if isinstance(value, dict):
        key = list(value)[path[0] % len(value)]
        return {**value, key: swapped(value[key], path[1:], new)}
    at = path[0] % len(value)
    return [*value[:at], swapped(value[at], path[1:], new), *value[at + 1 :]]


@pytest.mark.parametrize("layout", LAYOUTS)
@given(path=st.lists(st.integers(0, 5), max_size=5), new=JSON, closed=st.booleans())
@BOUNDED
def test_annotation_values(tmp_path: Path, layout: Any, path: list[int], new: Any, closed: bool) -> None:
    name, good = LAYOUTS[layout]
    file = tmp_path / name
    file.write_text(json.dumps(swapped(good, path, new)))
    told_or_read(lambda: read_annotations(file, layout, closed=closed), file)
    told_or_read(lambda: read_annotations(file, closed=closed), file)


TEXTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "VID 0.0 6.9##a person\n": ("a.txt", lambda file: read_annotations(file, durations={"VID": 9.0})),
    '{"v": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["a dog"]}}': ("a.json", read_annotations),
    '{"qid": 1, "query": "a dog", "vid": "v", "duration": 9, "relevant_windows": [[1, 2]]}': (
        "a.jsonl",
        read_annotations,
    ),
    "cat 0.5 1.0\ndog 0.1 0.2\n": ("glove.txt", lambda file: read_glove(file, ["cat", "dog"])),
    '{"qv": {"train": ["a"], "test": ["b"]}}': ("splits.json", read_splits),
    '{"qid": 7, "pred_relevant_windows": [[0, 4, 0.9]]}': ("p.jsonl", read_predictions),
    '{"qid": 7, "duration": 6, "relevant_clip_ids": [1], "saliency_scores": [[4, 3, 2]]}': ("s.jsonl", read_saliency),
}


@pytest.mark.parametrize("text", TEXTS)
@given(changes=CHANGES, cut=CUT)
@BOUNDED
def test_text_bytes(tmp_path: Path, text: str, changes: list[tuple[float, int]], cut: float) -> None:
    name, read = TEXTS[text]
    file = tmp_path / name
    file.write_bytes(damage(text.encode(), changes, cut))
    told_or_read(lambda: read(file), file)


@pytest.mark.parametrize("read", [read_predictions, read_saliency])
@given(path=st.lists(st.integers(0, 5), max_size=4), new=JSON)
@BOUNDED
def test_prediction_values(tmp_path: Path, read: Any, path: list[int], new: Any) -> None:
    good = {
        "qid": 7,
        "duration": 6,
        "relevant_clip_ids": [1],
        "saliency_scores": [[4, 3, 2]],
        "pred_relevant_windows": [[0, 4, 0.9]],
        "pred_saliency_scores": [0.1],
    }
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(swapped(good, path, new)))
    told_or_read(lambda: read(file), file)
