"""A temperature that is a number, a tensor or a module, in every module that takes one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmda.layers import FrameQueryAttention, LearnableTemperature
from mmda.losses import AttendedContrastiveLoss, FrameQueryLoss, InfoNCELoss, MultipleInstanceLoss


def call(module: nn.Module, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    frames = scale * torch.randn(4, 5, 3, generator=generator)
    queries = scale * torch.randn(4, 3, generator=generator)
    if isinstance(module, FrameQueryLoss):
        return module(frames, queries, torch.arange(5).expand(4, 5) < 2)
    if isinstance(module, FrameQueryAttention):
        return module(frames, queries)[0].square().sum()
    if isinstance(module, InfoNCELoss):
        return module(frames[:, 0], queries)
    return module(frames, queries)


MAKERS: list[Callable[..., nn.Module]] = [
    AttendedContrastiveLoss,
    FrameQueryAttention,
    FrameQueryLoss,
    InfoNCELoss,
    MultipleInstanceLoss,
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_learnable_temperature_is_trained_with_the_module(make: Callable[..., nn.Module]) -> None:
    module = make(temperature=LearnableTemperature(0.3))
    (parameter,) = module.parameters()
    call(module).backward()
    assert parameter.grad is not None
    assert parameter.grad != 0
    assert call(module).item() == pytest.approx(call(make(temperature=0.3)).item(), rel=1e-5)
    assert "LearnableTemperature" in repr(module)


@pytest.mark.parametrize("make", MAKERS)
def test_a_tensor_belongs_to_the_module(make: Callable[..., nn.Module]) -> None:
    learned, fixed = make(temperature=nn.Parameter(torch.tensor(0.3))), make(temperature=torch.tensor(0.3))
    assert [name for name, _ in learned.named_parameters()] == ["temperature"]
    assert [name for name, _ in fixed.named_buffers()] == ["temperature"]
    assert not list(fixed.parameters())
    for module in (learned, fixed):
        assert list(module.state_dict()) == ["temperature"]
        assert copy.deepcopy(module).double().temperature.dtype == torch.float64
        assert call(module).item() == pytest.approx(call(make(temperature=0.3)).item(), rel=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_only_scalars_are_taken(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=rf"{make.__name__}: `temperature` must have shape \(\), got \(2,\)"):
        make(temperature=torch.ones(2))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e15])
def test_cosines_do_not_feel_the_scale(make: Callable[..., nn.Module], scale: float) -> None:
    module = make()
    assert call(module, scale).item() == pytest.approx(call(module).item(), rel=1e-5)


@pytest.mark.parametrize("raw", [-80.0, -20.0, 0.0, 3.0, 17.0, 50.0, 80.0])
def test_the_gradient_of_a_temperature_fades_towards_its_bounds_and_is_not_zero(raw: float) -> None:
    temperature = LearnableTemperature(minimum=0.01, maximum=1.0)
    with torch.no_grad():
        temperature.raw.fill_(raw)
    value = temperature()
    value.backward()
    share = 1 / (1 + math.exp(-raw))
    expected = 0.01 * 100**share
    assert value.item() == pytest.approx(expected, rel=1e-6)
    slope = expected * math.log(100) * share / (1 + math.exp(raw))
    assert temperature.raw.grad is not None
    assert temperature.raw.grad.item() == pytest.approx(slope, rel=1e-5)
