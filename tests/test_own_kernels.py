"""Kernels of the user on large tiles: recorded as a program if they are elementwise, otherwise called on every tile."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmda._engine import native, own_kernels
from mmda._engine.kernel_sums import pair_means
from mmda.kernels import Gaussian, Kernel, Laplacian, RationalQuadratic
from mmda.losses import mmd_loss


class Own(Gaussian):
    """Counts its calls."""

    calls = 0

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(3.0)
        self.formula = formula

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        self.calls += 1
        return self.formula(squared, bandwidth)


def five(squared: Tensor, bandwidth: Tensor) -> Tensor:
    q = squared / (2 * bandwidth * bandwidth)
    return sum((torch.exp(-q / scale) for scale in (0.25, 0.5, 1.0, 2.0, 4.0)), q.new_zeros(())) / 5


def matern(squared: Tensor, bandwidth: Tensor) -> Tensor:
    r = (3 * squared.clamp(min=1e-12)).sqrt() / bandwidth
    return (1 + r) * torch.exp(-r)


def truncated(squared: Tensor, bandwidth: Tensor) -> Tensor:
    q = (squared / bandwidth).clamp(0.0, 6.0)
    return torch.where(q < 3, 1 - q / 6, torch.full_like(q, 0.25) * (4 - q / 3)) ** 2


def in_place(squared: Tensor, bandwidth: Tensor) -> Tensor:
    q = squared / bandwidth / bandwidth
    same, again = squared / bandwidth / bandwidth, q * 1
    return (q.neg_().exp_() + 1 / (1 + same) - again.sigmoid()) / 1.5


def summed(squared: Tensor, bandwidth: Tensor) -> Tensor:
    kernels = Gaussian(1.0), Laplacian(1.0), RationalQuadratic(1.0, alpha=1.5)
    return sum((k.evaluate(squared, bandwidth) for k in kernels), squared.new_zeros(())) / 3


def nested(squared: Tensor, bandwidth: Tensor) -> Tensor:
    return Gaussian(1.0).evaluate(squared, bandwidth).square() * Gaussian(1.0, scales=(1.0, 3.0)).evaluate(
        squared, bandwidth
    )


def branch(squared: Tensor, bandwidth: Tensor) -> Tensor:
    """A branch on the values, as a kernel might guard its formula."""
    return torch.exp(-squared / 9) if bool((squared >= 0).all()) else squared * math.nan


def by_lists(squared: Tensor, bandwidth: Tensor) -> Tensor:
    assert min(squared.detach().flatten().tolist()) >= 0
    return torch.exp(-squared / 9)


def by_numpy(squared: Tensor, bandwidth: Tensor) -> Tensor:
    assert squared.detach().numpy().min() >= 0
    return torch.exp(-squared / 9)


def through_rows(squared: Tensor, bandwidth: Tensor) -> Tensor:
    """Elementwise in effect, but not by elementwise operations."""
    return torch.cat([torch.exp(-row / 9).unsqueeze(0) for row in squared.unbind(0)])


def by_shape(squared: Tensor, bandwidth: Tensor) -> Tensor:
    """Different numbers on the few distances that are recorded."""
    return torch.exp(-squared / (9 if squared.shape[0] > 2 else 10))


RECORDED = [five, matern, truncated, in_place, summed, nested]
CALLED = [branch, by_lists, by_numpy, through_rows, by_shape]


def samples(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (150, 131))
    x[3] = x[90]
    return x.to(dtype).requires_grad_(), (1.2 * y + 0.3).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("formula", [*RECORDED, *CALLED], ids=lambda f: f.__name__)
def test_value_and_gradient(formula: Any, compiled: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the dense formula; a recorded kernel is called a few times, any other once a tile."""
    monkeypatch.setattr(own_kernels, "LARGE", 900)
    if not compiled:
        monkeypatch.setattr(native, "_sweeps", None)
    x, y = samples(dtype)
    kernel: Kernel = Own(formula)
    found = mmd_loss(x, y, kernel=kernel, block_size=40)
    calls = kernel.calls  # type: ignore[attr-defined]
    assert calls <= 5 if formula in RECORDED else calls >= 36
    means = pair_means(x, y, None, None, kernel=kernel)
    wanted = means.within_x + means.within_y - 2 * means.across
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
    for ours, one in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(wanted, (x, y))):
        torch.testing.assert_close(ours, one, rtol=0, atol=tolerance * float(one.abs().amax()) + 1e-15)
    found = mmd_loss(x.detach(), y.detach(), kernel=kernel, block_size=40)
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=tolerance)


