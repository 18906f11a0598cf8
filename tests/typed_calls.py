"""Calls of the modules as a type checker sees them: mypy reads this file, nothing runs it.

A call gives a tensor and not ``Any``, its arguments are checked, and what satisfies a protocol may stand in its place.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import assert_type

from mmda.layers import FrameQueryAttention, LearnableTemperature
from mmda.losses import (
    CORALLoss,
    Discrepancy,
    DomainAdversarialLoss,
    EntropyLoss,
    HSICLoss,
    InfoNCELoss,
    JointMMDLoss,
    MMDLoss,
    PairLoss,
    SlicedWassersteinLoss,
)


class Mine(MMDLoss):
    """A user's subclass with additional arguments."""

    def __init__(self, width: int) -> None:
        super().__init__(block_size=width)


def tensors(x: Tensor, y: Tensor, mask: Tensor) -> None:
    assert_type(CORALLoss()(x, y, source_mask=mask), Tensor)
    assert_type(Mine(3)(x, y, target_weight=mask), Tensor)
    assert_type(HSICLoss()(x, y, mask=mask), Tensor)
    assert_type(InfoNCELoss()(x, y, candidate_mask=mask), Tensor)
    assert_type(SlicedWassersteinLoss()(x, y, projections=x), Tensor)
    assert_type(JointMMDLoss()([x], [y]), Tensor)
    assert_type(EntropyLoss()(x, mask=mask), Tensor)
    assert_type(LearnableTemperature()(), Tensor)


def refused(x: Tensor) -> None:
    """Each line is an error; one that mypy does not see is an error too (``warn_unused_ignores``)."""
    CORALLoss()(x, x, mask=x)  # type: ignore[call-arg]
    HSICLoss()(x, x, source_mask=x)  # type: ignore[call-arg]
    InfoNCELoss()(x, x, labels=x)  # type: ignore[call-arg]
    SlicedWassersteinLoss()(x)  # type: ignore[call-arg]
    FrameQueryAttention()(3, x)  # type: ignore[arg-type]
    wrong: Discrepancy = HSICLoss()  # type: ignore[assignment]
    del wrong


def interchangeable(adversary: DomainAdversarialLoss) -> tuple[Discrepancy, Discrepancy, PairLoss]:
    return CORALLoss(), adversary, InfoNCELoss()
