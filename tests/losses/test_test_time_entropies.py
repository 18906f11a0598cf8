"""Entropies for test-time adaptation against loops; the parameters that are trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmda.layers import DomainSpecificBatchNorm1d, affine_parameters
from mmda.losses import similarity_entropy_loss, span_entropy_loss
from mmda.validators import span_entropy
from tests.reference import entropies as reference

RNG = np.random.default_rng(51)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 2.0])
def test_similarity_entropy_equals_a_loop(normalize: bool, temperature: float) -> None:
    a, c = RNG.standard_normal((5, 3)), RNG.standard_normal((7, 3))
    value = similarity_entropy_loss(
        torch.from_numpy(a), torch.from_numpy(c), temperature=temperature, normalize=normalize
    )
    assert value.item() == pytest.approx(reference.similarity_entropy(a, c, temperature, normalize), rel=1e-11)


def test_padded_candidates_of_another_number_have_to_be_said() -> None:
    a, c = torch.from_numpy(RNG.standard_normal((5, 3))), torch.from_numpy(RNG.standard_normal((7, 3)))
    keep, real = torch.arange(5) < 4, torch.arange(7) < 6
    with pytest.raises(ValueError, match=r"^similarity_entropy_loss: `candidate_mask` must be given with `mask` if"):
        similarity_entropy_loss(a, c, mask=keep)
    value = similarity_entropy_loss(a, c, mask=keep, candidate_mask=real)
    assert value.item() == pytest.approx(similarity_entropy_loss(a[:4], c[:6]).item(), rel=1e-11)


@pytest.mark.parametrize("normalised", [True, False])
def test_span_entropy_equals_a_loop_and_the_validator(normalised: bool) -> None:
    u, v = 2 * RNG.standard_normal((2, 3, 5))
    clips = [5, 3, 1]
    mask = torch.arange(5) < torch.tensor(clips).unsqueeze(1)
    start, end = torch.from_numpy(u), torch.from_numpy(v)
    value = span_entropy_loss(start, end, normalised=normalised, mask=mask)
    assert value.item() == pytest.approx(reference.span_entropy(u, v, clips, normalised), rel=1e-12)
    torch.testing.assert_close(value, span_entropy(start, end, mask, normalised=normalised))


def test_affine_parameters_are_those_of_normalisation_layers() -> None:
    shared = nn.LayerNorm(3)
    model = nn.Sequential(
        nn.Linear(3, 3), shared, shared, nn.BatchNorm2d(2), nn.GroupNorm(1, 2), DomainSpecificBatchNorm1d(4, 2)
    )
    assert [tuple(p.shape) for p in affine_parameters(model)] == [(3,), (3,), (2,), (2,), (2,), (2,), (2, 4), (2, 4)]
    with pytest.raises(TypeError, match=r"affine_parameters: `model` must be a torch.nn.Module, got int"):
        next(affine_parameters(3))  # type: ignore[arg-type]


def test_adapting_the_affine_parameters_lowers_the_entropy_and_moves_nothing_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)).requires_grad_(False)
    trained = list(affine_parameters(model))
    for parameter in trained:
        parameter.requires_grad_()
    optimiser = torch.optim.SGD(trained, lr=0.1)
    queries, candidates, before = torch.randn(8, 4), torch.randn(8, 6), model[0].weight.clone()
    first = similarity_entropy_loss(model(queries), candidates)
    for _ in range(5):
        optimiser.zero_grad()
        similarity_entropy_loss(model(queries), candidates).backward()
        optimiser.step()
    assert similarity_entropy_loss(model(queries), candidates) < first
    assert torch.equal(model[0].weight, before)
