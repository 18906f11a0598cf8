"""Layers: building blocks of the losses and the reference model."""

from typing import Any

from mmda import kernels
from mmda._core.hints import hint_settings, unknown_name
from mmda.layers.attention import FrameQueryAttention
from mmda.layers.batch_norm import DomainSpecificBatchNorm1d, DomainSpecificBatchNorm2d, DomainSpecificBatchNorm3d
from mmda.layers.batch_norm_adaptation import adapt_batch_norm
from mmda.layers.discriminator import DomainDiscriminator
from mmda.layers.domain_model import DomainSpecificModel
from mmda.layers.memory_bank import MemoryBank, MemoryCandidates
from mmda.layers.normalisation import affine_parameters
from mmda.layers.pooling import AttentionPool, MaskedMeanPool
from mmda.layers.reversal import GradientReversal, gradient_reversal
from mmda.layers.temperature import LearnableTemperature

__all__ = [
    "AttentionPool",
    "DomainDiscriminator",
    "DomainSpecificBatchNorm1d",
    "DomainSpecificBatchNorm2d",
    "DomainSpecificBatchNorm3d",
    "DomainSpecificModel",
    "FrameQueryAttention",
    "GradientReversal",
    "LearnableTemperature",
    "MaskedMeanPool",
    "MemoryBank",
    "MemoryCandidates",
    "adapt_batch_norm",
    "affine_parameters",
    "gradient_reversal",
]


def __getattr__(name: str) -> Any:
    raise unknown_name(__name__, name, (kernels,))


hint_settings(vars().values())
