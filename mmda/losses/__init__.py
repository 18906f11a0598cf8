"""Losses: one concept a file, each a function and a thin module around it.

Discrepancies compare two unpaired samples, ``loss(source, target)``; pair losses take matching rows,
``loss(anchor, positive)``. All take masks and weights, compute in float32 or wider and return one scalar.
"""

from mmda.losses._protocols import Discrepancy, PairLoss
from mmda.losses.attended_contrast import AttendedContrastiveLoss, attended_contrastive_loss
from mmda.losses.frame_query import FrameQueryLoss, frame_query_loss
from mmda.losses.mmd import MMDLoss, mmd_loss
from mmda.losses.moment_localization import (
    MomentLocalizationLoss,
    MomentTargets,
    moment_localization_loss,
    moment_targets,
)
from mmda.losses.multiple_instance import MultipleInstanceLoss, multiple_instance_loss

__all__ = [
    "AttendedContrastiveLoss",
    "Discrepancy",
    "FrameQueryLoss",
    "MMDLoss",
    "MomentLocalizationLoss",
    "MomentTargets",
    "MultipleInstanceLoss",
    "PairLoss",
    "attended_contrastive_loss",
    "frame_query_loss",
    "mmd_loss",
    "moment_localization_loss",
    "moment_targets",
    "multiple_instance_loss",
]
