"""Losses with pseudo-labels and with an unknown class against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.kernels import Gaussian
from mmda.layers import gradient_reversal
from mmda.losses import (
    balanced_pseudo_labels,
    centroid_pseudo_labels,
    kernel_mean_matching,
    known_class_weight,
    mmd_loss,
    neighbour_pseudo_labels,
    open_set_loss,
    partial_class_weight,
    partial_row_weight,
    self_training_loss,
    text_similarity_weight,
)
from tests.reference import pseudo_labels as reference

RNG = np.random.default_rng(44)
LOGITS = 2 * RNG.standard_normal((6, 4))
LABELS = [0, 3, -1, 2, 2, -1]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("sure", [True, False])
def test_self_training_equals_the_paper(smoothing: float, sure: bool) -> None:
    confidence = [1.0] * 6 if sure else RNG.random(6).tolist()
    given = None if sure else torch.tensor(confidence, dtype=torch.float64)
    value = self_training_loss(torch.from_numpy(LOGITS), torch.tensor(LABELS), confidence=given, smoothing=smoothing)
    assert value.item() == pytest.approx(reference.self_training(LOGITS, LABELS, confidence, smoothing), rel=1e-12)


def test_no_gradient_reaches_the_confidence() -> None:
    confidence = torch.full((6,), 0.5, requires_grad=True)
    logits = torch.from_numpy(LOGITS).requires_grad_()
    self_training_loss(logits, torch.tensor(LABELS), confidence=confidence).backward()
    assert confidence.grad is None
    assert (logits.grad[[2, 5]] == 0).all()


@pytest.mark.parametrize("boundary", [0.5, 0.2])
def test_open_set_equals_the_paper(boundary: float) -> None:
    value = open_set_loss(torch.from_numpy(LOGITS), boundary=boundary)
    assert value.item() == pytest.approx(reference.open_set(LOGITS, boundary), rel=1e-12)


def test_features_behind_a_reversal_leave_the_boundary() -> None:
    """A row on the known side of the boundary is moved further to that side."""
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (pulled,) = torch.autograd.grad(open_set_loss(logits), logits)
    (pushed,) = torch.autograd.grad(open_set_loss(gradient_reversal(logits)), logits)
    assert torch.equal(pushed, -pulled)
    assert pushed[0, 1] > 0  # descent lowers the unknown class


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_centroid_labels_equal_a_loop(rounds: int) -> None:
    features, logits = RNG.standard_normal((20, 3)), RNG.standard_normal((20, 4))
    member = np.array([reference.softmax(z) for z in logits])
    for _ in range(rounds):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        centroids = {k: sum(member[i, k] * unit[i] for i in range(20)) for k in range(4) if member[:, k].sum() > 0}
        labels = [max(centroids, key=lambda k, f=f: cosine(f, centroids[k])) for f in features]
        member = np.eye(4)[labels]
    found = centroid_pseudo_labels(torch.from_numpy(features), torch.from_numpy(logits), rounds=rounds)
    assert found.labels.tolist() == labels
    expected = [max(0.0, cosine(f, centroids[k])) for f, k in zip(features, labels)]
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_neighbour_labels_equal_a_loop(own: bool) -> None:
    bank, q = RNG.standard_normal((12, 3)), RNG.dirichlet(np.ones(4), 12)
    places = torch.tensor([2, 7, -1, 0]) if own else None
    features = bank[[2, 7, 5, 0]] + 0.1 * RNG.standard_normal((4, 3))
    found = neighbour_pseudo_labels(*map(torch.from_numpy, (features, bank, q)), neighbours=3, own=places)
    for i, f in enumerate(features):
        order = [j for j in sorted(range(12), key=lambda j: -cosine(f, bank[j])) if not own or j != places[i]]
        mean = q[order[:3]].mean(0)
        assert found.labels[i].item() == mean.argmax()
        assert found.confidence[i].item() == pytest.approx(mean.max(), rel=1e-12)


def test_balanced_labels_keep_a_share_of_every_class() -> None:
    logits = torch.zeros(13, 2)
    logits[:10, 0] = torch.arange(10, 0, -1) / 2
    logits[10:, 1] = torch.tensor([0.1, 0.3, 0.2])
    found = balanced_pseudo_labels(logits, share=0.3)
    assert found.labels.tolist() == [0, 0, 0] + [-1] * 7 + [-1, 1, -1]
    assert balanced_pseudo_labels(logits, share=1.0).labels.tolist() == [0] * 10 + [1] * 3


def test_partial_and_open_set_weights() -> None:
    p = np.array([reference.softmax(z) for z in LOGITS])
    z = torch.from_numpy(LOGITS)
    np.testing.assert_allclose(partial_class_weight(z), p.mean(0) / p.mean(0).max(), rtol=1e-12)
    np.testing.assert_allclose(known_class_weight(z), 1 - p[:, -1], rtol=1e-12)
    a = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    np.testing.assert_allclose(partial_row_weight(a), (a.sigmoid() / a.sigmoid().mean()).squeeze(1), rtol=1e-12)
    torch.testing.assert_close(partial_row_weight(torch.tensor([-900.0, -900.0])), torch.ones(2))


def test_kernel_mean_matching_meets_the_conditions_of_the_minimum() -> None:
    """At the minimum the gradient is equal inside the bounds, larger for weights of 0, smaller at the upper bound."""
    x = torch.from_numpy(RNG.standard_normal((15, 2)))
    y = torch.from_numpy(0.6 * RNG.standard_normal((20, 2)) + 0.7)
    kernel = Gaussian(1.0, scales=(1.0,))
    w = kernel_mean_matching(x, y, kernel=kernel, bound=3.0, slack=0.0)
    assert w.mean().item() == pytest.approx(1, abs=1e-9)
    assert 0 <= w.min() <= w.max() <= 3

    def gram(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (-torch.cdist(a, b).square() / 2).exp()

    slope = gram(x, x) @ w / 15 - gram(x, y).mean(1)
    free = (w > 1e-6) & (w < 3 - 1e-6)
    level = slope[free].mean()
    assert (slope[free] - level).abs().max() < 1e-5
    assert (slope[w <= 1e-6] > level - 1e-5).all()
    assert (slope[w >= 3 - 1e-6] < level + 1e-5).all()
    assert mmd_loss(x, y, kernel=kernel, source_weight=w) < 0.5 * mmd_loss(x, y, kernel=kernel)


def test_text_similarity_weight_by_hand() -> None:
    e = RNG.standard_normal((5, 3))
    found = text_similarity_weight(torch.from_numpy(e), threshold=0.2, strength=0.5)
    for i in range(5):
        for j in range(5):
            expected = 1.0 if i == j else 0.5 * max(0.0, (cosine(e[i], e[j]) - 0.2) / 0.8)
            assert found[i, j].item() == pytest.approx(expected, abs=1e-12)
