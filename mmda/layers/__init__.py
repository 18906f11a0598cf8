"""Layers: the building blocks that the losses and the reference model share."""
from mmda.layers.attention import FrameQueryAttention
from mmda.layers.pooling import AttentionPool, MaskedMeanPool

__all__ = [
    "AttentionPool",
    "FrameQueryAttention",
    "MaskedMeanPool",
]
