"""Alignment and uniformity on the hypersphere: paired rows close, all rows spread."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, safe_divide
from mmda._core.unit_rows import normalized_rows
from mmda._core.weighted import weighted_logsumexp
from mmda._engine.logit_pairs import counts, own_pairs
from mmda._math.contrastive import pair_rows
from mmda.losses._pair_modules import PairedModule


def alignment_uniformity_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    uniformity: float = 1.0,
    sharpness: float = 2.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Distance of paired unit rows plus how unevenly each view covers the sphere; lower means closer and more uniform.

    With rows a and p of unit length,

    .. math::

       L = \frac{1}{n} \sum_i \lVert a_i - p_i \rVert^2 + \frac{\lambda}{2} \bigl( U(a) + U(p) \bigr), \qquad
       U(z) = \log \frac{1}{n (n - 1)} \sum_{i \ne j} e^{- t \lVert z_i - z_j \rVert^2}

    Args:
        anchor: features of one view, modality or domain.
        positive: features of the other; row i belongs to row i.
        uniformity: :math:`\lambda \ge 0`.
        sharpness: t > 0.
        weight: pair weights: 2 counts a pair twice, 0 leaves it out.
        mask: bool, True = valid pair. Padding may hold anything.

    Shape:
        ``anchor``, ``positive`` (n, d), or with a mask (b, t, d); ``weight``, ``mask`` (n,) or (b, t).

    Returns:
        Scalar in [-4 t lambda, 4], float32 (float64 for float64 input). Zero where no pair is left; a single one has
        no uniformity.

    Raises:
        ValueError: wrong shapes, a negative ``uniformity``, a ``sharpness`` that is not above 0.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n^2 d) time, O(n^2) memory. These are the two terms that a contrastive loss approaches with many negatives,
        here weighted separately and without a temperature.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> print(f"{alignment_uniformity_loss(rows, rows):.4f}")  # log exp(-2 * 4)
        -8.0000
        >>> print(f"{alignment_uniformity_loss(rows, -rows, uniformity=0.0):.4f}")
        4.0000

    References:
        Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", ICML 2020, section 4.1: exponents alpha = 2 and t = 2, as in its code.
    """
    caller = "alignment_uniformity_loss"
    _check_settings(caller, uniformity, sharpness)
    with full_precision(anchor):
        pairs = pair_rows(caller, anchor, positive, weight, mask)
        pairs = pairs._replace(a=normalized_rows(pairs.a), b=normalized_rows(pairs.b))
        count = counts(pairs.a, pairs.a_count)
        total = count.sum()
        gap = (pairs.a - pairs.b).square().sum(1)
        value = safe_divide((count * gap).sum(), total)
        for rows in (pairs.a, pairs.b):
            similarity = rows @ rows.transpose(0, 1)
            itself = own_pairs(similarity)
            squared = (2 - 2 * similarity).clamp(min=0)
            twins = count * (count - 1).clamp_min(0)
            often = torch.where(itself, torch.diag(twins), count.unsqueeze(1) * count)
            spread = weighted_logsumexp(
                (-sharpness * torch.where(itself, 0 * squared, squared)).flatten(), often.flatten()
            )
            enough = total > 1
            most = torch.where(enough, total * (total - 1), torch.ones_like(total))
            value = value + uniformity / 2 * torch.where(enough, spread - most.log(), 0 * spread)
        return value


def _check_settings(caller: str, uniformity: float, sharpness: float) -> None:
    check_number(caller, "uniformity", uniformity, at_least=0)
    check_number(caller, "sharpness", sharpness, above=0)


class AlignmentUniformityLoss(PairedModule):
    """Module form of :func:`alignment_uniformity_loss`, which documents the formula, shapes and errors.

    Args:
        uniformity: weight of the uniformity term.
        sharpness: t, larger means that only close rows repel each other.

    Example:
        >>> AlignmentUniformityLoss()
        AlignmentUniformityLoss(uniformity=1, sharpness=2)
    """

    _function = staticmethod(alignment_uniformity_loss)

    def __init__(self, *, uniformity: float = 1.0, sharpness: float = 2.0) -> None:
        super().__init__()
        _check_settings("AlignmentUniformityLoss", uniformity, sharpness)
        self.uniformity = uniformity
        self.sharpness = sharpness
