"""The module forms of losses on one sample of logits or two of features, beside :mod:`mmda.losses._modules`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmda.losses._modules import LossModule


class DiscrepancyModule(LossModule):
    """Of two samples, see :class:`mmda.losses.Discrepancy`."""

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
        """The function of these samples, with the settings of this module."""
        return type(self)._function(
            source,
            target,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward


class LogitModule(LossModule):
    """Of class logits, one row a sample."""

    def forward(self, logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The function of these logits, with the settings of this module."""
        return type(self)._function(logits, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


def of_sides(
    source_weight: Tensor | None, target_weight: Tensor | None, source_mask: Tensor | None, target_mask: Tensor | None
) -> dict[str, Any]:
    """These arguments, by name, to be handed on."""
    weights = {"source_weight": source_weight, "target_weight": target_weight}
    return {**weights, "source_mask": source_mask, "target_mask": target_mask}
