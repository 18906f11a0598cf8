"""One run in one folder: a lock that the system releases when its process ends, by whatever death."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmda._core.files import lock, named, read_file
from mmda.models.mmcda.experiment.errors import UnusableError

NAME = ".running"


@contextmanager
def only_run(folder: Path, *, together: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process; the file that a dead process left there holds nobody up.

    What a write that was killed left half done is removed. Processes that train ``together`` hold it through rank 0.
    """
    if not together:
        _check_alone()
    handle = _locked(folder / NAME)
    try:
        for place in (folder, *(folder / name for name in ("jobs", "models", "predictions", "runs"))):
            for part in place.glob(".*.part"):
                part.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            os.unlink(folder / NAME)
        os.close(handle)


def _check_alone() -> None:
    """Not one of several processes that a launcher started with the same command."""
    world = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and world != "1":
        rule = "must be started once, without torchrun; --workers trains several rows at a time"
        raise UnusableError(f"this command {rule}, got rank {os.environ['RANK']} of {world}")


def _locked(path: Path) -> int:
    """The locked file, which says who holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not lock(handle):
            told = _holder(path)
            os.close(handle)
            rule = "the folder must not be in use by another run (--output names another folder)"
            raise UnusableError(f"{path.parent}: {rule}, got {told}")
        with suppress(OSError):
            if os.fstat(handle).st_ino == os.stat(path).st_ino:  # else its holder has just removed it
                break
        os.close(handle)
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with named(path):
        os.truncate(handle, 0)
        os.write(handle, json.dumps(holder).encode())
    return handle


def _holder(path: Path) -> str:
    try:
        holder = json.loads(read_file(path))
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "a process that is just starting"
