"""What else happens to a tensor beside ordinary reverse mode: function transforms and forward-mode differentiation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Tensors that hold numbers of their own; subclasses may not.
ORDINARY = (Tensor, torch.nn.Parameter)


def transform_is_active() -> bool:
    """Whether a ``torch.func`` transform is running; a cautious use of PyTorch's private interface.

    Where the private name is missing the answer is True: slower code and never wrong.
    """
    try:
        return torch._C._functorch.maybe_current_level() is not None
    except AttributeError:  # pragma: no cover - no released version lacks it
        return True


def dispatch_mode_is_active() -> bool:
    """Whether something such as a tracer or a counter looks at operations; the same caution as above."""
    try:
        return torch._C._len_torch_dispatch_stack() > 0
    except AttributeError:  # pragma: no cover - no released version lacks it
        return True


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether ordinary eager reverse mode is all that can happen to these tensors."""
    if transform_is_active():
        return False
    return not any(t is not None and _has_tangent(t) for t in tensors)


def is_eager(*tensors: Tensor | None) -> bool:
    """:func:`is_plain`, and nothing is compiled or exported."""
    return not torch.compiler.is_compiling() and is_plain(*tensors)


def values_are_known(*tensors: Tensor | None) -> bool:
    """Whether Python may look at what these tensors hold: no compiled graph, transform, tracer or meta device."""
    if torch.compiler.is_compiling() or dispatch_mode_is_active() or not is_plain(*tensors):
        return False
    return not any(t is not None and t.device.type == "meta" for t in tensors)


def carries_slope(tensor: Tensor) -> bool:
    """Whether something differentiates with respect to this tensor, in reverse or forward mode or a transform.

    Of nested transforms with a forward mode among them only the innermost is seen; there the answer is True.
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
