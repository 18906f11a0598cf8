"""The terms of MMCDA's objective, each computed from the model's output for one or both domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mmda._core.checks import check_choice, check_count, check_number, fail, fail_type
from mmda._core.components import check_callable
from mmda._core.reductions import masked_softmax
from mmda._math.pair_logits import PairedFrames, frame_cosines
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
from mmda.losses._pair_modules import FramesModule
from mmda.models.mmcda.encoders import spread_frames
from mmda.models.mmcda.localizer import decode_spans
from mmda.models.mmcda.model import MMCDAOutput
from mmda.vmr.batch import VMRBatch

Side = Literal["source", "target", "both"]

#: Roles by module. A role without a weight is off and not computed.
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


def negative_pairs(batch: VMRBatch) -> Tensor:
    """Which pairs (i, j) of a batch are negatives; queries of the same video and equal texts are not.

    Args:
        batch: a batch with ``video_index`` and ``text_index``.

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


class View:
    """Input of a term for one domain: the batch, the model's output, and derived tensors.

    Args:
        output: the model's output.
        batch: the batch.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=3, test_videos=1)).source_train
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=8, joint=4))
        >>> View(model(batch), batch).negatives.sum().item()
        6
    """

    def __init__(self, output: MMCDAOutput, batch: VMRBatch) -> None:
        self.output, self.batch = output, batch
        # computed when a term first needs it; the lock of functools.cached_property would break compiled graphs
        self._labels: MomentTargets | None = None
        self._negatives: Tensor | None = None
        self._pairs: PairedFrames | None = None

    @property
    def labels(self) -> MomentTargets:
        """Clip-level targets of the known moments (:func:`mmda.losses.moment_targets`)."""
        batch = self.batch
        if batch.windows is None or batch.window_mask is None:
            raise ValueError("View.labels: `batch` must have windows, got none: a target's moments are hidden")
        if self._labels is None:
            self._labels = moment_targets(batch.windows, batch.window_mask, batch.clip_times, batch.frame_mask)
        return self._labels

    @property
    def negatives(self) -> Tensor:
        """The mask (b, b) of :func:`negative_pairs`."""
        if self._negatives is None:
            self._negatives = negative_pairs(self.batch)
        return self._negatives

    @property
    def pairs(self) -> PairedFrames:
        """Masks and similarities of the batch's pairs, shared by the losses on pairs."""
        if self._pairs is None:
            self._pairs = self._paired()
        return self._pairs

    def _paired(self) -> PairedFrames:
        out = self.output
        counts = out.frame_mask.any(1).to(out.joint_frames.dtype)
        similarity = frame_cosines(out.joint_frames, out.joint_query)
        return PairedFrames(out.joint_frames, similarity, out.frame_mask, self.negatives, counts)


@dataclass(frozen=True)
class Term:
    """One term of the objective.

    Args:
        role: name of the term in logs and weights.
        side: the domains it uses: ``"source"``, ``"target"`` or ``"both"``. Terms that use the target are scaled by the
            objective's strength.
        weight: >= 0; 0 turns it off.
        compute: maps one :class:`View`, or for ``"both"`` those of source and target, to a scalar. Parameters of a
            module are trained with the model's.
        logits: whether it uses the localizer's logits; where no term on the target does, they are not computed there.

    Raises:
        ValueError: an unknown side, a negative weight, an empty role.
        TypeError: ``compute`` is not callable.

    Example:
        >>> Term("size", "target", 0.1, lambda target: target.output.joint_query.square().mean()).role
        'size'
    """

    role: str
    side: Side
    weight: float
    compute: Callable[..., Tensor]
    logits: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.role, str):
            fail_type("Term", "role", "be a string", self.role)
        if not self.role:
            fail("Term", "role", "have letters", "none")
        check_choice("Term", "side", self.side, ("source", "target", "both"))
        check_number("Term", "weight", self.weight, at_least=0)
        check_callable("Term", "compute", self.compute)


class MomentTerm(nn.Module):
    """The moment loss on known moments.

    Args:
        loss: called as :class:`mmda.losses.MomentLocalizationLoss`.

    Example:
        >>> MomentTerm(MomentLocalizationLoss()).loss
        MomentLocalizationLoss()
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, view: View) -> Tensor:
        """The loss of start, end and inside logits against the labels."""
        value: Tensor = self.loss(*view.output.logits, view.labels, frame_mask=view.output.frame_mask)
        return value


class FrameQueryTerm(nn.Module):
    """(iii) with labels: contrast of frames inside the known moment with the rest of the video.

    Args:
        loss: called as :class:`mmda.losses.FrameQueryLoss`.

    Example:
        >>> FrameQueryTerm(FrameQueryLoss(temperature=0.2)).loss.temperature
        0.2
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, view: View) -> Tensor:
        """The loss of frame-query similarities against the labels."""
        out, inside = view.output, view.labels.inside
        if isinstance(self.loss, FrameQueryLoss) and type(self.loss).forward is FrameQueryLoss.forward:
            return self.loss.of_cosines(out.cosine, inside, out.frame_mask)
        value: Tensor = self.loss(out.joint_frames, out.joint_query, inside, frame_mask=out.frame_mask)
        return value


