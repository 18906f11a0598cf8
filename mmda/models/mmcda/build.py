"""The one place where a config becomes a model."""

from __future__ import annotations

from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.encoders import QueryEncoder, VideoEncoder, joint_head
from mmda.models.mmcda.localizer import Localizer
from mmda.models.mmcda.model import MMCDA


def build_mmcda(config: MMCDAConfig) -> MMCDA:
    """The reference model of this size, initialised from torch's global generator.

    Args:
        config: sizes and choices; they are used here and go no further.

    Returns:
        :class:`MMCDA` in ``train()`` mode, float32, on torch's default device.

    Example:
        >>> model = build_mmcda(MMCDAConfig(video_width=16, query_width=8, hidden=12, joint=6))
        >>> model.video_head[-1].out_features
        6
    """
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
