"""``mmda/losses/triplet.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Reference, move
from tests.contract.pieces import CANDIDATES, KEPT, NEGATIVE, POSITIVE, WANTED
from tests.reference import contrastive

ENTRIES = (
    Entry(
        "TripletRankingLoss",
        excuses=(LEFT_OUT,),
        reference=Reference(
            lambda p, s: contrastive.triplet(
                contrastive.cosines(p.anchor, p.positive) if s.normalize else p.anchor @ p.positive.T,
                s.margin,
                s.negatives,
                s.positive_mask,
                s.negative_mask,
                symmetric=s.symmetric,
            ),
            (
                move("margin", 0.6),
                move("negatives", "semi_hard"),
                move("negatives", "all"),
                move("symmetric", False),
                move("normalize", False),
                move("positive_mask", POSITIVE),
                move("negative_mask", NEGATIVE),
                move("candidate_mask", KEPT, positive=CANDIDATES, positive_mask=WANTED),
            ),
        ),
        no_digits="paired rows",
    ),
)
