"""Row weights for partial and open-set adaptation and for covariate shift; pass them to any loss here."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import (
    check_count,
    check_features,
    check_floating,
    check_number,
    check_same_width,
    fail,
    shape_text,
)
from mmda._core.components import check_kernel
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._math.logits import as_logit_rows, weighted_mean
from mmda.kernels import Gaussian, Kernel, distances_about, settle_bandwidth


@torch.no_grad()
def partial_class_weight(target_logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    r"""Weight of each source class from the target's predictions (PADA): small for classes absent from the target.

    .. math:: \gamma_k = \frac{\bar p_k}{\max_l \bar p_l}, \qquad \bar p = \frac{1}{m} \sum_j \mathrm{softmax}(z_j)

    Args:
        target_logits: z, scores before the softmax, of all target rows.
        weight: row weights.
        mask: bool, True = keep.

    Shape:
        ``target_logits`` (m, K), or with a mask (b, t, K); result (K,).

    Returns:
        Weights in [0, 1], the largest 1, without a gradient. ``partial_class_weight(z)[labels]`` is the
        ``source_weight`` of any loss here, and the weight of the source's cross-entropy.

    Raises:
        ValueError: wrong shapes, fewer than two classes.

    Example:
        >>> import torch
        >>> partial_class_weight(torch.tensor([[9.0, 9.0, -9.0]]))
        tensor([1.0000e+00, 1.0000e+00, 1.5230e-08])

    References:
        Cao, Ma, Long & Wang, "Partial Adversarial Domain Adaptation", ECCV 2018, equation 4.
    """
    with full_precision(target_logits):
        dtype = working_dtype(target_logits)
        rows, counts = as_logit_rows(
            "partial_class_weight", "target_logits", target_logits, dtype=dtype, mask=mask, weight=weight
        )
        share = weighted_mean(rows.softmax(1), counts)
        return safe_divide(share, share.amax().expand_as(share))


@torch.no_grad()
def partial_row_weight(source_logits: Tensor) -> Tensor:
    r"""Weight of each source row from a discriminator (IWAN): small for rows unlike anything in the target.

    .. math:: w_i = \frac{\sigma(a_i)}{\frac{1}{n} \sum_l \sigma(a_l)}

    Args:
        source_logits: a, logits of being target for the source rows, from a discriminator trained without gradient
            reversal.

    Shape:
        (n,) or (n, 1); result (n,).

    Returns:
        Weights >= 0 of mean 1, without a gradient: the ``source_weight`` of any loss here.

    Raises:
        ValueError: another shape.

    Example:
        >>> import torch
        >>> partial_row_weight(torch.tensor([0.0, 0.0, -50.0]))
        tensor([1.5000e+00, 1.5000e+00, 5.7862e-22])

    References:
        Zhang, Ding, Li & Ogunbona, "Importance Weighted Adversarial Nets for Partial Domain Adaptation", CVPR 2018,
        equations 6 and 7.
    """
    check_floating("partial_row_weight", "source_logits", source_logits)
    logits = source_logits.squeeze(-1) if source_logits.ndim == 2 else source_logits
    check_features("partial_row_weight", "source_logits", logits, axes="(samples,)", ndim=1)
    # softmax of the log-sigmoid = sigmoid(a) / sum of sigmoids, without underflow for very negative logits
    log_share = torch.nn.functional.logsigmoid(logits.to(working_dtype(logits)))
    return log_share.softmax(0) * logits.shape[0]


@torch.no_grad()
def known_class_weight(target_logits: Tensor) -> Tensor:
    """Weight of each target row in open-set adaptation: the probability that its class is known.

    One minus the probability of the last class, "unknown", as :func:`open_set_loss` trains it.

    Args:
        target_logits: scores of the target rows before the softmax, over K + 1 classes.

    Shape:
        (..., K + 1); result (...).

    Returns:
        Weights in [0, 1], without a gradient: the ``target_weight`` of any loss here, so that unknown rows are not
        aligned.

    Raises:
        ValueError: fewer than two classes.

    Example:
        >>> import torch
        >>> known_class_weight(torch.tensor([[0.0, 0.0], [9.0, -9.0]]))
        tensor([0.5000, 1.0000])

    References:
        Saito, Yamamoto, Ushiku & Harada, "Open Set Domain Adaptation by Backpropagation", ECCV 2018: the class
        "unknown".
    """
    check_floating("known_class_weight", "target_logits", target_logits)
    if target_logits.ndim == 0 or target_logits.shape[-1] < 2:
        fail("known_class_weight", "target_logits", "have at least 2 classes", shape_text(target_logits))
    with full_precision(target_logits):
        return target_logits.to(working_dtype(target_logits)).softmax(-1)[..., :-1].sum(-1)


@torch.no_grad()
def kernel_mean_matching(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(),
    bound: float = 10.0,
    slack: float | None = None,
    iterations: int = 2000,
) -> Tensor:
    r"""Weights of the source rows that bring their kernel mean nearest to the target's (KMM).

    .. math::

       \min_w \; \Bigl\lVert \frac{1}{n} \sum_i w_i \phi(x_i) - \frac{1}{m} \sum_j \phi(y_j) \Bigr\rVert^2
       \quad \text{with} \quad 0 \le w_i \le B, \quad \Bigl| \frac{1}{n} \sum_i w_i - 1 \Bigr| \le \epsilon

    Args:
        source: x, source features.
        target: y, target features.
        kernel: any :class:`mmda.kernels.Kernel`.
        bound: B >= 1.
        slack: :math:`\epsilon \ge 0`; None for :math:`1 - 1 / \sqrt n`.
        iterations: projected gradient steps with momentum.

    Shape:
        ``source`` (n, d), ``target`` (m, d); result (n,).

    Returns:
        Weights in [0, B], float64, without a gradient: estimated density ratios, the ``source_weight`` of a loss.

    Raises:
        ValueError: wrong shapes or widths, a setting out of its range.

    Notes:
        O(n (n + m) d + iterations n^2) time, O(n (n + m)) memory. The problem is convex, so more iterations come closer
        to its minimum. :func:`mmda.validators.density_ratio` estimates the same ratios with a classifier, also for new
        rows.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.0], [5.0]])
        >>> kernel_mean_matching(x, torch.zeros(4, 1), kernel=Gaussian(1.0), slack=0.0).round(decimals=3).tolist()
        [1.5, 1.5, 0.0]

    References:
        Huang, Smola, Gretton, Borgwardt & Schoelkopf, "Correcting Sample Selection Bias by Unlabeled Data", NeurIPS
        2006, equations 11 and 12; its bound and slack.
    """
    caller = "kernel_mean_matching"
    check_kernel(caller, "kernel", kernel)
    check_features(caller, "source", source)
    check_features(caller, "target", target)
    check_same_width(caller, "source", source, "target", target)
    check_number(caller, "bound", bound, at_least=1)
    check_count(caller, "iterations", iterations)
    n = source.shape[0]
    if slack is None:
        slack = 1 - n**-0.5
    check_number(caller, "slack", slack, at_least=0)
    with full_precision(source):
        x, y = source.detach().double(), target.detach().double()
        bandwidth = settle_bandwidth(kernel, x, y, None, None)
        centre = y.mean(0)
        gram = kernel.evaluate(distances_about(centre, x, x, same=True), bandwidth)
        wanted = n * kernel.evaluate(distances_about(centre, x, y), bandwidth).mean(1)
        size: Tensor = torch.linalg.matrix_norm(gram, 2)
        w = ahead = torch.ones_like(wanted)
        momentum = 1.0
        for _ in range(iterations):
            moved = _within(ahead - (gram @ ahead - wanted) / size, bound, n * (1 - slack), n * (1 + slack))
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = moved + (momentum - 1) / following * (moved - w)
            w, momentum = moved, following
        return w


def _within(w: Tensor, bound: float, least: float, most: float) -> Tensor:
    """Project on entries in [0, bound] with a sum in [least, most], by bisection on a common shift."""
    clipped = w.clamp(0, bound)
    total = float(clipped.sum())
    if least <= total <= most:
        return clipped
    goal = least if total < least else most
    low, high = float((-w).amin()) - 1, float((bound - w).amax()) + 1
    for _ in range(60):
        middle = (low + high) / 2
        if float((w + middle).clamp(0, bound).sum()) < goal:
            low = middle
        else:
            high = middle
    return (w + high).clamp(0, bound)
