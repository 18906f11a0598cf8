"""Named terms and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import check_number, check_tensor, fail, fail_type


class Objective(NamedTuple):
    """What a training step minimises and the terms it was summed from.

    Attributes:
        total: scalar, the weighted sum.
        terms: each term raw, by role, before its weight.
    """

    total: Tensor
    terms: dict[str, Tensor]


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor] | None = None) -> Objective:
    r"""Sum of named scalar terms, each times its weight.

    .. math:: L = \sum_r w_r L_r

    A sum, never a mean: switching a term off does not change the scale of the others. A role without a
    weight counts once; a number 0 leaves the term out of the graph, a tensor multiplies whatever it holds.

    Args:
        terms: scalar tensors by role; at least one.
        weights: factors by role, numbers or scalar tensors. Every key must be a role in ``terms``.

    Returns:
        :class:`Objective` with the scalar total and the raw terms.

    Raises:
        ValueError: ``terms`` is empty, a term is not a scalar, a weight is not finite or not a scalar, or ``weights``
            names an unknown role (the message lists both sets).
        TypeError: no mapping, a term that is no tensor, a weight that is no number.

    Example:
        >>> import torch
        >>> objective = weighted_sum({"moment": torch.tensor(2.0), "video": torch.tensor(3.0)}, {"video": 0.5})
        >>> objective.total.item()
        3.5
    """
    caller = "weighted_sum"
    if not isinstance(terms, Mapping):
        fail_type(caller, "terms", "be a mapping of roles to scalar tensors", terms)
    if weights is None:
        weights = {}
    elif not isinstance(weights, Mapping):
        fail_type(caller, "weights", "be a mapping of roles to numbers", weights)
    unknown = sorted(set(weights) - set(terms))
    if unknown:
        fail(caller, "weights", f"name roles among {sorted(terms)}", unknown)
    if not terms:
        fail(caller, "terms", "hold at least one term", "none")
    for role, weight in weights.items():
        if not isinstance(weight, Tensor):
            check_number(caller, f"weights[{role!r}]", weight)
        elif weight.ndim != 0:
            fail(caller, f"weights[{role!r}]", "be a number or a scalar tensor", tuple(weight.shape))
    for role, term in terms.items():
        check_tensor(caller, f"terms[{role!r}]", term)
        if term.ndim != 0:
            fail(caller, f"terms[{role!r}]", "be a scalar", tuple(term.shape))
    total: Tensor | None = None
    for role, term in terms.items():
        weight = weights.get(role, 1.0)
        if isinstance(weight, Tensor) or weight != 0:  # the value of a tensor is not read
            part = weight * term if isinstance(weight, Tensor) or weight != 1 else term
            total = part if total is None else total + part
    if total is None:
        term = next(iter(terms.values()))
        total = torch.where(term.new_zeros((), dtype=torch.bool), term, torch.zeros_like(term))
    return Objective(total, dict(terms))


__all__ = ["Objective", "weighted_sum"]
