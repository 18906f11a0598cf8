"""The Fréchet distance of samples: closed forms, and the float64 reference."""

from __future__ import annotations

import pytest
import torch

from mmda.losses import frechet_distance_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference.frechet import frechet_distance


@pytest.mark.parametrize("sample", [reference_sample, unequal_sample, lambda: unequal_sample(n=6, m=5, d=17, seed=3)])
def test_against_covariances(sample) -> None:
    x, y = sample()
    for smoothing in (1e-4, 0.3):
        expected = frechet_distance(x.numpy(), y.numpy(), smoothing)
        assert frechet_distance_loss(x, y, smoothing=smoothing).item() == pytest.approx(expected, rel=1e-9)


def test_shift_and_scale_in_closed_form() -> None:
    """For centred x the distance of x and s x + t is |t|^2 + (s - 1)^2 tr C, apart from the smoothing."""
    x, _ = unequal_sample()
    x = x - x.mean(0)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for scale in (0.25, 1.0, 3.0):
        expected = shift.square().sum() + (scale - 1) ** 2 * x.square().mean(0).sum()
        found = frechet_distance_loss(x, scale * x + shift, smoothing=1e-7)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_one_row_a_side_is_the_squared_distance() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, -2.0]])
    torch.testing.assert_close(frechet_distance_loss(x, y), torch.tensor(25.0))
