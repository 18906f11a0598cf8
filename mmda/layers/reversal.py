"""Gradient reversal: identity in the forward pass, negated and scaled gradient in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mmda._core.checks import check_floating, check_number, fail, shape_text
from mmda._core.transforms import dispatch_mode_is_active, is_eager, values_are_known


def gradient_reversal(x: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    r"""Identity whose gradient is multiplied by minus the strength.

    With the stop-gradient operator :math:`\operatorname{sg}` and strength :math:`\lambda`,

    .. math::

       r(x) = \operatorname{sg}(x) - \lambda\, (x - \operatorname{sg}(x)), \qquad
       r(x) = x, \qquad \frac{\partial L}{\partial x} = -\lambda\, \frac{\partial L}{\partial r}

    Args:
        x: any floating-point tensor.
        strength: :math:`\lambda`; a number, a scalar tensor, or one value per sample. It gets no gradient.

    Shape:
        ``x`` (n, ...); ``strength`` () or (n,).

    Returns:
        A tensor bitwise equal to ``x``, infinities and NaN included, of the same dtype. (A negative zero keeps its sign
        for strengths >= 0.)

    Raises:
        ValueError: a strength that is neither a finite number, a scalar nor of shape (n,).
        TypeError: ``x`` is not floating point.

    Notes:
        Reverse and forward mode, ``vmap``, ``torch.compile`` and ``torch.export`` use this formula in plain
        differentiable operations; ordinary eager reverse mode uses a custom autograd function, in a third of the time.
        The bracket is exactly zero where ``x`` is finite and left out elsewhere: the gradient of a non-finite entry is
        zero.

        Every differentiation through the reversal flips the sign again: the gradient of f(r(x)) is :math:`-\lambda
        f'(x)`, and its second derivative :math:`\lambda^2 f''(x)` (not :math:`-\lambda f''(x)`). Forward mode reverses
        tangents in the same way. Numerical differentiation sees the identity and disagrees by design.

        ``torch.compile`` treats a Python number as a constant: pass a tensor (or use :class:`GradientReversal`, which
        has one as a buffer) if the strength changes from step to step.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradient_reversal(x, 0.5).square().sum().backward()
        >>> x.grad
        tensor([-1., -2.])

    References:
        Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015, equations 7 and 8.
    """
    check_floating("gradient_reversal", "x", x)
    factor: float | Tensor
    if isinstance(strength, Tensor):
        if strength.ndim == 0 and strength.device.type == "cpu" and values_are_known(strength):
            strength = strength.item()
    else:
        check_number("gradient_reversal", "strength", strength)
    if isinstance(strength, Tensor):
        factor = -strength.detach()
        if factor.ndim > 0:
            if factor.ndim != 1 or x.ndim == 0 or factor.shape[0] != x.shape[0]:
                fail("gradient_reversal", "strength", f"have shape () or ({_samples(x)},)", shape_text(strength))
            factor = factor.reshape(-1, *(1,) * (x.ndim - 1))
    else:
        factor = -strength
    if is_eager(x, strength if isinstance(strength, Tensor) else None):
        return cast(Tensor, _Reversal.apply(x, factor))  # type: ignore[no-untyped-call]
    held = x.detach()
    carried = factor * (x - held)
    return torch.where(held.isfinite(), held + carried.to(x.dtype), held)


class _Reversal(torch.autograd.Function):
    """Gradient reversal in two operations, for ordinary eager reverse mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float | Tensor) -> Tensor:
        undefined = _undefined(x) if ctx.needs_input_grad[0] else None
        tensor = isinstance(factor, Tensor)
        ctx.factor, ctx.bare = None if tensor else factor, undefined is None and not tensor
        if not ctx.bare:
            ctx.save_for_backward(undefined, factor if tensor else None)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        undefined, factor = (None, None) if ctx.bare else ctx.saved_tensors
        if factor is None:
            # A negation is several times faster than a product where the gradient is expanded, as that of a sum is.
            turned = -gradient if ctx.factor == -1 else gradient * ctx.factor
        else:
            turned = (gradient * factor).to(gradient.dtype)
        if undefined is None:
            return turned, None
        return turned.masked_fill(undefined, 0) if turned.requires_grad else turned.masked_fill_(undefined, 0), None


def _undefined(x: Tensor) -> Tensor | None:
    """Mask of non-finite entries; None if a sum on the CPU shows that there are none."""
    if x.device.type == "cpu" and not dispatch_mode_is_active() and math.isfinite(x.sum().item()):
        return None
    return x - x != 0


def _samples(x: Tensor) -> str:
    return str(x.shape[0]) if x.ndim else "n"


class GradientReversal(nn.Module):
    """Module form of :func:`gradient_reversal`, which documents the formula; the strength is a buffer.

    Args:
        strength: a number. The training loop changes it with :meth:`set_strength`; ``forward`` does not.

    Shape:
        (n, ...) to the same.

    Notes:
        The strength is read in ``forward``: a later :meth:`set_strength` does not affect graphs already built, and does
        not recompile a compiled model. It is saved in the ``state_dict`` and stays float32 when the model is cast to
        half precision.

    Example:
        >>> reversal = GradientReversal(0.1)
        >>> reversal.set_strength(0.5)
        >>> reversal
        GradientReversal(strength=0.5)
    """

    strength: Tensor

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        check_number("GradientReversal", "strength", strength)
        wide = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("strength", torch.tensor(float(strength), dtype=wide))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and widen the strength with the model, but never cast it to half precision."""
        held = self.strength
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.strength.dtype.itemsize < held.dtype.itemsize:
            self.strength = held.to(self.strength.device)
        return self

    def set_strength(self, strength: float | Tensor) -> None:
        """Set the strength for all following calls: a number or a scalar tensor."""
        if isinstance(strength, Tensor):
            if strength.ndim != 0:
                fail("GradientReversal.set_strength", "strength", "have shape ()", shape_text(strength))
        else:
            check_number("GradientReversal.set_strength", "strength", strength)
        with torch.no_grad():
            self.strength.fill_(strength)

    def forward(self, x: Tensor, *, strength: Tensor | None = None) -> Tensor:
        """See :func:`gradient_reversal`; ``strength`` (n,), one value per sample, multiplies the layer's."""
        return gradient_reversal(x, self.strength if strength is None else self.strength * strength)

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return "strength=?" if self.strength.is_meta else f"strength={self.strength.item():.7g}"


__all__ = ["GradientReversal", "gradient_reversal"]
