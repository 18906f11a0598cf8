"""MMCDA, the reference model for cross-domain video moment retrieval, assembled from the library's parts."""

from mmda.models.mmcda.build import build_mmcda
from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.encoders import (
    FeatureDropout,
    MaskedConvBlock,
    QueryEncoder,
    VideoEncoder,
    joint_head,
    spread_frames,
)
from mmda.models.mmcda.files import CheckpointError
from mmda.models.mmcda.localizer import Localizer, MomentLogits, Spans, decode_spans, span_scores
from mmda.models.mmcda.model import MMCDA, MMCDAOutput
from mmda.models.mmcda.objective import DEFAULT_WEIGHTS, ROLES, MMCDAObjective, negative_pairs
from mmda.models.mmcda.selection import pair_score, selection_score, source_score
from mmda.models.mmcda.training import (
    Progress,
    TrainingConfig,
    TrainingStopped,
    fit,
    load_model,
    predict_split,
    save_model,
)

__all__ = [
    "DEFAULT_WEIGHTS",
    "MMCDA",
    "ROLES",
    "CheckpointError",
    "FeatureDropout",
    "Localizer",
    "MMCDAConfig",
    "MMCDAObjective",
    "MMCDAOutput",
    "MaskedConvBlock",
    "MomentLogits",
    "Progress",
    "QueryEncoder",
    "Spans",
    "TrainingConfig",
    "TrainingStopped",
    "VideoEncoder",
    "build_mmcda",
    "decode_spans",
    "fit",
    "joint_head",
    "load_model",
    "negative_pairs",
    "pair_score",
    "predict_split",
    "save_model",
    "selection_score",
    "source_score",
    "span_scores",
    "spread_frames",
]
