"""Domain-specific batch normalisation (DSBN): separate statistics for each domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import (
    check_count,
    check_floating,
    check_mask,
    check_number,
    check_same_device,
    check_tensor,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.module_checks import check_at_weights
from mmda._core.transforms import is_eager, values_are_known


class Moments(NamedTuple):
    """Per domain: number of values per channel (k,), their mean and biased variance (k, d)."""

    number: Tensor
    mean: Tensor
    variance: Tensor


class _Centred(NamedTuple):
    """Rows (n, d, p) minus a first estimate of their domain's mean, that estimate, and the remaining mean."""

    rows: Tensor
    first: Tensor
    rest: Tensor
    number: Tensor
    variance: Tensor

    @property
    def moments(self) -> Moments:
        return Moments(self.number, self.first + self.rest, self.variance)


def centred(x: Tensor, mask: Tensor | None, belongs: Tensor, domain: Tensor | int) -> _Centred:
    """``x`` (n, d, p) minus an estimate of its domain's mean, and the moments by domain; ``belongs`` (n, k) is one-hot.

    The mean is taken in two passes, the second on the residual of the first, so that the float32 rounding error of a
    large common offset is removed.
    """
    if mask is None:
        number = belongs.sum(0) * x.shape[2]
    else:
        number = mask.sum(1).to(x.dtype) @ belongs

    def means(values: Tensor) -> Tensor:
        return safe_divide(_sums(values, belongs), number.unsqueeze(1))

    first = means(x.detach())
    x = x - of_domain(first, domain).unsqueeze(-1)
    if mask is not None:
        x = torch.where(mask.unsqueeze(1), x, torch.zeros((), dtype=x.dtype, device=x.device))
    rest = means(x)
    return _Centred(x, first, rest, number, (means(x.square()) - rest.square()).clamp(min=0))


def _sums(values: Tensor, belongs: Tensor) -> Tensor:
    """Sums (k, d) of values (n, d, p) by domain."""
    return belongs.transpose(0, 1) @ (values.squeeze(2) if values.shape[2] == 1 else values.sum(2))


def of_domain(table: Tensor, domain: Tensor | int) -> Tensor:
    """Entries (d,) of one domain, or (n, d) of the domain of each row; an index out of range raises."""
    return table[domain] if isinstance(domain, int) else table.index_select(0, domain)


