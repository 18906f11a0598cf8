"""Sigmoid contrastive loss: each pair is classified independently as match or no match."""

from __future__ import annotations

from torch import Tensor, nn

from mmda._core.checks import check_number, fail, shape_text
from mmda._core.masking import full_precision
from mmda._engine.logit_pairs import Contrast
from mmda._engine.logit_sweep import contrastive
from mmda._engine.sigmoid_formula import SIGMOID
from mmda._math.contrastive import candidate_rows, check_temperature, with_masks
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._pair_modules import CandidatesModule
from mmda.losses._tempered import CosineModule


def sigmoid_contrastive_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = -10.0,
    normalize: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
    positive_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy summed over all pairs, divided by the number of rows; lower means better matched.

    With :math:`z_{ij} = 1` for positives (by default i = j) and -1 for negatives,

    .. math::

       L = \frac{1}{n} \sum_{i, j} \log\bigl(1 + \exp(-z_{ij} (\cos(x_i, y_j) / \tau + b))\bigr)

    Args:
        anchor: anchor features x.
        positive: candidates y; without ``positive_mask``, row i belongs to anchor i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor; the paper's t is its inverse.
        bias: b, a number or a scalar tensor. It compensates for the many negatives at the start of training.
        normalize: use cosine similarity (rows of length one); False uses plain inner products.
        weight: pair weights, for both anchor and candidate: 2 counts a pair twice (the copy is a negative, like every
            other row), 0 leaves it out. With n != m, anchor weights.
        mask: bool, True = valid pair. Padding may hold anything. With n != m, of the anchors only.
        candidate_mask: bool, True = valid candidate; defaults to ``mask`` if n = m; required together with ``mask``
            otherwise.
        positive_mask: bool, True where candidate j is a positive of anchor i.
        negative_mask: bool, True where candidate j may be a negative of anchor i; all by default. Pairs that are
            neither are ignored.

    Shape:
        ``anchor`` (n, d), ``positive`` (m, d), or with masks (b, t, d), whose rows are flattened; ``weight`` and
        ``mask`` (n,) or (b, t), ``candidate_mask`` (m,) or (b, t); masks of pairs (n, m).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); zero where no pair is left.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive, n != m without ``positive_mask``,
            or with ``mask`` but without ``candidate_mask``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n m d) time. Large batches are computed in tiles, with masks and weights too: O((n + m) d) memory in addition
        to the given masks (see the page on performance). Second derivatives, function transforms, and weights that
        require a gradient use the full logit matrix, O(n m) memory. Symmetric in anchors and candidates if n = m.
        Summed over candidates, so the value grows with the batch, as in the paper. Computed from the log-sigmoid, so
        that no pair's gradient vanishes by rounding.

    Example:
        >>> import torch
        >>> rows = torch.eye(2)
        >>> loss = sigmoid_contrastive_loss(rows, rows, temperature=1.0, bias=0.0)
        >>> round(loss.item(), 4)  # log(1 + 1/e) + log 2
        1.0064

    References:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, section 3.2 and algorithm 1.
    """
    caller = "sigmoid_contrastive_loss"
    check_temperature(caller, temperature)
    _check_bias(caller, bias)
    with full_precision(anchor):
        pairs = candidate_rows(caller, anchor, positive, weight, mask, candidate_mask, zeroed=False)
        pairs = with_masks(caller, pairs, positive_mask, negative_mask)
        shift = bias.to(pairs.a) if isinstance(bias, Tensor) else pairs.a.new_full((), bias)
        pairs = pairs._replace(bias=shift)
        return contrastive(SIGMOID, pairs, Contrast("sigmoid", unit=normalize), temperature)


def _check_bias(caller: str, bias: float | Tensor) -> None:
    if not isinstance(bias, Tensor):
        check_number(caller, "bias", bias)
    elif bias.ndim != 0:
        fail(caller, "bias", "have shape ()", shape_text(bias))


class SigmoidContrastiveLoss(CandidatesModule, CosineModule):
    """Module form of :func:`sigmoid_contrastive_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`.
        bias: a number or a scalar tensor (registered as a buffer, or as a parameter if it is one).
        normalize: divide rows by their length.

    Notes:
        ``torch.compile`` treats a Python number as a constant: pass a tensor if it changes during training.

    Example:
        >>> SigmoidContrastiveLoss(temperature=0.2)
        SigmoidContrastiveLoss(temperature=0.2, bias=-10, normalize=True)
    """

    _function = staticmethod(sigmoid_contrastive_loss)

    bias: float | Tensor

    def __init__(
        self,
        *,
        temperature: float | Tensor | LearnableTemperature = 0.1,
        bias: float | Tensor = -10.0,
        normalize: bool = True,
    ) -> None:
        super().__init__(temperature, normalize)
        _check_bias("SigmoidContrastiveLoss", bias)
        if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
            self.register_buffer("bias", bias)
        else:
            self.bias = bias
