"""``mmda/losses/class_conditional.py`` in the contract suite."""

from __future__ import annotations

from mmda.losses import LocalMMDLoss
from tests.contract.entry import Entry
from tests.contract.pieces import LABELS_AND_PROBABILITIES, of_classes
from tests.contract.vocabulary import FIXED
from tests.reference import class_conditional

ENTRIES = (
    Entry(
        "LocalMMDLoss",
        settled=lambda d: LocalMMDLoss(kernel=FIXED),
        excuses=(LABELS_AND_PROBABILITIES,),
        reference=of_classes(class_conditional.local_mmd),
    ),
)
