"""Python bindings of the compiled loops over tiles of kernel values in ``_sweeps.c``."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._engine import native
from mmda._engine.native import _at, _wide

if TYPE_CHECKING:
    from mmda._engine import _sweeps
else:
    _sweeps = native._sweeps  # None if :func:`native.serves` returns False

#: Codes of the kernels in ``_sweeps.c``.
KINDS = {"gaussian": 0, "laplacian": 1, "energy": 2, "rational_quadratic": 3}
#: Chains of up to this many doubled rates are one loop; longer ones take one loop per rate.
MOST_DOUBLINGS = 5


class KernelSteps:
    """A kernel as steps. In each, e is a new 2^(rate t) or the square of the previous e, added with given factors."""

    def __init__(self, kind: str, steps: Sequence[tuple[float, float, float]]) -> None:
        #: The steps, as numbers.
        self.numbers = tuple(steps)
        fresh, counts, slopes = zip(*steps)
        chain = kind == "gaussian" and fresh[0] == 1 and not any(fresh[1:]) and len(fresh) <= MOST_DOUBLINGS
        # Not tensors, which would be created on the default device or under an active mode.
        self._numbers = [array("d", numbers) for numbers in (fresh, counts, slopes)]
        addresses = (numbers.buffer_info()[0] for numbers in self._numbers)
        #: Kind, length of a chain of doubled rates (0: none), number of steps, and the addresses of their numbers.
        self.described = (KINDS[kind], len(fresh) if chain else 0, len(fresh), *addresses)


@dataclass(slots=True)
class Near:
    """Near pairs, recomputed from the difference of their rows because inner products are inaccurate for them.

    Attributes:
        share: a pair is near if its squared distance is below this fraction of the sum of its squared lengths.
        inverse: factor of the row differences.
        most: the number of near pairs allowed in a tile.
        rows: the unscaled rows of the tile's rows and columns; None if no pair may be near.
        gradients: gradients of rows and columns, to which these pairs are added.
    """

    share: float
    inverse: float
    most: int
    rows: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    gradients: tuple[Tensor | None, Tensor | None] = (None, None)


@dataclass(slots=True)
class Tile:
    """Arguments for a tile of inner products z_i . z_j.

    Attributes:
        norms: -|z_i|^2 of rows and columns.
        same: rows and columns are the same; pairs i = j are left out.
        factors: factors of values and slopes for pairs within the first group, across, and within the second.
        split: number of rows and columns in the first group; all by default.
        matrix: (rows, columns), multiplies values and slopes.
        value_weights: weights of rows and columns that multiply only the values.
        sum_weights: weights of rows (in the columns' sums) and of columns (in the rows' sums).
        sums: accumulators of the slopes, summed over columns and over rows.
        near: settings for near pairs, if there may be any.
        values: contiguous (rows, columns), to which the kernel's values are written.
    """

    norms: tuple[Tensor, Tensor]
    same: bool
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    split: int | None = None
    matrix: Tensor | None = None
    value_weights: tuple[Tensor | None, Tensor | None] = (None, None)
    sum_weights: tuple[Tensor | None, Tensor | None] = (None, None)
    sums: tuple[Tensor | None, Tensor | None] = (None, None)
    near: Near | None = None
    values: Tensor | None = None


def tile(steps: KernelSteps, products: Tensor, of: Tile) -> float | None:
    """Sum of the kernel's values over a tile; overwrites the products with the kernel's slopes.

    None if there are more near pairs than allowed; the tile is then undefined. The rows of ``products`` (rows, columns)
    must be contiguous.
    """
    rows, columns = products.shape
    return _sweeps.tile(
        _wide(products),
        torch.get_num_threads(),
        steps.described,
        (*of.factors, columns if of.split is None else of.split, of.same),
        (products.data_ptr(), products.stride(0), rows, columns, _at(of.values)),
        _places(of.norms),
        (_at(of.matrix), 0 if of.matrix is None else of.matrix.stride(0)),
        _places(of.value_weights),
        _places(of.sum_weights),
        _places(of.sums),
        (0.0, 0.0, 0, 0, 0, rows * columns, 0, 0) if of.near is None else _near(of.near),
    )


def _near(near: Near) -> tuple[float, ...]:
    width = 0 if near.rows[0] is None else near.rows[0].shape[1]
    return near.share, near.inverse, *_places(near.rows), width, near.most, *_places(near.gradients)


def _places(of: tuple[Tensor | None, Tensor | None]) -> tuple[int, int]:
    return _at(of[0]), _at(of[1])


def prepare(x: Tensor, y: Tensor, centre: Tensor | None, inverse: float) -> tuple[Tensor, Tensor, float]:
    """The rows of both, minus ``centre`` (default: their mean), times ``inverse``: z (n + m, d); -|z_i|^2; the largest
    |z_i|^2.

    The rows must be contiguous.
    """
    total, width = x.shape[0] + y.shape[0], x.shape[1]
    z, norms = x.new_empty(total, width), x.new_empty(total)
    centre = None if centre is None else centre.contiguous()
    largest = _sweeps.prepare(
        _wide(x),
        x.data_ptr(),
        x.shape[0],
        y.data_ptr(),
        y.shape[0],
        width,
        _at(centre),
        inverse,
        z.data_ptr(),
        norms.data_ptr(),
    )
    return z, norms, largest


def finish(gradient: Tensor, sums: Tensor, z: Tensor, weight: Tensor | None, scale: float) -> None:
    """``(gradient - sums z) scale``, times the rows' weight, in place."""
    _sweeps.finish(
        _wide(z), gradient.data_ptr(), sums.data_ptr(), z.data_ptr(), _at(weight), scale, z.shape[0], z.shape[1]
    )
