"""Precision: input and output dtypes, autocast, features far from the origin."""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree

from tests.contract.cases import Case
from tests.contract.conditions._shared import (
    DOUBLE,
    assert_close,
    assert_dtype,
    assert_same_gradients,
    condition,
    has_features,
    outputs,
)

#: Heading of this family's column in the overview.
HEAD = "prec"


@condition("Precision", "float64")
def check_float64(case: Case) -> None:
    """float64 in, float64 out, gradients too."""
    problem = case.leaves(case.draw(dtype=DOUBLE))
    assert_dtype(case, case.call(problem), DOUBLE)
    _, gradients = case.value_and_gradients(problem)
    assert all(leaf.dtype == DOUBLE for leaves in gradients.values() for leaf in leaves)


@condition("Precision", "float32")
def check_float32(case: Case) -> None:
    """float32 in, float32 out, within 1e-5 of float64, gradients within 1e-4."""
    problem = case.draw(dtype=torch.float32)
    assert_dtype(case, case.call(problem), torch.float32)
    exact = problem.map(lambda name, leaf: leaf.double() if leaf.is_floating_point() else leaf)
    value, gradients = case.value_and_gradients(problem)
    reference, expected = case.value_and_gradients(exact)
    assert_close(value, reference, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients, expected, rtol=1e-4, atol=1e-6)


def _check_half(case: Case, dtype: torch.dtype) -> None:
    problem = case.draw(dtype=torch.float32).map(
        lambda name, leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf
    )
    wide = problem.map(lambda name, leaf: leaf.float() if leaf.is_floating_point() else leaf)
    rounding = torch.finfo(torch.float32).eps * 64
    if case.is_layer:
        kept = [leaf.dtype for leaf in outputs(case.call(problem)) if leaf.is_floating_point()]
        assert set(kept) <= {dtype, torch.float32}, f"came back as {kept}"
        rounding = 16 * torch.finfo(dtype).eps if dtype in kept else rounding
    else:
        assert_dtype(case, case.call(problem), torch.float32)
    value, gradients = case.value_and_gradients(problem)
    expected, wide_gradients = case.value_and_gradients(wide)
    assert_close(value, expected, rtol=rounding, atol=rounding)
    for name in case.differentiable:
        for gradient, exact in zip(gradients[name], wide_gradients[name]):
            assert gradient.dtype == dtype, f"gradient on `{name}` is {gradient.dtype}"
            half = 16 * torch.finfo(dtype).eps
            assert_close(gradient, exact, rtol=half, atol=half * 1e-2, what=f"gradient on `{name}`")


@condition("Precision", "bfloat16")
def check_bfloat16(case: Case) -> None:
    """bfloat16 input is converted to float32: a loss has the value of the float32 input; gradients are bfloat16."""
    _check_half(case, torch.bfloat16)


@condition("Precision", "float16")
def check_float16(case: Case) -> None:
    """float16 input is converted to float32: a loss has the value of the float32 input; gradients are float16."""
    _check_half(case, torch.float16)


def has_parameters(case: Case) -> bool:
    return any(tensor.is_floating_point() for tensor in case.make().state_dict().values())


@condition("Precision", "bfloat16 module", applies=has_parameters)
def check_half_module(case: Case) -> None:
    """A module converted to bfloat16 takes bfloat16 input and computes in float32."""
    dtype = torch.bfloat16
    problem = case.draw().map(lambda name, leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
    wide = problem.map(lambda name, leaf: leaf.float() if leaf.is_floating_point() else leaf)
    half = case.make().to(dtype)
    value, gradients = case.value_and_gradients(problem, half)
    expected, wide_gradients = case.value_and_gradients(wide, case.make().to(dtype).float())
    rounding = 16 * torch.finfo(dtype).eps
    assert_close(value, expected, rtol=rounding, atol=rounding)
    assert_same_gradients(gradients, wide_gradients, rtol=rounding, atol=rounding)


def _check_autocast(case: Case, device: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        problem = case.leaves(case.draw().map(lambda name, leaf: leaf.to(device)))
        module = case.make().to(device)
        plain = case.value(problem, module)
        with torch.autocast(device, dtype=dtype):
            assert_dtype(case, case.call(problem, module), torch.float32)
            inside = case.value(problem, module)
        assert_close(inside, plain, rtol=1e-5, atol=1e-6)
        flat = [leaf for name in case.differentiable for leaf in pytree.tree_leaves(problem.values[name])]
        for one, other in zip(
            torch.autograd.grad(inside, flat, allow_unused=True), torch.autograd.grad(plain, flat, allow_unused=True)
        ):
            if other is not None:
                assert one is not None
                assert_close(one, other, rtol=1e-4, atol=1e-6, what="gradient")


@condition("Precision", "CPU autocast")
def check_cpu_autocast(case: Case) -> None:
    """Inside ``torch.autocast("cpu")``, bfloat16 and float16, results are float32, within rounding of those outside."""
    _check_autocast(case, "cpu")


@condition("Precision", "CUDA autocast", needs_gpu=True)
def check_cuda_autocast(case: Case) -> None:
    """Inside ``torch.autocast("cuda")``: the same, and the value on the GPU equals the value on the CPU."""
    _check_autocast(case, "cuda")
    problem = case.draw()
    there = case.value(problem.map(lambda name, leaf: leaf.cuda()), case.make().cuda())
    assert_close(there.cpu(), case.value(problem), rtol=1e-5, atol=1e-6)


def _check_offset(case: Case, offset: float) -> None:
    problem = case.draw(dtype=torch.float32).map(
        lambda name, leaf: leaf + offset if name in case.differentiable and "d" in case.roles[name].axes else leaf
    )
    exact = problem.map(lambda name, leaf: leaf.double() if leaf.is_floating_point() else leaf)
    value, gradients = case.value_and_gradients(problem)
    expected, exact_gradients = case.value_and_gradients(exact)
    assert_close(value, expected, rtol=1e-3, atol=0.0)
    assert_same_gradients(gradients, exact_gradients, rtol=1e-2, atol=1e-7)


@condition("Precision", "offset 1e3", applies=has_features)
def check_offset_1e3(case: Case) -> None:
    """A common offset of 1e3 in float32: within 1e-3 of float64, gradients within 1e-2."""
    _check_offset(case, 1e3)


@condition("Precision", "offset 1e4", applies=has_features)
def check_offset_1e4(case: Case) -> None:
    """A common offset of 1e4 in float32: within 1e-3 of float64, gradients within 1e-2."""
    _check_offset(case, 1e4)
