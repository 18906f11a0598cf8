"""``mmda/losses/similarity_entropy.py`` in the contract suite."""

from __future__ import annotations

from tests.contract.entry import LEFT_OUT, Entry, Excuse, Reference, move
from tests.contract.pieces import CANDIDATES, KEPT
from tests.reference import entropies

ENTRIES = (
    Entry(
        "SimilarityEntropyLoss",
        excuses=(
            LEFT_OUT,
            Excuse(("symmetric",), "each anchor has a distribution over the candidates, not vice versa"),
        ),
        reference=Reference(
            lambda p, s: entropies.similarity_entropy(p.anchor, p.positive, s.temperature, s.normalize),
            (move("temperature", 0.4), move("normalize", False), move("candidate_mask", KEPT, positive=CANDIDATES)),
        ),
        no_digits="queries and candidates",
    ),
)
