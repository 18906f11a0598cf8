"""Sigmoid contrastive, triplet ranking and NT-Xent losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmda.layers import LearnableTemperature
from mmda.losses import NTXentLoss, SigmoidContrastiveLoss, nt_xent_loss, sigmoid_contrastive_loss, triplet_ranking_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.losses.test_info_nce import pairs, random_masks
from tests.reference.contrastive import cosines, nt_xent, sigmoid, triplet

NEGATIVES = ("hardest", "semi_hard", "all")
COUNT = torch.tensor([1, 2, 0, 3, 1, 1])


def similarity(x: Tensor, y: Tensor):
    return cosines(x.detach().numpy(), y.detach().numpy())


def sharp(x: Tensor, y: Tensor, **kwargs: object) -> Tensor:
    return nt_xent_loss(x, y, temperature=0.3, **kwargs)


def soft(x: Tensor, y: Tensor, **kwargs: object) -> Tensor:
    return sigmoid_contrastive_loss(x, y, temperature=0.3, bias=-1.0, **kwargs)


def hinge(x: Tensor, y: Tensor, **kwargs: object) -> Tensor:
    return triplet_ranking_loss(x, y, margin=0.7, **kwargs)


def hinge_all(x: Tensor, y: Tensor, **kwargs: object) -> Tensor:
    return triplet_ranking_loss(x, y, margin=0.7, negatives="all", **kwargs)


def hinge_semi(x: Tensor, y: Tensor, **kwargs: object) -> Tensor:
    return triplet_ranking_loss(x, y, margin=0.7, negatives="semi_hard", **kwargs)


EVERY = pytest.mark.parametrize("loss", [sharp, soft, hinge, hinge_all, hinge_semi])


def test_reference_values() -> None:
    x, y = reference_sample()
    assert sigmoid_contrastive_loss(x, y).item() == pytest.approx(10.51723368, abs=5e-9)
    assert nt_xent_loss(x, y, temperature=0.07).item() == pytest.approx(12.12604564, abs=5e-9)


def test_sigmoid_against_loops() -> None:
    x, y = pairs()
    assert soft(x, y).item() == pytest.approx(sigmoid(similarity(x, y) / 0.3, -1.0), rel=1e-12)
    positive, negative = random_masks(6, 6)
    for p, n in ((positive, None), (None, negative), (positive, negative)):
        expected = sigmoid(
            similarity(x, y) / 0.3, -1.0, None if p is None else p.numpy(), None if n is None else n.numpy()
        )
        assert soft(x, y, positive_mask=p, negative_mask=n).item() == pytest.approx(expected, rel=1e-12)
    wide_x, wide_y = unequal_sample(n=5, m=8, d=4)
    positive, negative = random_masks(5, 8)
    assert soft(wide_x, wide_y, positive_mask=positive, negative_mask=negative).item() == pytest.approx(
        sigmoid(similarity(wide_x, wide_y) / 0.3, -1.0, positive.numpy(), negative.numpy()), rel=1e-12
    )


def test_nt_xent_is_the_one_of_pytorch_metric_learning() -> None:
    """Labels mark the two views of a row as positives: both losses are equal, without a constant factor."""
    metric_losses = pytest.importorskip("pytorch_metric_learning.losses")
    x, y = pairs()
    theirs = metric_losses.NTXentLoss(temperature=0.3)(torch.cat([x, y]), torch.arange(len(x)).repeat(2))
    assert nt_xent_loss(x, y, temperature=0.3).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_nt_xent_against_loops() -> None:
    x, y = pairs()
    assert sharp(x, y).item() == pytest.approx(nt_xent(x.numpy(), y.numpy(), 0.3), rel=1e-12)
    positive, negative = random_masks(6, 6)
    positive = positive | torch.eye(6, dtype=torch.bool)
    positive[2] = False  # a pair without any positive
    for p, n in ((positive, None), (None, negative), (positive, negative)):
        expected = nt_xent(
            x.numpy(), y.numpy(), 0.3, None if p is None else p.numpy(), None if n is None else n.numpy()
        )
        assert sharp(x, y, positive_mask=p, negative_mask=n).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_triplet_against_loops(negatives: str, symmetric: bool) -> None:
    x, y = pairs()
    positive, negative = random_masks(6, 6)
    positive[2] = False
    for p, n in ((None, None), (positive, None), (None, negative), (positive, negative)):
        value = triplet_ranking_loss(
            x, y, margin=0.7, negatives=negatives, symmetric=symmetric, positive_mask=p, negative_mask=n
        )
        expected = triplet(
            similarity(x, y),
            0.7,
            negatives,
            None if p is None else p.numpy(),
            None if n is None else n.numpy(),
            symmetric=symmetric,
        )
        assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_triplet_picks_the_negative_it_names() -> None:
    """Positive at 0.6; negatives at 0.9 (harder than it), 0.5 (semi-hard), -1."""
    anchor = torch.tensor([[1.0, 0.0]])
    cosine = torch.tensor([0.6, 0.9, 0.5, -1.0])
    candidates = torch.stack([cosine, (1 - cosine.square()).sqrt()], 1)
    own = torch.tensor([[True, False, False, False]])
    settings = {"margin": 0.2, "positive_mask": own, "symmetric": False}
    expected = {"hardest": 0.5, "semi_hard": 0.1, "all": (0.5 + 0.1 + 0.0) / 3}
    for negatives, value in expected.items():
        got = triplet_ranking_loss(anchor, candidates, negatives=negatives, **settings)
        assert got.item() == pytest.approx(value, rel=1e-5)


def test_triplet_with_several_positives_takes_the_least_similar() -> None:
    anchor = torch.tensor([[1.0, 0.0]])
    cosine = torch.tensor([0.9, 0.3, 0.2])
    candidates = torch.stack([cosine, (1 - cosine.square()).sqrt()], 1)
    own = torch.tensor([[True, True, False]])
    value = triplet_ranking_loss(anchor, candidates, margin=0.25, positive_mask=own, symmetric=False)
    assert value.item() == pytest.approx(0.25 - 0.3 + 0.2, rel=1e-5)


def test_triplet_is_zero_once_the_margin_is_kept() -> None:
    x = torch.eye(4, requires_grad=True)
    value = triplet_ranking_loss(x, torch.eye(4))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros(4, 4))


@pytest.mark.parametrize("temperature", [0.07, 0.005])
def test_gradients_of_the_hardest_pairs_do_not_vanish(temperature: float) -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    y = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    sigmoid_contrastive_loss(x, y, temperature=temperature, bias=0.0, normalize=False).backward()
    # both of anchor 0's pairs are wrong with certainty: slope 1 / tau each, over 2 rows
    assert x.grad[0, 0].item() == pytest.approx(1 / temperature, rel=1e-5)
    x.grad = None
    nt_xent_loss(x, y, temperature=temperature, normalize=False).backward()
    assert x.grad[0, 0].item() > 0.5 / temperature


@EVERY
def test_weights_are_counts(loss) -> None:
    x, y = pairs()
    again = x.repeat_interleave(COUNT, 0), y.repeat_interleave(COUNT, 0)
    torch.testing.assert_close(loss(x, y, weight=COUNT), loss(*again))
    positive, negative = random_masks(6, 6)
    masks = {"positive_mask": positive | torch.eye(6, dtype=torch.bool), "negative_mask": negative}
    repeated = {k: v.repeat_interleave(COUNT, 0).repeat_interleave(COUNT, 1) for k, v in masks.items()}
    torch.testing.assert_close(loss(x, y, weight=COUNT, **masks), loss(*again, **repeated))
    torch.testing.assert_close(
        loss(x, y, weight=COUNT, negative_mask=negative), loss(*again, negative_mask=repeated["negative_mask"])
    )


@EVERY
@pytest.mark.parametrize("hole", [math.nan, math.inf])
def test_masked_pairs_are_absent(loss, hole: float) -> None:
    x, y = pairs()
    keep = torch.tensor([True, False, True, True, False, True])
    expected = loss(x[keep], y[keep])
    assert expected > 0
    x[~keep], y[~keep] = hole, hole
    x.requires_grad_()
    y.requires_grad_()
    value = loss(x, y, mask=keep)
    value.backward()
    torch.testing.assert_close(value, expected)
    for grad in (x.grad, y.grad):
        assert torch.equal(grad[~keep], torch.zeros(2, 4, dtype=torch.float64))
        assert grad[keep].abs().sum() > 0
    sequence = loss(x.reshape(2, 3, 4), y.reshape(2, 3, 4), mask=keep.reshape(2, 3))
    torch.testing.assert_close(sequence, expected)


@EVERY
def test_masked_pairs_are_no_positives_either(loss) -> None:
    x, y = pairs()
    keep = torch.tensor([True, False, True, True, False, True])
    positive, negative = random_masks(6, 6)
    positive = positive | torch.eye(6, dtype=torch.bool)
    expected = loss(x[keep], y[keep], positive_mask=positive[keep][:, keep], negative_mask=negative[keep][:, keep])
    value = loss(x, y, mask=keep, positive_mask=positive, negative_mask=negative)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("loss", [soft, hinge, hinge_all, hinge_semi])
def test_a_candidate_left_out_takes_its_positive_along(loss) -> None:
    x, y = pairs()
    keep = torch.tensor([True, False, True, True, False, True])
    expected = loss(x, y[keep], positive_mask=torch.eye(6, dtype=torch.bool)[:, keep])
    y[~keep] = math.nan
    torch.testing.assert_close(loss(x, y, candidate_mask=keep), expected)


@EVERY
def test_nothing_left_gives_a_connected_zero(loss) -> None:
    x, y = (rows.requires_grad_() for rows in pairs())
    value = loss(x, y, mask=torch.zeros(6, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@EVERY
def test_the_two_sides_are_alike(loss) -> None:
    x, y = pairs()
    torch.testing.assert_close(loss(x, y), loss(y, x))


@EVERY
def test_one_pair_is_defined(loss) -> None:
    x, y = pairs(n=1)
    assert loss(x, y).isfinite()


@EVERY
def test_derivatives(loss) -> None:
    x, y = (rows.requires_grad_() for rows in pairs(n=4, d=3))
    weight = torch.rand(4, dtype=torch.float64) + 1.5
    positive, negative = random_masks(4, 4)
    positive = positive | torch.eye(4, dtype=torch.bool)
    for given in ({}, {"weight": weight}, {"positive_mask": positive, "negative_mask": negative}):
        function = lambda a, b, given=given: loss(a, b, **given)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x, y))
        assert torch.autograd.gradgradcheck(function, (x, y))


def test_learned_numbers_are_parameters() -> None:
    x, y = (rows.float() for rows in pairs())
    module = SigmoidContrastiveLoss(
        temperature=LearnableTemperature(0.1, maximum=10.0), bias=torch.nn.Parameter(torch.tensor(-10.0))
    )
    value = module(x, y)
    torch.testing.assert_close(value, sigmoid_contrastive_loss(x, y), rtol=1e-5, atol=1e-5)
    value.backward()
    assert len(list(module.parameters())) == 2
    assert all(p.grad.abs() > 0 for p in module.parameters())
    other = NTXentLoss(temperature=torch.tensor(0.5))
    assert set(other.state_dict()) == {"temperature"}
    assert torch.equal(other(x, y), nt_xent_loss(x, y))


def test_errors() -> None:
    x, y = unequal_sample(n=4, m=7, d=4)
    with pytest.raises(ValueError, match=r"nt_xent_loss: `positive` must have as many rows as `anchor` \(4\), got 7"):
        nt_xent_loss(x, y)
    with pytest.raises(ValueError, match="sigmoid_contrastive_loss: `positive_mask` must be given"):
        sigmoid_contrastive_loss(x, y)
    with pytest.raises(ValueError, match="`negatives` must be one of 'hardest', 'semi_hard', 'all', got 'easy'"):
        triplet_ranking_loss(x, x, negatives="easy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"triplet_ranking_loss: `margin` must be a finite number > 0, got -1"):
        triplet_ranking_loss(x, x, margin=-1)
    with pytest.raises(ValueError, match=r"sigmoid_contrastive_loss: `bias` must have shape \(\), got \(1,\)"):
        sigmoid_contrastive_loss(x, x, bias=torch.zeros(1))
