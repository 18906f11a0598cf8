"""Validators from both domains: distance of their features, and source losses reweighted to the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.checks import (
    check_choice,
    check_count,
    check_features,
    check_finite,
    check_integers,
    check_number,
    check_same_shape,
    check_same_width,
    check_values,
    fail,
    shape_text,
)
from mmda._core.components import check_kernel
from mmda._core.masking import full_precision, working_dtype
from mmda._core.unit_rows import normalized_rows
from mmda.kernels import Gaussian, Kernel
from mmda.losses.mmd import Estimator, mmd_loss
from mmda.validators._rows import blocks, kept_rows


@torch.no_grad()
def mmd_score(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = Gaussian(),
    estimator: Estimator = "unbiased",
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    """Minus the squared maximum mean discrepancy between the domains' features; higher (closer) is better.

    The formula is in :func:`mmda.losses.mmd_loss`, of which this is the negative.

    Args:
        source: source features.
        target: target features.
        kernel: any :class:`mmda.kernels.Kernel`. A heuristic bandwidth is set for each checkpoint, so rescaling the
            features does not change the score.
        estimator: as in the loss; unbiased, so that the score does not depend on the number of rows.
        source_mask: bool, True = keep.
        target_mask: the same for the target.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d).

    Returns:
        Scalar, at most about 0; unbiased values may be positive.

    Raises:
        ValueError: as in :func:`mmda.losses.mmd_loss`, and if the masks keep fewer rows than the estimator needs (one
            per sample, or two unless it is biased).

    Notes:
        Constant features score best, so never use only this score for selection.

    Example:
        >>> import torch
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> bool(mmd_score(x[:32], x[32:]) > mmd_score(x[:32], x[32:] + 1))
        True

    References:
        Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012).
    """
    caller = "mmd_score"
    check_kernel(caller, "kernel", kernel)
    check_choice(caller, "estimator", estimator, ("biased", "unbiased", "linear"))
    least = 1 if estimator == "biased" else 2
    with full_precision(source):
        x = kept_rows(caller, "source", source, source_mask, least=least, mask_name="source_mask")
        y = kept_rows(caller, "target", target, target_mask, least=least, mask_name="target_mask")
        check_same_width(caller, "source", x, "target", y)
        if estimator == "linear" and x.shape != y.shape:
            fail(caller, "target", f"keep as many rows as `source` ({x.shape[0]}) for estimator='linear'", y.shape[0])
        return -mmd_loss(x, y, kernel=kernel, estimator=estimator)


@torch.no_grad()
def density_ratio(source: Tensor, target: Tensor, at: Tensor, *, penalty: float = 1.0) -> Tensor:
    r"""Estimate the ratio of the target's density to the source's at given rows, by logistic regression.

    .. math::

       w(x) &= \frac{n}{m} \frac{P(\text{target} \mid x)}{P(\text{source} \mid x)} = \frac{n}{m} e^{a + b \cdot x} \\
       (a, b) &= \arg\min \sum_{i} \log(1 + e^{-s_i (a + b \cdot x_i)}) + \frac{\lambda}{2} \lVert b \rVert^2

    over both samples, standardised together, with :math:`s_i = 1` on the target and -1 on the source.

    Args:
        source: source features, n rows.
        target: target features, m rows.
        at: rows at which the ratio is evaluated.
        penalty: :math:`\lambda > 0`; the inverse of scikit-learn's ``C``.

    Shape:
        ``source`` (n, d), ``target`` (m, d), ``at`` (k, d); result (k,).

    Returns:
        Ratios > 0, float64.

    Raises:
        ValueError: wrong shapes or widths, a penalty that is not above 0, features that are not finite.
        RuntimeError: Newton's method did not converge.

    Notes:
        Newton's method in float64, a few steps of O((n + m) r^2) with r = min(d, n + m); features are standardised so
        that the penalty is comparable across feature spaces.

    Example:
        >>> import torch
        >>> x = torch.linspace(-2, 2, 101).unsqueeze(1)
        >>> round(density_ratio(x, x + 1, torch.tensor([[0.5]])).item(), 4)  # half way between two equal samples
        1.0

    References:
        Bickel, Brueckner & Scheffer, "Discriminative Learning for Differing Training and Test Distributions", ICML
        2007.
    """
    caller = "density_ratio"
    check_number(caller, "penalty", penalty, above=0)
    for name, rows in (("source", source), ("target", target), ("at", at)):
        check_features(caller, name, rows)
        check_same_width(caller, "source", source, name, rows)
        check_finite(caller, name, rows)
    n, m = source.shape[0], target.shape[0]
    with full_precision(source):
        x = torch.cat([source.detach().double(), target.detach().double()])
        centre = x.mean(0)
        spread = (x - centre).square().mean(0).sqrt()
        # A feature that varies only by rounding is treated as constant.
        constant = spread <= 1e-12 * (1 + centre.abs())
        spread = torch.where(constant, math.inf, spread)
        x, points = (x - centre) / spread, (at.detach().double() - centre) / spread
        if x.shape[1] > x.shape[0]:  # the ridge solution lies in the span of the rows
            basis = torch.linalg.svd(x, full_matrices=False).Vh.T
            x, points = x @ basis, points @ basis
        label = torch.cat([x.new_zeros(n), x.new_ones(m)])
        weights = _ridge_logistic(x, label, penalty)
        return n / m * torch.exp(points @ weights[:-1] + weights[-1])


def _ridge_logistic(x: Tensor, label: Tensor, penalty: float) -> Tensor:
    """Coefficients and intercept of penalised logistic regression, by Newton's method with step halving."""
    design = torch.cat([x, x.new_ones(x.shape[0], 1)], 1)
    ridge = x.new_full((design.shape[1],), penalty)
    ridge[-1] = 0

    def objective(w: Tensor) -> Tensor:
        logit = design @ w
        return (F.softplus(logit, threshold=700) - label * logit).sum() + (ridge * w.square()).sum() / 2

    w = x.new_zeros(design.shape[1])
    w[-1] = torch.logit(label.mean())
    value = objective(w)
    for _ in range(100):
        p = torch.sigmoid(design @ w)
        gradient = design.T @ (p - label) + ridge * w
        hessian = design.T @ (design * (p * (1 - p)).unsqueeze(1)) + torch.diag(ridge)
        step: Tensor = torch.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease <= 1e-16 * (1 + abs(float(value))):
            return w - step
        size = 1.0
        while size > 1e-10:
            trial = objective(w - size * step)
            if float(trial) <= float(value) - 1e-4 * size * decrease + 1e-14 * abs(float(value)):
                break
            size /= 2
        w, value = w - size * step, trial
    raise RuntimeError("density_ratio: the logistic regression did not converge in 100 Newton steps")


