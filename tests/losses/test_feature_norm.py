"""Adaptive feature norm: values, the detached step, and the norms after gradient descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses.feature_norm import AdaptiveFeatureNormLoss, adaptive_feature_norm_loss

FEATURES = np.random.default_rng(4).standard_normal((6, 3))
NORMS = np.sqrt((FEATURES**2).sum(1))


def test_hard_is_the_squared_gap_of_the_mean_norm() -> None:
    value = adaptive_feature_norm_loss(torch.from_numpy(FEATURES), variant="hard", radius=7.0)
    assert value.item() == pytest.approx((NORMS.mean() - 7.0) ** 2, rel=1e-12)


def test_stepwise_value_is_the_squared_step_and_its_slope_grows_every_norm() -> None:
    x = torch.from_numpy(FEATURES).requires_grad_()
    value = adaptive_feature_norm_loss(x, step=0.7)
    value.backward()
    assert value.item() == pytest.approx(0.49, rel=1e-12)
    expected = -2 * 0.7 * FEATURES / NORMS[:, None] / len(FEATURES)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12)


def test_stepwise_with_the_norms_of_a_past_iteration() -> None:
    past = np.array([1.0, 2.0, 0.5, 1.5, 3.0, 0.1])
    value = adaptive_feature_norm_loss(torch.from_numpy(FEATURES), step=0.3, reference_norm=torch.from_numpy(past))
    assert value.item() == pytest.approx(((NORMS - past - 0.3) ** 2).mean(), rel=1e-12)


def test_the_current_norms_as_reference_change_neither_value_nor_slope() -> None:
    x = torch.from_numpy(FEATURES).requires_grad_()
    plain = torch.autograd.grad(adaptive_feature_norm_loss(x), x)[0]
    given = torch.autograd.grad(adaptive_feature_norm_loss(x, reference_norm=torch.from_numpy(NORMS)), x)[0]
    torch.testing.assert_close(plain, given, rtol=1e-12, atol=1e-12)


def test_a_zero_row_has_slope_zero() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    adaptive_feature_norm_loss(x).backward()
    assert (x.grad == 0).all()


def test_the_reference_may_hold_anything_on_padding() -> None:
    x = torch.from_numpy(FEATURES).reshape(2, 3, 3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    reference = torch.where(mask, 1.0, torch.nan).double()
    value = adaptive_feature_norm_loss(x, reference_norm=reference, mask=mask)
    kept = NORMS[[0, 1, 3]]
    assert value.item() == pytest.approx(((kept - 2) ** 2).mean(), rel=1e-12)


def test_errors_and_repr() -> None:
    with pytest.raises(ValueError, match=r"`variant` must be one of 'stepwise', 'hard', got 'soft'"):
        AdaptiveFeatureNormLoss(variant="soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`step` must be a finite number >= 0, got -1"):
        AdaptiveFeatureNormLoss(step=-1)
    with pytest.raises(ValueError, match=r"`reference_norm` must have shape \(4,\), got \(3,\)"):
        adaptive_feature_norm_loss(torch.ones(4, 2), reference_norm=torch.ones(3))
    assert repr(AdaptiveFeatureNormLoss(step=2)) == "AdaptiveFeatureNormLoss(variant='stepwise', step=2)"
