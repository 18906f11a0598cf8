"""Losses over the rows of all ranks: a gather with a gradient, and a module that puts it in front of any loss.

A discrepancy of two batches is no mean over their rows: the average of the ranks' losses is another number than the
loss of the gathered batch, and so are its gradients. Wrapped in :class:`DistributedLoss`, a loss sees the rows of every
rank; its value is that of the gathered batch on each of them, and after the averaging of ``DistributedDataParallel``
so are the gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmda._core.checks import check_callable, check_sequence, check_tensor, fail, shape_text

#: Keyword tensors that speak of the gathered batch, or of no row at all, and so are passed on as they are.
SHARED = ("indices", "negative_mask", "positive_mask", "positive_weight", "projections")

#: The most axes that a gathered tensor may have.
_MOST_AXES = 8


def _world(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather_rows(x: Tensor, *, group: dist.ProcessGroup | None = None, pad: bool = False) -> Tensor:
    r"""Rows of all ranks, one after another in the order of the ranks, on every rank and with a gradient.

    With :math:`x^{(r)}` the rows of rank r, every rank receives :math:`X = (x^{(0)}; x^{(1)}; \dots)`. Backward sums
    what the ranks did with it: if rank q computes :math:`L_q(X)`, the gradient on rank r is

    .. math:: \sum_q \frac{\partial L_q}{\partial X} \text{ at the rows of } x^{(r)}

    Args:
        x: this rank's rows. Their number may differ between ranks, and may be zero.
        group: process group; all processes by default.
        pad: let the axes behind the first differ too: the shorter are filled with zeros (False) at their ends.

    Shape:
        ``x`` (n, ...), result (sum of n over ranks, ...).

    Returns:
        A new tensor of the dtype of ``x``, the same on every rank; ``x`` itself where there is no process group or one
        process.

    Raises:
        ValueError: no axis or more than eight; ranks with a different number of axes, or with different axes behind the
            first without ``pad``. Every rank raises.
        TypeError: not a tensor.

    Notes:
        Collective: every rank must call it, in the same order, and go backward through it. Forward exchanges the shapes
        (which a GPU waits for) and the rows, padded to the largest rank; backward is one all-reduce of the gradient, in
        float32 for half precision. Where every rank computes the same :math:`L(X)`, that sum is the world size times
        :math:`\partial L / \partial x^{(r)}`, and the mean that data-parallel training takes over ranks gives the
        gradient of L for the parameters in front. Second derivatives are right too. Tensors without a gradient, such as
        masks and labels, are gathered as they are.

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
    shapes, pad = _shapes(x, pad, group)
    if any(len(shape) != x.ndim for shape in shapes):
        fail("gather_rows", "x", "have as many axes on every rank", _listed(shapes))
    rest = tuple(max(sizes) for sizes in zip(*(shape[1:] for shape in shapes)))
    if any(shape[1:] != rest for shape in shapes):
        if not pad:
            fail("gather_rows", "x", "have the same axes behind the first on every rank", _listed(shapes))
        x = _pad(x, (x.shape[0], *rest))
    sizes = [shape[0] for shape in shapes]
    if x.requires_grad and torch.is_grad_enabled():
        return cast(Tensor, _Gather.apply(x, sizes, group))  # type: ignore[no-untyped-call]
    return _gather(x, sizes, group)


