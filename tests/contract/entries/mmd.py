"""``mmda/losses/mmd.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.losses import MMDLoss
from tests.contract.entry import Entry, Excuse, Reference, Variant, move
from tests.contract.pieces import EQUAL, SEVERAL, SINGLE, similarity
from tests.contract.vocabulary import FIXED
from tests.reference import mmd

SPEED = "sets how the sums are split, not their value"


def mmd_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    return float(getattr(mmd, s.estimator)(similarity(s.kernel, p.source, p.target), p.source, p.target))


ENTRIES = (
    Entry(
        "MMDLoss",
        settled=lambda d: MMDLoss(kernel=FIXED),
        scale_free=True,
        variants=(
            Variant(
                "estimator='linear'",
                lambda d: MMDLoss(estimator="linear"),
                settled=lambda d: MMDLoss(kernel=FIXED, estimator="linear"),
                sizes={"n": 6, "m": 6},
                bare=True,
                excuses=(
                    Excuse(
                        ("one_row",),
                        "the linear estimator has no pairs to average over",
                        ValueError,
                        "`source` must have at least 2 samples for estimator='linear'",
                    ),
                    Excuse(
                        ("unequal_batches",),
                        "the linear estimator pairs the rows of source and target",
                        ValueError,
                        "`target` must have the shape of `source`",
                    ),
                    Excuse(
                        (
                            "masked_is_unpadded",
                            "inert_padding",
                            "batch_time",
                            "all_masked",
                            "weight_one",
                            "weight_two",
                            "weight_zero",
                            "weight_zero_nan",
                        ),
                        "the linear estimator pairs adjacent rows, so rows cannot be left out or repeated",
                        ValueError,
                        "`estimator` must be 'biased' or 'unbiased' with weights or masks",
                    ),
                    Excuse(
                        ("slope_at_weight_zero",),
                        "the linear estimator takes no weights",
                        ValueError,
                        "`estimator` must be 'biased' or 'unbiased' with weights or masks",
                    ),
                    Excuse(("order",), "the linear estimator pairs neighbouring rows"),
                ),
            ),
            Variant(
                "estimator='unbiased'",
                lambda d: MMDLoss(estimator="unbiased"),
                settled=lambda d: MMDLoss(kernel=FIXED, estimator="unbiased"),
                excuses=(
                    Excuse(
                        ("one_row",),
                        "the U-statistic has no pairs to average over",
                        ValueError,
                        "`source` must have at least 2 samples for estimator='unbiased'",
                    ),
                ),
            ),
        ),
        reference=Reference(
            mmd_value,
            (
                move("kernel", SINGLE),
                move("kernel", SEVERAL),
                move("estimator", "unbiased"),
                move("estimator", "linear", sizes=EQUAL),
            ),
            excused={"block_size": SPEED},
        ),
    ),
)
