"""More than two domains, with any discrepancy between two."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmda._core.checks import (
    check_callable,
    check_choice,
    check_count,
    check_mask,
    check_samples,
    check_tensor,
    check_weight,
    fail,
    shape_text,
)
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda.losses._protocols import Discrepancy

Scheme = Literal["pairwise", "one_vs_rest", "to_mean"]
_SCHEMES = ("pairwise", "one_vs_rest", "to_mean")


def multi_domain_loss(
    features: Tensor,
    domain_index: Tensor,
    *,
    discrepancy: Discrepancy,
    domains: int,
    scheme: Scheme = "pairwise",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Mean discrepancy over comparisons between several domains in one batch; lower means closer domains.

    With :math:`F_a` the rows of domain a and D the discrepancy, the mean over the comparisons with rows on both sides
    of

    .. math::

       \text{pairwise:}\quad & D(F_a, F_b), \; a < b \\
       \text{one\_vs\_rest:}\quad & D(F_a, \textstyle\bigcup_{b \ne a} F_b) \\
       \text{to\_mean:}\quad & D(F_a, \tfrac{1}{K'} \textstyle\sum_b F_b),

    the last against the mixture in which each of the K' domains of the batch has the same share: smaller domains
    repeated to the size of the largest (a compares with a mixture that holds a itself).

    Args:
        features: rows of all domains together.
        domain_index: which domain each row is from, 0 .. domains - 1; any other number (-1, say) is in no domain.
        discrepancy: any :class:`Discrepancy`; it gets all rows on both sides, and weights that choose.
        domains: number of domains; those without a row in this batch are left out of the mean.
        scheme: ``"pairwise"``, ``"one_vs_rest"`` or ``"to_mean"``.
        weight: how often each row counts: 2 is a repeated row, 0 an absent one.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``features`` (n, d), or with a mask (b, t, d); ``domain_index`` (n,), or (b, t), or (b,) for whole sequences;
        ``weight`` and ``mask`` (n,), or (b, t).

    Returns:
        Scalar of the discrepancy's dtype and range. Zero where no comparison has rows on both sides.

    Raises:
        ValueError: wrong shapes, fewer than two domains, an unknown scheme.
        TypeError: a mask that is not bool, domain numbers that are not integers.

    Notes:
        domains (domains - 1) / 2 calls of the discrepancy ("pairwise"), or ``domains`` calls, each over all n rows
        against all n: shapes never depend on the batch's domains. A discrepancy that refuses weights (the linear
        MMD, say) cannot be used. With two domains, "pairwise" and "one_vs_rest" equal ``discrepancy(F_0, F_1)`` for
        a symmetric discrepancy.

    Example:
        >>> import torch
        >>> def between_means(source, target, *, source_weight, target_weight, source_mask=None, target_mask=None):
        ...     means = source_weight @ source / source_weight.sum(), target_weight @ target / target_weight.sum()
        ...     return (means[0] - means[1]).abs().sum()
        >>> features = torch.tensor([[0.0], [0.0], [3.0], [9.0]])
        >>> index = torch.tensor([0, 0, 1, 2])
        >>> multi_domain_loss(features, index, discrepancy=between_means, domains=4).item()  # (3 + 9 + 6) / 3
        6.0

    References:
        Peng et al., "Moment Matching for Multi-Source Domain Adaptation", ICCV 2019, equation 2 (pairwise);
        Blanchard, Lee & Scott, "Generalizing from Several Related Classification Tasks to a New Unlabeled Sample",
        NeurIPS 2011, for distributions as samples.
    """
    caller = "multi_domain_loss"
    _check_options(caller, discrepancy, domains, scheme)
    check_tensor(caller, "features", features)
    if mask is not None:
        check_mask(caller, "mask", mask, features.shape[:-1])
    check_samples(caller, "features", features, mask=mask)
    leading = features.shape[:-1]
    if weight is not None:
        check_weight(caller, "weight", weight, leading)
    _check_index(caller, domain_index, features)
    dtype = working_dtype(features)
    with full_precision(features):
        index = domain_index
        if index.ndim < len(leading):
            index = index.unsqueeze(1).expand(leading)
        member = (index == torch.arange(domains, device=index.device).reshape(-1, *(1 for _ in leading))).to(dtype)
        if weight is not None:
            member = member * weight.to(dtype)
        if mask is not None:
            member = torch.where(mask, member, torch.zeros((), dtype=dtype, device=member.device))
        counts = member.flatten(1).sum(1)
        present = counts > 0
        total, values, chosen = member.sum(0), [], []
        mixture = total
        if scheme == "to_mean":
            column = counts.reshape(-1, *(1 for _ in leading))
            # Every domain repeated to the size of the largest: shares are equal and weights stay counts.
            mixture = safe_divide(member * column.amax(), column.expand_as(member)).sum(0)
        for a in range(domains):
            if scheme == "pairwise":
                rivals = [(member[b], present[b]) for b in range(a + 1, domains)]
            elif scheme == "one_vs_rest":
                rest = torch.cat([present[:a], present[a + 1 :]]).any()
                rivals = [(torch.cat([member[:a], member[a + 1 :]]).sum(0), rest)]
            else:
                rivals = [(mixture, present[a])]
            for other, other_present in rivals:
                both = present[a] & other_present
                # A comparison that is left out still has to be defined: there every row counts once.
                one = torch.ones((), dtype=dtype, device=member.device)
                value = discrepancy(
                    features,
                    features,
                    source_weight=torch.where(both, member[a], one),
                    target_weight=torch.where(both, other, one),
                    source_mask=mask,
                    target_mask=mask,
                )
                values.append(value)
                chosen.append(both)
        stacked, kept = torch.stack(values), torch.stack(chosen)
        mean = safe_divide(torch.where(kept, stacked, 0 * stacked).sum(), kept.sum().to(stacked.dtype))
        return torch.where(kept.any(), mean, 0 * stacked.sum())


