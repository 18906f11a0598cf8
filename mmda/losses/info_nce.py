"""InfoNCE: each anchor identifies its positive among the candidates of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from mmda._core.checks import check_choice
from mmda._core.masking import full_precision
from mmda._engine.info_nce_formula import INFO_NCE
from mmda._engine.logit_pairs import Contrast, Pairs
from mmda._engine.logit_sweep import contrastive
from mmda._math.contrastive import candidate_rows, check_temperature, plainly_paired, with_masks
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._tempered import CosineModule

Several = Literal["mean", "sum"]
_SEVERAL = ("mean", "sum")


def info_nce_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = True,
    normalize: bool = True,
    several: Several = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
    positive_mask: Tensor | None = None,
    positive_weight: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of identifying each anchor's positive among all candidates; lower means better matched.

    With similarities :math:`s_{ij} = \cos(x_i, y_j) / \tau` of anchors x and candidates y, the candidates
    :math:`A_i` that are positives or negatives of anchor i, and :math:`q_{ij} \ge 0` the weight of j as a positive of i
    (by default the identity),

    .. math::

       L_{x \to y} &= \frac{1}{n} \sum_i \ell_i, \qquad
           \log p_{ij} = s_{ij} - \log \sum_{k \in A_i} \exp s_{ik} \\
       \texttt{several="mean":}\quad \ell_i &= - \frac{\sum_j q_{ij} \log p_{ij}}{\sum_j q_{ij}}, \qquad
       \texttt{several="sum":}\quad \ell_i = - \log \sum_j q_{ij}\, p_{ij}

    With ``symmetric``, :math:`L = (L_{x \to y} + L_{y \to x}) / 2`, the second term with the roles exchanged.

    Args:
        anchor: anchor features x.
        positive: candidates y; without ``positive_mask`` and ``positive_weight``, row i belongs to anchor i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        symmetric: average both directions (CLIP's loss); False scores only anchors against candidates.
        normalize: use cosine similarity (rows of length one); False uses plain inner products.
        several: how to combine several positives: ``"mean"`` averages their log-probabilities (all should be likely),
            ``"sum"`` adds their probabilities (any may be likely).
        weight: pair weights, for both anchor and candidate: 2 counts a pair twice (the copy is a negative, like every
            other row), 0 leaves it out. With n != m, anchor weights.
        mask: bool, True = valid pair. Padding may hold anything. With n != m, of the anchors only.
        candidate_mask: bool, True = valid candidate; defaults to ``mask`` if n = m; required together with ``mask``
            otherwise.
        positive_mask: bool, True where candidate j is a positive of anchor i.
        positive_weight: :math:`q_{ij}`, for soft positives such as temporal IoU; set to zero outside ``positive_mask``
            if both are given.
        negative_mask: bool, True where candidate j may be a negative of anchor i; all by default. Positives always stay
            candidates. See :func:`domain_negative_mask` and :func:`duplicate_mask`.

    Shape:
        ``anchor`` (n, d), ``positive`` (m, d), or with masks (b, t, d), whose rows are flattened; ``weight`` and
        ``mask`` (n,) or (b, t), ``candidate_mask`` (m,) or (b, t); masks and weights of pairs (n, m).

    Returns:
        Scalar, float32 (float64 for float64 input). Non-negative, except for :math:`q > 1` with ``"sum"``. Anchors
        without a positive are left out of the mean; zero if none is left.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive, n != m without ``positive_mask`` and
            ``positive_weight``, or with ``mask`` but without ``candidate_mask``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n m d) time. Large batches are computed in tiles, with masks and weights too: O((n + m) d) memory in addition
        to the given masks (64 MB of tiles at most; see the page on performance). Second derivatives, function
        transforms, and weights that require a gradient use the full logit matrix, O(n m) memory. Computed from the
        log-softmax, not log(p + eps): if a negative is much more similar than the positive, the gradient is one over
        the temperature, not zero. The value of a tensor temperature is not checked. Under autocast everything is
        computed in float32.

        Three losses go by this name: with ``symmetric=False`` this is InfoNCE, with ``symmetric=True`` the loss of
        CLIP; with candidates from both views it is :func:`nt_xent_loss`.

    Example:
        >>> import torch
        >>> rows = torch.eye(4)
        >>> round(info_nce_loss(rows, rows, temperature=1.0).item(), 4)  # log(e + 3) - 1
        0.7437
        >>> pairs = torch.eye(2, dtype=torch.bool).repeat(1, 2)  # two positives per anchor
        >>> round(info_nce_loss(rows[:2], rows, temperature=1.0, positive_mask=pairs, symmetric=False).item(), 4)
        1.2437

    References:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748, equation
        4; Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, figure
        3 (symmetric); Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2 (``"mean"``); Miech
        et al., "End-to-End Learning of Visual Representations from Uncurated Instructional Videos", CVPR 2020,
        equation 1 (``"sum"``).
    """
    caller = "info_nce_loss"
    check_choice(caller, "several", several, _SEVERAL)
    check_temperature(caller, temperature)
    how = Contrast("symmetric" if symmetric else "info_nce", several, normalize)
    special = (weight, mask, candidate_mask, positive_mask, positive_weight, negative_mask)
    if all(t is None for t in special) and plainly_paired(anchor, positive):
        return contrastive(INFO_NCE, Pairs(anchor, positive), how, temperature)
    with full_precision(anchor):
        pairs = candidate_rows(caller, anchor, positive, weight, mask, candidate_mask, zeroed=False)
        pairs = with_masks(caller, pairs, positive_mask, negative_mask, positive_weight)
        return contrastive(INFO_NCE, pairs, how, temperature)


class InfoNCELoss(CosineModule):
    """Module form of :func:`info_nce_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`, registered as a submodule.
        symmetric: average both directions.
        normalize: divide rows by their length.
        several: how to combine several positives, ``"mean"`` or ``"sum"``.

    Notes:
        ``torch.compile`` treats a Python number as a constant: pass a tensor if the temperature changes during
        training.

    Example:
        >>> InfoNCELoss(temperature=0.1, symmetric=False)
        InfoNCELoss(temperature=0.1, symmetric=False, normalize=True, several='mean')
    """

    _function = staticmethod(info_nce_loss)

    def __init__(
        self,
        *,
        temperature: float | Tensor | LearnableTemperature = 0.07,
        symmetric: bool = True,
        normalize: bool = True,
        several: Several = "mean",
    ) -> None:
        super().__init__(temperature, normalize)
        check_choice("InfoNCELoss", "several", several, _SEVERAL)
        self.symmetric = symmetric
        self.several: Several = several

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        candidate_mask: Tensor | None = None,
        positive_mask: Tensor | None = None,
        positive_weight: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`info_nce_loss`."""
        return info_nce_loss(
            anchor,
            positive,
            weight=weight,
            mask=mask,
            candidate_mask=candidate_mask,
            positive_mask=positive_mask,
            positive_weight=positive_weight,
            negative_mask=negative_mask,
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward
