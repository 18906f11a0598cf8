"""Kernel matrices whose gradient is computed analytically, in a third of the operations that autograd would take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmda._core.masking import full_precision
from mmda._core.transforms import is_eager, values_are_known
from mmda._engine.kernel_sweep import HARMLESS
from mmda._engine.kernel_tiles import FormulaOnTiles, formula_on_tiles
from mmda.kernels import NEAR_FLOAT32, Kernel, distances_about, formula_of


def kernel_matrix(kernel: Kernel, centre: Tensor, rows: Tensor, bandwidth: Tensor) -> Tensor:
    """k(x_i, x_j) of rows (n, d) with themselves (n, n).

    Equal to ``kernel.evaluate(distances_about(centre, rows, rows, same=True), bandwidth)``, which is used for kernels
    without a formula, bandwidths that require a gradient, transforms, compiled graphs, second derivatives, and rows so
    close to each other that inner products are inaccurate.
    """
    formula = formula_of(kernel)
    learns = torch.is_grad_enabled() and bandwidth.requires_grad
    if formula is not None and not learns and is_eager(rows, bandwidth) and values_are_known(rows):
        made = _values_and_slopes(formula_on_tiles(formula), centre.detach(), rows.detach(), bandwidth.detach())
        if made is not None:
            value, slope, z, inverse = made
            value.fill_diagonal_(kernel.at_zero)
            if not (rows.requires_grad and torch.is_grad_enabled()):
                return value
            matrix: Tensor = _KernelMatrix.apply(
                rows, value, slope, z, inverse, centre.detach(), bandwidth.detach(), kernel
            )  # type: ignore[no-untyped-call]
            return matrix
    return kernel.evaluate(distances_about(centre, rows, rows, same=True), bandwidth)


def _values_and_slopes(
    kernel: FormulaOnTiles, centre: Tensor, rows: Tensor, bandwidth: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """k, dk / dt with t = -|z_i - z_j|^2, the scaled rows z, and the factor of the rows; None with near pairs."""
    assert kernel.stretch is not None
    inverse = bandwidth.reciprocal() * kernel.stretch
    z = (rows - centre).mul_(inverse)
    norms = torch.linalg.vecdot(z, z).neg_()
    t = norms.unsqueeze(1) + norms
    harmless = kernel.steepest is not None and -float(norms.min()) * kernel.steepest <= HARMLESS
    if not harmless and rows.dtype != torch.float32:
        return None
    limits = None if harmless else t * NEAR_FLOAT32
    t.addmm_(z, z.T, alpha=2)
    if limits is not None:
        near = t > limits
        if bool(near.fill_diagonal_(False).any()):
            return None
    value, slope = kernel.both(t.clamp_(max=0)).unbind(0)
    return value.mul_(kernel.value_factor), slope, z, inverse * (2 * kernel.slope_factor)


class _KernelMatrix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        value: Tensor,
        slope: Tensor,
        z: Tensor,
        scale: Tensor,
        centre: Tensor,
        bandwidth: Tensor,
        kernel: Kernel,
    ) -> Tensor:
        ctx.save_for_backward(rows, slope, z, scale, centre, bandwidth)
        ctx.kernel = kernel
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, slope, z, scale, centre, bandwidth = ctx.saved_tensors
        (grad,) = gradients
        if torch.is_grad_enabled():
            with full_precision(rows):
                alias = rows.view_as(rows)
                value = ctx.kernel.evaluate(distances_about(centre, alias, alias, same=True), bandwidth)
                return (torch.autograd.grad(value, alias, grad, create_graph=True)[0], *[None] * 7)
        g = grad * slope
        g = g + g.T
        g.diagonal().sub_(g.sum(1))
        return (torch.mm(g, z).mul_(scale), *[None] * 7)
