"""Argument checks with a common message format.

Every message names the caller, the argument, the rule and the value passed::

    mmd_loss: `target` must have shape (samples, features), got (4, 8, 2)

The checks (but for :func:`check_finite`) read only shapes, dtypes and Python numbers, never the values of a tensor, so
they need no device synchronisation and do not break a compiled graph.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor


def fail(caller: str, argument: str, rule: str, came: object) -> NoReturn:
    """Raise ``ValueError`` in the common format."""
    raise ValueError(f"{caller}: `{argument}` must {rule}, got {came}")


def fail_type(caller: str, argument: str, rule: str, came: object) -> NoReturn:
    """Raise ``TypeError`` in the common format, with the type of ``came``, the value passed."""
    raise TypeError(f"{caller}: `{argument}` must {rule}, got {type(came).__name__}")


def shape_text(tensor: Tensor) -> str:
    """``(4, 8, 2)`` for a tensor of that shape."""
    return str(tuple(tensor.shape))


def check_tensor(caller: str, argument: str, value: object) -> None:
    """Require a dense tensor: not sparse, nested, quantized or in the layout of another library."""
    if not isinstance(value, Tensor):
        texts = isinstance(value, (list, tuple)) and any(isinstance(one, str) for one in value)
        rule = "be a torch.Tensor" + (" (of texts: `mmda.losses.identity_numbers`)" if texts else "")
        fail_type(caller, argument, rule, value)
    if value.layout is not torch.strided or value.is_nested:
        came = "a nested tensor" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{caller}: `{argument}` must be a dense tensor, got {came}")
    if value.is_quantized:
        raise TypeError(f"{caller}: `{argument}` must not be quantized, got {value.dtype}")


def check_floating(caller: str, argument: str, value: Tensor) -> None:
    """Require a real floating-point tensor."""
    check_tensor(caller, argument, value)
    if not value.is_floating_point():
        raise TypeError(f"{caller}: `{argument}` must be a floating-point tensor, got {value.dtype}")


def check_features(
    caller: str, argument: str, value: Tensor, *, axes: str = "(samples, features)", ndim: int = 2
) -> None:
    """Require a floating-point tensor with ``ndim`` axes, none of them empty."""
    check_floating(caller, argument, value)
    if value.ndim != ndim:
        fail(caller, argument, f"have shape {axes}", shape_text(value))
    if 0 in value.shape:
        fail(caller, argument, f"have shape {axes} with no empty axis", shape_text(value))


def check_values(caller: str, argument: str, value: Tensor) -> None:
    """Require a tensor with values, for functions that read them."""
    if value.device.type == "meta":
        fail(caller, argument, "hold values", "a tensor on the meta device")


def check_finite(caller: str, argument: str, value: Tensor) -> None:
    """Require finite values, which are read."""
    check_values(caller, argument, value)
    if not bool(torch.isfinite(value.double()).all()):
        fail(caller, argument, "be finite", "NaN or infinity")


def check_mask(caller: str, argument: str, mask: Tensor, shape: Sequence[int], *, device: torch.device) -> None:
    """Require a bool tensor of exactly this shape (True = keep), on this device."""
    check_tensor(caller, argument, mask)
    if str(mask.dtype) != "torch.bool":
        raise TypeError(f"{caller}: `{argument}` must be a bool tensor (True = keep), got {mask.dtype}")
    _check_place(caller, argument, mask, shape, device)


def check_weight(caller: str, argument: str, weight: Tensor, shape: Sequence[int], *, device: torch.device) -> None:
    """Require a real tensor of exactly this shape, on this device.

    Its values must be >= 0, which is not checked.
    """
    check_tensor(caller, argument, weight)
    if weight.is_complex() or str(weight.dtype) == "torch.bool":
        raise TypeError(f"{caller}: `{argument}` must be a real tensor, got {weight.dtype}")
    _check_place(caller, argument, weight, shape, device)


def check_integers(caller: str, argument: str, value: Tensor, shape: Sequence[int], *, device: torch.device) -> None:
    """Require an integer tensor (labels, indices) of exactly this shape, on this device."""
    check_tensor(caller, argument, value)
    if value.is_floating_point() or value.is_complex() or str(value.dtype) == "torch.bool":
        raise TypeError(f"{caller}: `{argument}` must be an integer tensor, got {value.dtype}")
    _check_place(caller, argument, value, shape, device)


def _check_place(caller: str, argument: str, value: Tensor, shape: Sequence[int], device: torch.device) -> None:
    if tuple(value.shape) != tuple(shape):
        fail(caller, argument, f"have shape {tuple(shape)}", shape_text(value))
    if value.device != device:
        fail(caller, argument, f"be on the device of the features ({device})", value.device)


def check_same_width(caller: str, first: str, a: Tensor, second: str, b: Tensor, *, axis: str = "features") -> None:
    """Require last axes of equal length; ``axis`` names what they contain."""
    check_tensor(caller, first, a)
    check_tensor(caller, second, b)
    check_same_device(caller, first, a, second, b)
    if a.ndim == 0 or b.ndim == 0:
        fail(caller, first if a.ndim == 0 else second, f"have an axis of {axis}", "()")
    if a.shape[-1] != b.shape[-1]:
        fail(caller, second, f"have as many {axis} as `{first}` ({a.shape[-1]})", b.shape[-1])


def check_same_device(caller: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Require two tensors on the same device."""
    if a.device != b.device:
        fail(caller, second, f"be on the device of `{first}` ({a.device})", b.device)


