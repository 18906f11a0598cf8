"""Local (class-conditional) maximum mean discrepancy."""

from __future__ import annotations

from torch import Tensor

from mmda._math.class_weights import class_discrepancy, equal_classes, equal_shares
from mmda.kernels import Gaussian, Kernel
from mmda.losses._domain_modules import ClassKernelModule


def local_mmd_loss(
    source: Tensor,
    target: Tensor,
    *,
    source_labels: Tensor,
    target_probabilities: Tensor,
    kernel: Kernel = Gaussian(),
    classes: int | None = None,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared MMD between the same classes of two domains, averaged over classes; lower means closer.

    With memberships :math:`p_{ic}` of source row i and :math:`q_{jc}` of target row j in class c (one-hot for integer
    labels), row weights :math:`a_i, b_j`, and C the classes with weight in both domains,

    .. math::

       \frac{1}{|C|} \sum_{c \in C} \left[ \sum_{i, j} u_{ic} u_{jc} k(x_i, x_j) + \sum_{i, j} v_{ic} v_{jc} k(y_i, y_j)
       - 2 \sum_{i, j} u_{ic} v_{jc} k(x_i, y_j) \right], \qquad
       u_{ic} = \frac{a_i p_{ic}}{\sum_l a_l p_{lc}}, \quad v_{jc} = \frac{b_j q_{jc}}{\sum_l b_l q_{lc}}.

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        source_labels: integer labels, or class probabilities; an integer outside 0 .. classes - 1 (such as -1) means no
            class.
        target_probabilities: class probabilities from the classifier, or integer pseudo-labels. Used as weights,
            without a gradient.
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set from the pooled sample of this call.
        classes: number of classes; needed only if both label arguments are integers.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); labels (n,) and (m,), or (b, t);
        probabilities (n, c) and (m, c), or (b, t, c); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input), in [0, 2] for the bounded kernels here. Zero if the domains share
        no class.

    Raises:
        ValueError: wrong shapes, different numbers of classes, ``classes`` missing.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m)^2 (d + c)) time, O((n + m) (d + c)) memory: pairs are processed tile by tile as in
        :func:`mmda.losses.mmd_loss`, with the dense formula in the same cases. Differs from the paper: the mean is over
        the classes present in both domains, not over all classes. Differs from the authors' code, which takes the
        target's most probable classes as present and sums over bandwidths.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(60) % 2
        >>> source = torch.randn(60, 4, generator=generator) + 4 * labels[:, None]
        >>> target = torch.randn(60, 4, generator=generator) + 4 * labels[:, None]
        >>> right = local_mmd_loss(source, target, source_labels=labels, target_probabilities=labels, classes=2)
        >>> wrong = local_mmd_loss(source, target, source_labels=labels, target_probabilities=1 - labels, classes=2)
        >>> bool(wrong > 10 * right)
        True

    References:
        Zhu et al., "Deep Subdomain Adaptation Network for Image Classification", IEEE TNNLS 32 (2021), equations 5
        to 7.
    """
    return class_discrepancy(
        "local_mmd_loss",
        source,
        target,
        source_labels=source_labels,
        target_probabilities=target_probabilities,
        classes=classes,
        kernel=kernel,
        source_weight=source_weight,
        target_weight=target_weight,
        source_mask=source_mask,
        target_mask=target_mask,
        mix=lambda present: equal_shares(present & equal_classes(present)),
    )


class LocalMMDLoss(ClassKernelModule):
    """Module form of :func:`local_mmd_loss`, which documents the formula, shapes and errors.

    Args:
        kernel: any :class:`mmda.kernels.Kernel`.
        classes: number of classes; needed only if both domains have integer labels.

    Example:
        >>> LocalMMDLoss(kernel=Gaussian("mean"), classes=10)
        LocalMMDLoss(kernel=Gaussian(bandwidth='mean', scales=(0.25, 0.5, 1, 2, 4)), classes=10)
    """

    _function = staticmethod(local_mmd_loss)
