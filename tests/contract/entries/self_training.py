"""``mmda/losses/self_training.py`` in the contract suite."""

from __future__ import annotations

import torch

from tests.contract.entry import Entry, Reference, move
from tests.contract.vocabulary import SIZES
from tests.reference import pseudo_labels

ENTRIES = (
    Entry(
        "SelfTrainingLoss",
        reference=Reference(
            lambda p, s: pseudo_labels.self_training(
                p.logits,
                p.labels.tolist(),
                [1.0] * len(p.logits) if s.confidence is None else s.confidence,
                s.smoothing,
            ),
            (move("smoothing", 0.3), move("confidence", torch.linspace(0.1, 0.9, SIZES["b"], dtype=torch.float64))),
        ),
        no_digits="not measured yet",
    ),
)
