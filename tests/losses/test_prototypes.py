"""Prototypes across domains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmda.losses import PrototypeContrastiveLoss, prototype_contrastive_loss
from tests.losses._samples import unequal_sample
from tests.reference.contrastive import prototype

TAU = 0.3
K = 4


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class 3 is absent from the source, class 1 from the target."""
    x, y = unequal_sample(n=9, m=6, d=3)
    return x, y, torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 2]), torch.tensor([0, 2, 3, 0, 3, 2])


def shares(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, K).double()


def loss(x: Tensor, y: Tensor, a: Tensor, b: Tensor, **kwargs: object) -> Tensor:
    options = {"confidence": 0.0, **kwargs}
    return prototype_contrastive_loss(x, y, a, b, classes=K, temperature=TAU, **options)


def oracle(x: Tensor, y: Tensor, a: Tensor, b: Tensor, symmetric: bool = True) -> float:
    x, y, a, b = (t.detach().numpy() for t in (x, y, a, b))
    value = prototype(y, b, x, a, TAU)
    return (value + prototype(x, a, y, b, TAU)) / 2 if symmetric else value


@pytest.mark.parametrize("symmetric", [False, True])
def test_against_loops(symmetric: bool) -> None:
    x, y, a, b = problem()
    expected = oracle(x, y, shares(a), shares(b), symmetric)
    assert loss(x, y, a, b, symmetric=symmetric).item() == pytest.approx(expected, rel=1e-12)


def test_soft_assignments_against_loops() -> None:
    x, y, a, _ = problem()
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(6, K, dtype=torch.float64, generator=generator)
    softer = torch.rand(9, K, dtype=torch.float64, generator=generator)
    softer[:, 1] = 0  # a class without mass
    assert loss(x, y, a, soft).item() == pytest.approx(oracle(x, y, shares(a), soft), rel=1e-12)
    value = prototype_contrastive_loss(x, y, softer, soft, temperature=TAU, confidence=0)
    assert value.item() == pytest.approx(oracle(x, y, softer, soft), rel=1e-12)


def test_unit_prototypes_in_closed_form() -> None:
    """Rows at orthogonal class directions: log(1 + (K - 1) exp(-1 / tau)) whatever the lengths."""
    labels = torch.arange(4)
    rows = torch.eye(4, dtype=torch.float64)
    expected = math.log(1 + 3 * math.exp(-1 / TAU))
    assert loss(rows, 5 * rows, labels, labels).item() == pytest.approx(expected, rel=1e-12)


def test_without_normalisation_prototypes_are_means() -> None:
    x = torch.tensor([[1.0], [3.0], [0.0]], dtype=torch.float64)
    y = torch.tensor([[0.5]], dtype=torch.float64)
    value = prototype_contrastive_loss(
        x,
        y,
        torch.tensor([0, 0, 1]),
        torch.tensor([0]),
        classes=2,
        temperature=1.0,
        symmetric=False,
        normalize=False,
    )
    assert value.item() == pytest.approx(math.log(1 + math.exp(-0.5 * 2)), rel=1e-12)  # mean of class 0 is 2


def test_a_class_absent_from_both_changes_nothing() -> None:
    x, y, a, b = problem()
    torch.testing.assert_close(prototype_contrastive_loss(x, y, a, b, classes=K + 7, temperature=TAU), loss(x, y, a, b))


def test_rows_of_no_class_are_left_out() -> None:
    x, y, a, b = problem()
    unlabelled = a.clone()
    unlabelled[[1, 4]] = torch.tensor([-1, 99])
    keep = torch.ones(9, dtype=torch.bool)
    keep[[1, 4]] = False
    torch.testing.assert_close(loss(x, y, unlabelled, b), loss(x[keep], y, a[keep], b))


def test_weights_are_counts() -> None:
    x, y, a, b = problem()
    count = torch.tensor([1, 2, 0, 3, 1, 1, 2, 1, 0])
    torch.testing.assert_close(
        loss(x, y, a, b, source_weight=count),
        loss(x.repeat_interleave(count, 0), y, a.repeat_interleave(count), b),
    )


