"""Start torch.distributed processes on this machine."""

from __future__ import annotations

import datetime
import os

import torch.distributed as dist


def join(rank: int, ranks: int, folder: str) -> None:
    """Join the default group of ``ranks`` processes that meet in a folder, over gloo and the loopback device."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(minutes=5),
    )
