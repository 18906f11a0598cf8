"""Derivatives: reverse and forward mode, first and second order, function transforms."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.contract.cases import Case, Problem
from tests.contract.conditions._shared import (
    DOUBLE,
    assert_close,
    assert_same_gradients,
    condition,
    differentiable_function,
    dressable,
    dressed,
    is_loss,
    problems_dressed,
    require,
    takes_weights,
    weighted_axes,
)

#: Heading of this family's column in the overview.
HEAD = "grad"


@condition("Derivatives", "reaches all inputs")
def check_reaches_inputs(case: Case) -> None:
    """Every differentiable input gets a nonzero gradient if the inputs differ."""
    _, gradients = case.value_and_gradients(case.draw())
    for name, leaves in gradients.items():
        for leaf in leaves:
            assert leaf.abs().max() > 1e-6, f"no gradient reaches `{name}`"


@condition("Derivatives", "gradcheck")
def check_gradcheck(case: Case) -> None:
    """Gradients agree with finite differences, also with weights and masks."""
    for problem in _problems_for_derivatives(case):
        function, tensors = differentiable_function(case, problem, case.make(settled=True, dtype=DOUBLE, d=2))
        assert torch.autograd.gradcheck(function, tuple(t.requires_grad_() for t in tensors), atol=1e-6, rtol=1e-4)


@condition("Derivatives", "gradgradcheck")
def check_gradgradcheck(case: Case) -> None:
    """Double backward agrees with finite differences, also with weights and masks."""
    for problem in _problems_for_derivatives(case):
        function, tensors = differentiable_function(case, problem, case.make(settled=True, dtype=DOUBLE, d=2))
        leaves = tuple(t.requires_grad_() for t in tensors)
        ones = torch.ones((), dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradgradcheck(function, leaves, (ones,), atol=1e-6, rtol=1e-4)


def _problems_for_derivatives(case: Case) -> list[Problem]:
    problem = case.draw(dtype=DOUBLE, n=4, m=4, b=4, d=2)
    return [problem, dressed(case, problem)] if dressable(case) else [problem]


@condition("Derivatives", "func.grad")
def check_func_grad(case: Case) -> None:
    """``torch.func.grad`` gives the gradient of ``backward``."""
    for problem in problems_dressed(case):
        module = case.make(dtype=DOUBLE)
        function, tensors = differentiable_function(case, problem, module)
        found = torch.func.grad(function, argnums=tuple(range(len(tensors))))(*tensors)
        _, expected = case.value_and_gradients(problem)
        flat = [leaf for name in case.differentiable for leaf in expected[name]]
        for one, other in zip(found, flat):
            assert_close(one, other, rtol=1e-8, what="gradient")


@condition("Derivatives", "vmap")
def check_vmap(case: Case) -> None:
    """``torch.func.vmap`` over stacked problems gives the stacked values, and gradients when composed with grad."""
    pairs = list(zip(*(problems_dressed(case, seed=seed) for seed in range(3))))
    for problems in pairs:
        module = case.make(dtype=DOUBLE)
        functions = [differentiable_function(case, problem, module) for problem in problems]
        function = functions[0][0]  # all other arguments as in the first problem
        stacked = [torch.stack(leaves) for leaves in zip(*(tensors for _, tensors in functions))]
        found = torch.func.vmap(function)(*stacked)
        expected = torch.stack([function(*tensors) for _, tensors in functions])
        assert_close(found, expected)
        slopes = torch.func.vmap(torch.func.grad(function))(*stacked)
        wanted = torch.stack([torch.func.grad(function)(*tensors) for _, tensors in functions])
        assert_close(slopes, wanted, rtol=1e-8, what="gradient")


@condition("Derivatives", "jvp")
def check_jvp(case: Case) -> None:
    """Forward mode (``torch.func.jvp``) agrees with reverse mode."""
    for problem in problems_dressed(case):
        module = case.make(dtype=DOUBLE)
        function, tensors = differentiable_function(case, problem, module)
        generator = torch.Generator().manual_seed(3)
        tangents = tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warning of torch on the first use of forward mode
            value, slope = torch.func.jvp(function, tensors, tangents)
        assert_close(value, case.value(problem))
        _, gradients = case.value_and_gradients(problem)
        flat = [leaf for name in case.differentiable for leaf in gradients[name]]
        assert_close(
            slope, sum(((g * t).sum() for g, t in zip(flat, tangents)), torch.zeros((), dtype=DOUBLE)), rtol=1e-8
        )


@condition("Derivatives", "gradient at weight 0", applies=lambda case: is_loss(case) and takes_weights(case))
def check_slope_at_weight_zero(case: Case) -> None:
    """Reverse and forward mode give the one-sided derivative with respect to a weight of 0."""
    problem = case.draw(dtype=DOUBLE)
    for axis in require(weighted_axes(case), case, "weight"):
        name = case.weight_of(axis)
        assert name is not None
        module = case.make(settled=True, dtype=DOUBLE)
        generator = torch.Generator().manual_seed(4)  # no equal sums, where a quantile function has a kink
        weight = 0.5 + torch.rand(case.length(problem, axis), generator=generator, dtype=DOUBLE)
        step = torch.zeros_like(weight)
        weight[1], step[1] = 0.0, 1e-6

        def function(
            weight: Tensor, name: str = name, module: nn.Module = module, problem: Problem = problem
        ) -> Tensor:
            return case.value(problem.with_values(**{name: weight}), module)

        first, second, third = (function(weight + count * step) for count in range(3))
        slope = (-3 * first + 4 * second - third) / (2 * step[1])
        tracked = weight.clone().requires_grad_()
        found = {
            "reverse": torch.autograd.grad(function(tracked), tracked)[0][1],
            "func.grad": torch.func.grad(function)(weight)[1],
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warning of torch on the first use of forward mode
            found["forward"] = torch.func.jvp(function, (weight,), (step / step[1],))[1]
        for mode, value in found.items():
            assert_close(value, slope, rtol=1e-4, atol=1e-5, what=f"{mode} gradient of `{name}` at 0")


def _call_forms(case: Case) -> list[Problem]:
    """The ways to call: without options, with all weights and masks, and with an integer instead of one per row."""
    forms = problems_dressed(case)
    whole = [n for n, p in case.signature.parameters.items() if "int | Tensor" in str(p.annotation)]
    for name in whole:
        forms += [problem.with_values(**{name: number}) for number in (0, 1) for problem in tuple(forms)]
    return forms


@condition("Derivatives", "one backward")
def check_one_backward(case: Case) -> None:
    """One backward through several calls, of every form and in training and evaluation mode, gives their gradients."""
    forms = _call_forms(case)
    module, left = case.make(dtype=DOUBLE), []
    for training in (True, False, True) if case.is_layer else (True,):
        for form in forms:
            form = case.leaves(form)
            alone = copy.deepcopy(module).train(training)  # with the current state
            left.append((form, case.value(form, module.train(training)), case.value_and_gradients(form, alone)[1]))
    torch.stack([value for _, value, _ in left]).sum().backward()
    for form, _, expected in left:
        leaves = {name: pytree.tree_leaves(form.values[name]) for name in case.differentiable}
        found = {
            name: [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in tensors]
            for name, tensors in leaves.items()
        }
        assert_same_gradients(found, expected)
