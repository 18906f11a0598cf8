"""Discrepancy over more than two domains, from any discrepancy of two."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from types import FunctionType
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.checks import check_choice, check_count, check_tensor, fail, shape_text
from mmda._core.components import check_callable
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import as_rows, check_rows
from mmda._core.transforms import values_are_known
from mmda._math.domain_sums import kernel_sum_of, mean_over_comparisons
from mmda.losses._modules import LossModule
from mmda.losses._protocols import Discrepancy

Scheme = Literal["pairwise", "one_vs_rest", "to_mean"]
_SCHEMES = ("pairwise", "one_vs_rest", "to_mean")
#: Samples are padded to this many rows, which some estimators require; added rows have weight zero.
_LEAST = 2
#: With fewer rows in total, three domains are faster as three calls than as one sum.
_SMALL = 512

_Side = tuple[Tensor, Tensor | None]


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

    With :math:`F_a` the rows of domain a and D the discrepancy, the mean over all comparisons of two nonempty samples
    of

    .. math::

       \text{pairwise:}\quad & D(F_a, F_b), \; a < b \\
       \text{one\_vs\_rest:}\quad & D(F_a, \textstyle\bigcup_{b \ne a} F_b) \\
       \text{to\_mean:}\quad & D(F_a, \tfrac{1}{K'} \textstyle\sum_b F_b),

    the last against the mixture in which the K' domains of the batch have equal shares, as if smaller domains were
    repeated to the size of the largest (the mixture includes domain a itself).

    Args:
        features: rows of all domains together.
        domain_index: domain of each row, 0 .. domains - 1; any other number (such as -1) means no domain.
        discrepancy: any :class:`Discrepancy`. It is called with the rows of both samples, and with weights if these are
            not all one or if it requires them. In compiled graphs and function transforms it is called with all rows,
            and weights select the samples.
        domains: number of domains; domains without rows in this batch are left out of the mean.
        scheme: ``"pairwise"``, ``"one_vs_rest"`` or ``"to_mean"``.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``features`` (n, d), or with a mask (b, t, d); ``domain_index`` (n,), or (b, t), or (b,) for whole sequences;
        ``weight`` and ``mask`` (n,), or (b, t).

    Returns:
        Scalar of the discrepancy's dtype and range. Zero if every comparison has an empty sample.

    Raises:
        ValueError: wrong shapes, fewer than two domains, an unknown scheme.
        TypeError: a mask that is not bool, domain numbers that are not integers.

    Notes:
        domains (domains - 1) / 2 calls of the discrepancy ("pairwise"), or ``domains`` calls, each on the rows
        compared. :class:`EnergyDistanceLoss`, and :class:`MMDLoss` with a number or a tensor without gradient as its
        bandwidth, are computed as one sum over all pairs of rows, whatever the number of domains; with many domains,
        use one bandwidth for all, ``MMDLoss(kernel=Gaussian(median_bandwidth(features)))``. In compiled graphs and
        transforms all other discrepancies are called on all n rows against all n rows, so that shapes do not depend on
        the domains in the batch, and a discrepancy without weights (such as the linear MMD) cannot be used. With two
        domains, "pairwise" and "one_vs_rest" equal ``discrepancy(F_0, F_1)`` for a symmetric discrepancy.

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
        NeurIPS 2011, for treating distributions as samples.
    """
    caller = "multi_domain_loss"
    _check_options(caller, discrepancy, domains, scheme)
    check_rows(caller, "features", features, mask, weight, prefix="")
    leading = features.shape[:-1]
    _check_index(caller, domain_index, features)
    with full_precision(features):
        index = domain_index
        if index.ndim < len(leading):
            index = index.unsqueeze(1).expand(leading)
        flat = (None if tensor is None else tensor.flatten() for tensor in (weight, mask))
        samples = _Samples(features.flatten(0, -2), index.flatten(), *flat)
        found = _by_one_sum(samples, discrepancy, domains, scheme)
        if found is not None:
            return found
        if values_are_known(*samples):
            return _by_slices(samples, discrepancy, domains, scheme)
        return _by_weights(samples, discrepancy, domains, scheme)


class _Samples(NamedTuple):
    """Rows of all domains (n, d), with the domain, weight and mask of each row (n,)."""

    features: Tensor
    domain: Tensor
    weight: Tensor | None
    mask: Tensor | None

    def member(self, domains: int) -> Tensor:
        """Weight of each row in each domain (domains, n)."""
        dtype = working_dtype(self.features)
        member = (self.domain == torch.arange(domains, device=self.domain.device).unsqueeze(1)).to(dtype)
        if self.weight is not None:
            member = member * self.weight.to(dtype)
        if self.mask is not None:
            member = torch.where(self.mask, member, torch.zeros((), dtype=dtype, device=member.device))
        return member


def _shares(counts: Tensor) -> Tensor:
    """Weight of a domain's rows in the mixture: every domain is scaled to the total weight of the largest.

    So domains have equal shares, and weights still count rows.
    """
    return safe_divide(counts.amax().expand_as(counts), counts)


