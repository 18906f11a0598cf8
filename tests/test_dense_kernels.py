"""Kernel matrices with analytic gradients against the dense formula, its gradient and its second derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmda._engine import dense_kernels as module
from mmda._engine.dense_kernels import kernel_matrix
from mmda.kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic, distances_about

KERNELS = [Gaussian(3.0), Gaussian(2.0, scales=(1.0, 3.0)), Laplacian(2.0), RationalQuadratic(2.0, alpha=1.5), Energy()]


def rows(n: int = 12) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 5


def formula(kernel: Kernel, x: Tensor) -> Tensor:
    return kernel.evaluate(distances_about(x.detach().mean(0), x, x, same=True), kernel.settle(x))


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_equal_to_the_formula(kernel: Kernel) -> None:
    factors = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    firsts, seconds = [], []
    for compute in (formula, lambda k, x: kernel_matrix(k, x.detach().mean(0), x, k.settle(x))):
        x = rows().requires_grad_()
        value = compute(kernel, x)
        torch.testing.assert_close(value, formula(kernel, x), rtol=1e-12, atol=1e-13)
        firsts.append(torch.autograd.grad((value * factors).sum(), x, retain_graph=True)[0])
        (slope,) = torch.autograd.grad((value * factors).sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(firsts[1], firsts[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seconds[1], seconds[0], rtol=1e-10, atol=1e-12)


def test_the_analytic_gradient_is_taken_where_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not used for near rows far from the centre or learnable bandwidths: there the dense formula is accurate."""
    taken = []
    apply = module._KernelMatrix.apply
    monkeypatch.setattr(module._KernelMatrix, "apply", lambda *a: taken.append(1) or apply(*a))
    x = rows().float()
    kernel_matrix(KERNELS[0], x.mean(0), x.requires_grad_(), torch.tensor(3.0))
    assert len(taken) == 1
    far = torch.cat([x.detach(), x.detach()[:1] + 1e4, x.detach()[:1] + 1e4 + 1e-2]).requires_grad_()
    found = kernel_matrix(KERNELS[0], far.detach().mean(0), far, torch.tensor(3.0))
    torch.testing.assert_close(found.double(), formula(KERNELS[0], far.double()), rtol=1e-5, atol=1e-6)
    learned = torch.tensor(3.0, requires_grad=True)
    assert torch.autograd.grad(kernel_matrix(KERNELS[0], x.detach().mean(0), x, learned).sum(), learned)[0] > 0
    assert len(taken) == 1
