"""``mmda/losses/joint_transport.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.losses import JointTransportLoss
from tests.contract.entry import LEFT_OUT, Entry, Excuse, Reference, move
from tests.contract.pieces import SOLVED
from tests.reference import joint_transport


def transport_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    return joint_transport.joint_transport(
        p.source,
        p.target,
        p.source_labels.tolist(),
        p.target_logits,
        s.feature_weight,
        s.label_weight,
        s.regularisation,
    )


ENTRIES = (
    Entry(
        "JointTransportLoss",
        # a solver that stops early leaves its gradient 1e-12 apart at neighbouring inputs, and their quotient 1e-6
        settled=lambda d: JointTransportLoss(iterations=400),
        excuses=(LEFT_OUT, Excuse(("symmetric",), "the source brings labels and the target predictions")),
        reference=Reference(
            transport_value,
            (move("feature_weight", 0.3), move("label_weight", 2.0), move("regularisation", 0.5)),
            excused={"iterations": SOLVED},
            rtol=1e-8,
        ),
        no_digits="not measured yet",
    ),
)
