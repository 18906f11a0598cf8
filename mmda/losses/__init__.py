"""Losses: one concept a file, each a function and a thin module around it.

Discrepancies compare two unpaired samples, ``loss(source, target)``; pair losses take matching rows,
``loss(anchor, positive)``. All take masks and weights, compute in float32 or wider and return one scalar.
"""

from mmda.losses._protocols import Discrepancy, PairLoss
from mmda.losses.mmd import MMDLoss, mmd_loss

__all__ = [
    "Discrepancy",
    "MMDLoss",
    "PairLoss",
    "mmd_loss",
]
