"""One run per folder: a file lock that the system releases when its process ends, even if it is killed."""

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
    """Lock ``folder`` for this process; a lock file left by a dead process does not block.

    Temporary files of interrupted writes are removed. For processes that train ``together``, rank 0 holds the lock.
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
    """Raise if a launcher started several processes with this command."""
    world = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and world != "1":
        rule = "must be started once, without torchrun; --workers trains several rows at a time"
        raise UnusableError(f"this command {rule}, got rank {os.environ['RANK']} of {world}")


def _locked(path: Path) -> int:
    """Descriptor of the locked file, which names its holder."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not lock(handle):
            holder_text = _holder(path)
            os.close(handle)
            rule = "the folder must not be in use by another run (--output names another folder)"
            raise UnusableError(f"{path.parent}: {rule}, got {holder_text}")
        with suppress(OSError):
            if os.fstat(handle).st_ino == os.stat(path).st_ino:  # else its holder has just removed it
                break
        os.close(handle)
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        with named(path):
            os.truncate(handle, 0)
            os.write(handle, json.dumps(holder).encode())
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        os.close(handle)
        raise
    return handle


def _holder(path: Path) -> str:
    try:
        holder = json.loads(read_file(path))
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "a process that is just starting"
