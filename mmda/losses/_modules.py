"""Base classes of the loss modules: each stores a function's settings and passes them on in every call.

Your own loss need not inherit from these; it only needs the call signature of :class:`mmda.losses.Discrepancy` or
:class:`mmda.losses.PairLoss`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mmda._core.hints import hinting


class LossModule(nn.Module):
    """A loss function with its settings.

    A subclass sets ``_function``; its ``__init__`` checks the settings and stores each as an attribute of the same
    name.
    """

    _function: ClassVar[Callable[..., Tensor]]
    _names: ClassVar[tuple[str, ...]]

    if TYPE_CHECKING:
        __call__: Callable[..., Tensor]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and cls.__module__.startswith("mmda."):
            cls.__init__ = hinting(cls.__init__)  # type: ignore[method-assign]
        if "_function" in vars(cls):  # a subclass of a user's own may take other arguments
            parameters = inspect.signature(cls).parameters.values()
            cls._names = tuple(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    def _options(self) -> dict[str, Any]:
        """The function's settings by name. Override it for settings that are stored in another form."""
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        """The settings, without submodules and non-scalar tensors, which ``nn.Module`` shows itself."""
        settings = {
            name: value.item() if isinstance(value, Tensor) and value.ndim == 0 and not value.is_meta else value
            for name, value in self._options().items()
        }
        shown = {name: value for name, value in settings.items() if not isinstance(value, (Tensor, nn.Module))}
        return ", ".join(f"{name}={_text(value)}" for name, value in shown.items())


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
    """These arguments as a dict, to be passed on as keywords."""
    weights = {"source_weight": source_weight, "target_weight": target_weight}
    return {**weights, "source_mask": source_mask, "target_mask": target_mask}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, Real) and not isinstance(value, Integral) else repr(value)
