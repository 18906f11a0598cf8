"""Re-estimation of a model's batch normalisation on another domain (AdaBN)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmda._core.checks import fail, shape_text
from mmda._core.components import check_module
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda.layers.batch_norm import DomainSpecificBatchNorm, Moments, centred


class _Pool:
    """Count, mean and sum of squared deviations of a layer's inputs over all batches, by domain, in float64."""

    def __init__(self) -> None:
        self.batches: Tensor | None = None
        self.count = self.mean = self.squares = torch.zeros(())

    def add(self, moments: Moments) -> None:
        count, mean, variance = (part.detach().cpu().double() for part in moments)
        count = count.unsqueeze(1)
        if self.batches is None:
            self.batches = torch.zeros(count.shape[0], dtype=torch.long)
            self.count, self.mean, self.squares = (torch.zeros_like(t) for t in (count, mean, mean))
        total = self.count + count
        gap = mean - self.mean
        self.mean = self.mean + safe_divide(gap * count, total)
        self.squares = self.squares + variance * count + safe_divide(gap.square() * self.count * count, total)
        self.count = total
        self.batches = self.batches + (count.squeeze(1) > 0)

    def write(self, layer: _Normaliser) -> None:
        if self.batches is None or layer.running_mean is None or layer.running_var is None:
            return
        enough = self.count > 1
        variance = self.squares / torch.where(enough, self.count - 1, torch.ones_like(self.count))
        for buffer, value in ((layer.running_mean, self.mean), (layer.running_var, variance)):
            new = value.to(device=buffer.device, dtype=buffer.dtype).reshape(buffer.shape)
            buffer.copy_(torch.where(enough.to(buffer.device).reshape(-1, *[1] * (buffer.ndim - 1)), new, buffer))
        if layer.num_batches_tracked is not None:
            counted = self.batches.to(layer.num_batches_tracked.device).reshape(layer.num_batches_tracked.shape)
            layer.num_batches_tracked.copy_(counted)


_Normaliser = _BatchNorm | DomainSpecificBatchNorm


def _input_moments(layer: _Normaliser, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Moments:
    if isinstance(layer, DomainSpecificBatchNorm):
        return layer.batch_moments(*args, **kwargs)
    x: Tensor = args[0] if args else kwargs["input"]
    with full_precision(x):
        rows = x.to(working_dtype(x))
        rows = rows.flatten(2) if rows.ndim > 2 else rows.unsqueeze(2)
        everything = torch.ones(rows.shape[0], 1, dtype=rows.dtype, device=rows.device)
        return centred(rows, None, everything, 0).moments


def _call(model: nn.Module, batch: object) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


@torch.no_grad()
def adapt_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], object] | None = None,
    layerwise: bool = False,
) -> int:
    r"""Re-estimate the running statistics of all batch normalisations on unlabelled data (AdaBN); returns their number.

    Each layer gets the mean and the unbiased variance of its input over all batches,

    .. math:: \mu = \frac{1}{n} \sum_i x_i, \qquad \sigma^2 = \frac{1}{n - 1} \sum_i (x_i - \mu)^2

    pooled over all values, not averaged over batches. Weights stay unchanged.

    Args:
        model: any module with :class:`torch.nn.BatchNorm1d` to ``3d`` or the domain-specific layers of this library
            that keep running statistics. Of the latter, only the domains that occur in the batches are re-estimated.
        batches: target inputs: a tensor is passed as ``model(x)``, a tuple as ``model(*x)``, a mapping as
            ``model(**x)``.
        forward: custom call ``forward(model, batch)``, such as ``lambda model, batch: model(batch[0])`` for batches
            with labels.
        layerwise: False: one pass, in which earlier layers normalise by the statistics of each batch. True: one pass
            per layer, in the order in which they run, in evaluation mode: every layer then has the exact statistics of
            its input in the adapted model, whatever the batch sizes.

    Returns:
        Number of layers re-estimated (layers that no batch reaches stay unchanged).

    Raises:
        ValueError: no batch, no layer to re-estimate, ``layerwise`` with an iterator that can be read only once, or
            without it a batch with one value per channel, which has no variance.

    Notes:
        Everything else runs in evaluation mode (no dropout), without gradients; all modes are restored, and nothing
        is written if a forward pass fails. Statistics are accumulated in float64 on the CPU. With several processes
        each uses its own batches: gather them first.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Dropout())
        >>> adapt_batch_norm(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]]).expand(2, 1)])
        1
        >>> model[0].running_mean.item(), round(model[0].running_var.item(), 4)
        (3.5, 3.6667)

    References:
        Li, Wang, Shi, Hou & Liu, "Adaptive Batch Normalization for practical domain adaptation", Pattern Recognition
        80 (2018).
    """
    check_module("adapt_batch_norm", "model", model)
    found = (module for module in model.modules() if isinstance(module, (_BatchNorm, DomainSpecificBatchNorm)))
    layers: list[_Normaliser] = [layer for layer in found if layer.running_mean is not None]
    if not layers:
        fail("adapt_batch_norm", "model", "hold a batch normalisation with running statistics", type(model).__name__)
    if layerwise and iter(batches) is batches:
        fail("adapt_batch_norm", "batches", "be readable more than once with layerwise=True", type(batches).__name__)
    run = _call if forward is None else forward
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if not layerwise:
            pools = _collect(model, batches, layers, run, training=True)
            for layer, pool in pools.items():
                pool.write(layer)
            return len(pools)
        before = [{name: b.clone() for name, b in layer.named_buffers()} for layer in layers]
        try:
            order = list(_collect(model, batches, layers, run, training=False))
            for layer in order:
                for reached, pool in _collect(model, batches, [layer], run, training=False).items():
                    pool.write(reached)
        except BaseException:
            for layer, buffers in zip(layers, before):
                for name, buffer in layer.named_buffers():
                    buffer.copy_(buffers[name])
            raise
        return len(order)
    finally:
        for module, mode in modes:
            module.training = mode


def _collect(
    model: nn.Module,
    batches: Iterable[Any],
    layers: list[_Normaliser],
    run: Callable[[nn.Module, Any], object],
    *,
    training: bool,
) -> dict[_Normaliser, _Pool]:
    """Moments of each layer's inputs, in the order in which the layers run."""
    pools: dict[_Normaliser, _Pool] = {}

    def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, (_BatchNorm, DomainSpecificBatchNorm))
        x = args[0] if args else kwargs["x" if isinstance(layer, DomainSpecificBatchNorm) else "input"]
        if training and x.numel() == x.shape[1]:  # no variance to normalise by
            rule = "hold more than one value per channel each with layerwise=False (use drop_last=True in the loader)"
            fail("adapt_batch_norm", "batches", rule, shape_text(x))
        pools.setdefault(layer, _Pool()).add(_input_moments(layer, args, kwargs))

    tracked = [layer.track_running_stats for layer in layers]
    handles = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    seen = 0
    try:
        for layer in layers if training else ():
            layer.training, layer.track_running_stats = (
                True,
                False,
            )  # normalise by the batch, without updating running statistics
        for batch in batches:
            run(model, batch)
            seen += 1
    finally:
        for handle in handles:
            handle.remove()
        for layer, value in zip(layers, tracked):
            layer.training, layer.track_running_stats = False, value
    if seen == 0:
        fail("adapt_batch_norm", "batches", "hold at least one batch", 0)
    return pools


__all__ = ["adapt_batch_norm"]
