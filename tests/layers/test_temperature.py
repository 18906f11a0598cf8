"""A learned temperature stays inside its bounds and keeps a gradient."""

from __future__ import annotations

import math

import pytest
import torch

from mmda.layers import LearnableTemperature


@pytest.mark.parametrize("initial", [0.011, 0.07, 0.5, 0.99])
def test_starts_where_told(initial: float) -> None:
    assert LearnableTemperature(initial)().item() == pytest.approx(initial, rel=1e-5)


@pytest.mark.parametrize("push", [-1.0, 1.0])
def test_cannot_be_pushed_over_its_bounds(push: float) -> None:
    temperature = LearnableTemperature(0.07, minimum=0.01, maximum=0.5)
    optimiser = torch.optim.SGD(temperature.parameters(), lr=100.0)
    for _ in range(200):
        optimiser.zero_grad()
        (push * temperature()).backward()
        optimiser.step()
        assert 0.01 * (1 - 1e-6) <= temperature().item() <= 0.5 * (1 + 1e-6)


def test_gradient_against_the_derivative() -> None:
    temperature = LearnableTemperature(0.07).double()
    temperature().backward()
    share = torch.tensor(0.07 / 0.01).log() / torch.tensor(100.0).log()  # d tau / d theta = tau log(b / a) s (1 - s)
    expected = 0.07 * torch.tensor(100.0).log() * share * (1 - share)
    assert temperature.raw.grad.item() == pytest.approx(expected.item(), rel=1e-5)


def test_checkpoints_of_earlier_versions_hold_a_scalar() -> None:
    owner = torch.nn.ModuleDict({"temperature": LearnableTemperature(0.07)})
    new = {name: value.clone() for name, value in owner.state_dict().items()}
    assert new["temperature.raw"].shape == (1,)
    owner.load_state_dict({"temperature.raw": torch.tensor(0.5)})
    assert owner["temperature"]().item() == pytest.approx(0.01 * 100 ** (1 / (1 + math.exp(-0.5))), rel=1e-6)
    assert owner["temperature"]().shape == ()
    owner.load_state_dict(new, assign=True)
    assert owner["temperature"]().item() == pytest.approx(0.07, rel=1e-5)


def test_half_precision_holds_the_parameter_only() -> None:
    temperature = LearnableTemperature(0.07).to(torch.bfloat16)
    value = temperature()
    assert value.dtype == torch.float32
    share = 1 / (1 + math.exp(-temperature.raw.item()))
    assert value.item() == pytest.approx(0.01 * 100**share, rel=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`initial` must lie strictly between 0.01 and 1, got 2"):
        LearnableTemperature(2.0)
    with pytest.raises(ValueError, match=r"`maximum` must be a finite number > 0.1, got 0.05"):
        LearnableTemperature(minimum=0.1, maximum=0.05)