def check_same_shape(caller: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Require two tensors of the same shape."""
    check_tensor(caller, first, a)
    check_tensor(caller, second, b)
    check_same_device(caller, first, a, second, b)
    if a.shape != b.shape:
        fail(caller, second, f"have the shape of `{first}` {shape_text(a)}", shape_text(b))


def check_choice(caller: str, argument: str, value: object, choices: Sequence[str]) -> None:
    """Require one of the given strings."""
    if not isinstance(value, str) and hasattr(value, "shape"):  # arrays and tensors would compare elementwise
        fail_type(caller, argument, "be one of " + ", ".join(repr(c) for c in choices), value)
    if value not in choices:
        fail(caller, argument, "be one of " + ", ".join(repr(c) for c in choices), repr(value))


def check_number(
    caller: str,
    argument: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Require a finite Python number within the bounds."""
    if isinstance(value, np.generic):
        value = value.item()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        number
        and -math.inf < value < math.inf  # type: ignore[operator]
        and (above is None or value > above)  # type: ignore[operator]
        and (at_least is None or value >= at_least)  # type: ignore[operator]
        and (at_most is None or value <= at_most)  # type: ignore[operator]
        and (below is None or value < below)  # type: ignore[operator]
    ):
        return
    bounds = ((">", above), (">=", at_least), ("<=", at_most), ("<", below))
    texts = [f"{relation} {bound:g}" for relation, bound in bounds if bound is not None]
    rule = "be a finite number" + (" " + " and ".join(texts) if texts else "")
    if not number:
        fail_type(caller, argument, rule, value)
    fail(caller, argument, rule, value)


def check_sequence(caller: str, argument: str, value: object, what: str, *, empty: bool = False) -> None:
    """Require an iterable with a length that is not a string, nonempty unless ``empty``."""
    if not isinstance(value, (tuple, list)):
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") or not hasattr(value, "__len__"):
            fail_type(caller, argument, f"be a sequence of {what}s", value)
        if isinstance(value, Tensor) and value.ndim != 1:
            fail(caller, argument, f"be a sequence of {what}s", shape_text(value))
    if len(value) == 0 and not empty:
        fail(caller, argument, f"hold at least one {what}", "none")


def check_count(caller: str, argument: str, value: object, *, at_least: int = 1) -> None:
    """Require an integer (of Python or numpy, not a tensor) of at least ``at_least``."""
    if not isinstance(value, int):
        if isinstance(value, Tensor) or not hasattr(value, "__index__"):
            fail_type(caller, argument, f"be an integer >= {at_least}", value)
        try:
            value = operator.index(value)
        except TypeError:
            fail_type(caller, argument, f"be an integer >= {at_least}", value)
    if isinstance(value, bool):
        fail_type(caller, argument, f"be an integer >= {at_least}", value)
    if value < at_least:
        fail(caller, argument, f"be an integer >= {at_least}", value)
