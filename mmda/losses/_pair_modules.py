"""Base classes for the modules of losses on pairs, in addition to :mod:`mmda.losses._modules`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from mmda._core.masking import full_precision
from mmda._math.pair_logits import PairedFrames
from mmda.losses._modules import LossModule
from mmda.losses._tempered import TemperedModule


class PairedModule(LossModule):
    """A loss on paired rows in which each row is compared only with its partner."""

    def forward(
        self, anchor: Tensor, positive: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Apply the function to the pairs with this module's settings."""
        return type(self)._function(anchor, positive, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


class CandidatesModule(LossModule):
    """A loss on paired rows in which each anchor is compared with all candidates."""

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
        """Apply the function to the pairs with this module's settings."""
        masks = {"candidate_mask": candidate_mask, "positive_mask": positive_mask, "negative_mask": negative_mask}
        return type(self)._function(anchor, positive, weight=weight, mask=mask, **masks, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


class FramesModule(TemperedModule):
    """A loss on video frames and their queries.

    A subclass sets ``_of_pairs`` too: its function of pairs that are normalised, with the settings.
    """

    _of_pairs: ClassVar[Callable[..., Tensor]]

    def of_pairs(self, pairs: PairedFrames) -> Tensor:
        """The loss of pairs prepared once for several losses, which then share their similarities."""
        with full_precision(pairs.frames):
            return type(self)._of_pairs(pairs, **self._options())

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
        """Apply the function to videos and queries with this module's settings."""
        masks = {"frame_mask": frame_mask, "negative_mask": negative_mask, "mask": mask}
        return type(self)._function(frames, queries, weight=weight, **masks, **self._options())

    if TYPE_CHECKING:
        __call__ = forward
