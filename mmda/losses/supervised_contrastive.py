"""Supervised contrastive loss (SupCon): rows of one class attract each other, all others repel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmda._core.checks import check_integers
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import as_rows
from mmda._engine.logit_pairs import Contrast, Pairs
from mmda._engine.logit_sweep import contrastive
from mmda._engine.nt_xent_formula import NT_XENT
from mmda._math.contrastive import check_temperature
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._tempered import CosineModule


def supervised_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of identifying the rows of one class among all other rows (SupCon); lower means better grouped.

    With :math:`s_{ij} = \cos(z_i, z_j) / \tau` and :math:`P_i` the other rows that have the label of row i,

    .. math::

       L = \frac{1}{n} \sum_i \frac{1}{|P_i|} \sum_{j \in P_i} \Bigl( \log \sum_{k \ne i} \exp s_{ik} - s_{ij} \Bigr)

    where the outer mean runs over the n rows with a nonempty :math:`P_i`.

    Args:
        features: z, for example the rows of both domains together, to align classes across domains.
        labels: an integer per row. A negative one means no class: the row is a negative of every other row.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        normalize: use cosine similarity (rows of length one); False uses plain inner products.
        weight: row weights: 2 counts a row twice (the copy is a positive), 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``features`` (n, d) and ``labels`` (n,), or with a mask (b, t, d) and (b, t); ``weight`` and ``mask`` have the
        shape of the labels.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero where no two rows share a label.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive.
        TypeError: labels that are not integers, a mask that is not bool, features that are not floating point.

    Notes:
        O(n^2 d) time. Large batches are computed in tiles: O(n d) memory plus n^2 bytes for the mask of equal labels.
        Second derivatives, function transforms, and weights that require a gradient use the full logit matrix, O(n^2)
        memory. The sum over positives is outside the logarithm, which the paper found better. Pass two views of an
        image as two rows with the same label. :func:`nt_xent_loss` instead takes the two views as separate tensors and
        positives as a pair mask.

    Example:
        >>> import torch
        >>> rows, labels = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
        >>> round(supervised_contrastive_loss(rows, labels, temperature=1.0).item(), 4)  # log(e + 2) - 1
        0.5514

    References:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2 (the loss L_out).
    """
    caller = "supervised_contrastive_loss"
    check_temperature(caller, temperature)
    dtype = working_dtype(features)
    with full_precision(features):
        rows, count = as_rows(caller, "features", features, mask=mask, weight=weight, dtype=dtype, prefix="")
        check_integers(caller, "labels", labels, features.shape[:-1], device=features.device)
        label = labels.reshape(-1)
        alike = (label.unsqueeze(1) == label) & (label >= 0)
        pairs = Pairs(rows, rows.detach()[:0], a_count=count, positive_mask=alike)
        return contrastive(NT_XENT, pairs, Contrast("nt_xent", unit=normalize), temperature)


class SupervisedContrastiveLoss(CosineModule):
    """Module form of :func:`supervised_contrastive_loss` (SupCon), which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`.
        normalize: divide rows by their length.

    Example:
        >>> SupervisedContrastiveLoss(temperature=0.2)
        SupervisedContrastiveLoss(temperature=0.2, normalize=True)
    """

    _function = staticmethod(supervised_contrastive_loss)

    def __init__(self, *, temperature: float | Tensor | LearnableTemperature = 0.1, normalize: bool = True) -> None:
        super().__init__(temperature, normalize)

    def forward(
        self, features: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`supervised_contrastive_loss`."""
        return supervised_contrastive_loss(features, labels, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward
