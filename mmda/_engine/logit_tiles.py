"""What a sweep over tiles of logits is made of: rows, how they are cut, masks of pairs, and space for the tiles."""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch import Tensor

from mmda._core.unit_rows import divided_rows
from mmda._engine.logit_pairs import Pairs
from mmda._engine.scaffold import edges

#: Tiles are kept between the two passes while all of them fit.
KEEP_BYTES = 64 * 2**20


class Rows:
    """Rows as they are compared: as given, or divided by their length."""

    def __init__(self, given: Tensor, unit: bool) -> None:
        self.unit = unit
        self.rows, self.inverse = divided_rows(given) if unit else (given, given[:0])

    def gradient(self, h: Tensor, scale: Tensor | float, tempered: bool) -> tuple[Tensor | None, Tensor]:
        """From the slopes by the rows over ``scale``: the slope by ``scale``, and by the given rows (in place of h)."""
        bare = isinstance(scale, float) and scale == 1
        if not (self.unit or tempered):
            return None, h if bare else h.mul_(scale)
        along = torch.linalg.vecdot(h, self.rows)
        slope = along.sum(dtype=torch.float64) if tempered else None
        if not self.unit:
            return slope, h if bare else h.mul_(scale)
        h.addcmul_(self.rows, along.unsqueeze(1), value=-1)
        return slope, h.mul_(self.inverse if bare else self.inverse * scale)


class Grid:
    """How rows and columns are cut, and which tiles are looked at.

    Rows that belong together (the first ``paired`` of both sides) are cut alike, so that these pairs lie on diagonals
    of tiles.
    """

    #: Whether each tile off the diagonal serves its columns as rows, too.
    triangle = False

    def __init__(self, n: int, m: int, paired: int, block: int) -> None:
        common = cuts(0, paired, block)
        self.whole = len(common)
        self.rows, self.columns = common + cuts(paired, n, block), common + cuts(paired, m, block)
        self.tiles = [(i, j) for j in range(len(self.columns)) for i in range(len(self.rows))]

    @property
    def largest(self) -> int:
        """Numbers in the largest tile."""
        largest: list[int] = [max(place.stop - place.start for place in side) for side in (self.rows, self.columns)]
        return math.prod(largest)

    def in_masks(self, place: slice) -> slice:
        """Where a part of the rows, or columns, lies in the masks of pairs."""
        return place

    def partners_on_diagonal(self, i: int, j: int) -> bool:
        """Whether the diagonal of a tile holds rows that belong together."""
        return i == j < self.whole

    def itself_on_diagonal(self, i: int, j: int) -> bool:
        """Whether the diagonal of a tile holds each row with itself."""
        return False


class Masks:
    """Masks of pairs, a tile at a time."""

    def __init__(self, pairs: Pairs, grid: Grid) -> None:
        self.pairs, self.grid, self.several = pairs, grid, not pairs.own
        self.rows, self.columns = ([grid.in_masks(place) for place in side] for side in (grid.rows, grid.columns))

    def positive(self, i: int, j: int) -> Tensor | None:
        """How much each column of a tile is a positive of each row, bool or numbers; None: row i of row i."""
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
                if count is not None:  # what absent rows hold is not looked at
                    q = torch.where((count[place] > 0).unsqueeze(dim), q, 0.0)
        return q.clone().fill_diagonal_(0) if self.grid.itself_on_diagonal(i, j) else q

    def left_out(self, i: int, j: int, q: Tensor | None) -> Tensor | None:
        """Which pairs of a tile are neither positives nor negatives."""
        if self.pairs.negative_mask is None:
            return None
        out = ~self.pairs.negative_mask[self.rows[i], self.columns[j]]
        return out if q is None else out & ~(q if q.dtype == torch.bool else q > 0)


def cuts(start: int, stop: int, block: int) -> list[slice]:
    """The parts of a range of rows."""
    return [slice(*part) for part in edges(start, stop, block)]


class Tiles:
    """Work space for tiles of logits: one, or all of them where they are to be kept and fit."""

    def __init__(self, like: Tensor, count: int, size: int, keep: bool) -> None:
        self.kept = keep and count * size * like.element_size() <= KEEP_BYTES
        places = count if self.kept else 1
        self._whole = _take_space(like, places * size)
        self._store = self._whole[: places * size].view(places, size)

    def product(self, index: int, rows: Tensor, columns: Tensor) -> Tensor:
        """Products of these rows, in the space of this tile."""
        return torch.mm(rows, columns.T, out=self.view(index, rows.shape[0], columns.shape[0]))

    def view(self, index: int, n: int, m: int) -> Tensor:
        """The space of a tile, and what was left there."""
        return self._store[index if self.kept else 0][: n * m].view(n, m)

    def leave(self) -> None:
        """Give the space back; it must not be used afterwards."""
        _leave_space(self._whole)


#: Space of the last sweep. Fresh pages cost as much as the passes over the tiles in them, and a training loop asks for
#: the same again at every step.
_spare: list[Tensor] = []


def _take_space(like: Tensor, count: int) -> Tensor:
    """At least so many numbers of the kind of ``like``: those that the last sweep left, where they are enough."""
    if like.device.type == "cpu" and type(like) is Tensor:
        with suppress(IndexError):  # nothing left, or another thread took it
            space = _spare.pop()
            if space.numel() >= count and space.dtype == like.dtype:
                return space
    return like.new_empty(count)


def _leave_space(space: Tensor) -> None:
    """Keep a CPU's space for the next sweep; one, and none that only ``torch.inference_mode`` may write."""
    if space.device.type == "cpu" and type(space) is Tensor and not space.is_inference():
        _spare[:] = [space]
