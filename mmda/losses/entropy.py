"""Entropy minimisation and information maximisation."""

from __future__ import annotations

from torch import Tensor

from mmda._core.masking import full_precision, working_dtype
from mmda._math.logits import as_logit_rows, entropy_of, log_mean_probability, weighted_mean
from mmda.losses._sample_modules import LogitModule


def entropy_loss(logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    r"""Mean entropy of the predictions; lower means more confident.

    With rows :math:`z_1 \dots z_n` of logits over K classes and :math:`p_i = \mathrm{softmax}(z_i)`,

    .. math:: \frac{1}{n} \sum_i H(p_i), \qquad H(p) = -\sum_k p_k \log p_k

    Args:
        logits: scores before the softmax, usually of unlabelled rows; minus infinity excludes a class.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [0, log K], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Computed from the log-softmax, so confident rows give accurate small numbers and no NaN. The gradient
        vanishes for certain and for uniform predictions. Predicting one class for all rows minimises this loss;
        :func:`information_maximisation_loss` prevents that.

    Example:
        >>> import torch
        >>> print(f"{entropy_loss(torch.zeros(3, 4)):.4f}")  # log 4
        1.3863
        >>> print(f"{entropy_loss(torch.tensor([[50.0, 0.0], [0.0, 50.0]])):.4f}")
        0.0000

    References:
        Grandvalet & Bengio, "Semi-supervised Learning by Entropy Minimization", NIPS 2004:
        the conditional entropy H(Y | X; Z), its regulariser.
    """
    with full_precision(logits):
        rows, counts = as_logit_rows(
            "entropy_loss", "logits", logits, dtype=working_dtype(logits), mask=mask, weight=weight
        )
        return weighted_mean(entropy_of(rows.log_softmax(1)), counts)


def information_maximisation_loss(
    logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Mean entropy minus the entropy of the mean prediction; lower means confident rows spread over the classes.

    With :math:`p_i` the softmax of row i and :math:`\bar p = \frac{1}{n} \sum_i p_i`,

    .. math:: \frac{1}{n} \sum_i H(p_i) - H(\bar p), \qquad H(p) = -\sum_k p_k \log p_k

    which is minus the mutual information of row and predicted class.

    Args:
        logits: scores before the softmax, usually of unlabelled rows; minus infinity excludes a class.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [-log min(n, K), 0], float32 (float64 for float64 input). Zero if all rows have the same prediction,
        for a single row, and if no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Both terms stay in the log domain. The mean prediction is that of the batch: with small batches or
        unbalanced classes the second term pushes towards a class balance that the data do not have.

    Example:
        >>> import torch
        >>> certain = 50 * torch.eye(4)
        >>> print(f"{information_maximisation_loss(certain):.4f}")  # -log 4
        -1.3863
        >>> print(f"{abs(information_maximisation_loss(certain[:1].expand(4, 4))):.4f}")  # one class for all
        0.0000

    References:
        Krause, Perona & Gomes, "Discriminative Clustering by Regularized Information Maximization", NIPS 2010: the
        empirical mutual information, negated; Liang, Hu & Feng, "Do We Really Need to Access the Source Data?", ICML
        2020: the information maximisation loss of SHOT.
    """
    with full_precision(logits):
        rows, counts = as_logit_rows(
            "information_maximisation_loss", "logits", logits, dtype=working_dtype(logits), mask=mask, weight=weight
        )
        log_p = rows.log_softmax(1)
        return weighted_mean(entropy_of(log_p), counts) - entropy_of(log_mean_probability(log_p, counts))


class EntropyLoss(LogitModule):
    """Module form of :func:`entropy_loss`, which documents the formula, shapes and errors.

    Example:
        >>> EntropyLoss()
        EntropyLoss()
    """

    _function = staticmethod(entropy_loss)


class InformationMaximisationLoss(LogitModule):
    """Module form of :func:`information_maximisation_loss`, which documents the formula, shapes and errors.

    Example:
        >>> InformationMaximisationLoss()
        InformationMaximisationLoss()
    """

    _function = staticmethod(information_maximisation_loss)
