"""``mmda/losses/class_conditional.py`` in the contract suite."""

from __future__ import annotations

from mmda.losses import LocalMMDLoss
from tests.contract.entry import Entry, Excuse, Reference, move
from tests.contract.pieces import SEVERAL, SINGLE, WIDTH, over_scales, shares
from tests.contract.vocabulary import FIXED
from tests.reference import class_conditional

ENTRIES = (
    Entry(
        "LocalMMDLoss",
        settled=lambda d: LocalMMDLoss(kernel=FIXED),
        excuses=(
            Excuse(
                ("symmetric",),
                "the source brings labels and the target probabilities: the sides take different arguments",
                AssertionError,
                "do not take the same arguments",
            ),
        ),
        reference=Reference(
            lambda p, s: over_scales(
                s.kernel,
                p.source,
                p.target,
                lambda sigma: class_conditional.local_mmd(
                    p.source, p.target, shares(p.source_labels), p.target_probabilities, sigma
                ),
            ),
            (move("kernel", SINGLE), move("kernel", SEVERAL)),
            excused={"classes": WIDTH},
        ),
    ),
)
