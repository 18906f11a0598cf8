"""MMCDA, the reference model for cross-domain video moment retrieval, built from the components of the library."""

from torch import serialization

from mmda.models.mmcda.build import build_mmcda
from mmda.models.mmcda.closed_form import attended_rows, fit_joint_maps, moment_rows, sentence_rows, start_linear
from mmda.models.mmcda.config import MMCDAConfig, TrainingConfig
from mmda.models.mmcda.corpus import Corpus, Found, encode_videos
from mmda.models.mmcda.encoders import (
    FeatureDropout,
    MaskedConvBlock,
    QueryEncoder,
    VideoEncoder,
    joint_head,
    spread_frames,
)
from mmda.models.mmcda.files import CheckpointError
from mmda.models.mmcda.linear_head import (
    FlatLocalizer,
    FrameAgreement,
    LinearHead,
    MeanWords,
    NeighbourScaling,
    PlainFrames,
    QueryFeedback,
)
from mmda.models.mmcda.localizer import Localizer, MomentLogits, Spans, decode_spans, span_scores
from mmda.models.mmcda.logs import JSONLines, StepFacts, TensorBoardLog
from mmda.models.mmcda.model import MMCDA, MMCDAOutput
from mmda.models.mmcda.objective import MMCDAObjective
from mmda.models.mmcda.saving import Progress, load_model, save_model
from mmda.models.mmcda.selection import pair_score, selection_score, source_score
from mmda.models.mmcda.stacking import pair_scores, stacked_weights
from mmda.models.mmcda.terms import (
    DEFAULT_WEIGHTS,
    ROLES,
    DomainTerm,
    FrameQueryTerm,
    JointDistributionTerm,
    MomentTerm,
    PairTerm,
    PooledPairTerm,
    PseudoMomentTerm,
    Term,
    View,
    default_terms,
    negative_pairs,
)
from mmda.models.mmcda.training import TrainingStopped, fit, predict_split
from mmda.models.mmcda.voting import high_runs, smoothed, vote_spans

__all__ = [
    "DEFAULT_WEIGHTS",
    "MMCDA",
    "ROLES",
    "CheckpointError",
    "Corpus",
    "DomainTerm",
    "FeatureDropout",
    "FlatLocalizer",
    "Found",
    "FrameAgreement",
    "FrameQueryTerm",
    "JSONLines",
    "JointDistributionTerm",
    "LinearHead",
    "Localizer",
    "MMCDAConfig",
    "MMCDAObjective",
    "MMCDAOutput",
    "MaskedConvBlock",
    "MeanWords",
    "MomentLogits",
    "MomentTerm",
    "NeighbourScaling",
    "PairTerm",
    "PlainFrames",
    "PooledPairTerm",
    "Progress",
    "PseudoMomentTerm",
    "QueryEncoder",
    "QueryFeedback",
    "Spans",
    "StepFacts",
    "TensorBoardLog",
    "Term",
    "TrainingConfig",
    "TrainingStopped",
    "VideoEncoder",
    "View",
    "attended_rows",
    "build_mmcda",
    "decode_spans",
    "default_terms",
    "encode_videos",
    "fit",
    "fit_joint_maps",
    "high_runs",
    "joint_head",
    "load_model",
    "moment_rows",
    "negative_pairs",
    "pair_score",
    "pair_scores",
    "predict_split",
    "save_model",
    "selection_score",
    "sentence_rows",
    "smoothed",
    "source_score",
    "span_scores",
    "spread_frames",
    "stacked_weights",
    "start_linear",
    "vote_spans",
]

# So that files containing them load with ``weights_only=True``.
serialization.add_safe_globals([MMCDAConfig, TrainingConfig])
