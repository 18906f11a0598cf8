"""What every sweep over pairs of rows shares: its place in autograd, in compiled graphs and among transforms.

A sweep makes one scalar and its gradient in the same pass over tiles, so that no matrix of pairs is kept. The pass
itself is a plain function; :class:`Sweep` makes of it a function of tensors that behaves as PyTorch's own do:

* ordinary eager code: an :class:`torch.autograd.Function`, whose backward pass scales the gradient that is there. A
  second derivative (``create_graph=True``) goes through the dense formula, in plain operations;
* ``torch.compile`` and ``torch.export``: the same pass as one custom operator, one node in the graph;
* function transforms (``torch.func``), forward-mode differentiation, and constants that carry a gradient: the dense
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

#: Rows of a tile on accelerators, which want large products.
ACCELERATOR_BLOCK = 4096

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
Settings = TypeVar("Settings", bound=tuple[Any, ...])
Needed = Sequence[bool]
Gradients = Sequence[Tensor | None]

#: Types of inputs and settings in the schema of an operator.
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
    """A scalar of some tensors, made by a pass that makes its gradient too.

    Inputs and settings are named tuples; here, and nowhere else, they are laid out flat, for operators know no tuples.

    Args:
        name: of the operator, ``mmda::name``.
        inputs: the type of the inputs: ``Tensor`` or ``Tensor | None``. The scalar has the dtype of the first.
        settings: the type of the settings: numbers, strings and lists of floats, with names of their own.
        slopes: so many of the inputs, the first ones, may carry a gradient; the others are constants.
        run: the pass. Of inputs, settings and which of the first inputs need a gradient it makes the scalar and a
            gradient for each of these inputs: what is not needed, or plays no part, may be None.
        dense: the same scalar in plain operations, differentiable by every floating-point input.
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
        # A class of its own, so that a graph and a profile say which sweep it is.
        self._function: Any = type(name.title().replace("_", ""), (_Function,), {"sweep": self})
        self.operator = self._as_operator(name)

    def __call__(self, inputs: Inputs, settings: Settings) -> Tensor:
        """The scalar, by the pass where it can serve."""
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
        """Whether the pass may be used: constants without gradient, no transform and no forward mode."""
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs[self.slopes :]):
            return False
        return torch.compiler.is_compiling() or is_plain(*inputs)

    def backward(self, saved: _Saved, needed: Needed, grad: Tensor) -> list[Tensor | None]:
        """The gradient of each of the first inputs, times ``grad``."""
        inputs, settings, made, gradients = saved
        unmade = any(need and not was for need, was in zip(needed, made))  # an exported graph, say, is given new inputs
        if not (torch.is_grad_enabled() or unmade):
            return [g * grad if need and g is not None else None for g, need in zip(gradients, needed)]
        differentiated_again = torch.is_grad_enabled()
        with torch.enable_grad(), full_precision(inputs[0]):
            # Aliases: where one input is a function of another, or the same, that path is the outer graph's to add.
            aliases: list[Any] = [None if t is None else t.view_as(t) for t in inputs[: self.slopes]]
            wanted = [t for t, need in zip(aliases, needed) if need and t is not None]
            value = self.dense(self._inputs(*aliases, *inputs[self.slopes :]), settings)
            found = iter(torch.autograd.grad(value, wanted, grad, create_graph=differentiated_again, allow_unused=True))
        return [next(found) if need else None for need in needed]

    def _as_operator(self, name: str) -> Callable[..., tuple[Tensor, ...]]:
        """The pass as an operator: it returns the scalar and a gradient for each of the first inputs.

        Gradients that are not needed are empty.
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
                outputs.append(gradient.clone() if place in stores else gradient)  # no two outputs share their storage
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
            # What is differentiated again is a function of the inputs, and not the stored gradient.
            found = self.backward(_Saved.kept(ctx, arity), ctx.needs_input_grad[:slopes], grad)
            return (*found, *[None] * (len(hints) + 1 - slopes))

        operator = torch.library.custom_op(f"mmda::{name}", run, mutates_args=(), schema=schema)
        operator.register_fake(fake)
        operator.register_autograd(backward, setup_context=keep)
        return operator


class _Saved(NamedTuple):
    """What the backward pass needs; ``made`` says which gradients the pass was asked for."""

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
    """A sweep in eager code; each has a subclass."""

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
    """A tensor that a graph may keep: those made under ``torch.inference_mode`` are copied outside of it."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not tensor.is_inference():
        return tensor
    return tensor.clone()


def edges(start: int, stop: int, block: int) -> list[tuple[int, int]]:
    """Cut a range into equal parts of at most ``block``."""
    count = -(-(stop - start) // block)
    cuts = [start + (stop - start) * k // count for k in range(count + 1)] if count else [start]
    return list(pairwise(cuts))
