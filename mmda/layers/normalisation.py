"""The parameters that test-time adaptation trains (TENT)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmda._core.components import check_module
from mmda.layers.batch_norm import DomainSpecificBatchNorm


def affine_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Scales and offsets of a model's normalisation layers, the parameters trained by test-time adaptation (TENT).

    Args:
        model: any module; finds batch, instance, group and layer normalisation and the domain-specific layers of this
            library.

    Returns:
        An iterator over the parameters, each once, in the order of the layers.

    Raises:
        TypeError: the model is not a module.

    Notes:
        The recipe: freeze everything (``model.requires_grad_(False)``), enable gradients for these parameters and pass
        them to an optimiser, put batch normalisation into training mode with ``track_running_stats`` off if batches are
        large enough for their own statistics, and minimise :func:`mmda.losses.entropy_loss` of class logits,
        :func:`mmda.losses.similarity_entropy_loss` or :func:`mmda.losses.span_entropy_loss` on the incoming batches.
        Use few steps, a small learning rate and occasional resets; entropy minimisation does not correct a model that
        is confidently wrong.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False))
        >>> [tuple(p.shape) for p in affine_parameters(model)]
        [(4,), (4,)]

    References:
        Wang, Shelhamer, Liu, Olshausen & Darrell, "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR
        2021, section 3.2.
    """
    check_module("affine_parameters", "model", model)
    kinds = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, DomainSpecificBatchNorm)
    seen: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, kinds):
            for parameter in layer.parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter
