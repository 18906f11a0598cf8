"""Minimum class confusion against the paper's matrix steps, without ever forming the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses.class_confusion import minimum_class_confusion_loss
from tests.reference import predictions

LOGITS = 3 * np.random.default_rng(5).standard_normal((8, 4))


@pytest.mark.parametrize("temperature", [0.7, 2.5])
def test_equals_the_papers_steps(temperature: float) -> None:
    value = minimum_class_confusion_loss(torch.from_numpy(LOGITS), temperature=temperature)
    assert value.item() == pytest.approx(predictions.class_confusion(LOGITS, temperature), rel=1e-12)


def test_gradient_is_the_slope_with_the_row_weights_held() -> None:
    x = torch.from_numpy(LOGITS).requires_grad_()
    minimum_class_confusion_loss(x).backward()
    held = [predictions.entropy(predictions.softmax(z / 2.5)) for z in LOGITS]
    step = 1e-6
    for i, k in ((0, 0), (3, 2), (7, 1)):
        sides = []
        for sign in (1, -1):
            moved = LOGITS.copy()
            moved[i, k] += sign * step
            sides.append(predictions.class_confusion(moved, 2.5, held))
        assert x.grad[i, k].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_limits() -> None:
    certain = 2000 * torch.eye(5, dtype=torch.float64)
    assert minimum_class_confusion_loss(certain).item() == pytest.approx(0, abs=1e-15)
    uniform = torch.zeros(3, 5, dtype=torch.float64)
    assert minimum_class_confusion_loss(uniform).item() == pytest.approx(0.8, rel=1e-14)


def test_a_class_that_no_row_predicts_is_no_division_of_zero_by_zero() -> None:
    # Its probability underflows float32 altogether; float64 at a smaller scale gives the same confusion.
    x = torch.tensor([[1000.0, 998.0, 0.0], [998.0, 1000.0, 0.0]], requires_grad=True)
    value = minimum_class_confusion_loss(x)
    value.backward()
    assert torch.isfinite(x.grad).all()
    exact = predictions.class_confusion(x.detach().double().numpy(), 2.5)
    assert value.item() == pytest.approx(exact, rel=1e-5)
