"""NT-Xent: every row of both views identifies its partner among all other rows of both views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmda._core.masking import full_precision
from mmda._engine.logit_pairs import Contrast
from mmda._engine.logit_sweep import contrastive
from mmda._engine.nt_xent_formula import NT_XENT
from mmda._math.contrastive import check_temperature, pair_rows, with_masks
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._tempered import CosineModule


def nt_xent_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    positive_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of identifying each row's partner among all 2n - 1 other rows; lower means better matched.

    With the rows of both views as one list :math:`z_1 \dots z_{2n}`, :math:`s_{uv} = \cos(z_u, z_v) / \tau`, partner
    :math:`p(u)` and positives :math:`P_u` (by default only the partner),

    .. math::

       L = \frac{1}{2 n} \sum_u \frac{1}{|P_u|} \sum_{v \in P_u} \Bigl( \log \sum_{w \ne u} \exp s_{uw} - s_{uv} \Bigr)

    where w runs over positives and negatives.

    Args:
        anchor: features of the first view.
        positive: features of the second view; row i belongs to row i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        normalize: use cosine similarity (rows of length one); False uses plain inner products.
        weight: pair weights: 2 counts a pair twice (the copy is a negative), 0 leaves it out.
        mask: bool, True = valid pair. Padding may hold anything.
        positive_mask: bool, True where both rows of pair j are positives of both rows of pair i (a row is never its own
            positive); for the supervised form of the loss.
        negative_mask: bool, True where the rows of pair j may be negatives of those of pair i; all by default.

    Shape:
        ``anchor`` and ``positive`` (n, d), or with a mask (b, t, d), whose rows are flattened; ``weight`` and
        ``mask`` (n,) or (b, t); masks of pairs (n, n).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Rows without a positive are left out of the mean; zero if none
        is left.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n^2 d) time. Large batches are computed in tiles, with masks and weights too: O(n d) memory in addition to the
        given masks (64 MB of tiles at most; see the page on performance). Symmetric pair masks halve the number of
        products. Second derivatives, function transforms, and weights that require a gradient use the full logit
        matrix, O(n^2) memory. Unlike in :func:`info_nce_loss`, rows of the same view are negatives too.

    Example:
        >>> import torch
        >>> rows = torch.eye(2)
        >>> round(nt_xent_loss(rows, rows, temperature=1.0).item(), 4)  # log(e + 2) - 1
        0.5514

    References:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, equation 1;
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2 (``positive_mask``).
    """
    caller = "nt_xent_loss"
    check_temperature(caller, temperature)
    with full_precision(anchor):
        pairs = pair_rows(caller, anchor, positive, weight, mask, zeroed=False)
        pairs = with_masks(caller, pairs, positive_mask, negative_mask)
        return contrastive(NT_XENT, pairs, Contrast("nt_xent", unit=normalize), temperature)


class NTXentLoss(CosineModule):
    """Module form of :func:`nt_xent_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`.
        normalize: divide rows by their length.

    Notes:
        ``torch.compile`` treats a Python number as a constant: pass a tensor if the temperature changes during
        training.

    Example:
        >>> NTXentLoss(temperature=0.1)
        NTXentLoss(temperature=0.1, normalize=True)
    """

    _function = staticmethod(nt_xent_loss)

    def __init__(self, *, temperature: float | Tensor | LearnableTemperature = 0.5, normalize: bool = True) -> None:
        super().__init__(temperature, normalize)

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        positive_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`nt_xent_loss`."""
        return nt_xent_loss(
            anchor,
            positive,
            weight=weight,
            mask=mask,
            positive_mask=positive_mask,
            negative_mask=negative_mask,
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward
