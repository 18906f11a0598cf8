"""Malicious or mistakenly saved files give a one-line error, without hanging or exhausting memory."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmda.vmr import ArrayStore, VMRDataError, open_features, read_annotations, read_glove, read_splits
from mmda.vmr.features.packed import MappedStore

ONES = np.ones((4, 3), dtype=np.float32)


class TestOnlyRegularFiles:
    """A pipe without a writer waits forever; ``/dev/zero`` never ends."""

    @pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl", "a.csv"])
    @pytest.mark.parametrize("closed", [False, True])
    def test_annotations(self, tmp_path: Path, name: str, closed: bool) -> None:
        pipe = tmp_path / name
        os.mkfifo(pipe)
        with pytest.raises(VMRDataError, match="must be a file, got a pipe, socket or device"):
            read_annotations(pipe, "qvhighlights", closed=closed)
        if name != "a.jsonl":
            with pytest.raises(VMRDataError, match="must be a file, got a pipe, socket or device"):
                read_annotations(pipe)

    @pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.npz", "a.npy"])
    def test_features(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        with pytest.raises(VMRDataError, match="must be a file, got a pipe, socket or device"):
            open_features(tmp_path / name)
        if name == "a.npy":
            with pytest.raises(VMRDataError, match="must be a file, got a pipe, socket or device"):
                open_features(tmp_path)["a"]

    def test_devices(self, tmp_path: Path) -> None:
        for name in ("a.txt", "a.json", "a.npz", "a.h5"):
            (tmp_path / name).symlink_to("/dev/zero")
        for read in (read_annotations, open_features):
            for name in ("a.json", "a.npz", "a.h5"):
                with pytest.raises(VMRDataError, match=r"a pipe, socket or device|known layout"):
                    read(tmp_path / name)
        with pytest.raises(VMRDataError, match="a pipe or device"):
            read_glove(tmp_path / "a.txt", ["a"])
        with pytest.raises(VMRDataError, match="a pipe, socket or device"):
            read_splits(tmp_path / "a.json")
        notes = tmp_path / "notes.txt"
        notes.write_text("A 0 1##x\n")
        with pytest.raises(VMRDataError, match="a pipe, socket or device"):
            read_annotations(notes, durations=tmp_path / "a.json")


class TestArchives:
    def test_a_member_that_is_no_array(self, tmp_path: Path) -> None:
        for name in ("words.npz", "v.npz"):
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                archive.writestr("features" if name == "v.npz" else "notes.txt", "no array")
        for id, name in (("v", "v.npz"), ("notes.txt", "words.npz")):
            with pytest.raises(VMRDataError, match=r"must be an array, got another member of the zip"):
                open_features(tmp_path / name)[id]

    @pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 5])
    def test_packed_offsets_outside(self, tmp_path: Path, offset: int) -> None:
        offsets = np.array([0, offset, 4], dtype=np.uint64)
        np.savez(tmp_path / "p.npz", feat=ONES, offsets=offsets, vids=np.array(["a", "b"]))
        with pytest.raises(VMRDataError, match="have `offsets` that never fall"):
            open_features(tmp_path / "p.npz")

    def test_index_offsets_outside(self, tmp_path: Path) -> None:
        np.save(tmp_path / "features.npy", ONES)
        index = {"ids": ["a", "b"], "offsets": [0, 2**63, 4], "clip_seconds": None, "shape": [4, 3]}
        (tmp_path / "index.json").write_text(json.dumps(index))
        with pytest.raises(VMRDataError, match="must be the index of packed features"):
            MappedStore(tmp_path)

    def test_a_small_archive_of_a_large_array(self, tmp_path: Path) -> None:
        file = tmp_path / "v.npz"
        np.savez_compressed(file, features=np.zeros((5000, 250), dtype=np.float32))
        assert file.stat().st_size < 20_000
        rule = r"`features` must take at most 1\.0 MiB in memory \(`max_bytes` raises the limit\), got 4\.8 MiB from"
        with pytest.raises(VMRDataError, match=rule):
            open_features(file, max_bytes=1 << 20)["v"]
        with pytest.raises(VMRDataError, match="at most"):
            open_features([tmp_path], max_bytes=1 << 20)["v"]
        assert open_features(file)["v"].shape == (5000, 250)

    def test_as_large_as_its_file_is_no_bomb(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "v.npz", features=np.zeros((500, 250), dtype=np.float32))
        assert open_features(tmp_path / "v.npz", max_bytes=1000)["v"].shape == (500, 250)


class TestHDF5:
    def test_other_files_are_not_read(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "secret.h5", "w") as out:
            out["x"] = ONES
        (tmp_path / "raw").write_bytes(ONES.tobytes())
        file = tmp_path / "f.h5"
        layout = h5py.VirtualLayout(shape=(4, 3), dtype="f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", shape=(4, 3))
        with h5py.File(file, "w") as out:
            out["good"] = ONES
            out["link"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
            out["group/features"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
            out["root"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
            out["soft"] = h5py.SoftLink("/root/x")
            out["same"] = h5py.SoftLink("good")
            out["loop"] = h5py.SoftLink("/loop")
            out.create_dataset("outside", shape=(4, 3), dtype="f4", external=[(str(tmp_path / "raw"), 0, 48)])
            out.create_virtual_dataset("virtual", layout)
        store = open_features(file)
        for id in ("link", "group", "soft", "outside", "virtual"):
            with pytest.raises(VMRDataError, match=rf"f\.h5: `{id}` must be readable from this file alone"):
                store[id]
        with pytest.raises(VMRDataError, match="links that lead on and on"):
            store["loop"]
        assert store["good"].shape == store["same"].shape == (4, 3)

    def test_a_tiny_file_that_declares_gigabytes(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "f.h5", "w") as out:
            out.create_dataset("v", shape=(1 << 19, 1 << 10), dtype="f4", chunks=(1, 1 << 10))
        with pytest.raises(VMRDataError, match=r"`v` must take at most 1\.0 GiB in memory .* got 2\.0 GiB from"):
            open_features(tmp_path / "f.h5")["v"]

    def test_a_group_that_holds_ids_is_no_video(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "parts.h5", "w") as out:
            out["part1/v1"], out["part2/v2"] = ONES, ONES
        with h5py.File(tmp_path / "keyed.h5", "w") as out:
            out["v1/resnet"], out["v2/resnet"] = ONES, ONES
        with pytest.raises(VMRDataError, match=r"`part1` must .* got `v1`, which no other group holds: is it an id"):
            open_features(tmp_path / "parts.h5")["part1"]
        assert open_features(tmp_path / "parts.h5", key="v1")["part1"].shape == (4, 3)
        assert open_features(tmp_path / "keyed.h5")["v2"].shape == (4, 3)


class TestNames:
    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".webm"])
    def test_video_suffixes_on_either_side(self, tmp_path: Path, suffix: str) -> None:
        np.save(tmp_path / f"AO8RW{suffix}.npy", ONES)
        np.save(tmp_path / "B.npy", ONES)
        store = open_features(tmp_path)
        assert store.ids == ("AO8RW", "B")
        assert f"AO8RW{suffix}" in store
        assert f"B{suffix.upper()}" in store
        notes = tmp_path / "x.txt"
        notes.write_text(f"AO8RW{suffix} 0 1##a dog\n")
        for durations in ({f"AO8RW{suffix}": 33.7}, {"AO8RW": 33.7}, {"AO8RW.mp4": 33.7, "AO8RW": 33.7}):
            query = read_annotations(notes, durations=durations)[0]
            assert (query.vid, query.duration) == ("AO8RW", 33.7)
        for name, text in (("d.csv", f"id,length\nAO8RW{suffix},33.7\n"), ("d.json", f'{{"AO8RW{suffix}": 33.7}}')):
            (tmp_path / name).write_text(text)
            assert read_annotations(notes, durations=tmp_path / name)[0].duration == 33.7

    def test_two_spellings_of_two_lengths(self, tmp_path: Path) -> None:
        notes = tmp_path / "x.txt"
        notes.write_text("A 0 1##a dog\n")
        with pytest.raises(VMRDataError, match=r"`A\.mp4` must have one length, got 9 and 9\.0000001"):
            read_annotations(notes, durations={"A": 9, "A.mp4": 9.0000001})

    @pytest.mark.parametrize("qid", ["s30-d52_0", "AO8RW_test_1", "5263", "v_x_train_3", "my-qid5"])
    def test_query_files(self, tmp_path: Path, qid: str) -> None:
        np.savez(tmp_path / f"qid{qid}.npz", last_hidden_state=ONES)
        assert open_features(tmp_path, kind="query").ids == (qid,)
        assert open_features(tmp_path, kind="query")[f"qid{qid}"].shape == (4, 3)

    def test_unicode_forms(self, tmp_path: Path) -> None:
        name = "caf\u00e9"
        decomposed = unicodedata.normalize("NFD", name)
        assert name != decomposed
        for here, there in ((name, decomposed), (decomposed, name)):
            assert ArrayStore({here: ONES})[there].shape == (4, 3)

    def test_prefixes_are_offered(self, tmp_path: Path) -> None:
        np.save(tmp_path / "v_abc.npy", ONES)
        np.save(tmp_path / "xyz.npy", ONES)
        assert "abc" not in open_features(tmp_path)
        store = open_features(tmp_path, prefix="v_")
        assert store["abc"].shape == store["v_abc"].shape == store["v_xyz"].shape == (4, 3)
        assert "v_other" not in store


class TestSavedByMistake:
    def test_the_padding_of_a_tokenizer(self, tmp_path: Path) -> None:
        rows = np.arange(77 * 2, dtype=np.float32).reshape(77, 2)
        mask = np.arange(77) < 9
        np.savez(tmp_path / "qid7.npz", last_hidden_state=rows[None], attention_mask=mask[None].astype(np.int64))
        np.testing.assert_array_equal(open_features(tmp_path, kind="query")["7"], rows[:9])
        np.savez(tmp_path / "qid7.npz", last_hidden_state=rows, attention_mask=np.ones(76, dtype=np.int64))
        with pytest.raises(VMRDataError, match="`attention_mask` must mark at least one of the 77 rows"):
            open_features(tmp_path, kind="query")["7"]

    def test_bfloat16_bits(self) -> None:
        values = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        for array in (bits, bits.view(np.int16)):
            with pytest.raises(VMRDataError, match=r"must hold numbers, got the bits of bfloat16 as u?int16"):
                ArrayStore({"v": array})["v"]
        counts = np.random.default_rng(0).integers(0, 5000, (20, 8)).astype(np.uint16)
        np.testing.assert_array_equal(ArrayStore({"v": counts})["v"], counts)
