"""Feature stores: each layout written here, read back and compared with what was written; bad files by message."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmda.vmr import ArrayStore, FeatureStore, VMRDataError, open_features, pack_features, pool_clips
from mmda.vmr.features.stores import JoinedStore

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    # halves keep small integers exactly, so that every layout gives back the same numbers
    shapes = {"a_60.0_210.0": 5, "b": 1, "c": 3}
    return {vid: rng.integers(-9, 9, (t, 4)).astype(np.float32) for vid, t in shapes.items()}


def npz_folder(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir()
    for vid, array in arrays.items():
        np.savez(folder / f"{vid}.npz", features=array.astype(np.float16))
    return folder


def npz_folder_other_key(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir()
    for vid, array in arrays.items():
        np.savez_compressed(folder / f"{vid}.npz", anything=array)
    return folder


def npy_folder(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir()
    for vid, array in arrays.items():
        np.save(folder / f"{vid}.npy", array[None, :, None, None, :].astype(np.float64))
    return folder


def hdf5_flat(file: Path, arrays: Arrays) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(file.with_suffix(".hdf5"), "w") as out:
        for vid, array in arrays.items():
            out[vid] = array
    return file.with_suffix(".hdf5")


def hdf5_groups(file: Path, arrays: Arrays) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(file.with_suffix(".h5"), "w") as out:
        for vid, array in arrays.items():
            out[f"{vid}.avi/c3d_features"] = array
            out[f"{vid}.avi/other"] = array[:1]
    return file.with_suffix(".h5")


def packed_int8(file: Path, arrays: Arrays) -> Path:
    scale = np.array([1.0, 0.5, 2.0, 1.0], dtype=np.float32)
    rows = np.concatenate([array / scale for array in arrays.values()])
    offsets = np.cumsum([0] + [len(array) for array in arrays.values()])
    path = file.with_suffix(".npz")
    np.savez(
        path,
        feat_int8=rows.astype(np.int8),
        scale=scale,
        offsets=offsets,
        vids=np.array(list(arrays)),
        clip_seconds=np.float32(2),
    )
    return path


def keyed_npz(file: Path, arrays: Arrays) -> Path:
    path = file.with_suffix(".npz")
    texts = {f"text_{vid}_train_1": array[0] for vid, array in arrays.items()}
    np.savez(path, **{f"video_{vid}": array for vid, array in arrays.items()}, **texts)
    return path


def bare_npz(file: Path, arrays: Arrays) -> Path:
    np.savez(file.with_suffix(".npz"), **arrays)
    return file.with_suffix(".npz")


def mapped(folder: Path, arrays: Arrays) -> Path:
    pack_features(ArrayStore(arrays, clip_seconds=2.0), folder)
    return folder


LAYOUTS = [
    npz_folder,
    npz_folder_other_key,
    npy_folder,
    hdf5_flat,
    hdf5_groups,
    packed_int8,
    keyed_npz,
    bare_npz,
    mapped,
]


@pytest.fixture(params=LAYOUTS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[Path, Arrays], Path]:
    return request.param  # type: ignore[no-any-return]


def even(arrays: Arrays) -> Arrays:
    """Numbers that survive the int8 layout's scales of 0.5 and 2."""
    return {vid: 2 * np.round(array / 2) for vid, array in arrays.items()}


class TestEveryLayout:
    def test_gives_back_what_was_written(
        self, make: Callable[[Path, Arrays], Path], tmp_path: Path, arrays: Arrays
    ) -> None:
        arrays = even(arrays)
        store = open_features(make(tmp_path / "store", arrays))
        assert isinstance(store, FeatureStore)
        assert set(store.ids) == set(arrays)
        assert (len(store), store.width) == (3, 4)
        for vid, array in arrays.items():
            assert store[vid].dtype == np.float32
            np.testing.assert_array_equal(store[vid], array)
            assert vid in store
            assert f"{vid}.avi" in store
        assert "z" not in store
        with pytest.raises(VMRDataError, match=r"store.*: `z` must be one of its 3 ids"):
            store["z"]

    def test_survives_pickling(self, make: Callable[[Path, Arrays], Path], tmp_path: Path, arrays: Arrays) -> None:
        arrays = even(arrays)
        store = open_features(make(tmp_path / "store", arrays))
        store["c"]
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))["c"], arrays["c"])


