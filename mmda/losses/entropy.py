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
        logits: scores before the softmax, of unlabelled rows as a rule; minus infinity rules a class out.
        weight: how often each row counts: 2 is a repeated row, 0 an absent one.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [0, log K], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). From log-softmax, so confident rows give exact small numbers and no NaN. Its slope vanishes at
        certainty and at the uniform prediction. Alone it is content with one class for all rows:
        :func:`information_maximisation_loss` is not.

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
    r"""Mean entropy less the entropy of the mean prediction; lower means confident rows spread over the classes.

    With :math:`p_i` the softmax of row i and :math:`\bar p = \frac{1}{n} \sum_i p_i`,

    .. math:: \frac{1}{n} \sum_i H(p_i) - H(\bar p), \qquad H(p) = -\sum_k p_k \log p_k

    which is minus the mutual information between row and predicted class.

    Args:
        logits: scores before the softmax, of unlabelled rows as a rule; minus infinity rules a class out.
        weight: how often each row counts: 2 is a repeated row, 0 an absent one.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [-log min(n, K), 0], float32 (float64 for float64 input). Zero where all rows predict the same,
        for one row, and where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Both terms stay in the log domain. The mean is over this batch: small batches and skewed class
        priors make the second term push towards a balance that the data may not have.

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
    """Module form of :func:`entropy_loss`, which holds the formula, shapes and errors.

    Example:
        >>> EntropyLoss()
        EntropyLoss()
    """

    _function = staticmethod(entropy_loss)


class InformationMaximisationLoss(LogitModule):
    """Module form of :func:`information_maximisation_loss`, which holds the formula, shapes and errors.

    Example:
        >>> InformationMaximisationLoss()
        InformationMaximisationLoss()
    """

    _function = staticmethod(information_maximisation_loss)
