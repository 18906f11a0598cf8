"""Losses with random draws: new draws at each training step, repeatable, and equal when a step is computed twice."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmda._core.draws import fixed_bits, fresh_integers, fresh_normal, shared_draws
from mmda.losses import (
    HigherOrderMomentLoss,
    RandomFeatureMMDLoss,
    SlicedWassersteinLoss,
    higher_order_moment_loss,
    random_feature_mmd_loss,
    sliced_wasserstein_loss,
)

LOSSES: dict[str, tuple[Callable[..., nn.Module], Callable[..., Tensor]]] = {
    "sliced": (
        lambda **o: SlicedWassersteinLoss(n_projections=4, **o),
        lambda x, y, **o: sliced_wasserstein_loss(x, y, n_projections=4, **o),
    ),
    "features": (
        lambda **o: RandomFeatureMMDLoss(n_features=10, **o),
        lambda x, y, **o: random_feature_mmd_loss(x, y, n_features=10, **o),
    ),
    "moments": (
        lambda **o: HigherOrderMomentLoss(samples=12, **o),
        lambda x, y, **o: higher_order_moment_loss(x, y, samples=12, **o),
    ),
}
every = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 3, generator=generator), torch.randn(5, 3, generator=generator) + 0.5


@every
def test_fresh_while_training_and_repeated_by_the_seed(name: str, samples: tuple[Tensor, Tensor]) -> None:
    loss = LOSSES[name][0]()
    torch.manual_seed(3)
    first, second = loss(*samples), loss(*samples)
    assert first != second
    torch.manual_seed(3)
    assert (loss(*samples), loss(*samples)) == (first, second)
    torch.manual_seed(3)
    assert LOSSES[name][1](*samples, draws="fresh") == first
    assert "draws='fresh'" in repr(loss)


@every
def test_fixed_in_evaluation_or_on_request(name: str, samples: tuple[Tensor, Tensor]) -> None:
    make, function = LOSSES[name]
    state = torch.get_rng_state()
    expected = function(*samples)
    assert make().eval()(*samples) == expected
    assert make(draws="fixed")(*samples) == expected
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_fresh_draws_estimate_the_same_number(name: str, samples: tuple[Tensor, Tensor]) -> None:
    """The mean over many calls equals the value with many directions."""
    torch.manual_seed(4)
    loss = LOSSES[name][0]()
    values = torch.stack([loss(*samples) for _ in range(600)])
    more = {"sliced": {"n_projections": 5000}, "features": {"n_features": 5000}, "moments": {"samples": 5000}}[name]
    whole = {
        "sliced": sliced_wasserstein_loss,
        "features": random_feature_mmd_loss,
        "moments": higher_order_moment_loss,
    }
    expected = whole[name](*samples, **more)  # type: ignore[operator]
    error = values.std() / 600**0.5
    assert (values.mean() - expected).abs() < 5 * error + 0.02 * expected.abs()


@every
def test_checkpointing_computes_again_with_the_same_draw(name: str, samples: tuple[Tensor, Tensor]) -> None:
    loss = LOSSES[name][0]()
    layer = nn.Linear(3, 3)
    gradients = []
    for kept in (False, True):
        torch.manual_seed(5)
        layer.zero_grad()

        def step(x: Tensor, y: Tensor) -> Tensor:
            return loss(layer(x), layer(y))

        value = checkpoint(step, *samples, use_reentrant=False) if kept else step(*samples)
        loss(*samples)  # other draws in between
        value.backward()
        assert layer.weight.grad is not None
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@every
def test_compiled_draws_are_fresh_and_repeated_by_the_seed(name: str, samples: tuple[Tensor, Tensor]) -> None:
    loss = LOSSES[name][0]()
    compiled = torch.compile(lambda x, y: (loss(x, y), loss(x, y)), backend="aot_eager", fullgraph=True)
    torch.manual_seed(6)
    values = [*compiled(*samples), *compiled(*samples)]
    assert len({value.item() for value in values}) == 4
    torch.manual_seed(6)
    assert [*compiled(*samples), *compiled(*samples)] == values


@every
def test_transforms_draw_once_for_all(name: str, samples: tuple[Tensor, Tensor]) -> None:
    loss, (x, y) = LOSSES[name][0](), samples
    rows = torch.stack([x, x + 1, x])
    values = torch.func.vmap(lambda x: loss(x, y))(rows)
    assert values[0] == values[2] != values[1]
    different = torch.func.vmap(lambda x: loss(x, y), randomness="different")(rows)
    assert different[0] != different[2]
    torch.manual_seed(7)
    slope = torch.func.grad(lambda x: loss(x, y))(x)
    torch.manual_seed(7)
    leaf = x.clone().requires_grad_()
    loss(leaf, y).backward()
    torch.testing.assert_close(slope, leaf.grad)
    assert torch.isfinite(torch.func.jacrev(torch.func.grad(lambda x: loss(x, y)))(x)).all()


@every
def test_copies_keep_the_choice(name: str) -> None:
    assert copy.deepcopy(LOSSES[name][0](draws="fixed")).draws == "fixed"
    with pytest.raises(ValueError, match="`draws` must be one of 'fresh', 'fixed', got 'new'"):
        LOSSES[name][0](draws="new")


def test_a_shared_key_gives_the_same_draws_one_after_another() -> None:
    like = torch.zeros(1, dtype=torch.float64)

    def drawn(key: int) -> list[Tensor]:
        with shared_draws(key):
            return [
                fresh_normal(40, 50, like=like),
                fresh_normal(40, 50, like=like),
                fresh_integers(40, 50, below=7, like=like),
            ]

    state = torch.get_rng_state()
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    normals = torch.stack([*first[:2], *other[:2]]).flatten(1)
    # correlations of independent columns of 2,000 have standard error 0.022
    assert (torch.corrcoef(normals) - torch.eye(4, dtype=torch.float64)).abs().max() < 0.1
    assert normals.std() == pytest.approx(1, abs=0.03)
    assert first[2].min() == 0
    assert first[2].max() == 6


def test_keys_leave_the_fixed_numbers_as_they_are() -> None:
    assert fixed_bits(3, torch.device("cpu")).tolist() == fixed_bits(5, torch.device("cpu"))[:3].tolist()
    keyed = fixed_bits(1000, torch.device("cpu"), torch.tensor(5))
    assert len(set(keyed.tolist())) == 1000  # a bijection
