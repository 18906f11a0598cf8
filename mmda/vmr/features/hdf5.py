"""A store backed by one HDF5 file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.disk import check_regular, check_size
from mmda.vmr.features.numpy_files import DAMAGE
from mmda.vmr.features.protocol import Kind
from mmda.vmr.features.stores import IndexedStore
from mmda.vmr.reports import VMRDataError

_ALONE = "be readable from this file alone"


class HDF5Store(IndexedStore):
    """One HDF5 file: ``f[id]`` is the array, or a group that contains it (as ``c3d_features`` or as the only array)."""

    layout = "HDF5"

    def __init__(self, file: Path, key: str | None, max_bytes: int, kind: Kind, prefix: str) -> None:
        self._path, self._key, self._max_bytes = file, key, max_bytes
        self._open: tuple[int, Any] | None = None
        try:
            self._names = list(self._handle().keys())
        except VMRDataError:
            raise
        except DAMAGE as error:
            raise VMRDataError(file, None, "be a readable HDF5 file", error) from None
        super().__init__(file, self._names, kind=kind, prefix=prefix)

    def _handle(self) -> Any:
        if self._open is None or self._open[0] != os.getpid():
            try:
                import h5py
            except ImportError:
                rule = 'be read with h5py, which the extra installs: pip install "torch-mmda[vmr]"'
                raise VMRDataError(self._path, None, rule, "no h5py") from None
            check_regular(self._path)
            try:
                self._open = os.getpid(), h5py.File(self._path, "r")
            except OSError as error:
                if isinstance(error, PermissionError):
                    raise
                raise VMRDataError(self._path, None, "be a readable HDF5 file", error) from None
        return self._open[1]

    def _read(self, row: int) -> NDArray[Any]:
        name, file = self._names[row], self._handle()
        try:
            node = self._node(file, name, name)
            if not hasattr(node, "shape"):
                node = self._inside(name, node)
            elif self._key is not None:
                raise VMRDataError(self._path, name, f"hold `{self._key}`", "an array that is not in a group")
            self._check_data_set(name, node)
            return np.asarray(node[()])
        except VMRDataError:
            raise
        except (*DAMAGE, OSError) as error:  # broken link or damaged chunk
            raise VMRDataError(self._path, name, "be readable", error) from None

    def _node(self, group: Any, path: str, id: str, hops: int = 8) -> Any:
        """``group[path]``, following only links within the file; every link is checked first."""
        import h5py

        for part in filter(None, path.split("/")):
            link = group.get(part, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise VMRDataError(self._path, id, _ALONE, f"a link to the file {link.filename}")
            if isinstance(link, h5py.SoftLink):
                if not hops:
                    raise VMRDataError(self._path, id, "be readable", "links that lead on and on")
                start = group.file if link.path.startswith("/") else group
                group = self._node(start, link.path, id, hops - 1)
            else:
                group = group[part]
        return group

    def _check_data_set(self, id: str, node: Any) -> None:
        """Require numbers stored in this file and within the size limit."""
        if node.is_virtual or node.external:
            names = [source.file_name for source in node.virtual_sources()] if node.is_virtual else node.external
            raise VMRDataError(self._path, id, _ALONE, f"numbers that lie in {len(names)} other places")
        if node.dtype.kind not in "fiu":
            raise VMRDataError(self._path, id, "hold numbers", f"an array of {node.dtype}")
        if node.shape is not None:
            check_size(self._path, id, int(node.size) * node.dtype.itemsize, self._max_bytes)

    def _inside(self, name: str, node: Any) -> Any:
        """The array of a group."""
        rule = "be an array, or hold `c3d_features`, `features` or one array (or name it with `key`)"
        inside: list[str] = list(node.keys()) if hasattr(node, "keys") else []
        known = [key for key in (self._key, "c3d_features", "features") if key is not None and key in inside]
        if self._key is not None and self._key not in inside:
            raise VMRDataError(self._path, name, f"hold `{self._key}`", f"the keys {', '.join(inside) or 'none'}")
        if not known and len(inside) != 1:
            raise VMRDataError(self._path, name, rule, f"the keys {', '.join(inside) or 'none'}")
        within = known[0] if known else inside[0]
        array = self._node(node, within, name)
        if not hasattr(array, "shape"):
            raise VMRDataError(self._path, name, rule, f"a group in a group, `{within}`")
        if not known and not self._is_common(within):
            came = f"`{within}`, which no other group holds: is it an id, and `{name}` a part of the data?"
            raise VMRDataError(self._path, name, rule, came)
        return array

    def _is_common(self, within: str) -> bool:
        """Whether another group has an array of this name too, so that it is a kind of feature and not an id."""
        file, others = self._handle(), 0
        for name in self._names[:64]:
            try:
                node = self._node(file, name, name)
            except (VMRDataError, *DAMAGE, OSError):
                continue
            others += hasattr(node, "keys") and within in node
        return others > 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}
