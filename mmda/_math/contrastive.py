"""Shared by the losses on paired rows: checks and conversion of anchors, candidates, weights and masks."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_mask, check_number, check_same_width, check_tensor, check_weight, fail, shape_text
from mmda._core.masking import working_dtype
from mmda._core.rows import as_rows
from mmda._core.transforms import carries_slope
from mmda._core.unit_rows import normalized_rows
from mmda._engine.logit_pairs import Pairs


def pair_rows(
    caller: str,
    anchor: Tensor,
    positive: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    *,
    zeroed: bool = True,
) -> Pairs:
    """Check and flatten anchors and the same number of positives; ``weight`` and ``mask`` apply to both."""
    pairs = candidate_rows(caller, anchor, positive, weight, mask, same_size=True, zeroed=zeroed)
    if pairs.a.shape[0] != pairs.b.shape[0]:
        fail(caller, "positive", f"have as many rows as `anchor` ({pairs.a.shape[0]})", pairs.b.shape[0])
    return pairs


def candidate_rows(
    caller: str,
    anchor: Tensor,
    positive: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    candidate_mask: Tensor | None = None,
    *,
    normalize: bool = False,
    same_size: bool = False,
    zeroed: bool = True,
) -> Pairs:
    """Check and flatten anchors and candidates; ``mask`` and ``weight`` apply to both if the sizes agree.

    If they do not, a mask requires a candidate mask, because padded candidates would silently become negatives.
    ``zeroed``: see :func:`as_rows`.
    """
    check_tensor(caller, "anchor", anchor)
    check_tensor(caller, "positive", positive)
    paired = anchor.shape[:-1] == positive.shape[:-1]
    of_candidates = "candidate_"
    if candidate_mask is None and paired:
        candidate_mask, of_candidates = mask, ""
    elif candidate_mask is None and mask is not None and not same_size:
        rule = "be given with `mask` if `positive` has other rows (all True without padding)"
        fail(caller, "candidate_mask", rule, None)
    dtype, b_weight = working_dtype(anchor, positive), weight if paired else None
    a, a_count = as_rows(caller, "anchor", anchor, mask=mask, weight=weight, dtype=dtype, prefix="", zeroed=zeroed)
    differentiated = a_count is not None and carries_slope(a_count)
    if not (zeroed or differentiated) and paired and candidate_mask is mask and anchor.ndim == 2:
        b, b_count = as_rows(caller, "positive", positive, mask=None, weight=None, dtype=dtype)[0], a_count
    else:
        b, b_count = as_rows(
            caller,
            "positive",
            positive,
            mask=candidate_mask,
            weight=b_weight,
            dtype=dtype,
            prefix=of_candidates,
            zeroed=zeroed,
        )
    check_same_width(caller, "anchor", a, "positive", b)
    if normalize:
        a, b = normalized_rows(a), normalized_rows(b)
    return Pairs(a, b, a_count=a_count, b_count=b_count)


def plainly_paired(anchor: Tensor, positive: Tensor) -> bool:
    """Whether the inputs need neither checks nor conversion by :func:`candidate_rows`.

    For small batches the individual checks would take a considerable part of the time.
    """
    return (
        isinstance(anchor, Tensor)
        and isinstance(positive, Tensor)
        and not (anchor.is_nested or positive.is_nested)
        and anchor.ndim == 2
        and anchor.shape == positive.shape
        and anchor.numel() > 0
        and anchor.dtype is positive.dtype is torch.float32
        and anchor.layout is positive.layout is torch.strided
        and anchor.device == positive.device
        and anchor.device.type != "meta"  # not supported by autocast
        and (torch.compiler.is_compiling() or not (anchor.is_neg() or positive.is_neg()))
        and not torch.is_autocast_enabled(anchor.device.type)
    )


def check_temperature(caller: str, temperature: float | Tensor) -> None:
    """Require a number > 0 or a scalar tensor."""
    if not isinstance(temperature, Tensor):
        check_number(caller, "temperature", temperature, above=0.0)
    elif temperature.ndim != 0:
        fail(caller, "temperature", "have shape ()", shape_text(temperature))


def with_masks(
    caller: str,
    pairs: Pairs,
    positive_mask: Tensor | None,
    negative_mask: Tensor | None,
    positive_weight: Tensor | None = None,
) -> Pairs:
    """Check pair masks and weights (n, m) and add them to ``pairs``; without positives, n = m is required."""
    n, m = pairs.a.shape[0], pairs.b.shape[0]
    if positive_mask is not None:
        check_mask(caller, "positive_mask", positive_mask, (n, m), device=pairs.a.device)
    if negative_mask is not None:
        check_mask(caller, "negative_mask", negative_mask, (n, m), device=pairs.a.device)
    if positive_weight is not None:
        check_weight(caller, "positive_weight", positive_weight, (n, m), device=pairs.a.device)
    if positive_mask is None and positive_weight is None and n != m:
        fail(caller, "positive_mask", f"be given if `anchor` has {n} rows and `positive` another number", m)
    return pairs._replace(positive_mask=positive_mask, positive_weight=positive_weight, negative_mask=negative_mask)
