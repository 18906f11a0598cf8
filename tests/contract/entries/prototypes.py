"""``mmda/losses/prototypes.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from mmda.losses import PrototypeContrastiveLoss
from tests.contract.entry import Entry, Excuse, Reference, move
from tests.contract.pieces import WIDTH, Array, shares
from tests.contract.vocabulary import CLASSES
from tests.reference import contrastive


def prototype_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    a, b = (
        (shares(labels) if labels.ndim == 1 else sure(labels, s.confidence))
        for labels in (s.source_assignment, s.target_assignment)
    )
    value = contrastive.prototype(p.target, b, p.source, a, s.temperature, normalize=s.normalize)
    if s.symmetric:
        value += contrastive.prototype(p.source, a, p.target, b, s.temperature, normalize=s.normalize)
        value /= 2
    return value


def sure(soft: Array, confidence: float) -> Array:
    if confidence == 0:
        return soft
    return np.array([np.eye(len(row))[int(row.argmax())] * (row.max() >= confidence) for row in soft])


SOFT_TARGET = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.85, 0.05], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6], [0.05, 0.9, 0.05], [0.6, 0.3, 0.1],
     [0.0, 0.1, 0.9]],
    dtype=torch.float64,
)  # fmt: skip

ENTRIES = (
    Entry(
        "PrototypeContrastiveLoss",
        build=lambda d: PrototypeContrastiveLoss(classes=CLASSES, confidence=0.0),
        excuses=(Excuse(("translation",), "compares directions of prototypes from the origin"),),
        reference=Reference(
            prototype_value,
            (
                move("temperature", 0.4),
                move("symmetric", False),
                move("normalize", False),
                move("confidence", 0.4, target_assignment=SOFT_TARGET),
                move("confidence", 0.0, target_assignment=SOFT_TARGET),
            ),
            excused={"classes": WIDTH},
            given={"classes": CLASSES},
        ),
    ),
)