def test_a_program_computes_the_same_bits() -> None:
    """The same operations in the same order; one buffer is used many times."""
    t = -20 * torch.rand(64, 33, generator=torch.Generator().manual_seed(1))
    bandwidth = torch.tensor(3.0)
    for formula in (five, matern, truncated, in_place):
        kernel = Own(formula)
        program = own_kernels.record_kernel(kernel, bandwidth, t, True)
        assert program is not None
        for rows in (64, 20, 64):
            value, slope = program(t[:rows])
            own_value, own_slope = own_kernels.OwnKernelOnTiles(kernel, bandwidth)._on(t[:rows], True)
            assert torch.equal(value, own_value)
            assert torch.equal(slope, own_slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_built_in_steps_of_wide_tiles(dtype: torch.dtype) -> None:
    """More columns than the compiled loops take at once."""
    t = -20 * torch.rand(90, 700, generator=torch.Generator().manual_seed(1), dtype=dtype)
    bandwidth = torch.tensor(3.0, dtype=dtype)
    for formula in (summed, nested):
        program = own_kernels.record_kernel(Own(formula), bandwidth, t, True)
        assert program is not None
        own = own_kernels.OwnKernelOnTiles(Own(formula), bandwidth)._on(t, True)
        for ours, wanted in zip(program(t), own):
            torch.testing.assert_close(
                ours, wanted, rtol=0, atol=50 * torch.finfo(dtype).eps * float(wanted.abs().max())
            )


def test_infinite_slopes_are_recorded() -> None:
    """The slope of a root at distance 0; the other entries are still compared."""
    t = -torch.rand(64, 33, generator=torch.Generator().manual_seed(1))
    t[3, 4] = 0
    kernel = own_kernels.OwnKernelOnTiles(Own(lambda squared, bandwidth: 1 - squared.sqrt()), torch.tensor(3.0))
    program = kernel._record(t, True)
    assert program is not None
    assert program(t)[1][3, 4].isinf()
    other = Own(lambda squared, bandwidth: 1 - squared.sqrt() * (2 if squared.shape[0] > 2 else 1))
    assert own_kernels.OwnKernelOnTiles(other, torch.tensor(3.0))._record(t, True) is None


def test_a_recording_leaves_no_cycles() -> None:
    """Memory is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        own_kernels.record_kernel(Own(summed), torch.tensor(3.0), -torch.rand(8, 9), True)
        assert not any(type(each) is own_kernels.Tile for each in gc.get_objects())
    finally:
        gc.enable()


def test_a_formula_set_on_an_object_counts() -> None:
    x, y = samples(torch.float64)
    kernel = Gaussian(3.0)
    kernel.evaluate = matern  # type: ignore[method-assign]
    assert mmd_loss(x, y, kernel=kernel) == mmd_loss(x, y, kernel=Own(matern))


def test_a_compiled_part_is_recorded_as_its_code() -> None:
    compiled = torch.compile(five, backend="eager")
    t, bandwidth = -torch.rand(8, 9), torch.tensor(3.0)
    compiled(t, bandwidth)
    program = own_kernels.record_kernel(Own(compiled), bandwidth, t, True)
    assert program is not None
    assert torch.equal(program(t)[0], five(-t, bandwidth))


def test_an_error_of_the_kernel_reaches_the_user() -> None:
    def broken(squared: Tensor, bandwidth: Tensor) -> Tensor:
        raise LookupError("no such kernel")

    x, y = (torch.randn(600, 2, requires_grad=True) for _ in range(2))
    with pytest.raises(LookupError, match="no such kernel"):
        mmd_loss(x, y, kernel=Own(broken))
