"""Validators of classifiers, from predictions on the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_floating, check_number, check_values, fail, shape_text
from mmda._core.components import check_callable
from mmda._core.draws import fixed_bits
from mmda._core.masking import full_precision
from mmda._core.unit_rows import normalized_rows
from mmda._math.spectral import zero_undefined
from mmda.losses.entropy import entropy_loss, information_maximisation_loss
from mmda.validators._rows import blocks, kept_classes, kept_rows


@torch.no_grad()
def soft_neighbourhood_density(
    features: Tensor, *, temperature: float = 0.05, mask: Tensor | None = None, block_size: int = 256
) -> Tensor:
    r"""Soft neighbourhood density: mean entropy of each row's similarities to the others; higher is better.

    Use it to select the epoch or a loss weight within one method, not to compare methods: a method that collapses all
    rows scores highest whatever its accuracy, and selecting a method by this score can cost ten points.

    With rows :math:`u_i` of unit norm,

    .. math:: p_{ij} = \frac{\exp(u_i \cdot u_j / \tau)}{\sum_{l \ne i} \exp(u_i \cdot u_l / \tau)} \ (j \ne i),
              \qquad \frac{1}{n} \sum_i - \sum_{j \ne i} p_{ij} \log p_{ij}

    Args:
        features: the paper uses softmax predictions on the target: pass ``logits.softmax(1)``.
        temperature: :math:`\tau > 0`.
        mask: bool, True = keep.
        block_size: rows compared at once; affects the value only by rounding.

    Shape:
        ``features`` (n, d), or with a mask (b, t, d).

    Returns:
        Scalar in [0, log(n - 1)].

    Raises:
        ValueError: wrong shapes, fewer than two rows left, a temperature that is not above 0.

    Notes:
        O(n^2 d) time, O(n block_size) memory. It grows with n: compare checkpoints on the same rows. Predicting one
        class for all rows reaches the maximum; use it together with :func:`information_maximisation_score`.

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
        rows = kept_rows(caller, "features", features, mask, least=2)
        check_values(caller, "features", rows)
        u = normalized_rows(rows)
        n = u.shape[0]
        total = torch.zeros((), dtype=torch.float64)
        for block in blocks(n, block_size):
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
        A model trained to be confident scores well whether it is right or wrong.

    Example:
        >>> import torch
        >>> round(entropy_score(torch.zeros(3, 4)).item(), 4)  # - log 4
        -1.3863

    References:
        Morerio, Cavazza & Murino, "Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain Adaptation",
        ICLR 2018.
    """
    with full_precision(logits):
        return -entropy_loss(kept_classes("entropy_score", logits, mask))


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
        Unlike with :func:`entropy_score`, predicting one class for all rows scores 0. Pass the whole set at once: the
        mean over batches differs.

    Example:
        >>> import torch
        >>> round(information_maximisation_score(50 * torch.eye(4)).item(), 4)  # log 4
        1.3863

    References:
        Musgrave, Belongie & Lim, "Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain
        Adaptation" (2022), which ranks validators.
    """
    with full_precision(logits):
        return -information_maximisation_loss(kept_classes("information_maximisation_score", logits, mask))


