"""Masked pooling over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import check_count, check_features, check_mask, fail
from mmda._core.masking import full_precision, safe_divide, working_dtype, zero_padding
from mmda._core.module_checks import check_at_weights
from mmda._core.reductions import masked_softmax


def _rows_and_mask(caller: str, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    check_features(caller, "x", x, axes="(batch, time, features)", ndim=3)
    rows = x.to(working_dtype(x))
    if mask is None:
        return rows, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    check_mask(caller, "mask", mask, x.shape[:2], device=x.device)
    return zero_padding(rows, mask), mask


class MaskedMeanPool(nn.Module):
    r"""Mean over the valid steps, :math:`\frac{1}{|M|} \sum_{t \in M} x_t`; zero if there is none.

    Shape:
        ``x`` (b, t, d), ``mask`` (b, t) bool; result (b, d).

    Raises:
        ValueError: wrong shapes.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [float("nan")]]])
        >>> MaskedMeanPool()(x, mask=torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Mean over the valid steps."""
        with full_precision(x):
            rows, keep = _rows_and_mask("MaskedMeanPool", x, mask)
            return safe_divide(rows.sum(1), keep.sum(1, keepdim=True).to(rows.dtype))

    if TYPE_CHECKING:
        __call__ = forward


class AttentionPool(nn.Module):
    r"""Learned weighted mean over the valid steps.

    .. math:: y = \sum_t a_t x_t, \qquad a = \operatorname{softmax}_{t \in M}(w \cdot \tanh(W x_t + b))

    Args:
        features: d, the width of the frames.
        hidden: width of W; ``features`` by default.

    Shape:
        ``x`` (b, t, d), ``mask`` (b, t) bool; result (b, d). A row without a valid step gives zero.

    Raises:
        ValueError: wrong shapes, a width below 1.

    Example:
        >>> pool = AttentionPool(4)
        >>> pool(torch.ones(2, 3, 4)).shape
        torch.Size([2, 4])

    References:
        Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL 2016, equations 5-7.
    """

    def __init__(self, features: int, *, hidden: int | None = None) -> None:
        super().__init__()
        check_count("AttentionPool", "features", features)
        check_count("AttentionPool", "hidden", features if hidden is None else hidden)
        self.inner = nn.Linear(features, features if hidden is None else hidden)
        self.score = nn.Linear(self.inner.out_features, 1, bias=False)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Weighted mean over the valid steps."""
        with full_precision(x):
            rows, keep = _rows_and_mask("AttentionPool", x, mask)
            check_at_weights("AttentionPool", "x", x, self.score.weight)
            if rows.shape[-1] != self.inner.in_features:
                fail("AttentionPool", "x", f"have {self.inner.in_features} features", rows.shape[-1])
            dtype = torch.promote_types(rows.dtype, self.score.weight.dtype)
            rows = rows.to(dtype)
            hidden = torch.tanh(F.linear(rows, self.inner.weight.to(dtype), self.inner.bias.to(dtype)))
            scores = F.linear(hidden, self.score.weight.to(dtype)).squeeze(-1)
            return torch.bmm(masked_softmax(scores, keep, 1).unsqueeze(1), rows).squeeze(1)

    if TYPE_CHECKING:
        __call__ = forward
