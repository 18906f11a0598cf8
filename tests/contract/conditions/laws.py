"""Laws: invariances of the value."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.contract.cases import Case, Problem
from tests.contract.conditions._shared import (
    DOUBLE,
    assert_close,
    assert_same_on,
    condition,
    has_features,
    is_loss,
    outputs,
)

#: Heading of this family's column in the overview.
HEAD = "law"


MIRROR = {"source": "target", "target": "source", "anchor": "positive", "positive": "anchor"}


def mirrored(name: str) -> str | None:
    for one, other in MIRROR.items():
        if name == one or name.startswith(one + "_"):
            return other + name.removeprefix(one)
    return None


@condition("Laws", "symmetric", applies=lambda case: case.kind in ("discrepancy", "pair"))
def check_symmetric(case: Case) -> None:
    """Swapping source and target (anchor and positive) does not change the value."""
    problem = case.draw(dtype=DOUBLE)
    swapped = {mirrored(name) or name: value for name, value in problem.values.items()}
    assert swapped.keys() == problem.values.keys(), "source and target do not take the same arguments"
    assert_same_on(case, Problem(swapped), problem)


@condition("Laws", "order of rows")
def check_order(case: Case) -> None:
    """Permuting rows does not change the value; paired rows are permuted together."""
    problem = case.draw(dtype=DOUBLE)
    generator = torch.Generator().manual_seed(5)
    for axis in case.row_axes:
        order = torch.randperm(case.length(problem, axis), generator=generator)
        moved = case.select(problem, axis, order)
        if is_loss(case):
            assert_same_on(case, moved, problem)
            continue
        for one, other in zip(outputs(case.call(moved)), outputs(case.call(problem))):
            assert_close(one, other.index_select(0, order))


@condition("Laws", "translation", applies=has_features)
def check_translation(case: Case) -> None:
    """A common shift of source and target features does not change the value."""
    problem = case.draw(dtype=DOUBLE)
    shift = torch.linspace(
        -2, 5, case.draw().values["source"].shape[-1] if isinstance(problem.values["source"], Tensor) else 3
    )
    moved = problem.map(
        lambda name, leaf: leaf + shift if name in case.differentiable and "d" in case.roles[name].axes else leaf
    )
    assert_same_on(case, moved, problem)


@condition("Laws", "scale", applies=lambda case: case.kind == "pair" or case.scale_free)
def check_scale(case: Case) -> None:
    """A common positive factor on all features does not change the value."""
    problem = case.draw(dtype=DOUBLE)
    scaled = problem.map(
        lambda name, leaf: 3.7 * leaf if name in case.differentiable and "d" in case.roles[name].axes else leaf
    )
    assert_close(case.value(scaled), case.value(problem), rtol=1e-8)
