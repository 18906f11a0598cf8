"""Processes that ``torchrun`` started to train one model together."""

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

#: Seconds that a process waits for another one in an exchange.
TIMEOUT = 600.0

#: How gloo, NCCL and their store say that a process is gone or silent.
_LOST = re.compile(r"gloo|nccl|connection|socket|timed out|timeout|peer|broken pipe|store", re.IGNORECASE)


def launched() -> tuple[int, int]:
    """Rank and number of the processes that a launcher started with this command."""
    if "RANK" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))


def restarted() -> bool:
    """Whether an elastic launcher started this command anew, after a process of it had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _join(backend: str, timeout: datetime.timedelta) -> None:
    """Make the default group.

    Elastic launchers of one machine keep their store over restarts, with the addresses of the dead in it: each start
    has a part of the store to itself.
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
    """The processes of this command as one group, and this one's device; alone where no launcher is at work.

    On GPUs (``"cuda"``) each process of a machine takes its own and the group is NCCL's; on CPUs it is gloo's. A
    process that dies, or is silent for ``timeout`` seconds, ends the others with one line.
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
