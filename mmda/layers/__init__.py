"""Layers: the building blocks that the losses and the reference model share."""

from mmda.layers.attention import FrameQueryAttention
from mmda.layers.discriminator import DomainDiscriminator
from mmda.layers.gradient_reversal import GradientReversal, gradient_reversal
from mmda.layers.pooling import AttentionPool, MaskedMeanPool
from mmda.layers.temperature import LearnableTemperature

__all__ = [
    "AttentionPool",
    "DomainDiscriminator",
    "FrameQueryAttention",
    "GradientReversal",
    "LearnableTemperature",
    "MaskedMeanPool",
    "gradient_reversal",
]
