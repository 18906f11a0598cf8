"""``mmda/losses/contrastive_domain.py`` in the contract suite."""

from __future__ import annotations

from mmda.losses import ContrastiveDomainDiscrepancyLoss
from tests.contract.entry import Entry
from tests.contract.pieces import LABELS_AND_PROBABILITIES, of_classes
from tests.contract.vocabulary import FIXED
from tests.reference import contrastive_domain

ENTRIES = (
    Entry(
        "ContrastiveDomainDiscrepancyLoss",
        settled=lambda d: ContrastiveDomainDiscrepancyLoss(kernel=FIXED),
        excuses=(LABELS_AND_PROBABILITIES,),
        reference=of_classes(contrastive_domain.soft),
    ),
)
