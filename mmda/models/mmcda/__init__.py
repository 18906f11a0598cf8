"""MMCDA, the reference model for cross-domain video moment retrieval, assembled from the library's parts."""

from mmda.models.mmcda.build import build_mmcda
from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.encoders import MaskedConvBlock, QueryEncoder, VideoEncoder, joint_head, spread_frames
from mmda.models.mmcda.localizer import Localizer, MomentLogits, Spans, decode_spans, span_scores
from mmda.models.mmcda.model import MMCDA, MMCDAOutput
from mmda.models.mmcda.objective import DEFAULT_WEIGHTS, ROLES, MMCDAObjective, negative_pairs

__all__ = [
    "DEFAULT_WEIGHTS",
    "MMCDA",
    "ROLES",
    "Localizer",
    "MMCDAConfig",
    "MMCDAObjective",
    "MMCDAOutput",
    "MaskedConvBlock",
    "MomentLogits",
    "QueryEncoder",
    "Spans",
    "VideoEncoder",
    "build_mmcda",
    "decode_spans",
    "joint_head",
    "negative_pairs",
    "span_scores",
    "spread_frames",
]
