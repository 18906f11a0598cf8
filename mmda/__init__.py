"""Domain adaptation across modalities: losses, layers and metrics, and a reference model in :mod:`mmda.models`.

``import mmda`` loads only the light namespaces; ``mmda.migration`` and ``mmda.shift`` are loaded on first access,
``mmda.models`` and ``mmda.vmr`` have to be imported explicitly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmda import distributed, kernels, layers, linear, losses, metrics, objectives, schedules, two_sample, validators
from mmda._core.hints import unknown_name
from mmda._core.version import __version__
from mmda._engine.native import instruction_set

if TYPE_CHECKING:
    from mmda import migration, shift

__all__ = [
    "__version__",
    "distributed",
    "instruction_set",
    "kernels",
    "layers",
    "linear",
    "losses",
    "metrics",
    "migration",
    "objectives",
    "schedules",
    "shift",
    "two_sample",
    "validators",
]


def __getattr__(name: str) -> Any:
    if name in ("migration", "shift"):
        return importlib.import_module(f"mmda.{name}")
    homes = (losses, layers, kernels, linear, metrics, objectives, schedules, two_sample, validators, distributed)
    raise unknown_name(__name__, name, homes)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
