"""Sinkhorn divergence: debiased entropic optimal transport."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_number
from mmda._core.counts import pooled_centre, total_weight
from mmda._core.masking import full_precision
from mmda._core.rows import two_samples
from mmda._core.weighted import row_shares
from mmda._math.transport_sweep import Inputs, Settings, sinkhorn_divergence
from mmda.losses._sample_modules import DiscrepancyModule

Cost = Literal["squared", "distance"]
_COSTS = ("squared", "distance")


def sinkhorn_divergence_loss(
    source: Tensor,
    target: Tensor,
    *,
    regularisation: float = 1.0,
    cost: Cost = "squared",
    iterations: int = 30,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Debiased entropic transport cost between two samples; lower means closer distributions.

    .. math::

       \mathrm{OT}_\varepsilon(x, y) - \tfrac{1}{2} \mathrm{OT}_\varepsilon(x, x)
       - \tfrac{1}{2} \mathrm{OT}_\varepsilon(y, y), \qquad
       \mathrm{OT}_\varepsilon(x, y) = \min_P \sum_{i, j} P_{i j} C_{i j}
       + \varepsilon \sum_{i, j} P_{i j} \log \frac{P_{i j}}{a_i b_j}

    over the plans P >= 0 with row sums :math:`a_i` and column sums :math:`b_j` (1 / n and 1 / m, or normalised
    weights), and cost :math:`C_{i j} = \lVert x_i - y_j \rVert^2`, or :math:`\lVert x_i - y_j \rVert`. Small
    :math:`\varepsilon` gives the Wasserstein cost of the samples, large :math:`\varepsilon` the squared distance of the
    means (``"squared"``) or half the energy distance (``"distance"``).

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        regularisation: :math:`\varepsilon`, in units of the cost.
        cost: ``"squared"`` or ``"distance"``.
        iterations: annealing steps, used only if :math:`\varepsilon` is some hundred times smaller than the cost and
            the solver starts from a larger regularisation; up to eight times as many if it has not converged.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0 up to rounding, float32 (float64 for float64 input). Zero if either sample is empty after masks and
        weights.

    Raises:
        ValueError: wrong shapes, a regularisation that is not positive or below 1e-12 of the largest cost (for
            ``"squared"``: of the largest cost at which mass moves, so that single outliers are allowed), a marginal
            error above 1e-4 after all iterations, fewer than one iteration.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        The solver stops when the error of the marginals is rounding (2e-6 in float32). It takes some tens to two
        hundred steps, each a matrix-vector product of size n x m, O((n + m)^2) time in total per step. If the cost is
        some hundred times :math:`\varepsilon` and these do not converge, it takes some tens of steps with a Cholesky
        factorisation, O(n m min(n, m)) each. Matrices of more than four million entries are not stored but recomputed
        tile by tile for each product: O((n + m) d) memory. O((n + m)^2) memory is needed for small :math:`\varepsilon`,
        where factorisations are required, and for second derivatives, function transforms and weights that require a
        gradient. The gradient follows from the envelope theorem, the second derivative from the implicit function
        theorem. If the cost exceeds 500 times :math:`\varepsilon`, float32 features are computed in float64, because
        the gradient loses accuracy before the value does. Differs from common practice: a few hundred plain Sinkhorn
        steps have not converged at small regularisation and return another number. With the cost :math:`\lVert x - y
        \rVert^2 / 2` and the "blur" of other libraries, :math:`\varepsilon = 2 \, \text{blur}^2` gives twice their
        number.

    Example:
        >>> import torch
        >>> source, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]])
        >>> round(sinkhorn_divergence_loss(source, target, regularisation=0.01).item(), 4)  # 0 to 2, 1 to 3
        4.0

    References:
        Genevay, Peyré & Cuturi, "Learning Generative Models with Sinkhorn Divergences", AISTATS 2018, equation 2;
        Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences", AISTATS 2019,
        equations 1 and 3, proposition 2 for the gradient.
    """
    caller = "sinkhorn_divergence_loss"
    _check_options(caller, regularisation, cost, iterations)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask)
        )
        centre = pooled_centre(x, y, x_weight, y_weight)
        inputs = Inputs(x, y, row_shares(x, x_weight), row_shares(y, y_weight), centre)
        value = sinkhorn_divergence(inputs, Settings(float(regularisation), cost, iterations))
        if x_weight is None and y_weight is None:
            return value
        both = (total_weight(x, x_weight) > 0) & (total_weight(y, y_weight) > 0)
        return torch.where(both, value, 0 * value)


def _check_options(caller: str, regularisation: float, cost: Cost, iterations: int) -> None:
    check_number(caller, "regularisation", regularisation, above=0)
    check_choice(caller, "cost", cost, _COSTS)
    check_count(caller, "iterations", iterations)


class SinkhornDivergenceLoss(DiscrepancyModule):
    """Module form of :func:`sinkhorn_divergence_loss`, which documents the formula, shapes and errors.

    Args:
        regularisation: in units of the cost.
        cost: ``"squared"`` or ``"distance"``.
        iterations: steps of the solver.

    Example:
        >>> SinkhornDivergenceLoss(regularisation=0.1)
        SinkhornDivergenceLoss(regularisation=0.1, cost='squared', iterations=30)
    """

    _function = staticmethod(sinkhorn_divergence_loss)

    def __init__(self, *, regularisation: float = 1.0, cost: Cost = "squared", iterations: int = 30) -> None:
        super().__init__()
        _check_options("SinkhornDivergenceLoss", regularisation, cost, iterations)
        self.regularisation = regularisation
        self.cost: Cost = cost
        self.iterations = iterations
