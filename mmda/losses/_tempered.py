"""Base class for the modules of losses with a temperature."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmda.layers.temperature import LearnableTemperature, keep_temperature, temperature_value
from mmda.losses._modules import LossModule


class TemperedModule(LossModule):
    """A loss with a temperature: a number, a scalar tensor or a :class:`~mmda.layers.LearnableTemperature`."""

    temperature: float | Tensor | LearnableTemperature

    def __init__(self, temperature: float | Tensor | LearnableTemperature) -> None:
        super().__init__()
        keep_temperature(self, type(self).__name__, temperature)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "temperature": temperature_value(self.temperature)}


class CosineModule(TemperedModule):
    """A loss with a temperature on rows that may be L2-normalised."""

    def __init__(self, temperature: float | Tensor | LearnableTemperature, normalize: bool) -> None:
        super().__init__(temperature)
        self.normalize = normalize
