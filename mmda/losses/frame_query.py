"""Frame-level similarity of a video and its query, supervised by a known moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.checks import check_mask, check_weight, fail, shape_text
from mmda._core.masking import full_precision, safe_divide, working_dtype, zero_padding
from mmda._core.reductions import masked_log_softmax, masked_mean
from mmda._core.unit_rows import normalized_rows
from mmda._math.contrastive import check_temperature
from mmda._math.frames import check_frames_and_queries
from mmda.layers.temperature import LearnableTemperature, temperature_value
from mmda.losses._tempered import TemperedModule


def frame_query_loss(
    frames: Tensor,
    queries: Tensor,
    moment_mask: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    frame_mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Negative listwise log-likelihood of the frames inside the moment; lower means the query matches those frames.

    .. math::

       L = - \frac{1}{\sum_i w_i} \sum_i w_i \frac{1}{|M_i|} \sum_{t \in M_i}
           \log \frac{\exp(s_{it})}{\sum_{t'} \exp(s_{it'})}, \qquad s_{it} = \cos(f_{it}, q_i) / \tau

    for frame t of video i, query i and moment frames :math:`M_i`; the sum over t' runs over all valid frames. The
    minimum of a row is :math:`\log |M_i|`, reached when the moment's frames share all probability equally.

    Args:
        frames: frame features in the joint space; normalised inside.
        queries: one query feature per video.
        moment_mask: bool, True inside the moment (or moments). A row without a moment frame is left out.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        frame_mask: bool, True = keep. Padding may hold anything.
        weight: row weights.

    Shape:
        ``frames`` (b, t, d), ``queries`` (b, d), ``moment_mask`` and ``frame_mask`` (b, t), ``weight`` (b,).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); a zero connected to the autograd graph where no row has a
        moment frame.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive.
        TypeError: a mask that is not bool.

    Notes:
        O(b t d). The exact form is our own choice: the listwise likelihood only compares frames of one video, so it
        does not depend on how similar whole videos are.

    Example:
        >>> frames = torch.eye(2).unsqueeze(0)
        >>> inside = torch.tensor([[True, False]])
        >>> round(frame_query_loss(frames, frames[:, 0], inside, temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133

    References:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007, equation 4.
    """
    check_frames_and_queries("frame_query_loss", frames, queries, frame_mask)
    if frames.shape[0] != queries.shape[0]:
        fail("frame_query_loss", "queries", f"have one row per video ({frames.shape[0]})", shape_text(queries))
    check_mask("frame_query_loss", "moment_mask", moment_mask, frames.shape[:2], device=frames.device)
    if weight is not None:
        check_weight("frame_query_loss", "weight", weight, frames.shape[:1], device=frames.device)
    check_temperature("frame_query_loss", temperature)
    dtype = working_dtype(frames, queries)
    with full_precision(frames):
        f, q, keep = frames.to(dtype), queries.to(dtype), frame_mask
        if keep is None:
            keep = torch.ones(f.shape[:2], dtype=torch.bool, device=f.device)
        inside = moment_mask & keep
        counts = inside.any(1).to(dtype)
        if weight is not None:
            counts = counts * weight.to(dtype)
        present = counts > 0
        f, q = zero_padding(f, keep & present.unsqueeze(1)), zero_padding(q, present)
        cosine = torch.bmm(normalized_rows(f), normalized_rows(q).unsqueeze(2)).squeeze(2)
        return _likelihood(cosine / temperature, inside, keep, counts)


def _likelihood(scores: Tensor, inside: Tensor, keep: Tensor, counts: Tensor) -> Tensor:
    """The loss of scores (b, t), with counts (b,) of the rows."""
    row = -masked_mean(masked_log_softmax(scores, keep, 1), inside, 1)
    return safe_divide((row * counts).sum(), counts.sum())


class FrameQueryLoss(TemperedModule):
    """Module form of :func:`frame_query_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`, registered as a submodule.

    Example:
        >>> FrameQueryLoss(temperature=0.2)
        FrameQueryLoss(temperature=0.2)
    """

    _function = staticmethod(frame_query_loss)

    def __init__(self, *, temperature: float | Tensor | LearnableTemperature = 0.1) -> None:
        super().__init__(temperature)

    def forward(
        self,
        frames: Tensor,
        queries: Tensor,
        moment_mask: Tensor,
        *,
        frame_mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """See :func:`frame_query_loss`."""
        return frame_query_loss(frames, queries, moment_mask, frame_mask=frame_mask, weight=weight, **self._options())

    if TYPE_CHECKING:
        __call__ = forward

    def of_cosines(self, cosine: Tensor, moment_mask: Tensor, frame_mask: Tensor) -> Tensor:
        """The loss of cosines (b, t) that are known already."""
        with full_precision(cosine):
            inside = moment_mask & frame_mask
            scores = cosine / temperature_value(self.temperature)
            return _likelihood(scores, inside, frame_mask, inside.any(1).to(cosine.dtype))
