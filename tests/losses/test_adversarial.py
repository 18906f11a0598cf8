"""Domain-adversarial losses of two and of several domains."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from mmda.layers import DomainDiscriminator
from mmda.losses import (
    ConditionalAdversarialLoss,
    DomainAdversarialLoss,
    MultiDomainAdversarialLoss,
    WassersteinCriticLoss,
    domain_adversarial_loss,
    multi_domain_adversarial_loss,
)
from tests.reference.adversarial import binary, categorical


def logits(n: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def adversary(strength: float = 1.0, domains: int = 2, features: int = 4) -> nn.Module:
    torch.manual_seed(1)
    net = DomainDiscriminator(features, hidden=[8], domains=domains)
    return (DomainAdversarialLoss if domains == 2 else MultiDomainAdversarialLoss)(net, strength=strength).double()


def samples(n: int = 6, m: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    return x, torch.randn(m, 4, dtype=torch.float64, generator=generator) + 0.5


def test_against_loops() -> None:
    a, b = logits(5), logits(8, 1)
    assert domain_adversarial_loss(a, b).item() == pytest.approx(binary(a.numpy(), b.numpy()), rel=1e-13)


def test_source_is_zero_and_target_is_one() -> None:
    low, high = torch.full((3,), -30.0), torch.full((2,), 30.0)
    assert domain_adversarial_loss(low, high) < 1e-12
    assert domain_adversarial_loss(high, low).item() == pytest.approx(30.0)


def test_each_domain_counts_the_same() -> None:
    a, b = logits(5), logits(8, 1)
    torch.testing.assert_close(
        domain_adversarial_loss(a.repeat(7), b), domain_adversarial_loss(a, b), rtol=1e-14, atol=0
    )


def test_equal_sizes_are_the_plain_mean() -> None:
    a, b = logits(6), logits(6, 1)
    labels = torch.cat([torch.zeros(6), torch.ones(6)]).double()
    expected = nn.functional.binary_cross_entropy_with_logits(torch.cat([a, b]), labels)
    torch.testing.assert_close(domain_adversarial_loss(a, b), expected)


@pytest.mark.parametrize("size", [50.0, 1e3, 1e6])
def test_a_confident_mistake_keeps_its_gradient(size: float) -> None:
    a = torch.tensor([size], requires_grad=True)
    value = domain_adversarial_loss(a, torch.tensor([size]))
    value.backward()
    assert value.item() == pytest.approx(size / 2)
    assert a.grad.item() == pytest.approx(0.5)


def test_weights_are_counts_and_masks_leave_out() -> None:
    a, b = logits(5), logits(8, 1)
    count = torch.tensor([0, 1, 2, 3, 1])
    repeated = domain_adversarial_loss(a.repeat_interleave(count), b)
    torch.testing.assert_close(domain_adversarial_loss(a, b, source_weight=count), repeated)
    poisoned = torch.cat([a, torch.tensor([math.nan, math.inf])]).reshape(1, 7).requires_grad_()
    keep = torch.tensor([[True] * 5 + [False] * 2])
    value = domain_adversarial_loss(poisoned, b, source_mask=keep)
    value.backward()
    torch.testing.assert_close(value, domain_adversarial_loss(a, b))
    assert torch.equal(poisoned.grad[0, 5:], torch.zeros(2, dtype=torch.float64))


def test_a_domain_left_empty_gives_a_connected_zero() -> None:
    a, b = logits(5).requires_grad_(), logits(8, 1).requires_grad_()
    value = domain_adversarial_loss(a, b, target_mask=torch.zeros(8, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(a.grad, torch.zeros_like(a))
    assert torch.equal(b.grad, torch.zeros_like(b))


def test_derivatives() -> None:
    a, b = logits(3).requires_grad_(), logits(4, 1).requires_grad_()
    assert torch.autograd.gradcheck(domain_adversarial_loss, (a, b))
    assert torch.autograd.gradgradcheck(domain_adversarial_loss, (a, b))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_features_ascend_what_the_discriminator_descends(strength: float) -> None:
    x, y = (rows.requires_grad_() for rows in samples())
    module = adversary(strength)
    value = module(x, y)
    value.backward()
    net = copy.deepcopy(module.discriminator)
    net.zero_grad()
    plain_x, plain_y = (rows.detach().clone().requires_grad_() for rows in (x, y))
    plain = domain_adversarial_loss(net(plain_x), net(plain_y))
    plain.backward()
    torch.testing.assert_close(value, plain)
    for mine, other in zip(module.discriminator.parameters(), net.parameters()):
        torch.testing.assert_close(mine.grad, other.grad)
        assert other.grad.abs().sum() > 0
    torch.testing.assert_close(x.grad, -strength * plain_x.grad)
    torch.testing.assert_close(y.grad, -strength * plain_y.grad)
    assert plain_x.grad.abs().sum() > 0


def test_training_with_weight_one_aligns_and_with_weight_zero_does_not() -> None:
    """A learned shift, one optimiser and one backward pass: it moves onto the target only with this term."""

    def train(weight: float) -> float:
        torch.manual_seed(0)
        shift = nn.Parameter(torch.zeros(2))
        module = DomainAdversarialLoss(DomainDiscriminator(2, hidden=[16]))
        optimiser = torch.optim.Adam([shift, *module.parameters()], lr=0.02)
        generator = torch.Generator().manual_seed(1)
        for _ in range(150):
            source = torch.randn(64, 2, generator=generator) + shift
            target = torch.randn(64, 2, generator=generator) + 1.5
            optimiser.zero_grad()
            (weight * module(source, target)).backward()
            optimiser.step()
        return (shift.detach() - 1.5).norm().item()

    assert train(0.0) == pytest.approx(1.5 * math.sqrt(2))
    assert train(1.0) < 0.8


def test_strength_is_set_from_outside_and_saved() -> None:
    module = adversary(0.5)
    module.set_strength(0.25)
    other = adversary(1.0)
    other.load_state_dict(module.state_dict())
    assert other.reversal.strength.item() == 0.25


def test_rows_are_cast_to_the_discriminator() -> None:
    torch.manual_seed(1)
    module = DomainAdversarialLoss(DomainDiscriminator(4, hidden=[8]))
    x, y = samples()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        value = module(x.to(dtype), y.to(dtype))
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.item() == pytest.approx(module(x.float(), y.float()).item(), rel=1e-2)


def test_a_discriminator_with_one_column_and_a_wrong_one() -> None:
    x, y = (rows.float() for rows in samples())
    column = nn.Linear(4, 1)
    expected = domain_adversarial_loss(column(x)[:, 0], column(y)[:, 0])
    torch.testing.assert_close(DomainAdversarialLoss(column)(x, y), expected)
    with pytest.raises(ValueError, match=r"return logits of shape \(15,\) or \(15, 1\), got \(15, 3\)"):
        DomainAdversarialLoss(nn.Linear(4, 3))(x, y)
    with pytest.raises(ValueError, match=r"return logits of shape \(15, domains\), got \(15, 1\)"):
        MultiDomainAdversarialLoss(column)(torch.cat([x, y]), torch.zeros(15, dtype=torch.long))


def test_several_domains_against_loops() -> None:
    values = logits(24).reshape(8, 3)
    index = [2, 0, 0, 1, 2, 2, 2, 0]
    assert multi_domain_adversarial_loss(values, torch.tensor(index)).item() == pytest.approx(
        categorical(values.numpy(), index), rel=1e-13
    )


def test_an_absent_domain_changes_nothing() -> None:
    values, index = logits(24).reshape(8, 3), torch.tensor([2, 0, 0, 2, 2, 2, 2, 0])
    assert multi_domain_adversarial_loss(values, index).item() == pytest.approx(
        categorical(values.numpy(), index.tolist()), rel=1e-13
    )


def test_two_of_several_domains_are_the_binary_loss() -> None:
    a, b = logits(5), logits(8, 1)
    joined = torch.cat([a, b])
    pairs = torch.stack([torch.zeros_like(joined), joined], 1)
    index = torch.tensor([0] * 5 + [1] * 8)
    torch.testing.assert_close(multi_domain_adversarial_loss(pairs, index), domain_adversarial_loss(a, b))


def test_rows_of_no_domain_and_masked_rows_are_left_out() -> None:
    values, index = logits(24).reshape(8, 3), torch.tensor([2, 0, 0, 1, 2, -1, 7, 0])
    kept = (index >= 0) & (index < 3)
    expected = multi_domain_adversarial_loss(values[kept], index[kept])
    torch.testing.assert_close(multi_domain_adversarial_loss(values, index), expected)
    values[~kept] = math.nan
    torch.testing.assert_close(multi_domain_adversarial_loss(values, index, mask=kept), expected)
    count = torch.tensor([1, 2, 0, 3, 1, 1, 1, 1])
    repeated = multi_domain_adversarial_loss(values.repeat_interleave(count, 0)[:7], index.repeat_interleave(count)[:7])
    torch.testing.assert_close(multi_domain_adversarial_loss(values[:5], index[:5], weight=count[:5]), repeated)


def test_several_domains_ascend() -> None:
    x, y = samples()
    rows = torch.cat([x, y]).requires_grad_()
    index = torch.arange(15) % 3
    module = adversary(0.5, domains=3)
    module(rows, index).backward()
    plain = rows.detach().clone().requires_grad_()
    multi_domain_adversarial_loss(module.discriminator(plain), index).backward()
    torch.testing.assert_close(rows.grad, -0.5 * plain.grad)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"domain_adversarial_loss: `source_mask` must have shape \(3,\), got \(2,\)"):
        domain_adversarial_loss(torch.zeros(3), torch.zeros(2), source_mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="`target_logits` must have no empty axis"):
        domain_adversarial_loss(torch.zeros(3), torch.zeros(0))
    with pytest.raises(TypeError, match=r"`domain_index` must be an integer tensor, got torch\.float32"):
        multi_domain_adversarial_loss(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="`logits` must have at least 2 domains, got 1"):
        multi_domain_adversarial_loss(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("make", [DomainAdversarialLoss, WassersteinCriticLoss])
def test_feature_maps_are_their_positions_as_rows(make: type) -> None:
    torch.manual_seed(0)
    loss = make(DomainDiscriminator(3, hidden=[5]))
    source, target = torch.randn(2, 3, 4, 5), torch.randn(3, 3, 2, 2)

    def rows(x: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [x[i, :, j, k] for i in range(x.shape[0]) for j in range(x.shape[2]) for k in range(x.shape[3])]
        )

    torch.testing.assert_close(loss(source, target), loss(rows(source), rows(target)))
    mask = torch.rand(2, 4, 5) > 0.4
    padded = torch.where(mask.unsqueeze(1), source, torch.nan)
    torch.testing.assert_close(loss(padded, target, source_mask=mask), loss(rows(source)[mask.flatten()], rows(target)))
    with pytest.raises(ValueError, match=r"`source_mask` must have shape \(2, 4, 5\), got \(2, 20\)"):
        loss(source, target, source_mask=mask.flatten(1))


def test_feature_maps_of_several_domains_and_with_predictions() -> None:
    torch.manual_seed(0)
    x, y, classes, others = (
        torch.randn(2, 3, 4, 5),
        torch.randn(3, 3, 2, 2),
        torch.randn(2, 4, 4, 5),
        torch.randn(3, 4, 2, 2),
    )
    mask, index = torch.rand(2, 4, 5) > 0.4, torch.tensor([2, 0])

    def rows(maps: torch.Tensor) -> torch.Tensor:
        return torch.stack([place for image in maps for line in image.unbind(1) for place in line.unbind(1)])

    def poisoned(maps: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.unsqueeze(1), maps, torch.nan)

    several, kept = adversary(1.0, domains=3, features=3).float(), mask.flatten()
    torch.testing.assert_close(
        several(poisoned(x), index, mask=mask), several(rows(x)[kept], index.repeat_interleave(20)[kept])
    )
    conditional = ConditionalAdversarialLoss(DomainDiscriminator(3 * 4, hidden=[5]))
    torch.testing.assert_close(
        conditional(poisoned(x), y, poisoned(classes), others, source_mask=mask),
        conditional(rows(x)[kept], rows(y), rows(classes)[kept], rows(others)),
    )
    with pytest.raises(ValueError, match=r"`source_class_logits` must have shape \(2, classes, 4, 5\), got \(2, 4\)"):
        conditional(x, y, classes[:, :, 0, 0], others)
