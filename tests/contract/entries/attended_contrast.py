"""``mmda/losses/attended_contrast.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.losses import AttendedContrastiveLoss
from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.contract.pieces import NEGATIVE, negatives
from tests.reference import retrieval


def attended_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    looks = retrieval.attention(p.frames, p.queries, s.attention_temperature)
    return retrieval.pair_contrast(
        retrieval.attended_scores(p.frames, p.queries, looks, s.temperature), negatives(p, s)
    )


ENTRIES = (
    Entry(
        "AttendedContrastiveLoss",
        # attention carries no gradient: at this temperature it is uniform and has none to carry
        settled=lambda d: AttendedContrastiveLoss(attention_temperature=1e6),
        twins_are_duplicates=True,
        scale_free=True,
        excuses=(LEFT_OUT,),
        reference=Reference(
            attended_value,
            (move("temperature", 0.3), move("attention_temperature", 0.4), move("negative_mask", NEGATIVE)),
        ),
        no_digits="frames and queries",
    ),
)
