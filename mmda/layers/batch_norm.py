"""Batch normalisation for several domains (DSBN): statistics of their own for each."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import (
    check_count,
    check_floating,
    check_mask,
    check_number,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.masking import full_precision, safe_divide, working_dtype


class Moments(NamedTuple):
    """Of each domain: number of values a channel (k,), their mean and biased variance (k, d)."""

    number: Tensor
    mean: Tensor
    variance: Tensor


def centred(x: Tensor, mask: Tensor | None, belongs: Tensor, domain: Tensor | int) -> tuple[Tensor, Moments]:
    """``x`` (n, d, p) less the mean of its domain, and the moments by domain; ``belongs`` (n, k) is one-hot.

    The mean is taken twice: the second time of what the first has left, so that a large common offset, of which a
    float32 mean keeps few digits, leaves no trace in the centred values.
    """
    shape = (-1, x.shape[1], 1)
    if mask is None:
        number = belongs.sum(0) * x.shape[2]
    else:
        number = mask.sum(1).to(x.dtype) @ belongs

    def means(values: Tensor) -> Tensor:
        return safe_divide(belongs.transpose(0, 1) @ values.sum(2), number.unsqueeze(1))

    def keep(values: Tensor) -> Tensor:
        if mask is None:
            return values
        return torch.where(mask.unsqueeze(1), values, torch.zeros((), dtype=x.dtype, device=x.device))

    first = means(x.detach())
    x = keep(x - first[domain].reshape(shape))
    second = means(x)
    x = keep(x - second[domain].reshape(shape))
    return x, Moments(number, first + second, means(x.square()))


class DomainSpecificBatchNorm(nn.Module):
    """What the three public classes share; they differ in the shapes they take."""

    _axes: ClassVar[dict[int, str]] = {}

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        features: int,
        domains: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_count(name, "features", features)
        check_count(name, "domains", domains)
        check_number(name, "eps", eps, above=0)
        if momentum is not None:
            check_number(name, "momentum", momentum, at_least=0, at_most=1)
        self.features = features
        self.domains = domains
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        size = (domains, features)
        if affine:
            self.weight: nn.Parameter | None = nn.Parameter(torch.ones(size, device=device, dtype=dtype))
            self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        tracked = track_running_stats
        counts = torch.zeros(domains, dtype=torch.long, device=device)
        self.register_buffer("running_mean", torch.zeros(size, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", torch.ones(size, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", counts if tracked else None)

    def forward(self, x: Tensor, domain: int | Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Normalise each row by its own domain's statistics; see the class for shapes."""
        domain = self._checked(x, domain, mask)
        if isinstance(domain, int) and mask is None and self._plain(x):
            return self._one_domain(x, domain)
        dtype, shape = working_dtype(x), (-1, self.features, 1)
        with full_precision(x):
            rows, kept = self._flat(x, mask)
            if self.training or self.running_mean is None or self.running_var is None:
                rows, moments = centred(rows, kept, self._belongs(rows, domain), domain)
                variance = moments.variance
                if self.training and self.track_running_stats:
                    self._track(moments)
            else:
                rows = rows - self.running_mean[domain].to(dtype).reshape(shape)
                variance = self.running_var.to(dtype)
            out = rows * (variance + self.eps).rsqrt()[domain].reshape(shape)
            if self.weight is not None and self.bias is not None:
                weight, bias = self.weight.to(dtype), self.bias.to(dtype)
                out = out * weight[domain].reshape(shape) + bias[domain].reshape(shape)
            if kept is not None:
                out = torch.where(kept.unsqueeze(1), out, torch.zeros((), dtype=dtype, device=x.device))
            return out.reshape(x.shape).to(x.dtype)

    def batch_moments(self, x: Tensor, domain: int | Tensor, *, mask: Tensor | None = None) -> Moments:
        """Count, mean and biased variance of this batch, by domain: what training would normalise with."""
        domain = self._checked(x, domain, mask)
        with full_precision(x):
            rows, kept = self._flat(x, mask)
            return centred(rows, kept, self._belongs(rows, domain), domain)[1]

    @staticmethod
    def _flat(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Rows (n, d, p) in the working dtype, zeros on padding, and the mask (n, p)."""
        rows = x.to(working_dtype(x))
        rows = rows.flatten(2) if x.ndim > 2 else rows.unsqueeze(2)
        if mask is None:
            return rows, None
        kept = mask.reshape(mask.shape[0], -1)
        return torch.where(kept.unsqueeze(1), rows, torch.zeros((), dtype=rows.dtype, device=x.device)), kept

    def extra_repr(self) -> str:
        return (
            f"features={self.features}, domains={self.domains}, eps={self.eps:g}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}"
        )

    def _checked(self, x: Tensor, domain: int | Tensor, mask: Tensor | None) -> int | Tensor:
        """The domain as an int, or as indices of int64 that fail where a negative one is meant; of padding, zeros."""
        name = type(self).__name__
        check_floating(name, "x", x)
        if x.ndim not in self._axes:
            fail(name, "x", "have shape " + " or ".join(self._axes.values()), shape_text(x))
        if x.shape[1] != self.features:
            fail(name, "x", f"have {self.features} channels on axis 1", shape_text(x))
        if mask is not None:
            check_mask(name, "mask", mask, (x.shape[0], *x.shape[2:]))
        if isinstance(domain, Tensor):
            if domain.is_floating_point() or domain.is_complex() or domain.dtype == torch.bool:
                raise TypeError(f"{name}: `domain` must be an int or an integer tensor, got {domain.dtype}")
            if domain.shape != x.shape[:1]:
                fail(name, "domain", f"have one index a row {tuple(x.shape[:1])}", shape_text(domain))
        elif isinstance(domain, bool) or not isinstance(domain, (int, np.integer)):
            fail_type(name, "domain", "be an int or an integer tensor", domain)
        elif not 0 <= domain < self.domains:
            fail(name, "domain", f"be in 0 .. {self.domains - 1}", domain)
        values = x.shape[0] if mask is None else 2  # a mask is not read: how much it keeps is not known here
        for size in x.shape[2:]:
            values *= size
        if self.training and values < 2:
            fail(name, "x", "hold more than one value a channel in training", shape_text(x))
        if not isinstance(domain, Tensor):
            return int(domain)
        index = domain.long()
        index = torch.where(index < 0, self.domains, index)
        return index if mask is None else torch.where(mask.reshape(mask.shape[0], -1).any(1), index, 0)

    def _plain(self, x: Tensor) -> bool:
        """torch's own kernel computes exactly this case."""
        held = self.running_mean if self.running_mean is not None else self.weight
        return self.momentum is not None and (held is None or held.dtype == x.dtype)

    def _one_domain(self, x: Tensor, domain: int) -> Tensor:
        update = self.training and self.track_running_stats
        mean, var = self.running_mean, self.running_var
        if mean is not None and var is not None and (update or not self.training):
            # Copies: the backward pass keeps them, and a later call writes to the buffers before it comes.
            mean, var = mean[domain].clone(), var[domain].clone()
        else:
            mean = var = None
        with full_precision(x):
            out = F.batch_norm(
                x,
                mean,
                var,
                None if self.weight is None else self.weight[domain],
                None if self.bias is None else self.bias[domain],
                self.training or self.running_mean is None,
                0.0 if self.momentum is None else self.momentum,
                self.eps,
            )
        if update and mean is not None and var is not None:
            self._store(domain, mean, var)
        return out

    @torch.no_grad()
    def _store(self, domain: int, mean: Tensor, var: Tensor) -> None:
        for buffer, value in ((self.running_mean, mean), (self.running_var, var)):
            if buffer is not None:
                buffer[domain].copy_(value)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked[domain].add_(1)

    def _belongs(self, rows: Tensor, domain: int | Tensor) -> Tensor:
        every = torch.arange(self.domains, device=rows.device)
        if isinstance(domain, int):
            return (every == domain).to(rows.dtype).expand(rows.shape[0], -1)
        return (domain.unsqueeze(1) == every).to(rows.dtype)

    @torch.no_grad()
    def _track(self, moments: Moments) -> None:
        mean, var, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or tracked is None:
            return
        seen = moments.number > 1
        tracked.add_(seen)
        one = torch.ones_like(moments.number)
        if self.momentum is None:
            factor = (1 / tracked.clamp(min=1).to(moments.mean.dtype)).unsqueeze(1)
        else:
            factor = self.momentum * one.unsqueeze(1)
        unbiased = moments.variance * (moments.number / torch.where(seen, moments.number - 1, one)).unsqueeze(1)
        for buffer, value in ((mean, moments.mean), (var, unbiased)):
            moved = buffer + factor * (value - buffer)
            buffer.copy_(torch.where(seen.unsqueeze(1), moved, buffer))


class DomainSpecificBatchNorm1d(DomainSpecificBatchNorm):
    r"""Batch normalisation with statistics and affine parameters of its own for each domain, for vectors.

    .. math:: y = \gamma_k \, \frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta_k

    for a row of domain k, with the mean and biased variance of that domain's rows in this batch (training) or its
    running ones (evaluation). Nothing remembers a current domain: it comes with the call,
    ``layer(x, domain, mask=None)``.

    Args:
        features: d, channels.
        domains: K, number of domains.
        eps: :math:`\epsilon > 0`.
        momentum: share of the new batch in the running statistics; None averages over all batches.
        affine: learn :math:`\gamma_k` and :math:`\beta_k`, (K, d).
        track_running_stats: keep running statistics; without them evaluation uses the batch's.
        device: where parameters and buffers live.
        dtype: their dtype.

    Shape:
        ``x`` (n, d) or (n, d, t). ``domain``: an int for the whole batch, or an integer tensor (n,) with one index a
        row. ``mask`` (n,) or (n, t), bool, True = keep. Result as ``x``.

    Returns:
        The normalised rows in the dtype of ``x``, zeros where the mask is False.

    Raises:
        ValueError: wrong shapes, an int outside 0 .. K - 1, a single value a channel in training.
        TypeError: ``domain`` is neither an int nor an integer tensor, a mask that is not bool.

    Notes:
        An index in a tensor is not read on the host: outside 0 .. K - 1, negative ones included, the indexing itself
        fails, on an accelerator as an error of the device. A domain absent from the batch keeps its running
        statistics; so does one of which a batch of several holds a single value a channel, and that value comes out
        as the bias. Half precision is normalised in float32 and comes back as it
        came. Padding enters no statistic, whatever it holds.

    Example:
        >>> import torch
        >>> norm = DomainSpecificBatchNorm1d(1, 2)
        >>> x = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
        >>> norm(x, torch.tensor([0, 0, 1, 1])).flatten().round(decimals=3).tolist()
        [-1.0, 1.0, -1.0, 1.0]

    References:
        Chang, You, Seo, Kwak & Han, "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation",
        CVPR 2019: the DSBN layer.
    """

    _axes: ClassVar[dict[int, str]] = {2: "(samples, channels)", 3: "(samples, channels, time)"}


class DomainSpecificBatchNorm2d(DomainSpecificBatchNorm):
    """:class:`DomainSpecificBatchNorm1d`, which holds formula and arguments, for images.

    Shape:
        ``x`` (n, d, h, w), ``domain`` an int or (n,), ``mask`` (n, h, w); result as ``x``.

    Example:
        >>> import torch
        >>> DomainSpecificBatchNorm2d(3, 2)(torch.randn(4, 3, 5, 5), 1).shape
        torch.Size([4, 3, 5, 5])
    """

    _axes: ClassVar[dict[int, str]] = {4: "(samples, channels, height, width)"}


class DomainSpecificBatchNorm3d(DomainSpecificBatchNorm):
    """:class:`DomainSpecificBatchNorm1d`, which holds formula and arguments, for clips.

    Shape:
        ``x`` (n, d, t, h, w), ``domain`` an int or (n,), ``mask`` (n, t, h, w); result as ``x``.

    Example:
        >>> import torch
        >>> DomainSpecificBatchNorm3d(3, 2)(torch.randn(4, 3, 2, 5, 5), 1).shape
        torch.Size([4, 3, 2, 5, 5])
    """

    _axes: ClassVar[dict[int, str]] = {5: "(samples, channels, time, height, width)"}


__all__ = [
    "DomainSpecificBatchNorm1d",
    "DomainSpecificBatchNorm2d",
    "DomainSpecificBatchNorm3d",
]
