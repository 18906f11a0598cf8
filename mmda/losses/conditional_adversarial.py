"""Conditional domain-adversarial loss: the discriminator sees features together with class predictions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda._core.checks import (
    check_count,
    check_features,
    check_floating,
    check_module,
    check_same_width,
    check_tensor,
    fail,
    shape_text,
)
from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import as_rows, zero_uncounted
from mmda._math.adversary import ask, balanced_binary, logit_rows
from mmda._math.logits import entropy_of
from mmda.layers.reversal import GradientReversal


def conditional_adversarial_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_class_logits: Tensor,
    target_class_logits: Tensor,
    *,
    entropy_weighting: bool = True,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of a discriminator, certain rows counting more; lower means it tells the domains apart better.

    With discriminator logits a (source) and b (target), and entropies H of the class predictions,

    .. math::

       L = \frac{1}{2} \sum_i u_i \log(1 + e^{a_i}) + \frac{1}{2} \sum_j v_j \log(1 + e^{-b_j}), \qquad
       u_i = \frac{w_i (1 + e^{-H_i})}{\sum_{i'} w_{i'} (1 + e^{-H_{i'}})}

    and :math:`v` likewise over the target. With ``entropy_weighting=False`` the factors :math:`1 + e^{-H}` are one and
    this is :func:`domain_adversarial_loss`.

    Args:
        source_logits: logits (of being target) that the discriminator gives the source rows.
        target_logits: the same for the target rows.
        source_class_logits: class logits of the source rows; they carry no gradient here.
        target_class_logits: the same for the target.
        entropy_weighting: weigh rows by the certainty of their class prediction.
        source_weight: how often each source row counts (w): 2 is a repeated row, 0 an absent one.
        target_weight: the same for the target.
        source_mask: bool, True = keep. Padding may hold anything.
        target_mask: the same for the target.

    Shape:
        ``source_logits`` (n,), ``target_logits`` (m,), or (b, t), each also with a last axis of length 1, (n, 1);
        class logits (n, classes), or (b, t, classes); weights and masks (n,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). A side with no row left gives zero.

    Raises:
        ValueError: wrong shapes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        The discriminator's logits are those of :func:`multilinear_map` of reversed features and *detached*
        softmax predictions: :class:`ConditionalAdversarialLoss` does all of it. Entropy weights are detached too,
        and normalised in each domain, as in the authors' code.

    Example:
        >>> import torch
        >>> zeros, classes = torch.zeros(3), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        >>> round(conditional_adversarial_loss(zeros, zeros, classes, classes).item(), 6)  # log 2
        0.693147

    References:
        Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, equation 8.
    """
    caller = "conditional_adversarial_loss"
    source_logits = _one_logit_a_row(caller, "source_logits", source_logits, source_class_logits)
    target_logits = _one_logit_a_row(caller, "target_logits", target_logits, target_class_logits)
    dtype = working_dtype(source_logits, target_logits)
    with full_precision(source_logits):
        x, x_weight = logit_rows(
            caller, "source_logits", source_logits, mask=source_mask, weight=source_weight, dtype=dtype
        )
        y, y_weight = logit_rows(
            caller, "target_logits", target_logits, mask=target_mask, weight=target_weight, dtype=dtype
        )
        p = _predictions(
            caller, "source_class_logits", source_class_logits, source_logits.shape, source_mask, x_weight, dtype
        )
        q = _predictions(
            caller, "target_class_logits", target_class_logits, target_logits.shape, target_mask, y_weight, dtype
        )
        check_same_width(caller, "source_class_logits", p, "target_class_logits", q, axis="classes")
        if entropy_weighting:
            x_weight, y_weight = _certainty(p, x_weight), _certainty(q, y_weight)
        return balanced_binary(x, y, x_weight, y_weight)


def _one_logit_a_row(caller: str, argument: str, logits: Tensor, class_logits: Tensor) -> Tensor:
    """Logits without the last axis of length 1 that a linear layer leaves, where the class logits have the rows."""
    check_tensor(caller, argument, logits)
    check_tensor(caller, argument.replace("_logits", "_class_logits"), class_logits)
    rows = class_logits.shape[:-1]
    return logits.squeeze(-1) if logits.ndim > 1 and logits.shape == (*rows, 1) else logits


