"""Domain-specific batch normalisation for a pretrained model, without changing its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmda._core.checks import check_count, fail
from mmda._core.components import check_module


class DomainSpecificModel(nn.Module):
    """Any model with separate batch normalisation parameters and statistics per domain, all else shared (DSBN).

    Args:
        model: a model with :class:`torch.nn.BatchNorm1d` to ``3d`` or :class:`torch.nn.SyncBatchNorm`, usually
            pretrained. It is used in place, not copied.
        domains: K. Each starts from the model's parameters and statistics.

    Shape:
        ``forward(*inputs, domain=k, **keywords)``: as for the model; all rows are of one domain.

    Returns:
        What the model returns.

    Raises:
        ValueError: a model without batch normalisation, a domain outside 0 .. K - 1.
        TypeError: a domain that is not an integer.

    Notes:
        No current domain is stored; each call substitutes the tensors of the given domain
        (``torch.func.functional_call``). Call it once per domain. In the ``state_dict``, the shared part is under
        ``model.`` and domain k's tensors under ``domains.k.``; :meth:`of_domain` writes, and :meth:`load_domain` reads,
        a checkpoint of the plain model. For batches that mix domains use layers such as
        :class:`DomainSpecificBatchNorm1d`, which take a domain per row.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> model = DomainSpecificModel(net, domains=2)
        >>> _ = model(torch.randn(8, 2), domain=0), model(torch.randn(8, 2) + 5, domain=1)
        >>> bool((model.of_domain(0)["1.running_mean"] != model.of_domain(1)["1.running_mean"]).any())
        True

    References:
        Chang, You, Seo, Kwak & Han, "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", CVPR
        2019.
    """

    def __init__(self, model: nn.Module, domains: int) -> None:
        super().__init__()
        check_module("DomainSpecificModel", "model", model)
        check_count("DomainSpecificModel", "domains", domains)
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
        self._own = [
            f"{name}.{inner}" if name else inner
            for name, layer in layers.items()
            for inner, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        ]
        if not self._own:
            rule = "hold a batch normalisation with parameters or statistics"
            fail("DomainSpecificModel", "model", rule, type(model).__name__)
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.domains = nn.ModuleList(_Tensors({name: held[name] for name in self._own}) for _ in range(domains))
        self.model = model
        for layer in layers.values():  # the originals are never used, so do not train them
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)

    def _tensors(self, domain: int) -> dict[str, Tensor]:
        check_count("DomainSpecificModel", "domain", domain, at_least=0)
        if domain >= len(self.domains):
            fail("DomainSpecificModel", "domain", f"be in 0 .. {len(self.domains) - 1}", domain)
        held = self.domains[domain]
        assert isinstance(held, _Tensors)
        return {name: held.tensor(name) for name in self._own}

    def forward(self, *inputs: Any, domain: int, **keywords: Any) -> Any:
        """The model's output with the normalisation of one domain."""
        return torch.func.functional_call(self.model, self._tensors(domain), inputs, keywords)

    if TYPE_CHECKING:
        __call__ = forward

    def of_domain(self, domain: int) -> dict[str, Tensor]:
        """A ``state_dict`` of the plain model for one domain."""
        state: dict[str, Tensor] = dict(self.model.state_dict())
        state.update({name: tensor.detach() for name, tensor in self._tensors(domain).items()})
        return state

    @torch.no_grad()
    def load_domain(self, domain: int, state: Mapping[str, Tensor]) -> None:
        """Load one domain's normalisation from a ``state_dict`` of the plain model; shared parameters stay
        unchanged."""
        held = self._tensors(domain)
        missing = [name for name in held if name not in state]
        if missing:
            fail("DomainSpecificModel.load_domain", "state", f"hold {', '.join(missing)}", "none of them")
        for name, tensor in held.items():
            tensor.copy_(state[name])

    def extra_repr(self) -> str:
        return f"own={len(self._own)} tensors per domain"


class _Tensors(nn.Module):
    """Named copies of tensors; parameters stay parameters."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            copy = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(self.key(name), nn.Parameter(copy, requires_grad=tensor.requires_grad))
            else:
                self.register_buffer(self.key(name), copy)

    @staticmethod
    def key(name: str) -> str:
        """The attribute name, which must not contain dots."""
        return name.replace(".", "/")

    def tensor(self, name: str) -> Tensor:
        found = getattr(self, self.key(name))
        assert isinstance(found, Tensor)
        return found
