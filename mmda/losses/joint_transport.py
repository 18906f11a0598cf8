"""Joint transport of features and labels (DeepJDOT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_integers, check_number, check_same_device, check_tensor
from mmda._core.counts import pooled_centre, total_weight
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import two_samples
from mmda._core.transforms import values_are_known
from mmda._core.weighted import row_shares
from mmda._math.logits import as_logit_rows
from mmda._math.transport import FLOAT32, reduced_cost, transport_cost
from mmda.kernels import distances_about
from mmda.losses._modules import LossModule
from mmda.losses._sample_modules import of_sides


def joint_transport_loss(
    source: Tensor,
    target: Tensor,
    source_labels: Tensor,
    target_logits: Tensor,
    *,
    feature_weight: float = 1.0,
    label_weight: float = 1.0,
    regularisation: float = 1.0,
    iterations: int = 100,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Optimal transport cost between labelled source rows and predicted target rows (DeepJDOT); lower means closer.

    With labels y of the source and :math:`q_j = \mathrm{softmax}(z_j)` of the target,

    .. math::

       C_{ij} = \alpha \lVert f_i - g_j \rVert^2 - \lambda \log q_{j y_i}, \qquad
       L = \min_P \sum_{i, j} P_{ij} C_{ij} + \varepsilon \sum_{i, j} P_{ij} \log \frac{P_{ij}}{a_i b_j}

    over the plans P >= 0 with row sums :math:`a_i` and column sums :math:`b_j` (1 / n and 1 / m, or normalised
    weights).

    Args:
        source: f, source features.
        target: g, target features; the number of rows may differ.
        source_labels: y, an integer per row. A label outside 0 .. K - 1 raises an indexing error.
        target_logits: z, the classifier's scores of the target rows before the softmax.
        feature_weight: :math:`\alpha \ge 0`.
        label_weight: :math:`\lambda \ge 0`.
        regularisation: :math:`\varepsilon > 0`, in units of the cost.
        iterations: steps of the solver; see :func:`sinkhorn_divergence_loss`.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), ``source_labels`` (n,), ``target_logits`` (m, K), or with masks (b, t, d),
        (b, t) and (b, t, K); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if either sample is empty after masks and weights.

    Raises:
        ValueError: wrong shapes or widths, a setting out of its range.
        TypeError: labels that are not integers, a mask that is not bool, features that are not floating point.

    Notes:
        The gradient is that of :math:`\sum P C` with the optimal plan held fixed, as in the paper's alternating scheme.
        The training loop adds the source's cross-entropy, which the paper includes. Differs from the paper: entropic
        plans instead of exact ones, so that the value is differentiable everywhere; they are close for a regularisation
        of some hundredths of the mean cost. O(n m (d + K + iterations min(n, m))) time, O(n m) memory.

    Example:
        >>> import torch
        >>> rows, labels = torch.eye(2), torch.tensor([0, 1])
        >>> right = joint_transport_loss(rows, rows, labels, 9 * torch.eye(2), regularisation=0.05)
        >>> wrong = joint_transport_loss(rows, rows, labels, 9 * torch.eye(2).flip(0), regularisation=0.05)
        >>> print(f"{right:.2f} {wrong:.2f}")  # 0.05 log 2, and 2 for the larger distance
        0.03 2.03

    References:
        Damodaran, Kellenberger, Flamary, Tuia & Courty, "DeepJDOT: Deep Joint Distribution Optimal Transport for
        Unsupervised Domain Adaptation", ECCV 2018, equations 6 to 8.
    """
    caller = "joint_transport_loss"
    _check_settings(caller, feature_weight, label_weight, regularisation, iterations)
    dtype = working_dtype(source, target, target_logits)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask), dtype=dtype
        )
        check_tensor(caller, "target_logits", target_logits)
        check_same_device(caller, "source", source, "target_logits", target_logits)
        check_integers(caller, "source_labels", source_labels, source.shape[:-1], device=source.device)
        logits, _ = as_logit_rows(
            caller,
            "target_logits",
            target_logits,
            dtype=dtype,
            mask=target_mask,
            weight=target_weight,
            prefix="target_",
        )
        label = source_labels.reshape(-1).long()
        if source_mask is not None:
            label = torch.where(source_mask.reshape(-1), label, 0)
        a, b = row_shares(x, x_weight), row_shares(y, y_weight)
        distance = distances_about(pooled_centre(x, y, x_weight, y_weight), x, y)
        missed = -logits.log_softmax(1).transpose(0, 1).index_select(0, label)
        cost, common = feature_weight * distance + label_weight * missed, torch.zeros_like(missed[0, 0])
        if not (values_are_known(cost, a, b) and float(cost.detach().amax()) <= FLOAT32 * regularisation):
            # Costs much larger than the regularisation: in float64, without the parts common to rows or columns.
            x, y, a, b = x.double(), y.double(), a.double(), b.double()
            distance, of_rows, of_columns = reduced_cost(x, y, a, b)
            missed = -logits.double().log_softmax(1).transpose(0, 1).index_select(0, label)
            cost = feature_weight * distance + label_weight * missed
            common = feature_weight * (a @ of_rows + b @ of_columns)
        least = transport_cost(cost, a, b, regularisation=float(regularisation), iterations=iterations)
        value = (least + common).to(dtype)
        if x_weight is None and y_weight is None:
            return value
        both = (total_weight(x, x_weight) > 0) & (total_weight(y, y_weight) > 0)
        return torch.where(both, value, 0 * value)


def _check_settings(
    caller: str, feature_weight: float, label_weight: float, regularisation: float, iterations: int
) -> None:
    check_number(caller, "feature_weight", feature_weight, at_least=0)
    check_number(caller, "label_weight", label_weight, at_least=0)
    check_number(caller, "regularisation", regularisation, above=0)
    check_count(caller, "iterations", iterations)


class JointTransportLoss(LossModule):
    """Module form of :func:`joint_transport_loss` (DeepJDOT), which documents the formula, shapes and errors.

    Args:
        feature_weight: weight of the squared distance of features.
        label_weight: weight of the cross-entropy between label and prediction.
        regularisation: in units of the cost.
        iterations: steps of the solver.

    Example:
        >>> JointTransportLoss(regularisation=0.1)
        JointTransportLoss(feature_weight=1, label_weight=1, regularisation=0.1, iterations=100)
    """

    _function = staticmethod(joint_transport_loss)

    def __init__(
        self,
        *,
        feature_weight: float = 1.0,
        label_weight: float = 1.0,
        regularisation: float = 1.0,
        iterations: int = 100,
    ) -> None:
        super().__init__()
        _check_settings("JointTransportLoss", feature_weight, label_weight, regularisation, iterations)
        self.feature_weight = feature_weight
        self.label_weight = label_weight
        self.regularisation = regularisation
        self.iterations = iterations

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_labels: Tensor,
        target_logits: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`joint_transport_loss`."""
        return joint_transport_loss(
            source,
            target,
            source_labels,
            target_logits,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward
