"""Registration of a kernel's tensor bandwidth in the module that uses the kernel."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

from mmda.kernels import Kernel

K = TypeVar("K", bound=Kernel)


def register_bandwidth(module: nn.Module, kernel: object, name: str = "bandwidth") -> None:
    """Register the kernel's bandwidth, if it is a tensor, as a parameter or buffer of the module."""
    bandwidth = getattr(kernel, "bandwidth", None)
    if isinstance(kernel, nn.Module) or not isinstance(bandwidth, Tensor):
        return
    if isinstance(bandwidth, nn.Parameter):
        module.register_parameter(name, bandwidth)
    else:
        module.register_buffer(name, bandwidth)


def current_kernel(module: nn.Module, kernel: K, name: str = "bandwidth") -> K:
    """The kernel with the module's current bandwidth, which ``.to()`` or a functional call may have replaced."""
    bandwidth = module._parameters.get(name, module._buffers.get(name))
    if bandwidth is None or getattr(kernel, "bandwidth", None) is bandwidth:
        return kernel
    kernel = copy.copy(kernel)
    kernel.bandwidth = bandwidth  # type: ignore[attr-defined]
    return kernel
