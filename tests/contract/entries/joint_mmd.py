"""``mmda/losses/joint_mmd.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.kernels import Gaussian
from mmda.losses import JointMMDLoss
from tests.contract.entry import Entry, Reference, move
from tests.contract.pieces import EQUAL, SINGLE
from tests.contract.vocabulary import FIXED
from tests.reference import joint_mmd


def joint_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    kernels = s.kernel if isinstance(s.kernel, list | tuple) else [s.kernel] * len(p.source)
    sigmas = [float(k.bandwidth) for k in kernels]
    if s.estimator == "linear":
        return joint_mmd.linear(p.source, p.target, sigmas)
    return joint_mmd.joint_mmd(p.source, p.target, sigmas, unbiased=s.estimator == "unbiased")


ENTRIES = (
    Entry(
        "JointMMDLoss",
        settled=lambda d: JointMMDLoss(kernel=FIXED),
        reference=Reference(
            joint_value,
            (
                move("kernel", Gaussian(0.7, scales=(1.0,))),
                move("kernel", [SINGLE, Gaussian(2.5, scales=(1.0,))]),
                move("estimator", "unbiased"),
                move("estimator", "linear", sizes=EQUAL),
            ),
            given={"kernel": SINGLE},
        ),
    ),
)
