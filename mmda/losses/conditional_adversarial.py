"""Conditional domain-adversarial loss: the discriminator sees features together with class predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import check_floating, check_same_device, check_same_width, check_tensor, fail, shape_text
from mmda._core.components import check_discriminator, check_module
from mmda._core.maps import channels_last, two_map_samples
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import zero_uncounted
from mmda._math.adversary import ask, balanced_binary, side_logits
from mmda._math.logits import entropy_of
from mmda.layers.multilinear import RandomMultilinearMap, multilinear_map
from mmda.layers.reversal import GradientReversal
from mmda.losses._domain_modules import AdversaryModule


def conditional_adversarial_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_class_logits: Tensor,
    target_class_logits: Tensor,
    *,
    entropy_weighting: bool = True,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of a discriminator, weighted towards confident rows; lower means it separates the domains better.

    With discriminator logits a (source) and b (target), and entropies H of the class predictions,

    .. math::

       L = \frac{1}{2} \sum_i u_i \log(1 + e^{a_i}) + \frac{1}{2} \sum_j v_j \log(1 + e^{-b_j}), \qquad
       u_i = \frac{w_i (1 + e^{-H_i})}{\sum_{i'} w_{i'} (1 + e^{-H_{i'}})}

    and :math:`v` likewise over the target. With ``entropy_weighting=False`` the factors :math:`1 + e^{-H}` are one and
    this is :func:`domain_adversarial_loss`.

    Args:
        source_logits: logits (of being target) that the discriminator gives the source rows.
        target_logits: the same for the target rows.
        source_class_logits: class logits of the source rows; detached.
        target_class_logits: the same for the target.
        entropy_weighting: weigh rows by the certainty of their class prediction.
        source_weight, target_weight: row weights w: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source_logits`` (n,), ``target_logits`` (m,), or (b, t), each also with a last axis of length 1, (n, 1);
        class logits (n, classes), or (b, t, classes); weights and masks (n,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if either sample is empty after masks and weights.

    Raises:
        ValueError: wrong shapes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        The discriminator's logits are those of :func:`multilinear_map` of reversed features and *detached*
        softmax predictions: :class:`ConditionalAdversarialLoss` does this. Entropy weights are detached too and
        normalised within each domain, as in the authors' code.

    Example:
        >>> import torch
        >>> zeros, classes = torch.zeros(3), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        >>> round(conditional_adversarial_loss(zeros, zeros, classes, classes).item(), 6)  # log 2
        0.693147

    References:
        Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, equation 8.
    """
    caller = "conditional_adversarial_loss"
    source_logits = _one_logit_a_row(caller, "source_logits", source_logits, source_class_logits)
    target_logits = _one_logit_a_row(caller, "target_logits", target_logits, target_class_logits)
    check_same_device(caller, "source_logits", source_logits, "target_logits", target_logits)
    dtype = working_dtype(source_logits, target_logits)
    with full_precision(source_logits):
        x, x_weight = side_logits(caller, "source", source_logits, source_mask, source_weight, dtype)
        y, y_weight = side_logits(caller, "target", target_logits, target_mask, target_weight, dtype)
        p, q = _predictions(
            caller,
            (source_class_logits, source_logits.shape, source_mask, x_weight),
            (target_class_logits, target_logits.shape, target_mask, y_weight),
            dtype,
        )
        return _value(x, y, p, q, x_weight, y_weight, entropy_weighting=entropy_weighting)


def _one_logit_a_row(caller: str, argument: str, logits: Tensor, class_logits: Tensor) -> Tensor:
    """Drop the last axis of length 1 that a linear layer leaves, if the other axes match the class logits."""
    check_tensor(caller, argument, logits)
    check_tensor(caller, argument.replace("_logits", "_class_logits"), class_logits)
    check_same_device(caller, argument, logits, argument.replace("_logits", "_class_logits"), class_logits)
    rows = class_logits.shape[:-1]
    return logits.squeeze(-1) if logits.ndim > 1 and logits.shape == (*rows, 1) else logits


_Side = tuple[Tensor, torch.Size, Tensor | None, Tensor | None]


