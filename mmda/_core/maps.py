"""Feature maps as rows, one per position."""

from __future__ import annotations

from torch import Tensor

from mmda._core.checks import check_mask, check_weight
from mmda._core.rows import two_samples


def two_map_samples(
    caller: str,
    source: Tensor,
    target: Tensor,
    source_weight: Tensor | None,
    target_weight: Tensor | None,
    source_mask: Tensor | None,
    target_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """:func:`two_samples` that also accepts feature maps ``(b, c, h, w)``: every position is a row of c features."""
    x, x_weight, x_mask = _flat(caller, "source", source, source_weight, source_mask)
    y, y_weight, y_mask = _flat(caller, "target", target, target_weight, target_mask)
    return two_samples(caller, x, y, x_weight, y_weight, x_mask, y_mask)


def _flat(
    caller: str, argument: str, x: Tensor, weight: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if not isinstance(x, Tensor) or x.ndim != 4:
        return x, weight, mask
    places = (x.shape[0], *x.shape[2:])
    if mask is not None:
        check_mask(caller, argument + "_mask", mask, places)
        mask = mask.reshape(-1)
    if weight is not None:
        check_weight(caller, argument + "_weight", weight, places)
        weight = weight.reshape(-1)
    return x.movedim(1, 3).reshape(-1, x.shape[1]), weight, mask
