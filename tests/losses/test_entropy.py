"""Entropy and information maximisation against loops, closed forms and the mutual information."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmda.losses.entropy import EntropyLoss, InformationMaximisationLoss, entropy_loss, information_maximisation_loss
from tests.reference import predictions

LOGITS = 3 * np.random.default_rng(1).standard_normal((9, 5))


def test_entropy_equals_the_loop() -> None:
    value = entropy_loss(torch.from_numpy(LOGITS))
    assert value.item() == pytest.approx(predictions.mean_entropy(LOGITS), rel=1e-12)


def test_information_maximisation_is_minus_the_mutual_information() -> None:
    value = information_maximisation_loss(torch.from_numpy(LOGITS))
    assert value.item() == pytest.approx(-predictions.mutual_information(LOGITS), rel=1e-12)


def test_closed_forms() -> None:
    assert entropy_loss(torch.zeros(4, 7, dtype=torch.float64)).item() == pytest.approx(math.log(7), rel=1e-14)
    certain = 800 * torch.eye(6, dtype=torch.float64)
    assert entropy_loss(certain).item() == 0
    assert information_maximisation_loss(certain).item() == pytest.approx(-math.log(6), rel=1e-14)
    assert information_maximisation_loss(certain[:2]).item() == pytest.approx(-math.log(2), rel=1e-14)
    one_row = torch.from_numpy(LOGITS[:1])
    assert information_maximisation_loss(one_row).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("margin", [5.0, 20.0, 60.0, 90.0])
def test_certain_rows_keep_small_entropies_in_float32(margin: float) -> None:
    # Two classes, p = 1 / (1 + exp(-margin)): H = log1p(exp(-m)) + m exp(-m) / (1 + exp(-m)).
    small = math.exp(-margin)
    exact = math.log1p(small) + margin * small / (1 + small)
    logits = torch.tensor([[margin, 0.0]], requires_grad=True)
    value = entropy_loss(logits)
    # log p of the likely class rounds at float32's 1e-7; the unlikely class carries the rest.
    assert value.item() == pytest.approx(exact, rel=1e-5, abs=1.3e-7)
    value.backward()
    assert torch.isfinite(logits.grad).all()


def test_mean_prediction_stays_in_the_log_domain() -> None:
    # A probability of exp(-200) underflows float32; its logarithm and gradient do not.
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0]], requires_grad=True)
    value = information_maximisation_loss(logits)
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("module", [EntropyLoss(), InformationMaximisationLoss()])
def test_one_class_is_refused(module: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"_loss: `logits` must have at least 2 classes, got 1"):
        module(torch.zeros(3, 1))
