"""Virtual adversarial training (VAT): keeps predictions constant in the direction in which they change most."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_floating, check_number, check_same_shape, fail, shape_text
from mmda._core.components import check_callable
from mmda._core.draws import fixed_normal
from mmda._core.masking import full_precision, working_dtype
from mmda._math.logits import as_logit_rows, weighted_mean
from mmda.losses._modules import LossModule


def virtual_adversarial_loss(
    logits: Tensor, perturbed_logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Mean KL divergence from clean to perturbed predictions (VAT); lower means locally smoother.

    With :math:`p_i = \mathrm{softmax}(z_i)` of the clean logits, detached, and q that of the perturbed ones,

    .. math:: L = \frac{1}{n} \sum_i \sum_k p_{ik} \, (\log p_{ik} - \log q_{ik})

    Args:
        logits: scores of the unperturbed rows; detached.
        perturbed_logits: scores of the same rows, perturbed by :func:`virtual_adversarial_perturbation` or otherwise.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        Both (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong or different shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Together with entropy minimisation, on both domains, this is VADA's objective for the classifier. With
        two augmentations of a row as inputs it is a consistency loss.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> print(f"{virtual_adversarial_loss(logits, logits):.4f} {virtual_adversarial_loss(logits, -logits):.4f}")
        0.0000 1.5232

    References:
        Miyato, Maeda, Koyama & Ishii, "Virtual Adversarial Training: A Regularization Method for Supervised and
        Semi-Supervised Learning", TPAMI 41 (2019), equations 5 and 8; Shu, Bui, Narui & Ermon, "A DIRT-T Approach to
        Unsupervised Domain Adaptation" (VADA), ICLR 2018.
    """
    caller = "virtual_adversarial_loss"
    check_same_shape(caller, "logits", logits, "perturbed_logits", perturbed_logits)
    dtype = working_dtype(logits, perturbed_logits)
    with full_precision(logits):
        plain, counts = as_logit_rows(caller, "logits", logits.detach(), dtype=dtype, mask=mask, weight=weight)
        moved, _ = as_logit_rows(caller, "perturbed_logits", perturbed_logits, dtype=dtype, mask=mask, weight=weight)
        return weighted_mean(_divergence(plain, moved), counts)


def _divergence(plain: Tensor, moved: Tensor) -> Tensor:
    """KL(softmax(plain) || softmax(moved)) of each row."""
    log_p = plain.log_softmax(1)
    zero = torch.zeros((), dtype=log_p.dtype, device=log_p.device)
    gap = torch.where(log_p == -torch.inf, zero, log_p - moved.log_softmax(1))
    return (log_p.exp() * gap).sum(1)


def virtual_adversarial_perturbation(
    classifier: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    radius: float = 1.0,
    probe: float = 1e-3,
    steps: int = 1,
    logits: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The perturbation of a given length that changes a classifier's predictions most, by power iteration.

    Starting from a random unit vector d in each row, repeat ``steps`` times

    .. math:: d \leftarrow \frac{g}{\lVert g \rVert}, \qquad
              g = \nabla_r\, \mathrm{KL}\bigl(p(x) \,\Vert\, p(x + r)\bigr) \Big|_{r = \xi d}

    and return :math:`\epsilon d`.

    Args:
        classifier: maps rows to logits (n, K). It is called ``steps`` times, and once more if ``logits`` is not given;
            put batch normalisation and dropout into evaluation mode, otherwise they disturb the search.
        x: inputs or features.
        radius: :math:`\epsilon > 0`, the length of each row's step.
        probe: :math:`\xi > 0`, distance from x at which the gradient is taken.
        steps: iterations; one in the paper.
        logits: the classifier's logits of x, if already computed.
        generator: draws the initial directions; None for a fixed set.

    Shape:
        ``x`` (n, ...), result as ``x``.

    Returns:
        The perturbation, without a gradient, in the dtype of ``x``. A row whose gradient is exactly zero keeps its
        initial direction.

    Raises:
        ValueError: a setting out of its range, logits of another number of rows.
        TypeError: a classifier that cannot be called, inputs that are not floating point.

    Notes:
        Gradients of the parameters are left unchanged. In half precision the probe is lost in rounding: pass float32
        features or a larger ``probe``.

    Example:
        >>> import torch
        >>> classifier = torch.nn.Linear(3, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(classifier.weight)
        >>> classifier.weight.data[0, 1] = 1.0  # the predictions depend on the second feature alone
        >>> virtual_adversarial_perturbation(classifier, torch.ones(1, 3), radius=2.0).abs()
        tensor([[0., 2., 0.]])

    References:
        Miyato et al., TPAMI 41 (2019), algorithm 1 and section 3.3.
    """
    caller = "virtual_adversarial_perturbation"
    check_callable(caller, "classifier", classifier)
    check_floating(caller, "x", x)
    check_number(caller, "radius", radius, above=0)
    check_number(caller, "probe", probe, above=0)
    check_count(caller, "steps", steps)
    if x.ndim < 2 or 0 in x.shape:
        fail(caller, "x", "have shape (rows, ...) with no empty axis", shape_text(x))
    x = x.detach()
    rows = x.flatten(1)
    if generator is None:
        direction = fixed_normal(*rows.shape, dtype=rows.dtype, device=rows.device)
    else:
        drawn = torch.randn(rows.shape, generator=generator, device=generator.device)
        direction = drawn.to(device=rows.device, dtype=rows.dtype)
    with torch.no_grad():
        plain = (classifier(x) if logits is None else logits).detach()
    if plain.ndim != 2 or plain.shape[0] != x.shape[0]:
        fail(caller, "logits", f"have shape ({x.shape[0]}, classes)", shape_text(plain))
    plain = plain.to(working_dtype(plain))
    direction = _unit(direction, direction)
    for _ in range(steps):
        with torch.enable_grad():
            step = (probe * direction).requires_grad_()
            moved = classifier(x + step.reshape(x.shape))
            (gradient,) = torch.autograd.grad(_divergence(plain, moved.to(plain.dtype)).sum(), step)
        direction = _unit(gradient, direction)
    return (radius * direction).reshape(x.shape)


def _unit(rows: Tensor, otherwise: Tensor) -> Tensor:
    """Rows scaled to length 1; ``otherwise`` for zero rows. Divides by the largest entry first to avoid underflow."""
    top = rows.abs().amax(1, keepdim=True)
    some = top > 0
    scaled = rows / torch.where(some, top, torch.ones_like(top))
    length = scaled.square().sum(1, keepdim=True).sqrt()
    return torch.where(some, scaled / torch.where(some, length, torch.ones_like(length)), otherwise)


class VirtualAdversarialLoss(LossModule):
    """Module form of :func:`virtual_adversarial_loss` (VAT), which documents the formula, shapes and errors.

    Example:
        >>> VirtualAdversarialLoss()
        VirtualAdversarialLoss()
    """

    _function = staticmethod(virtual_adversarial_loss)

    def forward(
        self,
        logits: Tensor,
        perturbed_logits: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`virtual_adversarial_loss`."""
        return virtual_adversarial_loss(logits, perturbed_logits, weight=weight, mask=mask)

    if TYPE_CHECKING:
        __call__ = forward
