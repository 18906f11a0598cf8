"""A temperature that is learned between bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmda._core.checks import check_number, fail
from mmda._core.masking import working_dtype
from mmda._math.contrastive import check_temperature


class LearnableTemperature(nn.Module):
    r"""A positive number that is trained and cannot leave its bounds.

    With one unbounded parameter :math:`\theta` and bounds :math:`a < b`,

    .. math:: \tau = a \, (b / a)^{\sigma(\theta)}

    Args:
        initial: the value to start from, strictly between the bounds.
        minimum: :math:`a` > 0. Logits of cosines stay within :math:`\pm 1 / a`.
        maximum: :math:`b`.

    Shape:
        No input; a scalar comes back.

    Returns:
        :math:`\tau`, float32 (float64 for a module in float64); a module in half precision holds :math:`\theta` in it.

    Raises:
        ValueError: numbers out of order.

    Notes:
        Smooth where a clamp has an end: the gradient fades towards the bounds like :math:`e^{-|\theta|}` and is not
        zero there. That of float32 reaches zero beyond :math:`|\theta|` of about 100, where no training that starts
        within the bounds comes to. Keep the parameter out of weight decay: its zero is the geometric mean of the
        bounds.

    Example:
        >>> temperature = LearnableTemperature(0.07)
        >>> round(temperature().item(), 6)
        0.07

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section
        2.5: learned in the logarithm, 0.07 at the start, 0.01 the least; the clamp there is smooth here.
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
        # One row: parameters without an axis cannot be sharded.
        self.raw = nn.Parameter(torch.tensor([math.log(initial / minimum) / math.log(maximum / initial)]).log())

    def forward(self) -> Tensor:
        """The temperature."""
        raw = self.raw.to(working_dtype(self.raw)).sum()
        # From the nearer bound: 1 - sigmoid would round to nothing, and the gradient with it.
        span = math.log(self.maximum / self.minimum)
        above, below = self.minimum * (span * raw.sigmoid()).exp(), self.maximum * (-span * (-raw).sigmoid()).exp()
        return torch.where(raw > 0, below, above)

    if TYPE_CHECKING:
        __call__ = forward

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Checkpoints of earlier versions hold the parameter without an axis."""
        held = state_dict.get(prefix + "raw")
        if isinstance(held, Tensor) and held.ndim == 0:
            state_dict[prefix + "raw"] = held.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"minimum={self.minimum:g}, maximum={self.maximum:g}"


def keep_temperature(module: nn.Module, caller: str, temperature: float | Tensor | LearnableTemperature) -> None:
    """Check a temperature and make it the module's: a number, a parameter, a buffer (other tensors) or a module."""
    if not isinstance(temperature, LearnableTemperature):
        check_temperature(caller, temperature)
    if isinstance(temperature, Tensor) and not isinstance(temperature, nn.Parameter):
        module.register_buffer("temperature", temperature)
    else:
        module.temperature = temperature  # type: ignore[assignment]


def temperature_value(temperature: float | Tensor | LearnableTemperature) -> float | Tensor:
    """What the functions take: a number or a scalar tensor."""
    return temperature() if isinstance(temperature, LearnableTemperature) else temperature


def temperature_repr(temperature: float | Tensor | LearnableTemperature) -> str:
    """``temperature=0.1, `` for a number; a tensor is among the module's parameters, a module prints itself."""
    return f"temperature={temperature:g}, " if isinstance(temperature, (int, float)) else ""


__all__ = ["LearnableTemperature"]
