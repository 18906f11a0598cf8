"""Energy distance."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mmda._core.checks import check_choice, check_number
from mmda._core.counts import zero_if_empty
from mmda._core.masking import full_precision
from mmda._core.rows import two_samples
from mmda._engine.kernel_sums import squared_mmd
from mmda._math.domain_sums import KernelSum, is_kernel_sum
from mmda.kernels import Energy, Formula, Kernel
from mmda.losses._sample_modules import DiscrepancyModule

Estimator = Literal["biased", "unbiased"]
_ESTIMATORS = ("biased", "unbiased")


class _NegativePower(Energy):
    """-|x - y|^exponent as a kernel, with gradient zero at coinciding points."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self._formula = Formula("distance", exponent=exponent)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NegativePower) and other.exponent == self.exponent

    def __hash__(self) -> int:
        return hash((type(self), self.exponent))

    def __repr__(self) -> str:
        return f"_NegativePower({self.exponent:g})"


def _kernel(exponent: float) -> Kernel:
    return Energy() if exponent == 1 else _NegativePower(float(exponent))


def energy_distance_loss(
    source: Tensor,
    target: Tensor,
    *,
    exponent: float = 1.0,
    estimator: Estimator = "biased",
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Half the energy distance between two samples; lower means closer distributions.

    .. math::

       \frac{1}{n m} \sum_{i, j} \lVert x_i - y_j \rVert^\alpha
       - \frac{1}{2 n^2} \sum_{i, j} \lVert x_i - x_j \rVert^\alpha
       - \frac{1}{2 m^2} \sum_{i, j} \lVert y_i - y_j \rVert^\alpha

    with the exponent :math:`\alpha`; ``"unbiased"`` has n (n - 1) and m (m - 1) instead of n^2 and m^2. It is half the
    squared MMD with the kernel :math:`-\lVert x - y \rVert^\alpha`, which has no bandwidth.

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        exponent: :math:`\alpha`, in (0, 2); 2 would compare only the means.
        estimator: ``"biased"`` (V-statistic) or ``"unbiased"`` (U-statistic).
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input). Biased: >= 0 up to rounding. Unbiased may be negative and is
        never clamped. Zero if either sample is empty after masks and weights, or with ``"unbiased"`` has a total weight
        of at most one.

    Raises:
        ValueError: wrong shapes, an exponent outside (0, 2), a single row with ``"unbiased"``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m)^2 d) time. At coinciding points, where the distance is not differentiable, the gradient is zero. Many
        texts define the energy distance as twice this number, or as the square root of that.

    Example:
        >>> import torch
        >>> energy_distance_loss(torch.tensor([[0.0]]), torch.tensor([[3.0], [5.0]])).item()  # 4 - 0 - 1 / 2
        3.5

    References:
        Székely & Rizzo, "Energy statistics: A class of statistics based on distances", Journal of Statistical
        Planning and Inference 143 (2013), equations 1 and 2 (twice this number), proposition 2 for the exponent.
    """
    caller = "energy_distance_loss"
    check_number(caller, "exponent", exponent, above=0, below=2)
    check_choice(caller, "estimator", estimator, _ESTIMATORS)
    with full_precision(source):
        unbiased = estimator == "unbiased"
        weights, masks = (source_weight, target_weight), (source_mask, target_mask)
        x, y, x_weight, y_weight = two_samples(caller, source, target, weights, masks, unbiased=unbiased, dropped=True)
        kernel = _kernel(exponent)
        value = squared_mmd(x, y, x_weight, y_weight, kernel=kernel, unbiased=unbiased) / 2
        return zero_if_empty(value, x, y, (x_weight, y_weight), unbiased)


class EnergyDistanceLoss(DiscrepancyModule):
    """Module form of :func:`energy_distance_loss`, which documents the formula, shapes and errors.

    Args:
        exponent: power of the distance, in (0, 2).
        estimator: ``"biased"`` or ``"unbiased"``.

    Example:
        >>> EnergyDistanceLoss(exponent=0.5)
        EnergyDistanceLoss(exponent=0.5, estimator='biased')
    """

    _function = staticmethod(energy_distance_loss)

    def __init__(self, *, exponent: float = 1.0, estimator: Estimator = "biased") -> None:
        super().__init__()
        check_number("EnergyDistanceLoss", "exponent", exponent, above=0, below=2)
        check_choice("EnergyDistanceLoss", "estimator", estimator, _ESTIMATORS)
        self.exponent = exponent
        self.estimator: Estimator = estimator


is_kernel_sum(
    energy_distance_loss,
    KernelSum(Energy(), "biased", 0.5),
    EnergyDistanceLoss,
    lambda loss: KernelSum(_kernel(loss.exponent), loss.estimator, 0.5),
)