@torch.no_grad()
def nuclear_norm_score(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Nuclear norm of the predictions, divided by their number; higher (confident and diverse) is better.

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
        The exact norm; the training loss :func:`mmda.losses.batch_nuclear_norm_loss` smooths it near zero singular
        values. It decreases as :math:`1 / \sqrt n` for n > K: compare checkpoints on the same rows.

    Example:
        >>> import torch
        >>> round(nuclear_norm_score(100 * torch.eye(4)).item(), 4)
        1.0

    References:
        Cui et al., CVPR 2020, for the norm; Musgrave, Belongie & Lim (2022) for its use as a validator.
    """
    with full_precision(logits):
        p = kept_rows("nuclear_norm_score", "logits", logits, mask).softmax(1)
        singular: Tensor = torch.linalg.svdvals(zero_undefined(p))
        return torch.where(p.isnan().any(), math.nan, singular.sum() / p.shape[0])


@torch.no_grad()
def matrix_norm_score(
    logits: Tensor, *, order: float = 4.0, threshold: float = 5.0, mask: Tensor | None = None
) -> Tensor:
    r"""Entrywise norm of normalised logits, an estimate of accuracy (MaNo); higher is better.

    .. math::

       \Bigl( \frac{1}{n K} \sum_{i, k} q_{ik}^p \Bigr)^{1 / p}, \qquad
       q_{ik} = \frac{v(z_{ik})}{\sum_l v(z_{il})}, \qquad
       v(z) = \begin{cases} e^z & \Phi > \eta \\ 1 + z + z^2 / 2 & \Phi \le \eta \end{cases}, \qquad
       \Phi = - \frac{1}{n K} \sum_{i, k} \log \mathrm{softmax}(z_i)_k

    Args:
        logits: z, scores before the softmax on the target; half precision is widened.
        order: p >= 1.
        threshold: :math:`\eta`, above this mean divergence from uniform predictions the softmax is used.
        mask: bool, True = keep.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K).

    Returns:
        Scalar in (0, 1].

    Raises:
        ValueError: wrong shapes, fewer than two classes, an order below 1.

    Notes:
        The predictions of a badly calibrated model saturate; the expansion preserves the order of their logits. Unlike
        the softmax it depends on a common shift of a row's logits: compare models with logits of the same kind, and
        checkpoints on the same side of the threshold.

    Example:
        >>> import torch
        >>> round(matrix_norm_score(torch.zeros(3, 4)).item(), 4)  # 1 / K
        0.25
        >>> round(matrix_norm_score(100 * torch.eye(4)).item(), 4)  # (1 / K)^(1 / p)
        0.7071

    References:
        Xie, Odonnat, Feofanov, Deng, Zhang & An, "MaNo: Exploiting Matrix Norm for Unsupervised Accuracy Estimation
        Under Distribution Shifts", NeurIPS 2024.
    """
    caller = "matrix_norm_score"
    check_number(caller, "order", order, at_least=1)
    check_number(caller, "threshold", threshold)
    with full_precision(logits):
        rows = kept_classes(caller, logits, mask)
        uniform = -rows.log_softmax(1).mean()
        expanded = 1 + rows + rows.square() / 2
        q = torch.where(uniform > threshold, rows.softmax(1), expanded / expanded.sum(1, keepdim=True))
        return q.pow(order).mean().pow(1 / order)


@torch.no_grad()
def mixed_sample_accuracy(
    classifier: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    pairs: Literal["both", "within", "across"] = "both",
    share: float = 0.55,
    generator: torch.Generator | None = None,
    block_size: int = 1024,
) -> Tensor:
    r"""Accuracy on mixtures of target samples, labelled by the classifier itself (MixVal); higher is better.

    With predictions :math:`\hat y_i = \arg\max_k f(x_i)_k`, a permutation :math:`\pi` and the rows
    :math:`W = \{i : \hat y_i = \hat y_{\pi(i)}, i \ne \pi(i)\}` whose partner is predicted alike, and
    :math:`A = \{i : \hat y_i \ne \hat y_{\pi(i)}\}` the others,

    .. math::

       s_W = \frac{1}{\lvert W \rvert} \sum_{i \in W} \mathbf 1 \bigl[ \arg\max_k
             f(\lambda x_i + (1 - \lambda) x_{\pi(i)})_k = \hat y_i \bigr], \qquad s_A \text{ likewise}, \qquad
       s = \frac{s_W + s_A}{2}

    Mixtures within a predicted class probe whether the class is one cluster, mixtures across classes whether the
    boundary lies half way.

    Args:
        classifier: maps inputs to logits (n, K), in evaluation mode; such as the whole network, or its last layers.
        inputs: x, target samples of the classifier: images, or features.
        pairs: ``"within"`` for :math:`s_W`, ``"across"`` for :math:`s_A`, ``"both"`` for their mean.
        share: :math:`\lambda`, in (0.5, 1).
        generator: draws the permutation; by default it is the same at every call, so that checkpoints are compared on
            the same mixtures.
        block_size: rows given to the classifier at once.

    Shape:
        ``inputs`` (n, ...).

    Returns:
        Scalar in [0, 1]. ``"both"`` is the other value where one set is empty; NaN where there is no pair.

    Raises:
        ValueError: fewer than two rows, a share outside (0.5, 1), logits of another shape.
        TypeError: a classifier that cannot be called, inputs that are not floating point.

    Notes:
        Two passes of the classifier over the rows. A model that predicts one class for all rows scores 1: also look at
        :func:`information_maximisation_score`. The paper ranks the checkpoints by :math:`s_W` and by :math:`s_A` and
        averages the two ranks; the mean of the values is skada's form. For the paper's, call it once for each.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> round(mixed_sample_accuracy(lambda x: torch.cat([-x, x], 1), x, pairs="within").item(), 4)
        1.0

    References:
        Hu, Liang, Liew, Xue, Bai & Wang, "Mixed Samples as Probes for Unsupervised Model Selection in Domain
        Adaptation", NeurIPS 2023.
    """
    caller = "mixed_sample_accuracy"
    check_callable(caller, "classifier", classifier)
    check_floating(caller, "inputs", inputs)
    check_values(caller, "inputs", inputs)
    check_choice(caller, "pairs", pairs, ("both", "within", "across"))
    check_number(caller, "share", share, above=0.5, below=1)
    check_count(caller, "block_size", block_size)
    n = inputs.shape[0] if inputs.ndim else 0
    if n < 2:
        fail(caller, "inputs", "hold at least 2 samples", shape_text(inputs))

    def predicted(rows: Tensor) -> Tensor:
        logits = torch.cat([classifier(rows[block]) for block in blocks(len(rows), block_size)])
        if logits.ndim != 2 or logits.shape[0] != len(rows) or logits.shape[1] < 2:
            fail(caller, "classifier", f"return logits ({len(rows)}, K) of at least 2 classes", shape_text(logits))
        return logits.argmax(1)

    if generator is None:
        order = fixed_bits(n, torch.device("cpu")).argsort()
    else:
        order = torch.randperm(n, generator=generator, device=generator.device)
    order = order.to(inputs.device)
    label = predicted(inputs)
    right = (predicted(torch.lerp(inputs[order], inputs, share)) == label).to(torch.float64)
    across = label != label[order]
    kinds = {"within": ~across & (order != torch.arange(n, device=order.device)), "across": across}
    means = [right[kept].mean() for kind, kept in kinds.items() if pairs in (kind, "both")]
    return torch.stack(means).nanmean().to(torch.float32)
