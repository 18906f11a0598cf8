"""What every feature store offers, whatever the layout on disk."""

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
