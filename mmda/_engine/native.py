"""Access to the compiled loops of ``_sweeps.c``, which do all elementwise work on a tile in one pass.

Each PyTorch operation reads and writes a whole tile, and a kernel of five bandwidths with its derivative and sums takes
some twenty of them. The loops do the same in registers, for float32 and float64 on a CPU, with PyTorch's own threads.
They are compiled when the package is installed, if there is a compiler; otherwise, or with ``MMDA_COMPILED=0`` in the
environment, :func:`serves` returns False and callers use PyTorch operations, with the same results but slower.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from mmda._core.transforms import ORDINARY, dispatch_mode_is_active

#: Instruction sets the loops are compiled for, in increasing order.
INSTRUCTION_SETS = ("plain", "avx2", "avx512")

try:
    if os.environ.get("MMDA_COMPILED", "1") == "0":
        raise ImportError("switched off")
    from mmda._engine import _sweeps

    if _sweeps.interface != 6:
        raise ImportError("compiled from another version of the source")
except ImportError:
    _sweeps = None  # type: ignore[assignment]


def serves(*tensors: Tensor) -> bool:
    """Whether the compiled loops are available for these tensors: ordinary CPU tensors of one dtype.

    False if PyTorch uses several threads but its thread pool is not accessible, since a single thread would do all the
    work; and False under a dispatch mode, which must see every operation.
    """
    return (
        _sweeps is not None
        and (_sweeps.threaded == 1 or torch.get_num_threads() == 1)
        and not dispatch_mode_is_active()
        and tensors[0].dtype in (torch.float32, torch.float64)
        and all(type(t) in ORDINARY and t.is_cpu and t.dtype == tensors[0].dtype for t in tensors)
    )


def limit_instructions(best: str = INSTRUCTION_SETS[-1]) -> str | None:
    """Use the best instruction set of the processor up to ``best`` and return it; None without the loops."""
    global _instructions
    _instructions = None if _sweeps is None else INSTRUCTION_SETS[_sweeps.choose(INSTRUCTION_SETS.index(best))]
    return _instructions


_instructions = limit_instructions()


def instruction_set() -> str | None:
    """The instruction set that the compiled inner loops use on this processor.

    The squared MMD, the energy distance and the contrastive losses have loops in C, compiled when the package is
    installed if there is a compiler. They are used for float32 and float64 on a CPU; everything else uses PyTorch
    operations, with the same results.

    Returns:
        ``"avx512"``, ``"avx2"`` or ``"plain"`` (the compiler's default); None if the loops were not compiled or are
        switched off by ``MMDA_COMPILED=0`` in the environment.

    Example:
        >>> instruction_set() in ("avx512", "avx2", "plain", None)
        True
    """
    return _instructions


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _wide(tensor: Tensor) -> int:
    return tensor.dtype == torch.float64
