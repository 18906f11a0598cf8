"""Errors: invalid arguments raise a one-line error with caller, argument and rule."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.contract.cases import Case
from tests.contract.conditions._shared import condition, constructor

#: Heading of this family's column in the overview.
HEAD = "err"


HOUSE = re.compile(r"^\w+: `[\w.\[\]]+` must .+, got .+$", re.DOTALL)


def assert_refused(case: Case, call: Callable[[], Any], what: str) -> None:
    """Assert a ValueError or TypeError in the library's format, raised by this loss or layer."""
    try:
        call()
    except (ValueError, TypeError) as error:
        text = str(error)
        assert HOUSE.match(text), f"{what}: {text!r} is not in the form: caller: `argument` must rule, got value"
        callers = {type(part).__name__ for part in case.make().modules()} | {case.module}
        callers |= {case.function.__name__} if case.function is not None else set()
        assert text.split(":")[0] in callers, f"{what}: {text!r} names another caller"
        return
    raise AssertionError(f"{what} raises no error")


@condition("Errors", "wrong tensors")
def check_error_tensors(case: Case) -> None:
    """Wrong rank, width or dtype, or wrong masks and weights raise a one-line error with caller, argument, rule,
    value."""
    problem = case.draw()
    for name in case.differentiable:
        role = case.roles[name]

        def broken(change: Callable[[Tensor], Tensor], name: str = name) -> Callable[[], Any]:
            return lambda: case.call(problem.map(lambda own, leaf: change(leaf) if own == name else leaf), case.make())

        if not role.rank_free:
            assert_refused(case, broken(lambda leaf: leaf.unsqueeze(0)), f"`{name}` with one axis too many")
            assert_refused(case, broken(lambda leaf: leaf[0]), f"`{name}` with one axis too few")
            assert_refused(case, broken(lambda leaf: leaf[:0]), f"an empty `{name}`")
        assert_refused(case, broken(lambda leaf: leaf.to(torch.int64)), f"an integer `{name}`")
        listed = functools.partial(case.call, problem.with_values(**{name: [1.0, 2.0]}), case.make())
        assert_refused(case, listed, f"`{name}` as a list")
        shared = [n for n in case.differentiable if n != name and case.roles[n].axes[-1] == role.axes[-1]]
        if shared:
            assert_refused(case, broken(lambda leaf: leaf[..., :-1]), f"a narrower `{name}`")
    for name in (*case.names("mask"), *case.names("weight")):
        right = torch.ones([case.length(problem, axis) for axis in case.roles[name].axes], dtype=torch.bool)
        wrong, right = (right.float(), right) if case.roles[name].use == "mask" else (right, right.float())
        wrongs = {
            f"a {wrong.dtype} `{name}`": wrong,
            f"a short `{name}`": right[:-1],
            f"`{name}` on another device": right.to("meta"),
        }
        for what, value in wrongs.items():
            assert_refused(case, functools.partial(case.call, problem.with_values(**{name: value})), what)


@condition("Errors", "no dense tensor")
def check_error_layouts(case: Case) -> None:
    """Sparse, nested, quantised and other layouts, and a tensor on another device, raise a one-line error."""
    problem = case.draw()
    quantised = functools.partial(torch.quantize_per_tensor, scale=0.1, zero_point=0, dtype=torch.qint8)
    for name in case.differentiable:
        others: dict[str, Callable[[Tensor], Tensor]] = {
            "sparse": lambda leaf: leaf.to_sparse(),
            "compressed": lambda leaf: leaf.flatten(1).to_sparse_csr() if leaf.ndim > 1 else leaf.to_sparse(),
            "nested": lambda leaf: torch.nested.nested_tensor([leaf[0], leaf[0]]),
            "quantised": lambda leaf: quantised(leaf),
            "mkldnn": lambda leaf: leaf.to_mkldnn() if torch.backends.mkldnn.is_available() else leaf.to_sparse(),
            "complex": lambda leaf: leaf.to(torch.complex64),
        }
        if len(case.differentiable) > 1:
            others["meta"] = lambda leaf: leaf.to("meta")
        for what, change in others.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns about beta features
                odd = problem.map(lambda own, leaf, c=change, n=name: c(leaf) if own == n else leaf)
            assert_refused(case, functools.partial(case.call, odd, case.make()), f"a {what} `{name}`")


def constructor_numbers(case: Case) -> list[str]:
    hints = constructor(case.make())
    return [
        name
        for name, parameter in hints.items()
        if isinstance(parameter.default, (int, float, str)) and not isinstance(parameter.default, bool)
    ]


@condition("Errors", "wrong settings", applies=lambda case: bool(constructor_numbers(case)))
def check_error_settings(case: Case) -> None:
    """A setting that is not a finite number, or not a known choice, raises in the constructor."""
    module = case.make()
    own = constructor(module)
    given = {name: getattr(module, name) for name in own if hasattr(module, name)}
    for name in constructor_numbers(case):
        wrong = "nonsense" if isinstance(own[name].default, str) else math.nan
        assert_refused(case, functools.partial(type(module), **{**given, name: wrong}), f"{name}={wrong!r}")
