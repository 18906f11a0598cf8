"""``mmda/losses/feature_norm.py`` in the contract suite."""

from __future__ import annotations

import torch

from mmda.losses import AdaptiveFeatureNormLoss
from tests.contract.entry import Entry, Excuse, Reference, move
from tests.contract.vocabulary import SIZES
from tests.reference import feature_norm

ENTRIES = (
    Entry(
        "AdaptiveFeatureNormLoss",
        # the stepwise target follows the norm without a gradient; a fixed radius does not
        settled=lambda d: AdaptiveFeatureNormLoss(variant="hard", radius=2.0),
        excuses=(
            Excuse(
                ("repr",),
                "prints the step or the radius, whichever the variant uses",
                AssertionError,
                "repr hides `radius`",
            ),
        ),
        reference=Reference(
            lambda p, s: (
                feature_norm.hard(p.features, s.radius)
                if s.variant == "hard"
                else feature_norm.stepwise(p.features, s.reference_norm, s.step)
            ),
            (
                move("variant", "hard"),
                move("step", 0.3),
                move("radius", 2.0, variant="hard"),
                move("reference_norm", torch.linspace(0.2, 3.0, SIZES["b"], dtype=torch.float64)),
            ),
        ),
    ),
)
