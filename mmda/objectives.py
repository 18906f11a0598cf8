"""Weighted sums of named loss terms, and gradient caching for batches larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_number, check_tensor, fail, fail_type


class Objective(NamedTuple):
    """A total loss and its terms.

    Attributes:
        total: scalar, the weighted sum.
        terms: unweighted terms by role.
    """

    total: Tensor
    terms: dict[str, Tensor]


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor] | None = None) -> Objective:
    r"""Sum of named scalar terms, each times its weight.

    .. math:: L = \sum_r w_r L_r

    A sum, not a mean, so switching a term off does not change the scale of the others. Roles without a weight have
    weight 1; the number 0 removes the term from the graph, while a tensor always multiplies.

    Args:
        terms: scalar tensors by role; at least one.
        weights: weights by role, numbers or scalar tensors. Every key must be a role in ``terms``.

    Returns:
        :class:`Objective` with the scalar total and the unweighted terms.

    Raises:
        ValueError: ``terms`` is empty, a term is not a scalar, a weight is not finite or not a scalar, or ``weights``
            names an unknown role (the message lists both sets).
        TypeError: not a mapping, a term that is not a tensor, a weight that is not a number.

    Example:
        >>> import torch
        >>> objective = weighted_sum({"moment": torch.tensor(2.0), "video": torch.tensor(3.0)}, {"video": 0.5})
        >>> objective.total.item()
        3.5
    """
    caller = "weighted_sum"
    if not isinstance(terms, Mapping):
        fail_type(caller, "terms", "be a mapping of roles to scalar tensors", terms)
    if weights is None:
        weights = {}
    elif not isinstance(weights, Mapping):
        fail_type(caller, "weights", "be a mapping of roles to numbers", weights)
    unknown = sorted(set(weights) - set(terms))
    if unknown:
        fail(caller, "weights", f"name roles among {sorted(terms)}", unknown)
    if not terms:
        fail(caller, "terms", "hold at least one term", "none")
    for role, weight in weights.items():
        if not isinstance(weight, Tensor):
            check_number(caller, f"weights[{role!r}]", weight)
        elif weight.ndim != 0:
            fail(caller, f"weights[{role!r}]", "be a number or a scalar tensor", tuple(weight.shape))
    for role, term in terms.items():
        check_tensor(caller, f"terms[{role!r}]", term)
        if term.ndim != 0:
            fail(caller, f"terms[{role!r}]", "be a scalar", tuple(term.shape))
    total: Tensor | None = None
    for role, term in terms.items():
        weight = weights.get(role, 1.0)
        if isinstance(weight, Tensor) or weight != 0:  # tensor values are not read
            part = weight * term if isinstance(weight, Tensor) or weight != 1 else term
            total = part if total is None else total + part
    if total is None:
        term = next(iter(terms.values()))
        total = torch.where(term.new_zeros((), dtype=torch.bool), term, torch.zeros_like(term))
    return Objective(total, dict(terms))


def cached_backward(
    loss: Callable[..., Tensor],
    encoders: Callable[..., Tensor] | Sequence[Callable[..., Tensor]],
    *inputs: Any,
    chunk: int,
    **keywords: Any,
) -> Tensor:
    r"""Exact gradient of a loss over a large batch in the memory of small chunks (GradCache).

    There are three passes: all chunks are encoded without a graph; the loss and its gradient are computed on all
    embeddings z at once; each chunk is encoded again with a graph and backpropagated from the gradient of its rows,

    .. math:: \frac{\partial L}{\partial \theta} = \sum_{\text{chunks } c}
              \frac{\partial L}{\partial z_c} \, \frac{\partial z_c}{\partial \theta}

    Args:
        loss: any loss of embeddings, including discrepancies and :class:`~mmda.distributed.DistributedLoss`; called as
            ``loss(*embeddings, **keywords)``.
        encoders: one for all inputs, or one per input; output row i must depend only on input row i.
        inputs: one per embedding: a tensor of rows, or a tuple or dict of tensors (rows first) passed to the encoder as
            arguments or keywords.
        chunk: rows encoded at once with a graph.
        keywords: keyword arguments of the loss: masks, weights, labels of the whole batch.

    Returns:
        The loss, detached. Gradients are added to ``.grad`` of the parameters of encoders and loss, as
        ``loss.backward()`` does.

    Raises:
        ValueError: no input, numbers of encoders and inputs that differ, tensors with different numbers of rows, a loss
            that is not a scalar, ``chunk`` below 1.

    Notes:
        Each row is encoded twice, which takes about a third more time, and only one chunk's graph is in memory. Dropout
        draws the same numbers in both passes, and buffers (running statistics) are updated once. Batch normalisation in
        training mode uses the statistics of chunks, so the gradient is exact for that model, not for the whole batch.
        Encoders under ``DistributedDataParallel`` synchronise gradients only with their last chunk. With a gradient
        scaler return the scaled loss. Call it inside ``torch.autocast`` for mixed precision.

    Example:
        >>> import torch
        >>> from mmda.losses import InfoNCELoss
        >>> encoder = torch.nn.Linear(4, 2)
        >>> value = cached_backward(InfoNCELoss(), encoder, torch.randn(64, 4), torch.randn(64, 4), chunk=16)
        >>> encoder.weight.grad.shape
        torch.Size([2, 4])

    References:
        Gao, Zhang, Han & Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP
        2021: for contrastive losses; the method applies to any loss of embeddings.
    """
    caller = "cached_backward"
    check_count(caller, "chunk", chunk)
    if not inputs:
        fail(caller, "inputs", "hold at least one input", "none")
    every = list(encoders) if isinstance(encoders, Sequence) else [encoders] * len(inputs)
    if len(every) != len(inputs):
        fail(caller, "encoders", f"be one, or one per input ({len(inputs)})", len(every))
    calls = [
        (side, encoder, part)
        for side, (encoder, x) in enumerate(zip(every, inputs))
        for part in _chunks(caller, x, chunk)
    ]
    modules = {id(encoder): encoder for encoder in every if isinstance(encoder, nn.Module)}
    buffers = [(b, b.clone()) for module in modules.values() for b in module.buffers()]
    devices = sorted({t.device.index for _, _, part in calls for t in _tensors(part) if t.device.type == "cuda"})
    states, parts = [], []
    with torch.no_grad():
        for _, encoder, part in calls:
            states.append(_random_state(devices))
            parts.append(_encoded(caller, encoder, part))
        for buffer, value in buffers:
            buffer.copy_(value)
    sides = [[z for (side, *_), z in zip(calls, parts) if side == wanted] for wanted in range(len(inputs))]
    embeddings = [torch.cat(side).detach().requires_grad_() for side in sides]
    value = loss(*embeddings, **keywords)
    if not isinstance(value, Tensor) or value.ndim != 0:
        fail(caller, "loss", "return a scalar tensor", getattr(value, "shape", type(value).__name__))
    value.backward()  # type: ignore[no-untyped-call]
    gradients: list[Tensor] = []
    for z, side in zip(embeddings, sides):
        gradient = torch.zeros_like(z) if z.grad is None else z.grad
        gradients += torch.split(gradient, [len(rows) for rows in side])
    last = {id(encoder): position for position, (_, encoder, _) in enumerate(calls)}
    after = _random_state(devices)
    for position, ((_, encoder, part), state, gradient) in enumerate(zip(calls, states, gradients)):
        alone = last[id(encoder)] != position and hasattr(encoder, "no_sync")
        with encoder.no_sync() if alone else nullcontext():  # type: ignore[attr-defined]
            _set_random_state(state, devices)
            rows = _encoded(caller, encoder, part)
            if rows.requires_grad:
                rows.backward(gradient)  # type: ignore[no-untyped-call]
    _set_random_state(after, devices)
    return value.detach()


def _tensors(part: Any) -> list[Tensor]:
    if isinstance(part, Mapping):
        return list(part.values())
    return list(part) if isinstance(part, (tuple, list)) else [part]


def _chunks(caller: str, x: Any, size: int) -> list[Any]:
    """Split a tensor, or each tensor in a tuple or dict, into chunks of ``size`` rows."""
    tensors = _tensors(x)
    for tensor in tensors:
        check_tensor(caller, "inputs", tensor)
    if not tensors or len({len(tensor) for tensor in tensors}) > 1:
        fail(caller, "inputs", "hold tensors with the same number of rows", [len(tensor) for tensor in tensors])
    starts = range(0, len(tensors[0]), size)
    if isinstance(x, Mapping):
        return [{name: tensor[i : i + size] for name, tensor in x.items()} for i in starts]
    if isinstance(x, (tuple, list)):
        return [tuple(tensor[i : i + size] for tensor in x) for i in starts]
    return [x[i : i + size] for i in starts]


def _encoded(caller: str, encoder: Callable[..., Tensor], part: Any) -> Tensor:
    if isinstance(part, Mapping):
        rows = encoder(**part)
    else:
        rows = encoder(*part) if isinstance(part, tuple) else encoder(part)
    if not isinstance(rows, Tensor) or rows.ndim == 0 or len(rows) != len(_tensors(part)[0]):
        fail(caller, "encoders", "return one row per input row", getattr(rows, "shape", type(rows).__name__))
    return rows


def _random_state(devices: Sequence[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _set_random_state(states: Sequence[Tensor], devices: Sequence[int]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:]):
        torch.cuda.set_rng_state(state, device)


__all__ = ["Objective", "cached_backward", "weighted_sum"]
