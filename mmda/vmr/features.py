"""Feature stores: every layout that researchers keep features in, behind one protocol.

``store[id]`` is a float32 array ``(T, D)``, whatever the file holds. :func:`open_features` recognises the layout;
:func:`pack_features` copies any store into one memory-mapped array, from which reading costs a page fault.
Pickles are refused: they can run code.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.annotations import video_id
from mmda.vmr.reports import VMRDataError

Array = NDArray[np.float32]
PathLike = str | Path
Kind = Literal["video", "query"]

_PACKED_FORMAT = "mmda-packed-features"
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")
# What numpy and zipfile raise on bytes that were changed or cut.
_DAMAGE = (
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
# Keys of an npz that name what the array is, not whose it is.
_ARRAY_KEYS = frozenset({"features", "last_hidden_state", "pooler_output", "c3d_features", "arr_0"})
_NO_PICKLE = "hold plain arrays, no pickled objects (a pickle can run code); save it as npz, npy or HDF5"


@runtime_checkable
class FeatureStore(Protocol):
    """What every layout offers: ``store[id]`` is float32 ``(T, D)``, T >= 1.

    ``source`` names the file or folder for messages, ``ids`` every id that can be asked for, ``width`` is D of the
    first id, and ``clip_seconds`` the length of one clip where the file says so. An unknown id, or an array that is
    not ``(T, D)``, raises :class:`VMRDataError` with file, id and rule. Whoever joins arrays checks that their
    widths are equal: a store does not know which of its ids count.
    """

    @property
    def source(self) -> str: ...
    @property
    def layout(self) -> str: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def width(self) -> int: ...
    @property
    def clip_seconds(self) -> float | None: ...
    def __getitem__(self, id: str) -> Array: ...
    def __contains__(self, id: object) -> bool: ...
    def __len__(self) -> int: ...


def as_sequence(array: NDArray[Any], source: PathLike, id: str) -> Array:
    """Bring an array as found on disk to float32 ``(T, D)``: singleton axes go, a vector is one row.

    Args:
        array: ``(T, D)``, ``(D,)``, or either with axes of size 1 before the last, as in ``(1, T, 1, 1, D)``.
        source: file for messages.
        id: id for messages.

    Raises:
        VMRDataError: if the array is not numeric, is empty or keeps more than two axes.

    Example:
        >>> as_sequence(np.zeros((1, 7, 1, 1, 4)), "a.npy", "a").shape, as_sequence(np.zeros(4), "a.npy", "a").shape
        ((7, 4), (1, 4))
    """
    if array.dtype.kind not in "fiu":
        raise VMRDataError(source, id, "hold numbers", f"an array of {array.dtype}")
    if array.size == 0:
        raise VMRDataError(source, id, "hold a non-empty array", f"shape {array.shape}")
    if array.ndim != 2:
        rows = [size for size in array.shape[:-1] if size != 1]
        if array.ndim == 0 or len(rows) > 1:
            raise VMRDataError(source, id, "have shape (time, features)", array.shape)
        array = array.reshape(rows[0] if rows else 1, array.shape[-1])
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def check_width(array: Array, source: PathLike, id: str, width: int) -> None:
    """The array has ``width`` columns.

    Raises:
        VMRDataError: with the width it has.
    """
    if array.shape[1] != width:
        raise VMRDataError(source, id, f"have width {width} like the others", array.shape[1])


def check_finite(array: Array, source: PathLike, id: str) -> None:
    """Every number of the array is finite.

    Raises:
        VMRDataError: with the count of NaN and infinite entries.
    """
    if not np.isfinite(array).all():
        nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        raise VMRDataError(source, id, "hold finite numbers", f"{nan} NaN and {inf} infinite of {array.size}")


def clip_bounds(clips: int, max_clips: int) -> NDArray[np.int64]:
    """First row of each of at most ``max_clips`` runs that share ``clips`` rows evenly, and ``clips`` at the end.

    Example:
        >>> clip_bounds(7, 3).tolist(), clip_bounds(2, 3).tolist()
        ([0, 2, 4, 7], [0, 1, 2])
    """
    runs = min(clips, max_clips)
    return np.arange(runs + 1, dtype=np.int64) * clips // runs


def pool_clips(array: Array, max_clips: int) -> Array:
    """Average an array ``(T, D)`` over at most ``max_clips`` runs of neighbouring rows; short ones stay as they are.

    Args:
        array: the features.
        max_clips: the most rows that may be left.

    Returns:
        ``(min(T, max_clips), D)`` float32, summed in float64: run k holds the rows from the k-th to the (k+1)-th of
        ``max_clips`` even cuts. An array that is short enough is returned itself.

    Raises:
        ValueError: a number of clips below 1.

    Example:
        >>> pool_clips(np.arange(6, dtype=np.float32).reshape(6, 1), 3).ravel().tolist()
        [0.5, 2.5, 4.5]
    """
    if max_clips < 1:
        raise ValueError(f"pool_clips: `max_clips` must be an integer >= 1, got {max_clips}")
    if len(array) <= max_clips:
        return array
    bounds = clip_bounds(len(array), max_clips)
    sums = np.add.reduceat(array, bounds[:-1], axis=0, dtype=np.float64)
    return (sums / np.diff(bounds)[:, None]).astype(np.float32)


class _Store:
    """The shared half of every store: an index from id to whatever ``_read`` needs."""

    layout = "features"

    def __init__(self, source: PathLike, ids: Sequence[str], clip_seconds: float | None = None) -> None:
        self.source = str(source)
        if clip_seconds is not None and not (math.isfinite(clip_seconds) and clip_seconds > 0):
            raise VMRDataError(source, None, "have a `clip_seconds` above 0", clip_seconds)
        self.clip_seconds = clip_seconds
        ids = [video_id(id) for id in ids]
        self._index = {id: row for row, id in enumerate(ids)}
        if not self._index:
            raise VMRDataError(source, None, "hold features of at least one id", "none")
        if len(self._index) != len(ids):
            twice = next(id for row, id in enumerate(ids) if self._index[id] != row)
            raise VMRDataError(source, twice, "come once", "the same id twice")
        self._width: int | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._index)

    @property
    def width(self) -> int:
        if self._width is None:
            self._width = self[next(iter(self._index))].shape[1]
        return self._width

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._find(id) is not None

    def __getitem__(self, id: str) -> Array:
        row = self._find(id)
        if row is None:
            some = ", ".join(list(self._index)[:3])
            raise VMRDataError(self.source, id, f"be one of its {len(self)} ids ({some}, ...)", "no such id")
        return as_sequence(self._read(row), self._file(row), id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r}, {len(self)} ids)"

    def _find(self, id: str) -> int | None:
        row = self._index.get(id)
        return row if row is not None else self._index.get(video_id(id))

    def _file(self, row: int) -> str:
        return self.source

    def _read(self, row: int) -> NDArray[Any]:
        raise NotImplementedError


class _ArrayFiles(_Store):
    """A folder with one ``npz`` or ``npy`` file for each id (or a single such file)."""

    def __init__(self, source: Path, files: Mapping[str, Path], key: str | None) -> None:
        super().__init__(source, list(files))
        self._files, self._key = list(files.values()), key
        self.layout = f"folder of {self._files[0].suffix[1:]}" if source.is_dir() else "one array file"

    def _file(self, row: int) -> str:
        return str(self._files[row])

    def _read(self, row: int) -> NDArray[Any]:
        file = self._files[row]
        loaded = _load(file)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return _entry(loaded, file, _choose_key(loaded.files, file, self._key))


class _KeyedNpz(_Store):
    """One ``npz`` with an array for each id, its keys perhaps under a prefix (``video_<id>``, ``text_<id>``)."""

    layout = "npz keyed by id"

    def __init__(self, file: Path, keys: Mapping[str, str]) -> None:
        super().__init__(file, list(keys))
        self._path, self._keys = file, list(keys.values())
        self._open: tuple[int, Any] | None = None

    def _read(self, row: int) -> NDArray[Any]:
        if self._open is None or self._open[0] != os.getpid():  # a forked child must not share the file position
            self._open = os.getpid(), _load(self._path)
        return _entry(self._open[1], self._path, self._keys[row])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


class _HDF5(_Store):
    """One HDF5 file: ``f[id]`` is the array, or a group that holds it (``c3d_features``, or alone)."""

    layout = "HDF5"

    def __init__(self, file: Path, key: str | None) -> None:
        self._path, self._key = file, key
        self._open: tuple[int, Any] | None = None
        self._names = list(self._handle().keys())
        super().__init__(file, self._names)

    def _handle(self) -> Any:
        if self._open is None or self._open[0] != os.getpid():
            try:
                import h5py
            except ImportError:
                rule = 'be read with h5py, which the extra installs: pip install "torch-mmda[vmr]"'
                raise VMRDataError(self._path, None, rule, "no h5py") from None
            try:
                self._open = os.getpid(), h5py.File(self._path, "r")
            except OSError as error:
                if not self._path.exists() or isinstance(error, PermissionError):
                    raise
                raise VMRDataError(self._path, None, "be a readable HDF5 file", error) from None
        return self._open[1]

    def _read(self, row: int) -> NDArray[Any]:
        name, file = self._names[row], self._handle()
        try:
            node = file[name]
            if not hasattr(node, "shape"):
                node = self._inside(name, node)
            elif self._key is not None:
                raise VMRDataError(self._path, name, f"hold `{self._key}`", "an array that is not in a group")
            return np.asarray(node[()])
        except VMRDataError:
            raise
        except (*_DAMAGE, OSError) as error:  # a broken link, a damaged chunk
            raise VMRDataError(self._path, name, "be readable", error) from None

    def _inside(self, name: str, node: Any) -> Any:
        """The array of a group."""
        rule = "be an array, or hold `c3d_features`, `features` or one array (or name it with `key`)"
        inside = list(node.keys()) if hasattr(node, "keys") else []
        known = [key for key in (self._key, "c3d_features", "features") if key in inside]
        if self._key is not None and self._key not in inside:
            raise VMRDataError(self._path, name, f"hold `{self._key}`", f"the keys {', '.join(inside) or 'none'}")
        if not known and len(inside) != 1:
            raise VMRDataError(self._path, name, rule, f"the keys {', '.join(inside) or 'none'}")
        within = known[0] if known else inside[0]
        if not hasattr(node[within], "shape"):
            raise VMRDataError(self._path, name, rule, f"a group in a group, `{within}`")
        return node[within]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


class _PackedNpz(_Store):
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
    ) -> None:
        super().__init__(file, ids, clip_seconds)
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
            came = f"{offsets.dtype} of shape {offsets.shape}"
            raise VMRDataError(file, None, "have whole numbers in one row as `offsets`", came)
        if len(offsets) != len(ids) + 1 or offsets[0] != 0 or offsets[-1] != len(rows):
            rule = f"have `offsets` from 0 to its {len(rows)} rows, one more than its {len(ids)} ids"
            raise VMRDataError(file, None, rule, f"{len(offsets)} offsets from {offsets[0]} to {offsets[-1]}")
        if (np.diff(offsets) < 0).any():
            raise VMRDataError(file, None, "have `offsets` that never fall", "a falling pair")
        if scale is not None and scale.shape != (rows.shape[1],):
            raise VMRDataError(file, None, f"have a `scale` of shape ({rows.shape[1]},)", scale.shape)
        self._rows, self._offsets, self._scale = rows, offsets, scale
        self._width = int(rows.shape[1])

    def _read(self, row: int) -> NDArray[Any]:
        part = self._rows[self._offsets[row] : self._offsets[row + 1]]
        return part if self._scale is None else part.astype(np.float32) * self._scale


class _Mapped(_Store):
    """The packed folder that :func:`pack_features` writes, read through a memory map."""

    layout = "packed folder (memory-mapped)"

    def __init__(self, folder: Path) -> None:
        index_file, file = folder / "index.json", folder / "features.npy"
        try:
            index = json.loads(index_file.read_text(encoding="utf-8"))
            ids, offsets = [str(id) for id in index["ids"]], [int(offset) for offset in index["offsets"]]
            clip_seconds = None if index["clip_seconds"] is None else float(index["clip_seconds"])
            shape = tuple(index["shape"])
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise VMRDataError(index_file, None, "be the index of packed features", repr(error)) from None
        super().__init__(folder, ids, clip_seconds)
        self._array_file, self._shape = file, shape
        self._offsets = np.asarray(offsets, dtype=np.int64)
        self._rows = self._map()
        self._width = int(shape[1])

    def _map(self) -> NDArray[Any]:
        try:
            rows = np.load(self._array_file, mmap_mode="r", allow_pickle=False)
        except _DAMAGE as error:
            raise VMRDataError(self._array_file, None, "be a complete npy file", error) from None
        steps = np.diff(self._offsets, prepend=0)
        fits = len(steps) == len(self) + 1 and steps[0] == 0 and (steps >= 0).all() and steps.sum() == len(rows)
        if rows.ndim != 2 or rows.shape != self._shape or not fits:
            raise VMRDataError(self._array_file, None, f"have the shape {self._shape} of its index", rows.shape)
        return cast("NDArray[Any]", rows)

    def _read(self, row: int) -> NDArray[Any]:
        return self._rows[self._offsets[row] : self._offsets[row + 1]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = self._map()


class _Joined:
    """Several stores side by side: widths add, time is cut to the shortest, ids are those all of them have.

    Cutting is for a last clip that one extractor left out; lengths that differ by more are of other clip lengths.
    """

    layout = "several joined"

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self._stores = tuple(stores)
        self._ids = tuple(id for id in stores[0].ids if all(id in store for store in stores[1:]))
        self.source = " + ".join(store.source for store in stores)
        self.clip_seconds = next((s.clip_seconds for s in stores if s.clip_seconds is not None), None)
        if not self._ids:
            raise VMRDataError(self.source, None, "have an id in common", "none")
        for store in stores[1:]:
            if store.clip_seconds not in (None, self.clip_seconds):
                raise VMRDataError(store.source, None, f"have clips of {self.clip_seconds} s", store.clip_seconds)

    @property
    def ids(self) -> tuple[str, ...]:
        return self._ids

    @property
    def width(self) -> int:
        return sum(store.width for store in self._stores)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:
        return all(id in store for store in self._stores)

    def __getitem__(self, id: str) -> Array:
        parts = [store[id] for store in self._stores]
        lengths = [len(part) for part in parts]
        shortest, longest = min(lengths), max(lengths)
        if longest - shortest > max(1, longest // 20):
            rule = "have as many rows in each joined store, within one or 5 %: row k of each must show the same moment"
            raise VMRDataError(self.source, id, rule, " and ".join(map(str, lengths)))
        return np.concatenate([part[:shortest] for part in parts], axis=1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r}, {len(self)} ids)"


class ArrayStore(_Store):
    """Features held in memory, for worlds that are made rather than read.

    Args:
        arrays: ``(T, D)`` or ``(D,)`` for every id.
        source: a name for messages.
        clip_seconds: length of one clip, where it is fixed.

    Raises:
        VMRDataError: on reading an array that is empty or misshapen.

    Example:
        >>> store = ArrayStore({"v1": np.ones((3, 4)), "v2": np.ones(4)})
        >>> store["v2"].shape, "v3" in store, store.width
        ((1, 4), False, 4)
    """

    layout = "memory"

    def __init__(
        self, arrays: Mapping[str, NDArray[Any]], *, source: str = "memory", clip_seconds: float | None = None
    ) -> None:
        super().__init__(source, list(arrays), clip_seconds)
        self._arrays = list(arrays.values())

    def _read(self, row: int) -> NDArray[Any]:
        return self._arrays[row]


def open_features(
    path: PathLike | Sequence[PathLike],
    *,
    kind: Kind = "video",
    key: str | None = None,
    ids: Sequence[str] | None = None,
) -> FeatureStore:
    """Open features in whichever layout they are.

    Known layouts: a folder of ``<id>.npz`` or ``<id>.npy`` (singleton axes allowed; ``qid<qid>.npz`` for
    queries); one HDF5 file with ``f[id]`` or ``f[id]["c3d_features"]``; one packed ``npz`` (``feat_int8`` times
    ``scale``, or ``feat``, with ``offsets`` and ``vids``; or ``feat`` alone, a row for each query); one ``npz`` keyed
    by id or by ``video_<id>`` and ``text_<id>``; a folder made by :func:`pack_features`; and several of these,
    concatenated on features and cut to the shortest, where they differ by no more than one row or 5 %.

    Args:
        path: file or folder; several are joined on the feature axis.
        kind: which half of a file that holds both, and how its files are named.
        key: the array to take from each npz or HDF5 group; by default ``features``, ``last_hidden_state``,
            ``c3d_features``, or the only one. ``"pooler_output"`` gives one word a query.
        ids: the order of the rows of a packed ``feat`` that does not name them (the order of its ``jsonl``).

    Returns:
        A store: ``store[id]`` is float32 ``(T, D)``.

    Raises:
        VMRDataError: if the layout is not recognised or the file breaks it.
        ValueError: if ``kind`` is neither of the two, or ``path`` is an empty sequence.
        OSError: if a file cannot be read.

    Notes:
        Nothing is read but names until an id is asked for, except packed npz files, which are read whole.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     np.save(Path(folder, "v1.npy"), np.ones((4, 3), dtype=np.float32))
        ...     store = open_features(folder)
        ...     list(store.ids), store["v1"].shape
        (['v1'], (4, 3))
    """
    if kind not in ("video", "query"):
        raise ValueError(f"open_features: `kind` must be one of 'video', 'query', got {kind!r}")
    if not isinstance(path, (str, Path)):
        stores = [open_features(one, kind=kind, key=key, ids=ids) for one in path]
        if not stores:
            raise ValueError("open_features: `path` must name at least one file or folder, got none")
        return stores[0] if len(stores) == 1 else _Joined(stores)
    file = Path(path)
    if not file.exists():
        raise VMRDataError(file, None, "exist", "no such file or folder")
    if file.is_dir():
        return _open_folder(file, kind, key)
    suffix = file.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return _HDF5(file, key)
    if suffix == ".npy":
        return _ArrayFiles(file, {_stem_id(file.stem, kind): file}, key)
    if suffix == ".npz":
        return _open_npz(file, kind, key, ids)
    if suffix in _PICKLES:
        raise VMRDataError(file, None, _NO_PICKLE, f"a {suffix} file")
    raise VMRDataError(file, None, "be a folder, .npz, .npy, .h5 or .hdf5", f"a {suffix or 'suffixless'} file")


def _stem_id(stem: str, kind: Kind) -> str:
    match = re.search(r"qid([^_/]+)$", stem) if kind == "query" else None
    return match.group(1) if match else video_id(stem)


def _open_folder(folder: Path, kind: Kind, key: str | None) -> FeatureStore:
    if (folder / "index.json").is_file() and (folder / "features.npy").is_file():
        return _Mapped(folder)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    found = {suffix: [name for name in names if name.endswith(suffix)] for suffix in (".npz", ".npy")}
    if found[".npz"] and found[".npy"]:
        counts = f"{len(found['.npz'])} npz and {len(found['.npy'])} npy"
        raise VMRDataError(folder, None, "hold either npz or npy files", counts)
    chosen = found[".npz"] or found[".npy"]
    if not chosen:
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if pickles:
            raise VMRDataError(folder / pickles[0], None, _NO_PICKLE, f"{len(pickles)} such files")
        some = ", ".join(names[:3]) or "nothing"
        raise VMRDataError(folder, None, "hold <id>.npz or <id>.npy files, or be packed", some)
    files: dict[str, Path] = {}
    for name in chosen:
        id = _stem_id(name[:-4], kind)
        if id in files:
            raise VMRDataError(folder / name, id, "be the only file of its id", files[id].name)
        files[id] = folder / name
    return _ArrayFiles(folder, files, key)


def _open_npz(file: Path, kind: Kind, key: str | None, ids: Sequence[str] | None) -> FeatureStore:
    loaded = _load(file)
    if isinstance(loaded, np.ndarray):
        raise VMRDataError(file, None, "be a zip of arrays", "a single array; rename it to .npy")
    with loaded as archive:
        names = set(archive.files)
        if "feat_int8" in names or "feat" in names:
            return _open_packed_npz(file, archive, ids)
        if key in names or names & {"features", "last_hidden_state"} or (len(names) == 1 and names <= _ARRAY_KEYS):
            return _ArrayFiles(file, {_stem_id(file.stem, kind): file}, key)
        prefix = "video_" if kind == "video" else "text_"
        both = all(name.startswith(("video_", "text_")) for name in names)
        keys = {
            name[len(prefix) if both else 0 :]: name for name in archive.files if not both or name.startswith(prefix)
        }
        if not keys:
            raise VMRDataError(file, None, f"hold keys `{prefix}<id>`", ", ".join(sorted(names)[:3]) or "none")
        return _KeyedNpz(file, keys)


def _open_packed_npz(file: Path, archive: Any, ids: Sequence[str] | None) -> FeatureStore:
    names = set(archive.files)
    scale = None
    if "feat_int8" in names:
        rows = _numbers(archive, file, "feat_int8")
        if "scale" not in names:
            raise VMRDataError(file, None, "hold `scale` beside `feat_int8`", ", ".join(sorted(names)))
        scale = np.asarray(_numbers(archive, file, "scale"), dtype=np.float32)
    else:
        rows = _numbers(archive, file, "feat")
    if rows.ndim != 2:
        raise VMRDataError(file, None, "stack its features as (rows, width)", rows.shape)
    named = next((name for name in ("vids", "qids", "ids") if name in names), None)
    if named is not None:
        written = _entry(archive, file, named)
        if written.ndim != 1 or written.dtype.kind not in "iuUS":
            rule = f"have one name for each array as `{named}`"
            raise VMRDataError(file, None, rule, f"{written.dtype} of shape {written.shape}")
        ids = [str(id) for id in written.astype(str).tolist()]
    if ids is None:
        raise VMRDataError(file, None, "name its rows (`vids`, `qids`) or be opened with `ids`", "neither")
    if "offsets" in names:
        offsets = _numbers(archive, file, "offsets")
    else:
        if len(ids) != len(rows):
            raise VMRDataError(file, None, f"have one row for each of {len(ids)} ids", f"{len(rows)} rows")
        offsets = np.arange(len(rows) + 1)
    clip_seconds = None
    if "clip_seconds" in names:
        seconds = _numbers(archive, file, "clip_seconds")
        if seconds.size != 1:
            raise VMRDataError(file, None, "have one number as `clip_seconds`", f"shape {seconds.shape}")
        clip_seconds = float(seconds.reshape(()))
    return _PackedNpz(file, ids, rows, offsets, scale, clip_seconds)


def _load(file: Path) -> Any:
    """``np.load`` without pickles, its failures as one line."""
    if not file.is_file():
        raise VMRDataError(file, None, "be a file", "a folder" if file.is_dir() else "no such file")
    if file.suffix == ".npz":
        try:
            with zipfile.ZipFile(file):
                pass
        except (*_DAMAGE, OSError) as error:
            _reraise(error)
            with file.open("rb") as stream:
                if stream.read(2) == b"PK":  # numpy would raise too, but leave the file open
                    raise VMRDataError(file, None, "be a complete npz or npy file", error) from None
    try:
        return np.load(file, allow_pickle=False)
    except (*_DAMAGE, OSError) as error:
        _reraise(error)
        if "pickle" in str(error):
            raise VMRDataError(file, None, _NO_PICKLE, "a pickle or a damaged file") from None
        raise VMRDataError(file, None, "be a complete npz or npy file", error) from None


def _reraise(error: Exception) -> None:
    """A disk that fails is no damaged file; a seek to a place that a damaged file names is."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        raise error


