"""Closed-form maps against scikit-learn, scipy, skada and numpy; batches give the result of the whole sample."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda.linear import (
    CCA,
    CORALMap,
    Moments,
    PairMoments,
    Procrustes,
    SubspaceAlignment,
    Whitening,
    cca_maps,
    pooled_moments,
    symmetric_power,
)


def draw(seed: int, n: int, *widths: int, common: int = 3) -> list[Tensor]:
    """Two modalities that share ``common`` directions, float64."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, common, generator=g, dtype=torch.float64)
    sides = []
    for d in widths:
        noise = torch.randn(n, d, generator=g, dtype=torch.float64)
        sides.append(z @ torch.randn(common, d, generator=g, dtype=torch.float64) + noise + 1.5)
    return sides


@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(0, 40), max_size=3), weighted=st.booleans())
@settings(max_examples=30, deadline=None)
def test_batches_give_numpys_covariance(seed: int, cuts: list[int], weighted: bool) -> None:
    x = draw(seed, 40, 4)[0]
    counts = np.random.default_rng(seed).integers(0, 4, 40) if weighted else np.ones(40, dtype=int)
    counts[0] += 1
    moments = Moments(4)
    for part, w in zip(x.tensor_split(sorted(cuts)), torch.tensor(counts).tensor_split(sorted(cuts))):
        if len(part):
            moments.update(part, weight=w.double() if weighted else None)
    if not weighted:
        counts = np.ones(40, dtype=int)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(x.numpy().T, fweights=counts, ddof=0), atol=1e-12)
    np.testing.assert_allclose(moments.mean.numpy(), np.average(x.numpy(), axis=0, weights=counts), atol=1e-12)
    assert moments.total.item() == counts.sum()


def test_moments_far_from_zero_keep_their_digits() -> None:
    x = draw(0, 100_000, 2)[0] + 1e7  # in three chunks
    expected = np.cov((x - 1e7).numpy().T, ddof=0)
    np.testing.assert_allclose(Moments(2).update(x).covariance.numpy(), expected, rtol=1e-7)


def test_padding_and_rows_that_count_zero_may_hold_anything() -> None:
    x = draw(1, 12, 3)[0].reshape(3, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    dirty = x.masked_fill(~mask.unsqueeze(2), torch.nan)
    moments, clean = Moments(3).update(dirty, mask=mask), Moments(3).update(x[mask])
    assert torch.allclose(moments.covariance, clean.covariance, atol=1e-14)
    weight = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    rows = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf], [3.0, 5.0]], dtype=torch.float64)
    counted = Moments(2).update(rows, weight=weight)
    assert torch.allclose(counted.mean, (rows[0] + 2 * rows[2]) / 3)
    pairs = PairMoments(3, 3).update(dirty, dirty.flip(2), mask=mask)
    assert torch.allclose(pairs.xx, clean.covariance, atol=1e-14)
    assert torch.allclose(pairs.xy, clean.covariance.flip(1), atol=1e-14)


