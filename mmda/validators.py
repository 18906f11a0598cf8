"""Model selection without target labels: each function is one number for one checkpoint, from its own outputs.

Names say the direction. A ``*_score``, ``*_density`` or ``*_recall`` is better when **higher**; a ``*_risk``,
``*_loss``, ``*_entropy`` or ``*_constancy`` when **lower**.

==========================================  ============  ====================================================
function                                    better when   needs
==========================================  ============  ====================================================
:func:`soft_neighbourhood_density`          higher        target predictions (or features)
:func:`entropy_score`                       higher        target logits
:func:`information_maximisation_score`      higher        target logits
:func:`nuclear_norm_score`                  higher        target logits
:func:`mmd_score`                           higher        features of both domains
:func:`importance_weighted_risk`            lower         losses on held-out source rows, their density ratios
:func:`deep_embedded_validation_risk`       lower         features of both domains, losses on held-out source rows
:func:`pair_retrieval_recall`               higher        features of held-out target pairs
:func:`held_out_pair_loss`                  lower         features of held-out target pairs
:func:`span_entropy`                        lower         start and end logits on the target
:func:`span_constancy`                      lower         decoded spans on the target: an alarm, not a ranking
==========================================  ============  ====================================================

:func:`density_ratio` ranks nothing: it estimates the ratios that :func:`importance_weighted_risk` weighs with.

None of them is right everywhere: confidence can be confidently wrong, and a collapsed model is certain. Read two of
different kinds, and keep the alarm beside them. Nothing here carries a gradient or reads a label of the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.checks import (
    check_choice,
    check_count,
    check_features,
    check_floating,
    check_kernel,
    check_mask,
    check_number,
    check_same_shape,
    check_same_width,
    check_tensor,
    fail,
    shape_text,
)
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import normalized_rows
from mmda._math.spectral import zero_undefined
from mmda.kernels import Gaussian, Kernel
from mmda.losses.entropy import entropy_loss, information_maximisation_loss
from mmda.losses.mmd import Estimator, mmd_loss


def _kept_rows(
    caller: str, argument: str, x: Tensor, mask: Tensor | None, *, least: int = 1, mask_name: str = "mask"
) -> Tensor:
    """Rows (n, d) in the working dtype where the mask is True, at least ``least`` of them."""
    check_floating(caller, argument, x)
    if x.ndim not in ((2,) if mask is None else (2, 3)):
        rule = "have shape (samples, features)" + ("" if mask is None else " or (batch, time, features)")
        fail(caller, argument, rule, shape_text(x))
    if mask is not None:
        check_mask(caller, mask_name, mask, x.shape[:-1])
        x = x[mask]
    if x.shape[0] < least or x.shape[1] == 0:
        fail(caller, argument, f"keep at least {least} row{'s' * (least > 1)} of at least 1 feature", shape_text(x))
    return x.detach().to(working_dtype(x))


def _kept_classes(caller: str, logits: Tensor, mask: Tensor | None) -> Tensor:
    """:func:`_kept_rows` of logits over at least two classes."""
    rows = _kept_rows(caller, "logits", logits, mask)
    if rows.shape[1] < 2:
        fail(caller, "logits", "have at least 2 classes", rows.shape[1])
    return rows


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


# Class predictions


@torch.no_grad()
def soft_neighbourhood_density(
    features: Tensor, *, temperature: float = 0.05, mask: Tensor | None = None, block_size: int = 256
) -> Tensor:
    r"""How many near neighbours rows have on average, as an entropy; higher is better.

    With rows :math:`u_i` of unit norm,

    .. math:: p_{ij} = \frac{\exp(u_i \cdot u_j / \tau)}{\sum_{l \ne i} \exp(u_i \cdot u_l / \tau)} \ (j \ne i),
              \qquad \frac{1}{n} \sum_i - \sum_{j \ne i} p_{ij} \log p_{ij}

    Args:
        features: the paper uses softmax predictions on the target: pass ``logits.softmax(1)``.
        temperature: :math:`\tau > 0`.
        mask: bool, True = keep.
        block_size: rows compared at once; the value does not depend on it beyond rounding.

    Shape:
        ``features`` (n, d), or with a mask (b, t, d).

    Returns:
        Scalar in [0, log(n - 1)].

    Raises:
        ValueError: wrong shapes, fewer than two rows left, a temperature that is not above 0.

    Notes:
        O(n^2 d) time, O(n block_size) memory. It grows with n: compare checkpoints on one set of rows. One class for
        all rows reaches the maximum; read it beside :func:`information_maximisation_score`.

    Example:
        >>> import torch
        >>> pairs = torch.eye(2).repeat(3, 1)  # two tight clusters of three: two neighbours each
        >>> round(soft_neighbourhood_density(pairs).item(), 4)  # log 2
        0.6931

    References:
        Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
        Density", ICCV 2021.
    """
    caller = "soft_neighbourhood_density"
    check_number(caller, "temperature", temperature, above=0)
    check_count(caller, "block_size", block_size)
    with full_precision(features):
        u = normalized_rows(_kept_rows(caller, "features", features, mask, least=2))
        n = u.shape[0]
        total = torch.zeros((), dtype=torch.float64)
        for block in _blocks(n, block_size):
            similarity = u[block] @ u.T / temperature
            own = torch.arange(block.start, block.stop, device=u.device).unsqueeze(1)
            similarity.scatter_(1, own, -math.inf)
            similarity -= similarity.amax(1, keepdim=True)
            p = similarity.exp()
            similarity.scatter_(1, own, 0.0)
            mass = p.sum(1)
            total += (mass.log() - (p * similarity).sum(1) / mass).sum().double().cpu()
        return (total / n).to(device=u.device, dtype=u.dtype)


@torch.no_grad()
def entropy_score(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Minus the mean entropy of the predictions; higher (more confident) is better.

    The formula is in :func:`mmda.losses.entropy_loss`, of which this is the negative.

    Args:
        logits: scores before the softmax on the target.
        mask: bool, True = keep.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K).

    Returns:
        Scalar in [-log K, 0].

    Raises:
        ValueError: wrong shapes, fewer than two classes, no row left.

    Notes:
        A model that was trained to be confident scores well whether right or wrong.

    Example:
        >>> import torch
        >>> round(entropy_score(torch.zeros(3, 4)).item(), 4)  # - log 4
        -1.3863

    References:
        Morerio, Cavazza & Murino, "Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain Adaptation",
        ICLR 2018.
    """
    with full_precision(logits):
        return -entropy_loss(_kept_classes("entropy_score", logits, mask))


