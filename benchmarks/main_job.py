"""Profile of the main job: ``python -m benchmarks.main_job``.

The default run of ``mmda table`` in one process (``--workers 1``), with a timer around every part. Timers do not
overlap: inside a timed part, inner timers are paused. Parts named "outside" are not model, losses or data; they include
everything without a timer (imports of the library, progress bar, files). The first optimiser of a process imports
PyTorch's compiler, which takes one or two seconds and has its own line.

    python -m benchmarks.main_job            # the default run, about three minutes of one core
    python -m benchmarks.main_job --smoke    # also takes the arguments of the command
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any


class Clocks:
    """Seconds by part; only the outermost running timer counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.running = False

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                return call(*args, **kwargs)
            self.running, begin = True, time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.running = False
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin

        return wrapper

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Time a call minus the timed parts inside it."""

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin, known = time.perf_counter(), sum(self.seconds.values())
            try:
                return call(*args, **kwargs)
            finally:
                left = time.perf_counter() - begin - (sum(self.seconds.values()) - known)
                self.seconds[part] = self.seconds.get(part, 0.0) + left

        return wrapper

    def iterated(self, part: str, call: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Time each step of a generator."""

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
            following = self.timed(part, functools.partial(next, call(*args, **kwargs), None))
            while (item := following()) is not None:
                yield item

        return wrapper


def profile(arguments: list[str]) -> dict[str, float]:
    """Seconds by part of one run of the command, with the total as ``"whole run"``."""
    begin = time.perf_counter()
    import torch

    imported = time.perf_counter() - begin
    from mmda.cli import table
    from mmda.models.mmcda import MMCDA, MMCDAObjective
    from mmda.models.mmcda.experiment import Draws, runs, session
    from mmda.vmr import ResidentLoader, VMRBatch

    clocks = Clocks()
    clocks.seconds["outside: import torch"] = imported
    places: list[tuple[Any, str, str]] = [
        (Draws, "load", "data: simulation"),
        (VMRBatch, "to", "data: batches"),
        (VMRBatch, "without_moments", "data: batches"),
        (MMCDA, "forward", "model: forward"),
        (MMCDAObjective, "forward", "losses: forward"),
        (torch.Tensor, "backward", "model and losses: backward"),
        (torch.nn.utils, "clip_grad_norm_", "model: optimiser"),
        (torch.optim.AdamW, "__init__", "model: optimiser, made"),
        (torch.optim.AdamW, "step", "model: optimiser"),
        (torch.optim.AdamW, "zero_grad", "model: optimiser"),
        (runs, "selection_score", "model: choosing a checkpoint"),
        (runs, "predict_split", "model: predictions on the test split"),
        (session, "make_table", "outside: intervals and paired tests"),
        (session, "plot_tables", "outside: plot"),
    ]
    loop = "model: the loop, which releases each step's graph"
    kept: list[tuple[Any, str, Any]] = [(runs, "fit", runs.fit)]
    kept += [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    batches = ResidentLoader.__iter__
    try:
        for owner, name, part in places:
            setattr(owner, name, clocks.timed(part, getattr(owner, name)))
        runs.fit = clocks.around(loop, runs.fit)
        ResidentLoader.__iter__ = clocks.iterated("data: batches", batches)  # type: ignore[method-assign]
        table.main(arguments)
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)
        ResidentLoader.__iter__ = batches  # type: ignore[method-assign]
    return {**clocks.seconds, "whole run": time.perf_counter() - begin}


def report(seconds: dict[str, float]) -> str:
    """The parts with their fractions, and the rest."""
    whole = seconds["whole run"]
    parts = {part: spent for part, spent in seconds.items() if part != "whole run"}
    parts["outside: everything else"] = whole - sum(parts.values())
    outside = sum(spent for part, spent in parts.items() if part.startswith("outside"))
    rows = [*sorted(parts.items()), ("all that is outside", outside), ("whole run", whole)]
    return "\n".join(f"{part:50}{spent:8.1f} s{spent / whole:8.1%}" for part, spent in rows)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        seconds = profile(["--workers", "1", "--output", folder, *sys.argv[1:]])
    print(report(seconds))


if __name__ == "__main__":
    main()