def _by_one_sum(samples: _Samples, discrepancy: Discrepancy, domains: int, scheme: Scheme) -> Tensor | None:
    """One sum over all pairs of rows, if the discrepancy is a squared MMD with one bandwidth for all."""
    how = kernel_sum_of(discrepancy)
    needs_gradient = samples.weight is not None and samples.weight.requires_grad and torch.is_grad_enabled()
    few = domains == 2 or (domains == 3 and samples.features.shape[0] < _SMALL)
    if how is None or needs_gradient or few:  # a few small calls cost less
        return None
    dtype = working_dtype(samples.features)
    rows, _ = as_rows("multi_domain_loss", "features", samples.features, mask=None, weight=None, dtype=dtype)
    member = samples.member(domains)
    masses = member.sum(1, dtype=torch.float64)
    present, each = masses > 0, torch.eye(domains, dtype=torch.float64, device=rows.device)
    if scheme == "pairwise":
        first, second = torch.triu_indices(domains, domains, 1, device=rows.device)
        sides, chosen = (each[first], each[second]), present[first] & present[second]
    elif scheme == "one_vs_rest":
        sides, chosen = (each, 1 - each), present & (present.sum() > 1)
    else:
        sides, chosen = (each, _shares(masses).expand(domains, domains)), present
    return mean_over_comparisons(rows, member.T, sides, chosen, how)


def _by_slices(samples: _Samples, discrepancy: Discrepancy, domains: int, scheme: Scheme) -> Tensor:
    """One call per comparison, on the rows compared."""
    features, index, weight, mask = samples
    kept = (index >= 0) & (index < domains)
    if mask is not None:
        kept &= mask
    own = torch.where(kept, index + 1, 0)  # 0: no domain
    sizes = torch.bincount(own, minlength=domains + 1).tolist()
    ordered = own.argsort(stable=True)
    rows = torch.split(features.index_select(0, ordered), sizes)
    dtype = working_dtype(features)
    explicit = not _weights_are_optional(discrepancy)

    def side(rows: Tensor, often: Tensor | None) -> _Side:
        if often is None and (explicit or rows.shape[0] < _LEAST):
            often = torch.ones(rows.shape[:1], dtype=dtype, device=features.device)
        if often is not None and rows.shape[0] < _LEAST:
            often = torch.cat((often, often.new_zeros(1)))
            rows = rows.expand(_LEAST, -1)
        return rows, often

    def between(source: _Side, target: _Side) -> Tensor:
        return discrepancy(source[0], target[0], source_weight=source[1], target_weight=target[1])

    if weight is None:
        masses = [float(size) for size in sizes]
        sides = {a: side(rows[a], None) for a in range(1, domains + 1) if sizes[a]}
    else:
        weights = torch.split(weight.index_select(0, ordered), sizes)
        masses = torch.stack([part.detach().sum(dtype=torch.float64) for part in weights]).tolist()
        sides = {a: side(rows[a], weights[a]) for a in range(1, domains + 1) if masses[a] > 0}
    if scheme == "pairwise":
        values = [between(a, b) for a, b in combinations(sides.values(), 2)]
    elif scheme == "one_vs_rest":
        values = []
        for a in sides if len(sides) > 1 else ():
            rest = (kept & (own != a)).nonzero().squeeze(1)
            often = None if weight is None else weight.index_select(0, rest)
            values.append(between(sides[a], side(features.index_select(0, rest), often)))
    else:
        largest = max([masses[a] for a in sides], default=0.0)
        every = kept.nonzero().squeeze(1)
        often = None
        if weight is not None or any(masses[a] != largest for a in sides):
            # Scale every domain to the size of the largest, as in _shares.
            times = [largest / mass if mass > 0 else 0.0 for mass in masses]
            often = torch.tensor(times, dtype=dtype, device=features.device)[own.index_select(0, every)]
            often = often if weight is None else often * weight.index_select(0, every)
        values = []
        if sides:
            mixture = side(features.index_select(0, every), often)
            values = [between(one, mixture) for one in sides.values()]
    if not values:
        return features.flatten()[:0].sum(dtype=dtype)
    return values[0] if len(values) == 1 else torch.stack(values).mean()


def _weights_are_optional(discrepancy: Discrepancy) -> bool:
    """Whether the discrepancy can be called without weights, which default to None."""
    if isinstance(discrepancy, nn.Module):
        return _defaults_to_none(type(discrepancy).forward)
    return isinstance(discrepancy, FunctionType) and _defaults_to_none(discrepancy)


@lru_cache(maxsize=64)
def _defaults_to_none(call: Callable[..., object]) -> bool:
    parameters = inspect.signature(call).parameters
    return all(name in parameters and parameters[name].default is None for name in ("source_weight", "target_weight"))


def _by_weights(samples: _Samples, discrepancy: Discrepancy, domains: int, scheme: Scheme) -> Tensor:
    """Pass all rows as both samples and select by weights, so that shapes never depend on values."""
    features, _, _, mask = samples
    member = samples.member(domains)
    counts = member.sum(1)
    present = counts > 0
    total, values, chosen = member.sum(0), [], []
    mixture = (_shares(counts).unsqueeze(1) * member).sum(0) if scheme == "to_mean" else total
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
            # A comparison that is left out must still be finite: give all its rows weight one.
            one = torch.ones((), dtype=member.dtype, device=member.device)
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


class MultiDomainLoss(LossModule):
    """Module form of :func:`multi_domain_loss`, which documents the formula, shapes and errors.

    Args:
        discrepancy: any :class:`Discrepancy`, a module or a function.
        domains: number of domains.
        scheme: ``"pairwise"``, ``"one_vs_rest"`` or ``"to_mean"``.

    Example:
        >>> from mmda.losses import MMDLoss
        >>> MultiDomainLoss(MMDLoss(), domains=3).scheme
        'pairwise'
    """

    _function = staticmethod(multi_domain_loss)

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
        return multi_domain_loss(features, domain_index, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward
