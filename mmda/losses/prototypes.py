"""Cross-domain prototypes: rows of one domain are classified by the class means of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_number
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import two_samples
from mmda._core.unit_rows import normalized_rows
from mmda._core.weighted import weighted_logsumexp
from mmda._math.class_weights import class_columns, count_classes, memberships
from mmda._math.contrastive import check_temperature
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._sample_modules import of_sides
from mmda.losses._tempered import CosineModule


def prototype_contrastive_loss(
    source: Tensor,
    target: Tensor,
    source_assignment: Tensor,
    target_assignment: Tensor,
    *,
    classes: int | None = None,
    temperature: float | Tensor = 0.1,
    confidence: float = 0.8,
    symmetric: bool = True,
    normalize: bool = True,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of rows against the other domain's class means; lower means classes agree across domains.

    With memberships :math:`a_{ik}` of source row i and :math:`b_{jk}` of target row j in class k, prototypes
    :math:`c^s_k` and the set :math:`K_s` of classes with any source row,

    .. math::

       c^s_k = \frac{\sum_i a_{ik} x_i}{\lVert \sum_i a_{ik} x_i \rVert}, \qquad
       L_{t \to s} = \frac{1}{|J|} \sum_{j \in J} - \frac{1}{\sum_{k \in K_s} b_{jk}} \sum_{k \in K_s} b_{jk}
           \log \frac{\exp(y_j \cdot c^s_k / \tau)}{\sum_{k' \in K_s} \exp(y_j \cdot c^s_{k'} / \tau)}

    over the rows J with a membership in :math:`K_s`. With ``symmetric``, :math:`L = (L_{t \to s} + L_{s \to t}) / 2`,
    the second term with the roles exchanged. Rows :math:`x_i, y_j` have length one.

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        source_assignment: class (or concept) of each source row as integers, or its membership in each class.
        target_assignment: the same for the target: pseudo-labels, or soft assignments.
        classes: number of classes; needed if both assignments are integers.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        confidence: threshold in [0, 1] on the largest membership of a row. A row that reaches it is assigned to that
            class; a row below it is left out, both as a query and in the prototypes. Integer labels always pass. 0 uses
            every row with its soft memberships.
        symmetric: average both directions; False compares only target rows with source prototypes.
        normalize: scale rows and prototypes to length one; False uses rows as they are and weighted means as
            prototypes.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d). Assignments have the shape of the rows, (n,),
        for integers and (n, classes) for memberships; weights and masks (n,).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Classes without rows in the other domain are left out, and so
        are rows of only such classes; zero if no row is left.

    Raises:
        ValueError: wrong shapes, an unknown number of classes, a temperature that is not positive, a confidence outside
            [0, 1].
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m) d classes). Assignments get no gradient; prototypes do. An integer outside 0 to classes - 1 means no
        class. The exact form is our own choice: the paper's prototypes come from k-means in each domain and a momentum
        memory, here they come from the batch and the given assignments. An untrained classifier predicts nearly the
        same for all rows, so prototypes from its soft predictions are nearly equal: without the confidence threshold
        the loss lowers accuracy in 10 of 12 transfers of Office-Caltech10, with it in one (see the table on the page of
        the digits).

    Example:
        >>> import torch
        >>> rows, labels = torch.eye(2), torch.tensor([0, 1])
        >>> loss = prototype_contrastive_loss(rows, rows, labels, labels, classes=2, temperature=1.0)
        >>> round(loss.item(), 4)  # log(1 + 1/e)
        0.3133

    References:
        Yue et al., "Prototypical Cross-domain Self-supervised Learning for Few-shot Unsupervised Domain Adaptation",
        CVPR 2021, section 3.2.
    """
    caller = "prototype_contrastive_loss"
    check_temperature(caller, temperature)
    check_number(caller, "confidence", confidence, at_least=0, at_most=1)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, x_count, y_count = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask)
        )
        names, labels = ("source_assignment", "target_assignment"), (source_assignment, target_assignment)
        size = count_classes(caller, names[0], labels[0], names[1], labels[1], classes)
        a, b = (
            memberships(caller, name, label, rows, mask=mask, row_weight=count, classes=size, dtype=dtype)
            for name, label, rows, mask, count in zip(
                names, labels, (source, target), (source_mask, target_mask), (x_count, y_count)
            )
        )
        if confidence > 0:
            a, b = _confident(a, confidence), _confident(b, confidence)
        if normalize:
            x, y = normalized_rows(x), normalized_rows(y)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(dtype)
        value = _one_way(y, b, y_count, x, a, x_count, temperature, normalize)
        if symmetric:
            value = (value + _one_way(x, a, x_count, y, b, y_count, temperature, normalize)) / 2
        return value


def _confident(shares: Tensor, least: float) -> Tensor:
    """One-hot rows of the largest membership where it is at least ``least`` of the row's sum; zero rows elsewhere."""
    top, likeliest = shares.max(1, keepdim=True)
    sure = (top >= least * shares.sum(1, keepdim=True)) & (top > 0)
    return torch.zeros_like(shares).scatter(1, likeliest, sure.to(shares.dtype))


def _one_way(
    rows: Tensor,
    shares: Tensor,
    count: Tensor | None,
    others: Tensor,
    other_shares: Tensor,
    other_count: Tensor | None,
    temperature: float | Tensor,
    normalize: bool,
) -> Tensor:
    """Cross-entropy of ``rows`` against the prototypes of ``others``."""
    other_shares = class_columns(other_shares, other_count)
    sums, mass = other_shares.T @ others, other_shares.sum(0)
    prototypes = normalized_rows(sums) if normalize else safe_divide(sums, mass.unsqueeze(1))
    present = (mass > 0).to(rows.dtype)
    logits = (rows / temperature) @ prototypes.T
    kept = shares * present
    total = kept.sum(1)
    each = weighted_logsumexp(logits, present.expand_as(logits)) - safe_divide((kept * logits).sum(1), total)
    counted = (total > 0).to(rows.dtype)
    if count is not None:
        counted = counted * count
    return safe_divide(counted @ each, counted.sum())


class PrototypeContrastiveLoss(CosineModule):
    """Module form of :func:`prototype_contrastive_loss`, which documents the formula, shapes and errors.

    Args:
        classes: number of classes; needed if both assignments are integers.
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`.
        confidence: threshold on the largest membership of a row.
        symmetric: average both directions.
        normalize: scale rows and prototypes to length one.

    Example:
        >>> PrototypeContrastiveLoss(classes=10)
        PrototypeContrastiveLoss(classes=10, temperature=0.1, confidence=0.8, symmetric=True, normalize=True)
    """

    _function = staticmethod(prototype_contrastive_loss)

    def __init__(
        self,
        *,
        classes: int | None = None,
        temperature: float | Tensor | LearnableTemperature = 0.1,
        confidence: float = 0.8,
        symmetric: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__(temperature, normalize)
        if classes is not None:
            check_count("PrototypeContrastiveLoss", "classes", classes)
        check_number("PrototypeContrastiveLoss", "confidence", confidence, at_least=0, at_most=1)
        self.classes = classes
        self.confidence = confidence
        self.symmetric = symmetric

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_assignment: Tensor,
        target_assignment: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`prototype_contrastive_loss`."""
        return prototype_contrastive_loss(
            source,
            target,
            source_assignment,
            target_assignment,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward
