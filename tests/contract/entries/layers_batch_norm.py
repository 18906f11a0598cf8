"""``mmda/layers/batch_norm.py`` in the contract suite."""

from __future__ import annotations

from mmda.layers import DomainSpecificBatchNorm1d, DomainSpecificBatchNorm2d, DomainSpecificBatchNorm3d
from tests.contract.entry import Entry, Excuse, Variant
from tests.contract.vocabulary import FEATURES, Role, normal

RUNNING = Excuse(
    ("state_unchanged",),
    "running statistics are state that training updates, as in torch.nn.BatchNorm1d",
    AssertionError,
    "`running_mean` changed",
    variants=False,
)
TRANSFORMED = Excuse(
    ("func_grad", "vmap", "jvp"),
    "running statistics cannot be updated under a function transform, as in torch.nn.BatchNorm1d; "
    "it works with track_running_stats=False and in evaluation mode",
    RuntimeError,
    "in-place operation|inplace arithmetic",
    variants=False,
)

ENTRIES = (
    Entry(
        "DomainSpecificBatchNorm1d",
        build=lambda d: DomainSpecificBatchNorm1d(d, 3),
        roles={"x": FEATURES},
        excuses=(
            Excuse(
                ("one_row",),
                "one row has no variance for normalisation in training",
                ValueError,
                "`x` must hold more than one value per channel in training",
            ),
            RUNNING,
            TRANSFORMED,
        ),
        variants=(
            Variant("track_running_stats=False", lambda d: DomainSpecificBatchNorm1d(d, 3, track_running_stats=False)),
        ),
    ),
    Entry(
        "DomainSpecificBatchNorm2d",
        build=lambda d: DomainSpecificBatchNorm2d(d, 3),
        sizes={"h": 2, "w": 2},
        roles={
            "x": Role(("b", "d", "h", "w"), normal, differentiable=True),
            "mask": Role(("b", "h", "w"), None, use="mask"),
        },
        excuses=(RUNNING, TRANSFORMED),
    ),
    Entry(
        "DomainSpecificBatchNorm3d",
        build=lambda d: DomainSpecificBatchNorm3d(d, 3),
        sizes={"t": 2, "h": 2, "w": 1},
        roles={
            "x": Role(("b", "d", "t", "h", "w"), normal, differentiable=True),
            "mask": Role(("b", "t", "h", "w"), None, use="mask"),
        },
        excuses=(RUNNING, TRANSFORMED),
    ),
)
