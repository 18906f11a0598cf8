"""Detection of function transforms, forward-mode differentiation and tracing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Types with their own storage, which other tensor subclasses may lack.
ORDINARY = (Tensor, torch.nn.Parameter)


def transform_is_active() -> bool:
    """Whether a ``torch.func`` transform is active, from PyTorch's private interface.

    True if the private name is missing, which selects the slower general code.
    """
    try:
        return torch._C._functorch.maybe_current_level() is not None
    except AttributeError:  # pragma: no cover - no released version lacks it
        return True


def dispatch_mode_is_active() -> bool:
    """Whether a dispatch mode such as a tracer or an operation counter is active; True if that is unknown."""
    try:
        return torch._C._len_torch_dispatch_stack() > 0
    except AttributeError:  # pragma: no cover - no released version lacks it
        return True


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether only ordinary reverse mode applies: no function transform and no forward-mode tangent."""
    if transform_is_active():
        return False
    if getattr(forward_ad, "_current_level", 0) < 0:  # outside of forward mode no tensor has a tangent
        return True
    return not any(t is not None and _has_tangent(t) for t in tensors)


def is_eager(*tensors: Tensor | None) -> bool:
    """:func:`is_plain`, and not inside ``torch.compile`` or ``torch.export``."""
    return not torch.compiler.is_compiling() and is_plain(*tensors)


def values_are_known(*tensors: Tensor | None) -> bool:
    """Whether Python may read the values of these tensors: no compiled graph, transform, tracer or meta device."""
    if torch.compiler.is_compiling() or dispatch_mode_is_active() or not is_plain(*tensors):
        return False
    return not any(t is not None and t.device.type == "meta" for t in tensors)


def carries_slope(tensor: Tensor) -> bool:
    """Whether this tensor is differentiated, in reverse mode, forward mode or by a transform.

    Returns True for nested transforms that include forward mode, of which only the innermost can be inspected.
    """
    if tensor.requires_grad:
        return True
    if torch.compiler.is_compiling():
        return False
    if _has_tangent(tensor):
        return True
    if not transform_is_active():
        return False
    layers = 0
    try:
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor, layers = torch._C._functorch.get_unwrapped(tensor), layers + 1
            if tensor.requires_grad:
                return True
    except AttributeError:  # pragma: no cover - no released version lacks it
        return True
    return layers > 1 and getattr(forward_ad, "_current_level", 0) >= 0


def _has_tangent(tensor: Tensor) -> bool:
    dual: Any = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return dual.tangent is not None
