"""The compiled loops: every instruction set, number of threads and dtype gives the results of PyTorch's operations.

``test_tiles.py`` holds the sweeps to the dense formulas with the loops and without; here is what only the loops have.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmda import instruction_set
from mmda._engine import native, native_kernels
from mmda._engine.kernel_sums import pair_means
from mmda.kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic
from mmda.losses import info_nce_loss, mmd_loss, nt_xent_loss
from tests.logits import contrastive
from tests.test_tiles import dense

pytestmark = pytest.mark.skipif(native._sweeps is None, reason="the loops were not compiled here")
KERNELS = (
    Gaussian(1.5),
    Gaussian(1.5, scales=(0.3, 1.0, 2.2, 4.4)),
    Gaussian(1.5, scales=(1.0, 1.0, 2.0, 4.0, 8.0, 16.0)),
    Laplacian(1.5, scales=(0.7, 1.0)),
    RationalQuadratic(1.2, scales=(0.5, 2.0)),
    Energy(),
)
EXACT = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.fixture(params=native.INSTRUCTION_SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    if native.limit_instructions(request.param) != request.param:
        native.limit_instructions()
        pytest.skip(f"this processor has no {request.param}")
    assert instruction_set() == request.param
    yield request.param
    native.limit_instructions()


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rows(n: int, d: int, dtype: torch.dtype, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) + shift).to(dtype).requires_grad_()


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, inputs))


def assert_like(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Equal up to ``tolerance`` of the largest entry."""
    for one, other in zip(found, wanted):
        one, other = one.double(), other.double()
        assert (one - other).abs().max() <= tolerance * other.abs().max() + 1e-30


def double(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().double().requires_grad_() for t in tensors]


def dense_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    means = pair_means(x, y, None, None, kernel=kernel)
    return means.within_x + means.within_y - 2 * means.across


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_kernel_sums(kernel: Kernel, dtype: torch.dtype, instructions: str) -> None:
    """Sizes that are no multiple of a vector, a tile wider than a chunk, and few rows in a single tile."""
    for n, m, block in ((37, 21, None), (200, 131, None), (600, 530, None), (90, 75, 23)):
        x, y = rows(n, 3, dtype), rows(m, 3, dtype, seed=1, shift=0.5)
        exact = double(x, y)
        found, wanted = mmd_loss(x, y, kernel=kernel, block_size=block), dense_mmd(*exact, kernel)
        torch.testing.assert_close(found.double(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype] / 50)
        assert_like(gradients(found, x, y), gradients(wanted, *exact), 10 * EXACT[dtype])


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.02])
@pytest.mark.parametrize("kind", ["info_nce", "symmetric", "nt_xent", "sigmoid"])
def test_contrast(kind: str, temperature: float, dtype: torch.dtype, instructions: str) -> None:
    """Small and large logits (with and without shift), in one matrix and in tiles, stored and recomputed."""
    for n, block in ((19, None), (300, 64), (530, 600)):
        a, b = rows(n, 8, dtype), rows(n, 8, dtype, seed=1)
        exact = double(a, b)
        for unit in (True, False):
            bias = torch.tensor(-1.5, dtype=dtype, requires_grad=True)
            (exact_bias,) = double(bias)
            found = contrastive(kind, a, b, bias, temperature=temperature, unit=unit, block_size=block)
            wanted = dense(kind, *exact, exact_bias, temperature, unit)
            torch.testing.assert_close(found.double(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype])
            inputs, others = ([a, b, bias], [*exact, exact_bias]) if kind == "sigmoid" else ([a, b], exact)
            assert_like(gradients(found, *inputs), gradients(wanted, *others), 100 * EXACT[dtype])


