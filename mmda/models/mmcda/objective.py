"""The objective of MMCDA on one screen: a named term for each thing that is aligned, summed by role."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmda._core.checks import check_callable, check_count, check_number, fail
from mmda._core.masking import masked_softmax
from mmda.kernels import Gaussian
from mmda.layers import FrameQueryAttention
from mmda.losses import (
    AttendedContrastiveLoss,
    Discrepancy,
    FrameQueryLoss,
    MMDLoss,
    MomentLocalizationLoss,
    MomentTargets,
    MultipleInstanceLoss,
    moment_targets,
)
from mmda.models.mmcda.encoders import spread_frames
from mmda.models.mmcda.localizer import decode_spans
from mmda.models.mmcda.model import MMCDAOutput
from mmda.objectives import Objective, weighted_sum
from mmda.vmr.batch import VMRBatch

#: Roles by module. A role that is absent from the weights is off and costs nothing.
ROLES: dict[str, tuple[str, ...]] = {
    "supervised": ("moment",),
    "source": ("frame_query", "cross_modal_source"),
    "domain": ("domain_video", "domain_query"),
    "cross_modal": ("cross_modal", "cross_modal_distribution"),
    "specific": ("frame_query_target",),
    "pseudo": ("pseudo_moment",),
}

#: Weights of the full model.
DEFAULT_WEIGHTS: dict[str, float] = {
    "moment": 1.0,
    "frame_query": 1.0,
    "cross_modal_source": 1.0,
    "domain_video": 1.0,
    "domain_query": 1.0,
    "cross_modal": 0.5,
    "cross_modal_distribution": 0.5,
    "frame_query_target": 0.5,
}

_NEED_TARGET = {
    "domain_video",
    "domain_query",
    "cross_modal",
    "cross_modal_distribution",
    "frame_query_target",
    "pseudo_moment",
}


def negative_pairs(batch: VMRBatch) -> Tensor:
    """Which pairs (i, j) of a batch are negatives: queries of one video and equal texts are not.

    Args:
        batch: its ``video_index`` and ``text_index`` are read.

    Returns:
        (b, b) bool, symmetric, False on the diagonal.

    Example:
        >>> from dataclasses import replace
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=3, test_videos=1)).source_train
        >>> negative_pairs(replace(batch, video_index=torch.tensor([0, 0, 1]))).int().tolist()
        [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """
    same_video = batch.video_index.unsqueeze(0) == batch.video_index.unsqueeze(1)
    same_text = batch.text_index.unsqueeze(0) == batch.text_index.unsqueeze(1)
    return ~(same_video | same_text)


class MMCDAObjective(nn.Module):
    r"""Sum of the named terms of a source and a target batch.

    .. math:: L = \sum_{r \in \text{source}} w_r L_r + \lambda \sum_{r \in \text{target}} w_r L_r

    with the weights :math:`w_r` and the strength :math:`\lambda` of the call. The first three roles of the table are
    of the source, all others of the target.

    ============================  ===============================================================================
    role                          term
    ============================  ===============================================================================
    ``moment``                    :func:`mmda.losses.moment_localization_loss` on the source
    ``frame_query``               (iii), source: :func:`mmda.losses.frame_query_loss` inside the known moment
    ``cross_modal_source``        (ii), anchor: frames pooled by the known moment against their query
    ``domain_video``              (i): ``video_discrepancy`` between frames of both domains, padding left out
    ``domain_query``              (i): ``query_discrepancy`` between sentences of both domains
    ``cross_modal``               (ii): :func:`mmda.losses.attended_contrastive_loss` on target pairs
    ``cross_modal_distribution``  (ii): ``joint_discrepancy`` between the target's attended frames and its queries
    ``frame_query_target``        (iii): :func:`mmda.losses.multiple_instance_loss` on target pairs
    ``pseudo_moment``             option: the moment loss on the target's own best spans, by confidence
    ============================  ===============================================================================

    Args:
        weights: by role; a role that is absent is off.
        video_discrepancy: any :class:`mmda.losses.Discrepancy`; unbiased MMD by default.
        query_discrepancy: the same for sentences.
        joint_discrepancy: the same in the joint space.
        temperature: of the contrastive terms and the similarity.
        frames: at most so many frames a domain enter ``domain_video``.

    Raises:
        ValueError: an unknown role, a negative weight, a temperature that is not positive, ``frames`` below 1.
        TypeError: a discrepancy that cannot be called.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> draw = simulate(World(videos=8, test_videos=1))
        >>> source, target = draw.source_train, draw.target_train.without_moments()
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8))
        >>> objective = MMCDAObjective(weights={"moment": 1.0, "domain_query": 0.5})
        >>> sorted(objective(model(source), source, model(target), target).terms)
        ['domain_query', 'moment']
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        video_discrepancy: Discrepancy | None = None,
        query_discrepancy: Discrepancy | None = None,
        joint_discrepancy: Discrepancy | None = None,
        temperature: float = 0.1,
        frames: int = 256,
    ) -> None:
        super().__init__()
        chosen = dict(DEFAULT_WEIGHTS if weights is None else weights)
        known = [role for roles in ROLES.values() for role in roles]
        if set(chosen) - set(known):
            fail("MMCDAObjective", "weights", f"name roles among {known}", sorted(set(chosen) - set(known)))
        for role, weight in chosen.items():
            check_number("MMCDAObjective", f"weights[{role!r}]", weight, at_least=0)
        check_count("MMCDAObjective", "frames", frames)
        for name, discrepancy in (
            ("video_discrepancy", video_discrepancy),
            ("query_discrepancy", query_discrepancy),
            ("joint_discrepancy", joint_discrepancy),
        ):
            if discrepancy is not None:
                check_callable("MMCDAObjective", name, discrepancy)
        self.weights = {role: weight for role, weight in chosen.items() if weight > 0}
        self.video_discrepancy = video_discrepancy or MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")
        self.query_discrepancy = query_discrepancy or MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")
        self.joint_discrepancy = joint_discrepancy or MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")
        self.moment = MomentLocalizationLoss()
        self.frame_query = FrameQueryLoss(temperature=temperature)
        self.pairs = AttendedContrastiveLoss(temperature=temperature, attention_temperature=temperature)
        self.instances = MultipleInstanceLoss(temperature=temperature)
        self.attention = FrameQueryAttention(temperature=temperature, detach_weights=True)
        self.frames = frames

    @property
    def needs_target(self) -> bool:
        """Whether any term reads the target."""
        return bool(_NEED_TARGET & set(self.weights))

    def forward(
        self,
        source: MMCDAOutput,
        source_batch: VMRBatch,
        target: MMCDAOutput | None = None,
        target_batch: VMRBatch | None = None,
        *,
        strength: float = 1.0,
    ) -> Objective:
        """Total and raw terms. ``strength`` scales the terms of the target; the target's windows are never read.

        Raises:
            ValueError: the source carries no moments, or a term needs a target that is missing.
        """
        if source_batch.windows is None or source_batch.window_mask is None:
            fail("MMCDAObjective", "source_batch", "carry windows", "none")
        on = self.weights
        terms: dict[str, Tensor] = {}
        labels = moment_targets(
            source_batch.windows, source_batch.window_mask, source_batch.clip_times, source_batch.frame_mask
        )
        if "moment" in on:
            terms["moment"] = self.moment(*source.logits, labels, frame_mask=source.frame_mask)
        if "frame_query" in on:
            terms["frame_query"] = self.frame_query(
                source.joint_frames, source.joint_query, labels.inside, frame_mask=source.frame_mask
            )
        if "cross_modal_source" in on:
            terms["cross_modal_source"] = self.pairs(
                source.joint_frames,
                source.joint_query,
                frame_mask=labels.inside & source.frame_mask,
                negative_mask=negative_pairs(source_batch),
            )
        if self.needs_target:
            if target is None or target_batch is None:
                fail("MMCDAObjective", "target", f"be given for {sorted(_NEED_TARGET & set(on))}", "none")
            terms.update(self._target_terms(source, target, target_batch))
        weights = {role: on[role] * (strength if role in _NEED_TARGET else 1.0) for role in terms}
        return weighted_sum(terms, weights)

    def _target_terms(self, source: MMCDAOutput, target: MMCDAOutput, batch: VMRBatch) -> dict[str, Tensor]:
        on, terms = self.weights, {}
        if "domain_video" in on:
            s, s_mask = spread_frames(source.frames, source.frame_mask, self.frames)
            t, t_mask = spread_frames(target.frames, target.frame_mask, self.frames)
            terms["domain_video"] = self.video_discrepancy(s, t, source_mask=s_mask, target_mask=t_mask)
        if "domain_query" in on:
            terms["domain_query"] = self.query_discrepancy(source.query, target.query)
        if "cross_modal" in on:
            terms["cross_modal"] = self.pairs(
                target.joint_frames,
                target.joint_query,
                frame_mask=target.frame_mask,
                negative_mask=negative_pairs(batch),
            )
        if "cross_modal_distribution" in on:
            pooled, _ = self.attention(target.joint_frames, target.joint_query, frame_mask=target.frame_mask)
            terms["cross_modal_distribution"] = self.joint_discrepancy(pooled, target.joint_query)
        if "frame_query_target" in on:
            terms["frame_query_target"] = self.instances(
                target.joint_frames,
                target.joint_query,
                frame_mask=target.frame_mask,
                negative_mask=negative_pairs(batch),
            )
        if "pseudo_moment" in on:
            terms["pseudo_moment"] = self._pseudo_moment(target, batch)
        return terms

    def _pseudo_moment(self, target: MMCDAOutput, batch: VMRBatch) -> Tensor:
        """Mean over the rows of confidence times the moment loss on the model's own best span.

        The confidence is the probability that the start and end logits give that span: a batch in which every row is
        unsure weighs little.
        """
        with torch.no_grad():
            clips = batch.clip_times.to(target.similarity.dtype)
            best = decode_spans(target.logits, target.similarity, target.frame_mask, clips, n=1)
            labels: MomentTargets = moment_targets(best.windows, best.mask, clips, batch.frame_mask)
            start = (masked_softmax(target.logits.start, target.frame_mask, 1) * labels.start).sum(1)
            end = (masked_softmax(target.logits.end, target.frame_mask, 1) * labels.end).sum(1)
            confidence = start * end
        loss: Tensor = self.moment(*target.logits, labels, frame_mask=target.frame_mask, weight=confidence)
        return confidence.mean() * loss
