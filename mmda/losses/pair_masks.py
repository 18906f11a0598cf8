"""Pair masks for the contrastive losses, by domain and for duplicates, and numbers for texts."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping, Sequence
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


def identity_numbers(ids: Sequence[Hashable], numbers: MutableMapping[Hashable, int] | None = None) -> Tensor:
    """Number texts or other values: equal ids get equal integers, in order of first occurrence.

    For whatever takes integers: :class:`mmda.layers.MemoryBank`, the ``duplicates`` of
    :func:`mmda.validators.pair_retrieval_recall`, ``gather_rows`` of several processes.

    Args:
        ids: strings or other hashable values, one per row.
        numbers: the numbers given so far, where batches are to share them, as in a memory bank; new ids are added to
            it.

    Returns:
        Integers of shape (n,), on the CPU.

    Raises:
        ValueError: no id.
        TypeError: a string instead of a sequence, or tensors inside one.

    Notes:
        Ids are compared as they are: lower the case and strip the spaces of captions first if that is meant.

    Example:
        >>> identity_numbers(["a dog runs", "a cat", "a dog runs"])
        tensor([0, 1, 0])
        >>> known = {"a cat": 0}
        >>> identity_numbers(["a dog runs", "a cat"], known), known
        (tensor([1, 0]), {'a cat': 0, 'a dog runs': 1})
    """
    return _numbered("identity_numbers", "ids", ids, {} if numbers is None else numbers)


def _numbered(caller: str, name: str, ids: Sequence[Hashable], numbers: MutableMapping[Hashable, int]) -> Tensor:
    check_sequence(caller, name, ids, "id")
    if any(isinstance(one, Tensor) for one in ids):  # equal tensors have different hashes
        fail_type(caller, name, "hold texts or other values, or be one tensor", next(iter(ids)))
    return torch.tensor([numbers.setdefault(one, len(numbers)) for one in ids], dtype=torch.long)


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
    sides = {"ids": ids, "candidate_ids": others}
    for name, given in sides.items():
        if isinstance(given, Tensor) and given.ndim != 1:
            fail(caller, name, "have shape (samples,)", shape_text(given))
    if isinstance(ids, Tensor) != isinstance(others, Tensor):
        fail_type(caller, "candidate_ids", "be a tensor where `ids` is one, and a sequence where it is one", others)
    numbers: dict[Hashable, int] = {}
    rows, columns = (
        given if isinstance(given, Tensor) else _numbered(caller, name, given, numbers) for name, given in sides.items()
    )
    return rows.unsqueeze(1) == columns.unsqueeze(0)