class TestQueries:
    def test_last_hidden_state_by_qid(self, tmp_path: Path) -> None:
        words, pooled = np.ones((13, 6), np.float16), np.zeros(6, np.float16)
        np.savez(tmp_path / "qid5263.npz", last_hidden_state=words, pooler_output=pooled)
        store = open_features(tmp_path, kind="query")
        assert store.ids == ("5263",)
        assert store["5263"].shape == (13, 6)
        sentence = open_features(tmp_path, kind="query", key="pooler_output")["5263"]
        np.testing.assert_array_equal(sentence, np.zeros((1, 6)))

    def test_packed_queries_named_or_in_order(self, tmp_path: Path) -> None:
        feat = np.arange(6, dtype=np.float16).reshape(2, 3)
        np.savez(tmp_path / "named.npz", feat=feat, qids=np.array(["7", "8"]))
        np.savez(tmp_path / "bare.npz", feat=feat)
        for store in (
            open_features(tmp_path / "named.npz", kind="query"),
            open_features(tmp_path / "bare.npz", kind="query", ids=["7", "8"]),
        ):
            np.testing.assert_array_equal(store["8"], [[3, 4, 5]])
        with pytest.raises(VMRDataError, match=r"bare\.npz: must name its rows"):
            open_features(tmp_path / "bare.npz", kind="query")
        with pytest.raises(VMRDataError, match=r"one row for each of 3 ids, got 2 rows"):
            open_features(tmp_path / "bare.npz", kind="query", ids=["7", "8", "9"])

    def test_text_half_of_a_keyed_file(self, tmp_path: Path, arrays: Arrays) -> None:
        store = open_features(keyed_npz(tmp_path / "f", arrays), kind="query")
        assert set(store.ids) == {f"{vid}_train_1" for vid in arrays}
        np.testing.assert_array_equal(store["c_train_1"], arrays["c"][:1])


class TestJoined:
    def test_widths_add_and_time_is_cut(self, tmp_path: Path, arrays: Arrays) -> None:
        more = {"c": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32), "y": np.ones((1, 3), np.float32)}
        store = open_features([npz_folder(tmp_path / "one", arrays), npy_folder(tmp_path / "two", more)])
        assert (set(store.ids), store.width, store["b"].shape) == ({"b", "c"}, 7, (1, 7))
        np.testing.assert_array_equal(store["c"], np.concatenate([arrays["c"][:2], more["c"]], axis=1))
        assert "y" not in store
        with pytest.raises(VMRDataError, match=r"two: `a_60.0_210.0` must be one of its 3 ids"):
            store["a_60.0_210.0"]

    @pytest.mark.parametrize(("a", "b", "fits"), [(10, 11, True), (10, 12, False), (100, 105, True), (100, 107, False)])
    def test_other_clip_lengths_are_no_rounding(self, a: int, b: int, fits: bool) -> None:
        one, two = ArrayStore({"v": np.ones((a, 2))}, source="one"), ArrayStore({"v": np.ones((b, 3))}, source="two")
        store = JoinedStore([one, two])
        if fits:
            assert store["v"].shape == (min(a, b), 5)
            return
        with pytest.raises(VMRDataError, match=rf"one \+ two: `v` must have as many rows in each .* got {a} and {b}"):
            store["v"]

    def test_nothing_in_common(self, tmp_path: Path, arrays: Arrays) -> None:
        other = npz_folder(tmp_path / "two", {"z": arrays["b"]})
        with pytest.raises(VMRDataError, match="must have an id in common"):
            open_features([npz_folder(tmp_path / "one", arrays), other])


