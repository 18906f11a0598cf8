"""Parts of a sweep over tiles of logits: normalised rows, the tile grid, pair masks, and work space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate

import torch
from torch import Tensor

from mmda._engine.logit_pairs import Pairs
from mmda._engine.scaffold import edges

#: Elements of a tile that PyTorch operations process at a time.
STRIP = 2**17
#: Tiles are kept between the two passes if all of them fit in this many bytes.
KEEP_BYTES = 64 * 2**20


class Rows:
    """Rows as compared: as given, or scaled to length one."""

    def __init__(self, given: Tensor, unit: bool) -> None:
        self.rows, self.inverse = given, given[:0]
        self.unit = unit
        if not unit:
            return
        length = torch.linalg.vector_norm(given, dim=1, keepdim=True)
        if given.device.type == "cpu" and bool(((length > 1e-15) & (length < 1e15)).all()):
            self.rows = given / length
            self.inverse = length.reciprocal_()
            return
        # As in :func:`normalized_rows`, for rows that are zero or whose squares may overflow or underflow; also on
        # accelerators, where inspecting the rows would synchronise.
        top = torch.maximum(given.amax(1, keepdim=True), -given.amin(1, keepdim=True))
        top.masked_fill_(top == 0, 1)
        self.rows = given / top
        length = torch.linalg.vector_norm(self.rows, dim=1, keepdim=True).clamp_min_(1)  # 0 for zero rows
        self.rows.div_(length)
        self.inverse = length.mul_(top).reciprocal_()

    def gradient(self, h: Tensor, scale: Tensor | float, tempered: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients for ``scale`` and for the given rows (in place of h), from those for the compared rows over
        ``scale``."""
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
    """The partition of rows and columns into tiles.

    Paired rows (the first ``paired`` anchors and candidates) are split in the same way, so that these pairs lie on the
    diagonals of tiles.
    """

    #: Whether, by symmetry, each off-diagonal tile is also used transposed.
    triangle = False

    def __init__(self, n: int, m: int, paired: int, block: int) -> None:
        common = sizes(paired, block)
        self.whole = len(common)
        self.rows, self.columns = common + sizes(n - paired, block), common + sizes(m - paired, block)
        self.tiles = [(i, j) for j in range(len(self.columns)) for i in range(len(self.rows))]

    @property
    def largest(self) -> int:
        """Elements of the largest tile."""
        return max(self.rows) * max(self.columns)

    def in_masks(self, parts: list[int]) -> list[slice]:
        """The slices of the pair masks for these parts of the rows or columns."""
        starts = accumulate(parts, initial=0)
        return [slice(start, start + size) for start, size in zip(starts, parts)]

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
        self.rows, self.columns = grid.in_masks(grid.rows), grid.in_masks(grid.columns)

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


def sizes(n: int, block: int) -> list[int]:
    """The sizes of the blocks that n rows are split into."""
    return [stop - start for start, stop in edges(0, n, block)]


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


class Strips:
    """Blocks of a tile's rows small enough for the caches."""

    def __init__(self, like: Tensor) -> None:
        self.on_cpu = like.device.type == "cpu"
        self.space = like.new_empty(0)

    def of(self, tile: Tensor, *of_rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over some rows of a tile, scratch space of their shape, and the matching parts of ``of_rows``."""
        rows = max(1, STRIP // tile.shape[1]) if self.on_cpu else tile.shape[0]
        if self.space.numel() < min(rows, tile.shape[0]) * tile.shape[1]:
            self.space = tile.new_empty(min(rows, tile.shape[0]) * tile.shape[1])
        groups: Iterable[tuple[Tensor, ...]] = zip(*(t.split(rows) for t in (tile, *of_rows)))  # type: ignore[no-untyped-call]
        for piece, *values in groups:
            yield piece, self.space[: piece.numel()].view(piece.shape), *values


def parts(x: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    """Split rows into blocks of these sizes."""
    split: Sequence[Tensor] = x.split(sizes)  # type: ignore[no-untyped-call]
    return split
