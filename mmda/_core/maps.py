"""Feature maps as rows, one per position."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_mask, check_same_width, check_weight
from mmda._core.masking import working_dtype
from mmda._core.rows import as_rows


def channels_last(x: Tensor) -> Tensor:
    """A feature map ``(b, c, h, w)`` as ``(b, h, w, c)``; anything else as it is."""
    return x.movedim(1, 3) if isinstance(x, Tensor) and x.ndim == 4 else x


def as_map_rows(
    caller: str,
    argument: str,
    x: Tensor,
    *,
    mask: Tensor | None,
    weight: Tensor | None,
    dtype: torch.dtype,
    prefix: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`as_rows` that also accepts feature maps ``(b, c, h, w)``: every position is a row of c features."""
    prefix = argument + "_" if prefix is None else prefix
    if isinstance(x, Tensor) and x.ndim == 4:
        places = (x.shape[0], *x.shape[2:])
        if mask is not None:
            check_mask(caller, prefix + "mask", mask, places, device=x.device)
            mask = mask.reshape(-1)
        if weight is not None:
            check_weight(caller, prefix + "weight", weight, places, device=x.device)
            weight = weight.reshape(-1)
        x = channels_last(x).reshape(-1, x.shape[1])
    return as_rows(caller, argument, x, mask=mask, weight=weight, dtype=dtype, prefix=prefix)


def two_map_samples(
    caller: str,
    source: Tensor,
    target: Tensor,
    source_weight: Tensor | None,
    target_weight: Tensor | None,
    source_mask: Tensor | None,
    target_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The rows of two samples, of one width, and their counts; each sample may be feature maps."""
    dtype = working_dtype(source, target)
    x, x_weight = as_map_rows(caller, "source", source, mask=source_mask, weight=source_weight, dtype=dtype)
    y, y_weight = as_map_rows(caller, "target", target, mask=target_mask, weight=target_weight, dtype=dtype)
    check_same_width(caller, "source", x, "target", y)
    return x, y, x_weight, y_weight
