"""Process group of a command started by ``torchrun``."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.parallel import Ranks

#: Timeout of a collective in seconds.
TIMEOUT = 600.0

#: Words in the errors of gloo, NCCL and their store when a process died or timed out.
_LOST = re.compile(r"gloo|nccl|connection|socket|timed out|timeout|peer|broken pipe|store", re.IGNORECASE)


def launched() -> tuple[int, int]:
    """Rank and world size set by the launcher."""
    if "RANK" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))


def restarted() -> bool:
    """Whether an elastic launcher restarted this command after a process died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _join(backend: str, timeout: datetime.timedelta) -> None:
    """Create the default process group.

    Elastic launchers on one machine keep their store across restarts, with the addresses of dead processes in it, so
    each start uses its own prefix.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE") or not restarted():
        dist.init_process_group(backend, timeout=timeout)
        return
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=timeout))
    apart = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=apart, rank=rank, world_size=size, timeout=timeout)


@contextmanager
def joined(device: str, timeout: float = TIMEOUT) -> Iterator[tuple[Ranks, str]]:
    """Process group of this command and the device of this process; a single process without a launcher.

    With ``"cuda"`` each process of a machine uses its own GPU, with the NCCL backend; on CPUs the backend is gloo. If a
    process dies or does not respond for ``timeout`` seconds, the others end with a one-line error.
    """
    rank, size = launched()
    if size == 1:
        yield Ranks(together=False, device=torch.device(device)), device
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    try:
        _join("nccl" if cuda else "gloo", datetime.timedelta(seconds=timeout))
        yield Ranks(together=True, device=torch.device(device)), device
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        rule = f"every process must live and answer within {timeout:g} s"
        came = f"one that is gone or silent, noticed by rank {rank} of {size} ({str(error).splitlines()[0][:200]})"
        mend = "what was saved is whole: start again with --resume, or with torchrun --max-restarts"
        raise UnusableError(f"torchrun: {rule}, got {came}; {mend}") from error
    dist.destroy_process_group()
