"""Purity: calls have no side effects."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils import _pytree as pytree

from tests.contract.cases import Case, probe
from tests.contract.conditions._shared import condition, problems_dressed

#: Heading of this family's column in the overview.
HEAD = "pure"


@condition("Purity", "inputs unchanged")
def check_inputs_unchanged(case: Case) -> None:
    """Forward and backward do not modify any input."""
    for problem in problems_dressed(case, torch.float32):
        before = problem.map(lambda name, leaf: leaf.clone())
        tracked = problem.map(lambda name, leaf: leaf.requires_grad_() if name in case.differentiable else leaf)
        case.value(tracked).backward()
        for one, other in zip(pytree.tree_leaves(tracked.values), pytree.tree_leaves(before.values)):
            assert torch.equal(one.detach(), other)


@condition("Purity", "state unchanged")
def check_state_unchanged(case: Case) -> None:
    """``forward`` does not change the module: no buffer, counter or schedule."""
    module = case.make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = {name: held for name, held in vars(module).items() if isinstance(held, (int, float, str))}
    case.value_and_gradients(case.draw(), module)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), f"`{name}` changed"
    assert plain == {name: held for name, held in vars(module).items() if isinstance(held, (int, float, str))}


@condition("Purity", "global RNG")
def check_global_rng(case: Case) -> None:
    """The global random states of torch, numpy and Python are neither used nor changed."""
    module, problem = case.make(), case.draw()
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    value, _ = case.value_and_gradients(problem, module)
    assert torch.equal(states[0], torch.get_rng_state()), "torch's global generator moved"
    assert bool((states[1] == np.random.get_state()[1]).all()), "numpy's global generator moved"  # noqa: NPY002
    assert states[2] == random.getstate(), "Python's global generator moved"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        again = case.value(problem, case.make())
    assert torch.equal(value, again.detach()), "the value depends on torch's global seed"


@condition("Purity", "deterministic")
def check_deterministic(case: Case) -> None:
    """The same input gives bitwise the same value and gradients; a generator with the same seed gives the same
    sample."""
    problem = case.draw()
    value, gradients = case.value_and_gradients(problem)
    again, more = case.value_and_gradients(problem)
    assert torch.equal(value, again)
    assert all(torch.equal(a, b) for name in gradients for a, b in zip(gradients[name], more[name]))
    if "generator" in case.signature.parameters:
        args, kwargs = case.arguments(problem)
        kwargs = {
            name: value
            for name, value in kwargs.items()
            if case.roles.get(name) is None or case.roles[name].use != "setting"
        }
        module = case.make()
        draws = []
        for seed in (1, 1, 2):
            kwargs["generator"] = torch.Generator().manual_seed(seed)
            draws.append(probe(module(*args, **kwargs)))
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2]), "the generator is not used"