def test_masked_rows_are_absent() -> None:
    x, y, a, b = problem()
    keep = torch.tensor([True, False, True, True, False, True])
    expected = loss(x, y[keep], a, b[keep])
    y[~keep] = math.nan
    soft = shares(b)
    soft[~keep] = math.nan
    y.requires_grad_()
    for assignment in (b, soft):
        value = loss(x, y, a, assignment, target_mask=keep)
        (grad,) = torch.autograd.grad(value, y)
        torch.testing.assert_close(value, expected)
        assert torch.equal(grad[~keep], torch.zeros(2, 3, dtype=torch.float64))


def test_no_common_class_gives_a_connected_zero() -> None:
    x, y, _, _ = problem()
    x.requires_grad_()
    value = loss(x, y, torch.zeros(9, dtype=torch.long), torch.ones(6, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_derivatives_and_assignments_carry_none() -> None:
    x, y, a, b = problem()
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: loss(p, q, a, b), (x, y))
    assert torch.autograd.gradgradcheck(lambda p, q: loss(p, q, a, b), (x, y))
    soft = shares(b).requires_grad_()
    loss(x, y, a, soft).backward()
    assert soft.grad is None
    assert x.grad.abs().sum() > 0
    assert y.grad.abs().sum() > 0


def test_descending_it_pulls_classes_together() -> None:
    x, y, a, b = problem()
    y.requires_grad_()
    before = loss(x, y, a, b)
    (grad,) = torch.autograd.grad(before, y)
    assert loss(x, y.detach() - 0.1 * grad, a, b) < before


def test_errors_and_repr() -> None:
    x, y, a, b = problem()
    with pytest.raises(ValueError, match="prototype_contrastive_loss: `classes` must be given if `source_assign"):
        prototype_contrastive_loss(x, y, a, b)
    with pytest.raises(ValueError, match=r"`target_assignment` must have 4 columns, one per class, got \(6, 5\)"):
        loss(x, y, a, torch.zeros(6, 5))
    with pytest.raises(ValueError, match=r"`source_assignment` must have 4 columns, one per class, got \(9,\)"):
        loss(x, y, a.double(), b)
    with pytest.raises(TypeError, match="`source_assignment` must hold integers or probabilities"):
        loss(x, y, a > 0, b)
    assert repr(PrototypeContrastiveLoss(classes=4)).startswith("PrototypeContrastiveLoss(classes=4, temperature=0.1,")


def test_rows_below_the_confidence_belong_to_no_class() -> None:
    """Rows below the threshold neither contribute to a prototype nor match one; hard labels pass any threshold."""
    x, y, a, _ = problem()
    soft = torch.full((6, K), 0.1, dtype=torch.float64)
    soft[range(6), [0, 1, 2, 3, 0, 1]] = torch.tensor([0.7, 0.4, 0.7, 0.4, 0.9, 0.39], dtype=torch.float64)
    soft = soft / soft.sum(1, keepdim=True)  # largest shares 0.7, 0.57, 0.7, 0.57, 0.75, 0.57
    sure = [0, 2, 4]
    y.requires_grad_()
    gated = loss(x, y, a, soft, confidence=0.65)
    torch.testing.assert_close(gated, loss(x, y[sure], a, soft[sure].argmax(1)))
    (gradient,) = torch.autograd.grad(gated, y)
    assert torch.all(gradient[[1, 3, 5]] == 0)
    assert torch.all(gradient[sure] != 0)
    uniform = torch.full((6, K), 1 / K, dtype=torch.float64)
    assert loss(x, y, a, uniform, confidence=0.8) == 0
    labels = torch.tensor([0, 2, 3, 0, 3, 2])
    assert loss(x, y, a, labels, confidence=1.0) == loss(x, y, a, labels)
    assert PrototypeContrastiveLoss(classes=K).confidence == 0.8
    with pytest.raises(ValueError, match=r"`confidence` must be a finite number >= 0 and <= 1, got 1.5"):
        loss(x, y, a, labels, confidence=1.5)
