"""The reference model: maps a batch to features and logits, without losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, working_dtype, zero_padding
from mmda._core.reductions import masked_mean
from mmda._core.unit_rows import normalized_rows
from mmda.models.mmcda.linear_head import FrameAgreement, NeighbourScaling, QueryFeedback
from mmda.models.mmcda.localizer import MomentLogits, Spans, decode_spans
from mmda.models.mmcda.voting import vote_spans
from mmda.vmr.batch import VMRBatch


class MMCDAOutput(NamedTuple):
    """Output of :class:`MMCDA` for a batch.

    Attributes:
        frames: (b, t, hidden), frame features.
        query: (b, hidden), sentence features.
        joint_frames: (b, t, joint), unit rows in the joint space.
        joint_query: (b, joint), unit rows.
        similarity: (b, t), cosine of frame and query over the temperature; undefined on padding.
        logits: (b, t) each: start, end and inside.
        frame_mask: (b, t), the mask of the batch.
        cosine: (b, t), cosine of frame and query; undefined on padding.
    """

    frames: Tensor
    query: Tensor
    joint_frames: Tensor
    joint_query: Tensor
    similarity: Tensor
    logits: MomentLogits
    frame_mask: Tensor
    cosine: Tensor


class MMCDA(nn.Module):
    r"""Video and query encoders, heads to a joint unit sphere, and a localizer on the similarity profile.

    .. math:: s_t = \cos(g_v(f_t), g_q(q)) / \tau

    The localizer only uses s, so domain shift has to be removed in the joint space, which can be trained on pairs
    without moments.

    Args:
        video_encoder: ``(frames, frame_mask) -> (b, t, hidden)``.
        query_encoder: ``(words, word_mask) -> (b, hidden)``.
        video_head: :math:`g_v`, ``(..., hidden) -> (..., joint)``.
        query_head: :math:`g_q`, the same for the query.
        localizer: ``(similarity, frame_mask) -> MomentLogits``.
        shared_space: frames and words have the same feature space; the output of a head is then added to the normalised
            features of the frame, or to the normalised mean of the words.
        neighbours: subtracted from the similarities in :meth:`predict`, to correct for frames similar to all queries.
        feedback: then moves the query towards the frames that it matches, once per video, in :meth:`predict`.
        agreement: then smooths the similarities in :meth:`predict` over similar frames.
        votes: decode spans in :meth:`predict` only from the similarity, by :func:`mmda.models.mmcda.vote_spans`,
            without the localizer.
        temperature: :math:`\tau` > 0.

    Shape:
        A :class:`mmda.vmr.VMRBatch` of b rows -> :class:`MMCDAOutput`. Padding may hold anything.

    Raises:
        ValueError: a temperature that is not positive.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=4, test_videos=1)).source_train
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8)).eval()
        >>> model(batch).joint_query.shape, model.predict(batch, n=2).windows.shape
        (torch.Size([4, 8]), torch.Size([4, 2, 2]))

    References:
        Fang, Liu, Zhou & Hu, "Multi-Modal Cross-Domain Alignment Network for Video Moment Retrieval", IEEE TMM 25
        (2022), arXiv 2209.11572: only the abstract was available to this project; the exact form of every component is
        our own choice.
    """

    def __init__(
        self,
        *,
        video_encoder: nn.Module,
        query_encoder: nn.Module,
        video_head: nn.Module,
        query_head: nn.Module,
        localizer: nn.Module,
        shared_space: bool = False,
        neighbours: NeighbourScaling | None = None,
        feedback: QueryFeedback | None = None,
        agreement: FrameAgreement | None = None,
        votes: bool = False,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        check_number("MMCDA", "temperature", temperature, above=0)
        self.video_encoder = video_encoder
        self.query_encoder = query_encoder
        self.video_head = video_head
        self.query_head = query_head
        self.localizer = localizer
        self.shared_space = shared_space
        self.neighbours = neighbours
        self.feedback = feedback
        self.agreement = agreement
        self.votes = votes
        self.temperature = temperature

    def forward(self, batch: VMRBatch, *, localize: bool = True) -> MMCDAOutput:
        """Features, joint features, similarities and logits of a batch; does not use ``batch.windows``.

        ``localize=False`` leaves the localizer out, for a batch whose logits no term reads; they are then NaN.
        """
        frames, joint_frames = self.embed_frames(batch.frames, batch.frame_mask)
        query, joint_query = self.embed_query(batch.words, batch.word_mask)
        with full_precision(joint_frames):  # the losses read these cosines
            cosine = torch.bmm(joint_frames, joint_query.unsqueeze(2)).squeeze(2)
        similarity = cosine / self.temperature
        if localize:
            logits = self.localizer(similarity, batch.frame_mask)
        else:
            logits = MomentLogits(*[torch.full_like(similarity, torch.nan)] * 3)
        return MMCDAOutput(frames, query, joint_frames, joint_query, similarity, logits, batch.frame_mask, cosine)

    if TYPE_CHECKING:
        __call__ = forward

    def embed_frames(self, frames: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Frame features (b, t, hidden), and their unit rows in the joint space (b, t, joint)."""
        encoded = self.video_encoder(frames, frame_mask)
        joint = self.video_head(encoded)
        if self.shared_space:
            joint = joint + normalized_rows(zero_padding(frames, frame_mask))
        return encoded, normalized_rows(joint.to(working_dtype(joint)))

    def embed_query(self, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentence features (b, hidden), and their unit rows in the joint space (b, joint)."""
        encoded = self.query_encoder(words, word_mask)
        joint = self.query_head(encoded)
        if self.shared_space:
            joint = joint + normalized_rows(masked_mean(words, word_mask.unsqueeze(-1).expand_as(words), 1))
        return encoded, normalized_rows(joint.to(working_dtype(joint)))

    @torch.no_grad()
    def predict(self, batch: VMRBatch, *, n: int = 5, mix: float = 0.4, nms_threshold: float = 0.5) -> Spans:
        """Predict the n best spans of every row in seconds. Call it in ``eval()`` mode.

        Uses :func:`decode_spans`, or with ``votes`` :func:`vote_spans`, which has no ``mix``.
        """
        output = self(batch)
        return self.decode(
            self.profile(output),
            output.logits,
            batch.frame_mask,
            batch.clip_times,
            n=n,
            mix=mix,
            nms_threshold=nms_threshold,
        )

    def profile(self, output: MMCDAOutput) -> Tensor:
        """The profile (b, t) from which spans are decoded: the similarity after :class:`NeighbourScaling`,
        :class:`QueryFeedback` and :class:`FrameAgreement`, if the model has them."""
        common = torch.zeros_like(output.similarity)
        if self.neighbours is not None:
            common = self.neighbours(output.joint_frames, self.query_head)
        return self.refined(output.similarity, common, output.joint_query, output.joint_frames, output.frame_mask)

    def refined(self, similarity: Tensor, common: Tensor, query: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """:meth:`profile` from similarities (b, t) and the cosines ``common`` to all queries, subtracted from them."""
        if self.feedback is not None:
            moved = self.feedback(query, frames, frame_mask, common)
            similarity = torch.bmm(frames, moved.unsqueeze(2)).squeeze(2) / self.temperature
        profile = similarity - common / self.temperature
        if self.agreement is not None:
            profile = self.agreement(profile, frames, frame_mask)
        return profile

    def decode(
        self,
        profile: Tensor,
        logits: MomentLogits,
        frame_mask: Tensor,
        clip_times: Tensor,
        *,
        n: int = 5,
        mix: float = 0.4,
        nms_threshold: float = 0.5,
    ) -> Spans:
        """The n best spans of a :meth:`profile`; with ``votes`` the localizer's ``logits`` are not used."""
        if self.votes:
            return vote_spans(profile, frame_mask, clip_times, n=n, nms_threshold=nms_threshold)
        return decode_spans(logits, profile, frame_mask, clip_times, n=n, mix=mix, nms_threshold=nms_threshold)
