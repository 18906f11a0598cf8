"""One memory-mapped array for all ids: writing and reading."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmda._core.files import (
    digest,
    lock,
    named,
    read_file,
    sealed_json,
    text_lines,
    unsealed_json,
    write_all,
    write_file,
)
from mmda.vmr.disk import check_regular
from mmda.vmr.features.arrays import check_finite, check_width, pool_clips
from mmda.vmr.features.numpy_files import DAMAGE
from mmda.vmr.features.protocol import FeatureStore, Kind, PathLike
from mmda.vmr.features.stores import IndexedStore
from mmda.vmr.reports import VMRDataError

_PACKED_FORMAT = "mmda-packed-features"

#: Bytes reserved for the header, which is written last, when the number of rows is known.
_HEADER = 128


class MappedStore(IndexedStore):
    """A packed folder written by :func:`pack_features`, read through a memory map; each array is verified once."""

    layout = "packed folder (memory-mapped)"

    def __init__(self, folder: Path, kind: Kind = "video", prefix: str = "") -> None:
        index_file, file = folder / "index.json", folder / "features.npy"
        try:
            check_regular(index_file)
            index = _read_index(index_file)
            ids, offsets = [str(id) for id in index["ids"]], index["offsets"]
            if not all(type(offset) is int for offset in offsets):
                raise TypeError("offsets that are not integers")
            clip_seconds = None if index["clip_seconds"] is None else float(index["clip_seconds"])
            shape = tuple(index["shape"])
            self._offsets = np.asarray(offsets, dtype=np.int64)
            self._dtype, self._sums = index.get("dtype"), index.get("crc32")  # missing in earlier versions
            if self._sums is not None and len(self._sums) != len(ids):
                raise ValueError("another number of checksums than of ids")
        except VMRDataError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise VMRDataError(index_file, None, "be the index of packed features", repr(error)) from None
        super().__init__(folder, ids, clip_seconds, kind=kind, prefix=prefix)
        self._names, self._verified = ids, bytearray(len(ids))
        self._array_file, self._shape = file, shape
        self._rows = self._map()
        steps = np.diff(self._offsets, prepend=0)
        if len(steps) != len(ids) + 1 or steps[0] != 0 or (steps < 0).any() or steps.sum() != len(self._rows):
            rule = f"have `offsets` from 0 to its {len(self._rows)} rows that never fall, one more than its ids"
            raise VMRDataError(index_file, None, rule, f"{len(offsets)} for {len(ids)} ids")
        self._width = int(shape[1])

    def _map(self) -> NDArray[Any]:
        try:
            rows = np.load(self._array_file, mmap_mode="r", allow_pickle=False)
        except DAMAGE as error:
            raise VMRDataError(self._array_file, None, "be a complete npy file", error) from None
        if rows.ndim != 2 or rows.shape != self._shape:
            raise VMRDataError(self._array_file, None, f"have the shape {self._shape} of its index", rows.shape)
        if self._dtype not in (None, rows.dtype.str) or not (self._dtype is None or rows.flags.c_contiguous):
            raise VMRDataError(self._array_file, None, f"hold rows of {self._dtype} as its index", rows.dtype.str)
        return cast("NDArray[Any]", rows)

    def _read(self, row: int) -> NDArray[Any]:
        rows = self._rows[self._offsets[row] : self._offsets[row + 1]]
        if self._sums is not None and not self._verified[row]:
            if zlib.crc32(rows.data) != self._sums[row]:
                raise VMRDataError(self._array_file, self._names[row], "be as it was packed", "a damaged array")
            self._verified[row] = 1
        return rows

    def pages(self, id: str) -> Tensor:
        """The array as it is stored, without a copy: pages of the file, which must not be written to."""
        row = self._find(id)
        if row is None or self._rows.dtype not in (np.float16, np.float32):
            return torch.from_numpy(self[id])
        face = self._read(row).__array_interface__
        face["data"] = (face["data"][0], False)  # marked writable, since PyTorch has no read-only tensors
        return torch.from_numpy(np.asarray(SimpleNamespace(__array_interface__=face, file=self._rows)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = self._map()


def _read_index(file: Path) -> dict[str, Any]:
    """The index, verified unless it is from an earlier version without a checksum."""
    content = read_file(file)
    text = unsealed_json(content)
    index = json.loads(content if text is None else text)
    if not isinstance(index, dict):
        raise TypeError(f"a {type(index).__name__}")
    if text is None and {"crc32", "dtype", "sha256"} & set(index):
        raise ValueError("another checksum than its own: it was changed or damaged")
    return index


def pack_features(
    store: FeatureStore,
    path: PathLike,
    *,
    ids: Sequence[str] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    max_clips: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """Copy a store into a memory-mapped folder.

    The folder holds ``features.npy`` (all rows) and ``index.json`` (ids, offsets, clip length, checksums of each array
    and of itself). It is created atomically and verified when read.

    Args:
        store: the features to copy.
        path: the folder to create.
        ids: the ids to copy, in this order; all by default.
        dtype: dtype on disk; float16 halves the file and has about three digits.
        max_clips: average-pool longer arrays to this many rows; the clip length is then not stored.
        overwrite: replace an existing packed folder.
        resume: keep partial results in ``.NAME.packing`` next to the folder if interrupted, and continue from there.
            Without it nothing is kept.
        progress: called with (done, total) after every id.

    Returns:
        The packed store, opened.

    Raises:
        VMRDataError: if the folder exists, widths differ, an array is not finite in ``dtype``, or partial results have
            other settings or are in use.
        ValueError: if ``dtype`` is invalid.
        OSError: if the folder cannot be written; names the file.

    Notes:
        Memory for one array. Resuming reads the partial results once, to verify them.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from mmda.vmr.features import ArrayStore
        >>> with TemporaryDirectory() as folder:
        ...     packed = pack_features(ArrayStore({"v1": np.ones((4, 3))}), Path(folder, "packed"))
        ...     packed.width, packed["v1"].shape, sorted(path.name for path in Path(folder, "packed").iterdir())
        (3, (4, 3), ['features.npy', 'index.json'])
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"pack_features: `dtype` must be one of 'float16', 'float32', got {dtype!r}")
    target = Path(path)
    replaceable = (target / "index.json").is_file() and (target / "features.npy").is_file()
    if target.exists() and not (overwrite and replaceable):
        rule = "not exist yet" if not overwrite else "be a packed folder to be overwritten"
        raise VMRDataError(target, None, rule, "something else of that name" if overwrite else "it does")
    names = list(store.ids if ids is None else ids)
    settings = {"source": store.source, "ids": digest("\n".join(names).encode()), "dtype": dtype, "clips": max_clips}
    target.parent.mkdir(parents=True, exist_ok=True)
    token = "packing" if resume else f"{os.getpid()}.{secrets.token_hex(4)}"
    work = target.with_name(f".{target.name}.{token}")
    whole = False
    try:
        with _Packing(work, settings, dtype) as packing:
            for done, id in enumerate(names, start=1):
                if done > len(packing.sums):
                    packing.add(id, _fitting(store, id, packing.width, max_clips, dtype))
                if progress is not None:
                    progress(done, len(names))
            packing.finish(names, None if max_clips is not None else store.clip_seconds)
        whole = True
        _put(work, target, replaceable)
    finally:
        if whole or not resume:
            shutil.rmtree(work, ignore_errors=True)
    return MappedStore(target)


