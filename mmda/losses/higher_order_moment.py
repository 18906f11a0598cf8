"""Higher-order moment matching."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_tensor, fail, shape_text
from mmda._core.counts import median_centre, total_weight
from mmda._core.draws import DRAWS, Draws, fixed_integers, fresh_integers
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import two_samples
from mmda._core.scales import unit_of
from mmda.losses._domain_modules import DrawnModule
from mmda.losses._sample_modules import of_sides


def higher_order_moment_loss(
    source: Tensor,
    target: Tensor,
    *,
    order: int = 3,
    samples: int | None = None,
    draws: Draws = "fixed",
    indices: Tensor | None = None,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference of the moment tensors of one order; lower means closer distributions.

    With :math:`x^{\otimes p}` the tensor of all products of p features (:math:`d^p` entries),

    .. math::

       \frac{1}{d^p} \left\lVert \frac{1}{n} \sum_i x_i^{\otimes p} - \frac{1}{m} \sum_j y_j^{\otimes p}
       \right\rVert_F^2
       = \frac{1}{d^p} \left[ \frac{1}{n^2} \sum_{i, j} \langle x_i, x_j \rangle^p
       + \frac{1}{m^2} \sum_{i, j} \langle y_i, y_j \rangle^p - \frac{2}{n m} \sum_{i, j} \langle x_i, y_j \rangle^p
       \right]:

    computed exactly from the right-hand side, without a tensor of :math:`d^p` entries. With ``samples`` (or
    ``indices``) the mean over all :math:`d^p` entries becomes the mean over that many entries, drawn with replacement.

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        order: p; 1 compares means, 2 second moments about the origin; the paper uses 3 and 4.
        samples: number of entries to draw; ``None`` uses all entries.
        draws: how to draw the samples: ``"fixed"``, the same ones at every call, or ``"fresh"``, new ones from
            PyTorch's global generator of the features' device.
        indices: the entries themselves, instead of ``samples``: p feature indices per entry, such as ``torch.randint(d,
            (1000, p), generator=generator)``.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t);
        ``indices`` (samples, p).

    Returns:
        Scalar >= 0 up to rounding, float32 (float64 for float64 input). Zero if either sample is empty after masks and
        weights.

    Raises:
        ValueError: wrong shapes, an order or a number of samples below 1, out-of-range indices (checked on the CPU
            only).
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        Exact: O((n + m)^2 (d + p)) time, O((n + m)^2) memory. Sampled: O((n + m) p samples). Moments are about the
        origin, as in the paper, so a common shift of both samples changes the value. Terms that cancel between the
        three sums are removed analytically, and the sums are taken in float64, so that values stay accurate for float32
        features far from the origin, and gradients in the presence of outliers.

    Example:
        >>> import torch
        >>> source, target = torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0]])
        >>> [round(higher_order_moment_loss(source, target, order=p).item(), 3) for p in (1, 2, 3)]  # of 2, 3 and 8
        [4.0, 9.0, 64.0]

    References:
        Chen et al., "HoMM: Higher-order Moment Matching for Unsupervised Domain Adaptation", AAAI 2020, equations 3
        (all entries) and 7 (sampled entries).
    """
    caller = "higher_order_moment_loss"
    _check_options(caller, order, samples, draws)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask)
        )
        if indices is not None:
            indices = _checked_indices(caller, indices, order, x.shape[1])
        elif samples is not None:
            if draws == "fresh":
                indices = fresh_integers(samples, order, below=x.shape[1], like=x)
            else:
                indices = fixed_integers(samples, order, below=x.shape[1], device=x.device)
        # In float64, and about a centre robust to outliers, whose powers would dominate those of other rows.
        x, y = x.double(), y.double()
        x_weight, y_weight = (None if weight is None else weight.double() for weight in (x_weight, y_weight))
        x_total, y_total = total_weight(x, x_weight), total_weight(y, y_weight)
        x_share = torch.ones_like(x[:, 0]) if x_weight is None else x_weight
        y_share = torch.ones_like(y[:, 0]) if y_weight is None else y_weight
        share = torch.cat([safe_divide(x_share, x_total), -safe_divide(y_share, y_total)])
        centre = median_centre(x, y, x_weight, y_weight)
        rows = torch.cat([x, y]) - centre
        unit = unit_of(rows, centre)
        rows, centre = rows / unit, centre / unit
        value = _exact(rows, share, centre, order) if indices is None else _sampled(rows, share, centre, indices)
        value = (value * unit ** (2 * order)).to(dtype)
        if x_weight is None and y_weight is None:
            return value
        return torch.where((x_total > 0) & (y_total > 0), value, 0 * value)


