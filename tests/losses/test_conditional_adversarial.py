"""Conditional domain-adversarial loss and its multilinear maps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mmda.layers import DomainDiscriminator
from mmda.losses import (
    ConditionalAdversarialLoss,
    RandomMultilinearMap,
    conditional_adversarial_loss,
    domain_adversarial_loss,
    multilinear_map,
)
from tests.losses._samples import unequal_sample
from tests.reference.adversarial import conditional


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = unequal_sample(n=7, m=5, d=3)
    return x, y, draw(7, 4), draw(5, 4, seed=1)


def module(**kwargs: object) -> ConditionalAdversarialLoss:
    torch.manual_seed(0)
    random_map = kwargs.get("random_map")
    width = 12 if random_map is None else random_map.feature_projection.shape[1]
    return ConditionalAdversarialLoss(DomainDiscriminator(width, hidden=[8]), **kwargs).double()


def test_against_loops() -> None:
    arguments = draw(5), draw(8, seed=1), draw(5, 3, seed=2), draw(8, 3, seed=3)
    expected = conditional(*(a.numpy() for a in arguments))
    assert conditional_adversarial_loss(*arguments).item() == pytest.approx(expected, rel=1e-12)


def test_certain_rows_count_up_to_twice_as_much() -> None:
    """A certain row weighs 1 + 1, an undecided one among K classes 1 + 1 / K."""
    logits = torch.tensor([3.0, -1.0], dtype=torch.float64)
    classes = torch.tensor([[1000.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    value = conditional_adversarial_loss(logits, logits[:1], classes, classes[:1])
    terms = [math.log1p(math.exp(3.0)), math.log1p(math.exp(-1.0))]
    expected = ((2 * terms[0] + 1.25 * terms[1]) / 3.25 + math.log1p(math.exp(-3.0))) / 2
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_equal_certainty_is_the_plain_loss() -> None:
    a, b = draw(5), draw(8, seed=1)
    same = torch.zeros(8, 3, dtype=torch.float64)
    torch.testing.assert_close(conditional_adversarial_loss(a, b, same[:5], same), domain_adversarial_loss(a, b))
    classes = draw(8, 3, seed=2)
    torch.testing.assert_close(
        conditional_adversarial_loss(a, b, classes[:5], classes, entropy_weighting=False), domain_adversarial_loss(a, b)
    )


def test_multilinear_map_keeps_the_product_of_inner_products() -> None:
    """<T(f, p), T(f', p')> = <f, f'> <p, p'>."""
    f, p = draw(6, 3), draw(6, 4, seed=1).softmax(1)
    joint = multilinear_map(f, p)
    torch.testing.assert_close(joint @ joint.T, (f @ f.T) * (p @ p.T))


def test_random_map_estimates_the_same_inner_products() -> None:
    f, p = draw(4, 3), draw(4, 5, seed=1).softmax(1)
    exact = (f @ f.T) * (p @ p.T)
    random_map = RandomMultilinearMap(3, 5, 200_000, generator=torch.Generator().manual_seed(0)).double()
    joint = random_map(f, p)
    error = (joint @ joint.T - exact).abs().max() / exact.abs().max()
    assert error < 5 * 3 / math.sqrt(200_000)  # a product of two normals squared has a standard deviation of up to 3


def test_random_map_is_reproducible_buffers_without_the_global_state() -> None:
    state = torch.random.get_rng_state()
    first, second = (RandomMultilinearMap(3, 4, 6, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(first.state_dict()) == {"feature_projection", "class_projection"}
    assert not list(first.parameters())
    f, p = draw(2, 3).float(), draw(2, 4).float()
    assert torch.equal(first(f, p), second(f, p))
    other = RandomMultilinearMap(3, 4, 6, generator=torch.Generator().manual_seed(6))
    assert not torch.equal(first(f, p), other(f, p))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(f, p), other(f, p))


@pytest.mark.parametrize("entropy_weighting", [False, True])
@pytest.mark.parametrize("outputs", [None, 6])
def test_module_is_reversal_map_discriminator_and_loss(entropy_weighting: bool, outputs: int | None) -> None:
    x, y, p, q = problem()
    random_map = None if outputs is None else RandomMultilinearMap(3, 4, outputs)
    loss = module(strength=0.5, entropy_weighting=entropy_weighting, random_map=random_map)
    x.requires_grad_()
    value = loss(x, y, p, q)
    value.backward()
    net = copy.deepcopy(loss.discriminator)
    net.zero_grad()
    joint = multilinear_map if random_map is None else loss.random_map
    plain_x = x.detach().clone().requires_grad_()
    plain = conditional_adversarial_loss(
        net(joint(plain_x, p.softmax(1))), net(joint(y, q.softmax(1))), p, q, entropy_weighting=entropy_weighting
    )
    plain.backward()
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(x.grad, -0.5 * plain_x.grad)
    for mine, other in zip(loss.discriminator.parameters(), net.parameters()):
        torch.testing.assert_close(mine.grad, other.grad)


def test_predictions_condition_and_are_not_trained() -> None:
    x, y, p, q = problem()
    for t in (x, y, p, q):
        t.requires_grad_()
    module()(x, y, p, q).backward()
    assert p.grad is None
    assert q.grad is None
    assert x.grad.abs().sum() > 0
    assert y.grad.abs().sum() > 0
    a, b = draw(7).requires_grad_(), draw(5).requires_grad_()
    conditional_adversarial_loss(a, b, p, q).backward()
    assert p.grad is None


def test_weights_are_counts_and_masks_leave_out() -> None:
    x, y, p, q = problem()
    loss = module()
    count = torch.tensor([1, 2, 0, 3, 1, 1, 2])
    torch.testing.assert_close(
        loss(x, y, p, q, source_weight=count),
        loss(x.repeat_interleave(count, 0), y, p.repeat_interleave(count, 0), q),
    )
    keep = torch.tensor([True, False, True, True, False])
    expected = loss(x, y[keep], p, q[keep])
    y[~keep], q[~keep] = math.nan, math.inf
    y.requires_grad_()
    value = loss(x, y, p, q, target_mask=keep)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert torch.equal(y.grad[~keep], torch.zeros(2, 3, dtype=torch.float64))
    sequence = loss(x, y[None].detach(), p, q[None], target_mask=keep[None])
    torch.testing.assert_close(sequence, expected)


def test_a_side_left_empty_gives_a_connected_zero() -> None:
    x, y, p, q = problem()
    x.requires_grad_()
    value = module()(x, y, p, q, target_mask=torch.zeros(5, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_derivatives_at_strength_minus_one() -> None:
    """With strength -1 the reversal is the identity forward and backward, so numerical differentiation applies."""
    x, y, p, q = problem()
    loss = module(strength=-1.0)
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, p, q), (x, y))


def test_compiles_once_for_all_strengths() -> None:
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    x, y, p, q = problem()
    loss = module(random_map=RandomMultilinearMap(3, 4, 6))
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for strength in (0.0, 0.3, 1.0):
        loss.set_strength(strength)
        torch.testing.assert_close(compiled(x, y, p, q), loss(x, y, p, q))
    assert graphs == 1


def test_errors() -> None:
    x, y, p, q = problem()
    with pytest.raises(ValueError, match=r"`source_class_logits` must have shape \(7, classes\), got \(5, 4\)"):
        module()(x, y, q, q)
    with pytest.raises(ValueError, match=r"`target_class_logits` must have as many classes as `source_class_logits`"):
        module()(x, y, p, q[:, :3])
    with pytest.raises(
        ValueError, match=r"RandomMultilinearMap: `features` must have shape \(samples, 2\), got \(7, 3\)"
    ):
        RandomMultilinearMap(2, 4, 6)(x, p)
    with pytest.raises(ValueError, match="multilinear_map: `probabilities` must have as many rows as `features`"):
        multilinear_map(x, q)


def test_a_random_map_is_a_module() -> None:
    with pytest.raises(TypeError, match=r"`random_map` must be a torch\.nn\.Module, got str"):
        ConditionalAdversarialLoss(nn.Identity(), random_map="x")