def _predictions(caller: str, source: _Side, target: _Side, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Detached log-probabilities (n, classes) of both domains; uniform for rows of weight zero.

    Each domain is given as class logits, shape of the rows, mask, and flat weights after masking.
    """
    sides = []
    for argument, (logits, rows, mask, weight) in (("source_class_logits", source), ("target_class_logits", target)):
        check_floating(caller, argument, logits)
        if logits.ndim != len(rows) + 1 or logits.shape[:-1] != rows or logits.shape[-1] == 0:
            axes = [*map(str, rows), "classes"] if len(rows) < 3 else [str(rows[0]), "classes", *map(str, rows[1:])]
            fail(caller, argument, f"have shape ({', '.join(axes)})", shape_text(logits))
        values = logits.detach().to(dtype).reshape(-1, logits.shape[-1])
        if weight is not None:
            values = zero_uncounted(values, weight, None if mask is None else mask.reshape(-1))
        sides.append(F.log_softmax(values, 1))
    p, q = sides
    check_same_width(caller, "source_class_logits", p, "target_class_logits", q, axis="classes")
    return p, q


def _value(
    source: Tensor,
    target: Tensor,
    p: Tensor,
    q: Tensor,
    source_weight: Tensor | None,
    target_weight: Tensor | None,
    *,
    entropy_weighting: bool,
) -> Tensor:
    """The loss of flat domain logits, with the log-probabilities p of the source rows and q of the target rows."""
    if entropy_weighting:
        source_weight, target_weight = _certainty(p, source_weight), _certainty(q, target_weight)
    return balanced_binary(source, target, source_weight, target_weight)


def _certainty(log_probabilities: Tensor, weight: Tensor | None) -> Tensor:
    """1 + exp(-H), times the row weights."""
    factor = 1 + (-entropy_of(log_probabilities)).exp()
    return factor if weight is None else factor * weight


class ConditionalAdversarialLoss(AdversaryModule):
    r"""Discriminator of features and predictions behind a gradient reversal; returns the discriminator's loss.

    Computes :func:`conditional_adversarial_loss` of ``discriminator(T(reversal(features), p))`` where p is the
    detached softmax of the class logits and T is :func:`multilinear_map` or a random map.

    Args:
        discriminator: maps rows (n, d * classes), or (n, outputs) behind a random map, to logits (n,) or (n, 1).
        strength: see :class:`~mmda.layers.GradientReversal`; :meth:`set_strength` changes it.
        entropy_weighting: weigh rows by the certainty of their class prediction.
        random_map: a :class:`RandomMultilinearMap` instead of the full outer product.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); class logits (n, classes) and (m, classes), or
        (b, t, classes); weights and masks (n,) and (m,), or (b, t). Feature maps (b, d, h, w) too, with class logits
        (b, classes, h, w) and with or without masks (b, h, w): each position is a row.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if either sample is empty after masks and weights.

    Raises:
        ValueError: wrong shapes, of the features or of the discriminator's logits.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        The class logits get no gradient. Autocast is off inside.

    Example:
        >>> import torch
        >>> from mmda.layers import DomainDiscriminator
        >>> _ = torch.manual_seed(0)
        >>> adversary = ConditionalAdversarialLoss(DomainDiscriminator(16 * 3, hidden=[32]))
        >>> rows, classes = torch.randn(8, 16), torch.randn(8, 3)
        >>> bool(adversary(rows, rows + 1.0, classes, classes) > 0)
        True
    """

    def __init__(
        self,
        discriminator: nn.Module,
        *,
        strength: float = 1.0,
        entropy_weighting: bool = True,
        random_map: RandomMultilinearMap | None = None,
    ) -> None:
        super().__init__()
        check_discriminator("ConditionalAdversarialLoss", discriminator)
        if random_map is not None:
            check_module("ConditionalAdversarialLoss", "random_map", random_map)
        self.discriminator = discriminator
        self.reversal = GradientReversal(strength)
        self.random_map = random_map
        self.entropy_weighting = entropy_weighting

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_class_logits: Tensor,
        target_class_logits: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See the class."""
        caller = "ConditionalAdversarialLoss"
        dtype = working_dtype(source, target)
        with full_precision(source):
            x, y, x_weight, y_weight = two_map_samples(
                caller, source, target, source_weight, target_weight, source_mask, target_mask
            )
            p, q = _predictions(
                caller,
                (channels_last(source_class_logits), channels_last(source).shape[:-1], source_mask, x_weight),
                (channels_last(target_class_logits), channels_last(target).shape[:-1], target_mask, y_weight),
                dtype,
            )
            joint = multilinear_map if self.random_map is None else self.random_map
            rows = joint(self.reversal(torch.cat([x, y])), torch.cat([p, q]).exp())
            logits = ask(caller, self.discriminator, rows, None, dtype)
            n = x.shape[0]
            return _value(logits[:n], logits[n:], p, q, x_weight, y_weight, entropy_weighting=self.entropy_weighting)

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return f"entropy_weighting={self.entropy_weighting}"