@torch.no_grad()
def importance_weighted_risk(losses: Tensor, weight: Tensor, *, control_variate: bool = True) -> Tensor:
    r"""Target risk from losses on source rows, weighted by density ratios; lower is better.

    .. math:: \frac{1}{n} \sum_i w_i l_i + \eta \Bigl(\frac{1}{n} \sum_i w_i - 1\Bigr),
              \qquad \eta = - \frac{\operatorname{Cov}(w l, w)}{\operatorname{Var}(w)}

    Args:
        losses: l, one per row.
        weight: w, density ratios, whose expectation is 1.
        control_variate: False leaves the second term out (importance-weighted cross-validation).

    Shape:
        Both (n,).

    Returns:
        Scalar, float64. May be negative with the control variate.

    Raises:
        ValueError: wrong shapes; fewer than two rows with the control variate.

    Example:
        >>> import torch
        >>> round(importance_weighted_risk(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.0])).item(), 4)
        3.0

    References:
        You, Wang, Long & Jordan, "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", ICML 2019,
        the control variate; Sugiyama, Krauledat & Mueller, "Covariate Shift Adaptation by Importance Weighted Cross
        Validation", JMLR 8 (2007), for the first term.
    """
    caller = "importance_weighted_risk"
    check_features(caller, "losses", losses, axes="(rows,)", ndim=1)
    check_features(caller, "weight", weight, axes="(rows,)", ndim=1)
    check_same_shape(caller, "losses", losses, "weight", weight)
    if control_variate and losses.shape[0] < 2:
        fail(caller, "losses", "have at least 2 rows with control_variate=True", shape_text(losses))
    w = weight.detach().double()
    weighted = w * losses.detach().double()
    if not control_variate:
        return weighted.mean()
    deviation = w - w.mean()
    variance = deviation.square().sum()
    # For equal weights Cov and Var are zero, and there is nothing to correct.
    flat = variance <= w.shape[0] * (1e-14 * w.mean()).square()
    eta = -(deviation * (weighted - weighted.mean())).sum() / torch.where(flat, 1.0, variance)
    return weighted.mean() + torch.where(flat, 0.0, eta) * (w.mean() - 1)


