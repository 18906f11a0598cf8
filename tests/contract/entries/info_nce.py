"""``mmda/losses/info_nce.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mmda.layers import LearnableTemperature
from mmda.losses import InfoNCELoss
from tests.contract.entry import LEFT_OUT, Entry, Excuse, Reference, Variant, move
from tests.contract.pieces import CANDIDATES, KEPT, NEGATIVE, POSITIVE, ROWS, WANTED, scaled
from tests.reference import contrastive

SOFT = torch.where(POSITIVE, 0.25 + (ROWS[:, None] + 2.0 * ROWS) / 10, 0.0).double()


def info_nce_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    wanted = s.positive_weight if s.positive_mask is None else s.positive_mask.astype(float)
    return contrastive.info_nce(scaled(p, s), wanted, s.negative_mask, several=s.several, symmetric=s.symmetric)


ENTRIES = (
    Entry(
        "InfoNCELoss",
        excuses=(LEFT_OUT,),
        variants=(
            Variant(
                "temperature=LearnableTemperature()",
                lambda d: InfoNCELoss(temperature=LearnableTemperature()),
                excuses=(
                    Excuse(
                        ("module_is_function",),
                        "the module passes its learnable temperature to the function as a number",
                        TypeError,
                        "`temperature` must be a finite number",
                    ),
                ),
            ),
        ),
        reference=Reference(
            info_nce_value,
            (
                move("temperature", 0.3),
                move("symmetric", False),
                move("normalize", False),
                move("several", "sum", positive_mask=POSITIVE),
                move("positive_mask", POSITIVE),
                move("positive_weight", SOFT),
                move("negative_mask", NEGATIVE),
                move("candidate_mask", KEPT, positive=CANDIDATES, positive_mask=WANTED),
            ),
        ),
        no_digits="paired rows",
    ),
)
