"""Shared by the validators: selecting the rows kept by a mask, and iterating over blocks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mmda._core.checks import check_floating, check_mask, fail, shape_text
from mmda._core.masking import working_dtype


def kept_rows(
    caller: str, argument: str, x: Tensor, mask: Tensor | None, *, least: int = 1, mask_name: str = "mask"
) -> Tensor:
    """The rows (n, d) where the mask is True, at least ``least``, in the working dtype."""
    check_floating(caller, argument, x)
    if x.ndim not in ((2,) if mask is None else (2, 3)):
        rule = "have shape (samples, features)" + ("" if mask is None else " or (batch, time, features)")
        fail(caller, argument, rule, shape_text(x))
    if mask is not None:
        check_mask(caller, mask_name, mask, x.shape[:-1], device=x.device)
        x = x[mask]
    if x.shape[0] < least or x.shape[1] == 0:
        fail(caller, argument, f"keep at least {least} row{'s' * (least > 1)} of at least 1 feature", shape_text(x))
    return x.detach().to(working_dtype(x))


def kept_classes(caller: str, logits: Tensor, mask: Tensor | None) -> Tensor:
    """:func:`kept_rows` of logits over at least two classes."""
    rows = kept_rows(caller, "logits", logits, mask)
    if rows.shape[1] < 2:
        fail(caller, "logits", "have at least 2 classes", rows.shape[1])
    return rows


def blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
