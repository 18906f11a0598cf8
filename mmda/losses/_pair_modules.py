"""What the module forms of losses on pairs share, beside :mod:`mmda.losses._modules`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmda.losses._modules import LossModule
from mmda.losses._tempered import TemperedModule


class PairedModule(LossModule):
    """Of paired rows, all of which are compared with their partners alone."""

    def forward(
        self, anchor: Tensor, positive: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The function of these pairs, with the settings of this module."""
        return type(self)._function(anchor, positive, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


class CandidatesModule(LossModule):
    """Of paired rows, which are compared with all candidates."""

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        candidate_mask: Tensor | None = None,
        positive_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        """The function of these pairs, with the settings of this module."""
        masks = {"candidate_mask": candidate_mask, "positive_mask": positive_mask, "negative_mask": negative_mask}
        return type(self)._function(anchor, positive, weight=weight, mask=mask, **masks, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


class FramesModule(TemperedModule):
    """Of the frames of videos and their queries."""

    def forward(
        self,
        frames: Tensor,
        queries: Tensor,
        *,
        frame_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The function of these videos and queries, with the settings of this module."""
        masks = {"frame_mask": frame_mask, "negative_mask": negative_mask, "mask": mask}
        return type(self)._function(frames, queries, weight=weight, **masks, **self._options())

    if TYPE_CHECKING:
        __call__ = forward
