"""One memory-mapped array for all ids: writing it and reading it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.disk import check_regular
from mmda.vmr.features.arrays import check_finite, check_width, pool_clips
from mmda.vmr.features.numpy_files import DAMAGE
from mmda.vmr.features.protocol import FeatureStore, Kind, PathLike
from mmda.vmr.features.stores import IndexedStore
from mmda.vmr.reports import VMRDataError

_PACKED_FORMAT = "mmda-packed-features"


class MappedStore(IndexedStore):
    """The packed folder that :func:`pack_features` writes, read through a memory map."""

    layout = "packed folder (memory-mapped)"

    def __init__(self, folder: Path, kind: Kind = "video", prefix: str = "") -> None:
        index_file, file = folder / "index.json", folder / "features.npy"
        try:
            check_regular(index_file)
            index = json.loads(index_file.read_text(encoding="utf-8"))
            ids, offsets = [str(id) for id in index["ids"]], [int(offset) for offset in index["offsets"]]
            clip_seconds = None if index["clip_seconds"] is None else float(index["clip_seconds"])
            shape = tuple(index["shape"])
            self._offsets = np.asarray(offsets, dtype=np.int64)
        except VMRDataError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise VMRDataError(index_file, None, "be the index of packed features", repr(error)) from None
        super().__init__(folder, ids, clip_seconds, kind=kind, prefix=prefix)
        self._array_file, self._shape = file, shape
        self._rows = self._map()
        self._width = int(shape[1])

    def _map(self) -> NDArray[Any]:
        try:
            rows = np.load(self._array_file, mmap_mode="r", allow_pickle=False)
        except DAMAGE as error:
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
    return MappedStore(target)
