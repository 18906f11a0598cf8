"""Access to the Triton programs of ``fused_tiles.py``: kernel sums on an NVIDIA GPU without pair matrices.

PyTorch operations on a GPU write every tile to the device's memory and read it again, some twenty times for a kernel of
five bandwidths. The programs keep it on the chip. They serve float32 rows where Triton is installed, as it is with
PyTorch for CUDA; otherwise, or with ``MMDA_FUSED=0`` in the environment, :func:`serves` returns False and callers use
PyTorch operations, with the same results but slower.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.transforms import ORDINARY, dispatch_mode_is_active
from mmda._engine.native_kernels import KernelSteps

#: Programs per multiprocessor to aim at: with few rows, the columns are split among several.
_PROGRAMS = 2
#: Of products: three products of TensorFloat-32, about as accurate as one of float32 and several times faster.
_PRECISION = "tf32x3"
#: The widest rows, and the largest rank of C per pair of samples. Beyond, products of tiles in memory are faster.
MOST_WIDTH, MOST_RANKS = 256, 64


def serves(*tensors: Tensor) -> bool:
    """Whether the programs are available for these tensors: ordinary float32 tensors on one NVIDIA GPU."""
    first = tensors[0]
    return (
        first.is_cuda
        and all(type(t) in ORDINARY and t.dtype == torch.float32 and t.device == first.device for t in tensors)
        and not dispatch_mode_is_active()
        and device_serves(first.device.index)
    )


@lru_cache(maxsize=64)
def device_serves(index: int) -> bool:
    if os.environ.get("MMDA_FUSED", "1") == "0" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(index) >= (8, 0)  # tensor cores with TensorFloat-32


@lru_cache(maxsize=64)
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


class RowSums(NamedTuple):
    """Sums over the other rows, for each row of the pooled sample.

    Attributes:
        values: (2, rows) float64, kernel values over the rows of the first and of the second sample.
        slopes: (rows,), slopes.
        products: (rows, d), slopes times rows.
        near: () int64, the number of near pairs; None if not asked for.
    """

    values: Tensor
    slopes: Tensor | None
    products: Tensor | None
    near: Tensor | None


class Blocks(NamedTuple):
    """Rows and columns of a tile, columns of the gradient, warps and pipeline stages of a program."""

    rows: int
    columns: int
    width: int
    warps: int
    stages: int


def blocks_for(d: int) -> Blocks:
    """The fastest blocks measured for rows of this width, on an H100."""
    width = max(16, 1 << (d - 1).bit_length())
    if width <= 16:
        return Blocks(64, 64, width, 4, 2)
    return Blocks(128, 32, width, 4, 2) if width <= 64 else Blocks(128, 32, min(width, 128), 8, 2)


def row_sums(
    steps: KernelSteps,
    z: Tensor,
    norms: Tensor,
    n: int,
    *,
    factors: tuple[float, float, float],
    left: Tensor | None,
    right: Tensor | None,
    share: float | None,
    gradient: bool,
    blocks: Blocks | None = None,
    splits: int | None = None,
) -> RowSums:
    """Sums of kernel values and slopes of every row i over the rows j != i, in one pass.

    Args:
        steps: the kernel.
        z: rows (total, d), centred and scaled.
        norms: -|z_i|^2.
        n: the number of rows of the first sample.
        factors: of slopes within the first sample, across, and within the second, if there is no ``left``.
        left, right: as in :class:`mmda._engine.kernel_sweep.Samples`. With one weight a row, values are multiplied by
            ``right`` alone; with rank q, by C.
        share: pairs below this fraction of the sum of their squared lengths are counted as near; None: not counted.
        gradient: whether to compute slopes. Without them, only pairs j > i are added.
        blocks, splits: of the work; chosen by width and device by default.
    """
    from mmda._engine import fused_tiles

    z, (total, d) = z.contiguous(), z.shape
    rank = 0 if right is None else 1 if right.ndim == 1 else right.shape[1]
    size = blocks_for(d) if blocks is None else blocks
    row_blocks, parts = -(-total // size.rows), -(-d // size.width) if gradient else 1
    if splits is None:
        splits = max(1, min(_PROGRAMS * _multiprocessors(z.device.index) // (row_blocks * parts), 16))
    chunk = -(-total // splits)
    splits = -(-total // chunk)
    values = z.new_empty(splits, 2, total, dtype=torch.float64)
    slopes = z.new_empty(splits, total) if gradient else z
    products = z.new_empty(splits, total, d) if gradient else z
    near = z if share is None else z.new_empty(splits, total, dtype=torch.int32)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        fused_tiles.kernel_rows[row_blocks, splits, parts](
            z,
            norms,
            z if left is None else left.contiguous(),
            z if right is None else right.contiguous(),
            values,
            slopes,
            products,
            near,
            n,
            total,
            d,
            chunk,
            0.0 if share is None else share,
            *factors,
            rank,
            KIND=steps.described[0],
            STEPS=steps.numbers,
            RANK=rank if rank < 2 else max(16, 1 << (rank - 1).bit_length()),
            GRADIENT=gradient,
            LOOK=share is not None,
            BM=size.rows,
            BN=size.columns,
            BD=size.width,
            WHOLE=d <= size.width,
            PRECISION=_PRECISION,
            num_warps=size.warps,
            num_stages=size.stages,
        )
    return RowSums(
        values.sum(0),
        slopes.sum(0) if gradient else None,
        (products[0] if splits == 1 else products.sum(0)) if gradient else None,
        None if share is None else near.sum(),
    )
