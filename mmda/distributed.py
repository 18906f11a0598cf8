"""Losses over the rows of all ranks: a differentiable gather, and a module that applies it before any loss.

A discrepancy of two batches is not a mean over rows, so the average of the ranks' losses and gradients differs from
that of the gathered batch. Wrapped in :class:`DistributedLoss`, a loss is computed on the rows of all ranks; its value
on every rank is that of the gathered batch, and so are the gradients after the averaging of
``DistributedDataParallel``.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmda._core.checks import (
    check_floating,
    check_mask,
    check_same_width,
    check_sequence,
    check_tensor,
    check_weight,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.components import check_callable
from mmda._core.draws import shared_draws
from mmda._core.masking import full_precision, working_dtype
from mmda._core.unit_rows import normalized_rows
from mmda._engine.ring import as_scale, ring_info_nce, ring_mmd, ring_sigmoid
from mmda.layers.temperature import temperature_value
from mmda.losses import InfoNCELoss, MMDLoss, SigmoidContrastiveLoss

#: Keyword tensors that refer to the gathered batch or to no rows, passed on unchanged.
SHARED = ("indices", "negative_mask", "positive_mask", "positive_weight", "projections")

#: Largest number of axes of a gathered tensor.
_MOST_AXES = 8

#: Capacity of the first exchange of a call, in numbers of 8 bytes. More need a second exchange.
_ROOM = 128


def _world(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather_rows(x: Tensor, *, group: dist.ProcessGroup | None = None, pad: bool = False) -> Tensor:
    r"""Gather the rows of all ranks, in rank order, on every rank, with a gradient.

    With :math:`x^{(r)}` the rows of rank r, every rank receives :math:`X = (x^{(0)}; x^{(1)}; \dots)`. The backward
    pass sums over ranks: if rank q computes :math:`L_q(X)`, the gradient on rank r is

    .. math:: \sum_q \frac{\partial L_q}{\partial X} \text{ at the rows of } x^{(r)}

    Args:
        x: this rank's rows. The number may differ between ranks and may be zero.
        group: process group; all processes by default.
        pad: allow the other axes to differ too; shorter ones are padded with zeros (False) at the end.

    Shape:
        ``x`` (n, ...), result (sum of n over ranks, ...).

    Returns:
        A new tensor of the dtype of ``x``, the same on every rank; ``x`` itself without a process group or with one
        process.

    Raises:
        ValueError: no axis or more than eight; ranks that differ in dtype, in whether they need a gradient, in the
            number of axes, or (without ``pad``) in the axes after the first. All ranks raise.
        TypeError: not a tensor.

    Notes:
        This is a collective operation: all ranks must call it in the same order and run its backward pass. Forward
        exchanges the shapes (which synchronises a GPU) and the rows, padded to the largest rank; backward is one
        all-reduce of the gradient, in float32 for half precision. If every rank computes the same :math:`L(X)`, the sum
        is the world size times :math:`\partial L / \partial x^{(r)}`, and the averaging over ranks in data-parallel
        training gives the gradient of L for the encoder's parameters. Second derivatives are correct too. Tensors
        without a gradient, such as masks and labels, are gathered as they are.

    Example:
        >>> gather_rows(torch.ones(2, 3)).shape  # one process
        torch.Size([2, 3])

    References:
        Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 13 (2020), section
        3.2 for the averaging.
    """
    check_tensor("gather_rows", "x", x)
    if not 1 <= x.ndim <= _MOST_AXES:
        fail("gather_rows", "x", f"have from 1 to {_MOST_AXES} axes, rows first", shape_text(x))
    if _world(group) == 1:
        return x
    return _assembled("gather_rows", "x", x, *_shapes(x, pad, group), group)


def _assembled(
    caller: str,
    argument: str,
    x: Tensor,
    shapes: Sequence[tuple[int, ...]],
    pad: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """The rows of all ranks, given their shapes."""
    if any(len(shape) != x.ndim for shape in shapes):
        fail(caller, argument, "have as many axes on every rank", _listed(shapes))
    rest = tuple(max(sizes) for sizes in zip(*(shape[1:] for shape in shapes)))
    if any(shape[1:] != rest for shape in shapes):
        if not pad:
            fail(caller, argument, "have the same axes after the first on every rank", _listed(shapes))
        x = _pad(x, (x.shape[0], *rest))
    sizes = [shape[0] for shape in shapes]
    if _differentiated(x):
        return cast(Tensor, _Gather.apply(x, sizes, group))  # type: ignore[no-untyped-call]
    return _gather(x, sizes, group)


def _differentiated(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _exchange(
    facts: Sequence[int], room: int, device: torch.device, group: dist.ProcessGroup | None
) -> list[list[int]]:
    """Exchange integers between ranks, at most ``room`` each."""
    own = torch.tensor([*facts, *(0,) * (room - len(facts))], dtype=torch.int64, device=device)
    every = [torch.empty_like(own) for _ in range(_world(group))]
    dist.all_gather(every, own, group=group)
    return cast("list[list[int]]", torch.stack(every).tolist())


#: Numbering of dtypes, the same in every process with the same PyTorch version.
_DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


def _shapes(x: Tensor, pad: bool, group: dist.ProcessGroup | None) -> tuple[list[tuple[int, ...]], bool]:
    """The shape of ``x`` on every rank, and whether all ranks pad, so that all ranks continue or all raise."""
    facts = [int(pad), _DTYPES.index(x.dtype), int(_differentiated(x)), x.ndim, *x.shape]
    told = _exchange(facts, 4 + _MOST_AXES, x.device, group)
    if len({row[1] for row in told}) > 1:
        fail("gather_rows", "x", "have one dtype on every rank", ", ".join(str(_DTYPES[row[1]]) for row in told))
    if len({row[2] for row in told}) > 1:
        which = [rank for rank, row in enumerate(told) if row[2]]
        fail("gather_rows", "x", "need a gradient on every rank or on none", f"one on ranks {which}")
    return [tuple(row[4 : 4 + row[3]]) for row in told], all(row[0] for row in told)


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _pad(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` padded with zeros at the end of every axis to ``shape``."""
    missing = [after for size, wanted in zip(x.shape[::-1], shape[::-1]) for after in (0, wanted - size)]
    if x.dtype == torch.bool:
        return nn.functional.pad(x.to(torch.uint8), missing).bool()
    return nn.functional.pad(x, missing)


