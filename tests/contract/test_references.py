"""Every exported loss is compared with its formula at every setting, and the comparison detects ignored settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tests.contract.cases import Case, Problem, discover
from tests.contract.entry import Move, Reference
from tests.contract.references import REFERENCES, ours, settings_of, theirs

#: Variants share their module's entry.
LOSSES = {case.name: case for case in discover()[0] if not case.is_layer and case.name == case.module}
KNOWN = [name for name in LOSSES if name in REFERENCES]
MOVES = [pytest.param(name, change, id=f"{name}({change})") for name in KNOWN for change in REFERENCES[name].moves]
SEEDS = (0, 1)
FILE = "tests/contract/entries"


def missing(cases: Mapping[str, Case], references: Mapping[str, Reference]) -> list[str]:
    """Losses and settings that no entry covers, each with instructions."""
    found = [
        f"{name} has no reference: write tests/reference/<file>.py (its formula in loops) and an entry in {FILE}"
        for name in cases
        if name not in references
    ]
    for name, entry in references.items():
        if name not in cases:
            found.append(f"{name} is no exported loss: take its entry out of {FILE}")
            continue
        settings = settings_of(cases[name])
        moved, excused = {change.setting for change in entry.moves}, set(entry.excused)
        required = {setting for setting, p in settings.items() if p.default is p.empty and setting in entry.given}
        for setting in settings.keys() - moved - excused - required:
            found.append(
                f"{name}: no reference moves `{setting}`: let the `value` of its entry in {FILE} read s.{setting} and "
                f"add move({setting!r}, <another value>), or say in `excused` why the value cannot know it"
            )
        inputs = {argument for change in entry.moves for argument in change.moved} | entry.given.keys()
        for setting in (moved | excused | inputs) - settings.keys() - cases[name].roles.keys():
            found.append(f"{name} has no setting `{setting}`: take it out of its entry in {FILE}")
        for setting in moved & excused:
            found.append(f"{name}: `{setting}` is moved and excused: take one out of {FILE}")
    return found


def agree(values: Mapping[str, float], expected: float, rtol: float) -> bool:
    return all(abs(value - expected) <= rtol * abs(expected) + 1e-13 for value in values.values())


def problem_of(name: str, seed: int, change: Move | None = None) -> Problem:
    entry = REFERENCES[name]
    sizes = {**entry.sizes, **(change.sizes if change else {})}
    return LOSSES[name].draw(dtype=torch.float64, seed=seed, **sizes)


def compared(
    name: str, seed: int, change: Move | None, computed: Mapping[str, Any], expected: Mapping[str, Any]
) -> tuple[dict[str, float], float]:
    """The library's values at the settings ``computed``, and the reference's at ``expected``."""
    case, entry, problem = LOSSES[name], REFERENCES[name], problem_of(name, seed, change)

    def split(settings: Mapping[str, Any]) -> tuple[Problem, dict[str, Any]]:
        everything = {**entry.given, **settings}
        drawn = {k: everything.pop(k) for k in list(everything) if k in problem.values}
        return problem.with_values(**drawn), everything

    return ours(case, *split(computed)), theirs(case, entry, *split(expected))


def test_every_loss_and_every_setting_has_a_reference() -> None:
    found = missing(LOSSES, REFERENCES)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", KNOWN)
def test_the_value_is_the_formula(name: str) -> None:
    for seed in SEEDS:
        values, expected = compared(name, seed, None, {}, {})
        assert agree(values, expected, REFERENCES[name].rtol), f"{values} and not {expected!r}"
        for other, value in values.items():
            assert not agree({other: 7 * value}, expected, REFERENCES[name].rtol), "a value of 0 shows no wrong factor"


@pytest.mark.parametrize(("name", "change"), MOVES)
def test_a_moved_setting_moves_the_value_to_the_formula(name: str, change: Move) -> None:
    for seed in SEEDS:
        values, expected = compared(name, seed, change, change.moved, change.moved)
        assert agree(values, expected, REFERENCES[name].rtol), f"{values} and not {expected!r}"


@pytest.mark.parametrize(("name", "change"), MOVES)
def test_an_ignored_setting_is_seen(name: str, change: Move) -> None:
    seen = []
    for seed in SEEDS:
        values, expected = compared(name, seed, change, change.ignored, change.moved)
        seen.append(not any(agree({k: v}, expected, REFERENCES[name].rtol) for k, v in values.items()))
    assert any(seen), f"{change} gives the same value as without it: take another value in {FILE}"


def test_a_loss_without_a_reference_is_told_what_to_write() -> None:
    (found,) = missing({**LOSSES, "NewLoss": LOSSES["CORALLoss"]}, REFERENCES)
    assert "NewLoss" in found
    assert "tests/reference/" in found
    assert FILE in found


@pytest.mark.parametrize("name", [name for name in KNOWN if REFERENCES[name].moves])
def test_a_setting_that_nobody_moves_is_told_what_to_write(name: str) -> None:
    entry = REFERENCES[name]
    setting = entry.moves[0].setting
    rest = tuple(change for change in entry.moves if change.setting != setting)
    given = {k: v for k, v in entry.given.items() if k != setting}
    found = missing(LOSSES, {**REFERENCES, name: dataclasses.replace(entry, moves=rest, given=given)})
    assert len(found) == 1
    assert f"move({setting!r}, " in found[0]
    assert FILE in found[0]


def test_an_entry_of_nothing_is_taken_out() -> None:
    entry = dataclasses.replace(REFERENCES["CORALLoss"], excused={"colour": "no reason"})
    found = missing(LOSSES, {**REFERENCES, "CORALLoss": entry, "OldLoss": entry})
    assert sorted(line.split(" has ")[0].split(" is ")[0] for line in found) == ["CORALLoss", "OldLoss"]
