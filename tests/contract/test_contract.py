"""Every exported loss and layer under every condition of the grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mmda.layers
import mmda.losses
from tests.contract.cases import Case, UnknownSignature, discover, excuse_for, make_case
from tests.contract.conditions import CONDITIONS, Condition
from tests.contract.entries import ENTRIES

CASES, UNKNOWN = discover()
ENTRIES_FOLDER = "tests/contract/entries"


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
        try:
            condition.check(case)
        except AssertionError as error:
            remedy = f"mend {case.module}, or excuse it in {ENTRIES_FOLDER} and say why"
            raise AssertionError(f"{error}\n{case.name}, {condition.title}: {condition.promise}\n{remedy}") from error
    elif excuse.raises is not None:
        with pytest.raises(excuse.raises, match=excuse.match):
            condition.check(case)
    else:
        with pytest.raises(Exception):  # noqa: B017 - any failure; success means the entry is not needed
            condition.check(case)


@pytest.mark.parametrize("name", sorted(UNKNOWN) or ["everything"])
def test_every_exported_module_is_described(name: str) -> None:
    if name in UNKNOWN:
        raise UNKNOWN[name]


def test_every_entry_is_asked_for() -> None:
    """Every entry belongs to an exported loss, every excuse to a condition of it."""
    exported = {*mmda.losses.__all__, *mmda.layers.__all__}
    assert not ENTRIES.keys() - exported, f"not exported: take them out of {ENTRIES_FOLDER}"
    for name, entry in ENTRIES.items():
        cases = [case for case in CASES if case.module == name]
        for excuse in (*entry.excuses, *(excuse for variant in entry.variants for excuse in variant.excuses)):
            asked = {
                condition
                for case in cases
                for condition in excuse.conditions
                if excuse in case.excuses and condition in CONDITIONS and CONDITIONS[condition].applies(case)
            }
            needless = {*excuse.conditions} - asked
            assert not needless, f"{name} is not asked for {sorted(needless)}: take them out of {ENTRIES_FOLDER}"


def test_an_unknown_signature_says_what_to_add() -> None:
    class Strange(nn.Module):
        def forward(self, source: Tensor, phase_of_the_moon: Tensor) -> Tensor:
            return source.sum() + phase_of_the_moon.sum()

    with pytest.raises(UnknownSignature, match=r"`phase_of_the_moon`.*ROLES in tests/contract/vocabulary.py"):
        make_case("Strange", "mmda.losses", Strange, lambda d: Strange())
