"""Sigmoid contrastive loss: each pair is classified on its own, match or no match."""

from __future__ import annotations

from torch import Tensor, nn

from mmda._core.checks import check_number, fail, shape_text
from mmda._core.masking import full_precision
from mmda._engine.logit_pairs import Contrast
from mmda._engine.logit_sweep import contrastive
from mmda._engine.sigmoid_sweep import SIGMOID
from mmda._math.contrastive import candidate_rows, check_temperature, with_masks
from mmda.layers.temperature import LearnableTemperature, keep_temperature
from mmda.losses._pair_modules import CandidatesModule, TemperedModule


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
    r"""Binary cross-entropy over all pairs, summed and divided by the rows; lower means better matched.

    With :math:`z_{ij} = 1` for positives (by default i = j) and -1 for negatives,

    .. math::

       L = \frac{1}{n} \sum_{i, j} \log\bigl(1 + \exp(-z_{ij} (\cos(x_i, y_j) / \tau + b))\bigr)

    Args:
        anchor: anchor features x.
        positive: candidates y; without ``positive_mask``, row i belongs to anchor i.
        temperature: :math:`\tau` > 0, a number or a scalar tensor; the paper's t is one over it.
        bias: b, a number or a scalar tensor. It offsets the many negatives at the start of training.
        normalize: divide rows by their length; False takes inner products as they are.
        weight: how often each pair counts, as anchor and as candidate: 2 is a repeated pair (whose twin is a
            negative, as every other row), 0 an absent one. With n != m, how often each anchor counts.
        mask: bool, True = valid pair. Padding may hold anything. With n != m, of the anchors.
        candidate_mask: bool, True = valid candidate; ``mask`` by default where n = m, required beside it where not.
        positive_mask: bool, True where candidate j is a positive of anchor i.
        negative_mask: bool, True where candidate j may be a negative of anchor i; all by default. Pairs that are
            neither enter nothing.

    Shape:
        ``anchor`` (n, d), ``positive`` (m, d), or with masks (b, t, d), whose rows are flattened; ``weight`` and
        ``mask`` (n,) or (b, t), ``candidate_mask`` (m,) or (b, t); masks of pairs (n, m).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); zero where no pair is left.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive, n != m without ``positive_mask``,
            or with ``mask`` and without ``candidate_mask``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n m d) time. Large batches are computed in tiles, with masks and weights too: O((n + m) d) memory beside the
        masks that are given (see the page on performance). Second derivatives, function transforms, and weights that
        carry a gradient take the formula with the matrix of all logits, O(n m) memory. Symmetric in the two sides where
        n = m. A sum over candidates: the value grows with the batch, as in the paper. From the log-sigmoid, so that no
        pair's gradient vanishes by rounding.

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


class SigmoidContrastiveLoss(CandidatesModule, TemperedModule):
    """Module form of :func:`sigmoid_contrastive_loss`, which holds the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (a buffer here, or a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`.
        bias: a number or a scalar tensor (a buffer here, or a parameter if it is one).
        normalize: divide rows by their length.

    Notes:
        A number is a constant of a compiled graph: give a tensor where it changes while training.

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
        super().__init__()
        keep_temperature(self, "SigmoidContrastiveLoss", temperature)
        _check_bias("SigmoidContrastiveLoss", bias)
        if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
            self.register_buffer("bias", bias)
        else:
            self.bias = bias
        self.normalize = normalize
