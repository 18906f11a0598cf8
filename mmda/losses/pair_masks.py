"""Pair masks for the contrastive losses: by domain, and for duplicates."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_sequence, check_tensor, fail, fail_type, shape_text

Ids = Tensor | Sequence[Hashable]
Negatives = Literal["within", "across", "all"]
_NEGATIVES = ("within", "across", "all")


def domain_negative_mask(anchor_domain: Tensor, positive_domain: Tensor, mode: Negatives = "within") -> Tensor:
    """Which pairs may be negatives, given their domains; for ``negative_mask``.

    Args:
        anchor_domain: the domain of each anchor, integers.
        positive_domain: the domain of each candidate.
        mode: ``"within"`` keeps negatives of the anchor's own domain (so that separating the domains cannot lower the
            loss), ``"across"`` those of other domains, ``"all"`` all.

    Shape:
        (n,) and (m,) to (n, m).

    Returns:
        Bool, True where the pair may be a negative.

    Raises:
        ValueError: wrong shapes, an unknown mode.

    Example:
        >>> import torch
        >>> domain_negative_mask(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
        tensor([[ True, False, False],
                [False,  True,  True]])
    """
    caller = "domain_negative_mask"
    check_choice(caller, "mode", mode, _NEGATIVES)
    for name, index in (("anchor_domain", anchor_domain), ("positive_domain", positive_domain)):
        check_tensor(caller, name, index)
        if index.ndim != 1:
            fail(caller, name, "have shape (samples,)", shape_text(index))
    same = anchor_domain.unsqueeze(1) == positive_domain.unsqueeze(0)
    if mode == "within":
        return same
    return ~same if mode == "across" else torch.ones_like(same)


def duplicate_mask(ids: Ids, candidate_ids: Ids | None = None) -> Tensor:
    """Which rows are duplicates, such as one caption of two videos.

    Pass it as ``positive_mask`` to make duplicates positives of each other, or its negation as ``negative_mask`` to
    exclude them from the negatives (a row stays its own positive).

    Args:
        ids: one integer per row, or a sequence of strings or other hashable values; equal ids mean equal content.
        candidate_ids: ids of the candidates if these are other rows, such as a memory bank; ``ids`` by default.

    Shape:
        (n,), and (m,), to (n, m).

    Returns:
        Bool, True where the ids are equal, including the diagonal; on the device of the tensor, for a sequence on the
        CPU.

    Raises:
        ValueError: a wrong shape.
        TypeError: a string instead of a sequence, a tensor together with a sequence or inside one.

    Example:
        >>> import torch
        >>> duplicate_mask(torch.tensor([7, 8, 7]))
        tensor([[ True, False,  True],
                [False,  True, False],
                [ True, False,  True]])
        >>> duplicate_mask(["a dog runs"], ["a cat", "a dog runs"])
        tensor([[False,  True]])
    """
    caller = "duplicate_mask"
    others = ids if candidate_ids is None else candidate_ids
    for name, given in (("ids", ids), ("candidate_ids", others)):
        if not isinstance(given, Tensor):
            check_sequence(caller, name, given, "id")
        elif given.ndim != 1:
            fail(caller, name, "have shape (samples,)", shape_text(given))
    if isinstance(ids, Tensor) and isinstance(others, Tensor):
        return ids.unsqueeze(1) == others.unsqueeze(0)
    if isinstance(ids, Tensor) or isinstance(others, Tensor):
        fail_type(caller, "candidate_ids", "be a tensor where `ids` is one, and a sequence where it is one", others)
    if any(isinstance(one, Tensor) for one in (*ids, *others)):  # equal tensors have different hashes
        fail_type(caller, "ids", "hold texts or other values, or be one tensor", next(iter(ids)))
    numbers: dict[Hashable, int] = {}
    rows, columns = (torch.tensor([numbers.setdefault(one, len(numbers)) for one in given]) for given in (ids, others))
    return rows.unsqueeze(1) == columns.unsqueeze(0)
