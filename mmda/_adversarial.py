"""What the adversarial losses share: the balanced cross-entropy of two domains, and asking a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._checks import check_floating, check_mask, check_weight, fail, shape_text
from mmda._masking import safe_divide


def logit_rows(
    caller: str, argument: str, logits: Tensor, *, mask: Tensor | None, weight: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Check and flatten logits of any shape to ``(n,)`` and their weights, ``None`` where each counts once."""
    check_floating(caller, argument, logits)
    if logits.numel() == 0:
        fail(caller, argument, "have no empty axis", shape_text(logits))
    values = logits.to(dtype)
    row_weight = None
    if weight is not None:
        check_weight(caller, argument.replace("_logits", "_weight"), weight, logits.shape)
        row_weight = weight.to(dtype)
    if mask is not None:
        check_mask(caller, argument.replace("_logits", "_mask"), mask, logits.shape)
        zero = torch.zeros((), dtype=dtype, device=logits.device)
        values = torch.where(mask, values, zero)
        row_weight = torch.where(mask, zero + 1 if row_weight is None else row_weight, zero)
    return values.reshape(-1), None if row_weight is None else row_weight.reshape(-1)


def balanced_binary(
    source: Tensor, target: Tensor, source_weight: Tensor | None, target_weight: Tensor | None
) -> Tensor:
    """Mean of the two domains' mean cross-entropies from flat logits; zero where a side has no row left."""
    source_part, source_total = _mean(-F.logsigmoid(-source), source_weight)
    target_part, target_total = _mean(-F.logsigmoid(target), target_weight)
    value = (source_part + target_part) / 2
    if source_total is None and target_total is None:
        return value
    both = torch.stack([total > 0 for total in (source_total, target_total) if total is not None]).all()
    return torch.where(both, value, 0 * value)


def _mean(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if weight is None:
        return x.mean(), None
    total = weight.sum()
    return safe_divide(weight @ x, total), total


def ask(caller: str, discriminator: nn.Module, rows: Tensor, outputs: int | None, dtype: torch.dtype) -> Tensor:
    """Logits of the rows: ``(n,)`` where ``outputs`` is None, else ``(n, outputs)`` with any width >= ``outputs``.

    The rows are cast to the discriminator's own dtype and the logits back to the working one.
    """
    parameter = next(discriminator.parameters(), None)
    logits = discriminator(rows if parameter is None else rows.to(parameter.dtype))
    n = rows.shape[0]
    if not isinstance(logits, Tensor):
        fail(caller, "discriminator", "return a tensor of logits", type(logits).__name__)
    if outputs is None:
        if tuple(logits.shape) not in ((n,), (n, 1)):
            fail(caller, "discriminator", f"return logits of shape ({n},) or ({n}, 1)", shape_text(logits))
        logits = logits.reshape(n)
    elif logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < outputs:
        fail(caller, "discriminator", f"return logits of shape ({n}, domains)", shape_text(logits))
    return logits.to(dtype)
