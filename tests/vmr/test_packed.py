"""Packed features: every flipped bit is detected, and an interrupted packing is resumed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmda._core import files
from mmda.vmr import ArrayStore, VMRDataError, open_features, pack_features
from mmda.vmr.features import Array
from mmda.vmr.features.packed import MappedStore


def arrays(count: int = 6) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {f"v{i}": rng.standard_normal((3 + i, 5)).astype(np.float32) for i in range(count)}


def read_all(folder: Path) -> dict[str, Array]:
    store = open_features(folder)
    return {id: store[id].copy() for id in store.ids}


class TestDamage:
    def test_every_flipped_bit_is_found_or_harmless(self, tmp_path: Path) -> None:
        """No flipped bit of 600 changes a number, an id or a length undetected."""
        pack_features(ArrayStore(arrays(), clip_seconds=2.0), tmp_path / "p")
        right = read_all(tmp_path / "p")
        told = 0
        for name in ("features.npy", "index.json"):
            path = tmp_path / "p" / name
            whole = path.read_bytes()
            for place in random.Random(0).sample(range(8 * len(whole)), 300):
                damaged = bytearray(whole)
                damaged[place // 8] ^= 1 << place % 8
                path.write_bytes(damaged)
                try:
                    found = read_all(tmp_path / "p")
                except VMRDataError:
                    told += 1
                    continue
                assert name == "features.npy"
                assert place // 8 < 128  # blanks of the header
                assert {id: array.tobytes() for id, array in found.items()} == {
                    id: array.tobytes() for id, array in right.items()
                }
            path.write_bytes(whole)
        assert told > 500

    def test_another_order_of_bytes(self, tmp_path: Path) -> None:
        """One bit of the header changes the byte order of every number and not the number of rows."""
        pack_features(ArrayStore(arrays()), tmp_path / "p", dtype="float32")
        path = tmp_path / "p" / "features.npy"
        path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'>f4'"))
        with pytest.raises(VMRDataError, match=r"features\.npy: must hold rows of <f4 as its index, got >f4"):
            open_features(tmp_path / "p")

    def test_it_is_verified_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = pack_features(ArrayStore(arrays()), tmp_path / "p")
        store["v1"]
        monkeypatch.setattr("mmda.vmr.features.packed.zlib", None)
        store["v1"]

    def test_folders_of_earlier_versions_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        np.save(tmp_path / "p" / "features.npy", np.ones((4, 3), np.float16))
        index = {"ids": ["a", "b"], "offsets": [0, 1, 4], "shape": [4, 3], "clip_seconds": None}
        (tmp_path / "p" / "index.json").write_text(json.dumps(index))
        assert open_features(tmp_path / "p")["b"].shape == (3, 3)

    @pytest.mark.parametrize(
        ("offsets", "message"),
        [
            ([0, 2.5, 4], "are not integers"),
            ([0, "2", 4], "are not integers"),
            ([0, True, 4], "are not integers"),
            ([0, -1, 4], "`offsets` from 0 to its 4 rows that never fall"),
            ([0, 3, 2, 4], "`offsets` from 0 to its 4 rows"),
            ([1, 2, 4], "`offsets` from 0 to its 4 rows"),
        ],
    )
    def test_offsets_that_do_not_add_up(self, tmp_path: Path, offsets: list[object], message: str) -> None:
        np.save(tmp_path / "features.npy", np.ones((4, 3), np.float32))
        index = {"ids": ["a", "b"], "offsets": offsets, "shape": [4, 3], "clip_seconds": None}
        (tmp_path / "index.json").write_text(json.dumps(index))
        with pytest.raises(VMRDataError, match=rf"index\.json: must .*{message}"):
            MappedStore(tmp_path)


class Stopping(ArrayStore):
    """Features that raise after a number of reads, as if the process were killed."""

    left = 0

    def __getitem__(self, id: str) -> Array:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(id)


def stop_after(folder: Path, count: int) -> Path:
    store = Stopping(arrays())
    store.left = count
    with pytest.raises(KeyboardInterrupt):
        pack_features(store, folder / "p", resume=True)
    return folder / ".p.packing"


class TestGoingOn:
    @pytest.mark.parametrize("count", [0, 1, 3, 5])
    def test_what_is_done_is_not_read_again(self, tmp_path: Path, count: int) -> None:
        work = stop_after(tmp_path, count)
        assert work.is_dir()
        rest = Stopping(arrays())
        rest.left = 6 - count
        told: list[tuple[int, int]] = []
        pack_features(rest, tmp_path / "p", resume=True, progress=lambda done, of: told.append((done, of)))
        assert told == [(done, 6) for done in range(1, 7)]
        pack_features(ArrayStore(arrays()), tmp_path / "q")
        for name in ("features.npy", "index.json"):
            assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "q"]

    @pytest.mark.parametrize(
        "harm",
        [
            lambda rows, done: (rows[:-7], done),
            lambda rows, done: (rows + b"half an array", done),
            lambda rows, done: (rows[:140] + bytes([rows[140] ^ 4]) + rows[141:], done),
            lambda rows, done: (rows, done[:-5]),
            lambda rows, done: (rows, done + b'{"width": 5, "rows": 9}\n'),
            lambda rows, done: (rows, done + b"\xff\xfe"),
            lambda rows, done: (b"", done),
        ],
    )
    def test_what_is_half_written_is_made_again(
        self, tmp_path: Path, harm: Callable[[bytes, bytes], tuple[bytes, bytes]]
    ) -> None:
        work = stop_after(tmp_path, 4)
        rows, done = harm((work / "features.npy").read_bytes(), (work / "done.jsonl").read_bytes())
        (work / "features.npy").write_bytes(rows)
        (work / "done.jsonl").write_bytes(done)
        packed = pack_features(ArrayStore(arrays()), tmp_path / "p", resume=True)
        for id, array in arrays().items():
            np.testing.assert_array_equal(packed[id], array.astype(np.float16))

    def test_other_settings_and_two_at_once_are_refused(self, tmp_path: Path) -> None:
        work = stop_after(tmp_path, 2)
        with pytest.raises(VMRDataError, match=r"\.p\.packing: must be of the same packing \(or be deleted\)"):
            pack_features(ArrayStore(arrays()), tmp_path / "p", resume=True, dtype="float32")
        with pytest.raises(VMRDataError, match="must be of the same packing"):
            pack_features(ArrayStore(arrays(5)), tmp_path / "p", resume=True)
        with (work / "features.npy").open("rb") as held:
            assert files.lock(held.fileno())
            with pytest.raises(VMRDataError, match="must not be in use by another process"):
                pack_features(ArrayStore(arrays()), tmp_path / "p", resume=True)
        assert len(pack_features(ArrayStore(arrays()), tmp_path / "p", resume=True)) == 6

    def test_a_full_disk_names_the_file(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for most, name in ((200, r"features\.npy"), (600, r"index\.json")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
            try:
                with pytest.raises(OSError, match=rf"File too large: .*{name}"):
                    pack_features(ArrayStore({"a": np.ones((60, 3)), "b" * 400: np.ones((1, 3))}), tmp_path / "p")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert list(tmp_path.iterdir()) == []
