"""Discrepancies among several domains: every comparison on the rows themselves, repeated where shares must agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def many_domains(rows: Array, index: list[int], scheme: str, between: Callable[[Array, Array], float]) -> float:
    """Mean over the comparisons of the domains that occur; ``between`` must not feel a sample repeated whole."""
    parts = [rows[[i for i, own in enumerate(index) if own == k]] for k in sorted(set(index))]
    if scheme == "pairwise":
        values = [between(a, b) for a, b in itertools.combinations(parts, 2)]
    elif scheme == "one_vs_rest":
        values = [between(part, np.concatenate(parts[:k] + parts[k + 1 :])) for k, part in enumerate(parts)]
    else:
        size = math.lcm(*(len(part) for part in parts))
        mixture = np.concatenate([np.repeat(part, size // len(part), axis=0) for part in parts])
        values = [between(part, mixture) for part in parts]
    return math.fsum(values) / len(values)
