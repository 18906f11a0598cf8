"""Margin disparity against a loop, for certain predictions, and in adversarial training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmda._math.logits import log_one_minus
from mmda.losses.disparity import MarginDisparityLoss, margin_disparity_loss
from tests.reference import predictions

RNG = np.random.default_rng(2)
SOURCE, SOURCE_ADVERSARY = 2 * RNG.standard_normal((2, 7, 4))
TARGET, TARGET_ADVERSARY = 2 * RNG.standard_normal((2, 5, 4))


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_equals_minus_the_papers_discrepancy(margin: float) -> None:
    arrays = (SOURCE, SOURCE_ADVERSARY, TARGET, TARGET_ADVERSARY)
    value = margin_disparity_loss(*map(torch.from_numpy, arrays), margin=margin)
    assert value.item() == pytest.approx(-predictions.margin_disparity(*arrays, margin), rel=1e-12)


def test_gathers_one_class_a_row() -> None:
    # The loss of a batch is the mean of the losses of its rows, each computed with any one source row.
    source = (torch.from_numpy(SOURCE[:1]), torch.from_numpy(SOURCE_ADVERSARY[:1]))
    target = (torch.from_numpy(TARGET), torch.from_numpy(TARGET_ADVERSARY))
    rows = [margin_disparity_loss(*source, target[0][i : i + 1], target[1][i : i + 1]) for i in range(5)]
    whole = margin_disparity_loss(*source, *target)
    assert whole.item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [-60.0, -20.0, -1.0, 0.0, 1.0, 30.0, 90.0])
def test_log_of_one_minus_p_is_exact_at_both_ends(gap: float, dtype: torch.dtype) -> None:
    # Two classes, adversary logits (gap, 0), class 0 chosen: -log(1 - p) = softplus(gap), slope sigmoid(gap).
    chosen = torch.tensor([[1.0, 0.0]], dtype=dtype)
    adversary = torch.tensor([[gap, 0.0]], dtype=dtype, requires_grad=True)
    agreed = torch.tensor([[200.0, 0.0]], dtype=dtype)
    value = margin_disparity_loss(chosen, agreed, chosen, adversary)
    value.backward()
    softplus = math.log1p(math.exp(-abs(gap))) + max(gap, 0.0)
    sigmoid = 1 / (1 + math.exp(-gap))
    rel = 1e-6 if dtype == torch.float32 else 1e-13
    assert value.item() == pytest.approx(softplus, rel=rel)
    torch.testing.assert_close(adversary.grad, torch.tensor([[sigmoid, -sigmoid]], dtype=dtype), rtol=4 * rel, atol=0)


def test_a_common_offset_of_the_logits_changes_nothing() -> None:
    arrays = [torch.from_numpy(a).float() for a in (SOURCE, SOURCE_ADVERSARY, TARGET, TARGET_ADVERSARY)]
    plain = margin_disparity_loss(*arrays).item()
    moved = margin_disparity_loss(*(a + 1024.0 for a in arrays)).item()
    assert moved == pytest.approx(plain, rel=1e-3)  # what rounding the inputs at 1024 leaves


def test_no_gradient_reaches_the_classifier() -> None:
    tensors = [torch.from_numpy(a).requires_grad_() for a in (SOURCE, SOURCE_ADVERSARY, TARGET, TARGET_ADVERSARY)]
    margin_disparity_loss(*tensors).backward()
    assert tensors[0].grad is None
    assert tensors[2].grad is None
    assert tensors[1].grad.abs().sum() > 0
    assert tensors[3].grad.abs().sum() > 0


def test_an_adversary_that_descends_it_departs_on_the_target_only() -> None:
    classifier = torch.eye(3, dtype=torch.float64)
    source = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([source, target], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        margin_disparity_loss(classifier, source, classifier, target).backward()
        optimiser.step()
    assert (source.argmax(1) == classifier.argmax(1)).all()
    assert (target.argmax(1) != classifier.argmax(1)).all()


@pytest.mark.parametrize("side", range(4))
def test_logits_that_are_not_numbers_are_not_hidden(side: int) -> None:
    """An arg max would take the first class of such a row."""
    logits = [torch.zeros(3, 4) for _ in range(4)]
    assert margin_disparity_loss(*logits).isfinite()
    logits[side][1, 2] = torch.nan
    assert margin_disparity_loss(*logits).isnan()


def test_errors_name_the_argument() -> None:
    good = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"`source_adversary_logits` must have the shape of `source_logits` \(3, 4\)"):
        margin_disparity_loss(good, torch.zeros(2, 4), good, good)
    with pytest.raises(ValueError, match=r"`target_logits` must have as many classes as `source_logits` \(4\), got 5"):
        margin_disparity_loss(good, good, torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"`target_weight` must have shape \(3,\), got \(2,\)"):
        margin_disparity_loss(good, good, good, good, target_weight=torch.ones(2))
    with pytest.raises(ValueError, match=r"MarginDisparityLoss: `margin` must be a finite number > 0, got 0"):
        MarginDisparityLoss(margin=0)


@pytest.mark.parametrize("gap", [-700.0, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0])
def test_one_minus_a_probability_keeps_value_and_slope_at_both_ends(gap: float) -> None:
    """For two classes log(1 - p) is the log-sigmoid of the other class's logit minus this one's."""
    logits = torch.tensor([[gap, 0.0]], dtype=torch.float64, requires_grad=True)
    value = log_one_minus(logits, torch.tensor([0]))
    value.sum().backward()
    expected = -np.logaddexp(0, gap)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert logits.grad[0, 0].item() == pytest.approx(-1 / (1 + math.exp(-gap)), rel=1e-12)


def test_a_choice_that_nothing_else_can_be_costs_infinity() -> None:
    assert log_one_minus(torch.tensor([[0.0, -torch.inf]]), torch.tensor([0])).item() == -math.inf
