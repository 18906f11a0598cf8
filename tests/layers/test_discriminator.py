"""Domain discriminator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmda.layers import DomainDiscriminator
from mmda.losses import MultiDomainAdversarialLoss, domain_adversarial_loss


def test_is_the_perceptron_it_says() -> None:
    """Compared with explicit products of the weights."""
    net = DomainDiscriminator(5, hidden=[7, 4]).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    first, second, last = (m for m in net.modules() if isinstance(m, nn.Linear))
    h = (x @ first.weight.T + first.bias).clamp_min(0)
    h = (h @ second.weight.T + second.bias).clamp_min(0)
    torch.testing.assert_close(net(x), h @ last.weight[0] + last.bias[0])


def test_gives_logits_of_both_signs_and_any_size() -> None:
    net = DomainDiscriminator(3, hidden=[])
    nn.init.ones_(net.layers[0].weight)
    logits = net(torch.tensor([[100.0, 0, 0], [-100.0, 0, 0]]))
    assert logits[0] > 90
    assert logits[1] < -90


@pytest.mark.parametrize(("domains", "outputs"), [(2, ()), (3, (3,)), (5, (5,))])
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_shapes(domains: int, outputs: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assert DomainDiscriminator(4, domains=domains)(torch.zeros(shape)).shape == shape[:-1] + outputs


def test_dropout_only_in_training() -> None:
    net = DomainDiscriminator(4, hidden=[64], dropout=0.5)
    x = torch.randn(8, 4)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_export_and_compile() -> None:
    net = DomainDiscriminator(4, hidden=[8])
    x = torch.randn(5, 4)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"DomainDiscriminator: `x` must have shape \(\.\.\., 4\), got \(2, 3\)"):
        DomainDiscriminator(4)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`domains` must be an integer >= 2, got 1"):
        DomainDiscriminator(4, domains=1)
    with pytest.raises(ValueError, match=r"`dropout` must be a finite number >= 0 and < 1, got 1.0"):
        DomainDiscriminator(4, dropout=1.0)
    with pytest.raises(TypeError, match="`hidden` must be an integer >= 1, got float"):
        DomainDiscriminator(4, hidden=[2.5])  # type: ignore[list-item]


def test_two_domains_may_have_a_logit_each() -> None:
    x, domain = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    net = DomainDiscriminator(3, hidden=[4], one_logit=False)
    two = net(x)
    assert two.shape == (5, 2)
    one = two[:, 1] - two[:, 0]
    expected = domain_adversarial_loss(one[domain == 0], one[domain == 1])
    torch.testing.assert_close(MultiDomainAdversarialLoss(net)(x, domain), expected)
