"""Contrastive domain discrepancy: pulls equal classes together across domains and pushes different classes apart."""

from __future__ import annotations

from torch import Tensor

from mmda._math.class_weights import class_discrepancy, equal_classes, equal_shares
from mmda.kernels import Gaussian, Kernel
from mmda.losses._domain_modules import ClassKernelModule


def contrastive_domain_discrepancy_loss(
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
    r"""Mean squared MMD of equal classes minus that of different classes; lower means classes aligned and apart.

    With :math:`n_c` source rows of class c, :math:`m_c` target rows, and

    .. math::

       D_{c c'} = \frac{1}{n_c^2} \sum_{i, j \in c} k(x_i, x_j) + \frac{1}{m_{c'}^2} \sum_{i, j \in c'} k(y_i, y_j)
       - \frac{2}{n_c m_{c'}} \sum_{i \in c, j \in c'} k(x_i, y_j),

    the loss is

    .. math::

       \frac{1}{|S|} \sum_{c \in S} D_{c c} - \frac{1}{|P|} \sum_{(c, c') \in P} D_{c c'},

    with S the classes present in both domains and P the ordered pairs :math:`c \ne c'` with c in the source and c' in
    the target. With probabilities instead of labels, or with row weights, counts become sums of weights.

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        source_labels: integer labels, or class probabilities; an integer outside 0 .. classes - 1 (such as -1) means no
            class, for example for rows far from their cluster centre.
        target_probabilities: integer pseudo-labels, or class probabilities. Used as weights, without a gradient.
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set from the pooled sample of this call.
        classes: number of classes; needed only if both label arguments are integers.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); labels (n,) and (m,), or (b, t);
        probabilities (n, c) and (m, c), or (b, t, c); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar, float32 (float64 for float64 input), in [-2, 2] for the bounded kernels here; negative (as intended) if
        different classes are farther apart than the domains. A mean over no class, or over no pair, is zero.

    Raises:
        ValueError: wrong shapes, different numbers of classes, ``classes`` missing.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m)^2 (d + c)) time, O((n + m) (d + c)) memory: pairs are processed tile by tile as in
        :func:`mmda.losses.mmd_loss`, with the dense formula in the same cases. Differs from the paper: classes absent
        from a domain are skipped, while the paper samples batches in which every chosen class occurs in both domains
        (then both agree); one bandwidth is set from the pooled sample, while the authors' code sets one per class pair
        and sums five scales.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(60) % 2
        >>> source = torch.randn(60, 4, generator=generator) + 4 * labels[:, None]
        >>> target = torch.randn(60, 4, generator=generator) + 4 * labels[:, None]
        >>> bool(contrastive_domain_discrepancy_loss(
        ...     source, target, source_labels=labels, target_probabilities=labels, classes=2) < -0.5)
        True

    References:
        Kang, Jiang, Yang & Hauptmann, "Contrastive Adaptation Network for Unsupervised Domain Adaptation", CVPR
        2019, equations 3 to 5.
    """
    return class_discrepancy(
        "contrastive_domain_discrepancy_loss",
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
        mix=_mix,
    )


def _mix(present: Tensor) -> Tensor:
    equal = equal_classes(present)
    return equal_shares(present & equal) - equal_shares(present & ~equal)


class ContrastiveDomainDiscrepancyLoss(ClassKernelModule):
    """Module form of :func:`contrastive_domain_discrepancy_loss`, which documents the formula, shapes and errors.

    Args:
        kernel: any :class:`mmda.kernels.Kernel`.
        classes: number of classes; needed only if both domains have integer labels.

    Example:
        >>> ContrastiveDomainDiscrepancyLoss(kernel=Gaussian(1.0, scales=(1.0,)), classes=3)
        ContrastiveDomainDiscrepancyLoss(kernel=Gaussian(bandwidth=1, scales=(1,)), classes=3)
    """

    _function = staticmethod(contrastive_domain_discrepancy_loss)
