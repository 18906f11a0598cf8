"""Gradient reversal: the identity forward, minus the strength backward, under every transform."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

from mmda.layers import GradientReversal, gradient_reversal

# torch's own, when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def cubes(x: Tensor, strength: Tensor) -> Tensor:
    return gradient_reversal(x, strength).pow(3).sum()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 7.0, -2.0])
def test_forward_is_the_identity_for_every_value(dtype: torch.dtype, strength: float) -> None:
    limits = torch.finfo(dtype)
    x = torch.tensor(
        [0.0, 1.0, -3.7, limits.max, -limits.max, limits.tiny, limits.eps, torch.inf, -torch.inf, torch.nan]
    )
    x = x.to(dtype)
    y = gradient_reversal(x, strength)
    assert y.dtype == dtype
    assert torch.equal(y.nan_to_num(7.0, 8.0, 9.0), x.nan_to_num(7.0, 8.0, 9.0))


def test_negative_zero_keeps_its_sign() -> None:
    assert gradient_reversal(torch.tensor([-0.0]), 0.5).signbit().all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_is_minus_the_strength(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    g = torch.randn(4, 3, dtype=dtype)
    gradient_reversal(x, 0.5).backward(g)  # a power of two: exact in every dtype
    assert torch.equal(x.grad, -0.5 * g)


@pytest.mark.parametrize("strength", [1.0, torch.tensor(1.0), 2.0, torch.tensor(0.5)])
def test_gradient_of_a_plain_sum(strength: float | Tensor) -> None:
    """The gradient of a sum is an expanded number, and a strength of one only changes its sign."""
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    gradient_reversal(x, strength).sum().backward()
    assert x.grad.tolist() == [-float(strength)] * 3


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_one_strength_a_sample(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    strength = torch.tensor([0.0, 0.5, 1.0, 2.0])
    gradient_reversal(x, strength).sum().backward()
    expected = -strength.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)
    assert torch.equal(x.grad, expected)


def test_what_follows_may_write_over_the_result_and_the_input() -> None:
    start = torch.ones(3, requires_grad=True)
    x = start * 1
    y = gradient_reversal(x, 0.5).mul_(2)
    x.add_(1)
    y.sum().backward()
    assert torch.equal(start.grad, torch.full((3,), -1.0))


def test_strength_gets_no_gradient() -> None:
    strength = torch.tensor(0.5, requires_grad=True)
    x = torch.ones(3, requires_grad=True)
    gradient_reversal(x, strength).sum().backward()
    assert strength.grad is None


def test_gradient_at_an_entry_that_is_not_finite_is_zero() -> None:
    x = torch.tensor([1.0, torch.inf, torch.nan], requires_grad=True)
    gradient_reversal(x, 0.5).sum().backward()
    assert torch.equal(x.grad, torch.tensor([-0.5, 0.0, 0.0]))


def test_function_transforms() -> None:
    x, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    s = torch.tensor(0.7, dtype=torch.float64)
    first = -0.7 * 3 * x.square()
    torch.testing.assert_close(torch.func.grad(cubes)(x, s), first)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cubes), (0, None))(x, s), first)
    strengths = torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(cubes))(x, strengths), -strengths.unsqueeze(1) * 3 * x.square()
    )
    value, tangent = torch.func.jvp(lambda a: gradient_reversal(a, s), (x,), (v,))
    assert torch.equal(value, x)
    torch.testing.assert_close(tangent, -0.7 * v)
    torch.testing.assert_close(torch.func.jacfwd(cubes)(x, s), first)


def test_second_derivative_passes_the_reversal_twice() -> None:
    """f = y^3, f'' = 6y, and the sign turns at each pass: strength^2 f''."""
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    s = torch.tensor(0.7, dtype=torch.float64)
    (first,) = torch.autograd.grad(cubes(x, s), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 0.49 * 6 * x.detach())
    hessian = torch.func.hessian(cubes)(x.detach(), s)
    torch.testing.assert_close(hessian, torch.diag(0.49 * 6 * x.detach()))


def test_strength_is_read_when_forward_runs() -> None:
    layer = GradientReversal(0.5)
    x = torch.ones(3, requires_grad=True)
    y = layer(x)
    layer.set_strength(9.0)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), -0.5))
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.equal(gradient, torch.full((3,), -9.0))


def test_forward_changes_no_state() -> None:
    layer = GradientReversal(0.5)
    before = copy.deepcopy(layer.state_dict())
    layer(torch.ones(3))
    assert layer.state_dict().keys() == before.keys()
    assert torch.equal(layer.strength, before["strength"])


def test_layer_takes_one_strength_a_sample() -> None:
    layer = GradientReversal(0.5)
    x = torch.ones(2, 3, requires_grad=True)
    layer(x, strength=torch.tensor([0.0, 2.0])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0] * 3, [-1.0] * 3]))


def test_compiles_once_for_all_strengths() -> None:
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    layer = GradientReversal(0.5)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for strength in (0.5, 1.0, 0.125):
        layer.set_strength(strength)
        x = torch.randn(4, 3, requires_grad=True)
        y = compiled(x)
        assert torch.equal(y, x)
        y.sum().backward()
        assert torch.equal(x.grad, torch.full((4, 3), -strength))
    assert graphs == 1


def test_export() -> None:
    x = torch.randn(4, 3)
    exported = torch.export.export(GradientReversal(0.5), (x,))
    assert torch.equal(exported.module()(x), x)


def test_under_autocast() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gradient_reversal(x, 0.5)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((4, 3), -0.5))


def test_copies_and_checkpoints_keep_the_strength() -> None:
    layer = GradientReversal(0.5)
    layer.set_strength(0.25)
    assert repr(layer) == "GradientReversal(strength=0.25)"
    assert repr(copy.deepcopy(layer)) == repr(layer)
    assert repr(pickle.loads(pickle.dumps(layer))) == repr(layer)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = GradientReversal()
    other.load_state_dict(torch.load(file))
    assert repr(other) == repr(layer)
    with torch.device("meta"):
        assert repr(GradientReversal()) == "GradientReversal(strength=?)"


def test_errors() -> None:
    x = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"gradient_reversal: `strength` must have shape \(\) or \(4,\), got \(3,\)"):
        gradient_reversal(x, torch.ones(3))
    with pytest.raises(TypeError, match=r"gradient_reversal: `x` must be a floating-point tensor, got torch.int64"):
        gradient_reversal(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="GradientReversal: `strength` must be a finite number, got nan"):
        GradientReversal(float("nan"))
    with pytest.raises(ValueError, match=r"GradientReversal.set_strength: `strength` must have shape \(\), got \(2,\)"):
        GradientReversal().set_strength(torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_does_not_round_the_strength(dtype: torch.dtype) -> None:
    reversal = GradientReversal(0.1).to(dtype)
    assert reversal.strength.item() == pytest.approx(0.1, rel=1e-7)
    reversal.set_strength(1 / 3)
    assert reversal.strength.item() == pytest.approx(1 / 3, rel=1e-7)
    assert reversal.double().strength.dtype == torch.float64
    assert reversal.to("meta").strength.is_meta
    x = torch.ones(3, dtype=dtype, requires_grad=True)
    GradientReversal(0.1).to(dtype)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad, torch.full((3,), -0.1, dtype=dtype), rtol=0, atol=0)
    try:
        torch.set_default_dtype(dtype)
        assert GradientReversal(0.1).strength.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
