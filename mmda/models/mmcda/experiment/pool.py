"""Run jobs in this process or in worker processes, with progress and a clean stop."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from tqdm import tqdm

from mmda.models.mmcda.experiment.domains import Draws
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import Job
from mmda.models.mmcda.experiment.results import Result
from mmda.models.mmcda.experiment.runs import OnStep
from mmda.models.mmcda.experiment.signals import deferred_interrupt, stop_on_signals
from mmda.models.mmcda.experiment.tables import HEADLINE
from mmda.models.mmcda.logs import PlainLines
from mmda.models.mmcda.parallel import Ranks, portable
from mmda.models.mmcda.training import TrainingStopped

#: Trains a job: :func:`mmda.models.mmcda.experiment.run_job`, or the same with another recipe.
Run = Callable[[Job, Draws, "OnStep | None"], Result]

#: Seconds for workers to finish and save their step.
GRACE = 20.0


def train_all(jobs: Sequence[Job], workers: int, run: Run, *, ranks: Ranks | None = None) -> list[Result]:
    """Run all jobs, with a progress bar over their steps.

    Args:
        jobs: jobs to train.
        workers: number of worker processes; 1 trains in this process.
        run: trains a job. Must be importable by name with several workers.
        ranks: the processes that train each job together; all make the same call, with one worker.

    Returns:
        The results, in the order of the jobs.

    Raises:
        TrainingStopped: on SIGINT or SIGTERM, after the current step was finished and saved.
        UnusableError: a worker was killed.

    Example:
        >>> import functools
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from mmda.models.mmcda.experiment import Plan, Problem, plan_jobs, run_job
        >>> with TemporaryDirectory() as folder:
        ...     plan = Plan(rows=("source-only",), seeds=2, smoke=True, output=Path(folder))
        ...     jobs = plan_jobs(Problem("small", world="language", videos=40), plan)
        ...     results = train_all(jobs, 1, run_job)
        >>> [result["seed"] for result in results]
        [0, 1]
    """
    total = sum(job.training.steps for job in jobs)
    together = ranks is not None and ranks.size > 1
    with _bar(total, f"{len(jobs)} run{'s' * (len(jobs) > 1)}", shown=ranks is None or ranks.rank == 0) as bar:
        if workers == 1:
            return _here(jobs, run, Progress(jobs, bar), together=together)
        return _Pool(workers, jobs, run, bar).results()


def _bar(total: int, desc: str, *, shown: bool) -> Any:
    """A progress bar on a terminal, occasional plain lines otherwise."""
    if shown and not sys.stderr.isatty():
        return PlainLines(total, desc)
    return tqdm(total=total, unit="step", desc=desc, dynamic_ncols=True, mininterval=0.2, disable=not shown)


class Progress:
    """One progress bar for the steps of all jobs; a resumed job starts at its saved step."""

    def __init__(self, jobs: Sequence[Job], bar: Any) -> None:
        self.jobs, self.bar = jobs, bar
        self.steps = [0] * len(jobs)

    def reached(self, at: int, step: int) -> None:
        """Record that job ``at`` has reached ``step``."""
        self.bar.update(step - self.steps[at])
        self.steps[at] = step

    def ended(self, at: int, result: Result) -> None:
        """Record that job ``at`` is done."""
        self.reached(at, self.jobs[at].training.steps)
        if HEADLINE in result["metrics"]:
            self.bar.set_postfix_str(f"{self.jobs[at].row.name} {100 * result['metrics'][HEADLINE]:.1f}")


def _here(jobs: Sequence[Job], run: Run, progress: Progress, *, together: bool = False) -> list[Result]:
    """Run the jobs in this process, in order; a launcher ends its processes itself after its own grace period."""
    results: list[Result] = []
    data = Draws()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in workers: more threads are not faster for models of this size
    try:
        with stop_on_signals(patient=together) as stop:
            for at, job in enumerate(jobs):
                if stop:
                    raise TrainingStopped(stop.signal)

                def on_step(step: int, at: int = at) -> None:
                    progress.reached(at, step)
                    if stop:
                        raise TrainingStopped(stop.signal)

                results.append(run(job, data, on_step))
                progress.ended(at, results[-1])
    finally:
        torch.set_num_threads(threads)
    return results


@dataclass
class _Failure:
    """An exception of a worker, with its traceback as text."""

    error: BaseException
    trace: str


class _RemoteTraceError(Exception):
    """Shows the traceback of a worker above the exception raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _work(line: Connection, run: Run) -> None:
    """Main loop of a worker: receive a job, send its steps, send its result. Any message received meanwhile stops
    it."""
    _end_with_parent()
    torch.set_num_threads(1)
    data = Draws()
    with stop_on_signals(patient=True) as stop:

        def on_step(step: int) -> None:
            line.send(step)
            if stop or line.poll():
                raise TrainingStopped(stop.signal)

        while True:
            try:
                job = line.recv()
            except (EOFError, OSError):
                return
            if job is None or stop:
                return
            try:
                answer: Any = {"result": run(job, data, on_step)}
            except BaseException as error:
                answer = _Failure(portable(error), traceback.format_exc())
            try:
                line.send(answer)
            except OSError:  # the parent has closed the connection
                return


