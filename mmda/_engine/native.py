"""The compiled loops of ``_sweeps.c``: what is done to a tile's numbers one by one, in one pass over them.

PyTorch's operations read and write a tile once each; a kernel of five bandwidths, its slope and their sums are some
twenty. The loops here do the same in registers, for float32 and float64 on a CPU, with PyTorch's own threads. They are
compiled when the package is installed, where there is a compiler; where there is none, or with ``MMDA_COMPILED=0`` in
the environment, :func:`serves` says no and the callers take PyTorch's operations: same numbers, slower.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from mmda._core.transforms import ORDINARY, dispatch_mode_is_active

#: What the loops are compiled for; each is used where the processor has it.
INSTRUCTION_SETS = ("plain", "avx2", "avx512")

try:
    if os.environ.get("MMDA_COMPILED", "1") == "0":
        raise ImportError("switched off")
    from mmda._engine import _sweeps

    if _sweeps.interface != 5:
        raise ImportError("compiled from another version of the source")
except ImportError:
    _sweeps = None  # type: ignore[assignment]


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
        and all(type(t) in ORDINARY and t.device.type == "cpu" and t.dtype == tensors[0].dtype for t in tensors)
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
