"""``mmda/losses/moment_localization.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from tests.contract.entry import LEFT_OUT, Entry, Reference
from tests.contract.vocabulary import Role, moment
from tests.reference import retrieval


def localization_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    return retrieval.localization(p.start_logits, p.end_logits, p.inside_logits, list(zip(*p.targets)))


ENTRIES = (
    Entry(
        "MomentLocalizationLoss",
        roles={"targets": Role(("b", "t"), moment, pads=False)},
        excuses=(LEFT_OUT,),
        reference=Reference(localization_value),
        no_digits="moments",
    ),
)
