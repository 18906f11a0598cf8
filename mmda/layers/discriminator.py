"""Domain discriminator for adversarial losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_floating, check_number, check_sequence, fail, shape_text
from mmda._core.module_checks import check_at_weights


class DomainDiscriminator(nn.Module):
    """Multilayer perceptron with ReLU that predicts logits of the domain of each row.

    Args:
        features: width of the input.
        hidden: widths of the hidden layers in order; empty for a linear discriminator.
        domains: number of domains. Two give a single logit (of domain 1, the target), more give one logit each.
        one_logit: False gives two logits for two domains, as losses of K domains expect.
        dropout: probability of dropping a hidden unit in training.

    Shape:
        (..., features) to (...) for two domains with one logit, (..., domains) otherwise.

    Returns:
        Logits, never probabilities: the losses apply the log-sigmoid or log-softmax themselves.

    Raises:
        ValueError: a width or number out of range; an input of another width.
        TypeError: a width that is not an integer, an input that is not floating point or, without autocast, of another
            dtype than the weights.

    Notes:
        It has no batch statistics, so a row's logit does not depend on padding or on the other domain. Dropout, off by
        default, draws from the global random state as :class:`torch.nn.Dropout` does.

    Example:
        >>> import torch
        >>> DomainDiscriminator(16, hidden=[8])(torch.zeros(5, 16)).shape
        torch.Size([5])
        >>> DomainDiscriminator(16, hidden=[8], domains=3)(torch.zeros(5, 16)).shape
        torch.Size([5, 3])

    References:
        Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016), section 4.
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        domains: int = 2,
        one_logit: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("DomainDiscriminator", "features", features)
        check_sequence("DomainDiscriminator", "hidden", hidden, "width", empty=True)
        for width in hidden:
            check_count("DomainDiscriminator", "hidden", width)
        check_count("DomainDiscriminator", "domains", domains, at_least=2)
        check_number("DomainDiscriminator", "dropout", dropout, at_least=0.0, below=1.0)
        self.features = features
        self.domains = domains
        self.one_logit = one_logit and domains == 2
        layers: list[nn.Module] = []
        width = features
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width = size
        layers.append(nn.Linear(width, 1 if self.one_logit else domains))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the rows of ``x``."""
        check_floating("DomainDiscriminator", "x", x)
        if x.ndim == 0 or x.shape[-1] != self.features:
            fail("DomainDiscriminator", "x", f"have shape (..., {self.features})", shape_text(x))
        weight = next(self.parameters(), x)  # none where its layers were replaced by quantised ones
        check_at_weights("DomainDiscriminator", "x", x, weight)
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"DomainDiscriminator: `x` must have the dtype of the module ({weight.dtype}), got {x.dtype}"
            )
        logits: Tensor = self.layers(x)
        return logits.squeeze(-1) if self.one_logit else logits

    if TYPE_CHECKING:
        __call__ = forward


__all__ = ["DomainDiscriminator"]
