"""Checks and conversion of single arrays ``(T, D)``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.features.protocol import Array, PathLike
from mmda.vmr.reports import VMRDataError


def as_sequence(array: NDArray[Any], source: PathLike, id: str) -> Array:
    """Convert an array from disk to float32 ``(T, D)``: singleton axes are removed, a vector becomes one row.

    Args:
        array: ``(T, D)``, ``(D,)``, or either with axes of size 1 before the last, as in ``(1, T, 1, 1, D)``.
        source: file for messages.
        id: id for messages.

    Raises:
        VMRDataError: if the array is not numeric, is empty or has more than two other axes.

    Example:
        >>> as_sequence(np.zeros((1, 7, 1, 1, 4)), "a.npy", "a").shape, as_sequence(np.zeros(4), "a.npy", "a").shape
        ((7, 4), (1, 4))
    """
    if array.dtype.kind not in "fiu":
        raise VMRDataError(source, id, "hold numbers", f"an array of {array.dtype}")
    if array.dtype.itemsize == 2 and array.dtype.kind in "iu" and _are_bfloat16(array):
        raise VMRDataError(source, id, "hold numbers", f"the bits of bfloat16 as {array.dtype}: save it as float32")
    if array.size == 0:
        raise VMRDataError(source, id, "hold a non-empty array", f"shape {array.shape}")
    if array.ndim != 2:
        rows = [size for size in array.shape[:-1] if size != 1]
        if array.ndim == 0 or len(rows) > 1:
            raise VMRDataError(source, id, "have shape (time, features)", array.shape)
        array = array.reshape(rows[0] if rows else 1, array.shape[-1])
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def _are_bfloat16(array: NDArray[Any]) -> bool:
    """Whether 16-bit integers are very likely bfloat16: 95 % of the nonzero ones have an exponent of 2^-31 to 2^12.

    No positive integer below 12,288 has one; of uniformly distributed 16-bit integers one in six has.
    """
    bits = array.reshape(-1).view(np.uint16)
    bits = bits[bits != 0]
    exponents = (bits >> 7) & 0xFF
    return bits.size > 0 and float(((exponents >= 96) & (exponents < 140)).mean()) >= 0.95


def check_width(array: Array, source: PathLike, id: str, width: int) -> None:
    """Require an array with ``width`` columns.

    Raises:
        VMRDataError: if it has another width.
    """
    if array.shape[1] != width:
        raise VMRDataError(source, id, f"have width {width} like the others", array.shape[1])


def check_finite(array: Array, source: PathLike, id: str) -> None:
    """Require finite numbers.

    Raises:
        VMRDataError: if not, with the counts of NaN and infinite entries.
    """
    if not np.isfinite(array).all():
        nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        raise VMRDataError(source, id, "hold finite numbers", f"{nan} NaN and {inf} infinite of {array.size}")


def clip_bounds(clips: int, max_clips: int) -> NDArray[np.int64]:
    """Boundaries that split ``clips`` rows evenly into at most ``max_clips`` runs.

    Example:
        >>> clip_bounds(7, 3).tolist(), clip_bounds(2, 3).tolist()
        ([0, 2, 4, 7], [0, 1, 2])
    """
    runs = min(clips, max_clips)
    return np.arange(runs + 1, dtype=np.int64) * clips // runs


def pool_clips(array: Array, max_clips: int) -> Array:
    """Average-pool an array ``(T, D)`` to at most ``max_clips`` rows; shorter ones are unchanged.

    Args:
        array: the features.
        max_clips: maximum number of rows.

    Returns:
        ``(min(T, max_clips), D)`` float32, averaged in float64 over evenly split runs of rows. An array that is short
        enough is returned unchanged.

    Raises:
        ValueError: a number of clips below 1.

    Example:
        >>> pool_clips(np.arange(6, dtype=np.float32).reshape(6, 1), 3).ravel().tolist()
        [0.5, 2.5, 4.5]
    """
    if max_clips < 1:
        raise ValueError(f"pool_clips: `max_clips` must be an integer >= 1, got {max_clips}")
    if len(array) <= max_clips:
        return array
    bounds = clip_bounds(len(array), max_clips)
    sums = np.add.reduceat(array, bounds[:-1], axis=0, dtype=np.float64)
    return (sums / np.diff(bounds)[:, None]).astype(np.float32)
