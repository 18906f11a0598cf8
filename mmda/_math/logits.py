"""Class logits as rows, and quantities derived from log-softmax that losses on predictions share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.components import check_logits
from mmda._core.masking import safe_divide
from mmda._core.reductions import masked_logsumexp
from mmda._core.rows import as_rows


def as_logit_rows(
    caller: str,
    argument: str,
    logits: Tensor,
    *,
    dtype: torch.dtype,
    mask: Tensor | None,
    weight: Tensor | None,
    prefix: str = "",
) -> tuple[Tensor, Tensor | None]:
    """:func:`as_rows` for logits over at least two classes, which are not the output of a softmax."""
    check_logits(caller, argument, logits)
    return as_rows(
        caller,
        argument,
        logits,
        dtype=dtype,
        mask=mask,
        weight=weight,
        prefix=prefix,
        axis="classes",
        least=2,
    )


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean over the rows of values ``(n,)`` or ``(n, k)``; a differentiable zero if the total weight is
    zero."""
    return values.mean(0) if weight is None else safe_divide(weight @ values, weight.sum())


def entropy_of(log_probability: Tensor) -> Tensor:
    """Entropy in nats over the last axis of log-probabilities; p log p has value and gradient 0 for p = 0."""
    zero = torch.zeros((), dtype=log_probability.dtype, device=log_probability.device)
    return -(log_probability.exp() * torch.where(log_probability == -torch.inf, zero, log_probability)).sum(-1)


def log_mean_probability(log_probability: Tensor, weight: Tensor | None) -> Tensor:
    """Log of the weighted mean probability over rows ``(n, k)``, computed in the log domain; ``(k,)``.

    Minus infinity, with gradient 0, for classes of probability zero in all rows of nonzero weight.
    """
    infinity = torch.full((), torch.inf, dtype=log_probability.dtype, device=log_probability.device)
    zero = torch.zeros_like(infinity)
    out = log_probability == -infinity
    if weight is None:
        never = out.all(0)
        rows = log_probability.new_full((), float(log_probability.shape[0]))
        value = torch.where(never, zero, log_probability).logsumexp(0)
        return torch.where(never, -infinity, value - rows.log())
    counted = weight > 0
    never = (out | ~counted.unsqueeze(1)).all(0) & counted.any()
    log_probability = torch.where(never, zero, log_probability)
    one = torch.ones((), dtype=weight.dtype, device=weight.device)
    shifted = log_probability + torch.where(counted, weight, one).log().unsqueeze(1)
    total = weight.sum()
    kept = counted.unsqueeze(1).expand_as(shifted)
    value = masked_logsumexp(shifted, kept, 0) - torch.where(total > 0, total, one).log()
    return torch.where(never, -infinity, value)


def log_one_minus(logits: Tensor, chosen: Tensor) -> Tensor:
    """log(1 - softmax) of one chosen class per row, ``(n, k)`` and ``(n,)`` to ``(n,)``, accurate near 0 and 1.

    Computed as the log-sigmoid of the others' log-sum-exp minus the chosen logit, so value and gradient stay finite for
    confident predictions, while log(1 - p) is minus infinity once p rounds to 1.
    """
    chosen = chosen.unsqueeze(1)
    others = logits.scatter(1, chosen, -torch.inf).logsumexp(1)
    return F.logsigmoid(others - logits.gather(1, chosen).squeeze(1))
