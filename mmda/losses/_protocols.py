"""The two call signatures of the library. A loss that has one of them fits everywhere, without a base class."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Discrepancy(Protocol):
    """A distance between two samples of unpaired rows, ``(n, d)`` and ``(m, d)``.

    Any callable with this signature can be passed where a domain alignment is expected: a discrepancy of
    :mod:`mmda.losses`, an adversarial loss, or your own function.
    """

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """One scalar; smaller means closer."""
        ...


@runtime_checkable
class PairLoss(Protocol):
    """A loss on paired rows: row i of ``anchor`` belongs to row i of ``positive``."""

    def __call__(
        self,
        anchor: Tensor,
        positive: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        positive_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        """One scalar; smaller means better matched.

        ``weight`` and ``mask`` (n,) are pair weights and which pairs are valid; ``positive_mask`` and ``negative_mask``
        (n, n) select which candidates j are positives, or may be negatives, of anchor i.
        """
        ...
