"""Parts of a sweep over tiles of logits: normalised rows, the tile grid, pair masks, and work space."""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch import Tensor

from mmda._engine.logit_pairs import Pairs
from mmda._engine.scaffold import edges

#: Tiles are kept between the two passes if all of them fit in this many bytes.
KEEP_BYTES = 64 * 2**20


class Grid:
    """The partition of rows and columns into tiles.

    Paired rows (the first ``paired`` anchors and candidates) are split in the same way, so that these pairs lie on the
    diagonals of tiles.
    """

    #: Whether, by symmetry, each off-diagonal tile is also used transposed.
    triangle = False

    def __init__(self, n: int, m: int, paired: int, block: int) -> None:
        common = cuts(0, paired, block)
        self.whole = len(common)
        self.rows, self.columns = common + cuts(paired, n, block), common + cuts(paired, m, block)
        self.tiles = [(i, j) for j in range(len(self.columns)) for i in range(len(self.rows))]

    @property
    def largest(self) -> int:
        """Elements of the largest tile."""
        largest: list[int] = [max(place.stop - place.start for place in side) for side in (self.rows, self.columns)]
        return math.prod(largest)

    def in_masks(self, place: slice) -> slice:
        """The slice of the pair masks for a part of the rows or columns."""
        return place

    def partners_on_diagonal(self, i: int, j: int) -> bool:
        """Whether the diagonal of a tile holds the paired rows."""
        return i == j < self.whole

    def itself_on_diagonal(self, i: int, j: int) -> bool:
        """Whether the diagonal of a tile holds each row with itself."""
        return False


class Masks:
    """Pair masks, one tile at a time."""

    def __init__(self, pairs: Pairs, grid: Grid) -> None:
        self.pairs, self.grid, self.several = pairs, grid, not pairs.own
        self.rows, self.columns = ([grid.in_masks(place) for place in side] for side in (grid.rows, grid.columns))

    def positive(self, i: int, j: int) -> Tensor | None:
        """Weights of the positives in a tile, bool or numbers; None: row i is the positive of row i."""
        if not self.several:
            return None
        mask, weight = (t if t is None else t[self.rows[i], self.columns[j]] for t in self.pairs[6:8])
        if weight is None:
            assert mask is not None
            q = mask
        else:
            q = weight.to(self.pairs.a.dtype)
            if mask is not None:
                q = torch.where(mask, q, 0.0)
            for count, place, dim in zip(self.pairs[4:6], (self.rows[i], self.columns[j]), (1, 0)):
                if count is not None:  # ignore the values for rows of weight 0
                    q = torch.where((count[place] > 0).unsqueeze(dim), q, 0.0)
        return q.clone().fill_diagonal_(0) if self.grid.itself_on_diagonal(i, j) else q

    def left_out(self, i: int, j: int, q: Tensor | None) -> Tensor | None:
        """Which pairs of a tile are neither positives nor negatives."""
        if self.pairs.negative_mask is None:
            return None
        out = ~self.pairs.negative_mask[self.rows[i], self.columns[j]]
        return out if q is None else out & ~(q if q.dtype == torch.bool else q > 0)


def cuts(start: int, stop: int, block: int) -> list[slice]:
    """Split a range of rows into blocks."""
    return [slice(*part) for part in edges(start, stop, block)]


class Tiles:
    """Work space for one tile of logits, or for all of them if they should be kept and fit."""

    def __init__(self, like: Tensor, count: int, size: int, keep: bool) -> None:
        self.kept = keep and count * size * like.element_size() <= KEEP_BYTES
        places = count if self.kept else 1
        self._whole = _take_space(like, places * size)
        self._store = self._whole[: places * size].view(places, size)

    def product(self, index: int, rows: Tensor, columns: Tensor) -> Tensor:
        """Inner products of these rows, written to the space of this tile."""
        return torch.mm(rows, columns.T, out=self.view(index, rows.shape[0], columns.shape[0]))

    def view(self, index: int, n: int, m: int) -> Tensor:
        """The space of a tile with its current content."""
        return self._store[index if self.kept else 0][: n * m].view(n, m)

    def leave(self) -> None:
        """Release the space, which must not be used afterwards."""
        _leave_space(self._whole)


#: Work space of the last sweep, reused because touching fresh memory pages costs as much as a pass over the tiles and a
#: training loop needs the same space at every step.
_spare: list[Tensor] = []


def _take_space(like: Tensor, count: int) -> Tensor:
    """A buffer of at least ``count`` elements like ``like``; that of the last sweep if it is large enough."""
    if like.device.type == "cpu" and type(like) is Tensor:
        with suppress(IndexError):  # empty, or taken by another thread
            space = _spare.pop()
            if space.numel() >= count and space.dtype == like.dtype:
                return space
    return like.new_empty(count)


def _leave_space(space: Tensor) -> None:
    """Keep one CPU buffer for the next sweep, unless it is an inference tensor."""
    if space.device.type == "cpu" and type(space) is Tensor and not space.is_inference():
        _spare[:] = [space]
