"""Every exported loss and layer under every condition of the grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.contract.cases import Case, UnknownSignature, discover, make_case
from tests.contract.conditions import CONDITIONS, Condition
from tests.contract.exceptions import EXCUSES, excuse_for

CASES, UNKNOWN = discover()


def cells() -> list[object]:
    return [
        pytest.param(
            case, condition, id=f"{case.name}-{condition.name}", marks=[pytest.mark.gpu] if condition.needs_gpu else []
        )
        for case in CASES
        for condition in CONDITIONS.values()
        if condition.applies(case)
    ]


@pytest.mark.parametrize(("case", "condition"), cells())
def test_cell(case: Case, condition: Condition) -> None:
    if condition.needs_gpu and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    excuse = excuse_for(case, condition.name)
    if excuse is None:
        condition.check(case)
    elif excuse.raises is not None:
        with pytest.raises(excuse.raises, match=excuse.match):
            condition.check(case)
    else:
        with pytest.raises(Exception):  # noqa: B017 - any failure will do; success means a needless entry
            condition.check(case)


@pytest.mark.parametrize("name", sorted(UNKNOWN) or ["everything"])
def test_every_exported_module_is_described(name: str) -> None:
    if name in UNKNOWN:
        raise UNKNOWN[name]


def test_every_exception_excuses_something() -> None:
    names = {condition for excuse in EXCUSES for condition in excuse.conditions}
    assert names <= CONDITIONS.keys(), names - CONDITIONS.keys()
    for excuse in EXCUSES:
        used = [
            c for c in CASES for name in excuse.conditions if excuse.covers(c, name) and CONDITIONS[name].applies(c)
        ]
        assert used, f"{excuse} excuses no case of the grid"


def test_an_unknown_signature_says_what_to_add() -> None:
    class Strange(nn.Module):
        def forward(self, source: Tensor, phase_of_the_moon: Tensor) -> Tensor:
            return source.sum() + phase_of_the_moon.sum()

    with pytest.raises(UnknownSignature, match=r"`phase_of_the_moon`.*ROLES in tests/contract/cases.py"):
        make_case("Strange", "Strange", "mmda.losses", Strange, lambda d: Strange())
