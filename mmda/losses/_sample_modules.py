"""Base classes for the modules of losses on logits or on two samples, in addition to :mod:`mmda.losses._modules`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmda.losses._modules import LossModule


class DiscrepancyModule(LossModule):
    """A loss on two samples, see :class:`mmda.losses.Discrepancy`."""

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Apply the function to the two samples with this module's settings."""
        return type(self)._function(
            source,
            target,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward


class LogitModule(LossModule):
    """A loss on class logits, one row per sample."""

    def forward(self, logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Apply the function to the logits with this module's settings."""
        return type(self)._function(logits, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


def of_sides(
    source_weight: Tensor | None, target_weight: Tensor | None, source_mask: Tensor | None, target_mask: Tensor | None
) -> dict[str, Any]:
    """The arguments as a dict of keywords."""
    weights = {"source_weight": source_weight, "target_weight": target_weight}
    return {**weights, "source_mask": source_mask, "target_mask": target_mask}
