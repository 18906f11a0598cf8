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
        if "_function" in vars(cls):  # not for a user's subclass, which may take other arguments
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


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, Real) and not isinstance(value, Integral) else repr(value)
