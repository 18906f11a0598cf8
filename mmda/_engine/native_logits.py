"""Python bindings of the compiled loops over tiles of logits in ``_sweeps.c``. See ``native.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._engine import native
from mmda._engine.logit_loops import LOG2_E, Loops, Operations, Sums
from mmda._engine.native import _at, _wide

if TYPE_CHECKING:
    from mmda._engine import _sweeps
else:
    _sweeps = native._sweeps  # None if :func:`native.serves` returns False

#: Codes in ``_sweeps.c`` for the content of a tile.
KEPT, PLAIN, LOGITS, PRODUCTS = range(4)


class CompiledLoops:
    """:class:`mmda._engine.logit_loops.Loops` for tiles that :func:`mmda._engine.native.serves` accepts."""

    block = 1024

    def collect(self, s: Tensor, rows: Sums, columns: Sums | None) -> None:
        if rows.safe:
            _sweeps.powers(*_tile(s), rows.sums.data_ptr(), 0 if columns is None else columns.sums.data_ptr())
        else:
            _sweeps.tops(*_tile(s), *_places(rows), *_places(columns))

    def probabilities(self, s: Tensor, rows: Sums, columns: Sums | None, *, collected: bool) -> None:
        form = (KEPT if collected else PLAIN) if rows.safe else LOGITS
        _sweeps.shares(*_tile(s), form, 0.0, *_places(rows), *_places(columns))

    def at_once(
        self, s: Tensor, scale: Tensor | float, symmetric: bool, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        scale = float(scale)
        kind, threads, n = _wide(s), torch.get_num_threads(), s.shape[0]
        value = _sweeps.at_once(kind, threads, s.data_ptr(), n, scale * LOG2_E, symmetric, gradient, scale)
        return s.new_full((), value), s, 1.0


def loops_for(*tensors: Tensor) -> Loops:
    """The compiled loops if they support these tensors, otherwise PyTorch operations."""
    return CompiledLoops() if native.serves(*tensors) else Operations(tensors[0])


def pairwise(s: Tensor, bias: float, weights: tuple[Tensor, Tensor] | None) -> tuple[float, float]:
    """Sum of w log(1 + e^x), x natural logits plus ``bias``, and sum of its derivatives, which overwrite the tile.

    ``weights`` are weights of rows and columns, with product w; 1 by default.
    """
    of_rows, of_columns = (None, None) if weights is None else weights
    return _sweeps.pairwise(*_tile(s), bias, _at(of_rows), _at(of_columns))


def _tile(s: Tensor) -> tuple[float, ...]:
    """The first arguments of every loop over a tile: dtype, threads, address, shape, and a factor on the logits."""
    return _wide(s), torch.get_num_threads(), s.data_ptr(), *s.shape, s.stride(0), 1.0


def _places(sums: Sums | None) -> tuple[int, int]:
    return (0, 0) if sums is None else (sums.tops.data_ptr(), sums.sums.data_ptr())
