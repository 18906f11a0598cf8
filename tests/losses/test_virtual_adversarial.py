"""Virtual adversarial training against a loop, and its direction against the curvature's first eigenvector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmda.losses import virtual_adversarial_loss, virtual_adversarial_perturbation
from tests.reference import entropies as reference

RNG = np.random.default_rng(52)


def test_equals_the_paper_and_holds_the_plain_side() -> None:
    plain, moved = 2 * RNG.standard_normal((2, 6, 4))
    a, b = (torch.from_numpy(z).requires_grad_() for z in (plain, moved))
    value = virtual_adversarial_loss(a, b)
    assert value.item() == pytest.approx(reference.divergence(plain, moved), rel=1e-12)
    value.backward()
    assert a.grad is None
    assert b.grad.abs().max() > 0


def test_the_direction_is_the_first_eigenvector_of_the_curvature() -> None:
    """Of a linear classifier z = W x the curvature of KL at 0 is W^T (diag p - p p^T) W."""
    torch.manual_seed(0)
    classifier = nn.Linear(5, 3).double()
    x = torch.from_numpy(RNG.standard_normal((4, 5)))
    found = virtual_adversarial_perturbation(classifier, x, radius=2.0, probe=1e-4, steps=60)
    weight = classifier.weight.detach()
    for row, step in zip(x, found):
        p = classifier(row).softmax(0).detach()
        values, vectors = torch.linalg.eigh(weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight)
        assert values[-1] > 1.2 * values[-2]
        assert (vectors[:, -1] @ step).abs().item() == pytest.approx(2.0, rel=1e-3)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_it_moves_predictions_further_than_a_random_step() -> None:
    torch.manual_seed(1)
    classifier = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(32, 8)
    step = virtual_adversarial_perturbation(classifier, x, radius=0.5, probe=0.1, logits=classifier(x))
    torch.testing.assert_close(step.norm(dim=1), torch.full((32,), 0.5))
    other = torch.randn(32, 8)
    other = 0.5 * other / other.norm(dim=1, keepdim=True)
    logits = classifier(x)
    assert virtual_adversarial_loss(logits, classifier(x + step)) > 1.5 * virtual_adversarial_loss(
        logits, classifier(x + other)
    )


def test_settings_and_draws() -> None:
    classifier = nn.Linear(6, 2)
    images = torch.randn(3, 1, 2, 3)

    def of_images(x: torch.Tensor) -> torch.Tensor:
        return classifier(x.flatten(1))

    state = torch.get_rng_state()
    first = virtual_adversarial_perturbation(of_images, images)
    assert first.shape == images.shape
    assert torch.equal(first, virtual_adversarial_perturbation(of_images, images))
    assert torch.equal(state, torch.get_rng_state())
    drawn = virtual_adversarial_perturbation(of_images, images, generator=torch.Generator().manual_seed(3))
    assert drawn.shape == images.shape
    with pytest.raises(ValueError, match=r"virtual_adversarial_perturbation: `radius` must be a finite number > 0"):
        virtual_adversarial_perturbation(of_images, images, radius=0)
    with pytest.raises(ValueError, match=r"`logits` must have shape \(3, classes\), got \(2, 2\)"):
        virtual_adversarial_perturbation(of_images, images, logits=torch.zeros(2, 2))
