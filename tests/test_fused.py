"""The Triton programs equal the dense formulas: on a GPU, and elsewhere in Triton's interpreter.

``python -m tests.test_fused`` runs the checks in the interpreter, on a processor; it has to be chosen before Triton is
imported, hence the process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from mmda._engine import fused, kernel_sweep, native
from mmda._engine.kernel_sums import squared_mmd
from mmda._engine.kernel_sweep import SWEEP, KernelSum, Samples
from mmda.kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic, formula_of

KERNELS: tuple[Kernel, ...] = (
    Gaussian(2.0),
    Gaussian(1.5, scales=(0.3, 1.0, 2.2, 4.4)),
    Laplacian(1.5, scales=(0.7, 1.0)),
    RationalQuadratic(2.0),
    Energy(),
)
#: More columns than a program's, several chunks of columns, rows that are no multiple of anything.
SMALL = {"blocks": fused.Blocks(16, 16, 16, 4, 2), "splits": 3}


def samples(n: int, m: int, d: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + m + d)
    x, y = torch.randn(n, d, generator=generator), 1.2 * torch.randn(m, d, generator=generator) + 0.5
    return x.to(device), y.to(device)


def value_and_gradients(found: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [found.detach(), *torch.autograd.grad(found, inputs)]


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected):
        size = b.norm().clamp_min(0.1 if b.ndim == 0 else 0.0)  # a value is a difference of means of order one
        error = (a - b).norm() / size
        assert error < 1e-5, f"{float(error):.1e}"  # and not NaN


def check_squared_mmd(
    kernel: Kernel, device: str, *, weights: bool, unbiased: bool, size: tuple[int, int, int]
) -> None:
    x, y = samples(*size, device)
    counts = [1 + (torch.arange(len(t), device=device) % 3) / 2 if weights else None for t in (x, y)]
    results = []
    for dtype in (torch.float64, torch.float32):
        given = [t.to(dtype).requires_grad_() for t in (x, y)]
        loss = squared_mmd(*given, *(w if w is None else w.to(dtype) for w in counts), kernel=kernel, unbiased=unbiased)
        with torch.no_grad():
            alone = squared_mmd(
                *given, *(w if w is None else w.to(dtype) for w in counts), kernel=kernel, unbiased=unbiased
            )
        results.append([*value_and_gradients(loss, *given), alone])
    assert_near(results[1], results[0])


def check_rank(rank: int, device: str) -> None:
    x, y = samples(21, 34, 7, device)
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(55, 2 * rank, generator=generator).to(device)
    right = left[:, :rank].clone()
    left[:, rank:] = left[:, :rank] / 2
    left[21:] = left[21:].roll(rank, 1)  # C symmetric: the factor 1/2 across samples
    left[21:, rank:], left[21:, :rank] = right[21:], right[21:] / 2
    formula = formula_of(KERNELS[0])
    assert formula is not None
    how = KernelSum(formula.kind, list(formula.rates), formula.exponent, "biased", 0)
    results = []
    for dtype in (torch.float64, torch.float32):
        a, b = (t.to(dtype).requires_grad_() for t in (x, y))
        given = Samples(a, b, left.to(dtype), right.to(dtype), a.new_tensor(2.0), None, None)
        found = SWEEP.dense(given, how) if dtype == torch.float64 else SWEEP(given, how)
        results.append(value_and_gradients(found, a, b))
    assert_near(results[1], results[0])


def check_not_finite(device: str) -> None:
    x, y = samples(20, 20, 3, device)
    x[3, 1] = torch.nan
    assert squared_mmd(x, y, None, None, kernel=KERNELS[0]).isnan()
    assert squared_mmd(x, y, None, None, kernel=KERNELS[-1]).isnan()


def check_near_pairs(device: str) -> None:
    """Rows much closer to each other than to the centre are left to operations, which are accurate there."""
    x, y = samples(40, 30, 4, device)
    x[20:], y[15:] = x[:20] + 1e-4 * x[20:], y[:15] + 1e-4 * y[15:]
    x, y = 30 * x, 30 * y
    results = []
    for dtype in (torch.float64, torch.float32):
        a, b = (t.to(dtype).requires_grad_() for t in (x, y))
        results.append(value_and_gradients(squared_mmd(a, b, None, None, kernel=Gaussian(0.01)), a, b))
    assert_near(results[1], results[0])


def check_all(device: str) -> None:
    for kernel in KERNELS:
        check_squared_mmd(kernel, device, weights=False, unbiased=True, size=(23, 41, 7))
    check_squared_mmd(KERNELS[1], device, weights=True, unbiased=False, size=(40, 17, 33))
    check_squared_mmd(KERNELS[2], device, weights=True, unbiased=True, size=(23, 41, 7))
    check_rank(3, device)
    check_not_finite(device)
    check_near_pairs(device)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.test_fused"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 10


@pytest.fixture
def gpu() -> str:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert fused.serves(torch.zeros(1, device="cuda"))
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("size", [(5, 3, 2), (300, 411, 64), (1000, 700, 17), (400, 300, 100), (500, 600, 130)])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
def test_on_a_gpu(gpu: str, kernel: Kernel, size: tuple[int, int, int], weights: bool, unbiased: bool) -> None:
    check_squared_mmd(kernel, gpu, weights=weights, unbiased=unbiased, size=size)


@pytest.mark.gpu
@pytest.mark.parametrize("rank", [2, 3, 16, 40, 64, 65])
def test_ranks_on_a_gpu(gpu: str, rank: int) -> None:
    check_rank(rank, gpu)


@pytest.mark.gpu
def test_special_rows_on_a_gpu(gpu: str) -> None:
    check_not_finite(gpu)
    check_near_pairs(gpu)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
def test_the_programs_run(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the operations; the same in a compiled graph; second derivatives by the dense formula."""
    ran = count_programs(monkeypatch.setattr)
    x, y = (t.requires_grad_() for t in samples(300, 200, 64, gpu))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return squared_mmd(x, y, None, None, kernel=KERNELS[0])

    value, slope, _ = value_and_gradients(loss(x, y), x, y)
    assert ran == [1]
    compiled = value_and_gradients(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, y), x, y)
    assert ran == [2]
    torch.testing.assert_close(compiled[0], value)
    torch.testing.assert_close(compiled[1], slope)
    (first,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.isfinite().all()


def count_programs(patch: Any, **more: Any) -> list[int]:
    """Counts the calls of the programs, with further arguments for each."""
    ran, row_sums = [0], fused.row_sums

    def counted(*args: Any, **kwargs: Any) -> fused.RowSums:
        ran[0] += 1
        return row_sums(*args, **kwargs, **more)

    patch(fused, "row_sums", counted)
    return ran


def main() -> None:
    assert os.environ.get("TRITON_INTERPRET") == "1"
    for module, name, value in (
        (native, "_sweeps", None),
        (fused, "serves", lambda first, *more: first.dtype == torch.float32),
    ):
        setattr(module, name, value)
    assert kernel_sweep.fused is fused
    ran = count_programs(setattr, **SMALL)
    check_all("cpu")
    print(ran[0])


if __name__ == "__main__":
    main()