def _shapes(x: Tensor, pad: bool, group: dist.ProcessGroup | None) -> tuple[list[tuple[int, ...]], bool]:
    """The shape of ``x`` on every rank, and whether all of them pad: so all ranks go on or all raise."""
    facts = [int(pad), x.ndim, *x.shape]
    own = torch.tensor(facts + [0] * (2 + _MOST_AXES - len(facts)), device=x.device)
    every = [torch.empty_like(own) for _ in range(_world(group))]
    dist.all_gather(every, own, group=group)
    told = torch.stack(every).tolist()
    return [tuple(row[2 : 2 + row[1]]) for row in told], all(row[0] for row in told)


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _pad(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` with zeros behind it on every axis that is short of ``shape``."""
    missing = [after for size, wanted in zip(x.shape[::-1], shape[::-1]) for after in (0, wanted - size)]
    if x.dtype == torch.bool:
        return nn.functional.pad(x.to(torch.uint8), missing).bool()
    return nn.functional.pad(x, missing)


def _gather(x: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Rows of all ranks; ``sizes`` says how many each has."""
    most = max(sizes)
    sent = x.detach().to(torch.uint8) if x.dtype == torch.bool else x.detach()
    if most > sent.shape[0]:
        sent = _pad(sent, (most, *sent.shape[1:]))
    sent = sent.contiguous()
    every = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(every, sent, group=group)
    return torch.cat([rows[:size] for rows, size in zip(every, sizes)]).to(x.dtype)


def _sum_own(gradient: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """The sum over ranks, at the rows of this one."""
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
    """The transpose of :class:`_Gather`, and the other way round."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _sum_own(gradient, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradients[0], ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


def _keywords(loss: Callable[..., Tensor]) -> set[str] | None:
    """The arguments of a loss by name; None where it takes any, or does not say."""
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


class DistributedLoss(nn.Module):
    """Any loss, on the gathered batch of all ranks.

    Every tensor of the call is gathered by :func:`gather_rows`, those in tuples and lists too, and the loss is called
    with the result.

    Args:
        loss: a discrepancy, a pair loss, an adversary, or a function of your own.
        group: process group; all processes by default.
        shared: names of keyword tensors that are passed on as they are. Masks of pairs are among them: they have the
            shape of the gathered batch, so build them from gathered identities, as
            ``duplicate_mask(gather_rows(ids))``.

    Shape:
        As the loss. Rows may differ in number between ranks; with a mask (b, t, d), t may differ too.

    Returns:
        What the loss returns on the gathered batch: the same on every rank.

    Raises:
        ValueError: a shared name that the loss does not take; ranks whose tensors do not fit together, see
            :func:`gather_rows`.
        TypeError: a loss that is not callable or a class, ``shared`` that is one name instead of several.

    Notes:
        Under ``DistributedDataParallel`` nothing is to be scaled: the averaged gradients are those of the gathered
        batch, for the network in front and for parameters of the loss (a discriminator, a temperature) alike. The
        latter have the full gradient on every rank before any averaging. Put the loss's parameters into the module
        that is wrapped, or give them to the optimiser of each rank: both keep the ranks equal, if they begin equal.

        Each rank computes the whole loss, O(N^2 d) time for N rows in all, and holds O(N d) memory, plus what the loss
        needs. Every rank must give the same arguments. Losses that draw take a ``generator`` seeded alike on every
        rank, or no generator. The mean over rows of a loss such as the cross-entropy needs none of this where ranks
        have equally many rows; with unequal numbers it does.

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
    ) -> None:
        super().__init__()
        check_callable("DistributedLoss", "loss", loss)
        check_sequence("DistributedLoss", "shared", shared, "name", empty=True)
        known = _keywords(loss)
        unknown = [name for name in shared if known is not None and name not in known and name not in SHARED]
        if unknown:
            fail("DistributedLoss", "shared", f"name arguments of the loss ({', '.join(sorted(known or ()))})", unknown)
        self.loss = loss
        self.group = group
        self.shared = tuple(shared)

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor:
        """The loss of the gathered ``inputs`` and ``keywords``."""
        if _world(self.group) == 1:
            return self.loss(*inputs, **keywords)
        covers = [
            x.shape
            for name, x in keywords.items()
            if name.endswith("mask") and name not in self.shared and isinstance(x, Tensor) and x.ndim > 1
        ]
        positional = [self._gathered(x, covers) for x in inputs]
        named = {name: x if name in self.shared else self._gathered(x, covers) for name, x in sorted(keywords.items())}
        return self.loss(*positional, **named)

    def _gathered(self, x: Any, covers: Sequence[torch.Size]) -> Any:
        """``x`` with every tensor of rows in it gathered; padded in time where a mask says what is padding."""
        if isinstance(x, Tensor):
            if x.ndim == 0:
                return x
            covered = any(x.shape[: len(shape)] == shape for shape in covers)
            return gather_rows(x, group=self.group, pad=covered)
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return type(x)(*(self._gathered(part, covers) for part in x))
        if isinstance(x, (tuple, list)):
            return type(x)(self._gathered(part, covers) for part in x)
        return x


__all__ = ["SHARED", "DistributedLoss", "gather_rows"]
