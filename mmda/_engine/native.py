"""The compiled loops of ``_sweeps.c``: what is done to a tile's numbers one by one, in one pass over them.

PyTorch's operations read and write a tile once each; a kernel of five bandwidths, its slope and their sums are some
twenty. The loops here do the same in registers, for float32 and float64 on a CPU, with PyTorch's own threads. They are
compiled when the package is installed, where there is a compiler; where there is none, or with ``MMDA_COMPILED=0`` in
the environment, :func:`serves` says no and the callers take PyTorch's operations: same numbers, slower.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmda._core.transforms import dispatch_mode_is_active

#: What the loops are compiled for; each is used where the processor has it.
INSTRUCTION_SETS = ("plain", "avx2", "avx512")

try:
    if os.environ.get("MMDA_COMPILED", "1") == "0":
        raise ImportError("switched off")
    from mmda._engine import _sweeps

    if _sweeps.interface != 4:
        raise ImportError("compiled from another version of the source")
except ImportError:
    _sweeps = None  # type: ignore[assignment]

#: The kinds of kernels, as numbers that ``_sweeps.c`` knows.
KINDS = {"gaussian": 0, "laplacian": 1, "energy": 2, "rational_quadratic": 3}
#: A chain of so many doubled rates is one loop, longer ones a loop a rate.
MOST_DOUBLINGS = 5
#: Subclasses may hold no numbers of their own.
_PLAIN = (Tensor, torch.nn.Parameter)


def serves(*tensors: Tensor) -> bool:
    """Whether the loops are there and can read these tensors, all of one kind: ordinary ones of a CPU.

    Not where the threads of PyTorch cannot be found and there are several, since one thread would do the work of all;
    and not where a dispatch mode wants to see every operation.
    """
    return (
        _sweeps is not None
        and (_sweeps.threaded == 1 or torch.get_num_threads() == 1)
        and not dispatch_mode_is_active()
        and tensors[0].dtype in (torch.float32, torch.float64)
        and all(type(t) in _PLAIN and t.device.type == "cpu" and t.dtype == tensors[0].dtype for t in tensors)
    )


def limit_instructions(best: str = INSTRUCTION_SETS[-1]) -> str | None:
    """Use the best instructions that the processor has, up to these, and say which; None without the loops."""
    global _instructions
    _instructions = None if _sweeps is None else INSTRUCTION_SETS[_sweeps.choose(INSTRUCTION_SETS.index(best))]
    return _instructions


_instructions = limit_instructions()


def instruction_set() -> str | None:
    """Instructions that the compiled inner loops use on this processor.

    The squared MMD, the energy distance and the contrastive losses have loops in C, compiled when the package is
    installed where there is a compiler. They serve float32 and float64 on a CPU; all else takes PyTorch's operations,
    which give the same numbers.

    Returns:
        ``"avx512"``, ``"avx2"`` or ``"plain"`` (what the compiler takes for granted); None where the loops were not
        compiled, or were switched off by ``MMDA_COMPILED=0`` in the environment of the process.

    Example:
        >>> instruction_set() in ("avx512", "avx2", "plain", None)
        True
    """
    return _instructions


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _wide(tensor: Tensor) -> int:
    return tensor.dtype == torch.float64


class KernelSteps:
    """A kernel as steps: e is 2^(rate t) afresh, or the square of the last; counts e and rate e are added up."""

    def __init__(self, kind: str, steps: Sequence[tuple[float, float, float]]) -> None:
        self.kind = KINDS[kind]
        fresh, counts, slopes = zip(*steps)
        chain = kind == "gaussian" and fresh[0] == 1 and not any(fresh[1:]) and len(fresh) <= MOST_DOUBLINGS
        self.doublings, self.steps = len(fresh) if chain else 0, len(fresh)
        # No tensors: those would be made on the default device, or by whatever mode is active.
        self._numbers = [array("d", numbers) for numbers in (fresh, counts, slopes)]
        self.addresses = tuple(numbers.buffer_info()[0] for numbers in self._numbers)


@dataclass(slots=True)
class Near:
    """Pairs that are taken by the difference of their rows, as products of far rows would cost them their digits.

    Attributes:
        share: pairs whose squared distance is below this share of the sum of their squared lengths.
        inverse: what the differences of the rows are multiplied by.
        most: so many of a tile at the most.
        rows: of the tile's rows and columns, as they were given; none where no pair may be near.
        gradients: to which the part of these pairs is added: of rows and columns.
    """

    share: float
    inverse: float
    most: int
    rows: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    gradients: tuple[Tensor | None, Tensor | None] = (None, None)


@dataclass(slots=True)
class Tile:
    """What belongs to a tile of products z_i . z_j.

    Attributes:
        norms: -|z_i|^2 of the rows, and the same of the columns.
        same: rows and columns are the same; pairs i = j are left out.
        factors: of values and slopes, for pairs within the first group, across, and within the second.
        split: so many of the rows and of the columns are the first group; all by default.
        matrix: (rows, columns), multiplies both.
        value_weights: of rows and columns, multiply the values alone.
        sum_weights: of rows (in the columns' sums) and columns (in the rows' sums).
        sums: to which sums of slopes are added: over the columns, for each row; and over the rows.
        near: where pairs may lie near each other.
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


def tile(steps: KernelSteps, products: Tensor, of: Tile) -> float | None:
    """Sum of the kernel's values over a tile; the kernel's slopes in the place of the products.

    None where more pairs are near each other than there may be; the tile is of no use then. The rows of ``products``
    (rows, columns) must be contiguous.
    """
    rows, columns = products.shape
    near = of.near
    return _sweeps.tile(
        _wide(products),
        torch.get_num_threads(),
        steps.kind,
        steps.doublings,
        steps.steps,
        *steps.addresses,
        *of.factors,
        columns if of.split is None else of.split,
        of.same,
        rows,
        columns,
        products.data_ptr(),
        products.stride(0),
        *map(_at, of.norms),
        _at(of.matrix),
        0 if of.matrix is None else of.matrix.stride(0),
        *map(_at, of.value_weights),
        *map(_at, of.sum_weights),
        *map(_at, of.sums),
        *((0.0, 0.0, 0, 0, 0, rows * columns, 0, 0) if near is None else _near(near)),
    )


def _near(near: Near) -> tuple[float, ...]:
    width = 0 if near.rows[0] is None else near.rows[0].shape[1]
    return near.share, near.inverse, *map(_at, near.rows), width, near.most, *map(_at, near.gradients)


def prepare(x: Tensor, y: Tensor, centre: Tensor | None, inverse: float) -> tuple[Tensor, Tensor, float]:
    """The rows of both, less ``centre`` (their mean) and times ``inverse``: z (n + m, d); -|z_i|^2; the largest.

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
