"""Centred kernel alignment of paired rows."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_same_device, check_tensor, fail, shape_text
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import as_rows
from mmda._math.standardise import centred_rows, weighted
from mmda.kernels import safe_sqrt
from mmda.losses._pair_modules import PairedModule


def kernel_alignment_loss(
    anchor: Tensor, positive: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""One minus the linear centred kernel alignment (CKA) of paired rows; lower means more similar geometry.

    With X and Z the features of both inputs, each minus its mean over the rows,

    .. math::

       L = 1 - \frac{\lVert X^\top Z \rVert_F^2}{\lVert X^\top X \rVert_F \, \lVert Z^\top Z \rVert_F}

    It compares the similarities among the rows of one input with those among the rows of the other, so the widths may
    differ, and the loss is invariant to rotations, common offsets and scales of either input. Use it to match the
    geometry of two modalities, layers, or a student and its teacher without a map between their features.

    Args:
        anchor: features of one modality, layer or network.
        positive: features of the other; row i belongs to row i. The width may differ.
        weight: pair weights: 2 counts a pair twice, 0 leaves it out.
        mask: bool, True = valid pair. Padding may hold anything.

    Shape:
        ``anchor`` (n, d), ``positive`` (n, e), or with a mask (b, t, d) and (b, t, e); ``weight``, ``mask`` (n,) or
        (b, t).

    Returns:
        Scalar in [0, 1] up to rounding, float32 (float64 for float64 input). One if either input is constant, zero if
        no pair is left.

    Raises:
        ValueError: wrong shapes.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n (d + e)^2) time and O((d + e)^2) memory, or with fewer rows than features O(n^2 (d + e)) and O(n^2). The
        value is one minus :func:`hsic_loss` with linear kernels, normalised. For few rows of many features it is biased
        towards 0: compare it only at equal n.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> turned = 3 * rows @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + 5
        >>> print(f"{kernel_alignment_loss(rows, turned).abs():.4f} {kernel_alignment_loss(rows, rows[:, :1]):.4f}")
        0.0000 0.2929

    References:
        Kornblith, Norouzi, Lee & Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019, equation
        4 and section 3; Cortes, Mohri & Rostamizadeh, "Algorithms for Learning Kernels Based on Centered Alignment",
        JMLR 13 (2012), definition 4.
    """
    caller = "kernel_alignment_loss"
    check_tensor(caller, "anchor", anchor)
    check_tensor(caller, "positive", positive)
    check_same_device(caller, "anchor", anchor, "positive", positive)
    dtype = working_dtype(anchor, positive)
    with full_precision(anchor):
        x, count = as_rows(caller, "anchor", anchor, mask=mask, weight=weight, dtype=dtype, prefix="")
        z, _ = as_rows(caller, "positive", positive, mask=mask, weight=weight, dtype=dtype, prefix="")
        if anchor.shape[:-1] != positive.shape[:-1]:
            fail(caller, "positive", f"have the rows of `anchor` {tuple(anchor.shape[:-1])}", shape_text(positive))
        (x, total), (z, _) = centred_rows(x, count), centred_rows(z, count)
        x, z = _of_order_one(x, count), _of_order_one(z, count)
        if x.shape[0] < max(x.shape[1], z.shape[1]):
            k, l = x @ x.transpose(0, 1), z @ z.transpose(0, 1)  # noqa: E741
            across, within = _weighted_sum(k * l, count), [_weighted_sum(gram.square(), count) for gram in (k, l)]
        else:
            left, right = weighted(x, count).transpose(0, 1), weighted(z, count).transpose(0, 1)
            across, within = (left @ z).square().sum(), [(left @ x).square().sum(), (right @ z).square().sum()]
        return (1 - safe_divide(across, safe_sqrt(within[0]) * safe_sqrt(within[1]))) * (total > 0)


def _weighted_sum(matrix: Tensor, weight: Tensor | None) -> Tensor:
    return matrix.sum() if weight is None else weight @ matrix @ weight


def _of_order_one(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Rows over the square root of their sum of squares, so that fourth powers neither overflow nor underflow."""
    held = rows.detach()
    top = held.abs().amax()
    top = torch.where(top > 0, top, torch.ones_like(top))
    squares = weighted((held / top).square(), None if weight is None else weight.detach()).sum()
    return rows / top / torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt()


class KernelAlignmentLoss(PairedModule):
    """Module form of :func:`kernel_alignment_loss` (CKA), which documents the formula, shapes and errors.

    Example:
        >>> KernelAlignmentLoss()
        KernelAlignmentLoss()
    """

    _function = staticmethod(kernel_alignment_loss)