@torch.no_grad()
def information_maximisation_score(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mutual information between row and predicted class; higher (confident and diverse) is better.

    The formula is in :func:`mmda.losses.information_maximisation_loss`, of which this is the negative.

    Args:
        logits: scores before the softmax on the target.
        mask: bool, True = keep.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K).

    Returns:
        Scalar in [0, log K].

    Raises:
        ValueError: wrong shapes, fewer than two classes, no row left.

    Notes:
        Unlike :func:`entropy_score`, one class for all rows scores 0. Give it the whole set at once: the mean over
        batches is another number.

    Example:
        >>> import torch
        >>> round(information_maximisation_score(50 * torch.eye(4)).item(), 4)  # log 4
        1.3863

    References:
        Musgrave, Belongie & Lim, "Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain
        Adaptation" (2022), which ranks validators.
    """
    with full_precision(logits):
        return -information_maximisation_loss(_kept_classes("information_maximisation_score", logits, mask))


@torch.no_grad()
def nuclear_norm_score(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Nuclear norm of the predictions over their number; higher (confident and diverse) is better.

    .. math:: \frac{1}{n} \lVert P \rVert_*, \qquad P_{ik} = \mathrm{softmax}(z_i)_k

    Args:
        logits: scores before the softmax on the target.
        mask: bool, True = keep.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K).

    Returns:
        Scalar in (0, sqrt(min(n, K) / n)].

    Raises:
        ValueError: wrong shapes, no row left.

    Notes:
        The exact norm; the training loss :func:`mmda.losses.batch_nuclear_norm_loss` rounds it off at zero singular
        values. It falls as :math:`1 / \sqrt n` for n > K: compare checkpoints on one set of rows.

    Example:
        >>> import torch
        >>> round(nuclear_norm_score(100 * torch.eye(4)).item(), 4)
        1.0

    References:
        Cui et al., CVPR 2020, for the norm; Musgrave, Belongie & Lim (2022) for its use as a validator.
    """
    with full_precision(logits):
        p = _kept_rows("nuclear_norm_score", "logits", logits, mask).softmax(1)
        singular: Tensor = torch.linalg.svdvals(zero_undefined(p))
        return torch.where(p.isnan().any(), math.nan, singular.sum() / p.shape[0])