def test_threads_share_a_tile(threads: int) -> None:
    """Threads get unequal numbers of rows and sum columns separately; the results agree."""
    x, y = rows(601, 5, torch.float64), rows(507, 5, torch.float64, seed=1, shift=0.3)
    value, wanted = mmd_loss(x, y), dense_mmd(x, y, Gaussian())
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-13)
    assert_like(gradients(value, x, y), gradients(wanted, x, y), 1e-11)
    zero = torch.zeros((), dtype=torch.float64)
    for kind in ("symmetric", "nt_xent", "sigmoid"):
        for temperature, block in ((1.0, 299), (0.02, 299), (0.02, None)):
            found = contrastive(kind, x[:507], y, temperature=temperature, block_size=block)
            wanted = dense(kind, x[:507], y, zero, temperature)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
            assert_like(gradients(found, x, y), gradients(wanted, x, y), 1e-10)
    assert native._sweeps.threaded or not sys.platform.startswith("linux")


def test_the_same_call_gives_the_same_bits() -> None:
    x, y = rows(700, 16, torch.float32), rows(650, 16, torch.float32, seed=1)
    once, again = (mmd_loss(x, y) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(*(gradients(value, x)[0] for value in (once, again)))


def test_nan_and_infinity_are_not_lost(instructions: str) -> None:
    """NaN or infinity in a feature gives NaN or infinity, as in the formula, not a plausible number."""
    for bad in (math.nan, math.inf):
        for n in (20, 600):
            x, y = rows(n, 4, torch.float32).detach(), rows(n, 4, torch.float32, seed=1).detach()
            x[n // 2, 1] = bad
            for kernel in KERNELS:
                assert mmd_loss(x, y, kernel=kernel).isnan()
            for temperature in (1.0, 0.001):
                for block in (None, 128):
                    for kind in ("symmetric", "nt_xent", "sigmoid"):
                        found = contrastive(kind, x, y, temperature=temperature, block_size=block)
                        assert not found.isfinite(), (bad, n, temperature, block, kind)


def test_far_apart_and_equal_rows(instructions: str) -> None:
    """Powers that underflow are zero; equal rows have similarity one and gradient zero."""
    x = torch.tensor([[0.0], [1e2], [2e2], [2e2]]).repeat(5, 1).requires_grad_()
    y = torch.tensor([[5e1], [1e2]]).repeat(9, 1).requires_grad_()
    found = mmd_loss(x, y, kernel=Gaussian(1.0), block_size=7)
    wanted = dense_mmd(*double(x, y), Gaussian(1.0))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=0)
    assert all(g.abs().max() < 2e-6 for g in gradients(found, x, y))  # rounding of distances of 1e2, over n^2 pairs


def test_logits_far_apart(instructions: str) -> None:
    """With logits of +-1e5 the loss is their difference, and only the largest has a gradient."""
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).repeat(100, 1)[:256].requires_grad_()
    b = a.detach().flip(0).clone().requires_grad_()
    for block in (None, 100):
        found = contrastive("symmetric", a, b, temperature=1e-5, block_size=block)
        exact = double(a, b)
        wanted = dense("symmetric", *exact, None, 1e-5)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
        assert_like(gradients(found, a, b), gradients(wanted, *exact), 1e-5)


def test_rows_that_lie_otherwise_in_memory() -> None:
    """Transposed, strided and expanded rows, parameters, and mixed float64 and float32."""
    wide = rows(40, 30, torch.float32)
    others = rows(40, 15, torch.float32, seed=1)
    for x in (wide[:, ::2], wide[:, :15], wide.T[:15].T, wide[:1, :15].expand(40, 15), torch.nn.Parameter(others * 2)):
        exact = dense_mmd(*double(x, others), Gaussian())
        torch.testing.assert_close(mmd_loss(x, others).double(), exact, rtol=1e-5, atol=1e-6)
        plain = info_nce_loss(*double(x, others)).float()
        torch.testing.assert_close(info_nce_loss(x, others), plain, rtol=1e-5, atol=1e-6)
        assert native.serves(x, others)
    mixed = mmd_loss(wide, rows(9, 30, torch.float64))
    assert mixed.dtype == torch.float64


