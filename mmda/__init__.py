"""Domain adaptation across modalities: losses, layers and metrics, and a reference model in :mod:`mmda.models`.

``import mmda`` loads the light namespaces only; ``mmda.models`` and ``mmda.vmr`` are imported by name.
"""

from mmda import kernels, layers, losses, objectives, schedules
from mmda._version import __version__

__all__ = ["__version__", "kernels", "layers", "losses", "objectives", "schedules"]