# Features of both domains


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
        kernel: any :class:`mmda.kernels.Kernel`. A heuristic bandwidth is settled for each checkpoint, so a rescaled
            feature space scores the same.
        estimator: as in the loss; unbiased, so that the score does not depend on the number of rows.
        source_mask: bool, True = keep.
        target_mask: the same for the target.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d).

    Returns:
        Scalar, at most about 0; unbiased values may be above.

    Raises:
        ValueError: as :func:`mmda.losses.mmd_loss`, and where the masks keep fewer rows than the estimator needs (one a
            side, two unless it is biased).

    Notes:
        Features that forget everything are closest of all: never select by it alone.

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
        x = _kept_rows(caller, "source", source, source_mask, least=least, mask_name="source_mask")
        y = _kept_rows(caller, "target", target, target_mask, least=least, mask_name="target_mask")
        check_same_width(caller, "source", x, "target", y)
        if estimator == "linear" and x.shape != y.shape:
            fail(caller, "target", f"keep as many rows as `source` ({x.shape[0]}) for estimator='linear'", y.shape[0])
        return -mmd_loss(x, y, kernel=kernel, estimator=estimator)


@torch.no_grad()
def density_ratio(source: Tensor, target: Tensor, at: Tensor, *, penalty: float = 1.0) -> Tensor:
    r"""Estimated ratio of the target's density to the source's at given rows, by logistic regression.

    .. math::

       w(x) &= \frac{n}{m} \frac{P(\text{target} \mid x)}{P(\text{source} \mid x)} = \frac{n}{m} e^{a + b \cdot x} \\
       (a, b) &= \arg\min \sum_{i} \log(1 + e^{-s_i (a + b \cdot x_i)}) + \frac{\lambda}{2} \lVert b \rVert^2

    over both samples, standardised together, with :math:`s_i = 1` on the target and -1 on the source.

    Args:
        source: source features, n rows.
        target: target features, m rows.
        at: rows where the ratio is wanted.
        penalty: :math:`\lambda > 0`; the inverse of scikit-learn's ``C``.

    Shape:
        ``source`` (n, d), ``target`` (m, d), ``at`` (k, d); result (k,).

    Returns:
        Ratios > 0, float64.

    Raises:
        ValueError: wrong shapes or widths, a penalty that is not above 0, features that are not finite.
        RuntimeError: Newton's method did not converge.

    Notes:
        Newton's method in float64, O((n + m) r^2) with r = min(d, n + m) a step, a handful of steps; standardised
        features make the penalty mean the same in every feature space.

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
        if not bool(torch.isfinite(rows).all()):
            fail(caller, name, "be finite", "NaN or infinity")
    n, m = source.shape[0], target.shape[0]
    with full_precision(source):
        x = torch.cat([source, target]).detach().double()
        centre = x.mean(0)
        spread = (x - centre).square().mean(0).sqrt()
        # A feature that moves by rounding alone is constant: it tells the samples apart by nothing.
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
    """Slopes and intercept of penalised logistic regression, by Newton's method with step halving."""
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
    r"""Risk on the target from losses on source rows and their density ratios; lower is better.

    .. math:: \frac{1}{n} \sum_i w_i l_i + \eta \Bigl(\frac{1}{n} \sum_i w_i - 1\Bigr),
              \qquad \eta = - \frac{\operatorname{Cov}(w l, w)}{\operatorname{Var}(w)}

    Args:
        losses: l, one a row.
        weight: w, density ratios, whose expectation is 1.
        control_variate: False leaves the second term out (importance-weighted cross-validation).

    Shape:
        Both (n,).

    Returns:
        Scalar, float64. The control variate may take it below 0.

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
    # Equal weights have nothing to correct: Cov and Var are both zero.
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
    r"""Deep embedded validation: held-out source losses reweighted to the target's features; lower is better.

    :func:`importance_weighted_risk` of the losses with weights :func:`density_ratio` at the validation rows.

    Args:
        losses: loss of the model on each held-out source row, for example cross-entropy or 0/1 error.
        validation_features: the model's features of those rows.
        source_features: its features of the source rows it was trained on.
        target_features: its features of target rows.
        penalty: of the logistic regression; see :func:`density_ratio`.
        control_variate: see :func:`importance_weighted_risk`.

    Shape:
        ``losses`` (k,), ``validation_features`` (k, d), ``source_features`` (n, d), ``target_features`` (m, d).

    Returns:
        Scalar, float64.

    Raises:
        ValueError: wrong shapes or widths, features that are not finite.
        RuntimeError: the logistic regression did not converge.

    Notes:
        Differs from the paper: a logistic regression with a fixed penalty tells the domains apart, where the paper
        tunes a small network. The risk rests on overlap: where domains are told apart perfectly, few rows carry all
        weight.

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
    if losses.shape[0] != validation_features.shape[0]:
        fail(caller, "losses", f"have one loss a validation row ({validation_features.shape[0]})", shape_text(losses))
    weight = density_ratio(source_features, target_features, validation_features, penalty=penalty)
    return importance_weighted_risk(losses.to(weight.device), weight, control_variate=control_variate)


