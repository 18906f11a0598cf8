"""``mmda/losses/approximate_mmd.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.losses import BlockMMDLoss, RandomFeatureMMDLoss
from tests.contract.entry import Entry, Excuse, Reference, move
from tests.contract.pieces import GIVEN, SEVERAL, SINGLE, similarity, width
from tests.contract.vocabulary import FIXED
from tests.reference import block_mmd, mmd, random_features


def random_feature_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    sigma = width(s.kernel, p.source, p.target)
    return mmd.unbiased(random_features.similarity(p.projections, sigma, s.kernel.scales), p.source, p.target)


ENTRIES = (
    Entry(
        "BlockMMDLoss",
        settled=lambda d: BlockMMDLoss(kernel=FIXED),
        excuses=(
            Excuse(
                ("one_row",),
                "an unbiased estimator has no pairs to average over",
                ValueError,
                "`source` must have at least 2 samples",
            ),
            Excuse(
                ("masked_is_unpadded", "inert_padding", "all_masked"),
                "leaving a row out moves later rows into other blocks",
                AssertionError,
                "takes no mask",
            ),
            Excuse(
                ("weight_one", "weight_two", "weight_zero", "weight_zero_nan", "slope_at_weight_zero"),
                "counting a row twice moves later rows into other blocks",
                AssertionError,
                "takes no weight",
            ),
        ),
        reference=Reference(
            lambda p, s: block_mmd.block_mmd(
                similarity(s.kernel, p.source, p.target), p.source, p.target, s.block_rows
            ),
            (move("kernel", SINGLE), move("kernel", SEVERAL), move("block_rows", 2)),
        ),
        no_digits="batches of more rows than a block: with 64 it is MMDLoss",
    ),
    Entry(
        "RandomFeatureMMDLoss",
        build=lambda d: RandomFeatureMMDLoss(draws="fixed"),
        settled=lambda d: RandomFeatureMMDLoss(kernel=FIXED, draws="fixed"),
        excuses=(
            Excuse(
                ("one_row",),
                "an unbiased estimator has no pairs to average over",
                ValueError,
                "`source` must have at least 2 samples",
            ),
        ),
        reference=Reference(
            random_feature_value,
            (move("kernel", SINGLE), move("kernel", SEVERAL)),
            excused={"n_features": GIVEN, "draws": GIVEN},
        ),
    ),
)
