"""Graphs: ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

import contextlib
import functools
import typing
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.contract.cases import Case
from tests.contract.conditions._shared import assert_close, assert_same_gradients, condition, outputs, problems_dressed

#: Heading of this family's column in the overview.
HEAD = "graph"


@contextlib.contextmanager
def _compiler() -> typing.Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the compiler
        torch._dynamo.reset()
        try:
            yield
        finally:
            torch._dynamo.reset()


@condition("Graphs", "compile")
def check_compile(case: Case) -> None:
    """``torch.compile(fullgraph=True)``: no graph break, one graph, same value and gradients."""
    problem = problems_dressed(case, torch.float32)[-1]
    expected, gradients = case.value_and_gradients(problem)
    with _compiler():
        compiled = torch.compile(case.make(), backend="eager", fullgraph=True)
        value, found = case.value_and_gradients(problem, compiled)
    assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(found, gradients, rtol=1e-4, atol=1e-6)


SETTINGS = ("strength", "temperature")


def settings_of(case: Case) -> list[str]:
    """Numbers that a training loop may change during training."""
    module = case.make()
    return [name for name in SETTINGS if isinstance(getattr(module, name, None), (float, Tensor))]


@condition("Graphs", "no recompile", applies=lambda case: bool(settings_of(case)))
def check_no_recompile(case: Case) -> None:
    """A strength or temperature that changes at every step compiles no new graph after the second step."""
    problem = case.draw()
    with _compiler():
        graphs: list[nn.Module] = []

        def backend(graph: nn.Module, inputs: object) -> Callable[..., Any]:
            graphs.append(graph)
            return graph.forward

        module = case.make()
        compiled = torch.compile(module, backend=backend, fullgraph=True)
        seen = []
        for step in range(5):
            number = 0.31 + 0.07 * step
            for name in settings_of(case):
                current = getattr(module, name)
                if isinstance(current, Tensor):
                    with torch.no_grad():
                        current.fill_(number)
                else:
                    setattr(module, name, number)
            value, gradients = case.value_and_gradients(problem, compiled)
            plain, expected = case.value_and_gradients(problem, module)
            assert_close(value, plain, rtol=1e-5, atol=1e-6)
            assert_same_gradients(gradients, expected, rtol=1e-4, atol=1e-6)
            seen.append(len(graphs))
        assert seen[-1] == seen[1], f"graphs compiled after each step: {seen}"


#: Batch sizes for a compiled module, and the maximum number of graphs: one for the first size, one for dynamic sizes,
#: one for a specialised size.
BATCHES, GRAPHS = (9, 12, 10, 17, 8, 23, 31, 16, 40, 11, 29, 50), 3


@condition("Graphs", "batch sizes")
def check_batch_sizes(case: Case) -> None:
    """Twelve batch sizes compile at most three graphs, and so do four with ``dynamic=True`` and rows marked as
    dynamic."""
    for dynamic in (None, True):
        with _compiler():
            graphs: list[nn.Module] = []

            def backend(graph: nn.Module, inputs: object, graphs: list[nn.Module] = graphs) -> Callable[..., Any]:
                graphs.append(graph)
                return graph.forward

            compiled = torch.compile(case.make(), backend=backend, fullgraph=True, dynamic=dynamic)
            for k, rows in enumerate(BATCHES[:4] if dynamic else BATCHES):
                problem = case.leaves(case.draw(seed=k, **_sizes_of_batch(case, rows)))
                if dynamic:  # marked: a graph specialised to one number of rows is an error
                    problem.map(functools.partial(_mark_rows, case))
                case.call(problem, compiled)
            assert len(graphs) <= GRAPHS, f"{len(graphs)} graphs for batches of other sizes, dynamic={dynamic}"


def _sizes_of_batch(case: Case, rows: int) -> dict[str, int]:
    """Rows of both samples, unequal if allowed."""
    equal = case.sizes.get("n") is not None and case.sizes.get("n") == case.sizes.get("m")
    sizes = {"n": rows, "m": rows if equal else rows + 3, "b": rows}
    if equal:
        sizes |= {"n": rows + rows % 2, "m": rows + rows % 2}
    return {axis: size for axis, size in sizes.items() if axis in case.axes}


def _mark_rows(case: Case, name: str, leaf: Tensor) -> Tensor:
    for position, axis in enumerate(case.roles[name].axes):
        if axis in ("n", "m", "b"):
            torch._dynamo.mark_dynamic(leaf, position)
    return leaf


@condition("Graphs", "export")
def check_export(case: Case) -> None:
    """``torch.export`` exports the module; the exported program returns the same."""
    problem = problems_dressed(case, torch.float32)[-1]
    args, kwargs = case.arguments(problem)
    module = case.make()
    with _compiler():
        program = torch.export.export(module, tuple(args), kwargs)
        found = program.module()(*args, **kwargs)
    for one, other in zip(outputs(found), outputs(case.call(problem, module))):
        assert_close(one, other, rtol=1e-5, atol=1e-6)