def _gather(x: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """The rows of all ranks, given their numbers in ``sizes``."""
    most = max(sizes)
    sent = x.detach().to(torch.uint8) if x.dtype == torch.bool else x.detach()
    if most > sent.shape[0]:
        sent = _pad(sent, (most, *sent.shape[1:]))
    sent = sent.contiguous()
    every = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(every, sent, group=group)
    return torch.cat([rows[:size] for rows, size in zip(every, sizes)]).to(x.dtype)


def _sum_own(gradient: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """The sum over ranks, at the rows of this rank."""
    wide = torch.float32 if gradient.dtype in (torch.float16, torch.bfloat16) else gradient.dtype
    total = gradient.detach().to(wide, copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    rank = dist.get_rank(group)
    start = sum(sizes[:rank])
    return total[start : start + sizes[rank]].to(gradient.dtype)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _gather(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _SumOwn.apply(gradients[0], ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


class _SumOwn(torch.autograd.Function):
    """The transpose of :class:`_Gather`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _sum_own(gradient, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradients[0], ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


def _parameters(loss: Callable[..., Tensor]) -> list[inspect.Parameter] | None:
    """The parameters of a loss; None if its signature is unavailable."""
    try:
        return list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values())
    except (TypeError, ValueError):
        return None


def _keywords(loss: Callable[..., Tensor]) -> set[str] | None:
    """The keyword names that a loss accepts; None if it accepts any or its signature is unavailable."""
    parameters = _parameters(loss)
    if parameters is None or any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _positions(loss: Callable[..., Tensor]) -> list[str]:
    """Names of the arguments that may be positional, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in _parameters(loss) or () if parameter.kind in kinds]


def _name(loss: object) -> str:
    """An identifier of a loss: the repr of a module, the name of a function."""
    if isinstance(loss, nn.Module):  # without addresses and device numbers, which differ between processes
        return re.sub(r" at 0x[0-9a-fA-F]+|(?<=cuda):[0-9]+", "", repr(loss))
    if isinstance(loss, functools.partial):
        settings = [*loss.args, *(f"{name}={_text(value)}" for name, value in sorted(loss.keywords.items()))]
        return f"{_name(loss.func)} with {', '.join(map(str, settings))}"
    return str(getattr(loss, "__qualname__", type(loss).__qualname__))


def _draws(loss: object) -> bool:
    """Whether a loss may draw from the global generator; True for functions from outside this library."""
    if not isinstance(loss, nn.Module):
        return not getattr(loss, "__module__", "").startswith("mmda.")
    return any(part.training and getattr(part, "draws", None) == "fresh" for part in loss.modules())


def _text(value: object) -> str:
    """Text of a value that can be compared between processes, for a generator its state."""
    if isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)) or value is None:
        return repr(value)
    if isinstance(value, torch.Generator):
        return f"Generator in state {hashlib.blake2b(value.get_state().numpy().tobytes(), digest_size=4).hexdigest()}"
    return type(value).__qualname__


def _kept(
    name: str, rows: Tensor, prefix: str, mask: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The rows of a ring that count, (n, d), and their weights; a rank may be without rows."""
    check_floating("DistributedLoss", name, rows)
    if mask is not None:
        check_mask("DistributedLoss", f"{prefix}mask", mask, rows.shape[:-1], device=rows.device)
    if weight is not None:
        check_weight("DistributedLoss", f"{prefix}weight", weight, rows.shape[:-1], device=rows.device)
        if weight.requires_grad:
            fail("DistributedLoss", f"{prefix}weight", "have no gradient for a ring", "one that requires it")
        mask = weight > 0 if mask is None else mask & (weight > 0)
    if mask is not None:
        rows, weight = rows[mask], None if weight is None else weight[mask]
    if rows.ndim != 2:
        fail("DistributedLoss", name, "have shape (samples, features)", shape_text(rows))
    return rows, weight


class DistributedLoss(nn.Module):
    """Apply any loss to the gathered batch of all ranks.

    The ranks first check that their arguments agree; then every tensor of the call, including those in tuples and
    lists, is gathered as by :func:`gather_rows`, and the loss is called with the result.

    Args:
        loss: a discrepancy, a pair loss, an adversarial loss, or your own function.
        group: process group; all processes by default.
        shared: names of keyword tensors passed on unchanged. This includes pair masks, which have the shape of the
            gathered batch: build them from gathered identities, as ``duplicate_mask(gather_rows(ids))``.
        ring: pass the rows around a ring of ranks instead of gathering them: O(n d) memory for the n rows of a rank,
            for any number of ranks. For :class:`~mmda.losses.MMDLoss` (a bandwidth that is a number or ``"mean"``; no
            ``"linear"`` estimator), :class:`~mmda.losses.InfoNCELoss` and :class:`~mmda.losses.SigmoidContrastiveLoss`,
            with masks and weights for the first two; weights have no gradient.

    Shape:
        As for the loss. The number of rows may differ between ranks; with a mask (b, t, d), t may differ too.

    Returns:
        The loss of the gathered batch, the same on every rank.

    Raises:
        ValueError: a shared name that the loss does not accept; with ``ring``, an unsupported loss or other arguments.
            Raised on all ranks if they disagree in losses or settings, arguments given, dtypes, numbers of axes or
            widths, shapes of shared tensors, plain values (including scalar tensors), generator states, or in whether a
            gradient is needed.
        TypeError: a loss that is not callable or is a class, ``shared`` that is a string.

    Notes:
        Under ``DistributedDataParallel`` do not rescale the loss: the averaged gradients are those of the gathered
        batch, for the encoder and for parameters of the loss (a discriminator, a temperature). The latter have the full
        gradient on every rank before averaging. Put the loss's parameters into the wrapped module, or pass them to the
        optimiser of each rank: both keep initially equal ranks equal.

        Each rank computes the whole loss, O(N^2 d) time for N rows in total, with O(N d) memory plus that of the loss.
        With ``ring`` it computes only the pairs of its own rows, O(N n d) time in O(n d) memory; the value is the same
        up to rounding, and second derivatives are not supported. The communication volume is similar to the gather: one
        block of rows per step, once (MMD, sigmoid) or twice (InfoNCE), while a gather and the sum of its gradients send
        three.

        One exchange of 1 KB checks that the ranks agree and communicates their numbers of rows; then one exchange per
        tensor moves the rows. A rank that does not call blocks the others until the group's timeout. Losses with random
        draws draw the same numbers on all ranks: from a key that rank 0 draws from its global generator, or from a
        ``generator`` with the same seed on every rank. A loss that is a mean over rows, such as the cross-entropy,
        needs this module only if the numbers of rows differ between ranks.

    Example:
        >>> from mmda.losses import MMDLoss
        >>> loss = DistributedLoss(MMDLoss(estimator="unbiased"))
        >>> bool(loss(torch.zeros(4, 2), torch.ones(3, 2)) > 0)  # one process: the loss itself
        True
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        group: dist.ProcessGroup | None = None,
        shared: Sequence[str] = SHARED,
        ring: bool = False,
    ) -> None:
        super().__init__()
        check_callable("DistributedLoss", "loss", loss)
        if ring and not isinstance(loss, (MMDLoss, InfoNCELoss, SigmoidContrastiveLoss)):
            rule = "be an MMDLoss, InfoNCELoss or SigmoidContrastiveLoss for a ring"
            fail("DistributedLoss", "loss", rule, type(loss).__qualname__)
        if ring and isinstance(loss, MMDLoss) and loss.estimator == "linear":
            fail("DistributedLoss", "loss", "have the estimator 'biased' or 'unbiased' for a ring", "'linear'")
        check_sequence("DistributedLoss", "shared", shared, "name", empty=True)
        known = _keywords(loss)
        unknown = [name for name in shared if known is not None and name not in known and name not in SHARED]
        if unknown:
            fail("DistributedLoss", "shared", f"name arguments of the loss ({', '.join(sorted(known or ()))})", unknown)
        self.loss = loss
        self.group = group
        self.shared = tuple(shared)
        self.ring = ring
        self._named: tuple[Any, str, list[str]] | None = None
        self._key = 0

    def set_strength(self, strength: float | Tensor) -> None:
        """Set the strength of an adversarial loss on this rank; call it on all ranks with the same value."""
        method = getattr(self.loss, "set_strength", None)
        if method is None:
            fail_type("DistributedLoss.set_strength", "loss", "have a strength, as adversarial losses do", self.loss)
        method(strength)

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor:
        """The loss of the gathered ``inputs`` and ``keywords``."""
        return self.loss(*inputs, **keywords) if _world(self.group) == 1 else self._over_ranks(inputs, keywords)

    def _over_ranks(self, inputs: Sequence[Any], keywords: dict[str, Any]) -> Tensor:
        """The loss by communication, whatever the number of ranks."""
        if self._named is None or self._named[0] is not self.loss:
            self._named = (self.loss, _name(self.loss), _positions(self.loss))
        _, loss, positions = self._named
        covers = [
            x.shape
            for name, x in keywords.items()
            if name.endswith("mask") and name not in self.shared and isinstance(x, Tensor) and x.ndim > 1
        ]
        names = [positions[i] if i < len(positions) else f"input {i}" for i in range(len(inputs))]
        entries = [(name, x, False) for name, x in zip(names, inputs)]
        entries += [(name, x, name in self.shared) for name, x in sorted(keywords.items())]
        told = self._agreed(loss, entries, covers)
        if self.ring:
            return self._passed_by(inputs, keywords)
        gathered = [x if shared else self._gathered(name, x, told) for name, x, shared in entries]
        count = len(inputs)
        with shared_draws(self._key):
            return self.loss(*gathered[:count], **dict(zip(sorted(keywords), gathered[count:])))

    def _passed_by(self, inputs: Sequence[Any], keywords: dict[str, Any]) -> Tensor:
        """The loss of the rows of all ranks by ring communication."""
        loss = self.loss
        names = _positions(loss)[:2]
        given = {**dict(zip(names, inputs)), **keywords}
        # each side has a mask and weights of its own, or both have those of the pairs
        prefixes = {MMDLoss: [f"{name}_" for name in names], InfoNCELoss: ["", ""]}.get(type(loss), [])
        known = {*names, *(prefix + kind for prefix in prefixes for kind in ("mask", "weight"))}
        others = sorted(name for name, value in given.items() if name not in known and value is not None)
        if others or len(inputs) > 2 or not all(isinstance(given.get(name), Tensor) for name in names):
            rule = f"be only {', '.join(sorted(known))} for a ring"
            fail("DistributedLoss", "inputs", rule, ", ".join(others) or f"{len(given)} arguments")
        (first, x_count), (second, y_count) = (
            _kept(name, given[name], prefix, given.get(f"{prefix}mask"), given.get(f"{prefix}weight"))
            for name, prefix in zip(names, prefixes or ["", ""])
        )
        check_same_width("DistributedLoss", names[0], first, names[1], second)
        dtype = working_dtype(first, second)
        with full_precision(first):
            x, y = first.to(dtype), second.to(dtype)
            if isinstance(loss, MMDLoss):
                counts = [
                    rows.new_ones(len(rows)) if count is None else count.to(dtype)
                    for rows, count in ((x, x_count), (y, y_count))
                ]
                unbiased = loss.estimator == "unbiased"
                return ring_mmd(x, y, *counts, kernel=loss.kernel, unbiased=unbiased, group=self.group)
            assert isinstance(loss, (InfoNCELoss, SigmoidContrastiveLoss))
            scale = as_scale(temperature_value(loss.temperature), x)
            a, b = (normalized_rows(x), normalized_rows(y)) if loss.normalize else (x, y)
            if isinstance(loss, InfoNCELoss):
                count = None if x_count is None else x_count.to(dtype)
                return ring_info_nce(a, b, scale, count, symmetric=loss.symmetric, group=self.group)
            bias = loss.bias.to(x) if isinstance(loss.bias, Tensor) else x.new_full((), loss.bias)
            return ring_sigmoid(a, b, scale, bias, group=self.group)

    def _agreed(
        self, loss: str, entries: Sequence[tuple[str, Any, bool]], covers: Sequence[torch.Size]
    ) -> Iterator[tuple[list[tuple[int, ...]], bool]]:
        """The shapes on each rank, and whether all pad, of every tensor to gather; raises on all ranks if they
        disagree."""
        facts: list[tuple[str, str]] = [("loss", loss)]
        rows: list[Tensor] = []
        for name, x, shared in entries:
            facts += self._facts(name, x, None if shared else rows)
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()
        words = [int.from_bytes(digest[i : i + 8], "little", signed=True) for i in (0, 8)]
        # Random draws in training use a key of rank 0; without such a loss no random state changes.
        words.append(int(torch.randint(2**31, ())) if _draws(self.loss) else 0)
        sizes = [n for x in rows for n in (int(any(x.shape[: len(s)] == s for s in covers)), *x.shape)]
        device = rows[0].device if rows else _device(self.group)
        room = _ROOM - len(words)
        told = _exchange(words + sizes[:room], _ROOM, device, self.group)
        if any(row[:2] != told[0][:2] for row in told):
            self._disagreed(facts)
        self._key = told[0][2]
        every = [row[3:] for row in told]
        if len(sizes) > room:  # the facts agree, and so does the number of sizes
            rest = _exchange(sizes[room:], len(sizes) - room, device, self.group)
            every = [first + second for first, second in zip(every, rest)]
        start, found = 0, []
        for x in rows:
            stop = start + 1 + x.ndim
            found.append(([tuple(row[start + 1 : stop]) for row in every], all(row[start] for row in every)))
            start = stop
        return iter(found)

    def _facts(self, name: str, x: Any, rows: list[Tensor] | None) -> list[tuple[str, str]]:
        """Named facts that must agree on all ranks; tensors to gather are appended to ``rows`` (None for shared
        ones)."""
        if isinstance(x, Tensor):
            kind = str(x.dtype).removeprefix("torch.")
            if rows is None:
                return [(name, f"{kind} {shape_text(x)}")]
            if x.ndim == 0:
                return [(name, f"{kind} {x.item()!r}")]
            if x.ndim > _MOST_AXES:
                return [(name, f"{kind} of {x.ndim} axes")]
            rows.append(x)
            return [(name, f"{kind} of {x.ndim} axes{', with a gradient' * _differentiated(x)}")]
        if isinstance(x, (tuple, list)):
            inner = (fact for i, part in enumerate(x) for fact in self._facts(f"{name}[{i}]", part, rows))
            return [(name, f"{len(x)} entries"), *inner]
        return [(name, _text(x))]

    def _disagreed(self, facts: list[tuple[str, str]]) -> None:
        """Raise the same error on every rank, about the first fact that differs."""
        every: list[Any] = [None] * _world(self.group)
        dist.all_gather_object(every, facts, group=self.group)
        held = [dict(row) for row in every]
        for name in dict.fromkeys(name for row in held for name in row):
            texts = [row.get(name) for row in held]
            if None in texts:
                lacking = [rank for rank, text in enumerate(texts) if text is None]
                fail("DistributedLoss", name, "be given on every rank or on none", f"none on ranks {lacking}")
            if len(set(texts)) > 1:
                came = ", ".join(f"{text} on rank {rank}" for rank, text in enumerate(texts))
                fail("DistributedLoss", name, "be the same on every rank", came)
        fail("DistributedLoss", "inputs", "have the same order on every rank", [list(row) for row in held])

    def _gathered(self, name: str, x: Any, told: Iterator[tuple[list[tuple[int, ...]], bool]]) -> Any:
        """``x`` with every tensor of rows gathered, padded in time if there is a mask."""
        if isinstance(x, Tensor):
            if x.ndim == 0:
                return x
            if x.ndim > _MOST_AXES:
                fail("DistributedLoss", name, f"have at most {_MOST_AXES} axes, rows first", shape_text(x))
            return _assembled("DistributedLoss", name, x, *next(told), self.group)
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return type(x)(*(self._gathered(f"{name}[{i}]", part, told) for i, part in enumerate(x)))
        if isinstance(x, (tuple, list)):
            return type(x)(self._gathered(f"{name}[{i}]", part, told) for i, part in enumerate(x))
        return x


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """The device on which a group exchanges numbers."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


__all__ = ["SHARED", "DistributedLoss", "gather_rows"]