def _normalised(
    found: _Centred, weight: Tensor | None, bias: Tensor | None, domain: Tensor | int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised rows, the scales (k, d) of the centred rows, and 1 / sqrt(variance + eps)."""
    standard = (found.variance + eps).rsqrt()
    scale = standard if weight is None else standard * weight
    shift = -found.rest * scale
    if bias is not None:
        shift = shift + bias
    out = torch.addcmul(of_domain(shift, domain).unsqueeze(-1), found.rows, of_domain(scale, domain).unsqueeze(-1))
    return out, scale, standard


class _Normalise(torch.autograd.Function):
    """Normalise rows (n, d, p) by the moments of their domain; also returns those moments."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        belongs: Tensor,
        domain: Tensor | int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = centred(rows, None, belongs, domain)
        out, scale, standard = _normalised(found, weight, bias, domain, eps)
        ctx.domain, ctx.eps = domain, eps
        ctx.save_for_backward(rows, weight, bias, belongs, found.rows, found.rest, found.number, scale, standard)
        moments = found.moments
        ctx.mark_non_differentiable(*moments)
        return out, *moments

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, domain = gradients[0], ctx.domain
        rows, weight, bias, belongs, x, rest, number, scale, standard = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivative: differentiate the operations
            out = _normalised(centred(rows, None, belongs, domain), weight, bias, domain, ctx.eps)[0]
            wanted = [t for t, need in zip((rows, weight, bias), ctx.needs_input_grad) if need]
            found = iter(torch.autograd.grad(out, wanted, g, create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:3]), None, None, None
        of_g, of_product = _sums(g, belongs), _sums(g * x, belongs)
        on_weight = standard * (of_product - rest * of_g)
        share = safe_divide(scale, number.unsqueeze(1))
        slope = -share * standard * on_weight
        level = -share * of_g - slope * rest
        on_rows = torch.addcmul(of_domain(level, domain).unsqueeze(-1), g, of_domain(scale, domain).unsqueeze(-1))
        on_rows = on_rows.addcmul_(x, of_domain(slope, domain).unsqueeze(-1))
        return on_rows, None if weight is None else on_weight, None if bias is None else of_g, None, None, None


class DomainSpecificBatchNorm(nn.Module):
    """Base of the three public classes, which differ only in their input shapes."""

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
        """Normalise each row by the statistics of its domain; see the class for shapes."""
        domain = self._checked(x, domain, mask)
        if isinstance(domain, int) and mask is None and self._plain(x):
            return self._one_domain(x, domain)
        dtype = working_dtype(x)
        with full_precision(x):
            if isinstance(domain, Tensor) and mask is None and self.training and self._known(x, domain):
                return self._by_parts(x.to(dtype), domain).to(x.dtype)
            rows, kept = self._flat(x, mask)
            if self.training or self.running_mean is None or self.running_var is None:
                if kept is None and is_eager(rows, self.weight, self.bias):
                    return self._by_batch(rows, domain).reshape(x.shape).to(x.dtype)
                found = centred(rows, kept, self._belongs(rows, domain), domain)
                rows, mean, variance = found.rows, found.rest, found.variance
                if self.training and self.track_running_stats:
                    self._track(found.moments)
            else:
                rows = rows - of_domain(self.running_mean.to(dtype), domain).unsqueeze(-1)
                mean, variance = None, self.running_var.to(dtype)
            scale = (variance + self.eps).rsqrt()
            shift = None if mean is None else -mean * scale
            if self.weight is not None and self.bias is not None:
                weight, bias = self.weight.to(dtype), self.bias.to(dtype)
                scale, shift = scale * weight, bias if shift is None else torch.addcmul(bias, shift, weight)
            factor = of_domain(scale, domain).unsqueeze(-1)
            if shift is None:
                out = rows * factor
            else:
                out = torch.addcmul(of_domain(shift, domain).unsqueeze(-1), rows, factor)
            if kept is not None:
                out = torch.where(kept.unsqueeze(1), out, torch.zeros((), dtype=dtype, device=x.device))
            return out.reshape(x.shape).to(x.dtype)

    if TYPE_CHECKING:
        __call__ = forward

    def _known(self, x: Tensor, domain: Tensor) -> bool:
        """Whether a CPU may read the domains, and PyTorch's batch norm has the types of this layer."""
        held = self.running_mean if self.running_mean is not None else self.weight
        if x.device.type != "cpu" or (held is not None and held.dtype != working_dtype(x)):
            return False
        return values_are_known(x, domain) and is_eager(self.weight, self.bias)

    def _by_parts(self, x: Tensor, domain: Tensor) -> Tensor:
        """Training forward by PyTorch's batch norm of each domain's rows, minus the first of them for accuracy."""
        ordered, order = domain.sort(stable=True)
        if int(ordered[0]) < 0 or int(ordered[-1]) >= self.domains:
            raise IndexError(f"{type(self).__name__}: `domain` is out of range 0 .. {self.domains - 1}")
        sizes = ordered.bincount(minlength=self.domains).tolist()
        nothing: list[Tensor | None] = [None] * self.domains
        weights, biases = (nothing if t is None else t.unbind(0) for t in (self.weight, self.bias))
        # Updated in place past PyTorch's check for earlier graphs, which do not read them.
        means, variances = (nothing if t is None else t.data.unbind(0) for t in (self.running_mean, self.running_var))
        parts, momentum, seen = [], self.momentum or 0.0, [size * x[0, 0].numel() > 1 for size in sizes]
        if self.num_batches_tracked is not None:
            tracked = self.num_batches_tracked.add_(self.num_batches_tracked.new_tensor(seen)).tolist()
        for k, part in enumerate(x.index_select(0, order).split(sizes)):  # type: ignore[no-untyped-call]
            if sizes[k] == 0:
                continue
            first = part.detach().view(sizes[k], self.features, -1)[0, :, 0]
            running, mean = means[k] if seen[k] else None, None
            if running is not None:
                mean = running - first
                momentum = 1 / tracked[k] if self.momentum is None else momentum
            part = part - first.view(-1, *(1,) * (x.ndim - 2))
            held = (mean, None if mean is None else variances[k])
            parts.append(torch.batch_norm(part, weights[k], biases[k], *held, True, momentum, self.eps, False))
            if running is not None and mean is not None:
                torch.add(mean, first, out=running)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0]))
        return torch.cat(parts).index_select(0, back)

    def _by_batch(self, rows: Tensor, domain: Tensor | int) -> Tensor:
        """Training forward by a custom autograd function, which halves the passes over the rows."""
        weight, bias = (None if table is None else table.to(rows.dtype) for table in (self.weight, self.bias))
        belongs = self._belongs(rows, domain)
        out, number, mean, variance = _Normalise.apply(rows, weight, bias, belongs, domain, self.eps)  # type: ignore[no-untyped-call]
        if self.training and self.track_running_stats:
            self._track(Moments(number, mean, variance))
        return cast(Tensor, out)

    def batch_moments(self, x: Tensor, domain: int | Tensor, *, mask: Tensor | None = None) -> Moments:
        """Count, mean and biased variance of this batch by domain, as used for normalisation in training."""
        domain = self._checked(x, domain, mask)
        with full_precision(x):
            rows, kept = self._flat(x, mask)
            return centred(rows, kept, self._belongs(rows, domain), domain).moments

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
        """The domain as an int, or as int64 indices: negative ones become out of range, those of padding rows 0."""
        name = type(self).__name__
        check_floating(name, "x", x)
        if x.ndim not in self._axes:
            fail(name, "x", "have shape " + " or ".join(self._axes.values()), shape_text(x))
        if x.shape[1] != self.features:
            fail(name, "x", f"have {self.features} channels on axis 1", shape_text(x))
        for held in (self.weight, self.running_mean):
            if held is not None:
                check_at_weights(name, "x", x, held)
        if mask is not None:
            check_mask(name, "mask", mask, (x.shape[0], *x.shape[2:]), device=x.device)
        if isinstance(domain, Tensor):
            check_tensor(name, "domain", domain)
            check_same_device(name, "x", x, "domain", domain)
            if domain.is_floating_point() or domain.is_complex() or domain.dtype == torch.bool:
                raise TypeError(f"{name}: `domain` must be an int or an integer tensor, got {domain.dtype}")
            if domain.shape != x.shape[:1]:
                fail(name, "domain", f"have one index per row {tuple(x.shape[:1])}", shape_text(domain))
        elif isinstance(domain, bool) or not isinstance(domain, (int, np.integer)):
            fail_type(name, "domain", "be an int or an integer tensor", domain)
        elif not 0 <= domain < self.domains:
            fail(name, "domain", f"be in 0 .. {self.domains - 1}", domain)
        values = x.shape[0] if mask is None else 2  # the values of a mask are not read
        for size in x.shape[2:]:
            values *= size
        if self.training and values < 2:
            fail(name, "x", "hold more than one value per channel in training", shape_text(x))
        if not isinstance(domain, Tensor):
            return int(domain)
        if mask is None and self.training and self._known(x, domain):
            return domain
        index = domain.long()
        index = torch.where(index < 0, self.domains, index)
        return index if mask is None else torch.where(mask.reshape(mask.shape[0], -1).any(1), index, 0)

    def _plain(self, x: Tensor) -> bool:
        """Whether ``F.batch_norm`` computes exactly this case."""
        held = self.running_mean if self.running_mean is not None else self.weight
        return self.momentum is not None and (held is None or held.dtype == x.dtype)

    def _one_domain(self, x: Tensor, domain: int) -> Tensor:
        update = self.training and self.track_running_stats
        mean, var = self.running_mean, self.running_var
        if mean is not None and var is not None and (update or not self.training):
            # Copies, because the backward pass needs them after a later call may have changed the buffers.
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
    r"""Batch normalisation with separate statistics and affine parameters for each domain, for vectors.

    .. math:: y = \gamma_k \, \frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta_k

    for a row of domain k, with the mean and biased variance of that domain's rows in this batch (training) or the
    running statistics (evaluation). The layer stores no current domain; pass it in the call, ``layer(x, domain,
    mask=None)``.

    Args:
        features: d, channels.
        domains: K, number of domains.
        eps: :math:`\epsilon > 0`.
        momentum: weight of the new batch in the running statistics; None averages over all batches.
        affine: learn :math:`\gamma_k` and :math:`\beta_k`, (K, d).
        track_running_stats: keep running statistics; without them evaluation uses the batch's.
        device: device of parameters and buffers.
        dtype: their dtype.

    Shape:
        ``x`` (n, d) or (n, d, t). ``domain``: an int for the whole batch, or an integer tensor (n,) with one index per
        row. ``mask`` (n,) or (n, t), bool, True = keep. Result as ``x``.

    Returns:
        The normalised rows in the dtype of ``x``, zeros where the mask is False.

    Raises:
        ValueError: wrong shapes, an int outside 0 .. K - 1, a single value per channel in training.
        TypeError: ``domain`` is neither an int nor an integer tensor, a mask that is not bool.

    Notes:
        The values of an index tensor are not checked on the host: one outside 0 .. K - 1, negative ones included,
        raises an indexing error, on an accelerator a device-side one. A domain absent from the batch keeps its running
        statistics. So does a domain with a single value per channel in a batch of several domains; the output for that
        value is the bias. Half precision is normalised in float32 and returned in half precision. Padding never affects
        the statistics.

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
    """:class:`DomainSpecificBatchNorm1d`, which documents formula and arguments, for images.

    Shape:
        ``x`` (n, d, h, w), ``domain`` an int or (n,), ``mask`` (n, h, w); result as ``x``.

    Example:
        >>> import torch
        >>> DomainSpecificBatchNorm2d(3, 2)(torch.randn(4, 3, 5, 5), 1).shape
        torch.Size([4, 3, 5, 5])
    """

    _axes: ClassVar[dict[int, str]] = {4: "(samples, channels, height, width)"}


class DomainSpecificBatchNorm3d(DomainSpecificBatchNorm):
    """:class:`DomainSpecificBatchNorm1d`, which documents formula and arguments, for clips.

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