@torch.no_grad()
def deep_embedded_validation_risk(
    losses: Tensor,
    validation_features: Tensor,
    source_features: Tensor,
    target_features: Tensor,
    *,
    penalty: float = 1.0,
    control_variate: bool = True,
) -> Tensor:
    r"""Deep embedded validation: held-out source losses reweighted to the target; lower is better.

    :func:`importance_weighted_risk` of the losses with weights :func:`density_ratio` at the validation rows.

    Args:
        losses: loss of the model on each held-out source row, for example cross-entropy or 0/1 error.
        validation_features: the model's features of those rows.
        source_features: its features of the source rows it was trained on.
        target_features: its features of target rows.
        penalty: penalty of the logistic regression; see :func:`density_ratio`.
        control_variate: see :func:`importance_weighted_risk`.

    Shape:
        ``losses`` (k,), ``validation_features`` (k, d), ``source_features`` (n, d), ``target_features`` (m, d).

    Returns:
        Scalar, float64.

    Raises:
        ValueError: wrong shapes or widths, features that are not finite.
        RuntimeError: the logistic regression did not converge.

    Notes:
        Differs from the paper: the density ratio comes from a logistic regression with a fixed penalty instead of a
        tuned small network. The estimate requires overlapping domains: if they are perfectly separable, a few rows have
        all the weight.

    Example:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 50).unsqueeze(1)
        >>> losses = x.squeeze(1).square()
        >>> round(deep_embedded_validation_risk(losses, x, x, x).item() - losses.double().mean().item(), 6)  # no shift
        0.0

    References:
        You, Wang, Long & Jordan, "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", ICML
        2019.
    """
    caller = "deep_embedded_validation_risk"
    check_features(caller, "losses", losses, axes="(rows,)", ndim=1)
    check_features(caller, "validation_features", validation_features)
    check_values(caller, "losses", losses)
    if losses.shape[0] != validation_features.shape[0]:
        fail(caller, "losses", f"have one loss per validation row ({validation_features.shape[0]})", shape_text(losses))
    weight = density_ratio(source_features, target_features, validation_features, penalty=penalty)
    return importance_weighted_risk(losses.to(weight.device), weight, control_variate=control_variate)


@torch.no_grad()
def round_trip_accuracy(source: Tensor, source_labels: Tensor, target: Tensor, *, block_size: int = 256) -> Tensor:
    r"""Fraction of source rows mapped back to their class via the target (reverse validation); higher is better.

    .. math:: \frac{1}{n} \sum_i \mathbf 1 [\, y_{s(t(i))} = y_i \,], \qquad
              t(i) = \arg\max_j \cos(x_i, z_j), \qquad s(j) = \arg\max_{l \ne i} \cos(x_l, z_j)

    Args:
        source: x, source features.
        source_labels: y, an integer per row.
        target: z, target features.
        block_size: source rows compared at once; the value does not depend on it.

    Shape:
        ``source`` (n, d), ``source_labels`` (n,), ``target`` (m, d).

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: wrong shapes or widths, fewer than two source rows.
        TypeError: labels that are not integers.

    Notes:
        O(n m d) time, twice where m is larger; O((n + m) block_size) memory. Differs from the paper: uses the nearest
        neighbour instead of a trained classifier in each direction, excluding the row itself. It checks that target
        rows lie near a single class, not that it is the right one: a target shifted as a whole onto the wrong classes
        scores well.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round_trip_accuracy(x, labels, x + 0.05).item()
        1.0

    References:
        Zhong, Fan, Yang, Verscheure & Ren, "Cross Validation Framework to Choose amongst Models and Datasets for
        Transfer Learning", ECML PKDD 2010: reverse validation.
    """
    caller = "round_trip_accuracy"
    check_features(caller, "source", source)
    check_features(caller, "target", target)
    check_same_width(caller, "source", source, "target", target)
    check_integers(caller, "source_labels", source_labels, source.shape[:1], device=source.device)
    check_count(caller, "block_size", block_size)
    n = source.shape[0]
    if n < 2:
        fail(caller, "source", "have at least 2 samples", shape_text(source))
    with full_precision(source):
        # in float64: cosines of rows in groups far apart, or far from the origin, are all near one
        x, z = (normalized_rows(rows.detach().double()) for rows in (source, target))
        right = torch.zeros((), dtype=torch.long, device=x.device)
        for block in blocks(n, block_size):
            there = (x[block] @ z.transpose(0, 1)).argmax(1)
            back = z[there] @ x.transpose(0, 1)
            own = torch.arange(block.start, block.stop, device=x.device).unsqueeze(1)
            back.scatter_(1, own, -math.inf)
            right += (source_labels[back.argmax(1)] == source_labels[block]).sum()
        return right.to(working_dtype(source, target)) / n
