"""Compare each exported loss with a reference in float64 loops, at every setting.

The references are in :mod:`tests.contract.entries`. A setting is an argument of the constructor (or of the call, for a
function), or an optional input of the call other than row weights and masks, which the grid tests by repeating and
dropping rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

import mmda.losses
from tests.contract.cases import Case, Problem
from tests.contract.entries import ENTRIES
from tests.contract.entry import Reference

Array = NDArray[np.float64]
Value = Callable[[SimpleNamespace, SimpleNamespace], float]


REFERENCES: dict[str, Reference] = {
    entry.name: entry.reference for entry in ENTRIES.values() if entry.reference is not None
}


def constructor(case: Case) -> dict[str, inspect.Parameter]:
    owner = getattr(mmda.losses, case.module)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not inspect.isclass(owner):
        return {}
    return {name: p for name, p in inspect.signature(owner).parameters.items() if p.kind not in kinds}


def settings_of(case: Case) -> dict[str, inspect.Parameter]:
    """All settings that an entry must cover, except the sample of a randomised loss."""
    call = {
        name: p
        for name, p in case.signature.parameters.items()
        if p.default is not inspect.Parameter.empty and name not in case.roles and name != "generator"
    }
    return {**constructor(case), **call}


def ours(case: Case, problem: Problem, settings: Mapping[str, Any]) -> dict[str, float]:
    """The module's value at these settings, and the function's if it takes the same arguments."""
    built = constructor(case)
    arguments = {**problem.values, **{k: v for k, v in settings.items() if k not in built}}
    options = {k: v for k, v in settings.items() if k in built}
    owner = getattr(mmda.losses, case.module)
    call = owner(**options).double() if inspect.isclass(owner) else owner
    found = {case.module: call(**arguments).item()}
    function = case.function
    if function is not None and {*arguments, *options} <= {*inspect.signature(function).parameters}:
        found[function.__name__] = function(**arguments, **options).item()
    return found


def theirs(case: Case, entry: Reference, problem: Problem, settings: Mapping[str, Any]) -> float:
    """The reference's value at these settings, with defaults from the signature."""
    known = {name: p.default for name, p in settings_of(case).items()}
    everything = pytree.tree_map(to_numpy, {**known, **settings, **problem.values})
    kept = everything.get("candidate_mask")
    if kept is not None:  # padding is not a candidate: remove it
        everything["positive"] = everything["positive"][kept]
        for name in ("positive_mask", "positive_weight", "negative_mask"):
            if everything.get(name) is not None:
                everything[name] = everything[name][:, kept]
    return float(entry.value(SimpleNamespace(**everything), SimpleNamespace(**everything)))


def to_numpy(leaf: Any) -> Any:
    return leaf.detach().numpy() if isinstance(leaf, Tensor) else leaf
