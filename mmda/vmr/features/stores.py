"""The base class of stores, a store of arrays in memory, and the concatenation of several stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.annotations.names import query_id, video_id
from mmda.vmr.features.arrays import as_sequence
from mmda.vmr.features.protocol import Array, FeatureStore, Kind, PathLike
from mmda.vmr.reports import VMRDataError


class IndexedStore:
    """Base of the stores: an index from id to row; subclasses implement ``_read(row)``."""

    layout = "features"

    def __init__(
        self,
        source: PathLike,
        ids: Sequence[str],
        clip_seconds: float | None = None,
        *,
        kind: Kind = "video",
        prefix: str = "",
    ) -> None:
        self.source = str(source)
        self._kind, self._prefix = kind, prefix
        if clip_seconds is not None and not (math.isfinite(clip_seconds) and clip_seconds > 0):
            raise VMRDataError(source, None, "have a `clip_seconds` above 0", clip_seconds)
        self.clip_seconds = clip_seconds
        ids = [video_id(id) for id in ids]
        self._index = {id: row for row, id in enumerate(ids)}
        if not self._index:
            raise VMRDataError(source, None, "hold features of at least one id", "none")
        if len(self._index) != len(ids):
            twice = next(id for row, id in enumerate(ids) if self._index[id] != row)
            raise VMRDataError(source, twice, "occur once", "the same id twice")
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
        """The row of an id, or of another spelling of it."""
        row = self._index.get(id)
        if row is not None:
            return row
        name = query_id(id) if self._kind == "query" else video_id(id)
        row = self._index.get(name)
        if row is not None or not self._prefix:
            return row
        bare = name.removeprefix(self._prefix)
        row = self._index.get(bare)
        return row if row is not None else self._index.get(self._prefix + bare)

    def _file(self, row: int) -> str:
        return self.source

    def _read(self, row: int) -> NDArray[Any]:
        raise NotImplementedError


class ArrayStore(IndexedStore):
    """Features in memory, for example of simulated data.

    Args:
        arrays: ``(T, D)`` or ``(D,)`` per id.
        source: a name for messages.
        clip_seconds: length of one clip, if it is fixed.

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


class JoinedStore:
    """Several stores concatenated on the feature axis, with time cut to the shortest and only common ids.

    The cut allows for a last clip that one extractor omits; larger differences in length are an error.
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