class PairTerm(nn.Module):
    """(ii) or (iii): contrast of paired videos and queries with the other pairs of the batch.

    Args:
        loss: called with frames (b, t, d), queries (b, d), ``frame_mask`` and ``negative_mask``, such as
            :class:`mmda.losses.AttendedContrastiveLoss` and :class:`mmda.losses.MultipleInstanceLoss`.
        known_moment: use only the frames of the known moment.

    Example:
        >>> PairTerm(MultipleInstanceLoss()).known_moment
        False
    """

    def __init__(self, loss: nn.Module, *, known_moment: bool = False) -> None:
        super().__init__()
        self.loss, self.known_moment = loss, known_moment

    def forward(self, view: View) -> Tensor:
        """The loss of the batch's pairs."""
        out = view.output
        mask = view.labels.inside & out.frame_mask if self.known_moment else out.frame_mask
        if isinstance(self.loss, FramesModule) and type(self.loss).forward is FramesModule.forward:
            return self.loss.of_pairs(view.pairs.of_frames(mask) if self.known_moment else view.pairs)
        value: Tensor = self.loss(out.joint_frames, out.joint_query, frame_mask=mask, negative_mask=view.negatives)
        return value


class PooledPairTerm(nn.Module):
    """(ii) with any loss on paired rows: pools each video's frames by its query and compares with all queries.

    Args:
        loss: called with anchors (b, d), positives (b, d) and ``negative_mask``, such as
            :class:`mmda.losses.SigmoidContrastiveLoss`, :class:`mmda.losses.InfoNCELoss`.
        temperature: temperature of the attention, > 0; the attention is detached.

    Example:
        >>> from mmda.losses import SigmoidContrastiveLoss
        >>> PooledPairTerm(SigmoidContrastiveLoss(bias=-3.0)).loss.bias
        -3.0
    """

    def __init__(self, loss: nn.Module, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.loss = loss
        self.attention = FrameQueryAttention(temperature=temperature, detach_weights=True)

    def forward(self, view: View) -> Tensor:
        """The loss of pooled frames and queries."""
        out = view.output
        pooled = self.attention.pool(out.joint_frames, out.cosine, out.frame_mask)
        value: Tensor = self.loss(pooled, out.joint_query, negative_mask=view.negatives)
        return value


class JointDistributionTerm(nn.Module):
    """(ii): a discrepancy between the target's attended frames and its queries.

    Args:
        discrepancy: any :class:`mmda.losses.Discrepancy`.
        temperature: temperature of the attention, > 0; the attention is detached.

    Example:
        >>> from mmda.losses import CORALLoss
        >>> JointDistributionTerm(CORALLoss()).discrepancy
        CORALLoss(match_mean=False)
    """

    def __init__(self, discrepancy: Discrepancy, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.discrepancy = discrepancy
        self.attention = FrameQueryAttention(temperature=temperature, detach_weights=True)

    def forward(self, view: View) -> Tensor:
        """The discrepancy in the joint space."""
        out = view.output
        pooled = self.attention.pool(out.joint_frames, out.cosine, out.frame_mask)
        return self.discrepancy(pooled, out.joint_query)


class DomainTerm(nn.Module):
    """(i): a discrepancy between the domains, in one modality.

    Args:
        discrepancy: any :class:`mmda.losses.Discrepancy`.
        level: ``"frames"`` or ``"query"``.
        frames: maximum number of frames per domain.

    Example:
        >>> from mmda.losses import CORALLoss
        >>> DomainTerm(CORALLoss(), level="query").level
        'query'
    """

    def __init__(self, discrepancy: Discrepancy, *, level: Literal["frames", "query"], frames: int = 256) -> None:
        super().__init__()
        check_choice("DomainTerm", "level", level, ("frames", "query"))
        check_count("DomainTerm", "frames", frames)
        self.discrepancy, self.level, self.frames = discrepancy, level, frames

    def forward(self, source: View, target: View) -> Tensor:
        """The discrepancy of the two batches."""
        a, b = source.output, target.output
        if self.level == "query":
            return self.discrepancy(a.query, b.query)
        s, s_mask = spread_frames(a.frames, a.frame_mask, self.frames)
        t, t_mask = spread_frames(b.frames, b.frame_mask, self.frames)
        return self.discrepancy(s, t, source_mask=s_mask, target_mask=t_mask)


class PseudoMomentTerm(nn.Module):
    """Confidence-weighted moment loss on the model's own best spans, averaged over rows.

    The confidence is the predicted probability of that span, so unconfident batches have a small loss.

    Args:
        loss: called as :class:`mmda.losses.MomentLocalizationLoss`.

    Example:
        >>> PseudoMomentTerm(MomentLocalizationLoss()).loss
        MomentLocalizationLoss()
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, view: View) -> Tensor:
        """The loss on the predicted spans."""
        out, batch = view.output, view.batch
        with torch.no_grad():
            clips = batch.clip_times.to(out.similarity.dtype)
            best = decode_spans(out.logits, out.similarity, out.frame_mask, clips, n=1)
            labels: MomentTargets = moment_targets(best.windows, best.mask, clips, batch.frame_mask)
            start = (masked_softmax(out.logits.start, out.frame_mask, 1) * labels.start).sum(1)
            end = (masked_softmax(out.logits.end, out.frame_mask, 1) * labels.end).sum(1)
            confidence = start * end
        loss: Tensor = self.loss(*out.logits, labels, frame_mask=out.frame_mask, weight=confidence)
        return confidence.mean() * loss


def default_terms(
    weights: Mapping[str, float] | None = None,
    *,
    video_discrepancy: Discrepancy | None = None,
    query_discrepancy: Discrepancy | None = None,
    joint_discrepancy: Discrepancy | None = None,
    temperature: float = 0.1,
    frames: int = 256,
) -> list[Term]:
    """The terms of the reference model as a list, which can be modified or extended.

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
        weights: weights by role; roles that are missing or 0 are not in the list. Default: :data:`DEFAULT_WEIGHTS`.
        video_discrepancy: any :class:`mmda.losses.Discrepancy`; unbiased MMD by default.
        query_discrepancy: the same for sentences.
        joint_discrepancy: the same in the joint space.
        temperature: temperature of the contrastive terms and the similarity.
        frames: maximum number of frames per domain in ``domain_video``.

    Returns:
        The terms, in the order of the table.

    Raises:
        ValueError: an unknown role, a negative weight, a temperature that is not positive, ``frames`` below 1.
        TypeError: a discrepancy that is not callable.

    Example:
        >>> [(term.role, term.side) for term in default_terms({"moment": 1.0, "cross_modal": 0.5})]
        [('moment', 'source'), ('cross_modal', 'target')]
    """
    caller = "MMCDAObjective"
    chosen = dict(DEFAULT_WEIGHTS if weights is None else weights)
    known = [role for roles in ROLES.values() for role in roles]
    if set(chosen) - set(known):
        fail(caller, "weights", f"name roles among {known}", sorted(set(chosen) - set(known)))
    for role, weight in chosen.items():
        check_number(caller, f"weights[{role!r}]", weight, at_least=0)
    check_count(caller, "frames", frames)
    for name, discrepancy in (
        ("video_discrepancy", video_discrepancy),
        ("query_discrepancy", query_discrepancy),
        ("joint_discrepancy", joint_discrepancy),
    ):
        if discrepancy is not None:
            check_callable(caller, name, discrepancy)

    def or_mmd(given: Discrepancy | None) -> Discrepancy:
        return given or MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")

    contrast = AttendedContrastiveLoss(temperature=temperature, attention_temperature=temperature)
    instances = MultipleInstanceLoss(temperature=temperature)
    video = DomainTerm(or_mmd(video_discrepancy), level="frames", frames=frames)
    joint = JointDistributionTerm(or_mmd(joint_discrepancy), temperature=temperature)
    terms: dict[str, tuple[Side, nn.Module]] = {
        "moment": ("source", MomentTerm(MomentLocalizationLoss())),
        "frame_query": ("source", FrameQueryTerm(FrameQueryLoss(temperature=temperature))),
        "cross_modal_source": ("source", PairTerm(contrast, known_moment=True)),
        "domain_video": ("both", video),
        "domain_query": ("both", DomainTerm(or_mmd(query_discrepancy), level="query")),
        "cross_modal": ("target", PairTerm(contrast)),
        "cross_modal_distribution": ("target", joint),
        "frame_query_target": ("target", PairTerm(instances)),
        "pseudo_moment": ("target", PseudoMomentTerm(MomentLocalizationLoss())),
    }
    return [
        Term(role, side, chosen[role], compute, logits=isinstance(compute, (MomentTerm, PseudoMomentTerm)))
        for role, (side, compute) in terms.items()
        if chosen.get(role, 0) > 0
    ]
