"""Detect the layout of a file or folder and open it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmda.vmr.disk import MAX_BYTES, check_regular
from mmda.vmr.features.hdf5 import HDF5Store
from mmda.vmr.features.numpy_files import NO_PICKLE, ArrayFiles, open_npz, stem_id
from mmda.vmr.features.packed import MappedStore
from mmda.vmr.features.protocol import FeatureStore, Kind, PathLike
from mmda.vmr.features.stores import JoinedStore
from mmda.vmr.reports import VMRDataError

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")


def open_features(
    path: PathLike | Sequence[PathLike],
    *,
    kind: Kind = "video",
    key: str | None = None,
    ids: Sequence[str] | None = None,
    prefix: str = "",
    max_bytes: int = MAX_BYTES,
) -> FeatureStore:
    """Open features in any supported layout.

    Supported layouts: a folder of ``<id>.npz`` or ``<id>.npy`` (singleton axes allowed; ``qid<qid>.npz`` for queries);
    one HDF5 file with ``f[id]`` or ``f[id]["c3d_features"]``; one packed ``npz`` (``feat_int8`` times ``scale``, or
    ``feat``, with ``offsets`` and ``vids``; or only ``feat``, one row per query); one ``npz`` keyed by id or by
    ``video_<id>`` and ``text_<id>``; a folder made by :func:`pack_features`; and several of these, concatenated on the
    feature axis and cut to the shortest, if lengths differ by at most one row or 5 %.

    Args:
        path: file or folder; several are concatenated on the feature axis.
        kind: which part of a file that contains both, and how files are named.
        key: the array to use from each npz or HDF5 group; by default ``features``, ``last_hidden_state``,
            ``c3d_features``, or the only one. ``"pooler_output"`` gives one word per query.
        ids: ids of the rows of a packed ``feat`` without names (the order of its ``jsonl``).
        prefix: prefix of ids that only this file or only the annotations use: with ``"v_"`` the ids ``v_abc`` and
            ``abc`` are the same video. Exact matches take precedence.
        max_bytes: memory limit of one array (or the size of its file, if larger), because a small compressed file can
            unpack to any size.

    Returns:
        A store: ``store[id]`` is float32 ``(T, D)``.

    Raises:
        VMRDataError: if the layout is not recognised or the file is invalid.
        ValueError: if ``kind`` is invalid, or ``path`` is an empty sequence.
        OSError: if a file cannot be read.

    Notes:
        Video ids have no file suffix (``AO8RW.mp4.npz`` holds ``AO8RW``), query ids no ``qid`` prefix; Unicode is
        normalised. If a text ``npz`` contains an ``attention_mask``, only the marked rows are kept.

        Only regular files are opened. In HDF5 files, external links, external storage and virtual data sets, which
        refer to other files, are rejected.

        Arrays are read on demand, except for packed npz files, which are read completely.

    Example:
        >>> import numpy as np
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
        stores = [open_features(one, kind=kind, key=key, ids=ids, prefix=prefix, max_bytes=max_bytes) for one in path]
        if not stores:
            raise ValueError("open_features: `path` must name at least one file or folder, got none")
        return stores[0] if len(stores) == 1 else JoinedStore(stores)
    file = Path(path)
    if not file.exists():
        raise VMRDataError(file, None, "exist", "no such file or folder")
    if file.is_dir():
        return _open_folder(file, kind, key, max_bytes, prefix)
    check_regular(file)
    suffix = file.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return HDF5Store(file, key, max_bytes, kind, prefix)
    if suffix == ".npy":
        return ArrayFiles(file, {stem_id(file.stem, kind): file}, key, max_bytes, kind, prefix)
    if suffix == ".npz":
        return open_npz(file, kind, key, ids, max_bytes, prefix)
    if suffix in PICKLES:
        raise VMRDataError(file, None, NO_PICKLE, f"a {suffix} file")
    raise VMRDataError(file, None, "be a folder, .npz, .npy, .h5 or .hdf5", f"a {suffix or 'suffixless'} file")


def _open_folder(folder: Path, kind: Kind, key: str | None, max_bytes: int, prefix: str) -> FeatureStore:
    if (folder / "index.json").is_file() and (folder / "features.npy").is_file():
        return MappedStore(folder, kind, prefix)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    found = {suffix: [name for name in names if name.endswith(suffix)] for suffix in (".npz", ".npy")}
    if found[".npz"] and found[".npy"]:
        counts = f"{len(found['.npz'])} npz and {len(found['.npy'])} npy"
        raise VMRDataError(folder, None, "hold either npz or npy files", counts)
    chosen = found[".npz"] or found[".npy"]
    if not chosen:
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            raise VMRDataError(folder / pickles[0], None, NO_PICKLE, f"{len(pickles)} such files")
        some = ", ".join(names[:3]) or "nothing"
        raise VMRDataError(folder, None, "hold <id>.npz or <id>.npy files, or be packed", some)
    files: dict[str, Path] = {}
    for name in chosen:
        id = stem_id(name[:-4], kind)
        if id in files:
            raise VMRDataError(folder / name, id, "be the only file of its id", files[id].name)
        files[id] = folder / name
    return ArrayFiles(folder, files, key, max_bytes, kind, prefix)
