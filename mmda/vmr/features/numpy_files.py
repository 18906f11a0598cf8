"""Stores backed by ``npy`` and ``npz`` files: one file per id, one file for all, or one packed file."""

from __future__ import annotations

import errno
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.annotations.names import query_id, video_id
from mmda.vmr.disk import check_regular, check_size
from mmda.vmr.features.arrays import as_sequence
from mmda.vmr.features.protocol import Array, FeatureStore, Kind
from mmda.vmr.features.stores import IndexedStore
from mmda.vmr.reports import VMRDataError

# Errors of numpy and zipfile for damaged or truncated files.
DAMAGE = (
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    KeyError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


# npz keys that name a kind of array; any other key is an id.
_ARRAY_KEYS = frozenset({"features", "last_hidden_state", "pooler_output", "c3d_features", "arr_0"})


NO_PICKLE = "hold plain arrays, no pickled objects (a pickle can run code); save it as npz, npy or HDF5"


class ArrayFiles(IndexedStore):
    """A folder with one ``npz`` or ``npy`` file per id (or a single such file)."""

    def __init__(
        self, source: Path, files: Mapping[str, Path], key: str | None, max_bytes: int, kind: Kind, prefix: str
    ) -> None:
        super().__init__(source, list(files), kind=kind, prefix=prefix)
        self._files, self._key, self._max_bytes = list(files.values()), key, max_bytes
        self.layout = f"folder of {self._files[0].suffix[1:]}" if source.is_dir() else "one array file"

    def _file(self, row: int) -> str:
        return str(self._files[row])

    def _read(self, row: int) -> NDArray[Any]:
        file = self._files[row]
        loaded = load_numpy(file)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            array = _entry(loaded, file, _choose_key(loaded.files, file, self._key), self._max_bytes)
            if "attention_mask" not in loaded.files or array.ndim < 2:
                return array
            return _attended(array, _numbers(loaded, file, "attention_mask", self._max_bytes), file)


class KeyedNpz(IndexedStore):
    """One ``npz`` with an array per id, optionally with key prefixes (``video_<id>``, ``text_<id>``)."""

    layout = "npz keyed by id"

    def __init__(self, file: Path, keys: Mapping[str, str], max_bytes: int, kind: Kind, prefix: str) -> None:
        super().__init__(file, list(keys), kind=kind, prefix=prefix)
        self._path, self._keys, self._max_bytes = file, list(keys.values()), max_bytes
        self._open: tuple[int, Any] | None = None

    def _read(self, row: int) -> NDArray[Any]:
        if self._open is None or self._open[0] != os.getpid():  # a forked process must not share the file position
            self._open = os.getpid(), load_numpy(self._path)
        return _entry(self._open[1], self._path, self._keys[row], self._max_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


class PackedNpz(IndexedStore):
    """One ``npz`` with all arrays stacked: ``feat_int8`` times ``scale`` or ``feat``, and ``offsets``, ``vids``."""

    layout = "packed npz"

    def __init__(
        self,
        file: Path,
        ids: Sequence[str],
        rows: NDArray[Any],
        offsets: NDArray[Any],
        scale: Array | None,
        clip_seconds: float | None,
        kind: Kind,
        prefix: str,
    ) -> None:
        super().__init__(file, ids, clip_seconds, kind=kind, prefix=prefix)
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
            came = f"{offsets.dtype} of shape {offsets.shape}"
            raise VMRDataError(file, None, "have whole numbers in one row as `offsets`", came)
        if len(offsets) != len(ids) + 1 or offsets[0] != 0 or offsets[-1] != len(rows):
            rule = f"have `offsets` from 0 to its {len(rows)} rows, one more than its {len(ids)} ids"
            raise VMRDataError(file, None, rule, f"{len(offsets)} offsets from {offsets[0]} to {offsets[-1]}")
        if (offsets < 0).any() or (offsets > len(rows)).any() or (np.diff(offsets.astype(np.int64)) < 0).any():
            raise VMRDataError(file, None, "have `offsets` that never fall", "a falling pair")
        if scale is not None and scale.shape != (rows.shape[1],):
            raise VMRDataError(file, None, f"have a `scale` of shape ({rows.shape[1]},)", scale.shape)
        self._rows, self._offsets, self._scale = rows, offsets.astype(np.int64), scale
        self._width = int(rows.shape[1])

    def _read(self, row: int) -> NDArray[Any]:
        part = self._rows[self._offsets[row] : self._offsets[row + 1]]
        return part if self._scale is None else part.astype(np.float32) * self._scale


def stem_id(stem: str, kind: Kind) -> str:
    """The id from a file's stem."""
    return query_id(stem) if kind == "query" else video_id(stem)


def open_npz(
    file: Path, kind: Kind, key: str | None, ids: Sequence[str] | None, max_bytes: int, prefix: str
) -> FeatureStore:
    """The store for one ``npz`` file, chosen by the names of its arrays."""
    loaded = load_numpy(file)
    if isinstance(loaded, np.ndarray):
        raise VMRDataError(file, None, "be a zip of arrays", "a single array; rename it to .npy")
    with loaded as archive:
        names = set(archive.files)
        if "feat_int8" in names or "feat" in names:
            return _open_packed_npz(file, archive, ids, max_bytes, kind, prefix)
        if key in names or names & {"features", "last_hidden_state"} or (len(names) == 1 and names <= _ARRAY_KEYS):
            return ArrayFiles(file, {stem_id(file.stem, kind): file}, key, max_bytes, kind, prefix)
        half = "video_" if kind == "video" else "text_"
        both = all(name.startswith(("video_", "text_")) for name in names)
        keys = {name[len(half) if both else 0 :]: name for name in archive.files if not both or name.startswith(half)}
        if not keys:
            raise VMRDataError(file, None, f"hold keys `{half}<id>`", ", ".join(sorted(names)[:3]) or "none")
        return KeyedNpz(file, keys, max_bytes, kind, prefix)


def _open_packed_npz(
    file: Path, archive: Any, ids: Sequence[str] | None, max_bytes: int, kind: Kind, prefix: str
) -> FeatureStore:
    names = set(archive.files)
    scale = None
    if "feat_int8" in names:
        rows = _numbers(archive, file, "feat_int8", max_bytes)
        if "scale" not in names:
            raise VMRDataError(file, None, "hold `scale` with `feat_int8`", ", ".join(sorted(names)))
        scale = np.asarray(_numbers(archive, file, "scale", max_bytes), dtype=np.float32)
    else:
        rows = _numbers(archive, file, "feat", max_bytes)
    if rows.ndim != 2:
        raise VMRDataError(file, None, "stack its features as (rows, width)", rows.shape)
    named = next((name for name in ("vids", "qids", "ids") if name in names), None)
    if named is not None:
        written = _entry(archive, file, named, max_bytes)
        if written.ndim != 1 or written.dtype.kind not in "iuUS":
            rule = f"have one name for each array as `{named}`"
            raise VMRDataError(file, None, rule, f"{written.dtype} of shape {written.shape}")
        ids = [str(id) for id in written.astype(str).tolist()]
    if ids is None:
        raise VMRDataError(file, None, "name its rows (`vids`, `qids`) or be opened with `ids`", "neither")
    if "offsets" in names:
        offsets = _numbers(archive, file, "offsets", max_bytes)
    else:
        if len(ids) != len(rows):
            raise VMRDataError(file, None, f"have one row for each of {len(ids)} ids", f"{len(rows)} rows")
        offsets = np.arange(len(rows) + 1)
    clip_seconds = None
    if "clip_seconds" in names:
        seconds = _numbers(archive, file, "clip_seconds", max_bytes)
        if seconds.size != 1:
            raise VMRDataError(file, None, "have one number as `clip_seconds`", f"shape {seconds.shape}")
        clip_seconds = float(seconds.reshape(()))
    return PackedNpz(file, ids, rows, offsets, scale, clip_seconds, kind, prefix)


def load_numpy(file: Path) -> Any:
    """``np.load`` without pickles, with one-line errors."""
    check_regular(file)
    if file.suffix == ".npz":
        try:
            with zipfile.ZipFile(file):
                pass
        except (*DAMAGE, OSError) as error:
            _reraise(error)
            with file.open("rb") as stream:
                if stream.read(2) == b"PK":  # numpy would raise too, but leave the file open
                    raise VMRDataError(file, None, "be a complete npz or npy file", error) from None
    try:
        return np.load(file, allow_pickle=False)
    except (*DAMAGE, OSError) as error:
        _reraise(error)
        if "pickle" in str(error):
            raise VMRDataError(file, None, NO_PICKLE, "a pickle or a damaged file") from None
        raise VMRDataError(file, None, "be a complete npz or npy file", error) from None


def _reraise(error: Exception) -> None:
    """Re-raise I/O errors except EINVAL, which numpy causes by seeking to an invalid position in a damaged file."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        raise error


def _entry(archive: Any, file: Path, key: str, max_bytes: int) -> NDArray[Any]:
    """One array of an open archive; its unpacked size is checked first."""
    infos = archive.zip.NameToInfo
    info = infos.get(f"{key}.npy") or infos.get(key)
    if info is not None:
        check_size(file, key, info.file_size, max_bytes)
    try:
        array = archive[key]
    except (*DAMAGE, OSError) as error:
        _reraise(error)
        if "allow_pickle" in str(error):
            raise VMRDataError(file, key, NO_PICKLE, "an array of objects") from None
        raise VMRDataError(file, key, "be a complete array", error) from None
    if not isinstance(array, np.ndarray):  # numpy returns any other member as bytes
        raise VMRDataError(file, key, "be an array", "another member of the zip")
    return cast("NDArray[Any]", array)


def _attended(array: NDArray[Any], mask: NDArray[Any], file: Path) -> Array:
    """The rows that a tokenizer's ``attention_mask`` marks; the others are padding."""
    rows = as_sequence(array, file, "attention_mask")
    keep = mask.reshape(-1) != 0
    if len(keep) != len(rows) or not keep.any():
        rule = f"mark at least one of the {len(rows)} rows of the array"
        raise VMRDataError(file, "attention_mask", rule, f"{int(keep.sum())} of {len(keep)}")
    return cast("Array", rows[keep])


def _numbers(archive: Any, file: Path, key: str, max_bytes: int) -> NDArray[Any]:
    array = _entry(archive, file, key, max_bytes)
    if array.dtype.kind not in "fiu":
        raise VMRDataError(file, key, "hold numbers", f"an array of {array.dtype}")
    return array


def _choose_key(names: Sequence[str], file: Path, key: str | None) -> str:
    if key is not None:
        if key not in names:
            raise VMRDataError(file, None, f"hold the key `{key}`", ", ".join(names) or "none")
        return key
    known = [name for name in ("features", "last_hidden_state") if name in names]
    if known:
        return known[0]
    names = [name for name in names if name != "attention_mask"]
    if len(names) == 1:
        return names[0]
    rule = "hold the key `features` or `last_hidden_state`, or one array (or name it with `key`)"
    raise VMRDataError(file, None, rule, ", ".join(names) or "none")
