"""Masked reductions, and samples flattened to weighted rows, against NumPy on the kept entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda._core.masking import full_precision, safe_divide, working_dtype, zero_padding
from mmda._core.reductions import masked_log_softmax, masked_logsumexp, masked_mean, masked_softmax
from mmda._core.rows import as_rows
from mmda._core.unit_rows import normalized_rows

DIFFERENTIATED = {
    "backward": lambda f, w, x: torch.autograd.grad(f(w.requires_grad_(), x).sum(), w),
    "grad": lambda f, w, x: torch.func.grad(lambda w: f(w, x).sum())(w),
    "jvp": lambda f, w, x: torch.func.jvp(lambda w: f(w, x), (w,), (w,)),
    "jacfwd": lambda f, w, x: torch.func.jacfwd(f)(w, x),
    "hessian": lambda f, w, x: torch.func.hessian(lambda w, x: f(w, x).square().sum())(w, x),
    "grad of vmap": lambda f, w, x: torch.func.grad(lambda many: torch.func.vmap(f, in_dims=(0, None))(many, x).sum())(
        w.expand(2, -1)
    ),
    "vmap of grad": lambda f, w, x: torch.func.vmap(torch.func.grad(lambda w, x: f(w, x).sum()), in_dims=(0, None))(
        w.expand(2, -1), x
    ),
    "forward over the gradient on rows": lambda f, w, x: torch.func.jvp(
        lambda w: torch.func.grad(lambda w, x: f(w, x).square().sum(), argnums=1)(w, x), (w,), (w,)
    ),
}
NOT_DIFFERENTIATED = {
    "value": lambda f, w, x: f(w, x),
    "backward on rows": lambda f, w, x: torch.autograd.grad(f(w, x.requires_grad_()).sum(), x),
    "grad on rows": lambda f, w, x: torch.func.grad(lambda w, x: f(w, x).sum(), argnums=1)(w, x),
    "jvp on rows": lambda f, w, x: torch.func.jvp(lambda x: f(w, x), (x,), (x,)),
    "vmap over rows": lambda f, w, x: torch.func.vmap(f, in_dims=(None, 0))(w, x.expand(2, -1, -1)),
}


@pytest.mark.filterwarnings("ignore")  # raised by torch on its first use of forward mode
@pytest.mark.parametrize("way", [*DIFFERENTIATED, *NOT_DIFFERENTIATED])
def test_a_row_of_weight_zero_is_kept_where_its_weight_is_differentiated(way: str) -> None:
    seen = []

    def function(weight: Tensor, x: Tensor) -> Tensor:
        rows, counts = as_rows("loss", "source", x, mask=None, weight=weight, dtype=torch.float64)
        assert counts is not None
        plain = rows.sum()
        seen.append(plain)
        return counts @ rows

    weight, x = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    x[1] = 7.0
    {**DIFFERENTIATED, **NOT_DIFFERENTIATED}[way](function, weight, x)
    for plain in seen:
        while torch._C._functorch.is_functorch_wrapped_tensor(plain):
            plain = torch._C._functorch.get_unwrapped(plain)
        assert (plain == (14.0 if way in DIFFERENTIATED else 0.0)).all()


FILLERS = (math.nan, math.inf, -math.inf, 1e300)


@st.composite
def rows_with_holes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Numbers (4, 5) and a mask; what it hides is poison. The spread reaches far beyond where exp overflows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    scale = draw(st.sampled_from([1.0, 1e3]))
    mask = rng.random((4, 5)) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    x = np.where(mask, scale * rng.normal(size=(4, 5)), draw(st.sampled_from(FILLERS)))
    return torch.from_numpy(x), torch.from_numpy(mask)


def kept_columns(x: Tensor, mask: Tensor) -> list[np.ndarray]:
    return [row[keep] for row, keep in zip(x.numpy(), mask.numpy())]


def log_sum_exp(values: np.ndarray) -> float:
    top = values.max()
    return float(top) + math.log(math.fsum(math.exp(v - top) for v in values))


@settings(max_examples=60, deadline=None)
@given(rows_with_holes())
def test_reductions_are_those_of_the_kept_entries(problem: tuple[Tensor, Tensor]) -> None:
    x, mask = problem
    kept = kept_columns(x, mask)
    mean, total = masked_mean(x, mask, 1), masked_logsumexp(x, mask, 1)
    logs, shares = masked_log_softmax(x, mask, 1), masked_softmax(x, mask, 1)
    assert torch.equal(logs[~mask], torch.zeros_like(logs[~mask]))
    assert torch.equal(shares[~mask], torch.zeros_like(shares[~mask]))
    for row, values in enumerate(kept):
        if len(values) == 0:
            assert mean[row] == 0
            assert total[row] == 0
            continue
        assert mean[row].item() == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)
        whole = log_sum_exp(values)
        assert total[row].item() == pytest.approx(whole, rel=1e-12, abs=1e-12)
        assert logs[row][mask[row]].tolist() == pytest.approx(list(values - whole), rel=1e-12, abs=1e-11)
        assert shares[row][mask[row]].tolist() == pytest.approx(list(np.exp(values - whole)), rel=1e-9, abs=1e-12)
        assert shares[row].sum().item() == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(rows_with_holes())
def test_gradient_is_zero_behind_the_mask_and_finite_before_it(problem: tuple[Tensor, Tensor]) -> None:
    x, mask = problem
    for reduction in (masked_mean, masked_logsumexp, masked_log_softmax, masked_softmax):
        leaf = x.clone().requires_grad_()
        value = reduction(leaf, mask, 1)
        value.backward(torch.ones_like(value) + torch.arange(value.shape[-1]))
        assert leaf.grad is not None
        assert torch.equal(leaf.grad[~mask], torch.zeros_like(leaf.grad[~mask]))
        assert leaf.grad.isfinite().all()


def test_reductions_run_over_the_named_axis() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 2)))
    mask = torch.from_numpy(np.random.default_rng(1).random((3, 4, 2)) < 0.7)
    for reduction in (masked_mean, masked_logsumexp):
        torch.testing.assert_close(reduction(x, mask, 1), reduction(x.movedim(1, -1), mask.movedim(1, -1), -1))


@pytest.mark.parametrize("reduction", [masked_mean, masked_logsumexp, masked_log_softmax, masked_softmax])
def test_derivatives(reduction) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4))).requires_grad_()
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    assert torch.autograd.gradcheck(lambda a: reduction(a, mask, 1), (x,))
    assert torch.autograd.gradgradcheck(lambda a: reduction(a, mask, 1), (x,))


def test_log_sum_exp_does_not_overflow() -> None:
    x = torch.tensor([[1e4, 1e4], [-1e4, -1e4]], requires_grad=True)
    value = masked_logsumexp(x, torch.ones(2, 2, dtype=torch.bool), 1)
    value.sum().backward()
    assert value.tolist() == pytest.approx([1e4 + math.log(2), -1e4 + math.log(2)])
    assert x.grad is not None
    assert x.grad.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_safe_divide_is_zero_without_a_denominator() -> None:
    numerator = torch.tensor([1.0, 0.0, 6.0], requires_grad=True)
    denominator = torch.tensor([0.0, -1.0, 3.0], requires_grad=True)
    value = safe_divide(numerator, denominator)
    value.sum().backward()
    assert value.tolist() == [0, 0, 2]
    assert numerator.grad is not None
    assert denominator.grad is not None
    assert numerator.grad.tolist() == [0, 0, pytest.approx(1 / 3)]
    assert denominator.grad.tolist() == [0, 0, pytest.approx(-6 / 9)]


@pytest.mark.parametrize("filler", FILLERS)
def test_padding_becomes_zero(filler: float) -> None:
    x = torch.full((2, 3, 4), filler, dtype=torch.float64)
    mask = torch.tensor([[True, False, False], [False, True, False]])
    x[mask] = 1.0
    x.requires_grad_()
    found = zero_padding(x, mask)
    found.square().sum().backward()
    assert torch.equal(found.detach(), mask.double().unsqueeze(-1).expand_as(x))
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * found.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_numbers_on_padding_become_zero_too(dtype: torch.dtype) -> None:
    """Padding is zeroed bitwise; its NaN gradients become zero at any order."""
    x = torch.randn(40, 2000, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.arange(40) % 3 != 1
    filled = x.masked_fill(~mask.unsqueeze(1), math.nan).requires_grad_()
    found = zero_padding(filled, mask)
    assert torch.equal(found.detach(), torch.where(mask.unsqueeze(1), x, 0))
    assert not torch.signbit(found[~mask]).any()
    slope = x.square().masked_fill(~mask.unsqueeze(1), math.nan)
    assert torch.equal(torch.autograd.grad(found, filled, slope)[0], torch.where(mask.unsqueeze(1), slope, 0))
    clean = x.double().requires_grad_()
    (once,) = torch.autograd.grad(zero_padding(clean, mask).pow(3).sum(), clean, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), clean)
    torch.testing.assert_close(twice, 6 * x.double() * mask.unsqueeze(1))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25, 1e-13])
def test_unit_rows_and_their_slopes_at_any_scale(scale: float) -> None:
    """A zero row stays zero and passes its gradient; rows of any length become unit rows with orthogonal gradients."""
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    x[0, 1] = 0
    x[1, 2] *= scale
    x = x.requires_grad_()
    slope = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(normalized_rows(x), x, slope)
    exact = x.detach().double()
    lengths = exact.norm(dim=-1, keepdim=True)
    unit = exact / lengths.where(lengths > 0, 1)
    expected = (slope - unit * (unit * slope).sum(-1, keepdim=True)) / lengths.where(lengths > 0, 1)
    torch.testing.assert_close(normalized_rows(x).double(), unit, rtol=1e-6, atol=1e-7)
    near = expected.abs() < 1e30
    torch.testing.assert_close(found.double()[near], expected[near], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0, 1], slope[0, 1])


def test_unit_rows_twice_differentiated_and_not_finite() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradgradcheck(normalized_rows, x.clone().requires_grad_())
    x[1, 2] = math.nan
    found = normalized_rows(x)
    assert found[1, 2].isnan()
    torch.testing.assert_close(found[0].norm().item(), 1.0)


def test_rows_without_mask_or_weight_have_no_weights() -> None:
    x = torch.randn(5, 3)
    rows, weight = as_rows("caller", "source", x, mask=None, weight=None, dtype=torch.float32)
    assert torch.equal(rows, x)
    assert weight is None


def test_sequences_become_counted_rows() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    x[0, 2] = math.nan
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weight = torch.tensor([[1.0, 2.0, 5.0], [0.0, 1.0, 1.0]])
    rows, counts = as_rows("caller", "source", x, mask=mask, weight=weight, dtype=torch.float64)
    assert rows.dtype == torch.float64
    assert rows.tolist() == [[0, 1], [2, 3], [0, 0], [0, 0], [8, 9], [10, 11]]
    assert counts is not None
    assert counts.tolist() == [1, 2, 0, 0, 1, 1]
    _, ones = as_rows("caller", "source", x, mask=mask, weight=None, dtype=torch.float64)
    assert ones is not None
    assert ones.tolist() == [1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("x", "options", "error", "text"),
    [
        (
            torch.zeros(2, 3, 4),
            {},
            ValueError,
            r"caller: `source` must have shape \(samples, features\), got \(2, 3, 4\)",
        ),
        (torch.zeros(4), {}, ValueError, r"caller: `source` must have shape \(samples, features\), got \(4,\)"),
        (torch.zeros(0, 4), {}, ValueError, r"caller: `source` must have no empty axis, got \(0, 4\)"),
        (
            torch.zeros(2, 4, dtype=torch.long),
            {},
            TypeError,
            "`source` must be a floating-point tensor, got torch.int64",
        ),
        (torch.zeros(2, 4), {"mask": torch.ones(2)}, TypeError, r"`source_mask` must be a bool tensor \(True = keep\)"),
        (
            torch.zeros(2, 4),
            {"mask": torch.ones(3, dtype=torch.bool)},
            ValueError,
            r"`source_mask` must have shape \(2,\), got \(3,\)",
        ),
        (
            torch.zeros(2, 4),
            {"weight": torch.ones(4)},
            ValueError,
            r"`source_weight` must have shape \(2,\), got \(4,\)",
        ),
        (
            torch.zeros(2, 4),
            {"weight": torch.ones(2, dtype=torch.bool)},
            TypeError,
            "`source_weight` must be a real tensor, got torch.bool",
        ),
        ([1.0], {}, TypeError, "`source` must be a torch.Tensor, got list"),
    ],
)
def test_errors_name_caller_argument_rule_and_what_came(x, options, error, text) -> None:
    with pytest.raises(error, match=text):
        as_rows("caller", "source", x, **{"mask": None, "weight": None, "dtype": torch.float32, **options})


def test_working_dtype_widens_half_and_keeps_double() -> None:
    half, single, double = (torch.zeros(1, dtype=d) for d in (torch.bfloat16, torch.float32, torch.float64))
    assert working_dtype(half) == working_dtype(half, single) == torch.float32
    assert working_dtype(half, double) == torch.float64


def test_full_precision_switches_autocast_off_inside_only() -> None:
    a = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(a):
            assert not torch.is_autocast_enabled("cpu")
            assert (a @ a).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
    with full_precision(a):
        assert not torch.is_autocast_enabled("cpu")
