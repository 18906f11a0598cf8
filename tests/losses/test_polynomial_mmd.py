"""Polynomial MMD against loops, and the moments that it compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses import polynomial_mmd_loss
from tests.reference import polynomial_mmd as reference

RNG = np.random.default_rng(43)
X, Y = RNG.standard_normal((6, 3)), 1.2 * RNG.standard_normal((5, 3)) + 0.3


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize(("degree", "scale", "offset"), [(3, None, 1.0), (2, 0.5, 0.0), (1, 2.0, 4.0)])
def test_equals_the_paper(estimator: str, degree: int, scale: float | None, offset: float) -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    value = polynomial_mmd_loss(x, y, degree=degree, scale=scale, offset=offset, estimator=estimator)
    expected = reference.polynomial_mmd(X, Y, degree, scale or 1 / 3, offset, estimator == "unbiased")
    assert value.item() == pytest.approx(expected, rel=1e-11)


def test_a_row_that_counts_twice_is_two_rows() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    weight = torch.tensor([2.0, 1, 1, 1, 1, 1])
    torch.testing.assert_close(
        polynomial_mmd_loss(x, y, source_weight=weight), polynomial_mmd_loss(torch.cat([x[:1], x]), y)
    )


def test_degree_two_sees_the_covariance_and_degree_one_does_not() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    assert polynomial_mmd_loss(x, y, degree=1, estimator="biased").abs() < 1e-12
    assert polynomial_mmd_loss(x, y, degree=2, estimator="biased") > 0.1
