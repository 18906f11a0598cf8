"""Label-free model selection: against loops, enumeration and known expectations, and on a collapsed model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda import validators
from mmda.kernels import Gaussian
from tests.reference import predictions
from tests.reference import validators as reference

RNG = np.random.default_rng(8)
ROWS = RNG.standard_normal((23, 4))
ANCHOR = RNG.standard_normal((17, 5))
POSITIVE = ANCHOR + 0.8 * RNG.standard_normal((17, 5))
IDENTITY = [i // 2 if i < 10 else i for i in range(17)]


# Class predictions


@pytest.mark.parametrize("block_size", [1, 7, 1024])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_neighbourhood_density_equals_the_loop(block_size: int, temperature: float) -> None:
    value = validators.soft_neighbourhood_density(
        torch.from_numpy(ROWS), temperature=temperature, block_size=block_size
    )
    assert value.item() == pytest.approx(reference.neighbourhood_density(ROWS, temperature), rel=1e-10)


def test_neighbourhood_density_counts_the_neighbours_of_tight_clusters() -> None:
    clusters = torch.eye(3, dtype=torch.float64).repeat_interleave(5, 0)
    assert validators.soft_neighbourhood_density(clusters).item() == pytest.approx(math.log(4), rel=1e-6)
    apart = torch.eye(6, dtype=torch.float64)  # all other rows are equally far, so all of them are neighbours
    assert validators.soft_neighbourhood_density(apart).item() == pytest.approx(math.log(5), rel=1e-12)


def test_scores_are_the_references() -> None:
    logits = 2 * ROWS
    x = torch.from_numpy(logits)
    assert validators.entropy_score(x).item() == pytest.approx(-predictions.mean_entropy(logits), rel=1e-12)
    assert validators.information_maximisation_score(x).item() == pytest.approx(
        predictions.mutual_information(logits), rel=1e-12
    )
    assert validators.nuclear_norm_score(x).item() == pytest.approx(predictions.nuclear_norm(logits), rel=1e-12)


def test_one_class_for_all_is_certain_but_not_diverse() -> None:
    diverse = 50 * torch.eye(4).repeat(8, 1)
    collapsed = 50 * torch.eye(4)[:1].expand(32, 4)
    assert validators.entropy_score(collapsed) == validators.entropy_score(diverse)
    assert validators.information_maximisation_score(collapsed).item() == pytest.approx(0, abs=1e-6)
    assert validators.information_maximisation_score(diverse).item() == pytest.approx(math.log(4), rel=1e-6)
    # Singular values: one of sqrt(32), against four of sqrt(8).
    assert validators.nuclear_norm_score(collapsed).item() == pytest.approx(math.sqrt(32) / 32, rel=1e-6)
    assert validators.nuclear_norm_score(diverse).item() == pytest.approx(4 * math.sqrt(8) / 32, rel=1e-6)


@pytest.mark.parametrize(
    "score",
    [
        validators.soft_neighbourhood_density,
        validators.entropy_score,
        validators.information_maximisation_score,
        validators.nuclear_norm_score,
    ],
)
def test_masked_equals_unpadded_and_half_is_widened(score: Callable[..., Tensor]) -> None:
    x = torch.from_numpy(ROWS)
    mask = torch.tensor([[True] * 12, [True] * 11 + [False]])
    padded = torch.full((2, 12, 4), torch.nan, dtype=torch.float64)
    padded[mask] = x
    torch.testing.assert_close(score(padded, mask=mask), score(x), rtol=1e-10, atol=1e-12)
    half = x.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(half).dtype == torch.float32
        torch.testing.assert_close(score(half), score(half.float()))
    # Cosines depend on offsets, predictions do not.
    if score is not validators.soft_neighbourhood_density:
        torch.testing.assert_close(score(x + 100), score(x))
    assert not score(x.clone().requires_grad_()).requires_grad


# Features of both domains


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_density_ratio_equals_a_general_optimiser(penalty: float, offset: float) -> None:
    source = RNG.standard_normal((40, 3)) * [1.0, 5.0, 0.1] + offset
    target = RNG.standard_normal((25, 3)) * [1.0, 5.0, 0.1] + [0.7, -2.0, 0.0] + offset
    at = source[:9]
    value = validators.density_ratio(*map(torch.from_numpy, (source, target, at)), penalty=penalty)
    np.testing.assert_allclose(value.numpy(), reference.density_ratio(source, target, at, penalty), rtol=1e-6)


def test_density_ratio_with_more_features_than_rows() -> None:
    source, target, at = RNG.standard_normal((6, 30)), RNG.standard_normal((5, 30)) + 0.3, RNG.standard_normal((4, 30))
    value = validators.density_ratio(*map(torch.from_numpy, (source, target, at)))
    np.testing.assert_allclose(value.numpy(), reference.density_ratio(source, target, at, 1.0), rtol=1e-5)


def test_density_ratio_ignores_constant_features_and_separable_samples_stay_finite() -> None:
    source, target = torch.from_numpy(RNG.standard_normal((30, 2))), torch.from_numpy(RNG.standard_normal((30, 2)) + 1)
    constant = torch.full((30, 1), 1e4 / 3, dtype=torch.float64)
    plain = validators.density_ratio(source, target, source)
    wider = validators.density_ratio(
        torch.cat([source, constant], 1), torch.cat([target, constant], 1), torch.cat([source, constant], 1)
    )
    torch.testing.assert_close(plain, wider)
    apart = validators.density_ratio(source, target + 1000, source)
    assert torch.isfinite(apart).all()
    assert (apart < 0.2).all()


def test_density_ratio_recovers_two_gaussians() -> None:
    # N(1, 1) over N(0, 1) is exp(x - 1/2): linear log-ratio, so the regression is well specified.
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(20000, 1, generator=generator, dtype=torch.float64)
    target = torch.randn(10000, 1, generator=generator, dtype=torch.float64) + 1
    at = torch.linspace(-1.5, 2.5, 9, dtype=torch.float64).unsqueeze(1)
    ratio = validators.density_ratio(source, target, at)
    torch.testing.assert_close(ratio.log(), at.squeeze(1) - 0.5, rtol=0, atol=0.1)


@pytest.mark.parametrize("control_variate", [True, False])
def test_importance_weighted_risk_equals_the_papers_steps(control_variate: bool) -> None:
    losses, weight = RNG.random(30), RNG.gamma(2.0, 0.5, 30)
    value = validators.importance_weighted_risk(
        torch.from_numpy(losses), torch.from_numpy(weight), control_variate=control_variate
    )
    expected = reference.dev_risk(losses, weight) if control_variate else (losses * weight).mean()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    scaled = validators.importance_weighted_risk(  # the risk of a constant loss is that constant, for any mean weight
        torch.full((30,), 0.3), torch.from_numpy(weight), control_variate=True
    )
    assert scaled.item() == pytest.approx(0.3, rel=1e-6)


def test_deep_embedded_validation_sees_the_targets_risk() -> None:
    # Loss x^2 has risk 1 on N(0, 1) and 2 on N(1, 1); the unweighted source mean is 1 for both.
    generator = torch.Generator().manual_seed(2)
    source, validation, target = torch.randn(3, 4000, 1, generator=generator, dtype=torch.float64)
    losses = validation.squeeze(1).square()
    risk = validators.deep_embedded_validation_risk(losses, validation, source, target + 1)
    assert losses.mean().item() == pytest.approx(1, abs=0.1)
    assert risk.item() == pytest.approx(2, abs=0.2)
    same = validators.deep_embedded_validation_risk(losses, validation, source, source)
    assert same.item() == pytest.approx(losses.mean().item(), rel=1e-9)


def test_mmd_score_is_minus_the_squared_distance() -> None:
    x, y = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    value = validators.mmd_score(x, y, kernel=Gaussian(1.0, scales=(1.0,)), estimator="biased")
    assert value.item() == pytest.approx(-(2 - 2 * math.exp(-0.5)), rel=1e-12)


# Retrieval


@pytest.mark.parametrize("n", [1, 3, 17])
@pytest.mark.parametrize("block_size", [1, 5, 1024])
@pytest.mark.parametrize("identity", [None, IDENTITY])
def test_recall_equals_sorting(n: int, block_size: int, identity: list[int] | None) -> None:
    value = validators.pair_retrieval_recall(
        torch.from_numpy(ANCHOR),
        torch.from_numpy(POSITIVE),
        n=n,
        duplicates=None if identity is None else torch.tensor(identity),
        block_size=block_size,
    )
    assert value.item() == pytest.approx(reference.recall(ANCHOR, POSITIVE, n, identity or list(range(17))), rel=1e-12)


def test_recall_of_chance_and_of_collapse() -> None:
    generator = torch.Generator().manual_seed(3)
    a, p = torch.randn(2, 2000, 16, generator=generator)
    chance = validators.pair_retrieval_recall(a, p, n=100).item()
    assert chance == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 2000))
    direction = torch.randn(1, 16, generator=generator)
    assert validators.pair_retrieval_recall(a, direction.expand(2000, 16)).item() == 0
    assert validators.pair_retrieval_recall(torch.full((5, 3), torch.nan), torch.ones(5, 3)).item() == 0


@pytest.mark.parametrize("block_size", [1, 5, 1024])
@pytest.mark.parametrize("identity", [None, IDENTITY])
def test_pair_loss_equals_the_loop(block_size: int, identity: list[int] | None) -> None:
    value = validators.held_out_pair_loss(
        torch.from_numpy(ANCHOR),
        torch.from_numpy(POSITIVE),
        temperature=0.2,
        duplicates=None if identity is None else torch.tensor(identity),
        block_size=block_size,
    )
    expected = reference.pair_loss(ANCHOR, POSITIVE, 0.2, identity or list(range(17)))
    assert value.item() == pytest.approx(expected, rel=1e-11)


def test_masked_pairs_do_not_count() -> None:
    mask = torch.arange(17) % 3 > 0
    a, p = torch.from_numpy(ANCHOR), torch.from_numpy(POSITIVE)
    dirty_a, dirty_p = a.clone(), p.clone()
    dirty_a[~mask], dirty_p[~mask] = math.nan, math.inf
    identity = torch.tensor(IDENTITY)
    for validator in (validators.pair_retrieval_recall, validators.held_out_pair_loss):
        expected = validator(a[mask], p[mask], duplicates=identity[mask])
        assert validator(dirty_a, dirty_p, duplicates=identity, mask=mask) == expected


# Grounding


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_span_entropy_equals_listing_all_spans(scale: float) -> None:
    start, end = scale * RNG.standard_normal((2, 3, 6))
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2, [False, True, True, False, False, False]])
    each = [reference.span_entropy(start[i], end[i], list(np.flatnonzero(mask[i]))) for i in range(3)]
    most = [math.log(k * (k + 1) / 2) for k in mask.sum(1)]
    kept = torch.from_numpy(mask)
    u, v = (torch.where(kept, torch.from_numpy(side), torch.nan) for side in (start, end))
    value = validators.span_entropy(u, v, kept, normalised=False)
    assert value.item() == pytest.approx(np.mean(each), rel=1e-11)
    value = validators.span_entropy(u, v, kept)
    assert value.item() == pytest.approx(np.mean([h / m for h, m in zip(each, most)]), rel=1e-11)


def test_span_entropy_at_its_limits() -> None:
    zero = torch.zeros(2, 5)
    assert validators.span_entropy(zero, zero).item() == pytest.approx(1)
    certain = torch.zeros(2, 5)
    certain[:, 2] = 200
    assert validators.span_entropy(certain, certain).item() == 0
    # The most likely start is after the most likely end; the probabilities of the valid spans still sum to one.
    start, end = torch.tensor([[0.0, 90.0]]), torch.tensor([[90.0, 0.0]])
    assert validators.span_entropy(start, end, normalised=False).item() == pytest.approx(math.log(2), rel=1e-6)
    one = torch.zeros(1, 1)
    assert validators.span_entropy(one, one).item() == 0
    empty = torch.tensor([[True] * 5, [False] * 5])
    assert validators.span_entropy(zero, zero, empty).item() == pytest.approx(1)
    offset = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)) + 1e4
    torch.testing.assert_close(validators.span_entropy(offset, offset), validators.span_entropy(offset - 1e4, offset))


@pytest.mark.parametrize("block_size", [1, 4, 1024])
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3])
def test_constancy_equals_counting(block_size: int, tolerance: float) -> None:
    spans = np.sort(RNG.integers(0, 20, (15, 2)) / 20, axis=1)
    value = validators.span_constancy(torch.from_numpy(spans), tolerance=tolerance, block_size=block_size)
    assert value.item() == pytest.approx(reference.span_constancy(spans, tolerance + 1e-9), rel=1e-12)


def test_constancy_sounds_for_one_relative_answer_in_videos_of_any_length() -> None:
    duration = torch.tensor([10.0, 31.0, 240.0, 5.5])
    spans = torch.stack([0.1 * duration, 0.4 * duration], 1)
    assert validators.span_constancy(spans, duration).item() == 1
    assert validators.span_constancy(spans, tolerance=0.5).item() == 0
    mask = torch.tensor([True, True, False, True])
    spans[2] = math.nan
    assert validators.span_constancy(spans, duration, mask=mask).item() == 1
    assert validators.span_constancy(torch.full((4, 2), math.nan)).item() == 0


# Errors


def test_errors_name_the_rule() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"soft_neighbourhood_density: `features` must keep at least 2 rows"):
        validators.soft_neighbourhood_density(x[:1])
    with pytest.raises(ValueError, match=r"`features` must have shape \(samples, features\), got \(1, 4, 3\)"):
        validators.soft_neighbourhood_density(x.unsqueeze(0))
    with pytest.raises(
        ValueError, match=r"nuclear_norm_score: `logits` must keep at least 1 row of at least 1 feature"
    ):
        validators.nuclear_norm_score(x, mask=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`target` must be finite, got NaN or infinity"):
        validators.density_ratio(x, torch.full((2, 3), math.nan), x)
    with pytest.raises(ValueError, match=r"`at` must have as many features as `source` \(3\), got 2"):
        validators.density_ratio(x, x, x[:, :2])
    with pytest.raises(ValueError, match=r"`losses` must have one loss per validation row \(4\), got \(3,\)"):
        validators.deep_embedded_validation_risk(torch.zeros(3), x, x, x)
    with pytest.raises(TypeError, match=r"`duplicates` must be an integer tensor, got torch.bool"):
        validators.pair_retrieval_recall(x, x, duplicates=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`mask` must keep at least one pair, got none"):
        validators.held_out_pair_loss(x, x, mask=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`n` must be an integer >= 1, got 0"):
        validators.pair_retrieval_recall(x, x, n=0)
    with pytest.raises(ValueError, match=r"`spans` must have shape \(queries, 2\), got \(4, 3\)"):
        validators.span_constancy(x)
    with pytest.raises(ValueError, match=r"`mask` must keep at least one clip, got none"):
        validators.span_entropy(x, x, torch.zeros(4, 3, dtype=torch.bool))


@pytest.mark.parametrize("scale", [1e-25, 1e-14, 1e-3, 1e20])
def test_scores_on_directions_do_not_feel_the_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 4, generator=generator)
    y = x + 0.5 * torch.randn(20, 4, generator=generator)
    torch.testing.assert_close(validators.held_out_pair_loss(scale * x, scale * y), validators.held_out_pair_loss(x, y))
    assert validators.pair_retrieval_recall(scale * x, scale * y) == validators.pair_retrieval_recall(x, y)
    density = validators.soft_neighbourhood_density
    torch.testing.assert_close(density(scale * x), density(x))


@pytest.mark.parametrize("score", [validators.held_out_pair_loss, validators.pair_retrieval_recall])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_both_sides_of_pairs_are_floating_point(score: Callable[..., Tensor], dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"`positive` must be a floating-point tensor, got torch\."):
        score(torch.zeros(3, 2), torch.zeros(3, 2, dtype=dtype))


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("order", [1.0, 4.0])
def test_matrix_norm_on_both_sides_of_its_threshold(scale: float, order: float) -> None:
    z = scale * np.random.default_rng(8).standard_normal((6, 4))
    p = np.array([predictions.softmax(row) for row in z])
    uniform = -np.mean(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
    assert (uniform > 5) == (scale > 1)
    v = 1 + z + z**2 / 2
    q = p if uniform > 5 else v / v.sum(1, keepdims=True)
    value = validators.matrix_norm_score(torch.from_numpy(z), order=order)
    assert value.item() == pytest.approx((q**order).mean() ** (1 / order), rel=1e-12)


@pytest.mark.parametrize("block_size", [3, 256])
def test_round_trip_equals_a_loop_and_sees_rows_between_the_classes(block_size: int) -> None:
    rng = np.random.default_rng(9)
    x, z, labels = rng.standard_normal((12, 3)), rng.standard_normal((7, 3)), rng.integers(0, 3, 12)

    def nearest(row: np.ndarray, rows: np.ndarray, but: int = -1) -> int:
        cosine = rows @ row / np.linalg.norm(rows, axis=1)
        return max((i for i in range(len(rows)) if i != but), key=lambda i: cosine[i])

    expected = np.mean([labels[nearest(z[nearest(x[i], z)], x, i)] == labels[i] for i in range(12)])
    value = validators.round_trip_accuracy(
        torch.from_numpy(x), torch.from_numpy(labels), torch.from_numpy(z), block_size=block_size
    )
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.55, 0.8])
@pytest.mark.parametrize("block_size", [5, 1024])
def test_mixed_samples_equal_a_loop(share: float, block_size: int) -> None:
    weight = np.random.default_rng(3).standard_normal((4, 3))

    def classifier(x: Tensor) -> Tensor:
        return (x @ torch.from_numpy(weight)).sin()  # bent, so that mixtures within a class may leave it

    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(5)).tolist()
    expected = reference.mixed_accuracies(lambda row: int(np.sin(row @ weight).argmax()), ROWS, order, share)
    assert all(part is not None and part < 1 for part in expected)
    for pairs, value in (("within", expected[0]), ("across", expected[1]), ("both", sum(expected) / 2)):
        found = validators.mixed_sample_accuracy(
            classifier,
            torch.from_numpy(ROWS),
            pairs=pairs,
            share=share,
            generator=torch.Generator().manual_seed(5),
            block_size=block_size,
        )
        assert found.item() == pytest.approx(value, rel=1e-6)


def test_mixed_samples_are_the_same_at_every_call_and_see_no_collapse() -> None:
    x = torch.from_numpy(ROWS)
    assert validators.mixed_sample_accuracy(torch.sin, x) == validators.mixed_sample_accuracy(torch.sin, x)
    collapsed = torch.tensor([[1.0, 0.0]])
    assert validators.mixed_sample_accuracy(lambda x: collapsed.expand(len(x), 2), x) == 1
    assert validators.mixed_sample_accuracy(lambda x: collapsed.expand(len(x), 2), x, pairs="across").isnan()


def test_mixed_samples_name_their_errors() -> None:
    x = torch.from_numpy(ROWS)
    with pytest.raises(ValueError, match=r"mixed_sample_accuracy: `share` must be .* > 0.5 and < 1, got 0.5"):
        validators.mixed_sample_accuracy(torch.sin, x, share=0.5)
    with pytest.raises(ValueError, match=r"`classifier` must return logits \(23, K\) .*, got \(23,\)"):
        validators.mixed_sample_accuracy(lambda x: x.sum(1), x)
    with pytest.raises(ValueError, match=r"`inputs` must hold at least 2 samples, got \(1, 4\)"):
        validators.mixed_sample_accuracy(torch.sin, x[:1])
