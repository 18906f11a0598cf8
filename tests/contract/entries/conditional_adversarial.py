"""``mmda/losses/conditional_adversarial.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.losses import ConditionalAdversarialLoss
from tests.contract.entry import Entry, Reference, Variant, move
from tests.contract.pieces import ASKS_DISCRIMINATOR, LEARNED_DISCRIMINATOR, NO_VALUE, Array, Discriminator, told
from tests.contract.vocabulary import CLASSES, SIZES, Role, discriminator, normal, random_map, shifted
from tests.reference import adversarial


def conditional_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    classes = p.source_class_logits, p.target_class_logits
    if s.random_map is None:
        rows = [adversarial.outer(x, g) for x, g in zip((p.source, p.target), classes)]
    else:
        maps = [m.detach().double().numpy() for m in (s.random_map.feature_projection, s.random_map.class_projection)]
        rows = [adversarial.random_outer(x, g, *maps) for x, g in zip((p.source, p.target), classes)]
    return conditional_logits(told(rows[0]), told(rows[1]), *classes, s.entropy_weighting)


def conditional_logits(a: Array, b: Array, a_classes: Array, b_classes: Array, weighting: bool) -> float:
    return adversarial.conditional(a, b, a_classes, b_classes) if weighting else adversarial.binary(a, b)


ENTRIES = (
    Entry(
        "ConditionalAdversarialLoss",
        build=lambda d: ConditionalAdversarialLoss(discriminator(d * CLASSES), strength=0.6),
        # a reversal of strength -1 is the identity in both directions
        settled=lambda d: ConditionalAdversarialLoss(discriminator(d * CLASSES), strength=-1.0),
        excuses=(ASKS_DISCRIMINATOR, *LEARNED_DISCRIMINATOR),
        variants=(
            Variant(
                "random_map=...",
                lambda d: ConditionalAdversarialLoss(discriminator(5), strength=0.6, random_map=random_map(d)),
                settled=lambda d: ConditionalAdversarialLoss(discriminator(5), strength=-1.0, random_map=random_map(d)),
            ),
        ),
        reference=Reference(
            conditional_value,
            (move("entropy_weighting", False), move("random_map", random_map(SIZES["d"]))),
            excused={"strength": NO_VALUE},
            given={"discriminator": Discriminator()},
        ),
    ),
    Entry(
        "conditional_adversarial_loss",
        roles={
            "source_logits": Role(("n",), normal, differentiable=True),
            "target_logits": Role(("m",), shifted, differentiable=True),
        },
        reference=Reference(
            lambda p, s: conditional_logits(
                p.source_logits, p.target_logits, p.source_class_logits, p.target_class_logits, s.entropy_weighting
            ),
            (move("entropy_weighting", False),),
        ),
    ),
)
