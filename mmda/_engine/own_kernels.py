"""Kernels of the user: evaluated by their own code, and differentiated by autograd.

Called on a tile, a kernel and its backward pass allocate a new megabyte at every operation, and autograd adds its own
time. So for large tiles both are called once, on a few distances of type :class:`Tile`, which notes the operations
that they dispatch; :class:`Program` runs the same operations on every tile, in buffers that it uses again. Built-in
kernels that the user's kernel calls become one step each. A kernel is called tile by tile as before if it does anything
but elementwise operations, reads a value (a branch on the distances, say), or if the program's numbers are not its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known
from mmda._engine import native, native_kernels
from mmda._engine.kernel_tiles import FormulaOnTiles, Found, KernelOnTiles, formula_on_tiles
from mmda.kernels import Distances, Formula, Kernel

#: Tiles with fewer elements do not repay the recording, about a millisecond; a kernel is called on no more at once.
LARGE = 1 << 17

#: Operations that change nothing with this number as their second argument.
NEUTRAL = {
    torch.ops.aten.mul.Tensor: 1,
    torch.ops.aten.div.Tensor: 1,
    torch.ops.aten.add.Tensor: 0,
    torch.ops.aten.sub.Tensor: 0,
}
#: Operations that make a constant and read only the type of their first argument.
CONSTANT = [getattr(torch.ops.aten, f"{name}_like").default for name in ("zeros", "ones", "full")]
CONSTANT += [getattr(torch.ops.aten, f"new_{name}").default for name in ("zeros", "ones", "full")]


class OwnKernelOnTiles(KernelOnTiles):
    """Any kernel: values from its own code, slopes from autograd on the tile."""

    slope_factor = -1.0

    def __init__(self, kernel: Kernel, bandwidth: Tensor) -> None:
        self.kernel, self.bandwidth = kernel, bandwidth
        self.programs: dict[bool, Program | None] = {}

    def learns(self) -> bool:
        """Whether the kernel's values require a gradient for anything other than the distances."""
        probe = self.kernel.evaluate(self.bandwidth.new_ones(1, 1), self.bandwidth)
        return torch.is_grad_enabled() and probe.requires_grad

    def add(self, found: Found, t: Tensor, work: Sequence[Tensor], *, same: bool, need_slope: bool) -> Tensor | None:
        if need_slope not in self.programs and t.numel() >= LARGE:
            self.programs[need_slope] = self._record(t, need_slope)
        program = self.programs.get(need_slope)
        value, *slopes = self._on(t, need_slope) if program is None else program(t)
        if same:
            value = value.clone() if program is None else value  # it may be the kernel's own
            for tile in (value, *slopes):
                tile.fill_diagonal_(0)
        found.add(value)
        return slopes[0] if slopes else None

    def both(self, t: Tensor) -> Tensor:
        both = torch.stack(self._on(t, True))
        both.diagonal(dim1=1, dim2=2).zero_()
        return both

    def _on(self, t: Tensor, need_slope: bool) -> list[Tensor]:
        """Values (and slopes) at the squared distances ``-t``, in new tensors."""
        if t.numel() > LARGE and t.shape[0] > 1:  # what autograd keeps for the backward pass is halved
            halves = [self._on(half, need_slope) for half in t.chunk(2)]
            return [torch.cat(both) for both in zip(*halves)]
        squared = -t
        with torch.set_grad_enabled(need_slope):
            value = self.kernel.evaluate(squared.requires_grad_(need_slope), self.bandwidth)
        slopes = torch.autograd.grad(value, squared, torch.ones_like(value)) if need_slope else ()
        return [value.detach().to(t.dtype), *slopes]

    def _record(self, t: Tensor, need_slope: bool) -> Program | None:
        """The kernel as a program that agrees with its code on some rows of a tile."""
        if (
            t.device.type != "cpu"
            or not values_are_known(t)
            or hasattr(self.kernel.evaluate, "_torchdynamo_orig_callable")
        ):
            return None  # reading values would wait for an accelerator; a compiled kernel is one pass already
        program, some = record_kernel(self.kernel, self.bandwidth, t, need_slope), t[:64]
        if program is not None:
            for ours, own in zip(program(some), self._on(some, need_slope)):
                size = own.nan_to_num(0.0, 0.0, 0.0).abs().amax().item()  # of the finite ones
                if not torch.allclose(ours, own, rtol=0, atol=100 * torch.finfo(t.dtype).eps * size, equal_nan=True):
                    return None
        return program


class NotElementwise(Exception):
    """The kernel cannot be recorded."""


class Slot(int):
    """The number of a tile in a :class:`Record`."""


