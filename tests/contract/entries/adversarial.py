"""``mmda/losses/adversarial.py`` in the contract suite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmda.losses import DomainAdversarialLoss, MultiDomainAdversarialLoss
from tests.contract.entry import Entry, Reference
from tests.contract.pieces import ASKS_DISCRIMINATOR, LEARNED_DISCRIMINATOR, NO_VALUE, Discriminator, directions, told
from tests.contract.vocabulary import Role, discriminator, normal, shifted
from tests.reference import adversarial


class DomainLogits(nn.Module):
    """A linear map to the logits of three domains."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ torch.from_numpy(directions(rows.shape[1])).to(rows.dtype)


ENTRIES = (
    Entry(
        "DomainAdversarialLoss",
        build=lambda d: DomainAdversarialLoss(discriminator(d), strength=0.6),
        settled=lambda d: DomainAdversarialLoss(discriminator(d), strength=-1.0),
        excuses=(ASKS_DISCRIMINATOR, *LEARNED_DISCRIMINATOR),
        reference=Reference(
            lambda p, s: adversarial.binary(told(p.source), told(p.target)),
            excused={"strength": NO_VALUE},
            given={"discriminator": Discriminator()},
        ),
    ),
    Entry(
        "MultiDomainAdversarialLoss",
        build=lambda d: MultiDomainAdversarialLoss(discriminator(d, 3), strength=0.6),
        settled=lambda d: MultiDomainAdversarialLoss(discriminator(d, 3), strength=-1.0),
        excuses=(ASKS_DISCRIMINATOR,),
        reference=Reference(
            lambda p, s: adversarial.categorical(p.features @ directions(p.features.shape[1]), p.domain_index.tolist()),
            excused={"strength": NO_VALUE},
            given={"discriminator": DomainLogits()},
        ),
        no_digits="three domains: with two it is DomainAdversarialLoss",
    ),
    Entry(
        "domain_adversarial_loss",
        roles={
            "source_logits": Role(("n",), normal, differentiable=True),
            "target_logits": Role(("m",), shifted, differentiable=True),
        },
        reference=Reference(lambda p, s: adversarial.binary(p.source_logits, p.target_logits)),
    ),
    Entry(
        "multi_domain_adversarial_loss",
        reference=Reference(lambda p, s: adversarial.categorical(p.logits, p.domain_index.tolist())),
    ),
)
