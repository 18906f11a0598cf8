"""Base classes for the modules of losses on two samples, in addition to :mod:`mmda.losses._modules`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count
from mmda._core.components import check_discriminator, check_kernel
from mmda._core.draws import Draws
from mmda._math.kernel_tensors import current_kernel, register_bandwidth
from mmda.kernels import Gaussian, Kernel
from mmda.layers.reversal import GradientReversal
from mmda.losses._modules import LossModule
from mmda.losses._sample_modules import of_sides


class KernelModule(LossModule):
    """A loss with a kernel, whose bandwidth may be a buffer or parameter of the module."""

    kernel: Kernel

    def _keep_kernel(self, kernel: Kernel) -> None:
        self.kernel = kernel
        register_bandwidth(self, kernel)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "kernel": current_kernel(self, self.kernel)}


class ClassKernelModule(KernelModule):
    """A loss with a kernel that compares two samples class by class."""

    def __init__(self, *, kernel: Kernel = Gaussian(), classes: int | None = None) -> None:
        super().__init__()
        if classes is not None:
            check_count(type(self).__name__, "classes", classes)
        check_kernel(type(self).__name__, "kernel", kernel)
        self._keep_kernel(kernel)
        self.classes = classes

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_labels: Tensor,
        target_probabilities: Tensor,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Apply the function to the two samples with this module's settings."""
        labels = {"source_labels": source_labels, "target_probabilities": target_probabilities}
        sides = of_sides(source_weight, target_weight, source_mask, target_mask)
        return type(self)._function(source, target, **labels, **sides, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


class DrawnModule(LossModule):
    """A loss with random draws, which are fixed in evaluation mode."""

    draws: Draws

    def _options_now(self) -> dict[str, Any]:
        return self._options() if self.training else {**self._options(), "draws": "fixed"}


class ProjectedModule(DrawnModule):
    """A loss on random projections of two samples."""

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        projections: Tensor | None = None,
        generator: torch.Generator | None = None,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Apply the function to the two samples with this module's settings."""
        draws = {**self._options_now(), "projections": projections, "generator": generator}
        sides = of_sides(source_weight, target_weight, source_mask, target_mask)
        return type(self)._function(source, target, **sides, **draws)

    if TYPE_CHECKING:
        __call__ = forward


class AdversaryModule(nn.Module):
    """A loss with a gradient reversal, whose strength the training loop sets."""

    reversal: GradientReversal

    def set_strength(self, strength: float | Tensor) -> None:
        """Set the reversal strength for all following calls."""
        self.reversal.set_strength(strength)


class DiscriminatorModule(AdversaryModule):
    """A loss with a discriminator behind a gradient reversal."""

    def __init__(self, discriminator: nn.Module, *, strength: float = 1.0) -> None:
        super().__init__()
        check_discriminator(type(self).__name__, discriminator)
        self.discriminator = discriminator
        self.reversal = GradientReversal(strength)