def _entry(archive: Any, file: Path, key: str) -> NDArray[Any]:
    try:
        return cast("NDArray[Any]", archive[key])
    except (*_DAMAGE, OSError) as error:
        _reraise(error)
        if "allow_pickle" in str(error):
            raise VMRDataError(file, key, _NO_PICKLE, "an array of objects") from None
        raise VMRDataError(file, key, "be a complete array", error) from None


def _numbers(archive: Any, file: Path, key: str) -> NDArray[Any]:
    array = _entry(archive, file, key)
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
    if len(names) == 1:
        return names[0]
    rule = "hold the key `features` or `last_hidden_state`, or one array (or name it with `key`)"
    raise VMRDataError(file, None, rule, ", ".join(names) or "none")


def pack_features(
    store: FeatureStore,
    path: PathLike,
    *,
    ids: Sequence[str] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    max_clips: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """Copy a store into a folder that is read through a memory map.

    The folder holds ``features.npy`` (all rows) and ``index.json`` (ids, offsets, clip length). It appears under
    its name only when it is complete; whatever fails on the way leaves nothing behind.

    Args:
        store: the features to copy.
        path: the folder to make.
        ids: which ids, in which order; all where left out.
        dtype: how numbers are kept; float16 halves the file and keeps three digits.
        max_clips: average-pool longer arrays to this many rows; the clip length is then not kept.
        overwrite: replace a packed folder that is already there.
        progress: called with (done, all) after every id.

    Returns:
        The packed store, opened.

    Raises:
        VMRDataError: if the folder is there already, widths differ, or an array is not finite in ``dtype``.
        ValueError: if ``dtype`` is neither of the two.
        OSError: if the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
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
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    work.mkdir()
    try:
        offsets, width = [0], 0
        with (work / "rows").open("wb") as raw:
            for done, id in enumerate(names, start=1):
                array = store[id]
                check_finite(array, store.source, id)
                width = width or array.shape[1]
                check_width(array, store.source, id, width)
                if max_clips is not None:
                    array = pool_clips(array, max_clips)
                with np.errstate(over="ignore"):
                    rows = array.astype(dtype)
                if not np.isfinite(rows).all():
                    raise VMRDataError(store.source, id, f"fit {dtype} (use float32)", f"{np.abs(array).max():g}")
                raw.write(rows.tobytes())
                offsets.append(offsets[-1] + len(rows))
                if progress is not None:
                    progress(done, len(names))
        shape = (offsets[-1], width)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        with (work / "features.npy").open("wb") as out, (work / "rows").open("rb") as raw:
            np.lib.format.write_array_header_1_0(out, header)
            shutil.copyfileobj(raw, out, 1 << 20)
        (work / "rows").unlink()
        index = {
            "format": _PACKED_FORMAT,
            "ids": names,
            "offsets": offsets,
            "shape": shape,
            "clip_seconds": None if max_clips is not None else store.clip_seconds,
        }
        (work / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if replaceable:
            old = work.with_name(work.name + ".old")
            os.replace(target, old)
            try:
                os.replace(work, target)
            except OSError:
                os.replace(old, target)
                raise
            shutil.rmtree(old)
        else:
            os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _Mapped(target)
