"""Shared by the adversarial losses: balanced cross-entropy of two domains, and calling a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import fail, shape_text
from mmda._core.components import check_logits
from mmda._core.rows import as_rows
from mmda._math.logits import weighted_mean


def side_logits(
    caller: str, side: str, logits: Tensor, mask: Tensor | None, weight: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Logits of one domain, one per row and of any shape, as ``(n,)``, and their weights (None if all are one)."""
    argument, prefix = side + "_logits", side + "_"
    return as_rows(caller, argument, logits, mask=mask, weight=weight, dtype=dtype, prefix=prefix, axis=None)


def balanced_binary(
    source: Tensor, target: Tensor, source_weight: Tensor | None, target_weight: Tensor | None
) -> Tensor:
    """Mean of the two domains' mean cross-entropies from flat logits; zero if a domain has no row left."""
    of_source = weighted_mean(F.logsigmoid(-source), source_weight)
    of_target = weighted_mean(F.logsigmoid(target), target_weight)
    value = (of_source + of_target) / -2
    totals = [weight.sum() for weight in (source_weight, target_weight) if weight is not None]
    if not totals:
        return value
    return torch.where((torch.stack(totals) > 0).all(), value, 0 * value)


def ask(caller: str, discriminator: nn.Module, rows: Tensor, outputs: int | None, dtype: torch.dtype) -> Tensor:
    """Logits of the rows: ``(n,)`` if ``outputs`` is None, else ``(n, k)`` with k >= ``outputs``.

    The rows are cast to the discriminator's dtype and the logits back to the working dtype.
    """
    parameter = next(discriminator.parameters(), None)
    logits = discriminator(rows if parameter is None else rows.to(parameter.dtype))
    n = rows.shape[0]
    if not isinstance(logits, Tensor):
        fail(caller, "discriminator", "return a tensor of logits", type(logits).__name__)
    check_logits(caller, "discriminator", logits, "return logits")
    if outputs is None:
        if tuple(logits.shape) not in ((n,), (n, 1)):
            fail(caller, "discriminator", f"return logits of shape ({n},) or ({n}, 1)", shape_text(logits))
        logits = logits.reshape(n)
    elif logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < outputs:
        fail(caller, "discriminator", f"return logits of shape ({n}, domains)", shape_text(logits))
    return logits.to(dtype)
