"""Domain-adversarial losses: a discriminator separates the domains, and reversed gradients make features confuse it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import (
    check_floating,
    check_integers,
    check_same_device,
    fail,
    shape_text,
)
from mmda._core.components import check_logits
from mmda._core.maps import as_map_rows, two_map_samples
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import as_rows
from mmda._math.adversary import ask, balanced_binary, side_logits
from mmda.losses._domain_modules import DiscriminatorModule
from mmda.losses._sample_modules import DiscrepancyModule


def domain_adversarial_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    *,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of a discriminator's logits; lower means that it separates the domains better.

    Source is domain 0, target is domain 1, and both domains have the same total weight, whatever their number of rows:

    .. math::

       L = \frac{1}{2} \cdot \frac{1}{n} \sum_{i} \log(1 + e^{a_i}) + \frac{1}{2} \cdot \frac{1}{m} \sum_{j}
           \log(1 + e^{-b_j})

    with logits :math:`a` of the source and :math:`b` of the target. Logits of zero give log 2.

    Args:
        source_logits: logits (of being target) of the source rows.
        target_logits: logits of the target rows.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source_logits`` (n,) or (n, 1), ``target_logits`` (m,) or (m, 1), or with a mask (b, t); weights and masks
        have the shape of their logits.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if either sample is empty after masks and weights.

    Raises:
        ValueError: empty logits, more than one logit a row, a mask or weight of another shape.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        The discriminator minimises this loss; features behind a :class:`~mmda.layers.GradientReversal` maximise it. It
        is computed from the log-sigmoid, so a logit of 1000 with the wrong sign has a gradient of one, not zero.
        Differs from the mean over the concatenated batch (equal for n = m), in which the larger domain counts more.

    Example:
        >>> import torch
        >>> round(domain_adversarial_loss(torch.zeros(4), torch.zeros(6)).item(), 6)
        0.693147

    References:
        Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016), equations 6 and 9.
    """
    caller = "domain_adversarial_loss"
    dtype = working_dtype(source_logits, target_logits)
    _check_one_logit(caller, "source_logits", source_logits, source_mask)
    _check_one_logit(caller, "target_logits", target_logits, target_mask)
    check_same_device(caller, "source_logits", source_logits, "target_logits", target_logits)
    with full_precision(source_logits):
        x, x_weight = side_logits(caller, "source", source_logits, source_mask, source_weight, dtype)
        y, y_weight = side_logits(caller, "target", target_logits, target_mask, target_weight, dtype)
        return balanced_binary(x, y, x_weight, y_weight)


def _check_one_logit(caller: str, argument: str, logits: Tensor, mask: Tensor | None) -> None:
    """Reject probabilities, and logits with several columns, which would be class logits."""
    check_floating(caller, argument, logits)
    check_logits(caller, argument, logits)
    if logits.ndim == 1 or logits.shape[1:] == (1,) or (mask is not None and logits.ndim == 2):
        return
    fail(caller, argument, "have shape (samples,), or with a mask (batch, time)", shape_text(logits))


def _told_apart(
    source: Tensor,
    target: Tensor,
    *,
    discriminator: nn.Module,
    reversal: nn.Module,
    source_weight: Tensor | None,
    target_weight: Tensor | None,
    source_mask: Tensor | None,
    target_mask: Tensor | None,
) -> Tensor:
    caller = "DomainAdversarialLoss"
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, x_weight, y_weight = two_map_samples(
            caller, source, target, source_weight, target_weight, source_mask, target_mask
        )
        logits = ask(caller, discriminator, reversal(torch.cat([x, y])), None, dtype)
        n = x.shape[0]
        return balanced_binary(logits[:n], logits[n:], x_weight, y_weight)


class DomainAdversarialLoss(DiscrepancyModule, DiscriminatorModule):
    r"""Discriminator behind a gradient reversal, called like a discrepancy; returns the discriminator's loss.

    Computes :func:`domain_adversarial_loss` of ``discriminator(reversal(features))``. One optimiser and one backward
    pass train both: the discriminator gets the gradient of the loss, the features get it times :math:`-\lambda`.

    Args:
        discriminator: maps rows (n, d) to logits (n,) or (n, 1), as :class:`~mmda.layers.DomainDiscriminator` does.
        strength: :math:`\lambda`, see :class:`~mmda.layers.GradientReversal`; :meth:`set_strength` changes it.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).
        Feature maps (b, d, h, w) too, with or without masks (b, h, w): each position is a row.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); log 2 if the discriminator cannot separate the domains. Zero
        if either sample is empty after masks and weights.

    Raises:
        ValueError: wrong shapes, of the features or of the discriminator's logits.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        A rising value means that the features confuse the discriminator better. Rows are cast to the dtype of the
        discriminator's parameters, and autocast is off inside. Source and target rows pass through the discriminator as
        one batch, in which padding is rows of zeros; batch statistics inside the discriminator would include them.

    Example:
        >>> import torch
        >>> from mmda.layers import DomainDiscriminator
        >>> _ = torch.manual_seed(0)
        >>> adversary = DomainAdversarialLoss(DomainDiscriminator(16, hidden=[32]), strength=0.5)
        >>> adversary.set_strength(1.0)
        >>> bool(adversary(torch.randn(8, 16), torch.randn(12, 16)) > 0)
        True
    """

    _function = staticmethod(_told_apart)

    def _options(self) -> dict[str, Any]:
        return {"discriminator": self.discriminator, "reversal": self.reversal}


