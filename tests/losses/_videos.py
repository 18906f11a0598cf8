"""Videos of different lengths with their queries, as lists and as padded tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

FILLERS = (math.nan, math.inf, -math.inf, 1e300)


@dataclasses.dataclass
class Videos:
    """Frames of each video, (its length, d), and the query of each, (n, d)."""

    frames: list[Array]
    queries: Array

    def __len__(self) -> int:
        return len(self.frames)

    def padded(self, filler: float = 0.0, extra: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """``frames`` (n, t, d), ``queries`` (n, d), ``frame_mask`` (n, t); padding holds the filler."""
        longest = max(len(rows) for rows in self.frames) + extra
        out = np.full((len(self), longest, self.queries.shape[1]), filler)
        mask = np.zeros((len(self), longest), dtype=bool)
        for row, rows in enumerate(self.frames):
            out[row, : len(rows)] = rows
            mask[row, : len(rows)] = True
        return torch.from_numpy(out), torch.from_numpy(self.queries.copy()), torch.from_numpy(mask)

    def pick(self, index: Sequence[int]) -> Videos:
        """The pairs at these indices, in this order; an index may repeat."""
        return Videos([self.frames[i] for i in index], self.queries[list(index)])


def draw_videos(lengths: Sequence[int] = (4, 2, 7, 1), d: int = 3, seed: int = 0) -> Videos:
    """Normally distributed frames, and queries close to one frame of their video."""
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=(length, d)) for length in lengths]
    queries = np.stack([rows[len(rows) // 2] for rows in frames]) + 0.7 * rng.normal(size=(len(lengths), d))
    return Videos(frames, queries)


def repeated(counts: Sequence[int]) -> list[int]:
    """Row i repeated ``counts[i]`` times."""
    return [i for i, count in enumerate(counts) for _ in range(count)]


def negatives_of(index: Sequence[int], allowed: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """The negative mask for repeated pairs: that of the pairs, without copies of the same pair."""
    rows = np.array(index)
    different = rows[:, None] != rows[None]
    return different if allowed is None else different & allowed[np.ix_(rows, rows)]