class TestBadFiles:
    def test_pickles_are_refused_and_not_run(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
                return os.mkdir, (str(tmp_path / "sprung"),)

        for name in ("a.npz", "a.npy", "a.pkl", "a.pt"):
            (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        np.savez(tmp_path / "b.npz", features=np.array([{"a": 1}], dtype=object))
        for name in ("a.npz", "a.npy", "a.pkl", "a.pt", "b.npz"):
            with pytest.raises(VMRDataError, match=rf"{name}: .*must hold plain arrays, no pickled objects") as caught:
                open_features(tmp_path / name)[Path(name).stem]
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "sprung").exists()

    def test_folder_of_pickles(self, tmp_path: Path) -> None:
        (tmp_path / "a.pt").write_bytes(b"")
        with pytest.raises(VMRDataError, match=r"a\.pt: must hold plain arrays"):
            open_features(tmp_path)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((0, 4)), r"v\.npy: `v` must hold a non-empty array, got shape \(0, 4\)"),
            (np.zeros((2, 3, 4)), r"v\.npy: `v` must have shape \(time, features\), got \(2, 3, 4\)"),
            (np.array(["x"]), r"v\.npy: `v` must hold numbers, got an array of <U1"),
            (np.float32(3), r"v\.npy: `v` must have shape \(time, features\), got \(\)"),
        ],
    )
    def test_arrays(self, tmp_path: Path, array: NDArray[np.float32], message: str) -> None:
        np.save(tmp_path / "v.npy", array)
        with pytest.raises(VMRDataError, match=message):
            open_features(tmp_path)["v"]

    def test_another_width(self, tmp_path: Path) -> None:
        store = open_features(npz_folder(tmp_path / "f", {"a": np.ones((2, 4)), "b": np.ones((2, 5))}))
        assert (store["a"].shape, store["b"].shape) == ((2, 4), (2, 5))  # the store cannot tell which of them is meant
        with pytest.raises(VMRDataError, match=r"f: `b` must have width 4 like the others, got 5"):
            pack_features(store, tmp_path / "p")
        assert pack_features(store, tmp_path / "p", ids=["b"]).width == 5

    def test_hidden_files_are_no_features(self, tmp_path: Path) -> None:
        folder = npz_folder(tmp_path / "f", {"a": np.ones((2, 4))})
        (folder / "._a.npz").write_bytes(b"\0\5\x16\7Mac OS X")
        (folder / ".a.npy").write_bytes(b"")
        assert open_features(folder).ids == ("a",)

    def test_a_store_can_be_shown_without_reading_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.npy").write_bytes(b"no array")
        store = open_features(tmp_path)
        assert repr(store).endswith("1 ids)")

    def test_damaged_and_unknown(self, tmp_path: Path, arrays: Arrays) -> None:
        file = packed_int8(tmp_path / "f", arrays)
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(VMRDataError, match=r"f\.npz: must be a complete npz or npy file"):
            open_features(file)
        (tmp_path / "f.h5").write_bytes(b"no")
        pytest.importorskip("h5py")
        with pytest.raises(VMRDataError, match=r"f\.h5: must be a readable HDF5 file"):
            open_features(tmp_path / "f.h5")
        (tmp_path / "f.mat").write_bytes(b"")
        with pytest.raises(VMRDataError, match=r"f\.mat: must be a folder, .npz, .npy, .h5 or .hdf5"):
            open_features(tmp_path / "f.mat")
        with pytest.raises(VMRDataError, match=r"nope: must exist"):
            open_features(tmp_path / "nope")
        (tmp_path / "empty").mkdir()
        with pytest.raises(VMRDataError, match=r"empty: must hold <id>.npz or <id>.npy files"):
            open_features(tmp_path / "empty")

    def test_keys(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        np.savez(tmp_path / "d" / "v.npz", x=np.ones((2, 2)), y=np.ones((2, 3)))
        with pytest.raises(VMRDataError, match=r"v\.npz: must hold the key `features` or .* got x, y"):
            open_features(tmp_path / "d")["v"]
        assert open_features(tmp_path / "d", key="y")["v"].shape == (2, 3)
        with pytest.raises(VMRDataError, match=r"v\.npz: must hold the key `z`, got x, y"):
            open_features(tmp_path / "d", key="z")["v"]

    def test_packed_that_does_not_add_up(self, tmp_path: Path) -> None:
        vids = np.array(["a", "b"])
        rows = np.ones((5, 2), np.int8)
        cases = [
            ({"scale": np.ones(2), "offsets": [0, 2, 4]}, "`offsets` from 0 to its 5 rows"),
            ({"scale": np.ones(2), "offsets": [0, 6, 5]}, "`offsets` that never fall"),
            ({"scale": np.ones(3), "offsets": [0, 2, 5]}, r"`scale` of shape \(2,\)"),
            ({"offsets": [0, 2, 5]}, "hold `scale` with `feat_int8`"),
        ]
        for entries, message in cases:
            np.savez(tmp_path / "p.npz", feat_int8=rows, vids=vids, **entries)
            with pytest.raises(VMRDataError, match=rf"p\.npz: must .*{message}"):
                open_features(tmp_path / "p.npz")

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"clip_seconds": 0.0}, "must have a `clip_seconds` above 0, got 0.0"),
            ({"clip_seconds": -2.0}, "must have a `clip_seconds` above 0, got -2.0"),
            ({"clip_seconds": np.nan}, "must have a `clip_seconds` above 0, got nan"),
            ({"clip_seconds": np.ones(3)}, r"must have one number as `clip_seconds`, got shape \(3,\)"),
            ({"clip_seconds": "2 s"}, "`clip_seconds` must hold numbers"),
            (
                {"offsets": np.array([], int)},
                r"must have whole numbers in one row as `offsets`, got .* \(0,\)",
            ),
            ({"offsets": np.zeros((3, 2), int)}, r"must have whole numbers in one row as `offsets`"),
            ({"offsets": np.array([0, 2.5, 5])}, r"must have whole numbers in one row as `offsets`, got float64"),
            ({"offsets": np.array(["0", "2", "5"])}, "`offsets` must hold numbers"),
            ({"feat": np.float32(3)}, r"must stack its features as \(rows, width\), got \(\)"),
            ({"feat": np.array(["x"])}, "`feat` must hold numbers"),
            ({"vids": np.array("a")}, r"must have one name for each array as `vids`, got <U1 of shape \(\)"),
            ({"feat_int8": np.ones((5, 2), np.int8), "scale": np.array(["x", "y"])}, "`scale` must hold numbers"),
        ],
    )
    def test_packed_entries(self, tmp_path: Path, changed: dict[str, object], message: str) -> None:
        good = {"feat": np.ones((5, 2)), "offsets": np.array([0, 2, 5]), "vids": np.array(["a", "b"])}
        np.savez(tmp_path / "p.npz", **{**good, **changed})  # type: ignore[arg-type]
        with pytest.raises(VMRDataError, match=rf"p\.npz: {message}"):
            open_features(tmp_path / "p.npz")

    def test_one_array_keyed_by_its_id(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "all.npz", v0=np.ones((3, 4)))
        assert open_features(tmp_path / "all.npz").ids == ("v0",)
        for key in ("features", "last_hidden_state", "arr_0"):
            np.savez(tmp_path / "v1.npz", **{key: np.ones((3, 4))})
            assert open_features(tmp_path / "v1.npz").ids == ("v1",)
        np.savez(tmp_path / "v2.npz", mine=np.ones((3, 4)))
        assert open_features(tmp_path / "v2.npz", key="mine").ids == ("v2",)

    def test_a_folder_and_a_broken_link_are_no_files(self, tmp_path: Path) -> None:
        (tmp_path / "v0.npy").mkdir()
        (tmp_path / "v1.npy").symlink_to(tmp_path / "nowhere")
        store = open_features(tmp_path)
        with pytest.raises(VMRDataError, match=r"v0\.npy: must be a file, got a folder"):
            store["v0"]
        with pytest.raises(VMRDataError, match=r"v1\.npy: must be a file, got no such file"):
            store["v1"]

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_any_changed_byte_is_told_or_harmless(self, tmp_path: Path, suffix: str) -> None:
        whole = tmp_path / f"v{suffix}"
        (np.save if suffix == ".npy" else np.savez_compressed)(whole, np.arange(8.0).reshape(2, 4))
        good = whole.read_bytes()
        for at in range(len(good)):
            for flip in (0x01, 0x80, 0xFF):
                whole.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
                with contextlib.suppress(VMRDataError):
                    open_features(tmp_path)["v"]

    def test_h5py_missing_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "f.h5").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(VMRDataError, match=r"the extra installs: pip install \"torch-mmda\[vmr\]\""):
            open_features(tmp_path / "f.h5")


