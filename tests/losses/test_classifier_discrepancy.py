"""Classifier discrepancy against a loop and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses.classifier_discrepancy import classifier_discrepancy_loss
from tests.reference import predictions

FIRST, SECOND = 2 * np.random.default_rng(3).standard_normal((2, 6, 5))


def test_equals_the_loop() -> None:
    value = classifier_discrepancy_loss(torch.from_numpy(FIRST), torch.from_numpy(SECOND))
    assert value.item() == pytest.approx(predictions.classifier_discrepancy(FIRST, SECOND), rel=1e-12)


def test_is_symmetric_and_zero_on_the_diagonal() -> None:
    a, b = torch.from_numpy(FIRST), torch.from_numpy(SECOND)
    assert classifier_discrepancy_loss(a, b) == classifier_discrepancy_loss(b, a)
    assert classifier_discrepancy_loss(a, a.clone()) == 0
    assert classifier_discrepancy_loss(a, a + 3).item() == pytest.approx(0, abs=1e-15)  # softmax ignores an offset


@pytest.mark.parametrize("classes", [2, 5])
def test_certain_opposites_reach_the_bound(classes: int) -> None:
    certain = 800 * torch.eye(classes, dtype=torch.float64)
    assert classifier_discrepancy_loss(certain, certain.roll(1, 0)).item() == pytest.approx(2 / classes, rel=1e-14)


def test_shapes_must_match() -> None:
    with pytest.raises(
        ValueError, match=r"`second_logits` must have the shape of `first_logits` \(3, 4\), got \(2, 4\)"
    ):
        classifier_discrepancy_loss(torch.zeros(3, 4), torch.zeros(2, 4))