def _fitting(store: FeatureStore, id: str, width: int, max_clips: int | None, dtype: str) -> NDArray[Any]:
    """The array of an id as stored: pooled, of the common width (0: not known yet), finite."""
    array = store[id]
    check_finite(array, store.source, id)
    check_width(array, store.source, id, width or array.shape[1])
    if max_clips is not None:
        array = pool_clips(array, max_clips)
    with np.errstate(over="ignore"):
        rows = array.astype(dtype)
    if not np.isfinite(rows).all():
        raise VMRDataError(store.source, id, f"fit {dtype} (use float32)", f"{np.abs(array).max():g}")
    return rows


def _put(work: Path, target: Path, replaceable: bool) -> None:
    """Rename the finished folder to its target, replacing an old one atomically."""
    if not replaceable:
        os.replace(work, target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.old")
    os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)


class _Packing:
    """A folder being written: the rows so far, and a line for each complete array."""

    def __init__(self, folder: Path, settings: Mapping[str, object], dtype: str) -> None:
        self.folder, self.dtype = folder, np.dtype(dtype)
        self.offsets, self.sums, self.width = [0], list[int](), 0
        self._array, self._list = folder / "features.npy", folder / "done.jsonl"
        self._settings = json.dumps(settings)

    def __enter__(self) -> _Packing:
        self.folder.mkdir(exist_ok=True)
        with named(self._array):
            self._rows = open(self._array, "r+b" if self._array.exists() else "w+b")
        if not lock(self._rows.fileno()):
            self._rows.close()
            raise VMRDataError(self.folder, None, "not be in use by another process", "one that packs there")
        kept = text_lines(read_file(self._list).decode(errors="replace")) if self._list.exists() else []
        if kept and kept[0] != self._settings:
            self._rows.close()
            raise VMRDataError(self.folder, None, "be of the same packing (or be deleted)", f"one of {kept[0][:200]}")
        self._take_up(kept[1:])
        with named(self._array):
            # zeros in place of the header, so that it is not a valid array file until finished
            self._rows.truncate(self._end())
            self._rows.seek(self._end())
        done = [{"width": self.width, "rows": b - a, "crc32": crc} for a, b, crc in self._arrays()]
        write_file(self._list, "".join(f"{line}\n" for line in (self._settings, *map(json.dumps, done))).encode())
        self._done = self._list.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._done.close()

    def _arrays(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.offsets[:-1], self.offsets[1:], self.sums)

    def _end(self) -> int:
        return _HEADER + self.offsets[-1] * self.width * self.dtype.itemsize

    def _take_up(self, lines: Sequence[str]) -> None:
        """Resume from the arrays of an earlier process, up to the first incomplete one."""
        for line in lines:
            try:
                each = json.loads(line)
                width, rows, crc = each["width"], each["rows"], each["crc32"]
            except (ValueError, LookupError, TypeError):
                return
            self._rows.seek(_HEADER + self.offsets[-1] * width * self.dtype.itemsize)
            size = rows * width * self.dtype.itemsize
            content = self._rows.read(size)
            if len(content) != size or zlib.crc32(content) != crc:
                return
            self._note(width, rows, crc)

    def _note(self, width: int, rows: int, crc: int) -> None:
        self.width = width
        self.offsets.append(self.offsets[-1] + rows)
        self.sums.append(crc)

    def add(self, id: str, rows: NDArray[Any]) -> None:
        """Append an array."""
        content = rows.tobytes()
        crc = zlib.crc32(content)
        with named(self._array):
            write_all(self._rows.fileno(), content)
        self._note(rows.shape[1], len(rows), crc)
        with named(self._list):
            line = json.dumps({"width": self.width, "rows": len(rows), "crc32": crc})
            write_all(self._done.fileno(), f"{line}\n".encode())

    def finish(self, names: Sequence[str], clip_seconds: float | None) -> None:
        """Write header and index, which completes the packed folder."""
        shape = (self.offsets[-1], self.width)
        text = repr({"descr": self.dtype.str, "fortran_order": False, "shape": shape}).encode()
        with named(self._array):
            self._rows.seek(0)
            head = np.lib.format.magic(1, 0) + struct.pack("<H", _HEADER - 10)
            write_all(self._rows.fileno(), head + text.ljust(_HEADER - 11) + b"\n")
            os.fsync(self._rows.fileno())
        index = {
            "format": _PACKED_FORMAT,
            "ids": names,
            "offsets": self.offsets,
            "shape": shape,
            "dtype": self.dtype.str,
            "clip_seconds": clip_seconds,
            "crc32": self.sums,
        }
        write_file(self.folder / "index.json", sealed_json(json.dumps(index)))
        self._done.close()
        self._list.unlink()
