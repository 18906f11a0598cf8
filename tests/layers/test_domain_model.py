"""A plain model with normalisation of its own for each domain, against one copy of the model a domain."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmda.layers import DomainSpecificModel


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)
    )


def test_equals_a_copy_a_domain_in_training_and_evaluation() -> None:
    plain = net()
    model = DomainSpecificModel(copy.deepcopy(plain), domains=2)
    copies = [copy.deepcopy(plain) for _ in range(2)]
    for step in range(2):
        for k in range(2):
            x = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(10 * step + k)) * (1 + k) + k
            torch.testing.assert_close(model(x, domain=k), copies[k](x))
    model.eval()
    for k in range(2):
        copies[k].eval()
        torch.testing.assert_close(model(x, domain=k), copies[k](x))
        for name, value in copies[k].state_dict().items():
            torch.testing.assert_close(model.of_domain(k)[name], value, msg=name)


def test_gradients_reach_the_domains_own_and_the_shared_parameters() -> None:
    model = DomainSpecificModel(net(), domains=2)
    model(torch.randn(8, 2, 4, 4), domain=1).square().sum().backward()
    assert all(p.grad is not None for p in model.domains[1].parameters())
    assert all(p.grad is None for p in model.domains[0].parameters())
    assert model.model[0].weight.grad.abs().max() > 0
    assert not model.model[1].weight.requires_grad  # not part of the model any more
    assert sum(p.requires_grad for p in model.parameters()) == 2 * 4 + 4


def test_checkpoints_both_ways() -> None:
    plain = net()
    plain(torch.randn(8, 2, 4, 4) + 3)
    model = DomainSpecificModel(net(), domains=3)
    model.load_domain(2, plain.state_dict())
    again = net()
    again.load_state_dict(model.of_domain(2))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)
    other = DomainSpecificModel(net(), domains=3)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.of_domain(2)["1.running_mean"], plain[1].running_mean)
    assert not torch.equal(model.of_domain(0)["1.running_mean"], plain[1].running_mean)


def test_synchronised_layers_are_found_and_others_refused() -> None:
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert len(DomainSpecificModel(synchronised, domains=2).of_domain(0)) == len(net().state_dict())
    with pytest.raises(ValueError, match="DomainSpecificModel: `model` must hold a batch normalisation"):
        DomainSpecificModel(nn.Linear(2, 2), domains=2)
    model = DomainSpecificModel(net(), domains=2)
    with pytest.raises(ValueError, match=r"`domain` must be in 0 .. 1, got 2"):
        model(torch.zeros(2, 2, 4, 4), domain=2)
    with pytest.raises(TypeError, match="`domain` must be an integer >= 0, got float"):
        model(torch.zeros(2, 2, 4, 4), domain=0.0)
    with pytest.raises(ValueError, match=r"load_domain: `state` must hold 1.weight"):
        model.load_domain(0, {})