class TestBadHDF5:
    """Every error names file and id, and is a ``VMRDataError``."""

    def told(self, file: Path, id: str, message: str, key: str | None = None) -> None:
        with pytest.raises(VMRDataError, match=rf"f\.h5: `{id}` must {message}") as caught:
            open_features(file, key=key)[id]
        assert "\n" not in str(caught.value)

    def test_groups_links_and_damage(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        file = tmp_path / "f.h5"
        noise = np.random.default_rng(0).random((50, 8))
        with h5py.File(file, "w") as out:
            out["deep/a/b"] = np.ones((2, 3))
            out["two/a"] = out["two/b"] = np.ones((2, 3))
            out.create_group("none")
            out["soft"] = h5py.SoftLink("/nowhere")
            out["outside"] = h5py.ExternalLink("nowhere.h5", "/x")
            out["words"] = ["a", "b"]
            out["flat"] = np.ones((2, 3))
            chunked = out.create_dataset("chunk", data=noise, compression="gzip", chunks=(50, 8))
            at = chunked.id.get_chunk_info(0).byte_offset
        damaged = bytearray(file.read_bytes())
        damaged[at + 100 : at + 200] = bytes(100)
        file.write_bytes(bytes(damaged))
        self.told(file, "deep", "be an array, or hold .* got a group in a group, `a`")
        self.told(file, "two", "be an array, or hold .* got the keys a, b")
        self.told(file, "none", "be an array, or hold .* got the keys none")
        self.told(file, "words", "hold numbers")
        for id in ("soft", "outside", "chunk"):
            self.told(file, id, "be readable")
        self.told(file, "flat", "hold `c3d_features`, got an array that is not in a group", key="c3d_features")
        assert open_features(file)["flat"].shape == (2, 3)


class TestPacking:
    def test_is_mapped_not_read(self, tmp_path: Path, arrays: Arrays) -> None:
        store = pack_features(ArrayStore(arrays, clip_seconds=1.5), tmp_path / "p", dtype="float32")
        part = store["a_60.0_210.0"]
        while isinstance(part, np.ndarray) and not isinstance(part, np.memmap):
            assert part.base is not None, "a copy"
            part = part.base
        assert store.clip_seconds == 1.5

    def test_half_precision_rounds_as_numpy_does(self, tmp_path: Path) -> None:
        array = np.random.default_rng(1).standard_normal((9, 3)).astype(np.float32)
        store = pack_features(ArrayStore({"v": array}), tmp_path / "p")
        np.testing.assert_array_equal(store["v"], array.astype(np.float16).astype(np.float32))

    @pytest.mark.parametrize(
        ("bad", "message"),
        [(np.nan, "`b` must hold finite numbers, got 1 NaN and 0 infinite of 4"), (1e6, "`b` must fit float16")],
    )
    def test_a_failure_leaves_nothing(self, tmp_path: Path, bad: float, message: str) -> None:
        broken = np.ones((1, 4), np.float32)
        broken[0, 1] = bad
        with pytest.raises(VMRDataError, match=message):
            pack_features(ArrayStore({"a": np.ones((3, 4)), "b": broken}), tmp_path / "p")
        assert list(tmp_path.iterdir()) == []

    def test_overwriting_is_asked_for_and_whole(self, tmp_path: Path) -> None:
        one, two = ArrayStore({"a": np.ones((3, 4))}), ArrayStore({"a": np.zeros((2, 4))})
        old = pack_features(one, tmp_path / "p")
        with pytest.raises(VMRDataError, match="p: must not exist yet"):
            pack_features(two, tmp_path / "p")
        with pytest.raises(VMRDataError):
            pack_features(ArrayStore({"a": np.full((2, 4), np.inf)}), tmp_path / "p", overwrite=True)
        assert old["a"].sum() == open_features(tmp_path / "p")["a"].sum() == 12
        assert pack_features(two, tmp_path / "p", overwrite=True)["a"].shape == (2, 4)
        assert [entry.name for entry in tmp_path.iterdir()] == ["p"]
        (tmp_path / "mine").mkdir()
        with pytest.raises(VMRDataError, match="mine: must be a packed folder to be overwritten"):
            pack_features(two, tmp_path / "mine", overwrite=True)

    def test_torn_folder_is_told(self, tmp_path: Path) -> None:
        pack_features(ArrayStore({"a": np.ones((3, 4))}), tmp_path / "p")
        array = tmp_path / "p" / "features.npy"
        array.write_bytes(array.read_bytes()[:-8])
        with pytest.raises(VMRDataError, match=r"features\.npy: must be a complete npy file"):
            open_features(tmp_path / "p")
        (tmp_path / "p" / "index.json").write_text(json.dumps({"ids": ["a"]}))
        with pytest.raises(VMRDataError, match=r"index\.json: must be the index of packed features"):
            open_features(tmp_path / "p")


@pytest.mark.parametrize(("clips", "most"), [(7, 3), (3, 7), (4, 4), (100, 64), (5, 1)])
def test_pooling_is_the_mean_of_even_runs(clips: int, most: int) -> None:
    array = np.random.default_rng(0).standard_normal((clips, 2)).astype(np.float32)
    pooled = pool_clips(array, most)
    assert len(pooled) == min(clips, most)
    for run, mean in enumerate(pooled):
        inside = [t for t in range(clips) if run * clips // len(pooled) <= t < (run + 1) * clips // len(pooled)]
        np.testing.assert_allclose(mean, np.float64(array[inside]).mean(0), rtol=1e-6, atol=1e-7)
    # runs of equal length keep the mean of the whole
    if clips % most == 0:
        np.testing.assert_allclose(pooled.mean(0), array.mean(0), atol=1e-6)


def test_importing_does_not_load_h5py() -> None:
    code = "import sys, torch; had = set(sys.modules); import mmda.vmr; new = set(sys.modules) - had; "
    code += "bad = {'h5py', 'scipy', 'tqdm'} & new; assert not bad, bad"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.data
class TestRealFiles:
    def test_one_sample_of_each_published_layout(self, data_root: Path) -> None:
        folder = data_root / "vmr" / "features" / "layouts"
        clip = folder / "qvhl_clip_video_features_qtyBzFV9yTs_60.0_210.0.npz"
        slowfast = folder / "qvhl_slowfast_video_features_qtyBzFV9yTs_60.0_210.0.npz"
        assert open_features(clip)[clip.stem].shape == (75, 512)
        assert open_features(slowfast)[slowfast.stem].shape == (75, 2304)
        text = open_features(folder / "qvhl_clip_text_features_qid5263.npz", kind="query")
        assert text["5263"].shape == (13, 512)

    def test_two_real_folders_joined(self, data_root: Path, tmp_path: Path) -> None:
        for part in ("clip", "slowfast"):
            (tmp_path / part).mkdir()
            name = f"qvhl_{part}_video_features_qtyBzFV9yTs_60.0_210.0.npz"
            (tmp_path / part / "qtyBzFV9yTs_60.0_210.0.npz").symlink_to(
                data_root / "vmr" / "features" / "layouts" / name
            )
        store = open_features([tmp_path / "clip", tmp_path / "slowfast"])
        assert store["qtyBzFV9yTs_60.0_210.0"].shape == (75, 2816)

    def test_keyed_clip_features(self, data_root: Path) -> None:
        file = data_root / "vmr" / "features" / "charades23_clip_l14" / "features.npz"
        video, text = open_features(file), open_features(file, kind="query")
        assert (len(video), video.width, len(text), text.width) == (23, 768, 55, 768)
        assert text["AO8RW_train_1"].shape == (1, 768)
        assert video["AO8RW"].shape == (51, 768)

    def test_packed(self, data_root: Path) -> None:
        file = data_root / "vmr" / "features" / "caption_lsa128" / "qvhighlights_val_video.npz"
        store = open_features(file)
        assert (len(store), store.width, store.clip_seconds) == (1519, 128, 2.0)
        with np.load(file) as raw:
            row = raw["vids"].tolist().index("NUsG9BgSes0_210.0_360.0")
            start, end = raw["offsets"][row : row + 2]
            wanted = raw["feat_int8"][start:end] * raw["scale"]
        np.testing.assert_array_equal(store["NUsG9BgSes0_210.0_360.0"], wanted)
        # its rows had unit norm before they were rounded to eight bits
        norms = np.linalg.norm(store[store.ids[3]], axis=1)
        assert ((abs(norms - 1) < 0.05) | (norms < 1e-6)).all()