def _predictions(
    caller: str,
    argument: str,
    logits: Tensor,
    rows: torch.Size,
    mask: Tensor | None,
    weight: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Detached log-probabilities (n, classes); uniform where a row does not count."""
    check_floating(caller, argument, logits)
    if logits.ndim != len(rows) + 1 or logits.shape[:-1] != rows or logits.shape[-1] == 0:
        expected = ", ".join(str(size) for size in rows)
        fail(caller, argument, f"have shape ({expected}, classes)", shape_text(logits))
    values = logits.detach().to(dtype).reshape(-1, logits.shape[-1])
    if weight is not None:
        values = zero_uncounted(values, weight, None if mask is None else mask.reshape(-1))
    return F.log_softmax(values, 1)


def _certainty(log_probabilities: Tensor, weight: Tensor | None) -> Tensor:
    """1 + exp(-H), times how often each row counts."""
    factor = 1 + (-entropy_of(log_probabilities)).exp()
    return factor if weight is None else factor * weight


def multilinear_map(features: Tensor, probabilities: Tensor) -> Tensor:
    r"""Outer product of features and class probabilities, row by row: their joint moments as one long feature.

    .. math:: T(f, p)_{d (k - 1) + i} = f_i\, p_k

    Args:
        features: f.
        probabilities: p; detach them where they only condition, as the adversarial loss does.

    Shape:
        (n, d) and (n, classes) to (n, d * classes).

    Returns:
        Flattened products.

    Raises:
        ValueError: wrong shapes.

    Example:
        >>> import torch
        >>> multilinear_map(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.2500, 0.5000, 0.7500, 1.5000]])

    References:
        Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, section 3.1.
    """
    _check_joint("multilinear_map", features, probabilities)
    return (probabilities.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def _check_joint(caller: str, features: Tensor, probabilities: Tensor) -> None:
    check_features(caller, "features", features)
    check_features(caller, "probabilities", probabilities, axes="(samples, classes)")
    if features.shape[0] != probabilities.shape[0]:
        fail(caller, "probabilities", f"have as many rows as `features` ({features.shape[0]})", probabilities.shape[0])


class RandomMultilinearMap(nn.Module):
    r"""Multilinear map through fixed random projections, for when d times classes is too wide.

    .. math:: T(f, p) = \frac{1}{\sqrt{o}} (R_f^\top f) \odot (R_p^\top p)

    Inner products of T are unbiased estimates of those of :func:`multilinear_map`.

    Args:
        features: d, width of the features.
        classes: number of classes.
        outputs: o, width of the result.
        generator: where the standard normal entries of :math:`R_f, R_p` come from; the global random state if None.

    Shape:
        (n, d) and (n, classes) to (n, o).

    Raises:
        ValueError: wrong shapes.
        TypeError: a width that is not an integer.

    Notes:
        The projections are buffers: saved, moved with the module, never trained.

    Example:
        >>> import torch
        >>> random_map = RandomMultilinearMap(16, 4, 32, generator=torch.Generator().manual_seed(0))
        >>> random_map(torch.zeros(5, 16), torch.zeros(5, 4)).shape
        torch.Size([5, 32])

    References:
        Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, equation 6 and theorem 1.
    """

    feature_projection: Tensor
    class_projection: Tensor

    def __init__(self, features: int, classes: int, outputs: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, value in (("features", features), ("classes", classes), ("outputs", outputs)):
            check_count("RandomMultilinearMap", name, value)
        device = None if generator is None else generator.device
        self.register_buffer("feature_projection", torch.randn(features, outputs, generator=generator, device=device))
        self.register_buffer("class_projection", torch.randn(classes, outputs, generator=generator, device=device))

    def forward(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """See the class."""
        caller = "RandomMultilinearMap"
        _check_joint(caller, features, probabilities)
        for name, rows, projection in (
            ("features", features, self.feature_projection),
            ("probabilities", probabilities, self.class_projection),
        ):
            if rows.shape[1] != projection.shape[0]:
                fail(caller, name, f"have shape (samples, {projection.shape[0]})", shape_text(rows))
        left = features @ self.feature_projection.to(features.dtype)
        right = probabilities @ self.class_projection.to(probabilities.dtype)
        scale: float = self.feature_projection.shape[1] ** -0.5
        return left * right * scale

    def extra_repr(self) -> str:
        (features, outputs), classes = self.feature_projection.shape, self.class_projection.shape[0]
        return f"features={features}, classes={classes}, outputs={outputs}"


class ConditionalAdversarialLoss(nn.Module):
    r"""Discriminator of features and predictions behind a gradient reversal; the loss is the discriminator's.

    Computes :func:`conditional_adversarial_loss` of ``discriminator(T(reversal(features), p))`` where p is the
    detached softmax of the class logits and T is :func:`multilinear_map` or a random map.

    Args:
        discriminator: maps rows (n, d * classes), or (n, outputs) behind a random map, to logits (n,) or (n, 1).
        strength: see :class:`~mmda.layers.GradientReversal`; :meth:`set_strength` changes it.
        entropy_weighting: weigh rows by the certainty of their class prediction.
        random_map: a :class:`RandomMultilinearMap` in place of the full outer product.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); class logits (n, classes) and (m, classes), or
        (b, t, classes); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). A side with no row left gives zero.

    Raises:
        ValueError: wrong shapes, of the features or of the discriminator's logits.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        No gradient reaches the class logits: the classifier is conditioned on, not trained. Autocast is off inside.

    Example:
        >>> import torch
        >>> from mmda.layers import DomainDiscriminator
        >>> _ = torch.manual_seed(0)
        >>> adversary = ConditionalAdversarialLoss(DomainDiscriminator(16 * 3, hidden=[32]))
        >>> rows, classes = torch.randn(8, 16), torch.randn(8, 3)
        >>> bool(adversary(rows, rows + 1.0, classes, classes) > 0)
        True
    """

    def __init__(
        self,
        discriminator: nn.Module,
        *,
        strength: float = 1.0,
        entropy_weighting: bool = True,
        random_map: RandomMultilinearMap | None = None,
    ) -> None:
        super().__init__()
        check_module("ConditionalAdversarialLoss", "discriminator", discriminator)
        if random_map is not None:
            check_module("ConditionalAdversarialLoss", "random_map", random_map)
        self.discriminator = discriminator
        self.reversal = GradientReversal(strength)
        self.random_map = random_map
        self.entropy_weighting = entropy_weighting

    def set_strength(self, strength: float | Tensor) -> None:
        """Set the strength of the calls that follow."""
        self.reversal.set_strength(strength)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_class_logits: Tensor,
        target_class_logits: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See the class."""
        caller = "ConditionalAdversarialLoss"
        dtype = working_dtype(source, target)
        with full_precision(source):
            x, x_weight = as_rows(caller, "source", source, mask=source_mask, weight=source_weight, dtype=dtype)
            y, y_weight = as_rows(caller, "target", target, mask=target_mask, weight=target_weight, dtype=dtype)
            check_same_width(caller, "source", x, "target", y)
            p = _predictions(
                caller, "source_class_logits", source_class_logits, source.shape[:-1], source_mask, x_weight, dtype
            )
            q = _predictions(
                caller, "target_class_logits", target_class_logits, target.shape[:-1], target_mask, y_weight, dtype
            )
            check_same_width(caller, "source_class_logits", p, "target_class_logits", q, axis="classes")
            joint = multilinear_map if self.random_map is None else self.random_map
            rows = joint(self.reversal(torch.cat([x, y])), torch.cat([p, q]).exp())
            logits = ask(caller, self.discriminator, rows, None, dtype)
            if self.entropy_weighting:
                x_weight, y_weight = _certainty(p, x_weight), _certainty(q, y_weight)
            n = x.shape[0]
            return balanced_binary(logits[:n], logits[n:], x_weight, y_weight)

    def extra_repr(self) -> str:
        return f"entropy_weighting={self.entropy_weighting}"
