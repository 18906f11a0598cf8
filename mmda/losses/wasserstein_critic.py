"""Wasserstein critic with gradient penalty (WDGRL): an adversary that estimates a distance between the domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmda._core.checks import check_features, check_number, fail, shape_text
from mmda._core.components import check_module
from mmda._core.draws import fixed_bits
from mmda._core.maps import two_map_samples
from mmda._core.masking import full_precision, working_dtype
from mmda._math.adversary import ask
from mmda._math.logits import weighted_mean
from mmda.layers.reversal import GradientReversal
from mmda.losses._domain_modules import AdversaryModule


def gradient_penalty(critic: Callable[[Tensor], Tensor], x: Tensor, *, weight: Tensor | None = None) -> Tensor:
    r"""Mean squared distance of a critic's gradient norms from one; lower means nearer to a Lipschitz constant of one.

    .. math:: \frac{1}{n} \sum_i \bigl( \lVert \nabla f(x_i) \rVert_2 - 1 \bigr)^2

    Args:
        critic: f, which must treat rows independently (no batch normalisation).
        x: points at which the gradients are taken.
        weight: row weights.

    Shape:
        ``x`` (n, d), ``weight`` (n,); the critic maps (n, d) to (n,) or (n, 1).

    Returns:
        Scalar >= 0, differentiable with respect to the critic's parameters and x.

    Example:
        >>> import torch
        >>> gradient_penalty(lambda x: 3 * x.sum(1), torch.zeros(2, 1)).item()
        4.0

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville, "Improved Training of Wasserstein GANs", NeurIPS 2017,
        equation 3.
    """
    gradient = torch.func.grad(lambda rows: critic(rows).sum())(x)
    squared = gradient.square().sum(1)
    flat = squared == 0  # the norm is not differentiable there
    length = torch.where(flat, torch.zeros_like(squared), torch.where(flat, torch.ones_like(squared), squared).sqrt())
    return weighted_mean((length - 1).square(), weight)


def _between(
    x: Tensor,
    y: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    mixing: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None]:
    """The rows of both samples and points between them, with their weights.

    Rows of weight 0 are sorted last, so that they are not paired.
    """
    most = max(x.shape[0], y.shape[0])
    if mixing is not None:
        check_features("WassersteinCriticLoss", "mixing", mixing, axes="(rows of the larger sample,)", ndim=1)
        if mixing.shape[0] != most:
            fail("WassersteinCriticLoss", "mixing", f"have shape ({most},)", shape_text(mixing))
        share = mixing.to(x.dtype)
    elif generator is None:
        share = (fixed_bits(most, x.device).to(torch.float64) / 2**32).to(x.dtype)
    else:
        share = torch.rand(most, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
    turn = torch.arange(most, device=x.device)
    chosen, counts, kept = [], [], []
    for rows, weight in ((x, x_weight), (y, y_weight)):
        if weight is None:
            chosen.append(turn % rows.shape[0])
            kept.append(torch.full((), rows.shape[0], device=x.device))
            counts.append(torch.ones_like(rows[:, 0]))
        else:
            some = weight.detach() > 0
            number = some.sum().clamp(min=1)
            chosen.append(torch.argsort(some.logical_not().to(torch.uint8), stable=True)[turn % number])
            kept.append(number)
            counts.append(weight.detach())
    mixed = share.unsqueeze(1) * x[chosen[0]] + (1 - share).unsqueeze(1) * y[chosen[1]]
    points = torch.cat([x, y, mixed])
    if x_weight is None and y_weight is None:
        return points, None
    used = turn < torch.maximum(kept[0], kept[1])
    across = torch.where(used, counts[0][chosen[0]] * counts[1][chosen[1]], torch.zeros_like(share))
    return points, torch.cat([*counts, across])


class WassersteinCriticLoss(AdversaryModule):
    r"""Critic behind a gradient reversal (WDGRL); returns the critic's loss, minus its estimate of the distance.

    With critic f on source features x and target features y, and the penalty on its gradients at all rows and at points
    between them,

    .. math:: L = \frac{1}{m} \sum_j f(y_j) - \frac{1}{n} \sum_i f(x_i)
              + \gamma \, \operatorname{mean} \bigl( \lVert \nabla f(\hat x) \rVert_2 - 1 \bigr)^2

    The critic minimises L; the features get the reversed gradient of the first two terms only, and so minimise the
    estimated first Wasserstein distance.

    Args:
        critic: maps rows (n, d) to one number each, (n,) or (n, 1), unbounded (no final sigmoid) and without batch
            normalisation.
        strength: see :class:`~mmda.layers.GradientReversal`; :meth:`set_strength` changes it.
        penalty: :math:`\gamma \ge 0`.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).
        ``mixing`` one number in [0, 1] per row of the larger sample. Feature maps (b, d, h, w) too, with or without
        masks (b, h, w): each position is a row.

    Returns:
        Scalar, float32 (float64 for float64 input); about minus the distance. Zero if either sample is empty after
        masks and weights.

    Raises:
        ValueError: wrong shapes, of the features or of the critic's numbers.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        Points between are :math:`\hat x = \alpha x_i + (1 - \alpha) y_i`, cycling through the smaller sample, with
        :math:`\alpha` from ``mixing``, from ``generator``, or a fixed set. Points with a row of weight 0 are left out.
        One optimiser suffices, but give the critic a larger learning rate, in place of the paper's several critic steps
        per feature step. The penalty has no gradient for the features, as in the authors' code.

    Example:
        >>> import torch
        >>> critic = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(critic.weight, -1.0)  # f(x) = -x: gradient of norm one
        >>> round(WassersteinCriticLoss(critic)(torch.zeros(4, 1), torch.full((3, 1), 2.0)).item(), 4)
        -2.0

    References:
        Shen, Qu, Zhang & Yu, "Wasserstein Distance Guided Representation Learning for Domain Adaptation", AAAI 2018,
        equations 5 to 8 and algorithm 1.
    """

    def __init__(self, critic: nn.Module, *, strength: float = 1.0, penalty: float = 10.0) -> None:
        super().__init__()
        check_module("WassersteinCriticLoss", "critic", critic)
        check_number("WassersteinCriticLoss", "penalty", penalty, at_least=0)
        self.critic = critic
        self.reversal = GradientReversal(strength)
        self.penalty = penalty

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        mixing: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """See the class."""
        caller = "WassersteinCriticLoss"
        dtype = working_dtype(source, target)
        with full_precision(source):
            x, y, x_weight, y_weight = two_map_samples(
                caller, source, target, source_weight, target_weight, source_mask, target_mask
            )
            n = x.shape[0]
            scores = ask(caller, self.critic, self.reversal(torch.cat([x, y])), None, dtype)
            value = weighted_mean(scores[n:], y_weight) - weighted_mean(scores[:n], x_weight)
            if self.penalty > 0:
                points, count = _between(x.detach(), y.detach(), x_weight, y_weight, mixing, generator)

                def score(rows: Tensor) -> Tensor:
                    return ask(caller, self.critic, rows, None, dtype)

                value = value + self.penalty * gradient_penalty(score, points, weight=count)
            totals = [weight.sum() for weight in (x_weight, y_weight) if weight is not None]
            return torch.where((torch.stack(totals) > 0).all(), value, 0 * value) if totals else value

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return f"penalty={self.penalty:g}"
