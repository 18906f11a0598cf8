"""Base class for the modules of losses with a temperature."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmda.layers.temperature import LearnableTemperature, temperature_value
from mmda.losses._modules import LossModule


class TemperedModule(LossModule):
    """A loss with a temperature: a number, a scalar tensor or a :class:`~mmda.layers.LearnableTemperature`."""

    temperature: float | Tensor | LearnableTemperature

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "temperature": temperature_value(self.temperature)}
