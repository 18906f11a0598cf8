"""What the module forms share: a function and its settings, which every call hands on.

A loss of your own need not inherit from these: the call alone makes it one, see :class:`mmda.losses.Discrepancy` and
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

    A subclass names its ``_function``; its ``__init__`` takes the settings, checks them and stores each under its own
    name.
    """

    _function: ClassVar[Callable[..., Tensor]]
    _names: ClassVar[tuple[str, ...]]

    if TYPE_CHECKING:
        __call__: Callable[..., Tensor]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_function" in vars(cls):  # a subclass of a user's own may take other arguments
            parameters = inspect.signature(cls).parameters.values()
            cls._names = tuple(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    def _options(self) -> dict[str, Any]:
        """The function's settings by name. Overridden where one is stored otherwise than the function takes it."""
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        """The settings; modules and tensors with axes are shown as parts of the module."""
        settings = {
            name: value.item() if isinstance(value, Tensor) and value.ndim == 0 and not value.is_meta else value
            for name, value in self._options().items()
        }
        shown = {name: value for name, value in settings.items() if not isinstance(value, (Tensor, nn.Module))}
        return ", ".join(f"{name}={_text(value)}" for name, value in shown.items())


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, Real) and not isinstance(value, Integral) else repr(value)
