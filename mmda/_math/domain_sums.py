"""Squared MMDs between several domains as one weighted sum over all pairs of rows, given a common bandwidth.

A loss that is a squared MMD is registered with :func:`is_kernel_sum`; :func:`kernel_sum_of` looks it up.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.counts import pooled_centre
from mmda._core.masking import safe_divide
from mmda._core.rows import zero_uncounted
from mmda._core.transforms import values_are_known
from mmda._engine.kernel_sums import absorb_bandwidth
from mmda._engine.kernel_sweep import Samples, can_stream, pair_sum
from mmda.kernels import Kernel, formula_of


class KernelSum(NamedTuple):
    """A discrepancy that is ``factor`` times a squared MMD."""

    kernel: Kernel
    estimator: str
    factor: float = 1.0
    block_size: int | None = None


_MODULES: dict[type[nn.Module], Callable[[Any], KernelSum]] = {}
_FUNCTIONS: dict[Callable[..., Tensor], KernelSum] = {}


def is_kernel_sum(
    function: Callable[..., Tensor], plain: KernelSum, module: type[nn.Module], of: Callable[[Any], KernelSum]
) -> None:
    """Register a loss: its function with default settings, and how to derive the sum from its module."""
    _FUNCTIONS[function], _MODULES[module] = plain, of


def kernel_sum_of(discrepancy: object) -> KernelSum | None:
    """The kernel sum of a discrepancy, or None if it is not registered or its bandwidth depends on the samples."""
    found: KernelSum | None = None
    if isinstance(discrepancy, nn.Module):  # not a subclass, and without hooks
        if type(discrepancy) in _MODULES and not (discrepancy._forward_hooks or discrepancy._forward_pre_hooks):
            found = _MODULES[type(discrepancy)](discrepancy)
    elif isinstance(discrepancy, FunctionType):
        found = _FUNCTIONS.get(discrepancy)
    if found is None or found.estimator not in ("biased", "unbiased") or formula_of(found.kernel) is None:
        return None
    return None if isinstance(getattr(found.kernel, "bandwidth", None), str) else found


def mean_over_comparisons(
    rows: Tensor, member: Tensor, sides: tuple[Tensor, Tensor], chosen: Tensor, how: KernelSum
) -> Tensor | None:
    """Mean over the chosen comparisons c of ``how`` between rows of weights M s_c and rows of weights M t_c.

    The coefficient matrices of all comparisons add up to one of the rank of M, so this is one sum over all pairs of
    rows.

    Args:
        rows: (n, d) in the working dtype.
        member: M (n, q), weight of each row in each domain; detached.
        sides: s and t, (comparisons, q), float64.
        chosen: bool (comparisons,), the comparisons to average.
        how: the discrepancy.

    Returns:
        Scalar; zero if no comparison is chosen; None if tiles cannot be used.
    """
    member = member.detach()
    counted = member.sum(1)
    rows = zero_uncounted(rows, counted, None)
    if values_are_known(rows, member) and not bool(counted.all()):
        kept = counted.nonzero().squeeze(1)
        rows, member = rows.index_select(0, kept), member.index_select(0, kept)
    if rows.shape[0] < 2:
        return None
    half = rows.shape[0] // 2
    x, y = torch.split(rows, [half, rows.shape[0] - half])
    x, y, bandwidth = absorb_bandwidth(how.kernel, x, y, how.kernel.settle(rows))
    if not can_stream(how.kernel, (rows,), (member, bandwidth)):
        return None
    masses = member.sum(0, dtype=torch.float64)
    s, t = sides
    s_mass, t_mass = s @ masses, t @ masses
    unbiased = how.estimator == "unbiased"
    least = 1.0 if unbiased else 0.0
    # A comparison with too few rows in a sample is zero, as for the discrepancy itself.
    share = safe_divide((chosen & (s_mass > least) & (t_mass > least)).double(), chosen.sum().double())
    within_s, within_t = (safe_divide(share, mass.square() - unbiased * mass) for mass in (s_mass, t_mass))
    across = s.T @ (safe_divide(share, s_mass * t_mass).unsqueeze(1) * t)
    factors = s.T @ (within_s.unsqueeze(1) * s) + t.T @ (within_t.unsqueeze(1) * t) - across - across.T
    # The pairs i = j. Copies of a row are pairs of equal rows; the unbiased estimator excludes each copy with itself.
    own = (factors.diagonal() * member.double().square().sum(0)).sum()
    if unbiased:
        own = own - (within_s * s_mass + within_t * t_mass).sum()
    left = member @ factors.to(member.dtype)
    centre = pooled_centre(x, y, member[:half].sum(1), member[half:].sum(1))
    plus = how.kernel.at_zero * own
    samples = Samples(x, y, torch.cat((left, left), 1), member, bandwidth.detach(), centre, plus)
    return how.factor * pair_sum(samples, how.kernel, block_size=how.block_size)
