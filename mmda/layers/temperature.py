"""A learnable temperature with bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmda._core.checks import check_number, fail
from mmda._core.masking import working_dtype
from mmda._math.contrastive import check_temperature


class LearnableTemperature(nn.Module):
    r"""A learnable positive scalar that stays within its bounds.

    With one unbounded parameter :math:`\theta` and bounds :math:`a < b`,

    .. math:: \tau = a \, (b / a)^{\sigma(\theta)}

    Args:
        initial: initial value, strictly between the bounds.
        minimum: :math:`a` > 0. Cosine similarities over :math:`\tau` stay within :math:`\pm 1 / a`.
        maximum: :math:`b`.

    Shape:
        No input; returns a scalar.

    Returns:
        :math:`\tau`, float32 (float64 for a module in float64); in a half-precision module :math:`\theta` is stored in
        half precision.

    Raises:
        ValueError: numbers out of order.

    Notes:
        Unlike a clamp it is smooth: the gradient decays towards the bounds as :math:`e^{-|\theta|}` without being zero.
        In float32 it underflows beyond :math:`|\theta|` of about 100, which training from within the bounds does not
        reach. Exclude the parameter from weight decay, which would pull :math:`\tau` to the geometric mean of the
        bounds.

    Example:
        >>> temperature = LearnableTemperature(0.07)
        >>> round(temperature().item(), 6)
        0.07

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section
        2.5: learned in log space, initialised at 0.07, clamped at 0.01 (here a smooth bound instead).
    """

    def __init__(self, initial: float = 0.07, *, minimum: float = 0.01, maximum: float = 1.0) -> None:
        super().__init__()
        check_number("LearnableTemperature", "minimum", minimum, above=0.0)
        check_number("LearnableTemperature", "maximum", maximum, above=minimum)
        check_number("LearnableTemperature", "initial", initial)
        if not minimum < initial < maximum:
            fail("LearnableTemperature", "initial", f"lie strictly between {minimum:g} and {maximum:g}", initial)
        self.minimum = float(minimum)
        self.maximum = float(maximum)
        # Shape (1,), because 0-d parameters cannot be sharded.
        self.raw = nn.Parameter(torch.tensor([math.log(initial / minimum) / math.log(maximum / initial)]).log())

    def forward(self) -> Tensor:
        """The temperature."""
        raw = self.raw.to(working_dtype(self.raw)).sum()
        # Computed from the nearer bound, because 1 - sigmoid would underflow, and its gradient too.
        span = math.log(self.maximum / self.minimum)
        above, below = self.minimum * (span * raw.sigmoid()).exp(), self.maximum * (-span * (-raw).sigmoid()).exp()
        return torch.where(raw > 0, below, above)

    if TYPE_CHECKING:
        __call__ = forward

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Accept checkpoints of earlier versions, whose parameter is 0-d."""
        held = state_dict.get(prefix + "raw")
        if isinstance(held, Tensor) and held.ndim == 0:
            state_dict[prefix + "raw"] = held.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"minimum={self.minimum:g}, maximum={self.maximum:g}"


def keep_temperature(module: nn.Module, caller: str, temperature: float | Tensor | LearnableTemperature) -> None:
    """Check a temperature and store it in the module as a number, parameter, buffer (other tensors) or submodule."""
    if not isinstance(temperature, LearnableTemperature):
        check_temperature(caller, temperature)
    if isinstance(temperature, Tensor) and not isinstance(temperature, nn.Parameter):
        module.register_buffer("temperature", temperature)
    else:
        module.temperature = temperature  # type: ignore[assignment]


def temperature_value(temperature: float | Tensor | LearnableTemperature) -> float | Tensor:
    """The current temperature as a number or a scalar tensor."""
    return temperature() if isinstance(temperature, LearnableTemperature) else temperature


__all__ = ["LearnableTemperature"]
