"""The compiled loops over tiles of logits: the Python face of what ``_sweeps.c`` does to them. See ``native.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._engine import native
from mmda._engine.native import _at, _wide

if TYPE_CHECKING:
    from mmda._engine import _sweeps
else:
    _sweeps = native._sweeps  # None where :func:`native.serves` says no

#: The forms in which logits come, as numbers that ``_sweeps.c`` knows.
KEPT, PLAIN, LOGITS, PRODUCTS = range(4)


def _logits(s: Tensor, scale: float) -> tuple[float, ...]:
    """What every loop over a tile of logits takes first."""
    return _wide(s), torch.get_num_threads(), s.data_ptr(), *s.shape, s.stride(0), scale


def powers(s: Tensor, scale: float, row_sums: Tensor, column_sums: Tensor | None) -> None:
    """2^(scale s) in place of a tile; its sums over columns and rows are added to those of the rows and columns."""
    _sweeps.powers(
        *_logits(s, scale),
        row_sums.data_ptr(),
        _at(column_sums),
    )


def tops(
    s: Tensor, scale: float, row_tops: Tensor, row_sums: Tensor, column_tops: Tensor | None, column_sums: Tensor | None
) -> None:
    """Logits scale s in place of a tile; largest of rows and columns so far, and sums of 2^(logit - largest)."""
    _sweeps.tops(
        *_logits(s, scale),
        row_tops.data_ptr(),
        row_sums.data_ptr(),
        _at(column_tops),
        _at(column_sums),
    )


def shares(
    s: Tensor,
    scale: float,
    form: int,
    own: float,
    row_tops: Tensor | None,
    row_sums: Tensor,
    column_tops: Tensor | None,
    column_sums: Tensor | None,
) -> None:
    """A tile's probabilities by rows plus those by columns, less ``own`` on its diagonal, in its place.

    The sums are reciprocals, times what the probabilities are to be multiplied by. ``form`` says what the tile holds:
    ``KEPT`` what :func:`powers` left, ``LOGITS`` what :func:`tops` left, ``PLAIN`` and ``PRODUCTS`` what either took.
    """
    _sweeps.shares(
        *_logits(s, scale),
        form,
        own,
        _at(row_tops),
        row_sums.data_ptr(),
        _at(column_tops),
        _at(column_sums),
    )


def softmax_at_once(s: Tensor, scale: float, symmetric: bool, slope: float | None) -> float:
    """InfoNCE of all logits scale s (of base 2) at once; in the place of s ``slope`` times its slope by natural logits.

    Without ``slope`` what is left in the place of s means nothing.
    """
    return _sweeps.at_once(
        _wide(s),
        torch.get_num_threads(),
        s.data_ptr(),
        s.shape[0],
        scale,
        symmetric,
        slope is not None,
        1.0 if slope is None else slope,
    )


def pairwise(s: Tensor, scale: float, bias: float, own: bool) -> tuple[float, float]:
    """Slopes of a tile of logits x = scale s + bias of the sigmoid loss in their place; sums of losses and slopes.

    Pairs are wrong and lose log(1 + e^x), but for the diagonal with ``own``: log(1 + e^-x).
    """
    return _sweeps.pairwise(*_logits(s, scale), bias, float(own))
