"""Pseudo-labels of target rows: from centroids (SHOT), neighbours (ATDOC), or balanced over classes (CBST)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_features, check_integers, check_number, check_same_width, fail
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.unit_rows import normalized_rows


class PseudoLabels(NamedTuple):
    """Labels for :func:`self_training_loss` and their confidence.

    Attributes:
        labels: (n,), int64; -1 for rows without a label.
        confidence: (n,), in [0, 1].
    """

    labels: Tensor
    confidence: Tensor


def _rows(caller: str, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Features and class probabilities in the working dtype, detached."""
    check_features(caller, "features", features)
    check_features(caller, "logits", logits, axes="(samples, classes)")
    if features.shape[0] != logits.shape[0]:
        fail(caller, "logits", f"have as many rows as `features` ({features.shape[0]})", logits.shape[0])
    dtype = working_dtype(features, logits)
    return features.detach().to(dtype), logits.detach().to(dtype).softmax(1)


@torch.no_grad()
def centroid_pseudo_labels(features: Tensor, logits: Tensor, *, rounds: int = 2) -> PseudoLabels:
    r"""The class with the nearest centroid in cosine similarity, alternating centroids and labels (SHOT).

    .. math:: c_k = \frac{\sum_i p_{ik} \hat f_i}{\sum_i p_{ik}}, \qquad
              \hat y_i = \arg\max_k \cos(f_i, c_k)

    with p the softmax of the logits in the first round and the one-hot labels of the previous round afterwards, and
    :math:`\hat f` the features scaled to length one.

    Args:
        features: f, of all target rows, once per epoch.
        logits: the classifier's scores of them before the softmax.
        rounds: number of centroid updates; two in the paper.

    Shape:
        ``features`` (n, d), ``logits`` (n, K).

    Returns:
        :class:`PseudoLabels`; the confidence is the cosine with the centroid, clamped at 0.

    Raises:
        ValueError: wrong shapes, ``rounds`` below 1.

    Notes:
        O(rounds n d K). Differs from the authors' code: no constant 1 is appended to the features. A class that loses
        all its rows has no centroid and is not assigned again.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> centroid_pseudo_labels(features, torch.tensor([[3.0, 0.0], [0.0, 0.1], [0.0, 3.0]])).labels.tolist()
        [0, 0, 1]

    References:
        Liang, Hu & Feng, "Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised
        Domain Adaptation", ICML 2020, equations 4 to 6.
    """
    caller = "centroid_pseudo_labels"
    check_count(caller, "rounds", rounds)
    with full_precision(features):
        rows, member = _rows(caller, features, logits)
        rows = normalized_rows(rows)
        classes = torch.arange(member.shape[1], device=rows.device)
        best, labels = rows.new_zeros(rows.shape[0]), rows.new_zeros(rows.shape[0], dtype=torch.long)
        for _ in range(rounds):
            mass = member.sum(0)
            centroids = safe_divide(member.transpose(0, 1) @ rows, mass.unsqueeze(1))
            cosine = rows @ normalized_rows(centroids).transpose(0, 1)
            best, labels = torch.where(mass > 0, cosine, -math.inf).max(1)
            member = (labels.unsqueeze(1) == classes).to(rows.dtype)
        return PseudoLabels(labels, best.clamp(0, 1))


