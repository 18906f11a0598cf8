"""Base of all sweeps over pairs of rows: autograd, compiled graphs and function transforms.

A sweep computes one scalar and its gradient in the same pass over tiles, so that no pair matrix is stored. The pass
itself is a plain function; :class:`Sweep` wraps it so that it behaves like a built-in PyTorch function:

* eager mode: an :class:`torch.autograd.Function`, whose backward pass scales the stored gradient. Second derivatives
  (``create_graph=True``) use the dense formula, in plain operations;
* ``torch.compile`` and ``torch.export``: the same pass as one custom operator, a single node of the graph;
* function transforms (``torch.func``), forward-mode differentiation, and constants that require a gradient: the dense
  formula.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from mmda._core.masking import full_precision
from mmda._core.transforms import is_plain

#: Rows per tile on accelerators, where large matrix products are faster.
ACCELERATOR_BLOCK = 4096

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
Settings = TypeVar("Settings", bound=tuple[Any, ...])
Needed = Sequence[bool]
Gradients = Sequence[Tensor | None]

#: Operator schema types of inputs and settings.
_SCHEMA = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    float: "float",
    int: "int",
    bool: "bool",
    str: "str",
    list[float]: "float[]",
}


class Sweep(Generic[Inputs, Settings]):
    """A scalar function of tensors, computed by a pass that also computes its gradient.

    Inputs and settings are named tuples; they are flattened here, because operators do not accept tuples.

    Args:
        name: name of the operator, ``mmda::name``.
        inputs: the type of the inputs: ``Tensor`` or ``Tensor | None``. The scalar has the dtype of the first.
        settings: the type of the settings: numbers, strings and lists of floats. Field names must differ from those of
            the inputs.
        slopes: the number of leading inputs that may require a gradient; the others are constants.
        run: the pass. Takes inputs, settings, and which leading inputs need a gradient; returns the scalar and a
            gradient for each of these inputs, or None if it is not needed or zero.
        dense: the same scalar in plain operations, differentiable with respect to every floating-point input.
    """

    def __init__(
        self,
        name: str,
        inputs: type[Inputs],
        settings: type[Settings],
        *,
        slopes: int,
        run: Callable[[Inputs, Settings, Needed], tuple[Tensor, Gradients]],
        dense: Callable[[Inputs, Settings], Tensor],
    ) -> None:
        self.run, self.dense, self.slopes = run, dense, slopes
        self._inputs, self._settings = inputs, settings
        self._arity = len(typing.get_type_hints(inputs))
        # A subclass per sweep, so that graphs and profiles show its name.
        self._function: Any = type(name.title().replace("_", ""), (_Function,), {"sweep": self})
        self.operator = self._as_operator(name)

    def __call__(self, inputs: Inputs, settings: Settings) -> Tensor:
        """The scalar, computed by the pass if possible, otherwise by the dense formula."""
        if not self.serves(inputs):
            return self.dense(inputs, settings)
        grad = torch.is_grad_enabled()
        needed = [grad and t is not None and t.requires_grad for t in inputs[: self.slopes]]
        value: Tensor
        if torch.compiler.is_compiling():
            value = self.operator(*inputs, *settings, needed)[0]
        elif any(needed):
            value = self._function.apply(settings, needed, *(t if t is None else usable(t) for t in inputs))
        else:
            value = self.run(inputs, settings, needed)[0]
        return value

    def serves(self, inputs: Inputs) -> bool:
        """Whether the pass can be used: no gradient for constants, no transform and no forward mode."""
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs[self.slopes :]):
            return False
        return torch.compiler.is_compiling() or is_plain(*inputs)

    def backward(self, saved: _Saved, needed: Needed, grad: Tensor) -> list[Tensor | None]:
        """The gradient of each leading input, times ``grad``."""
        inputs, settings, made, gradients = saved
        unmade = any(
            need and not was for need, was in zip(needed, made)
        )  # for example in an exported graph with new inputs
        if not (torch.is_grad_enabled() or unmade):
            return [g * grad if need and g is not None else None for g, need in zip(gradients, needed)]
        differentiated_again = torch.is_grad_enabled()
        with torch.enable_grad(), full_precision(inputs[0]):
            # Aliases, so that if one input depends on another, that path is left to the outer graph.
            aliases: list[Any] = [None if t is None else t.view_as(t) for t in inputs[: self.slopes]]
            wanted = [t for t, need in zip(aliases, needed) if need and t is not None]
            value = self.dense(self._inputs(*aliases, *inputs[self.slopes :]), settings)
            found = iter(torch.autograd.grad(value, wanted, grad, create_graph=differentiated_again, allow_unused=True))
        return [next(found) if need else None for need in needed]

    def _as_operator(self, name: str) -> Callable[..., tuple[Tensor, ...]]:
        """The pass as an operator that returns the scalar and a gradient for each leading input.

        Gradients that are not needed are empty tensors.
        """
        arity, slopes = self._arity, self.slopes
        hints = [*typing.get_type_hints(self._inputs).items(), *typing.get_type_hints(self._settings).items()]
        arguments = ", ".join(f"{_SCHEMA[kind]} {key}" for key, kind in hints)
        schema = f"({arguments}, bool[] needed) -> ({', '.join(['Tensor'] * (1 + slopes))})"

        def run(*flat: Any) -> tuple[Tensor, ...]:
            *settings, needed = flat[arity:]
            value, gradients = self.run(self._inputs(*flat[:arity]), self._settings(*settings), needed)
            outputs, stores = [value], {value.untyped_storage().data_ptr()}
            for given, gradient, need in zip(flat, gradients or [None] * slopes, needed):
                if not need:
                    gradient = value.new_empty(0)
                elif gradient is None:
                    gradient = torch.zeros_like(given, memory_format=torch.contiguous_format)
                gradient = gradient.contiguous()
                place = gradient.untyped_storage().data_ptr()
                outputs.append(gradient.clone() if place in stores else gradient)  # outputs must not share storage
                stores.add(place)
            return tuple(outputs)

        def fake(*flat: Any) -> tuple[Tensor, ...]:
            shapes = [given.shape if need else (0,) for given, need in zip(flat, flat[-1])]
            gradients = [(flat[0] if given is None else given).new_empty(s) for given, s in zip(flat, shapes)]
            return flat[0].new_empty(()), *gradients

        def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            *settings, made = inputs[arity:]
            gradients = [g if need else None for g, need in zip(output[1:], made)]
            _Saved(self._inputs(*inputs[:arity]), self._settings(*settings), made, gradients).keep(ctx)

        def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
            # A second derivative differentiates the dense formula, not the stored gradient.
            found = self.backward(_Saved.kept(ctx, arity), ctx.needs_input_grad[:slopes], grad)
            return (*found, *[None] * (len(hints) + 1 - slopes))

        operator = torch.library.custom_op(f"mmda::{name}", run, mutates_args=(), schema=schema)
        operator.register_fake(fake)
        operator.register_autograd(backward, setup_context=keep)
        return operator


class _Saved(NamedTuple):
    """State for the backward pass; ``made``: which gradients the pass has computed."""

    inputs: Any
    settings: Any
    made: Needed
    gradients: Gradients

    def keep(self, ctx: Any) -> None:
        ctx.save_for_backward(*self.inputs, *self.gradients)
        ctx.inputs, ctx.settings, ctx.made = type(self.inputs), self.settings, self.made

    @classmethod
    def kept(cls, ctx: Any, arity: int) -> _Saved:
        tensors = ctx.saved_tensors
        return cls(ctx.inputs(*tensors[:arity]), ctx.settings, ctx.made, tensors[arity:])


class _Function(torch.autograd.Function):
    """A sweep in eager mode; each sweep has its own subclass."""

    sweep: Sweep[Any, Any]

    @classmethod
    def forward(cls, ctx: Any, settings: Any, needed: Needed, *tensors: Tensor | None) -> Tensor:
        inputs = cls.sweep._inputs(*tensors)
        value, gradients = cls.sweep.run(inputs, settings, needed)
        _Saved(inputs, settings, needed, gradients).keep(ctx)
        return value

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sweep = cls.sweep
        needed = ctx.needs_input_grad[2 : 2 + sweep.slopes]
        found = sweep.backward(_Saved.kept(ctx, sweep._arity), needed, grad)
        return (None, None, *found, *[None] * (sweep._arity - sweep.slopes))


def usable(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save: inference tensors are cloned outside of inference mode."""
    if not tensor.is_inference() or torch.is_inference_mode_enabled():
        return tensor
    return tensor.clone()


def edges(start: int, stop: int, block: int) -> list[tuple[int, int]]:
    """Split a range into parts of nearly equal size, at most ``block``."""
    count = -(-(stop - start) // block)
    cuts = [start + (stop - start) * k // count for k in range(count + 1)] if count else [start]
    return list(pairwise(cuts))
