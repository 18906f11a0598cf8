"""Centred rows and off-diagonal entries, for losses on covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.counts import total_weight
from mmda._core.masking import safe_divide


def centred_rows(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (n, d) minus their weighted mean, and the total weight.

    The mean is taken in two passes, to remove the float32 rounding error of a large common offset.
    """
    total = total_weight(rows, weight)

    def mean(x: Tensor) -> Tensor:
        return safe_divide(x.sum(0) if weight is None else weight @ x, total)

    rows = rows - mean(rows.detach())
    return rows - mean(rows), total


def weighted(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Rows times their weights."""
    return rows if weight is None else rows * weight.unsqueeze(1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """A square matrix with zeros on its diagonal."""
    itself = torch.eye(matrix.shape[0], dtype=torch.bool, device=matrix.device)
    return torch.where(itself, torch.zeros_like(matrix), matrix)
