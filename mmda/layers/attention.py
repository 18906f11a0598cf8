"""Frame-query similarity and attention pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmda._core.checks import fail, shape_text
from mmda._core.masking import full_precision, working_dtype, zero_padding
from mmda._core.reductions import masked_softmax
from mmda._core.unit_rows import normalized_rows
from mmda._math.frames import check_frames_and_queries
from mmda.layers.temperature import LearnableTemperature, keep_temperature, temperature_value


class FrameQueryAttention(nn.Module):
    r"""Pools the frames of a video by their similarity to a query.

    .. math::

       s_{ijt} = \cos(f_{it}, q_j), \qquad
       a_{ijt} = \frac{\exp(s_{ijt} / \tau)}{\sum_{t'} \exp(s_{ijt'} / \tau)}, \qquad
       p_{ij} = \sum_t a_{ijt} \frac{f_{it}}{\lVert f_{it} \rVert}

    for frame t of video i, query j and temperature :math:`\tau`. The sums run over valid frames.

    Args:
        temperature: :math:`\tau` > 0; small values pick the best frame, large ones average. A number, a scalar tensor
            (registered as a buffer, or as a parameter if it is one), or a :class:`~mmda.layers.LearnableTemperature`,
            registered as a submodule.
        detach_weights: stop the gradient through :math:`a`, so that only the pooled frames are trained and not the
            attention.

    Shape:
        ``frames`` (b, t, d), ``queries`` (b, d) and ``frame_mask`` (b, t) give ``pooled`` (b, d) and
        ``similarity`` (b, t), row i with query i; with ``every_pair=True`` and ``queries`` (n, d) they give
        ``pooled`` (b, n, d) and ``similarity`` (b, n, t).

    Returns:
        ``pooled`` and ``similarity`` (cosines, zero on padding), float32 or wider. A video without a frame pools
        to zero.

    Raises:
        ValueError: wrong shapes or widths, a temperature that is not positive.

    Example:
        >>> attention = FrameQueryAttention(temperature=0.1)
        >>> frames = torch.eye(3).unsqueeze(0)
        >>> pooled, similarity = attention(frames, torch.tensor([[0.0, 2.0, 0.0]]))
        >>> similarity
        tensor([[0., 1., 0.]])
    """

    temperature: float | Tensor | LearnableTemperature

    def __init__(
        self, *, temperature: float | Tensor | LearnableTemperature = 0.1, detach_weights: bool = False
    ) -> None:
        super().__init__()
        keep_temperature(self, "FrameQueryAttention", temperature)
        self.detach_weights = detach_weights

    def forward(
        self, frames: Tensor, queries: Tensor, *, frame_mask: Tensor | None = None, every_pair: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Pooled frames and similarities; see the class."""
        check_frames_and_queries("FrameQueryAttention", frames, queries, frame_mask)
        if not every_pair and frames.shape[0] != queries.shape[0]:
            rule = f"have one row per video ({frames.shape[0]}) unless every_pair=True"
            fail("FrameQueryAttention", "queries", rule, shape_text(queries))
        dtype = working_dtype(frames, queries)
        with full_precision(frames):
            f, mask = frames.to(dtype), frame_mask
            if mask is None:
                mask = torch.ones(f.shape[:2], dtype=torch.bool, device=f.device)
            else:
                f = zero_padding(f, mask)
            f, q = normalized_rows(f), normalized_rows(queries.to(dtype))
            if every_pair:
                similarity = torch.einsum("btd,nd->bnt", f, q)
                weights = self._weights(similarity, mask.unsqueeze(1).expand_as(similarity))
                return torch.bmm(weights, f), similarity
            similarity = torch.bmm(f, q.unsqueeze(2)).squeeze(2)
            return self.pool(f, similarity, mask), similarity

    if TYPE_CHECKING:
        __call__ = forward

    def pool(self, frames: Tensor, similarity: Tensor, frame_mask: Tensor) -> Tensor:
        """Pool unit rows (b, t, d), finite on padding, by similarities (b, t) that are known already; (b, d)."""
        with full_precision(frames):
            return torch.bmm(self._weights(similarity, frame_mask).unsqueeze(1), frames).squeeze(1)

    def _weights(self, similarity: Tensor, mask: Tensor) -> Tensor:
        logits = (similarity.detach() if self.detach_weights else similarity) / temperature_value(self.temperature)
        return masked_softmax(logits, mask, -1)

    def extra_repr(self) -> str:
        number = isinstance(self.temperature, (int, float))
        return (f"temperature={self.temperature:g}, " if number else "") + f"detach_weights={self.detach_weights}"