def _check_index(caller: str, index: Tensor, features: Tensor) -> None:
    check_tensor(caller, "domain_index", index)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{caller}: `domain_index` must hold integers, got {index.dtype}")
    leading = tuple(features.shape[:-1])
    if tuple(index.shape) not in (leading, leading[:1]):
        rule = f"have shape {leading}" + (f" or {leading[:1]}" if len(leading) > 1 else "")
        fail(caller, "domain_index", rule, shape_text(index))


def _check_options(caller: str, discrepancy: Discrepancy, domains: int, scheme: Scheme) -> None:
    check_callable(caller, "discrepancy", discrepancy)
    check_count(caller, "domains", domains, at_least=2)
    check_choice(caller, "scheme", scheme, _SCHEMES)


class MultiDomainLoss(nn.Module):
    """Module form of :func:`multi_domain_loss`, which holds the formula, shapes and errors.

    Args:
        discrepancy: any :class:`Discrepancy`, a module or a function.
        domains: number of domains.
        scheme: ``"pairwise"``, ``"one_vs_rest"`` or ``"to_mean"``.

    Example:
        >>> from mmda.losses import MMDLoss
        >>> MultiDomainLoss(MMDLoss(), domains=3).scheme
        'pairwise'
    """

    def __init__(self, discrepancy: Discrepancy, *, domains: int, scheme: Scheme = "pairwise") -> None:
        super().__init__()
        _check_options("MultiDomainLoss", discrepancy, domains, scheme)
        self.discrepancy = discrepancy
        self.domains = domains
        self.scheme: Scheme = scheme

    def forward(
        self,
        features: Tensor,
        domain_index: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`multi_domain_loss`."""
        return multi_domain_loss(
            features,
            domain_index,
            discrepancy=self.discrepancy,
            domains=self.domains,
            scheme=self.scheme,
            weight=weight,
            mask=mask,
        )

    def extra_repr(self) -> str:
        shown = "" if isinstance(self.discrepancy, nn.Module) else f"discrepancy={self.discrepancy!r}, "
        return f"{shown}domains={self.domains}, scheme={self.scheme!r}"
