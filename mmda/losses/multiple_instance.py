"""Contrastive loss of videos and queries through their best frames, without moment annotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, safe_divide
from mmda._math.pair_logits import PairedFrames, check_paired_frames, paired_frames
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._pair_modules import FramesModule


def multiple_instance_loss(
    frames: Tensor,
    queries: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    top: float = 0.125,
    in_video: float = 0.0,
    frame_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Symmetric contrastive loss of (video, query) pairs over each video's best frames; lower means better matched.

    .. math::

       s_{ijt} = \cos(f_{it}, q_j) / \tau, \qquad S_{ij} = \frac{1}{k_i} \sum_{t \in \operatorname{top}_{k_i}} s_{ijt},
       \qquad k_i = \lceil \rho T_i \rceil

       L = - \frac{1}{2 n} \sum_i \log \frac{\exp S_{ii}}{\sum_{j \in N_i} \exp S_{ij}}
           - \frac{1}{2 n} \sum_j \log \frac{\exp S_{jj}}{\sum_{i \in N_j} \exp S_{ij}}
           + \frac{\gamma}{|R|} \sum_{i \in R} \log\left(1 + \exp(\bar s^{\text{rest}}_{ii} - S_{ii})\right)

    A video is a bag of frames, an unknown part of which match its query; the mean similarity of the best fraction
    :math:`\rho` represents the bag. The last term, off by default, pushes the best frames of a video above the others;
    R holds the videos with further frames.

    Args:
        frames: frame features in the joint space, one video per pair; normalised inside.
        queries: query features, row i with video i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        top: :math:`\rho` in (0, 1], fraction of the frames that represents the video, at least one frame.
        in_video: :math:`\gamma` >= 0, weight of the contrastive term within the video.
        frame_mask: bool, True = keep. Padding may hold anything; a video without a frame is left out.
        negative_mask: bool, entry (i, j) True where query j may be a negative of video i and vice versa.
        mask: bool, True = a real pair.
        weight: pair weights, in the mean and as negatives of the other pairs. A pair of weight 2 is not a negative of
            its own copy; a row given twice without ``negative_mask`` would be.

    Shape:
        ``frames`` (n, t, d), ``queries`` (n, d), ``frame_mask`` (n, t), ``negative_mask`` (n, n), ``mask`` and
        ``weight`` (n,).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); a zero connected to the autograd graph where no pair counts.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive, ``top`` outside (0, 1].
        TypeError: a mask that is not bool.

    Notes:
        O(n^2 t (d + log t)) time, O(n^2 t) memory. The exact form is our own choice.

    Example:
        >>> frames = torch.eye(2).unsqueeze(1)
        >>> round(multiple_instance_loss(frames, torch.eye(2), temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133

    References:
        Maron & Lozano-Perez, "A Framework for Multiple-Instance Learning", NIPS 1997, for the bag; Sultani et al.,
        "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018, for ranking by the best segments.
    """
    caller = "multiple_instance_loss"
    check_paired_frames(caller, frames, queries, frame_mask, temperature)
    check_number(caller, "top", top, above=0, at_most=1)
    check_number(caller, "in_video", in_video, at_least=0)
    with full_precision(frames):
        pairs = paired_frames(
            caller, frames, queries, frame_mask=frame_mask, negative_mask=negative_mask, mask=mask, weight=weight
        )
        return _of_pairs(pairs, temperature=temperature, top=top, in_video=in_video)


def _of_pairs(pairs: PairedFrames, *, temperature: float | Tensor, top: float, in_video: float) -> Tensor:
    """The loss of pairs whose rows are of length one."""
    similarity, keep, counts = pairs.similarity, pairs.keep, pairs.counts  # (video, query, t), (video, t), (video,)
    low = torch.full((), torch.finfo(similarity.dtype).min, dtype=similarity.dtype, device=similarity.device)
    zero = torch.zeros_like(low)
    frames_kept = keep.sum(1).to(low.dtype)
    # (n,); slightly less than top, because a product that rounds up would add a frame (0.15 * 100 in float32)
    best_count = (frames_kept * (top * (1 - 1e-6))).ceil()
    most = math.ceil(top * keep.shape[1])
    ranked = torch.where(keep.unsqueeze(1), similarity, low).topk(most, dim=-1).values
    is_best = (torch.arange(most, device=low.device) < best_count.unsqueeze(1)).unsqueeze(1)
    best_sum = torch.where(is_best, ranked, zero).sum(-1) / temperature
    best = safe_divide(best_sum, best_count.unsqueeze(1))
    loss = pairs.cross_entropy(best)
    if in_video == 0:
        return loss
    own = similarity.diagonal(dim1=0, dim2=1).T / temperature
    everything = torch.where(keep, own, zero).sum(1)
    rest_count = frames_kept - best_count
    rest = safe_divide(everything - best_sum.diagonal(), rest_count)
    margin = nn.functional.softplus(rest - best.diagonal())
    counted = torch.where(rest_count > 0, counts, torch.zeros_like(counts))
    return loss + in_video * safe_divide((margin * counted).sum(), counted.sum())


class MultipleInstanceLoss(FramesModule):
    """Module form of :func:`multiple_instance_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`, registered as a submodule.
        top: fraction of the frames that represents the video, in (0, 1].
        in_video: weight of the contrastive term within the video, >= 0.

    Example:
        >>> MultipleInstanceLoss(top=0.25)
        MultipleInstanceLoss(temperature=0.1, top=0.25, in_video=0)
    """

    _function = staticmethod(multiple_instance_loss)
    _of_pairs = staticmethod(_of_pairs)

    def __init__(
        self,
        *,
        temperature: float | Tensor | LearnableTemperature = 0.1,
        top: float = 0.125,
        in_video: float = 0.0,
    ) -> None:
        super().__init__(temperature)
        check_number("MultipleInstanceLoss", "top", top, above=0, at_most=1)
        check_number("MultipleInstanceLoss", "in_video", in_video, at_least=0)
        self.top = top
        self.in_video = in_video
