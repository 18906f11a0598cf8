"""A store on one HDF5 file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.features.numpy_files import DAMAGE
from mmda.vmr.features.stores import IndexedStore
from mmda.vmr.reports import VMRDataError


class HDF5Store(IndexedStore):
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
        except (*DAMAGE, OSError) as error:  # a broken link, a damaged chunk
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
