"""Checks of a module's input against its weights."""

from __future__ import annotations

from torch import Tensor

from mmda._core.checks import fail


def check_at_weights(caller: str, argument: str, value: Tensor, weight: Tensor) -> None:
    """Require a tensor on the device of a module's weights."""
    if value.device != weight.device:
        fail(caller, argument, f"be on the device of the module ({weight.device})", value.device)


def check_no_float8(caller: str, argument: str, value: Tensor) -> None:
    """Require a floating-point type that PyTorch computes with."""
    if value.dtype.itemsize == 1:
        raise TypeError(f"{caller}: `{argument}` must have at least 16 bits a number, got {value.dtype}")