def _end_with_parent() -> None:
    """End this process when its parent ends, even if killed: the system then closes the pipe."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Pool:
    """Worker processes, each with a connection to this process."""

    def __init__(self, workers: int, jobs: Sequence[Job], run: Run, bar: Any) -> None:
        self.workers, self.jobs, self.run = workers, jobs, run
        self.progress = Progress(jobs, bar)
        self.waiting = deque(range(len(jobs)))
        self.lines: dict[Connection, tuple[BaseProcess, int | None]] = {}  # and the current job
        self.found: dict[int, Result] = {}

    def results(self) -> list[Result]:
        """Train all jobs; an error in one ends the others."""
        context = multiprocessing.get_context("spawn")
        with stop_on_signals() as stop:
            try:
                with deferred_interrupt():
                    for _ in range(min(self.workers, len(self.jobs))):
                        self._start(context)
                while len(self.found) < len(self.jobs):
                    if stop:
                        self._stop()
                        raise TrainingStopped(stop.signal)
                    self._listen(0.2)
            finally:
                self._end()
        return [self.found[at] for at in range(len(self.jobs))]

    def _start(self, context: Any) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.run), daemon=True)
        process.start()
        theirs.close()  # else the connection would stay open after the worker ends
        self.lines[ours] = (process, None)
        self._give(ours)

    def _give(self, line: Connection) -> None:
        """Send the next job, if any, to the worker of this connection."""
        process, _ = self.lines[line]
        at = self.waiting.popleft() if self.waiting else None
        self.lines[line] = (process, at)
        if at is not None:
            line.send(self.jobs[at])

    def _listen(self, seconds: float) -> None:
        """Receive messages of the workers."""
        busy = {line: at for line, (_, at) in self.lines.items() if at is not None}
        ready = wait(list(busy), seconds)
        for line, at in busy.items():
            if line not in ready:
                continue
            try:
                received = line.recv()
            except (EOFError, OSError) as error:
                rule = "a worker process must live until its job is done"
                came = "one that was killed (by the system, out of memory? then fewer --workers)"
                raise UnusableError(f"--workers {self.workers}: {rule}, got {came}") from error
            if isinstance(received, _Failure):
                raise received.error from _RemoteTraceError(received.trace)
            if isinstance(received, int):
                self.progress.reached(at, received)
            else:
                self.found[at] = received["result"]
                self.progress.ended(at, self.found[at])
                self._give(line)

    def _stop(self) -> None:
        """Tell all workers to stop after their step, and wait for them."""
        self.waiting.clear()
        busy = {line for line, (_, at) in self.lines.items() if at is not None}
        for line in busy:
            with suppress(OSError):  # the worker has just ended
                line.send(None)
        deadline = time.monotonic() + GRACE
        while busy and time.monotonic() < deadline:
            ready = wait(list(busy), 0.2)
            for line in [line for line in busy if line in ready]:
                try:
                    if not isinstance(line.recv(), int):
                        busy.discard(line)
                except (EOFError, OSError):
                    busy.discard(line)

    def _end(self) -> None:
        """End all worker processes before returning."""
        for line, (process, at) in self.lines.items():
            line.close()  # ends an idle worker
            if at is not None and process.is_alive():
                process.kill()  # its result is not needed, and file writes are atomic
        for process, _ in self.lines.values():
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
