"""HSIC against the trace, the definition over quadruples, and cases that are independent by construction."""

from __future__ import annotations

import pytest
import torch

from mmda._engine import kernel_products
from mmda.kernels import Energy, Gaussian
from mmda.losses import HSICLoss, hsic, hsic_loss
from tests.losses._samples import unequal_sample
from tests.reference import hsic as reference

KERNEL, OTHER = Gaussian(1.5, scales=(1.0,)), Gaussian(0.7, scales=(1.0,))


def _pairs(n: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    x, noise = unequal_sample(n, n, 3)
    return x, torch.cat([x[:, :1].square(), noise], 1)


def test_biased_equals_the_trace() -> None:
    x, z = _pairs()
    expected = reference.biased(reference.gram(x.numpy(), 1.5), reference.gram(z.numpy(), 0.7))
    assert hsic_loss(x, z, kernel=KERNEL, positive_kernel=OTHER).item() == pytest.approx(expected, abs=1e-14)


def test_unbiased_equals_the_mean_over_quadruples() -> None:
    x, z = _pairs()
    expected = reference.unbiased(reference.gram(x.numpy(), 1.5), reference.gram(z.numpy(), 0.7))
    value = hsic_loss(x, z, kernel=KERNEL, positive_kernel=OTHER, estimator="unbiased")
    assert value.item() == pytest.approx(expected, abs=1e-14)


def test_a_full_grid_of_values_is_independent() -> None:
    grid = torch.cartesian_prod(torch.arange(4.0).double(), torch.arange(3.0).double())
    assert hsic_loss(grid[:, :1], grid[:, 1:]).item() == pytest.approx(0, abs=1e-15)
    # two-valued and tied: K = L with entries 1 and e off the matches, HSIC = (1 - e)^2 / 4 by the trace
    sign = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    e = torch.exp(torch.tensor(-4 / (2 * 1.5**2), dtype=torch.float64))
    torch.testing.assert_close(hsic_loss(sign, -sign, kernel=KERNEL), (1 - e) ** 2 / 4)


def test_unbiased_is_zero_on_average_without_dependence() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [
            hsic_loss(*torch.randn(2, 8, 2, generator=generator), kernel=Gaussian(1.0), estimator="unbiased")
            for _ in range(200)
        ]
    )
    assert values.mean().abs() < 4 * values.std() / 200**0.5
    assert values.min() < 0


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", [KERNEL, Energy()])
def test_weights_are_counts(estimator: str, kernel: Gaussian | Energy) -> None:
    x, z = _pairs()
    weight = torch.tensor([1.0, 2, 0, 1, 3, 1, 1], dtype=torch.float64)
    rows = [side.repeat_interleave(weight.long(), 0) for side in (x, z)]
    weighted = hsic_loss(x, z, weight=weight, kernel=kernel, estimator=estimator)  # type: ignore[arg-type]
    torch.testing.assert_close(weighted, hsic_loss(*rows, kernel=kernel, estimator=estimator))  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_padding_and_all_masked(estimator: str) -> None:
    x, z = _pairs(8)
    mask = torch.tensor([True, True, False, True, True, True, False, True])
    x_padded = x.masked_fill(~mask[:, None], torch.nan).requires_grad_()
    value = hsic_loss(x_padded, z, mask=mask, estimator=estimator)  # type: ignore[arg-type]
    torch.testing.assert_close(value, hsic_loss(x[mask], z[mask], estimator=estimator))  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value, x_padded)
    assert torch.all(gradient[~mask] == 0)
    assert torch.all(torch.isfinite(gradient))
    nothing = hsic_loss(x_padded, z, mask=torch.zeros(8, dtype=torch.bool), estimator=estimator)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(nothing, x_padded)
    assert nothing.item() == 0
    assert torch.all(gradient == 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": torch.zeros(6, 2)}, r"`positive` must have the rows of `anchor` \(7,\), got \(6, 2\)"),
        ({"mask": torch.ones(6, dtype=torch.bool)}, r"`mask` must have shape \(7,\), got \(6,\)"),
        ({"weight": torch.ones(6)}, r"`weight` must have shape \(7,\), got \(6,\)"),
        ({"estimator": "linear"}, "`estimator` must be one of 'biased', 'unbiased', got 'linear'"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    x, z = _pairs()
    arguments = {"anchor": x, "positive": z, **change}
    with pytest.raises(ValueError, match="hsic_loss: " + message):
        hsic_loss(arguments.pop("anchor"), arguments.pop("positive"), **arguments)  # type: ignore[arg-type]


def test_unbiased_needs_four_rows() -> None:
    with pytest.raises(ValueError, match=r"`anchor` must have at least 4 samples .*, got \(3, 3\)"):
        hsic_loss(*_pairs(3), estimator="unbiased")


def test_module_is_the_function() -> None:
    x, z = _pairs()
    loss = HSICLoss(kernel=KERNEL, positive_kernel=OTHER)
    assert loss(x, z) == hsic_loss(x, z, kernel=KERNEL, positive_kernel=OTHER)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", [Gaussian(1.5), Gaussian(), Energy()])
@pytest.mark.parametrize("weighted", [False, True])
def test_tiles_equal_the_matrices(
    monkeypatch: pytest.MonkeyPatch, estimator: str, kernel: Gaussian | Energy, weighted: bool
) -> None:
    x, z = (side.requires_grad_() for side in _pairs(50))
    weight = torch.arange(50).double().remainder(4) if weighted else None
    found = []
    for few in (10**6, 10):
        monkeypatch.setattr(hsic, "FEW", few)
        monkeypatch.setattr(kernel_products, "BLOCK", 16)
        value = hsic_loss(x, z, kernel=kernel, estimator=estimator, weight=weight)
        made = torch.autograd.grad(value, (x, z), retain_graph=True)  # in the pass
        first = torch.autograd.grad(value, (x, z), create_graph=True)
        found.append([value, *made, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, z))])
    for dense, tiled in zip(*found):
        torch.testing.assert_close(tiled, dense, rtol=1e-9, atol=1e-12)


def test_tiles_keep_the_digits_of_a_weak_dependence(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the value of nearly constant kernels is rounding alone, so the tiles are computed again in float64."""
    x, z = (side.float() for side in _pairs(50))
    exact = hsic_loss(x.double(), z.double(), kernel=Gaussian(300.0))
    monkeypatch.setattr(hsic, "FEW", 10)
    monkeypatch.setattr(kernel_products, "BLOCK", 16)
    torch.testing.assert_close(hsic_loss(x, z, kernel=Gaussian(300.0)).double(), exact, rtol=1e-4, atol=0)
