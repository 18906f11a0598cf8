"""Wasserstein critic: value, gradients, masks, and the distance found by a trained critic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmda.losses import WassersteinCriticLoss, gradient_penalty

RNG = np.random.default_rng(53)


def critic(width: int = 3) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def by_hand(net: nn.Module, x: torch.Tensor, y: torch.Tensor, mixing: torch.Tensor, penalty: float) -> float:
    """Row by row, with the gradient by the chain rule of the two layers."""
    first, last = net[0], net[2]
    points = [*x, *y, *(a * x[i % len(x)] + (1 - a) * y[i % len(y)] for i, a in enumerate(mixing))]
    slopes = [(last.weight[0] * (1 - torch.tanh(first(p)) ** 2)) @ first.weight for p in points]
    lengths = [(s @ s).sqrt() for s in slopes]
    distance = sum(net(p).squeeze() for p in x) / len(x) - sum(net(p).squeeze() for p in y) / len(y)
    return (penalty * sum((length - 1) ** 2 for length in lengths) / len(lengths) - distance).item()


@pytest.mark.parametrize("penalty", [10.0, 0.5, 0.0])
def test_equals_the_paper(penalty: float) -> None:
    x, y = torch.from_numpy(RNG.standard_normal((4, 3))), torch.from_numpy(RNG.standard_normal((6, 3)))
    mixing = torch.rand(6, dtype=torch.float64)
    net = critic()
    value = WassersteinCriticLoss(net, penalty=penalty)(x, y, mixing=mixing)
    assert value.item() == pytest.approx(by_hand(net, x, y, mixing, penalty), rel=1e-12)


def test_padding_in_any_place_is_as_if_absent() -> None:
    x, y = torch.from_numpy(RNG.standard_normal((5, 3))), torch.from_numpy(RNG.standard_normal((4, 3)))
    kept = torch.tensor([False, True, False, True, True])
    loss = WassersteinCriticLoss(critic())
    padded = torch.where(kept.unsqueeze(1), x, torch.nan)
    torch.testing.assert_close(loss(padded, y, source_weight=kept.double()), loss(x[kept], y))


def test_features_follow_the_distance_and_not_the_penalty() -> None:
    x, y = (torch.from_numpy(RNG.standard_normal((4, 3))).requires_grad_() for _ in range(2))
    net = critic()
    with_penalty = torch.autograd.grad(WassersteinCriticLoss(net)(x, y), (x, y))
    distance = net(x).mean() - net(y).mean()
    for found, expected in zip(with_penalty, torch.autograd.grad(distance, (x, y))):
        torch.testing.assert_close(found, expected)  # descending the loss descends the distance


def test_a_trained_critic_sees_the_distance_between_two_points_and_features_close_it() -> None:
    torch.manual_seed(0)
    x, y = torch.zeros(16, 1), torch.full((16, 1), 3.0)
    net = nn.Sequential(nn.Linear(1, 16), nn.Softplus(), nn.Linear(16, 1))
    nn.init.zeros_(net[2].weight)  # flat: a slope of the wrong sign would have to pass zero, against the penalty
    loss = WassersteinCriticLoss(net)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss(x, y).backward()
        optimiser.step()
    assert -loss(x, y).item() == pytest.approx(3.0, rel=0.1)
    moved = y.clone().requires_grad_()
    loss(x, moved).backward()
    assert (moved.grad > 0).all()  # descent moves the target towards the source


def test_gradient_penalty_of_a_flat_critic_is_one() -> None:
    weight = torch.zeros(2, requires_grad=True)
    value = gradient_penalty(lambda rows: rows @ weight, torch.randn(3, 2))
    value.backward()
    assert value.item() == 1
    assert torch.equal(weight.grad, torch.zeros(2))


def test_errors() -> None:
    loss = WassersteinCriticLoss(critic().float())
    with pytest.raises(ValueError, match=r"WassersteinCriticLoss: `mixing` must have shape \(4,\), got \(3,\)"):
        loss(torch.zeros(4, 3), torch.zeros(2, 3), mixing=torch.zeros(3))
    with pytest.raises(ValueError, match=r"`penalty` must be a finite number >= 0, got -1"):
        WassersteinCriticLoss(critic(), penalty=-1)
