"""CORAL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda.losses import CORALLoss, coral_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference.coral import coral


def wide_sample() -> tuple[Tensor, Tensor]:
    """Fewer rows than features: the path through Gram matrices."""
    return unequal_sample(n=6, m=5, d=17, seed=3)


def test_reference_value() -> None:
    assert coral_loss(*reference_sample()).item() == pytest.approx(0.0511331627, abs=5e-11)


@pytest.mark.parametrize("sample", [reference_sample, unequal_sample, wide_sample])
def test_against_loops(sample) -> None:
    x, y = sample()
    assert coral_loss(x, y).item() == pytest.approx(coral(x.numpy(), y.numpy()), rel=1e-12)


def test_scaled_copy_in_closed_form() -> None:
    """C_t = s^2 C_s, so the loss is (1 - s^2)^2 ||C_s||^2 / (4 d^2)."""
    x, _ = unequal_sample()
    norm = np.square(np.cov(x.numpy().T)).sum()
    for scale in (0.5, 1.0, 3.0):
        expected = (1 - scale**2) ** 2 * norm / (4 * x.shape[1] ** 2)
        assert coral_loss(x, scale * x).item() == pytest.approx(expected, rel=1e-12, abs=1e-30)


def test_mean_term_in_closed_form() -> None:
    x, _ = unequal_sample()
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert coral_loss(x, x + shift).item() == pytest.approx(0, abs=1e-28)
    expected = shift.square().sum().item() / (4 * 3)
    assert coral_loss(x, x + shift, match_mean=True).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("match_mean", [False, True])
def test_both_paths_agree(match_mean: bool) -> None:
    """Appending features of zeros changes the divisor and the path, nothing else."""
    x, y = unequal_sample()
    padded_x, padded_y = (torch.nn.functional.pad(rows, (0, 20)) for rows in (x, y))
    value = coral_loss(x, y, match_mean=False) * (3 / 23) ** 2
    if match_mean:
        value = value + (coral_loss(x, y, match_mean=True) - coral_loss(x, y)) * 3 / 23
    torch.testing.assert_close(coral_loss(padded_x, padded_y, match_mean=match_mean), value, rtol=1e-12, atol=0)


def test_gradients_of_both_paths_agree() -> None:
    x, y = unequal_sample()
    x.requires_grad_()
    weight = torch.rand(9, dtype=torch.float64) + 1
    (narrow,) = torch.autograd.grad(coral_loss(x, y, source_weight=weight), x)
    wide = coral_loss(*(torch.nn.functional.pad(r, (0, 20)) for r in (x, y)), source_weight=weight)
    (through_rows,) = torch.autograd.grad(wide * (23 / 3) ** 2, x)
    torch.testing.assert_close(through_rows, narrow, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("sample", [unequal_sample, wide_sample])
def test_weights_are_counts(sample) -> None:
    x, y = sample()
    count = torch.arange(len(x)) % 3
    torch.testing.assert_close(
        coral_loss(x, y, source_weight=count), coral_loss(x.repeat_interleave(count, 0), y), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("sample", [unequal_sample, wide_sample])
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_float32_with_a_common_offset(sample, offset: float) -> None:
    x, y = ((rows + offset).float() for rows in sample())
    exact = coral(x.double().numpy(), y.double().numpy())
    assert coral_loss(x, y).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("sample", [unequal_sample, wide_sample])
def test_derivatives(sample) -> None:
    x, y = (rows.requires_grad_() for rows in sample())
    function = lambda a, b: coral_loss(a, b, match_mean=True)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, y))
    assert torch.autograd.gradgradcheck(function, (x, y))


def test_equal_samples_give_zero_with_zero_gradient() -> None:
    for sample in (unequal_sample, wide_sample):
        x, _ = sample()
        x = x.float().requires_grad_()
        value = coral_loss(x, x.detach().clone())
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-7)
        assert x.grad.abs().max() < 1e-6


def nearly_equal(apart: float, how: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Float32 rows whose covariances are ``apart`` from each other, fewer than features."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 16, 64, generator=generator)
    y = x + apart * noise
    if how == "sizes":  # every row of y twice and a factor: n - 1 = 15 and 31
        return x, (y * (31 / 30) ** 0.5).repeat(2, 1), {}
    given = {"mask": {"source_mask": torch.ones(16, dtype=torch.bool)}, "weight": {"target_weight": torch.ones(16)}}
    return x, y, given.get(how, {})


@pytest.mark.parametrize("how", ["rows", "sizes", "mask", "weight"])
@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4])
def test_few_rows_keep_their_digits_near_alignment(how: str, apart: float) -> None:
    """Value and gradient of float32 rows against explicit covariances in float64."""
    x, y, given = nearly_equal(apart, how)
    exact = [rows.double().requires_grad_() for rows in (x, y)]
    expected = (exact[0].T.cov() - exact[1].T.cov()).square().sum() / (4 * 64**2)
    rows = [r.clone().requires_grad_() for r in (x, y)]
    value = coral_loss(*rows, **given)
    rounding = 2e-7 / apart  # of the means and of the rows less their mean, in float32
    assert value.item() == pytest.approx(expected.item(), rel=2 * rounding)
    for found, true in zip(torch.autograd.grad(value, rows), torch.autograd.grad(expected, exact)):
        assert (found - true).norm() <= 10 * rounding * true.norm()


def test_few_rows_near_alignment_in_float64() -> None:
    """Rows of one size: the value falls with the square of the distance, where sums subtracted would lose it."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 6, 17, dtype=torch.float64, generator=generator)
    near = (coral_loss(x, x + 1e-7 * noise) / 1e-14).item()
    assert near == pytest.approx((coral_loss(x, x + 1e-5 * noise) / 1e-10).item(), rel=1e-3)
    assert near > 0


def test_one_row_is_an_error_and_one_counted_row_is_zero() -> None:
    x, y = unequal_sample()
    with pytest.raises(ValueError, match=r"coral_loss: `source` must have at least 2 samples, got \(1, 3\)"):
        coral_loss(x[:1], y)
    x.requires_grad_()
    value = coral_loss(x, y, source_weight=torch.eye(9)[0])
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_no_square_matrix_of_features() -> None:
    """d = 200,000 would need 160 GB."""
    x = torch.randn(4, 200_000)
    assert coral_loss(x, 2 * x).isfinite()


def test_module_is_the_function() -> None:
    x, y = unequal_sample()
    assert torch.equal(CORALLoss(match_mean=True)(x, y), coral_loss(x, y, match_mean=True))
