"""The two call shapes of the library: satisfy the call and a loss fits everywhere; there is nothing to inherit."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Discrepancy(Protocol):
    """A distance between two samples of unpaired rows, ``(n, d)`` and ``(m, d)``.

    Anything with this call can be passed where a domain alignment is expected: every discrepancy of
    :mod:`mmda.losses`, an adversary, or a function of your own.
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

        ``weight`` and ``mask`` (n,) say how often each pair counts and which are valid; ``positive_mask`` and
        ``negative_mask`` (n, n) which candidate j is a positive, or may be a negative, of anchor i.
        """
        ...
