"""Losses on predictions and features under training conditions: masks, weights, dtypes, transforms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmda.losses.class_confusion import minimum_class_confusion_loss
from mmda.losses.classifier_discrepancy import classifier_discrepancy_loss
from mmda.losses.disparity import margin_disparity_loss
from mmda.losses.entropy import entropy_loss, information_maximisation_loss
from mmda.losses.feature_norm import adaptive_feature_norm_loss
from mmda.losses.nuclear_norm import batch_nuclear_norm_loss

Loss = Callable[..., Tensor]


def _disparity_target(x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    fixed = torch.arange(-6, 6, dtype=x.dtype).reshape(3, 4) / 8
    return margin_disparity_loss(fixed, fixed, x.detach(), x, target_weight=weight, target_mask=mask)


def _disparity_source(x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    fixed = torch.arange(-6, 6, dtype=x.dtype).reshape(3, 4) / 8
    return margin_disparity_loss(x.detach(), x, fixed, fixed, source_weight=weight, source_mask=mask)


def _discrepancy(x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    return classifier_discrepancy_loss(x, x.flip(-1) * 0.5, weight=weight, mask=mask)


def _hard_norm(x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    return adaptive_feature_norm_loss(x, variant="hard", radius=3.0, weight=weight, mask=mask)


LOSSES: dict[str, Loss] = {
    "entropy": entropy_loss,
    "information maximisation": information_maximisation_loss,
    "class confusion": minimum_class_confusion_loss,
    "nuclear norm": batch_nuclear_norm_loss,
    "classifier discrepancy": _discrepancy,
    "disparity, target side": _disparity_target,
    "disparity, source side": _disparity_source,
    "feature norm, stepwise": adaptive_feature_norm_loss,
    "feature norm, hard": _hard_norm,
}
# Losses that detach part of their input: numerical differences of the value do not give their gradient.
DETACHED = {"class confusion", "feature norm, stepwise"}
# Losses that have a value even if one side has no rows.
TWO_SIDED = {"disparity, target side", "disparity, source side"}
each_loss = pytest.mark.parametrize("name", LOSSES)


def _logits(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return 2 * torch.randn(n, 4, generator=generator, dtype=torch.float64).to(dtype)


@each_loss
@pytest.mark.parametrize("pad", [float("nan"), float("inf"), -7.0])
def test_padded_equals_unpadded_and_padding_gets_no_gradient(name: str, pad: float) -> None:
    loss, rows = LOSSES[name], _logits(5)
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    padded = torch.full((2, 4, 4), pad, dtype=torch.float64)
    padded[mask] = rows
    rows.requires_grad_()
    padded.requires_grad_()
    expected, value = loss(rows), loss(padded, mask=mask)
    expected.backward()
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(padded.grad[mask], rows.grad, rtol=1e-9, atol=1e-11)
    assert (padded.grad[~mask] == 0).all()


@each_loss
def test_a_weight_is_a_count(name: str) -> None:
    loss, rows = LOSSES[name], _logits(4)
    rows[3] = float("nan")  # an absent row may hold anything
    weight = torch.tensor([2, 1, 3, 0])
    x = rows.clone().requires_grad_()
    value = loss(x, weight=weight)
    value.backward()
    repeated = rows[:3].clone().requires_grad_()
    expected = loss(repeated.repeat_interleave(weight[:3], 0))
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(x.grad[:3], repeated.grad, rtol=1e-5, atol=1e-8)
    assert (x.grad[3] == 0).all()


@each_loss
def test_nothing_left_is_a_connected_zero(name: str) -> None:
    x = torch.full((3, 4), torch.nan, requires_grad=True)
    value = LOSSES[name](x, mask=torch.zeros(3, dtype=torch.bool))
    value.backward()
    assert (x.grad == 0).all()
    assert torch.isfinite(value)
    if name not in TWO_SIDED:
        assert value.item() == 0


@each_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_first_and_second_derivatives(name: str, weighted: bool) -> None:
    loss, x = LOSSES[name], _logits(3).requires_grad_()
    options = {"weight": torch.tensor([1.0, 2.0, 0.0])} if weighted else {}
    if name in DETACHED:
        # The Hessian is that of the formula with the detached parts constant; values: the loss's own test file.
        assert torch.isfinite(torch.autograd.functional.hessian(lambda a: loss(a, **options), x)).all()
        return
    assert torch.autograd.gradcheck(lambda a: loss(a, **options), x)
    if name == "classifier discrepancy" or name.startswith("disparity"):
        assert torch.autograd.gradgradcheck(lambda a: loss(a, **options), x, atol=1e-6)
    else:
        assert torch.autograd.gradgradcheck(lambda a: loss(a, **options), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, at first jvp
@each_loss
def test_function_transforms_agree_with_autograd(name: str) -> None:
    loss = LOSSES[name]
    batch = torch.stack([_logits(3), _logits(3).roll(1, 1) + 0.1])
    direction = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    gradients = torch.func.vmap(torch.func.grad(loss))(batch)
    for rows, gradient in zip(batch, gradients):
        x = rows.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(x), x)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)
        value, slope = torch.func.jvp(loss, (rows,), (direction,))
        torch.testing.assert_close(value, loss(rows))
        torch.testing.assert_close(slope, (expected * direction).sum(), rtol=1e-9, atol=1e-11)


@each_loss
def test_half_precision_is_widened_and_autocast_is_off_inside(name: str) -> None:
    loss, rows = LOSSES[name], _logits(6, torch.float32)
    expected = loss(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(rows)
    assert inside.dtype == torch.float32
    assert inside == expected
    for dtype in (torch.bfloat16, torch.float16):
        half = rows.to(dtype)
        value = loss(half)
        assert value.dtype == torch.float32
        assert value == loss(half.float())
    assert loss(rows.double()).dtype == torch.float64
    torch.testing.assert_close(expected.double(), loss(rows.double()), rtol=2e-5, atol=1e-6)


@each_loss
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_common_offset_costs_no_digits(name: str, offset: float) -> None:
    rows = _logits(6, torch.float32) + offset
    torch.testing.assert_close(
        LOSSES[name](rows).double(), LOSSES[name](rows.double()), rtol=1e-5, atol=1e-5, check_dtype=False
    )


@each_loss
def test_one_graph_under_compile(name: str) -> None:
    loss, rows = LOSSES[name], _logits(4)
    mask = torch.tensor([True, True, False, True])
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for options in ({}, {"mask": mask}):
        x, y = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        value, expected = compiled(x, **options), loss(y, **options)
        value.backward()
        expected.backward()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(x.grad, y.grad)


@each_loss
def test_order_does_not_matter_and_inputs_stay(name: str) -> None:
    loss, rows = LOSSES[name], _logits(6)
    before = rows.clone()
    value = loss(rows)
    assert torch.equal(rows, before)
    torch.testing.assert_close(loss(rows.flip(0)), value, rtol=1e-11, atol=1e-12)
    strided = torch.zeros(6, 8, dtype=torch.float64)[:, ::2].copy_(rows)
    torch.testing.assert_close(loss(strided), value, rtol=1e-12, atol=1e-13)
    assert torch.isfinite(loss(rows[:1].expand(5, 4)))
    assert torch.isfinite(loss(rows[:1]))


@each_loss
def test_a_mask_must_be_bool(name: str) -> None:
    with pytest.raises(TypeError, match=r"mask` must be a bool tensor \(True = keep\), got torch.float32"):
        LOSSES[name](torch.zeros(3, 4), mask=torch.ones(3))
    with pytest.raises(ValueError, match=r"must have shape \(samples, (classes|features)\), got \(2, 3, 4\)"):
        LOSSES[name](torch.zeros(2, 3, 4))