def _exact(rows: Tensor, share: Tensor, centre: Tensor, order: int) -> Tensor:
    r"""Sum of share_i share_j (s + u_i + u_j + g_ij)^p / d^p, the shares summing to zero.

    s = |c|^2, u_i = <c, z_i>, g_ij = <z_i, z_j> for rows c + z_i. Terms that depend on i alone, on j alone or on
    neither vanish in the sum and are left out.
    """
    width = rows.shape[1]
    gram = rows @ rows.T / width
    along = rows @ centre / width
    square = centre.square().sum() / width
    offset = square + along.unsqueeze(1) + along
    mixed = torch.zeros_like(gram)
    for power in range(1, order + 1):
        mixed = mixed + math.comb(order, power) * gram**power * offset ** (order - power)
    value = share @ mixed @ share
    moments = [share @ along**power for power in range(order)]
    for i in range(1, order):
        for j in range(1, order - i + 1):
            rest = order - i - j
            ways = math.factorial(order) // (math.factorial(i) * math.factorial(j) * math.factorial(rest))
            value = value + ways * square**rest * moments[i] * moments[j]
    return value


def _sampled(rows: Tensor, share: Tensor, centre: Tensor, indices: Tensor) -> Tensor:
    """Mean over the drawn entries of (sum over i of share_i prod_k (c + z_i)_k)^2, without the terms that cancel."""
    constant = torch.ones_like(centre[indices[:, 0]])
    excess = torch.zeros_like(rows[:, indices[:, 0]])  # product so far, minus the product of the centre
    for position in range(indices.shape[1]):
        chosen = indices[:, position]
        excess = excess * (centre[chosen] + rows[:, chosen]) + constant * rows[:, chosen]
        constant = constant * centre[chosen]
    return (share @ excess).square().mean()


def _checked_indices(caller: str, indices: Tensor, order: int, width: int) -> Tensor:
    """Checked int64 indices. If values cannot be read, negative ones become ``width`` so that indexing still fails."""
    check_tensor(caller, "indices", indices)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"{caller}: `indices` must hold integers, got {indices.dtype}")
    if indices.ndim != 2 or indices.shape[1] != order or indices.shape[0] == 0:
        fail(caller, "indices", f"have shape (samples, {order})", shape_text(indices))
    if indices.device.type == "cpu" and not torch.compiler.is_compiling():  # reading values is free on the CPU
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= width:
            fail(caller, "indices", f"name features from 0 to {width - 1}", low if low < 0 else high)
    indices = indices.long()
    return torch.where(indices < 0, width, indices)


def _check_options(caller: str, order: int, samples: int | None, draws: Draws) -> None:
    check_count(caller, "order", order)
    check_choice(caller, "draws", draws, DRAWS)
    if samples is not None:
        check_count(caller, "samples", samples)


class HigherOrderMomentLoss(DrawnModule):
    """Module form of :func:`higher_order_moment_loss`, which documents the formula, shapes and errors.

    In training mode each call draws new samples from PyTorch's global generator of the features' device (as in dropout,
    ``torch.manual_seed`` and activation checkpointing reproduce them), unless the call passes ``indices``. In
    evaluation mode they are the same at every call.

    Args:
        order: order of the moment.
        samples: number of entries to take; ``None`` takes all of them.
        draws: ``"fresh"`` as above, or ``"fixed"``: the same samples at every call, in training too.

    Example:
        >>> HigherOrderMomentLoss(order=4, samples=1000)
        HigherOrderMomentLoss(order=4, samples=1000, draws='fresh')
    """

    _function = staticmethod(higher_order_moment_loss)

    def __init__(self, *, order: int = 3, samples: int | None = None, draws: Draws = "fresh") -> None:
        super().__init__()
        _check_options("HigherOrderMomentLoss", order, samples, draws)
        self.order = order
        self.samples = samples
        self.draws: Draws = draws

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        indices: Tensor | None = None,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`higher_order_moment_loss`."""
        return higher_order_moment_loss(
            source,
            target,
            indices=indices,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options_now(),
        )

    if TYPE_CHECKING:
        __call__ = forward
