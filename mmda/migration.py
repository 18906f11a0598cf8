"""Losses that reproduce the values of other libraries.

Libraries compute different numbers under the same name. Each constructor here builds a module that reproduces the value
and gradient of one library, including its documented peculiarities, so that a training run can be moved here with the
same loss curve and change the convention deliberately later. New projects do not need this module.

Checked against pytorch-adapt 0.0.83 and skada 0.6.0 as installed, and against the published source of tllib, in
float64. These libraries have no masks or weights, so neither do these modules. Where they divide by zero (a batch whose
reference distance is zero) and return NaN, these modules stay finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmda._core.checks import (
    check_choice,
    check_features,
    check_number,
    check_same_shape,
    check_same_width,
    check_sequence,
    fail,
    shape_text,
)
from mmda._core.masking import full_precision, working_dtype
from mmda.kernels import Gaussian, _defined, mean_bandwidth, squared_distances
from mmda.losses import coral_loss, mmd_loss

#: The 33 factors 2^-8, 2^-7.5, ..., 2^8: pytorch-adapt's ``get_kernel_scales()``, and skada's default.
POWERS_OF_TWO = tuple(2.0 ** (-8 + i / 2) for i in range(33))


def pytorch_adapt_mmd(
    *,
    kernel_scales: float | Sequence[float] | Tensor = 1.0,
    mmd_type: Literal["linear", "quadratic"] = "linear",
    bandwidth: float | None = None,
) -> nn.Module:
    r"""``pytorch_adapt.layers.MMDLoss``: squared MMD with a bandwidth from the source only.

    .. math:: k(x, y) = \frac{1}{|C|} \sum_{c \in C} \exp\left(-c\, \frac{\lVert x - y \rVert^2}{h}\right)

    Peculiarities:

    * h is the median of the *squared* distances within the source, including the zero diagonal and taking the lower of
      the two middle values; the target is not used. It is detached. :class:`~mmda.kernels.Gaussian` uses the pooled
      sample without the diagonal.
    * The parameters act inversely: doubling a kernel scale halves the variance. In the terms of this library
      :math:`\sigma^2 = h / 2` and the scales are 1 / c.
    * If h is zero (always for two source rows, because two of the four distances are on the diagonal) all similarities
      between different rows vanish, and the value is zero.
    * Lists of layers give the joint MMD: the kernel is the product of the layers' averaged kernels, each with its own
      h.
    * The default is the linear-time estimator (equal sizes, disjoint pairs) with one kernel; ``"quadratic"`` is the
      unbiased one.

    Args:
        kernel_scales: C, a number, a sequence or a tensor; ``POWERS_OF_TWO`` is the library's ``get_kernel_scales()``.
        mmd_type: ``"linear"`` or ``"quadratic"``.
        bandwidth: h, a squared distance; ``None`` for the median.

    Returns:
        A module called as ``loss(source, target)``, with features or lists of features, one per layer.

    Raises:
        ValueError: no scale, a scale or bandwidth that is not positive, an unknown type.

    Example:
        >>> import torch
        >>> loss = pytorch_adapt_mmd(kernel_scales=POWERS_OF_TWO, mmd_type="quadratic")
        >>> loss(torch.eye(4), torch.eye(4) + 1.0).shape
        torch.Size([])
    """
    check_choice("pytorch_adapt_mmd", "mmd_type", mmd_type, ("linear", "quadratic"))
    if isinstance(kernel_scales, Tensor):
        if kernel_scales.ndim > 1:
            fail("pytorch_adapt_mmd", "kernel_scales", "have at most one axis", shape_text(kernel_scales))
        kernel_scales = kernel_scales.tolist()
    if isinstance(kernel_scales, (int, float)):
        kernel_scales = (float(kernel_scales),)
    check_sequence("pytorch_adapt_mmd", "kernel_scales", kernel_scales, "scale")
    for scale in kernel_scales:
        check_number("pytorch_adapt_mmd", "kernel_scales", scale, above=0)
    if bandwidth is not None:
        check_number("pytorch_adapt_mmd", "bandwidth", bandwidth, above=0)
    return _PytorchAdaptMMD(tuple(kernel_scales), mmd_type, bandwidth)


class _PytorchAdaptMMD(nn.Module):
    def __init__(self, kernel_scales: tuple[float, ...], mmd_type: str, bandwidth: float | None) -> None:
        super().__init__()
        self.kernel_scales, self.mmd_type, self.bandwidth = kernel_scales, mmd_type, bandwidth

    def forward(self, source: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        layers = [[side] if isinstance(side, Tensor) else side for side in (source, target)]
        for side, name in zip(layers, ("source", "target")):
            check_sequence("pytorch_adapt_mmd", name, side, "layer")
            for layer in side:
                check_features("pytorch_adapt_mmd", name, layer)
        if len(layers[0]) != len(layers[1]):
            fail("pytorch_adapt_mmd", "target", f"have as many layers as `source` ({len(layers[0])})", len(layers[1]))
        found = [self._kernel(x) for x in layers[0]]
        value = self._single if len(found) == 1 else self._joint
        distance = torch.stack([median for median, _ in found]).amin()
        total = value(layers[0], layers[1], [kernel for _, kernel in found])
        return torch.where(distance > 0, total, 0 * total)

    def _kernel(self, source: Tensor) -> tuple[Tensor, Gaussian]:
        """h of a layer and its kernel."""
        with full_precision(source):
            squared = squared_distances(source.detach()).median()
        if self.bandwidth is not None:
            squared = torch.full_like(squared, self.bandwidth)
        sigma = _defined((squared / 2).sqrt())
        return squared, Gaussian(sigma, scales=[1 / c for c in self.kernel_scales])

    def _single(self, source: Sequence[Tensor], target: Sequence[Tensor], kernels: Sequence[Gaussian]) -> Tensor:
        estimator: Literal["linear", "unbiased"] = "linear" if self.mmd_type == "linear" else "unbiased"
        return mmd_loss(source[0], target[0], kernel=kernels[0], estimator=estimator)

    def _joint(self, source: Sequence[Tensor], target: Sequence[Tensor], kernels: Sequence[Gaussian]) -> Tensor:
        """Products of kernels over the layers, for all pairs of rows or for disjoint pairs."""
        linear = self.mmd_type == "linear"
        within_x: Tensor | float = 1.0
        within_y: Tensor | float = 1.0
        across: Tensor | float = 1.0
        for x, y, kernel in zip(source, target, kernels):
            check_same_width("pytorch_adapt_mmd", "source", x, "target", y)
            if linear:
                check_same_shape("pytorch_adapt_mmd", "source", x, "target", y)
            with full_precision(x):
                dtype = working_dtype(x, y)
                x, y = x.to(dtype), y.to(dtype)
                bandwidth = kernel.settle(x)
                if linear:
                    even, odd = (slice(k, len(x) // 2 * 2, 2) for k in (0, 1))
                    pairs = (x[even] - x[odd], y[even] - y[odd], torch.stack([x[even] - y[odd], x[odd] - y[even]]))
                    one, two, both = (kernel.evaluate(gap.square().sum(-1), bandwidth) for gap in pairs)
                else:
                    grams = (squared_distances(x), squared_distances(y), squared_distances(x, y))
                    one, two, both = (kernel.evaluate(squared, bandwidth) for squared in grams)
            within_x, within_y, across = within_x * one, within_y * two, across * both
        assert isinstance(within_x, Tensor)
        assert isinstance(within_y, Tensor)
        assert isinstance(across, Tensor)
        if linear:
            return within_x.mean() + within_y.mean() - across.sum(0).mean()
        n, m = len(within_x), len(within_y)
        if min(n, m) < 2:
            fail("pytorch_adapt_mmd", "source" if n < 2 else "target", "have at least 2 samples", min(n, m))
        means = [(gram.sum() - gram.diagonal().sum()) / (k * (k - 1)) for gram, k in ((within_x, n), (within_y, m))]
        return means[0] + means[1] - 2 * across.mean()

    def extra_repr(self) -> str:
        return f"{len(self.kernel_scales)} kernels, mmd_type={self.mmd_type!r}, bandwidth={self.bandwidth}"


def tllib_mmd(*, alphas: Sequence[float] = (0.5, 1.0, 2.0), linear: bool = False) -> nn.Module:
    r"""``tllib.alignment.dan.MultipleKernelMaximumMeanDiscrepancy`` of ``GaussianKernel(alpha)`` modules.

    .. math::

       k(x, y) = \sum_{\alpha} \exp\left(-\frac{\lVert x - y \rVert^2}{2 \alpha \bar d}\right), \qquad
       L = \text{MMD}^2_k + \frac{2}{n - 1}

    Peculiarities:

    * The kernels are *summed*, not averaged: with three kernels value and gradient are three times as large.
    * :math:`\bar d` is the mean squared distance of the pooled sample, including the zero diagonal: (2n - 1) / 2n of
      the off-diagonal mean.
    * The estimator is unbiased (without the diagonals), and 2 / (n - 1) is added, also in the linear form and for any
      number of kernels. The library does so to keep the value positive; two equal domains give about that constant.
    * ``linear`` uses the n overlapping pairs (i, i + 1), cyclically, instead of disjoint ones. With two rows the pairs
      (0, 1) and (1, 0) across the samples are the same two entries, which count once.
    * Sizes must be equal.

    Args:
        alphas: factors on the variance, one per kernel; by default those of the library's example.
        linear: the linear-time form.

    Returns:
        A module called as ``loss(source, target)``.

    Raises:
        ValueError: an alpha that is not positive; at the call, one row or different shapes.

    Example:
        >>> import torch
        >>> loss = tllib_mmd()
        >>> round(loss(torch.eye(5), torch.eye(5) + 2.0).item(), 2)
        3.58
    """
    check_sequence("tllib_mmd", "alphas", alphas, "factor")
    for alpha in alphas:
        check_number("tllib_mmd", "alphas", alpha, above=0)
    return _TllibMMD(tuple(alphas), linear)


def _check_samples(caller: str, source: Tensor, target: Tensor) -> None:
    check_features(caller, "source", source)
    check_features(caller, "target", target)


class _TllibMMD(nn.Module):
    def __init__(self, alphas: tuple[float, ...], linear: bool) -> None:
        super().__init__()
        self.alphas, self.linear = alphas, linear

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _check_samples("tllib_mmd", source, target)
        check_same_shape("tllib_mmd", "source", source, "target", target)
        n = source.shape[0]
        if n < 2:
            fail("tllib_mmd", "source", "have at least 2 samples", tuple(source.shape))
        sigma = mean_bandwidth(torch.cat([source, target])) * math.sqrt((2 * n - 1) / (2 * n))
        kernel = Gaussian(sigma, scales=self.alphas)
        if self.linear and n == 2:
            return self._of_two(source, target, sigma)
        if self.linear:
            source, target = (torch.stack([x, x.roll(-1, 0)], 1).flatten(0, 1) for x in (source, target))
        value = mmd_loss(source, target, kernel=kernel, estimator="linear" if self.linear else "unbiased")
        return len(self.alphas) * value + 2 / (n - 1)

    def _of_two(self, source: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
        """k(x0, x1) + k(y0, y1) - (k(x0, y1) + k(x1, y0)) / 2, summed over the kernels, and 2."""
        with full_precision(source):
            dtype = working_dtype(source, target)
            x, y = source.to(dtype), target.to(dtype)
            gaps = torch.stack([x[0] - x[1], y[0] - y[1], x[0] - y[1], x[1] - y[0]])
            kernel = Gaussian(sigma, scales=self.alphas)
            similar = kernel.evaluate(gaps.square().sum(1), kernel.settle(x)) @ gaps.new_tensor([1, 1, -0.5, -0.5])
        return len(self.alphas) * similar + 2

    def extra_repr(self) -> str:
        return f"alphas={self.alphas}, linear={self.linear}"


def tllib_coral() -> nn.Module:
    r"""``tllib.alignment.coral.CorrelationAlignmentLoss``: covariances and means, without the factor of the paper.

    .. math:: L = \frac{1}{d^2} \lVert C_s - C_t \rVert_F^2 + \frac{1}{d} \lVert \mu_s - \mu_t \rVert^2

    Peculiarity: its documentation states :math:`\lVert C_s - C_t \rVert_F^2 / (4 d^2)`; the code has no 4 and adds the
    means. It is four times :func:`mmda.losses.coral_loss` with ``match_mean=True``.

    Returns:
        A module called as ``loss(source, target)``.

    Example:
        >>> import torch
        >>> tllib_coral()(torch.eye(3), torch.eye(3) + 2.0).item()
        4.0
    """
    return _TllibCORAL()


class _TllibCORAL(nn.Module):
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return 4 * coral_loss(source, target, match_mean=True)


def tllib_warm_start(
    step: int, *, alpha: float = 1.0, lo: float = 0.0, hi: float = 1.0, max_iters: int = 1000
) -> float:
    r"""The strength of ``tllib.modules.grl.WarmStartGradientReverseLayer`` at call number ``step``.

    .. math:: \lambda_i = (h - l) \left(\frac{2}{1 + \exp(-\alpha i / N)} - 1\right) + l

    Peculiarities: with ``auto_step``, as in the library's adversarial losses, the layer counts its forward passes, so
        evaluation advances the schedule. :math:`\alpha` is 1 by default, 10 in the paper: after N steps the strength is
        0.46, not 1. Progress is not clipped and continues beyond N.

    Args:
        step: i, from 0.
        alpha: steepness.
        lo: l, the initial strength.
        hi: h, the strength in the limit.
        max_iters: N, the call at which the progress is one.

    Returns:
        A number for :meth:`mmda.losses.DomainAdversarialLoss.set_strength`.

    Raises:
        ValueError: a negative step, ``max_iters`` that is not positive, a number that is not finite.
        TypeError: an argument that is not a number.

    Example:
        >>> [round(tllib_warm_start(step), 3) for step in (0, 1000, 4000)]
        [0.0, 0.462, 0.964]
    """
    check_number("tllib_warm_start", "step", step, at_least=0)
    for name, value in (("alpha", alpha), ("lo", lo), ("hi", hi)):
        check_number("tllib_warm_start", name, value)
    check_number("tllib_warm_start", "max_iters", max_iters, above=0)
    return (hi - lo) * (2.0 / (1.0 + math.exp(-alpha * step / max_iters)) - 1.0) + lo


def skada_dan(*, sigmas: Sequence[float] | None = None, eps: float = 1e-7) -> nn.Module:
    r"""``skada.deep.losses.dan_loss``: a sum of Laplacian kernels, biased, scaled by the source's median distance.

    .. math:: k(x, y) = \sum_{j} \exp\left(-\frac{\lVert x - y \rVert}{\sigma_j}\right)

    Peculiarities:

    * The distance is *not squared*, so the kernel that the library calls Gaussian is a Laplacian.
    * The kernels, 33 by default, are summed: the value lies in [0, 66].
    * By default :math:`\sigma_j = 2^{-8 + j / 2} (m + \epsilon)`, m the lower median of the distances within the source
      including the zero diagonal. It is *not detached*: the gradient flows through the bandwidth, here too.
    * The estimator is the biased one.
    * Above 25 rows its distances come from a matrix product (``torch.cdist``), whose float32 rounding errors between
      equal rows are up to 1e-3. They affect the narrow kernels in the third digit of value and gradient, so the same
      distances are used here: in float32 the value agrees with the library's to 1e-5 and the gradient to 2e-3 (1e-4 up
      to 25 rows). Its default only accepts float32 features.

    Args:
        sigmas: :math:`\sigma_j`, distances; ``None`` for the default.
        eps: :math:`\epsilon`.

    Returns:
        A module called as ``loss(source, target)``.

    Raises:
        ValueError: no sigma, one that is not positive, a negative eps.

    Example:
        >>> import torch
        >>> loss = skada_dan(sigmas=[1.0])
        >>> round(loss(torch.eye(3), torch.eye(3) + 9.0).item(), 3)  # far apart: only the diagonals remain
        0.991
    """
    if sigmas is not None:
        check_sequence("skada_dan", "sigmas", sigmas, "distance")
        for sigma in sigmas:
            check_number("skada_dan", "sigmas", sigma, above=0)
    check_number("skada_dan", "eps", eps, at_least=0)
    return _SkadaDAN(None if sigmas is None else tuple(sigmas), eps)


def _mean_of_laplacians(distances: Tensor, sigmas: Tensor) -> Tensor:
    """Mean over all pairs of the sum over sigma of exp(-d / sigma)."""
    return torch.exp(-(1 / sigmas).unsqueeze(1) * distances.reshape(1, -1)).sum(0).mean()


class _SkadaDAN(nn.Module):
    def __init__(self, sigmas: tuple[float, ...] | None, eps: float) -> None:
        super().__init__()
        self.sigmas, self.eps = sigmas, eps

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _check_samples("skada_dan", source, target)
        check_same_width("skada_dan", "source", source, "target", target)
        with full_precision(source):
            dtype = working_dtype(source, target)
            x, y = source.to(dtype), target.to(dtype)
            within_x = torch.cdist(x, x)
            if self.sigmas is not None:
                sigmas: Tensor = x.new_tensor(self.sigmas)
            else:
                sigmas = x.new_tensor(POWERS_OF_TWO) * _defined(within_x.median() + self.eps)
            value = _mean_of_laplacians(within_x, sigmas) + _mean_of_laplacians(torch.cdist(y, y), sigmas)
            return value - 2 * _mean_of_laplacians(torch.cdist(x, y), sigmas)

    def extra_repr(self) -> str:
        return f"sigmas={self.sigmas}, eps={self.eps}"


__all__ = [
    "POWERS_OF_TWO",
    "pytorch_adapt_mmd",
    "skada_dan",
    "tllib_coral",
    "tllib_mmd",
    "tllib_warm_start",
]