class _Step(NamedTuple):
    """An operation on slots and constants; ``out`` names the argument that takes the results."""

    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    settings: dict[str, Any]
    made: tuple[Slot, ...]
    out: str = "out"

    @property
    def overwrites(self) -> bool:
        """Whether a result may take the place of an argument, as in every elementwise operation of PyTorch."""
        return len(self.made) == 1

    def read(self) -> set[Slot]:
        """The slots among the arguments."""
        return {a for a in self.arguments if isinstance(a, Slot)}

    def call(self, at: dict[Slot, Tensor]) -> Callable[[], Any]:
        """The operation with the slots' tensors."""
        made = [at[slot] for slot in self.made]
        arguments = [at[a] if isinstance(a, Slot) else a for a in self.arguments]
        return partial(self.run, *arguments, **self.settings, **{self.out: made[0] if self.overwrites else made})


class Record:
    """Operations in the order of their calls. Slot 0 holds the distances, every other slot the result of a step."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.dtypes: list[torch.dtype] = []
        self.known: dict[Any, Tile] = {}

    def add(self, example: Tensor) -> Tile:
        """A new slot with this example."""
        self.dtypes.append(example.dtype)
        return Tile(example, self, Slot(len(self.dtypes) - 1))

    def slot(self, tensor: Tensor) -> Slot:
        """The slot of a result."""
        if not isinstance(tensor, Tile) or tensor.slot == 0:
            raise NotElementwise
        return tensor.slot

    def dispatch(self, func: Any, arguments: Sequence[Any], settings: dict[str, Any]) -> Any:
        """Run an operation on the examples and note it."""
        first = arguments[0]
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Tile(first.example, self, first.slot)
        if func in NEUTRAL and not settings and type(arguments[1]) in (int, float) and arguments[1] == NEUTRAL[func]:
            return Tile(first.example, self, first.slot)
        if func in CONSTANT:
            return func(first.example, *arguments[1:], **settings)
        if torch.Tag.pointwise not in func.tags or torch.Tag.nondeterministic_seeded in func.tags:
            raise NotElementwise
        if func._schema.is_mutable:  # q.exp_(): the tile becomes that of q.exp()
            functional = getattr(getattr(torch.ops.aten, func.overloadpacket.__name__[:-1]), func._overloadname)
            made = self.dispatch(functional, arguments, settings)
            first.example, first.slot = made.example, made.slot
            return first
        arguments = tuple(self.number(a) if isinstance(a, Tensor) else a for a in arguments)
        examples = [a.example if isinstance(a, Tile) else a for a in arguments]
        arguments = tuple(a.slot if isinstance(a, Tile) else a for a in arguments)
        key = (func, str(settings), *((type(a), id(a) if isinstance(a, Tensor) else a) for a in arguments))
        if key not in self.known:
            packet, made = func.overloadpacket, self.add(func(*examples, **settings))
            names = f"{func._overloadname}_out", "out", "grad_input"
            run = getattr(packet, next(name for name in names if name in packet.overloads()))
            out = next(argument.name for argument in run._schema.arguments if argument.is_out)
            run(*examples, **settings, **{out: torch.empty_like(made.example)})  # raises if it takes other arguments
            self.steps.append(_Step(run, arguments, settings, (made.slot,), out))
            self.known[key] = made
        made = self.known[key]
        return Tile(made.example, self, made.slot)

    def number(self, tensor: Tensor) -> Tensor:
        """A tile, or the one number in another tensor."""
        if isinstance(tensor, Tile) or tensor.ndim == 0:
            return tensor
        value = tensor.flatten()[0]
        if tensor.dtype != self.dtypes[0] or not bool((tensor == value).all()):
            raise NotElementwise
        return value

    def formula(self, q: Tile, formula: Formula) -> tuple[Tile, Tile]:
        """Values and derivatives of a built-in kernel as one step."""
        with torch.enable_grad():
            example = q.example.detach().requires_grad_()
            value = formula.evaluate(example)
            (slope,) = torch.autograd.grad(value.sum(), example)
        kernel = formula_on_tiles(formula)
        compiled = kernel.steps is not None and native.serves(q.example)
        work = 0 if compiled else 1 + kernel.work  # tiles besides the results
        made = [self.add(value.detach()), *(self.add(slope) for _ in range(1 + work))]
        step = partial(_in_compiled_loops if compiled else _in_operations, kernel)
        self.steps.append(_Step(step, (q.slot,), {}, tuple(tile.slot for tile in made)))
        return made[0], made[1]


def _in_compiled_loops(kernel: FormulaOnTiles, q: Tensor, *, out: Sequence[Tensor]) -> None:
    value, slope = out
    factor = -((kernel.stretch or 1.0) ** 2)  # t = factor q, as twice a product of rows without length
    norms = q.new_zeros(max(q.shape))
    by = factor * kernel.slope_factor
    torch.mul(q, factor / 2, out=slope)
    of = native_kernels.Tile((norms, norms), same=False, factors=(by, by, by), values=value)
    assert kernel.steps is not None
    native_kernels.tile(kernel.steps, slope, of)
    value.mul_(kernel.value_factor)


def _in_operations(kernel: FormulaOnTiles, q: Tensor, *, out: Sequence[Tensor]) -> None:
    value, slope, t, *work = out
    factor = -((kernel.stretch or 1.0) ** 2)  # t = factor q
    found = kernel.add(Found(value), torch.mul(q, factor, out=t), work, same=False, need_slope=True)
    value.mul_(kernel.value_factor)
    assert found is not None
    torch.mul(found, factor * kernel.slope_factor, out=slope)


class Tile(Distances):
    """An example of a tile's distances, or of a result: its operations are noted in a :class:`Record`.

    A subclass without storage, so that PyTorch refuses ``item``, ``tolist`` and ``numpy``.
    """

    example: Tensor
    record: Record
    slot: Slot
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, example: Tensor, record: Record, slot: Slot) -> Tile:
        made: Tile = Tensor._make_wrapper_subclass(cls, example.shape, dtype=example.dtype, device=example.device)
        made.example, made.record, made.slot = example, record, slot
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        record = next(a.record for a in args if isinstance(a, Tile))
        return record.dispatch(func, args, kwargs or {})

    def evaluate(self, formula: Formula) -> Tensor:
        value: Tensor = _OfFormula.apply(self, formula)  # type: ignore[no-untyped-call]
        return value


class _OfFormula(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tile, formula: Formula) -> Tensor:
        value, slope = q.record.formula(q, formula)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


class Program:
    """Recorded operations, run on tiles in buffers that are used again."""

    def __init__(self, record: Record, results: Sequence[Slot]) -> None:
        self.record, self.results = record, results
        self.shape: torch.Size | None = None

    def __call__(self, t: Tensor) -> list[Tensor]:
        """Values (and slopes) at the squared distances ``-t``, until the next call."""
        if t.shape != self.shape:
            self.shape, (self.squared, self.calls, self.found) = t.shape, self._bind(t)
        torch.neg(t, out=self.squared)
        for call in self.calls:
            call()
        return self.found

    def _bind(self, t: Tensor) -> tuple[Tensor, list[Callable[[], Any]], list[Tensor]]:
        """The buffer of the distances, the operations on their buffers, and the results' buffers."""
        dtypes, steps, calls = self.record.dtypes, self.record.steps, []
        last = {slot: k for k, step in enumerate(steps) for slot in (*step.made, *step.read())}
        squared = torch.empty_like(t)
        at = {Slot(0): squared}
        free: dict[torch.dtype, list[Tensor]] = {}

        def release(slots: Iterable[Slot], k: int) -> None:
            for slot in set(slots).difference(self.results):
                if last[slot] == k:
                    free.setdefault(dtypes[slot], []).append(at[slot])

        for k, step in enumerate(steps):
            if step.overwrites:
                release(step.read(), k)
            for slot in step.made:
                pool = free.get(dtypes[slot])
                at[slot] = pool.pop() if pool else torch.empty_like(t, dtype=dtypes[slot])
            release(step.made if step.overwrites else (*step.made, *step.read()), k)
            calls.append(step.call(at))
        return squared, calls, [at[slot] for slot in self.results]


def _uncompiled() -> AbstractContextManager[Any]:
    """A compiled function that the kernel calls is recorded as its Python code, not compiled again for tiles."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def record_kernel(kernel: Kernel, bandwidth: Tensor, t: Tensor, need_slope: bool) -> Program | None:
    """Values (and slopes) of a kernel at squared distances ``-t`` as a program; None if it cannot be recorded."""
    record = Record()
    first = record.add(t[:2, :3].neg()).requires_grad_(need_slope)
    try:
        with _uncompiled(), torch.set_grad_enabled(need_slope):
            value = kernel.evaluate(first, bandwidth)
            found = [value]
            if need_slope:
                found += torch.autograd.grad(value, first, bandwidth.new_ones(()).to(value.dtype).expand(value.shape))
            slots = [record.slot(tensor) for tensor in found]
    except Exception:  # of the user's code: it is then called on the tile, and raises there if it should
        return None
    finally:
        record.known.clear()  # the tiles refer to the record
    return Program(record, slots) if all(record.dtypes[slot] == t.dtype for slot in slots) else None