def test_what_the_loops_cannot_read() -> None:
    """Tensors without data, on other devices or of other dtypes use PyTorch's operations."""
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.randn(600, 4))
        assert type(fake) is not Tensor
        assert not native.serves(fake)
        assert mmd_loss(fake, fake, kernel=Gaussian(1.0)).shape == ()
    assert not native.serves(torch.randn(3, device="meta"))
    assert not native.serves(torch.randn(3, dtype=torch.float16))
    assert not native.serves(torch.randn(3), torch.randn(3).as_subclass(type("Other", (Tensor,), {})))


def test_modes_that_watch_operations_see_them() -> None:
    x, y = rows(20, 4, torch.float32).detach(), rows(20, 4, torch.float32, seed=1).detach()
    with FlopCounterMode(display=False) as counter:
        assert not native.serves(x, y)
        mmd_loss(x, y)
    assert counter.get_total_flops() > 0


def test_default_device_is_nothing_to_tensors_of_a_cpu() -> None:
    """A default device set before the first call with a kernel does not change where addresses and results are."""
    x, y = rows(150, 4, torch.float32), rows(150, 4, torch.float32, seed=1)
    kernel = Gaussian(1.0, scales=(0.51, 1.02))
    with torch.device("meta"):
        values = mmd_loss(x, y, kernel=kernel), info_nce_loss(x, y)
    for found, wanted in zip(values, (mmd_loss(x, y, kernel=kernel), info_nce_loss(x, y))):
        assert torch.equal(found, wanted)
        assert found.device == x.device


def test_a_team_smaller_than_asked_for() -> None:
    """If OpenMP starts fewer threads than PyTorch reports, no row is skipped."""
    code = (
        "import torch; from mmda.losses import mmd_loss, info_nce_loss; torch.set_num_threads(4)\n"
        "g = torch.Generator().manual_seed(0)\n"
        "x, y = (torch.randn(700, 8, dtype=torch.float64, generator=g).requires_grad_() for _ in range(2))\n"
        "value = mmd_loss(x, y) + info_nce_loss(x, y); value.backward()\n"
        "print(value.item(), x.grad.norm().item(), y.grad.norm().item())"
    )
    outputs = []
    for extra in ({}, {"OMP_THREAD_LIMIT": "2"}, {"OMP_THREAD_LIMIT": "3"}, {"OMP_MAX_ACTIVE_LEVELS": "0"}):
        environment = {**os.environ, "OMP_DYNAMIC": "false", **extra}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        outputs.append([float(number) for number in done.stdout.split()])
    for numbers in outputs[1:]:
        torch.testing.assert_close(numbers, outputs[0], rtol=1e-12, atol=0)


def test_numbers_out_of_the_ordinary() -> None:
    """Extreme values are not checked for; the result is that of the formula."""
    x, y = rows(150, 4, torch.float32).detach(), rows(150, 4, torch.float32, seed=1).detach()
    assert mmd_loss(x, y, kernel=Gaussian(torch.tensor(0.0))).isnan()
    for temperature in (-1.0, -0.01):
        tau = torch.tensor(temperature)
        for kind in ("symmetric", "nt_xent"):
            found = contrastive(kind, x, y, temperature=tau, block_size=100)
            torch.testing.assert_close(found, dense(kind, x, y, None, tau), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_switch(wanted: str) -> None:
    code = "import mmda; print(mmda.instruction_set() is not None)"
    environment = {**os.environ, "MMDA_COMPILED": wanted}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(wanted == "1")


def test_operators_in_a_compiled_graph_use_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = native_kernels.tile
    monkeypatch.setattr(native_kernels, "tile", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    compiled = torch.compile(mmd_loss, backend="eager", fullgraph=True)
    x, y = rows(300, 4, torch.float32), rows(290, 4, torch.float32, seed=1)
    torch.testing.assert_close(compiled(x, y), mmd_loss(x, y))
    assert len(calls) == 6
    torch.compile(nt_xent_loss, backend="eager", fullgraph=True)(x.detach()[:290], y)
