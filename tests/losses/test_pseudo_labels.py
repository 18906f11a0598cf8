"""Losses with pseudo-labels and with an unknown class against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.layers import gradient_reversal
from mmda.losses import open_set_loss, self_training_loss
from tests.reference import pseudo_labels as reference

RNG = np.random.default_rng(44)
LOGITS = 2 * RNG.standard_normal((6, 4))
LABELS = [0, 3, -1, 2, 2, -1]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("sure", [True, False])
def test_self_training_equals_the_paper(smoothing: float, sure: bool) -> None:
    confidence = [1.0] * 6 if sure else RNG.random(6).tolist()
    given = None if sure else torch.tensor(confidence, dtype=torch.float64)
    value = self_training_loss(torch.from_numpy(LOGITS), torch.tensor(LABELS), confidence=given, smoothing=smoothing)
    assert value.item() == pytest.approx(reference.self_training(LOGITS, LABELS, confidence, smoothing), rel=1e-12)


def test_no_gradient_reaches_the_confidence() -> None:
    confidence = torch.full((6,), 0.5, requires_grad=True)
    logits = torch.from_numpy(LOGITS).requires_grad_()
    self_training_loss(logits, torch.tensor(LABELS), confidence=confidence).backward()
    assert confidence.grad is None
    assert (logits.grad[[2, 5]] == 0).all()


@pytest.mark.parametrize("boundary", [0.5, 0.2])
def test_open_set_equals_the_paper(boundary: float) -> None:
    value = open_set_loss(torch.from_numpy(LOGITS), boundary=boundary)
    assert value.item() == pytest.approx(reference.open_set(LOGITS, boundary), rel=1e-12)


def test_features_behind_a_reversal_leave_the_boundary() -> None:
    """A row on the known side is pushed further to it, where the classifier itself would pull it back."""
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (pulled,) = torch.autograd.grad(open_set_loss(logits), logits)
    (pushed,) = torch.autograd.grad(open_set_loss(gradient_reversal(logits)), logits)
    assert torch.equal(pushed, -pulled)
    assert pushed[0, 1] > 0  # descent lowers the unknown class
