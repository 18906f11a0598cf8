"""``mmda/losses/wasserstein_critic.py`` in the contract suite."""

from __future__ import annotations

import torch

from mmda.losses import WassersteinCriticLoss
from tests.contract.entry import Entry, Excuse, Reference, move
from tests.contract.pieces import NO_VALUE, Discriminator, direction
from tests.contract.vocabulary import discriminator
from tests.reference import wasserstein_critic

MIXING = torch.linspace(0.05, 0.9, 7, dtype=torch.float64)

ENTRIES = (
    Entry(
        "WassersteinCriticLoss",
        build=lambda d: WassersteinCriticLoss(discriminator(d), strength=0.6),
        # the penalty reaches no feature
        settled=lambda d: WassersteinCriticLoss(discriminator(d), strength=-1.0, penalty=0),
        excuses=(
            Excuse(
                ("symmetric",),
                "the critic is trained for one order of the domains",
            ),
            Excuse(("translation",), "the critic is a network on the unshifted features"),
            Excuse(
                ("export",),
                "the critic's input gradients are computed inside, which torch.export cannot trace; torch.compile can",
            ),
            Excuse(
                ("module_is_function",),
                "the loss evaluates its critic at interpolated points; gradient_penalty is the function",
                AssertionError,
                "no exported function belongs to WassersteinCriticLoss",
            ),
            Excuse(("weight_two", "order"), "interpolated points pair the rows of both domains in order"),
        ),
        reference=Reference(
            lambda p, s: wasserstein_critic.wasserstein_critic(
                p.source, p.target, direction(p.source.shape[1]), s.mixing, s.penalty
            ),
            (move("penalty", 2.0), move("mixing", 1 - MIXING)),
            excused={"strength": NO_VALUE},
            given={"critic": Discriminator(), "mixing": MIXING},
        ),
        no_digits="not measured yet",
    ),
)