def test_merged_moments_are_those_of_all_rows() -> None:
    x, y = draw(2, 70, 3, 2)
    parts = [PairMoments(3, 2).update(x[i::3], y[i::3]) for i in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    whole = PairMoments(3, 2).update(x, y)
    assert torch.allclose(merged.joint.covariance, whole.joint.covariance, atol=1e-13)
    assert merged.total == 70


def test_a_mixture_of_domains_is_a_weighted_sample() -> None:
    x, y = draw(3, 90, 4, 3)
    x[60:] += 2.0  # domains with different means
    mixed = pooled_moments(
        [PairMoments(4, 3).update(x[:60], y[:60]), PairMoments(4, 3).update(x[60:], y[60:])], shares=[3.0, 1.0]
    )
    weight = torch.cat([torch.full((60,), 0.75 / 60), torch.full((30,), 0.25 / 30)]).double()
    rows = np.concatenate([x.numpy(), y.numpy()], 1)
    np.testing.assert_allclose(
        mixed.joint.covariance.numpy(), np.cov(rows.T, aweights=weight.numpy(), ddof=0), atol=1e-12
    )
    alone = pooled_moments([PairMoments(4, 3).update(x[:60], y[:60]), mixed], shares=[1.0, 0.0])
    assert torch.allclose(alone.joint.covariance, PairMoments(4, 3).update(x[:60], y[:60]).joint.covariance)


def test_cca_finds_the_correlations_of_scikit_learn() -> None:
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = draw(4, 400, 6, 5)
    cca = CCA(3).fit(x, y)
    theirs = cross.CCA(n_components=3, tol=1e-12, max_iter=20_000).fit(x.numpy(), y.numpy())
    for ours, other in zip((cca.map_x(x), cca.map_y(y)), theirs.transform(x.numpy(), y.numpy())):
        for k in range(3):
            corr = np.corrcoef(ours[:, k].numpy(), other[:, k])[0, 1]
            assert abs(corr) == pytest.approx(1.0, abs=1e-6)
    a, b = cca.map_x(x), cca.map_y(y)
    assert torch.allclose(a.T @ a / 400, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(a.T @ b / 400, torch.diag(cca.correlations), atol=1e-9)


def test_regularised_cca_solves_its_eigenproblem() -> None:
    r"""Independent of the whitening: C_xy C_yy~^{-1} C_yx a = s^2 C_xx~ a, by scipy's generalised solver."""
    linalg = pytest.importorskip("scipy.linalg")
    x, y = draw(5, 60, 5, 4)
    m = PairMoments(5, 4).update(x, y)
    xx, yy, xy = (c.numpy() for c in (m.xx, m.yy, m.xy))
    left = xx + 0.7 * np.trace(xx) / 5 * np.eye(5)
    right = yy + 0.7 * np.trace(yy) / 4 * np.eye(4)
    values = linalg.eigh(xy @ np.linalg.inv(right) @ xy.T, left, eigvals_only=True)[::-1]
    a, b, s = cca_maps(m.xx, m.yy, m.xy, components=4, ridge=0.7, scale=1.0)
    np.testing.assert_allclose(s.numpy() ** 2, values[:4], atol=1e-12)
    np.testing.assert_allclose((a.T @ torch.tensor(left) @ a).numpy(), np.diag(s.numpy() ** 2), atol=1e-12)
    np.testing.assert_allclose((a.T @ m.xy @ b).numpy(), np.diag(s.numpy() ** 3), atol=1e-12)


def test_cca_of_several_domains_weighs_them_alike() -> None:
    x, y = draw(6, 130, 4, 4)
    first, second = PairMoments(4, 4).update(x[:100], y[:100]), PairMoments(4, 4).update(x[100:], y[100:])
    weight = torch.cat([torch.full((100,), 1 / 100), torch.full((30,), 1 / 30)]).double()
    joint, weighted = CCA(2, ridge=0.1).fit_moments(first, second), CCA(2, ridge=0.1).fit(x, y, weight=weight)
    assert torch.allclose(joint.x_map, weighted.x_map, atol=1e-10)
    assert torch.allclose(joint.y_mean, weighted.y_mean, atol=1e-12)


def test_cca_maps_can_be_differentiated() -> None:
    x, y = draw(7, 30, 3, 3)
    m = PairMoments(3, 3).update(x, y)

    def correlations(xy: Tensor) -> Tensor:
        return cca_maps(m.xx, m.yy, xy, components=2, ridge=0.1)[2]

    assert torch.autograd.gradcheck(correlations, m.xy.clone().requires_grad_())


def test_procrustes_is_scipys() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = draw(8, 50, 4, 4)
    expected, size = linalg.orthogonal_procrustes((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy())
    np.testing.assert_allclose(Procrustes().fit(x, y).matrix.numpy(), expected, atol=1e-12)
    scale = size / float((x - x.mean(0)).square().sum())
    np.testing.assert_allclose(Procrustes(scale=True).fit(x, y).matrix.numpy(), scale * expected, atol=1e-12)
    doubled = Procrustes().fit(x, y, weight=torch.tensor([2.0] * 10 + [1.0] * 40))
    repeated = Procrustes().fit(torch.cat([x, x[:10]]), torch.cat([y, y[:10]]))
    assert torch.allclose(doubled(x), repeated(x), atol=1e-12)


@pytest.mark.parametrize("kind", ["zca", "pca"])
def test_whitening_gives_the_identity(kind: str) -> None:
    x = draw(9, 300, 4)[0]
    white = Whitening(kind=kind).fit(x)(x)  # type: ignore[arg-type]
    assert torch.allclose(white.T @ white / 300, torch.eye(4, dtype=torch.float64), atol=1e-10)
    if kind == "pca":
        decomposition = pytest.importorskip("sklearn.decomposition")
        theirs = decomposition.PCA(whiten=True).fit(x.numpy()).transform(x.numpy()) * np.sqrt(300 / 299)
        np.testing.assert_allclose(white.abs().numpy(), np.abs(theirs), atol=1e-9)
    else:
        assert torch.allclose(Whitening().fit(x).matrix, Whitening().fit(x).matrix.T)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_coral_map_is_skadas(ridge: float) -> None:
    """Their shrunk covariance is (1 - s) C + s (tr C / d) I: ours for s = ridge / (1 + ridge) but for the scale."""
    skada = pytest.importorskip("skada")
    source, target = draw(10, 80, 3)[0], 2 * draw(11, 120, 3)[0] - 4
    domain = np.r_[np.ones(80), -2 * np.ones(120)].astype(int)
    both = np.concatenate([source.numpy(), target.numpy()])
    theirs = skada.CORALAdapter(reg=ridge / (1 + ridge)).fit_transform(both, sample_domain=domain)[:80]
    ours = CORALMap(ridge=ridge).fit(source, target)(source).numpy()
    np.testing.assert_allclose(ours - ours.mean(0), theirs - theirs.mean(0), atol=1e-9)
    np.testing.assert_allclose(ours.mean(0), target.numpy().mean(0), atol=1e-9)


def test_subspace_alignment_is_skadas() -> None:
    skada = pytest.importorskip("skada")
    source, target = draw(12, 80, 5)[0], draw(13, 60, 5)[0] * torch.arange(1.0, 6.0)
    domain = np.r_[np.ones(80), -2 * np.ones(60)].astype(int)
    both = np.concatenate([source.numpy(), target.numpy()])
    theirs = skada.SubspaceAlignmentAdapter(n_components=2).fit_transform(both, sample_domain=domain)
    aligned = SubspaceAlignment(2).fit(source, target)
    ours = torch.cat([aligned.map_source(source), aligned.map_target(target)]).numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)  # their signs are arbitrary


def test_singular_covariances_are_handled_on_their_range() -> None:
    x = draw(14, 50, 3)[0]
    wide = torch.cat([x, x[:, :1] - x[:, 1:2]], 1)  # rank 3 of 4
    white = Whitening().fit(wide)(wide)
    assert white.isfinite().all()
    assert torch.linalg.matrix_rank(white) == 3
    assert symmetric_power(torch.zeros(2, 2), -0.5).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert CCA(3).fit(wide, x).correlations.isfinite().all()


@pytest.mark.parametrize(
    "fitted",
    [
        lambda x, y: CCA(2, ridge=0.1).fit(x, y),
        lambda x, y: Procrustes().fit(x, y),
        lambda x, y: Whitening().fit(x),
        lambda x, y: CORALMap().fit(x, y),
        lambda x, y: SubspaceAlignment(2).fit(x, y),
    ],
)
def test_a_fitted_map_goes_through_a_file(fitted: object) -> None:
    x, y = draw(15, 40, 3, 3)
    one = fitted(x, y)  # type: ignore[operator]
    other = type(one)(2) if type(one) in (CCA, SubspaceAlignment) else type(one)()
    ask = "map_x" if isinstance(one, CCA) else "map_source" if isinstance(one, SubspaceAlignment) else "forward"
    with pytest.raises(RuntimeError, match="call `fit` first"):
        getattr(other, ask)(x)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(getattr(one, ask)(x), getattr(other, ask)(x))
    half = getattr(one, ask)(x.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), getattr(one, ask)(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="must have 3 features, got 2"):
        getattr(one, ask)(x[:, :2])


def test_gradients_pass_a_map() -> None:
    x, y = draw(16, 40, 3, 3)
    cca = CCA(2).fit(x, y)
    leaf = x.clone().requires_grad_()
    cca.map_x(leaf).sum().backward()
    assert torch.allclose(leaf.grad, cca.x_map.sum(1).expand_as(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Moments(2).update(x), "Moments.update: `x` must have 2 features, got 3"),
        (lambda x: Moments(2).merge(Moments(3)), "Moments.merge: `other` must have as many features as `self`"),
        (lambda x: PairMoments(3, 3).update(x, x[1:]), "PairMoments.update: `y` must have the rows of `x`"),
        (lambda x: PairMoments(2, 3).update(x, x), "PairMoments.update: `x` must have 2 features, got 3"),
        (lambda x: CCA(0), "CCA: `components` must"),
        (lambda x: CCA(1, ridge=-1.0), "CCA: `ridge` must"),
        (lambda x: CCA(1).fit_moments(), "pooled_moments: `moments` must hold at least one domain"),
        (lambda x: CCA(1).fit(x, x, weight=torch.zeros(8)), "pooled_moments: `moments` must have rows"),
        (lambda x: Whitening().fit(x, weight=torch.zeros(8)), "Whitening.fit: `x` must have a row of nonzero weight"),
        (lambda x: Whitening(kind="svd"), "Whitening: `kind` must be one of"),  # type: ignore[arg-type]
        (lambda x: Procrustes().fit(x, x[:, :2]), "Procrustes.fit: `y` must have as many features"),
        (lambda x: CORALMap().fit(x, x[:, :2]), "CORALMap.fit: `target` must have as many features"),
        (lambda x: symmetric_power(x, 0.5), "symmetric_power: `matrix` must be square"),
        (
            lambda x: pooled_moments([PairMoments(3, 3).update(x, x)], shares=[0.0]),
            "pooled_moments: `shares` must have a positive sum",
        ),
    ],
)
def test_what_cannot_be_fitted_is_told(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(draw(17, 8, 3)[0])  # type: ignore[operator]
