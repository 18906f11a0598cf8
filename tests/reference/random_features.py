"""The kernel that given frequencies stand for, pair by pair: cos a cos b + sin a sin b = cos(a - b)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def similarity(projections: Array, sigma: float, scales: Sequence[float]) -> Callable[[Array, Array], float]:
    """Mean over the scales of the mean over their projections, which take the scales in turn."""

    def k(a: Array, b: Array) -> float:
        of_scale = []
        for position, scale in enumerate(scales):
            own = projections[position :: len(scales)] / (sigma * math.sqrt(scale))
            of_scale.append(math.fsum(math.cos(float(w @ (a - b))) for w in own) / len(own))
        return math.fsum(of_scale) / len(of_scale)

    return k
