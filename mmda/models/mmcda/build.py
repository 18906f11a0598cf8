"""Building a model from a config."""

from __future__ import annotations

from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.encoders import QueryEncoder, VideoEncoder, joint_head
from mmda.models.mmcda.linear_head import (
    FlatLocalizer,
    FrameAgreement,
    LinearHead,
    MeanWords,
    NeighbourScaling,
    PlainFrames,
    QueryFeedback,
)
from mmda.models.mmcda.localizer import Localizer
from mmda.models.mmcda.model import MMCDA


def build_mmcda(config: MMCDAConfig) -> MMCDA:
    """Build the reference model, initialised from torch's global generator.

    Args:
        config: sizes and options.

    Returns:
        :class:`MMCDA` in ``train()`` mode, float32, on torch's default device.

    Example:
        >>> model = build_mmcda(MMCDAConfig(video_width=16, query_width=8, hidden=12, joint=6))
        >>> model.video_head[-1].out_features
        6
    """
    if config.form == "linear":
        return _linear(config)
    layers = config.context_layers if config.context == "conv" else 0
    joint = config.video_width if config.shared_space else config.joint
    return MMCDA(
        video_encoder=VideoEncoder(config.video_width, config.hidden, layers=layers, dropout=config.dropout),
        query_encoder=QueryEncoder(config.query_width, config.hidden, dropout=config.dropout),
        video_head=joint_head(config.hidden, joint, correction=config.shared_space),
        query_head=joint_head(config.hidden, joint, correction=config.shared_space),
        localizer=Localizer(
            channels=config.localizer_channels,
            layers=config.localizer_layers,
            positions=config.positions,
            dropout=config.dropout,
        ),
        shared_space=config.shared_space,
        temperature=config.temperature,
    )


def _linear(config: MMCDAConfig) -> MMCDA:
    def head(width: int) -> LinearHead:
        return LinearHead(width, config.joint, members=config.members, residual=config.residual, dropout=config.dropout)

    return MMCDA(
        video_encoder=PlainFrames(config.video_width),
        query_encoder=MeanWords(config.query_width),
        video_head=head(config.video_width),
        query_head=head(config.query_width),
        localizer=FlatLocalizer(),
        neighbours=NeighbourScaling(config.query_width, strength=config.neighbours),
        feedback=QueryFeedback(config.feedback) if config.feedback else None,
        agreement=FrameAgreement(config.agreement) if config.agreement else None,
        votes=True,
        temperature=config.temperature,
    )