@torch.no_grad()
def neighbour_pseudo_labels(
    features: Tensor,
    bank_features: Tensor,
    bank_probabilities: Tensor,
    *,
    neighbours: int = 5,
    own: Tensor | None = None,
) -> PseudoLabels:
    r"""The most likely class in the mean prediction of the nearest rows of a memory bank (ATDOC).

    .. math:: \hat q_i = \frac{1}{k} \sum_{j \in N_i} q_j, \qquad \hat y_i = \arg\max_c \hat q_{ic}, \qquad
              \text{confidence } \max_c \hat q_{ic}

    with :math:`N_i` the k rows of the bank with the largest cosine.

    Args:
        features: the rows to label.
        bank_features: stored features of the target rows.
        bank_probabilities: q, the stored predictions for them.
        neighbours: k, the number of nearest rows of the bank.
        own: index of each row in the bank, excluded from its neighbours; -1 if it is not in the bank.

    Shape:
        ``features`` (n, d), ``bank_features`` (m, d), ``bank_probabilities`` (m, K), ``own`` (n,).

    Returns:
        :class:`PseudoLabels`.

    Raises:
        ValueError: wrong shapes or widths, fewer rows in the bank than neighbours, not counting the row itself.
        TypeError: ``own`` that is not an integer tensor.

    Notes:
        O(n m d) time, O(n m) memory. The paper sharpens the predictions before they go into the bank,
        :math:`q_{jc} \propto p_{jc}^2 / \sum_l p_{lc}`, so that frequent classes do not dominate; do so for unbalanced
        classes.

    Example:
        >>> import torch
        >>> bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> predicted = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
        >>> neighbour_pseudo_labels(torch.tensor([[2.0, 0.0]]), bank, predicted, neighbours=2)
        PseudoLabels(labels=tensor([0]), confidence=tensor([0.7500]))

    References:
        Liang, Hu & Feng, "Domain Adaptation with Auxiliary Target Domain-Oriented Classifier", CVPR 2021, equations 5
        and 6.
    """
    caller = "neighbour_pseudo_labels"
    check_features(caller, "features", features)
    check_same_width(caller, "features", features, "bank_features", bank_features)
    _rows(caller, bank_features, bank_probabilities)
    check_count(caller, "neighbours", neighbours)
    if bank_features.shape[0] - (own is not None) < neighbours:
        rule = f"hold at least {neighbours + (own is not None)} rows"
        fail(caller, "bank_features", rule, bank_features.shape[0])
    with full_precision(features):
        dtype = working_dtype(features, bank_features)
        rows, bank = (normalized_rows(x.detach().to(dtype)) for x in (features, bank_features))
        cosine = rows @ bank.transpose(0, 1)
        if own is not None:
            check_integers(caller, "own", own, features.shape[:1], device=features.device)
            itself = torch.arange(bank.shape[0], device=bank.device) == own.unsqueeze(1)
            cosine = torch.where(itself, -math.inf, cosine)
        nearest = cosine.topk(neighbours, 1).indices
        confidence, labels = bank_probabilities.detach().to(dtype)[nearest].mean(1).max(1)
        return PseudoLabels(labels, confidence)


@torch.no_grad()
def balanced_pseudo_labels(logits: Tensor, *, share: float = 0.2) -> PseudoLabels:
    r"""The predicted class for the most confident rows of each class, no label for the others (CBST).

    Of the :math:`n_k` rows whose most likely class is k, the :math:`\lceil s\, n_k \rceil` with the largest probability
    keep it, so that difficult classes are represented too.

    Args:
        logits: scores before the softmax, of all target rows.
        share: s in (0, 1]; usually raised from epoch to epoch.

    Shape:
        ``logits`` (n, K).

    Returns:
        :class:`PseudoLabels`; the confidence is the probability of the most likely class, also for rows without a
        label. Ties keep the order of the rows.

    Raises:
        ValueError: another shape, a share outside 0 to 1.

    Notes:
        O(n K + n log n).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 0.2], [0.0, 0.1]])
        >>> balanced_pseudo_labels(logits, share=0.5).labels.tolist()
        [0, -1, 1, -1]

    References:
        Zou, Yu, Kumar & Wang, "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced
        Self-Training", ECCV 2018, equation 4 and algorithm 2.
    """
    caller = "balanced_pseudo_labels"
    check_features(caller, "logits", logits, axes="(samples, classes)")
    check_number(caller, "share", share, above=0, at_most=1)
    with full_precision(logits):
        confidence, labels = logits.detach().to(working_dtype(logits)).softmax(1).max(1)
        order = torch.argsort(confidence, descending=True, stable=True)
        member = labels[order].unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)
        place = (
            member.cumsum(0).gather(1, labels[order].unsqueeze(1)).squeeze(1)
        )  # rank within the class, starting at 1
        # 0.3 * 10 rows is 3, whichever way the product rounds.
        number = (share * member.sum(0).double() - 1e-9).ceil()[labels[order]]
        kept = torch.zeros_like(labels, dtype=torch.bool)
        kept[order] = place <= number
        return PseudoLabels(torch.where(kept, labels, -1), confidence)
