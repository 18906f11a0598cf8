"""Contrast of videos and queries through their best frames, where no moment is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, safe_divide
from mmda._math.pair_logits import check_paired_frames, pair_cross_entropy, paired_frames
from mmda.layers.temperature import LearnableTemperature, keep_temperature
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
    r"""Symmetric contrast of known (video, query) pairs over each video's best frames; lower means better matched.

    .. math::

       s_{ijt} = \cos(f_{it}, q_j) / \tau, \qquad S_{ij} = \frac{1}{k_i} \sum_{t \in \operatorname{top}_{k_i}} s_{ijt},
       \qquad k_i = \lceil \rho T_i \rceil

       L = - \frac{1}{2 n} \sum_i \log \frac{\exp S_{ii}}{\sum_{j \in N_i} \exp S_{ij}}
           - \frac{1}{2 n} \sum_j \log \frac{\exp S_{jj}}{\sum_{i \in N_j} \exp S_{ij}}
           + \frac{\gamma}{|R|} \sum_{i \in R} \log\left(1 + \exp(\bar s^{\text{rest}}_{ii} - S_{ii})\right)

    A video is a bag of frames and some of them, nobody says which, match its query: the mean of the best share
    :math:`\rho` stands for the bag. The last term, off by default, pushes the best frames of a video above its
    rest; R holds the videos that have frames beside their best.

    Args:
        frames: frame features in the joint space, one video a pair; they are normalised here.
        queries: query features, row i with video i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        top: :math:`\rho` in (0, 1], share of the frames that stands for the video, at least one frame.
        in_video: :math:`\gamma` >= 0, weight of the contrast inside the video.
        frame_mask: bool, True = keep. Padding may hold anything; a video without a frame counts as absent.
        negative_mask: bool, entry (i, j) True where query j may serve as a negative of video i and conversely.
        mask: bool, True = a real pair.
        weight: how often each pair counts, in the mean and as a negative of the others. Equal pairs are duplicates: a
            pair that counts twice is no negative of itself, where a repeated pair without ``negative_mask`` would be.

    Shape:
        ``frames`` (n, t, d), ``queries`` (n, d), ``frame_mask`` (n, t), ``negative_mask`` (n, n), ``mask`` and
        ``weight`` (n,).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); a connected zero where no pair counts.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive, a share outside (0, 1].
        TypeError: a mask that is not bool.

    Notes:
        O(n^2 t (d + log t)) time, O(n^2 t) memory. The form is chosen here.

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
        f, q, keep, candidates, counts = paired_frames(
            caller, frames, queries, frame_mask=frame_mask, negative_mask=negative_mask, mask=mask, weight=weight
        )
        similarity = torch.matmul(f, q.T).transpose(1, 2) / temperature  # (video, query, t)
        low = torch.full((), torch.finfo(f.dtype).min, dtype=f.dtype, device=f.device)
        frames_kept = keep.sum(1)
        # (n,); the share a little less, as a product that rounds up would add a frame (0.15 of 100 in float32)
        best_count = (frames_kept.to(f.dtype) * (top * (1 - 1e-6))).ceil()
        most = math.ceil(top * f.shape[1])
        ranked = torch.where(keep.unsqueeze(1), similarity, low).topk(most, dim=-1).values
        rank = torch.arange(most, device=f.device)
        is_best = (rank < best_count.unsqueeze(1)).unsqueeze(1)
        best_sum = torch.where(is_best, ranked, torch.zeros_like(low)).sum(-1)
        best = safe_divide(best_sum, best_count.unsqueeze(1).expand_as(best_sum))
        loss = pair_cross_entropy(best, candidates, counts)
        if in_video == 0:
            return loss
        everything = torch.where(keep, similarity.diagonal(dim1=0, dim2=1).T, torch.zeros_like(low)).sum(1)
        rest_count = frames_kept.to(f.dtype) - best_count
        rest = safe_divide(everything - best_sum.diagonal(), rest_count)
        margin = nn.functional.softplus(rest - best.diagonal())
        counted = torch.where(rest_count > 0, counts, torch.zeros_like(counts))
        return loss + in_video * safe_divide((margin * counted).sum(), counted.sum())


class MultipleInstanceLoss(FramesModule):
    """Module form of :func:`multiple_instance_loss`, which holds the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (a buffer here, or a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`, whose parameter is then one of this module's.
        top: share of the frames that stands for the video, in (0, 1].
        in_video: weight of the contrast inside the video, >= 0.

    Example:
        >>> MultipleInstanceLoss(top=0.25)
        MultipleInstanceLoss(temperature=0.1, top=0.25, in_video=0)
    """

    _function = staticmethod(multiple_instance_loss)

    def __init__(
        self,
        *,
        temperature: float | Tensor | LearnableTemperature = 0.1,
        top: float = 0.125,
        in_video: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("MultipleInstanceLoss", "top", top, above=0, at_most=1)
        check_number("MultipleInstanceLoss", "in_video", in_video, at_least=0)
        keep_temperature(self, "MultipleInstanceLoss", temperature)
        self.top = top
        self.in_video = in_video