# Retrieval: held-out pairs of the target


def _pairs(
    caller: str, anchor: Tensor, positive: Tensor, duplicates: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows of the kept pairs and an identity each; equal identities are interchangeable."""
    check_features(caller, "anchor", anchor)
    check_floating(caller, "positive", positive)
    check_same_shape(caller, "anchor", anchor, "positive", positive)
    n = anchor.shape[0]
    identity = torch.arange(n, device=anchor.device)
    if duplicates is not None:
        check_tensor(caller, "duplicates", duplicates)
        if duplicates.is_floating_point() or duplicates.is_complex() or duplicates.dtype == torch.bool:
            raise TypeError(f"{caller}: `duplicates` must be an integer tensor, got {duplicates.dtype}")
        if duplicates.shape != (n,):
            fail(caller, "duplicates", f"have shape ({n},)", shape_text(duplicates))
        identity = duplicates
    if mask is not None:
        check_mask(caller, "mask", mask, (n,))
        anchor, positive, identity = anchor[mask], positive[mask], identity[mask]
        if anchor.shape[0] == 0:
            fail(caller, "mask", "keep at least one pair", "none")
    dtype = working_dtype(anchor, positive)
    unit = (normalized_rows(side.detach().to(dtype)) for side in (anchor, positive))
    return next(unit), next(unit), identity


@torch.no_grad()
def pair_retrieval_recall(
    anchor: Tensor,
    positive: Tensor,
    *,
    n: int = 1,
    duplicates: Tensor | None = None,
    mask: Tensor | None = None,
    block_size: int = 256,
) -> Tensor:
    r"""Share of anchors whose own partner is among the n most similar of all partners; higher is better.

    .. math:: \frac{1}{N} \sum_i \mathbf 1 \bigl[\#\{j \notin D_i : s_{ij} \ge \max_{l \in D_i} s_{il}\} < n\bigr],
              \qquad s_{ij} = \cos(a_i, p_j)

    with :math:`D_i` the partners that are right for anchor i: its own, and its duplicates'.

    Args:
        anchor: features of one modality, for example queries.
        positive: features of the other, row i with anchor i.
        n: how far down the list to look.
        duplicates: one integer a pair; pairs with equal integers (repeated texts, queries of one video) are right for
            each other. Without it every pair stands alone.
        mask: bool, True = a real pair.
        block_size: anchors compared at once; the value does not depend on it.

    Shape:
        ``anchor`` and ``positive`` (N, d), ``duplicates`` and ``mask`` (N,).

    Returns:
        Scalar in [0, 1]; n / N is chance.

    Raises:
        ValueError: wrong shapes, n below 1, no pair left.
        TypeError: ``duplicates`` is not an integer tensor, a mask that is not bool.

    Notes:
        O(N^2 d) time, O(N block_size) memory. Ties, up to rounding, count against the pair, and so does NaN: features
        that collapse to one point score 0, not 1. For both directions call it twice.

    Example:
        >>> import torch
        >>> a = torch.eye(3)
        >>> pair_retrieval_recall(a, a.roll(1, 0)).item(), pair_retrieval_recall(a, a).item()
        (0.0, 1.0)
        >>> pair_retrieval_recall(torch.ones(4, 3), torch.ones(4, 3)).item()  # collapsed
        0.0
    """
    caller = "pair_retrieval_recall"
    check_count(caller, "n", n)
    check_count(caller, "block_size", block_size)
    with full_precision(anchor):
        a, p, identity = _pairs(caller, anchor, positive, duplicates, mask)
        rounding = 8 * torch.finfo(a.dtype).eps
        hits = torch.zeros((), dtype=torch.long, device=a.device)
        for block in _blocks(a.shape[0], block_size):
            similarity = a[block] @ p.T
            right = identity[block].unsqueeze(1) == identity
            best = torch.where(right, similarity, -math.inf).amax(1, keepdim=True)
            ahead = ~right & ~(similarity < best - rounding)
            hits += (ahead.sum(1) < n).sum()
        return hits.to(a.dtype) / a.shape[0]


@torch.no_grad()
def held_out_pair_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float = 0.07,
    duplicates: Tensor | None = None,
    mask: Tensor | None = None,
    block_size: int = 256,
) -> Tensor:
    r"""Symmetric cross-entropy of finding each other's partner among all held-out pairs; lower is better.

    .. math:: - \frac{1}{2 N} \sum_i \log \frac{e^{s_{ii}}}{\sum_{j \in N_i} e^{s_{ij}}}
              - \frac{1}{2 N} \sum_i \log \frac{e^{s_{ii}}}{\sum_{j \in N_i} e^{s_{ji}}},
              \qquad s_{ij} = \cos(a_i, p_j) / \tau

    with :math:`N_i` all pairs but the duplicates of i other than itself.

    Args:
        anchor: features of one modality.
        positive: features of the other, row i with anchor i.
        temperature: :math:`\tau > 0`, one for all checkpoints that are compared.
        duplicates: one integer a pair; pairs with equal integers are no negatives of each other.
        mask: bool, True = a real pair.
        block_size: rows compared at once; the value does not depend on it beyond rounding.

    Shape:
        ``anchor`` and ``positive`` (N, d), ``duplicates`` and ``mask`` (N,).

    Returns:
        Scalar >= 0; log N for features that tell nothing apart.

    Raises:
        ValueError: wrong shapes, a temperature that is not above 0, no pair left.
        TypeError: ``duplicates`` is not an integer tensor, a mask that is not bool.

    Notes:
        O(N^2 d) time, O(N block_size) memory. It grows with N: compare checkpoints on one set of pairs.

    Example:
        >>> import torch
        >>> round(held_out_pair_loss(torch.ones(4, 3), torch.ones(4, 3)).item(), 4)  # log 4
        1.3863

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
        for the symmetric form.
    """
    caller = "held_out_pair_loss"
    check_number(caller, "temperature", temperature, above=0)
    check_count(caller, "block_size", block_size)
    with full_precision(anchor):
        a, p, identity = _pairs(caller, anchor, positive, duplicates, mask)
        n = a.shape[0]
        total = torch.zeros((), dtype=torch.float64)
        for rows, columns in ((a, p), (p, a)):
            for block in _blocks(n, block_size):
                logits = rows[block] @ columns.T / temperature
                own = torch.arange(block.start, block.stop, device=a.device).unsqueeze(1)
                partner = logits.gather(1, own)
                excluded = (identity[block].unsqueeze(1) == identity).scatter(1, own, False)
                others = torch.where(excluded, -math.inf, logits - partner)
                total += others.logsumexp(1).sum().double().cpu()
        return (total / (2 * n)).to(device=a.device, dtype=a.dtype)


# Grounding: spans on the target


@torch.no_grad()
def span_entropy(
    start_logits: Tensor, end_logits: Tensor, mask: Tensor | None = None, *, normalised: bool = True
) -> Tensor:
    r"""Mean entropy of the distribution over spans that decoding takes its best from; lower is better.

    .. math:: P(s, e) = \frac{\exp(u_s + v_e)}{Z}, \quad s \le e, \qquad
              H = - \sum_{s \le e} P(s, e) \log P(s, e)

    Args:
        start_logits: u, one a clip.
        end_logits: v, one a clip.
        mask: bool, True = the clip exists.
        normalised: divide each video's H by the log of its number of spans, so that long videos weigh no more than
            short ones.

    Shape:
        All (b, t).

    Returns:
        Scalar: mean over videos with at least one clip; in [0, 1] if normalised, else in nats.

    Raises:
        ValueError: wrong shapes, no clip at all.
        TypeError: a mask that is not bool.

    Notes:
        O(b t): the spans are never listed. A model that answers the same span to everything is certain: read it
        beside :func:`span_constancy`. A video of one clip has one span and entropy 0.

    Example:
        >>> import torch
        >>> round(span_entropy(torch.zeros(1, 3), torch.zeros(1, 3), normalised=False).item(), 4)  # log 6
        1.7918
        >>> round(span_entropy(torch.zeros(1, 3), torch.zeros(1, 3)).item(), 4)
        1.0
    """
    caller = "span_entropy"
    check_features(caller, "start_logits", start_logits, axes="(batch, time)")
    check_floating(caller, "end_logits", end_logits)
    check_same_shape(caller, "start_logits", start_logits, "end_logits", end_logits)
    keep = torch.ones_like(start_logits, dtype=torch.bool)
    if mask is not None:
        check_mask(caller, "mask", mask, start_logits.shape)
        keep = mask[mask.any(1)]
        start_logits, end_logits = start_logits[mask.any(1)], end_logits[mask.any(1)]
        if keep.shape[0] == 0:
            fail(caller, "mask", "keep at least one clip", "none")
    # Sums over many spans of many clips: float64 costs nothing here and keeps certain videos' small entropies.
    start = torch.where(keep, start_logits.detach().double(), -math.inf)
    end = torch.where(keep, end_logits.detach().double(), -math.inf)
    start, end = start - start.amax(1, keepdim=True), end - end.amax(1, keepdim=True)
    until = start.logcumsumexp(1)  # over starts s <= e
    after = end.flip(1).logcumsumexp(1).flip(1)  # over ends e >= s
    log_z = (start + after).logsumexp(1)

    def expected(logit: Tensor, rest: Tensor) -> Tensor:
        share = (logit + rest - log_z.unsqueeze(1)).exp()
        return (share * torch.where(keep, logit, 0.0)).sum(1)

    entropy = (log_z - expected(start, after) - expected(end, until)).clamp(min=0)
    if normalised:
        clips = keep.sum(1).double()
        most = (clips * (clips + 1) / 2).log()
        entropy = torch.where(most > 0, entropy / torch.where(most > 0, most, 1.0), 0.0)
    return entropy.mean().to(working_dtype(start_logits, end_logits))


@torch.no_grad()
def span_constancy(
    spans: Tensor,
    duration: Tensor | None = None,
    *,
    tolerance: float = 0.05,
    mask: Tensor | None = None,
    block_size: int = 256,
) -> Tensor:
    r"""Share of decoded spans that are alike, relative to their videos: an alarm for collapse; lower is better.

    .. math:: \max_i \frac{\#\{j \ne i : |s_i - s_j| \le \delta,\ |e_i - e_j| \le \delta\}}{N - 1}

    with s and e the start and end divided by the video's duration: of all other answers, how many agree with the most
    popular one.

    Args:
        spans: the best span of each query.
        duration: of each query's video, in the unit of the spans; without it the spans are already relative.
        tolerance: :math:`\delta \ge 0`, as a share of the video.
        mask: bool, True = a real query.
        block_size: spans compared at once; the value does not depend on it.

    Shape:
        ``spans`` (N, 2), ``duration`` and ``mask`` (N,).

    Returns:
        Scalar in [0, 1]: 0 if no two answers agree, 1 if all do.

    Raises:
        ValueError: wrong shapes, fewer than two spans left, a negative tolerance.
        TypeError: a mask that is not bool.

    Notes:
        O(N^2) time, O(N block_size) memory. Moments themselves repeat (many begin with the video): compare with the
        value of the source's own boundaries, and sound the alarm well above it. No score ranks by it: it says when
        recall of pairs rises while the localizer has stopped to look.

    Example:
        >>> import torch
        >>> span_constancy(torch.tensor([[0.0, 0.3], [0.01, 0.32], [0.5, 0.9]])).item()
        0.5
        >>> span_constancy(torch.tensor([[0.0, 3.0], [0.0, 6.0]]), torch.tensor([10.0, 20.0])).item()
        1.0
    """
    caller = "span_constancy"
    check_number(caller, "tolerance", tolerance, at_least=0)
    check_count(caller, "block_size", block_size)
    check_floating(caller, "spans", spans)
    if spans.ndim != 2 or spans.shape[1] != 2:
        fail(caller, "spans", "have shape (queries, 2)", shape_text(spans))
    relative = spans.detach().double()
    if duration is not None:
        check_tensor(caller, "duration", duration)
        if duration.shape != spans.shape[:1]:
            fail(caller, "duration", f"have shape {tuple(spans.shape[:1])}", shape_text(duration))
        relative = relative / duration.detach().double().unsqueeze(1)
    if mask is not None:
        check_mask(caller, "mask", mask, spans.shape[:1])
        relative = relative[mask]
    n = relative.shape[0]
    if n < 2:
        fail(caller, "spans", "hold at least 2 spans", n)
    most = torch.zeros((), dtype=torch.long, device=spans.device)
    for block in _blocks(n, block_size):
        gap = (relative[block].unsqueeze(1) - relative).abs().amax(2)
        # Decimal boundaries a tolerance apart agree, whichever way their difference rounds.
        most = torch.maximum(most, (gap <= tolerance + 1e-9).sum(1).amax() - 1)
    return most.to(working_dtype(spans)) / (n - 1)


__all__ = [
    "deep_embedded_validation_risk",
    "density_ratio",
    "entropy_score",
    "held_out_pair_loss",
    "importance_weighted_risk",
    "information_maximisation_score",
    "mmd_score",
    "nuclear_norm_score",
    "pair_retrieval_recall",
    "soft_neighbourhood_density",
    "span_constancy",
    "span_entropy",
]
