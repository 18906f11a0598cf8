"""Conversions of other libraries' losses, against loops written from their documentation (and checked against them)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmda import migration
from mmda.losses import coral_loss, mmd_loss
from mmda.migration import POWERS_OF_TWO
from tests.reference import migration as reference

Pair = tuple[Tensor, Tensor]
CONSTRUCTORS: dict[str, Callable[[], nn.Module]] = {
    "pytorch_adapt_mmd": migration.pytorch_adapt_mmd,
    "tllib_mmd": migration.tllib_mmd,
    "tllib_coral": migration.tllib_coral,
    "skada_dan": migration.skada_dan,
}


def _draw(n: int, m: int, width: int = 4) -> Pair:
    generator = np.random.default_rng(100 * n + m)
    x = generator.standard_normal((n, width))
    y = 1.3 * generator.standard_normal((m, width)) + 0.5
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 3.0), POWERS_OF_TWO])
@pytest.mark.parametrize("bandwidth", [None, 3.0])
@pytest.mark.parametrize("n", [6, 7])
def test_pytorch_adapt_mmd(scales: tuple[float, ...], bandwidth: float | None, n: int) -> None:
    x, y = _draw(n, 5)
    quadratic = migration.pytorch_adapt_mmd(kernel_scales=scales, mmd_type="quadratic", bandwidth=bandwidth)
    expected = reference.pytorch_adapt_mmd(x.numpy(), y.numpy(), scales, linear=False, bandwidth=bandwidth)
    assert quadratic(x, y).item() == pytest.approx(expected, abs=1e-12)
    x, y = _draw(n, n)
    linear = migration.pytorch_adapt_mmd(kernel_scales=scales, bandwidth=bandwidth)
    expected = reference.pytorch_adapt_mmd(x.numpy(), y.numpy(), scales, linear=True, bandwidth=bandwidth)
    assert linear(x, y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("linear", [False, True])
def test_pytorch_adapt_mmd_of_layers_is_the_joint_one(linear: bool) -> None:
    (x, y), (u, v) = _draw(7, 7), _draw(7, 7, width=2)
    if not linear:
        y, v = y[:5], v[:5]
    loss = migration.pytorch_adapt_mmd(kernel_scales=(0.5, 3.0), mmd_type="linear" if linear else "quadratic")
    layers = [[t.numpy() for t in side] for side in ((x, u), (y, v))]
    expected = reference.pytorch_adapt_jmmd(*layers, (0.5, 3.0), linear=linear)
    assert loss([x, u], (y, v)).item() == pytest.approx(expected, abs=1e-12)
    assert loss([x], [y]).item() == loss(x, y).item()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: loss([x.detach(), u], [y, v]), (u.clone(), v.requires_grad_()))
    loss([x, u], [y, v]).backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_pytorch_adapt_mmd_takes_scales_as_that_library_does() -> None:
    x, y = _draw(6, 6)
    assert migration.pytorch_adapt_mmd(kernel_scales=1)(x, y) == migration.pytorch_adapt_mmd()(x, y)
    tensor = torch.logspace(-8, 8, 33, base=2.0, dtype=torch.float64)
    one, other = (migration.pytorch_adapt_mmd(kernel_scales=scales)(x, y) for scales in (tensor, POWERS_OF_TWO))
    torch.testing.assert_close(one, other)
    assert migration.pytorch_adapt_mmd(kernel_scales=torch.tensor(2.0)).kernel_scales == (2.0,)
    with pytest.raises(ValueError, match=r"^pytorch_adapt_mmd: `kernel_scales` must have at most one axis, got \(1, 2"):
        migration.pytorch_adapt_mmd(kernel_scales=torch.ones(1, 2))
    with pytest.raises(
        ValueError, match=r"^pytorch_adapt_mmd: `target` must have as many layers as `source` \(2\), got 1"
    ):
        migration.pytorch_adapt_mmd()([x, x], [y])


@pytest.mark.parametrize("mmd_type", ["linear", "quadratic"])
def test_pytorch_adapt_mmd_of_two_source_rows_is_zero(mmd_type: str) -> None:
    """Of the four distances two are zeros of the diagonal: so is the lower median, and no row is like another."""
    x, y = _draw(2, 2)
    x.requires_grad_()
    value = migration.pytorch_adapt_mmd(mmd_type=mmd_type)(x, y)  # type: ignore[arg-type]
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert (x.grad == 0).all()


def test_tllib_mmd_of_two_rows_counts_its_cells_once() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    # d^2 = 1, 4, 25, 4; the mean over all 16 pooled pairs is 2 (1 + 4 + 9 + 25 + 4 + 16) / 16
    kernel = [math.exp(-d / (2 * 7.375)) for d in (1, 4, 25, 4)]
    expected = kernel[0] + kernel[1] - (kernel[2] + kernel[3]) / 2 + 2
    assert expected == pytest.approx(3.2239, abs=1e-4)
    assert migration.tllib_mmd(alphas=(1,), linear=True)(x, y).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("alphas", [(1.0,), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("n", [2, 7])
def test_tllib_mmd(linear: bool, alphas: tuple[float, ...], n: int) -> None:
    x, y = _draw(n, n)
    expected = reference.tllib_mmd(x.numpy(), y.numpy(), alphas, linear=linear)
    assert migration.tllib_mmd(alphas=alphas, linear=linear)(x, y).item() == pytest.approx(expected, abs=1e-12)


def test_tllib_coral() -> None:
    x, y = _draw(9, 6)
    assert migration.tllib_coral()(x, y).item() == pytest.approx(reference.tllib_coral(x.numpy(), y.numpy()), abs=1e-12)
    centred = x - x.mean(0), y - y.mean(0)
    assert migration.tllib_coral()(*centred).item() == pytest.approx(4 * coral_loss(*centred).item(), abs=1e-12)


@pytest.mark.parametrize("sigmas", [None, (0.5, 2.0)])
def test_skada_dan(sigmas: tuple[float, ...] | None) -> None:
    x, y = _draw(7, 5)
    expected = reference.skada_dan(x.numpy(), y.numpy(), sigmas)
    assert migration.skada_dan(sigmas=sigmas)(x, y).item() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("n", [20, 60])
def test_skada_dan_is_the_peers_in_float32(n: int) -> None:
    """Below and above 25 rows, from which on that library computes distances by a matrix product."""
    peer = pytest.importorskip("skada.deep.losses", reason="skada is not installed")
    generator = torch.Generator().manual_seed(n)
    x, y = torch.randn(n, 16, generator=generator), torch.randn(n, 16, generator=generator) + 0.3
    x, y = x.requires_grad_(), y.requires_grad_()
    ours, theirs = migration.skada_dan()(x, y), peer.dan_loss(x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for one, other in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(theirs, (x, y))):
        assert (one - other).norm() < (1e-4 if n <= 25 else 2e-3) * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_skada_dan_of_equal_rows(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 8, generator=generator, dtype=torch.float64).repeat(17, 1)
    x[-1] += 1.0
    y = torch.randn(17, 8, generator=generator, dtype=torch.float64) + 3
    expected = reference.skada_dan(x.to(dtype).double().numpy(), y.to(dtype).double().numpy())
    assert migration.skada_dan()(x.to(dtype), y.to(dtype)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "oracle"),
    [
        (migration.skada_dan(), reference.skada_dan),
        (migration.tllib_coral(), reference.tllib_coral),
    ],
    ids=["skada_dan", "tllib_coral"],
)
def test_gradient_is_that_of_the_number(loss: nn.Module, oracle: Callable[..., float]) -> None:
    """skada does not detach its bandwidth, so finite differences include its change; the conversion must as well."""
    x, y = _draw(5, 4, width=2)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, y), x)
    rows, step = x.detach().numpy(), 1e-6
    for index in np.ndindex(*rows.shape):
        up, down = rows.copy(), rows.copy()
        up[index] += step
        down[index] -= step
        slope = (oracle(up, y.numpy()) - oracle(down, y.numpy())) / (2 * step)
        assert gradient[index].item() == pytest.approx(slope, abs=1e-7)


def test_bandwidth_of_the_others_is_detached() -> None:
    x, y = _draw(5, 5, width=2)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(migration.pytorch_adapt_mmd(mmd_type="quadratic")(x, y), x)
    distances = torch.cdist(x.detach(), x.detach()).square().flatten()
    fixed = distances.sort().values[(len(distances) - 1) // 2].item()
    held = migration.pytorch_adapt_mmd(mmd_type="quadratic", bandwidth=fixed)
    torch.testing.assert_close(gradient, torch.autograd.grad(held(x, y), x)[0])


def test_equal_domains_give_the_constant_that_tllib_adds() -> None:
    """With x = y the cross mean over all pairs is (n - 1) / n of the off-diagonal mean plus J / n."""
    x, _ = _draw(6, 6)
    alphas = (0.5, 1.0)
    value = migration.tllib_mmd(alphas=alphas)(x, x).item()
    pooled = torch.cat([x, x])
    mean = torch.cdist(pooled, pooled).square().mean()
    off = ~torch.eye(6, dtype=torch.bool)
    within = sum(torch.exp(-torch.cdist(x, x).square()[off] / (2 * a * mean)).mean() for a in alphas)
    assert value == pytest.approx(float(2 / 6 * within - 2 * len(alphas) / 6 + 2 / 5), abs=1e-12)


def test_warm_start_is_the_ramp_with_another_slope() -> None:
    for step in (0, 10, 1000, 5000):
        expected = math.tanh(step / 2000)  # 2 / (1 + exp(-z)) - 1 = tanh(z / 2)
        assert migration.tllib_warm_start(step) == pytest.approx(expected)
    assert migration.tllib_warm_start(0, lo=0.2, hi=0.7) == pytest.approx(0.2)
    assert migration.tllib_warm_start(10**6, lo=0.2, hi=0.7) == pytest.approx(0.7)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constant_batches_stay_finite(name: str) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    value = CONSTRUCTORS[name]()(x, torch.ones(4, 3))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_half_precision_is_widened(name: str) -> None:
    x, y = (side.to(torch.bfloat16) for side in _draw(8, 8))
    narrow, wide = CONSTRUCTORS[name]()(x, y), CONSTRUCTORS[name]()(x.double(), y.double())
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(wide.item(), rel=1e-4)


def test_errors_name_the_constructor() -> None:
    x, y = _draw(4, 3)
    with pytest.raises(ValueError, match=r"^pytorch_adapt_mmd: `mmd_type` must be one of 'linear', 'quadratic', got"):
        migration.pytorch_adapt_mmd(mmd_type="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^tllib_mmd: `alphas` must be a finite number > 0, got 0.0$"):
        migration.tllib_mmd(alphas=[0.0])
    with pytest.raises(ValueError, match=r"^tllib_mmd: `target` must have the shape of `source` \(4, 4\), got \(3"):
        migration.tllib_mmd()(x, y)
    with pytest.raises(ValueError, match=r"^skada_dan: `eps` must be a finite number >= 0, got -1$"):
        migration.skada_dan(eps=-1)
    with pytest.raises(ValueError, match=r"^tllib_warm_start: `step` must be a finite number >= 0, got -1$"):
        migration.tllib_warm_start(-1)


def test_the_number_differs_from_this_library_s_own() -> None:
    """The defaults differ; otherwise no conversion would be needed."""
    x, y = _draw(8, 8)
    own = mmd_loss(x, y, estimator="unbiased").item()
    for name in ("pytorch_adapt_mmd", "tllib_mmd", "skada_dan"):
        assert abs(CONSTRUCTORS[name]()(x, y).item() - own) > 1e-3


@pytest.mark.parametrize("name", ["alpha", "lo", "hi"])
def test_numbers_of_the_warm_start_are_checked(name: str) -> None:
    with pytest.raises(TypeError, match=f"tllib_warm_start: `{name}` must be a finite number, got str"):
        migration.tllib_warm_start(1, **{name: "1"})
    with pytest.raises(ValueError, match=f"tllib_warm_start: `{name}` must be a finite number, got nan"):
        migration.tllib_warm_start(1, **{name: math.nan})
