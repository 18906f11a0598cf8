"""``mmda/losses/multiple_instance.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.contract.pieces import NEGATIVE, negatives
from tests.reference import retrieval


def multiple_instance_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    scores = retrieval.best_scores(p.frames, p.queries, s.temperature, str(s.top))
    margin = retrieval.in_video_margin(p.frames, p.queries, s.temperature, str(s.top)) if s.in_video else 0.0
    return retrieval.pair_contrast(scores, negatives(p, s)) + s.in_video * margin


ENTRIES = (
    Entry(
        "MultipleInstanceLoss",
        twins_are_duplicates=True,
        scale_free=True,
        excuses=(LEFT_OUT,),
        reference=Reference(
            multiple_instance_value,
            (move("temperature", 0.3), move("top", 0.5), move("in_video", 0.7), move("negative_mask", NEGATIVE)),
        ),
        no_digits="frames and queries",
    ),
)
