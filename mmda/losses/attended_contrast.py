"""Contrastive loss of videos and queries in which each query pools the frames it attends to."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision
from mmda._core.reductions import masked_softmax
from mmda._math.pair_logits import PairedFrames, check_paired_frames, paired_frames
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._pair_modules import FramesModule


def attended_contrastive_loss(
    frames: Tensor,
    queries: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    attention_temperature: float = 0.1,
    frame_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Symmetric contrastive loss of (video, query) pairs over query-attended frames; lower means better matched.

    .. math::

       a_{ijt} = \operatorname{softmax}_t(\cos(f_{it}, q_j) / \tau_a)\ \text{(no gradient)}, \qquad
       p_{ij} = \sum_t a_{ijt} \frac{f_{it}}{\lVert f_{it} \rVert}, \qquad S_{ij} = \cos(p_{ij}, q_j) / \tau

       L = - \frac{1}{2 n} \sum_i \log \frac{\exp S_{ii}}{\sum_{j \in N_i} \exp S_{ij}}
           - \frac{1}{2 n} \sum_j \log \frac{\exp S_{jj}}{\sum_{i \in N_j} \exp S_{ij}}

    Video i and query i belong together; :math:`N` holds the pair itself and its negatives. A plain mean over all frames
    would instead make everything shown in the video a positive of the query.

    Args:
        frames: frame features in the joint space, one video per pair; normalised inside.
        queries: query features, row i with video i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        attention_temperature: :math:`\tau_a` > 0.
        frame_mask: bool, True = keep. Padding may hold anything; a video without a frame is left out.
        negative_mask: bool, entry (i, j) True where query j may be a negative of video i and vice versa: False for
            queries of the same video and for duplicate texts.
        mask: bool, True = a real pair.
        weight: pair weights, in the mean and as negatives of the other pairs. A pair of weight 2 is not a negative of
            its own copy; a row given twice without ``negative_mask`` would be.

    Shape:
        ``frames`` (n, t, d), ``queries`` (n, d), ``frame_mask`` (n, t), ``negative_mask`` (n, n), ``mask`` and
        ``weight`` (n,).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); a zero connected to the autograd graph where no pair counts.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive.
        TypeError: a mask that is not bool.

    Notes:
        O(n^2 t d) time, O(n^2 (t + d)) memory. The exact form is our own choice.

    Example:
        >>> frames = torch.eye(2).unsqueeze(1)
        >>> round(attended_contrastive_loss(frames, torch.eye(2), temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
        figure 3, for the symmetric cross-entropy.
    """
    caller = "attended_contrastive_loss"
    check_paired_frames(caller, frames, queries, frame_mask, temperature)
    check_number(caller, "attention_temperature", attention_temperature, above=0)
    with full_precision(frames):
        pairs = paired_frames(
            caller, frames, queries, frame_mask=frame_mask, negative_mask=negative_mask, mask=mask, weight=weight
        )
        return _of_pairs(pairs, temperature=temperature, attention_temperature=attention_temperature)


def _of_pairs(pairs: PairedFrames, *, temperature: float | Tensor, attention_temperature: float) -> Tensor:
    """The loss of pairs whose rows are of length one."""
    similarity = pairs.similarity
    attention = masked_softmax(similarity.detach() / attention_temperature, pairs.keep.unsqueeze(1), -1)
    pooled = torch.bmm(attention, pairs.frames)  # (video, query, d)
    squared = pooled.square().sum(-1)
    cosine = (attention * similarity).sum(-1) * torch.where(squared > 0, squared, torch.ones_like(squared)).rsqrt()
    return pairs.cross_entropy(cosine / temperature)


class AttendedContrastiveLoss(FramesModule):
    """Module form of :func:`attended_contrastive_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: temperature of the contrastive loss: a number, a scalar tensor (registered as a buffer, or as a
            parameter if it is one), or a :class:`~mmda.layers.LearnableTemperature`, registered as a submodule.
        attention_temperature: temperature of the pooling, > 0.

    Example:
        >>> AttendedContrastiveLoss(temperature=0.2)
        AttendedContrastiveLoss(temperature=0.2, attention_temperature=0.1)
    """

    _function = staticmethod(attended_contrastive_loss)
    _of_pairs = staticmethod(_of_pairs)

    def __init__(
        self, *, temperature: float | Tensor | LearnableTemperature = 0.1, attention_temperature: float = 0.1
    ) -> None:
        super().__init__(temperature)
        check_number("AttendedContrastiveLoss", "attention_temperature", attention_temperature, above=0)
        self.attention_temperature = attention_temperature
