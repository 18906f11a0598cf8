"""Domain adaptation across modalities: losses, layers and metrics, and a reference model in :mod:`mmda.models`.

``import mmda`` loads the light namespaces only; ``mmda.models`` and ``mmda.vmr`` are imported by name.
"""

from mmda import distributed, kernels, layers, losses, metrics, objectives, schedules, two_sample, validators
from mmda._version import __version__

__all__ = [
    "__version__",
    "distributed",
    "kernels",
    "layers",
    "losses",
    "metrics",
    "objectives",
    "schedules",
    "two_sample",
    "validators",
]
