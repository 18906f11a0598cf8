"""The protocol of feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


PathLike = str | Path


Kind = Literal["video", "query"]


@runtime_checkable
class FeatureStore(Protocol):
    """A feature store: ``store[id]`` is float32 ``(T, D)``, T >= 1.

    ``source`` is the file or folder for messages, ``ids`` lists all ids, ``width`` is D of the first id, and
    ``clip_seconds`` the length of one clip if the file contains it. An unknown id, or an array that is not ``(T, D)``,
    raises :class:`VMRDataError` with file, id and rule. A store does not check that widths are equal, since not all of
    its ids may be used.
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
