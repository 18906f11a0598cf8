"""Rows about their mean, and what covariances hold off their diagonals."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.counts import total_weight
from mmda._core.masking import safe_divide


def centred_rows(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (n, d) less their mean, and how many they are, counting weights.

    The mean is taken twice, so that a common offset leaves no trace in float32.
    """
    total = total_weight(rows, weight)

    def mean(x: Tensor) -> Tensor:
        return safe_divide(x.sum(0) if weight is None else weight @ x, total)

    rows = rows - mean(rows.detach())
    return rows - mean(rows), total


def weighted(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Rows times how often they count."""
    return rows if weight is None else rows * weight.unsqueeze(1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """A square matrix with zeros on its diagonal."""
    itself = torch.eye(matrix.shape[0], dtype=torch.bool, device=matrix.device)
    return torch.where(itself, torch.zeros_like(matrix), matrix)
