"""Squared MMDs between several domains as one weighted sum over all pairs of rows, where one bandwidth serves them all.

A loss that is a squared MMD says so with :func:`is_kernel_sum`; what compares domains asks :func:`kernel_sum_of`.
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
    """Declare a loss: what its function is without options, and how to tell what its module is."""
    _FUNCTIONS[function], _MODULES[module] = plain, of


def kernel_sum_of(discrepancy: object) -> KernelSum | None:
    """The sum that a discrepancy is, if it is known to be one whose bandwidth is the same whatever the samples."""
    found: KernelSum | None = None
    if isinstance(discrepancy, nn.Module):  # this very class, and nothing that hangs on its call
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
    """Mean over the chosen comparisons c of ``how`` between the rows with counts M s_c and those with counts M t_c.

    With C the sum of the comparisons' matrices of coefficients, of the rank of M, it is one sum over the pairs of rows.

    Args:
        rows: (n, d) in the working dtype.
        member: M (n, q), how often each row counts in each domain; detached.
        sides: s and t, (comparisons, q), float64.
        chosen: bool (comparisons,), which comparisons the mean is over.
        how: the discrepancy.

    Returns:
        Scalar; zero where no comparison is chosen; None where the pairs cannot be swept by tiles.
    """
    member = member.detach()
    counted = member.sum(1)
    rows = zero_uncounted(rows, counted, None)
    if values_are_known(rows, member) and not bool(counted.all()):
        kept = counted.nonzero().squeeze(1)
        rows, member = rows.index_select(0, kept), member.index_select(0, kept)
    if rows.shape[0] < 2:
        return None
    bandwidth = how.kernel.settle(rows)
    if not can_stream(how.kernel, (rows,), (member, bandwidth)):
        return None
    masses = member.sum(0, dtype=torch.float64)
    s, t = sides
    s_mass, t_mass = s @ masses, t @ masses
    unbiased = how.estimator == "unbiased"
    least = 1.0 if unbiased else 0.0
    # A side with too few rows makes a comparison zero, as the discrepancy itself does.
    share = safe_divide((chosen & (s_mass > least) & (t_mass > least)).double(), chosen.sum().double())
    within_s, within_t = (safe_divide(share, mass.square() - unbiased * mass) for mass in (s_mass, t_mass))
    across = s.T @ (safe_divide(share, s_mass * t_mass).unsqueeze(1) * t)
    factors = s.T @ (within_s.unsqueeze(1) * s) + t.T @ (within_t.unsqueeze(1) * t) - across - across.T
    # The pairs i = j; copies of a row are pairs of equal rows, but for each with itself without bias.
    own = (factors.diagonal() * member.double().square().sum(0)).sum()
    if unbiased:
        own = own - (within_s * s_mass + within_t * t_mass).sum()
    left = member @ factors.to(member.dtype)
    half = rows.shape[0] // 2
    x, y = torch.split(rows, [half, rows.shape[0] - half])
    centre = pooled_centre(x, y, member[:half].sum(1), member[half:].sum(1))
    plus = how.kernel.at_zero * own
    samples = Samples(x, y, torch.cat((left, left), 1), member, bandwidth.detach(), centre, plus)
    return how.factor * pair_sum(samples, how.kernel, block_size=how.block_size)
