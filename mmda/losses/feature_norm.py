"""Adaptive feature norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_number, check_weight
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import as_rows
from mmda._math.logits import weighted_mean
from mmda.kernels import safe_sqrt
from mmda.losses._modules import LossModule

Variant = Literal["stepwise", "hard"]
_VARIANTS = ("stepwise", "hard")


def adaptive_feature_norm_loss(
    features: Tensor,
    *,
    variant: Variant = "stepwise",
    step: float = 1.0,
    radius: float = 25.0,
    reference_norm: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Squared distance of feature norms from a larger target norm; lower means closer to the target.

    With feature rows :math:`x_1 \dots x_n`,

    .. math::

       \text{stepwise:}\quad & \frac{1}{n} \sum_i \bigl(\lVert x_i \rVert - (r_i + \Delta r)\bigr)^2 \\
       \text{hard:}\quad & \Bigl(\frac{1}{n} \sum_i \lVert x_i \rVert - R\Bigr)^2

    with :math:`r_i` the norm of row i before this update, a constant: the detached :math:`\lVert x_i \rVert`, unless
    ``reference_norm`` is given. Call it once per domain and add the values.

    Args:
        features: features before the last linear layer.
        variant: ``"stepwise"`` makes each norm grow by a step, ``"hard"`` drives the mean norm to a radius.
        step: :math:`\Delta r` >= 0, used by ``"stepwise"``.
        radius: R >= 0, used by ``"hard"``.
        reference_norm: :math:`r_i`, for example from the previous iteration's weights; used by ``"stepwise"``.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``features`` (n, d), or with a mask (b, t, d); ``reference_norm``, weight and mask (n,) or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, an unknown variant, a negative step or radius.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n d). Without ``reference_norm`` the stepwise value is always :math:`\Delta r^2`: monitor the mean norm, not
        the loss. Its gradient is :math:`-2 \Delta r / n` along each unit row; a finite-difference derivative would also
        change :math:`r_i` and so differs. A zero row has gradient 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> adaptive_feature_norm_loss(x).backward()
        >>> x.grad  # minus twice the unit row
        tensor([[-1.2000, -1.6000]])
        >>> adaptive_feature_norm_loss(x, variant="hard", radius=7.0).item()
        4.0

    References:
        Xu, Li, Yang & Lin, "Larger Norm More Transferable", ICCV 2019: hard and stepwise adaptive feature norm.
    """
    caller = "adaptive_feature_norm_loss"
    _check_options(caller, variant, step, radius)
    dtype = working_dtype(features)
    with full_precision(features):
        # in float64, where squares neither overflow nor underflow and a step added to a long row is not lost
        wide = torch.float64
        rows, counts = as_rows(caller, "features", features, mask=mask, weight=weight, dtype=wide, prefix="")
        norm = safe_sqrt(rows.square().sum(1))
        if variant == "hard":
            value = (weighted_mean(norm, counts) - radius).square().to(dtype)
            return value if counts is None else torch.where(counts.sum() > 0, value, 0 * value)
        if reference_norm is None:
            reference = norm.detach()
        else:
            check_weight(caller, "reference_norm", reference_norm, features.shape[:-1], device=features.device)
            reference = reference_norm.detach().to(wide).reshape(-1)
            if counts is not None:
                reference = torch.where(counts != 0, reference, torch.zeros_like(reference))
        return weighted_mean((norm - (reference + step)).square(), counts).to(dtype)


def _check_options(caller: str, variant: object, step: object, radius: object) -> None:
    check_choice(caller, "variant", variant, _VARIANTS)
    check_number(caller, "step", step, at_least=0)
    check_number(caller, "radius", radius, at_least=0)


class AdaptiveFeatureNormLoss(LossModule):
    """Module form of :func:`adaptive_feature_norm_loss`, which documents the formula, shapes and errors.

    Args:
        variant: ``"stepwise"`` or ``"hard"``.
        step: growth of each norm, used by ``"stepwise"``.
        radius: target of the mean norm, used by ``"hard"``.

    Example:
        >>> AdaptiveFeatureNormLoss(variant="hard", radius=10)
        AdaptiveFeatureNormLoss(variant='hard', radius=10)
    """

    _function = staticmethod(adaptive_feature_norm_loss)

    def __init__(self, *, variant: Variant = "stepwise", step: float = 1.0, radius: float = 25.0) -> None:
        super().__init__()
        _check_options("AdaptiveFeatureNormLoss", variant, step, radius)
        self.variant: Variant = variant
        self.step = step
        self.radius = radius

    def forward(
        self,
        features: Tensor,
        *,
        reference_norm: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`adaptive_feature_norm_loss`."""
        return adaptive_feature_norm_loss(
            features, reference_norm=reference_norm, weight=weight, mask=mask, **self._options()
        )

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        used = f"step={self.step:g}" if self.variant == "stepwise" else f"radius={self.radius:g}"
        return f"variant={self.variant!r}, {used}"
