"""The suite notices: eleven losses broken on purpose, each caught by the conditions that are there to catch it.

A fault that only the number shows is caught by ``reference``: the value on a small problem against plain NumPy in
float64, written here from the formula.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from tests.contract.cases import Case, discover
from tests.contract.conditions import CONDITIONS, DOUBLE
from tests.mutation.broken import CONTROLS, MUTANTS

Array = np.ndarray

CASES = {case.name: case for case in discover()[0]}


def stand_in(name: str, build: Callable[[], nn.Module]) -> Case:
    """The case of the real module with another module in its place."""
    case = CASES[name]
    signature = inspect.signature(build().forward)
    roles = {argument: role for argument, role in case.roles.items() if argument in signature.parameters}
    return case.replace(
        build=lambda d: build(), settled=lambda d: build(), function=None, signature=signature, roles=roles
    )


# The numbers, from the formulas.


def gaussian(x: Array, y: Array, sigma: float = 1.5) -> Array:
    return np.array([[np.exp(-np.sum((p - q) ** 2) / (2 * sigma**2)) for q in y] for p in x])


def mmd_biased(x: Array, y: Array) -> float:
    return gaussian(x, x).mean() + gaussian(y, y).mean() - 2 * gaussian(x, y).mean()


def mmd_unbiased(x: Array, y: Array) -> float:
    def off_diagonal(rows: Array) -> float:
        pairs = [gaussian(rows, rows)[i, j] for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return float(np.mean(pairs))

    return off_diagonal(x) + off_diagonal(y) - 2 * gaussian(x, y).mean()


def coral(x: Array, y: Array) -> float:
    gap = np.cov(x, rowvar=False) - np.cov(y, rowvar=False)
    return float((gap**2).sum() / (4 * x.shape[1] ** 2))


def entropy(z: Array) -> float:
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return float(-(p * np.log(p)).sum(1).mean())


REFERENCES: dict[str, Callable[..., float]] = {
    "MMDLoss": mmd_biased,
    "MMDLoss(estimator='unbiased')": mmd_unbiased,
    "CORALLoss": coral,
    "EntropyLoss": entropy,
}


def check_reference(case: Case) -> None:
    problem = case.draw(dtype=DOUBLE)
    arrays = [problem.values[name].numpy() for name in case.differentiable]
    expected = REFERENCES[case.name](*arrays)
    found = case.value(problem, settled=True).item()
    assert abs(found - expected) < 1e-9, f"{found} against {expected}"


def notices(case: Case, condition: str) -> bool:
    """The condition fails."""
    check = check_reference if condition == "reference" else CONDITIONS[condition].check
    try:
        check(case)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("fault", MUTANTS)
def test_the_fault_is_caught(fault: str) -> None:
    build, name, conditions = MUTANTS[fault]
    case = stand_in(name, build)
    missed = [condition for condition in conditions if not notices(case, condition)]
    assert not missed, f"{fault}: {missed} let it through"


@pytest.mark.parametrize("name", CONTROLS)
def test_the_unbroken_form_passes(name: str) -> None:
    """The same conditions, the same plain code without the fault: what was caught is the fault and nothing else."""
    case = stand_in(name, CONTROLS[name])
    asked = {condition for _, other, conditions in MUTANTS.values() if other == name for condition in conditions}
    assert not [condition for condition in sorted(asked) if notices(case, condition)]


def test_there_are_eleven() -> None:
    assert len(MUTANTS) == 11
