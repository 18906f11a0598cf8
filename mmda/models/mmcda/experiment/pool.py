"""Jobs one after the other or in worker processes: progress, a request to stop, and one end for all."""

from __future__ import annotations

import multiprocessing
import os
import pickle
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
from mmda.models.mmcda.parallel import Ranks
from mmda.models.mmcda.training import TrainingStopped

#: Trains a job: :func:`mmda.models.mmcda.experiment.run_job`, or what does the same with another recipe.
Run = Callable[[Job, Draws, "OnStep | None"], Result]

#: Seconds that workers get to finish their step and save it.
GRACE = 20.0


def train_all(jobs: Sequence[Job], workers: int, run: Run, *, ranks: Ranks | None = None) -> list[Result]:
    """Run all jobs; a bar counts their steps.

    Args:
        jobs: what to train.
        workers: processes; 1 trains in this one.
        run: trains a job. It must be importable by name, for workers.
        ranks: the processes that train each job together, all with this call and one worker.

    Returns:
        The results, in the order of the jobs.

    Raises:
        TrainingStopped: SIGINT or SIGTERM came; what was being trained finished its step and saved it.
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
    with _bar(total, f"{len(jobs)} runs", shown=ranks is None or ranks.rank == 0) as bar:
        if workers == 1:
            return _here(jobs, run, Progress(jobs, bar), together=together)
        return _Pool(workers, jobs, run, bar).results()


def _bar(total: int, desc: str, *, shown: bool) -> Any:
    """A bar on a terminal; in a file, a plain line now and then."""
    if shown and not sys.stderr.isatty():
        return PlainLines(total, desc)
    return tqdm(total=total, unit="step", desc=desc, dynamic_ncols=True, mininterval=0.2, disable=not shown)


class Progress:
    """Steps of all jobs on one bar; a job that goes on with an earlier run starts in its middle."""

    def __init__(self, jobs: Sequence[Job], bar: Any) -> None:
        self.jobs, self.bar = jobs, bar
        self.steps = [0] * len(jobs)

    def reached(self, at: int, step: int) -> None:
        """Job ``at`` has come to ``step``."""
        self.bar.update(step - self.steps[at])
        self.steps[at] = step

    def ended(self, at: int, result: Result) -> None:
        """Job ``at`` is done."""
        self.reached(at, self.jobs[at].training.steps)
        if HEADLINE in result["metrics"]:
            self.bar.set_postfix_str(f"{self.jobs[at].row.name} {100 * result['metrics'][HEADLINE]:.1f}")


def _here(jobs: Sequence[Job], run: Run, progress: Progress, *, together: bool = False) -> list[Result]:
    """One after the other in this process; a launcher of several ends them itself, after its own grace."""
    results: list[Result] = []
    data = Draws()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers do: more of them gain nothing on models of this size
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
    """An exception of a worker, and its trace as text."""

    error: BaseException
    trace: str


class _RemoteTraceError(Exception):
    """Shows a worker's trace above the exception that it caused here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _work(line: Connection, run: Run) -> None:
    """A worker's life: take a job, tell its steps, send its result. Anything sent meanwhile asks it to stop."""
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
                answer = _Failure(_portable(error), traceback.format_exc())
            try:
                line.send(answer)
            except OSError:  # nobody listens any more
                return


def _portable(error: BaseException) -> BaseException:
    """The exception, or one that says the same where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End this process when the one that started it ends, by whatever death: the system closes its pipe then."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Pool:
    """Worker processes, each with a line to this one."""

    def __init__(self, workers: int, jobs: Sequence[Job], run: Run, bar: Any) -> None:
        self.workers, self.jobs, self.run = workers, jobs, run
        self.progress = Progress(jobs, bar)
        self.waiting = deque(range(len(jobs)))
        self.lines: dict[Connection, tuple[BaseProcess, int | None]] = {}  # with the job at work
        self.found: dict[int, Result] = {}

    def results(self) -> list[Result]:
        """Train all jobs; whatever ends one with an error ends the others: nobody waits for jobs that nobody wants."""
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
        theirs.close()  # else the line would not end with the worker
        self.lines[ours] = (process, None)
        self._give(ours)

    def _give(self, line: Connection) -> None:
        """The next job to the worker of this line, if there is one."""
        process, _ = self.lines[line]
        at = self.waiting.popleft() if self.waiting else None
        self.lines[line] = (process, at)
        if at is not None:
            line.send(self.jobs[at])

    def _listen(self, seconds: float) -> None:
        """Take what workers have to tell."""
        busy = {line: at for line, (_, at) in self.lines.items() if at is not None}
        ready = wait(list(busy), seconds)
        for line, at in busy.items():
            if line not in ready:
                continue
            try:
                told = line.recv()
            except (EOFError, OSError) as error:
                rule = "a worker process must live until its job is done"
                came = "one that was killed (by the system, out of memory? then fewer --workers)"
                raise UnusableError(f"--workers {self.workers}: {rule}, got {came}") from error
            if isinstance(told, _Failure):
                raise told.error from _RemoteTraceError(told.trace)
            if isinstance(told, int):
                self.progress.reached(at, told)
            else:
                self.found[at] = told["result"]
                self.progress.ended(at, self.found[at])
                self._give(line)

    def _stop(self) -> None:
        """Ask all workers to finish their step, and wait for them a while."""
        self.waiting.clear()
        busy = {line for line, (_, at) in self.lines.items() if at is not None}
        for line in busy:
            with suppress(OSError):  # it has just died
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
        """End the processes; none outlives this call."""
        for line, (process, at) in self.lines.items():
            line.close()  # an idle worker ends by this
            if at is not None and process.is_alive():
                process.kill()  # whatever it does is wanted no more, and its files are whole or absent
        for process, _ in self.lines.values():
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