def multi_domain_adversarial_loss(
    logits: Tensor, domain_index: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Cross-entropy of a discriminator of K domains; lower means that it separates the domains better.

    With :math:`p` the softmax of the logits, :math:`k_i` the domain of row i, and equal weight for every domain in the
    batch,

    .. math::

       L = \frac{1}{|D|} \sum_{k \in D} \frac{1}{n_k} \sum_{i:\, k_i = k} -\log p_{i k},
       \qquad D = \{k : n_k > 0\}

    Args:
        logits: one logit per domain.
        domain_index: the domain of each row, an integer from 0 to K - 1. Rows with any other index are left out.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K); ``domain_index``, ``weight`` and ``mask`` (n,). Or (b, t, K) and (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two domains.
        TypeError: an index that is not an integer, a mask that is not bool, logits that are not floating point.

    Notes:
        For K = 2 and logits (0, a) this is :func:`domain_adversarial_loss` of a. A domain without rows in the batch is
        ignored.

    Example:
        >>> import torch
        >>> round(multi_domain_adversarial_loss(torch.zeros(4, 3), torch.tensor([0, 1, 1, 2])).item(), 6)
        1.098612

    References:
        Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016), for two domains; Zhao et al.,
        "Adversarial Multiple Source Domain Adaptation", NeurIPS 2018, for several.
    """
    caller = "multi_domain_adversarial_loss"
    dtype = working_dtype(logits)
    with full_precision(logits):
        rows, count = as_rows(
            caller, "logits", logits, mask=mask, weight=weight, dtype=dtype, prefix="", axis="domains", least=2
        )
        check_integers(caller, "domain_index", domain_index, logits.shape[:-1], device=logits.device)
        return _balanced(rows, domain_index.reshape(-1), count)


def _balanced(logits: Tensor, domain_index: Tensor, count: Tensor | None) -> Tensor:
    domains = torch.arange(logits.shape[1], device=logits.device)
    member = (domain_index.unsqueeze(1) == domains).to(logits.dtype)
    if count is not None:
        member = member * count.unsqueeze(1)
    total = member.sum(0)
    each = safe_divide(-(member * F.log_softmax(logits, 1)).sum(0), total)
    return safe_divide(each.sum(), (total > 0).to(logits.dtype).sum())


class MultiDomainAdversarialLoss(DiscriminatorModule):
    r"""Discriminator of K domains behind a gradient reversal; returns the discriminator's loss.

    Computes :func:`multi_domain_adversarial_loss` of ``discriminator(reversal(features))``.

    Args:
        discriminator: maps rows (n, d) to logits (n, K), K >= 2; for two domains
            ``DomainDiscriminator(d, one_logit=False)``.
        strength: see :class:`~mmda.layers.GradientReversal`; :meth:`set_strength` changes it.

    Shape:
        ``features`` (n, d) with ``domain_index``, ``weight``, ``mask`` (n,); or with a mask (b, t, d) and (b, t).
        Feature maps (b, d, h, w) too, with or without ``mask`` and ``weight`` (b, h, w): each position is a row of the
        domain that ``domain_index`` (b,) names for its map.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); zero where no row is left.

    Raises:
        ValueError: wrong shapes, of the features or of the discriminator's logits.
        TypeError: an index that is not an integer, a mask that is not bool, features that are not floating point.

    Example:
        >>> import torch
        >>> from mmda.layers import DomainDiscriminator
        >>> _ = torch.manual_seed(0)
        >>> adversary = MultiDomainAdversarialLoss(DomainDiscriminator(16, hidden=[32], domains=3))
        >>> bool(adversary(torch.randn(6, 16), torch.tensor([0, 0, 1, 1, 2, 2])) > 0)
        True
    """

    def forward(
        self, features: Tensor, domain_index: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See the class."""
        caller = "MultiDomainAdversarialLoss"
        dtype = working_dtype(features)
        with full_precision(features):
            x, count = as_map_rows(caller, "features", features, mask=mask, weight=weight, dtype=dtype, prefix="")
            maps = features.ndim == 4
            rows = features.shape[:1] if maps else features.shape[:-1]
            check_integers(caller, "domain_index", domain_index, rows, device=features.device)
            places = x.shape[0] // features.shape[0] if maps else 1
            logits = ask(caller, self.discriminator, self.reversal(x), 2, dtype)
            return _balanced(logits, domain_index.reshape(-1).repeat_interleave(places), count)

    if TYPE_CHECKING:
        __call__ = forward
