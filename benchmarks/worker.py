"""Process of one contestant, controlled over its standard input.

Commands and answers are JSON lines: ``setup`` builds the step, runs it once and reports the increase of peak memory;
``time`` runs it several times.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any


def status(field: str) -> float:
    """A line of /proc/self/status in MB, or NaN if missing."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float("nan")


def forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Contestant:
    def __init__(self, kind: str, who: str, n: int, d: int, device: str, threads: int) -> None:
        import torch

        from benchmarks.work import build

        torch.set_num_threads(threads)
        self.torch, self.cuda = torch, device != "cpu"
        build(kind, who, 8, 8, device)()  # for imports on first use
        self.step = build(kind, who, n, d, device)

    def first(self) -> dict[str, float]:
        """Value, time and peak memory of the first full step (gradients of the inputs included, inputs not)."""
        if self.cuda:
            self.torch.cuda.synchronize()
            self.torch.cuda.reset_peak_memory_stats()
            before = self.torch.cuda.memory_allocated() / 2**20
        else:
            forget_peak()
            before = status("VmRSS")
        begin, cpu, user = time.perf_counter(), time.process_time(), os.times().user
        value = self.step()
        if self.cuda:
            self.torch.cuda.synchronize()
            peak = self.torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = status("VmHWM")
        spent = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu, "user": os.times().user - user}
        return {"value": value, "memory": peak - before, **spent}

    def time(self, repeats: int) -> dict[str, float]:
        """Seconds per step: CPU time, user time, and wall time."""
        if self.cuda:
            self.torch.cuda.synchronize()
        wall, cpu, user = time.perf_counter(), time.process_time(), os.times().user
        for _ in range(repeats):
            self.step()
        if self.cuda:
            self.torch.cuda.synchronize()
        return {
            "wall": (time.perf_counter() - wall) / repeats,
            "cpu": (time.process_time() - cpu) / repeats,
            "user": (os.times().user - user) / repeats,
        }


def main() -> None:
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps output of libraries separate from the answers
    contestant: Contestant | None = None
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        try:
            if "setup" in command:
                contestant = Contestant(**command["setup"])
                answer: dict[str, Any] = contestant.first()
            else:
                assert contestant is not None
                answer = contestant.time(command["time"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
