"""Joint transport against plain Sinkhorn steps, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses import joint_transport_loss
from tests.reference import joint_transport as reference

RNG = np.random.default_rng(54)
X, Y, LOGITS = RNG.standard_normal((5, 3)), RNG.standard_normal((7, 3)), RNG.standard_normal((7, 3))
LABELS = [0, 1, 2, 1, 0]


@pytest.mark.parametrize("settings", [(1.0, 1.0, 1.0), (0.3, 2.0, 0.5), (1.0, 0.0, 1.0), (0.0, 1.0, 0.3)])
def test_equals_sinkhorn_steps(settings: tuple[float, float, float]) -> None:
    alpha, lam, eps = settings
    value = joint_transport_loss(
        *map(torch.from_numpy, (X, Y)),
        torch.tensor(LABELS),
        torch.from_numpy(LOGITS),
        feature_weight=alpha,
        label_weight=lam,
        regularisation=eps,
    )
    assert value.item() == pytest.approx(reference.joint_transport(X, Y, LABELS, LOGITS, alpha, lam, eps), rel=1e-8)


def test_labels_decide_where_features_cannot() -> None:
    """Equal features: the target's predictions are pulled to the label frequencies of the source."""
    logits = torch.zeros(4, 2, requires_grad=True)
    rows = torch.zeros(4, 2)
    joint_transport_loss(rows, rows, torch.tensor([0, 0, 0, 1]), logits).backward()
    assert (logits.grad[:, 0] < 0).all()
    torch.testing.assert_close(logits.grad.sum(0), torch.tensor([-0.25, 0.25]))


@pytest.mark.parametrize("far", [1e3, 1e5, 1e7])
def test_the_plan_does_not_depend_on_a_shift_of_one_sample(far: float) -> None:
    """A shift adds terms of rows and of columns to the cost, at 1e7 larger than float64 holds beside the rest."""
    rows, others = torch.randint(-3, 4, (2, 12, 4), generator=torch.Generator().manual_seed(0)).float()
    labels, start = torch.arange(12) % 3, torch.linspace(-2, 2, 36).reshape(12, 3)
    gradients = []
    for source in (rows, rows + far):  # integers below 2^24: exact in float32
        logits = start.clone().requires_grad_()
        joint_transport_loss(source, others, labels, logits).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("far", [1e4, 1e6, 1e7])
def test_far_groups_of_both_samples(far: float) -> None:
    """Half of each sample is shifted by the same vector: beyond some distance the gradient does not change."""
    rows, others = torch.randint(-3, 4, (2, 12, 4), generator=torch.Generator().manual_seed(0)).float()
    labels, logits = torch.arange(12) % 3, torch.linspace(-2, 2, 36).reshape(12, 3)
    gradients = []
    for shift in (1e3, far):  # integers below 2^24: exact in float32
        moved = torch.tensor([shift] * 6 + [0.0] * 6).unsqueeze(1)
        source = (rows + moved).requires_grad_()
        joint_transport_loss(source, others + moved, labels, logits).backward()
        gradients.append(source.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
