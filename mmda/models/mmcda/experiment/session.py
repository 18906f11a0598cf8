"""A whole table: check the options before training, then train, compare and write."""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mmda.models.mmcda.experiment.closed_rows import untrained_rows
from mmda.models.mmcda.experiment.domains import Draws, Problem
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import Job, Plan, finished, plan_jobs, unlabelled, unlabelled_test, usual_rows
from mmda.models.mmcda.experiment.launch import TIMEOUT, joined, restarted
from mmda.models.mmcda.experiment.locks import only_run
from mmda.models.mmcda.experiment.pool import train_all
from mmda.models.mmcda.experiment.report import environment, examples_of, table_report, training_report
from mmda.models.mmcda.experiment.results import write, write_json
from mmda.models.mmcda.experiment.rows import FULL
from mmda.models.mmcda.experiment.runs import Recipe, blind_rows, run_job, train_row
from mmda.models.mmcda.experiment.tables import Table, as_text, make_table, plot_tables
from mmda.models.mmcda.parallel import Parallel, Ranks

Tell = Callable[[str], None]


def check_writable(folder: Path) -> None:
    """Raise if the output folder cannot be created or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnusableError(f"{folder}: the output folder must be writable, got {error.strerror}") from error


def check_device(name: str) -> None:
    """Raise if the device does not exist on this machine."""
    try:
        torch.zeros(1, device=name).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UnusableError(f"--device {name}: the device must exist on this machine, got {first}") from error


def found_in(problem: Problem, data: Draws, *, test: bool = True) -> list[str]:
    """Messages about what reading the data left out, one line each; ``test``: the target's test split must have
    moments."""
    source, target = data.load(problem, 0)
    lines: list[str] = []
    for domain, splits in ((source, ("train", "val")), (target, ("test",) if test else ())):
        lines += domain.told
        for split in splits:
            missing = len(domain.pairs[split]) - len(domain.opened(split))
            if missing:
                side = "source" if domain is source else "target"
                lines.append(f"{problem.name}: {missing} unlabelled queries left out of the {side}'s {split} split")
    return lines


def prepare(problems: Sequence[Problem], plan: Plan, data: Draws, tell: Tell = print) -> list[Job]:
    """The jobs of all problems, after all checks that need no training."""
    check_device(plan.device)
    for problem in problems:
        for line in found_in(problem, data):
            tell(line)
    jobs: list[Job] = []
    for problem in problems:
        jobs += plan_jobs(problem, plan, data)
        why = None if plan.rows else unlabelled(usual_rows(plan, problem), data.load(problem, 0)[1])
        if why is not None:
            tell(f"no rows with the target's labels: {why}")
    for job in jobs:
        finished(job)  # raises if a result to keep was made with other settings
    return jobs


def usual_workers(plan: Plan, jobs: Sequence[Job]) -> int:
    """One process per core, at most 8 and at most the number of jobs; one on a GPU."""
    return 1 if plan.device != "cpu" else max(1, min(8, os.cpu_count() or 1, len(jobs)))


def run_table(
    problems: Sequence[Problem],
    plan: Plan,
    *,
    workers: int | None = None,
    recipe: Recipe = train_row,
    arguments: Sequence[str] = (),
    tell: Tell = print,
) -> list[Table]:
    """Train every row of every problem, and write a report, tables as text and JSON, and a plot to ``plan.output``.

    Args:
        problems: problems to train on.
        plan: the options.
        workers: number of processes; by default one per core, at most 8, and one on a GPU.
        recipe: function that trains a row.
        arguments: command line, stored with the tables.
        tell: called with each line of output.

    Returns:
        One table per problem.

    Raises:
        UnusableError: the options cannot be used.
        VMRDataError: the data cannot be used.
        TrainingStopped: on SIGINT or SIGTERM.
        OSError: a file cannot be written; the error names it, and an existing file there is unchanged.

    Notes:
        The folder is locked while this runs: a second run in it raises an error. Without matplotlib no plot file is
        written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> problem = Problem("small", world="language", videos=40)
        >>> with TemporaryDirectory() as folder:
        ...     plan = Plan(rows=("source-only",), smoke=True, output=Path(folder))
        ...     tables = run_table([problem], plan, workers=1, tell=lambda line: None)
        ...     sorted(path.name for path in Path(folder).glob("table.*"))
        ['table.json', 'table.png', 'table.txt']
    """
    check_writable(plan.output)
    with only_run(plan.output):
        return _run_table(problems, plan, workers, recipe, arguments, tell)


def _run_table(
    problems: Sequence[Problem],
    plan: Plan,
    workers: int | None,
    recipe: Recipe,
    arguments: Sequence[str],
    tell: Tell,
) -> list[Table]:
    began = time.perf_counter()
    data = Draws()
    jobs = prepare(problems, plan, data, tell)
    run = functools.partial(run_job, recipe=recipe)
    results = train_all(jobs, workers or usual_workers(plan, jobs), run)
    tables = []
    for problem in problems:
        seeds = plan.seeds_of(problem)
        blind = [blind_rows(problem, seed, plan.preset, plan.thresholds, data) for seed in range(seeds)]
        on_val = plan.trains_on_val(problem)
        closed = [
            untrained_rows(problem, seed, plan.preset, plan.thresholds, data, on_val=on_val) for seed in range(seeds)
        ]
        mine = [result for result in results if result["problem"] == problem.name]
        tables.append(
            make_table(
                problem.name,
                blind,
                mine,
                one_test=problem.world is None or seeds == 1,  # each seed of a simulated world draws different videos
                alignment=plan.alignment,
                preset=plan.preset,
                iou=plan.thresholds,
                closed=closed,
            )
        )
    text = as_text(tables)
    tell(f"\n{text}")
    content = {
        "arguments": list(arguments),
        "seconds": time.perf_counter() - began,
        "torch": torch.__version__,
        "environment": environment(),
        "alignment": plan.alignment,
        "training": asdict(jobs[0].training),
        "tables": tables,
        "runs": [{k: v for k, v in r.items() if k not in ("values", "videos")} for r in results],
    }
    write(plan.output / "table.txt", text.encode())
    write_json(plan.output / "table.json", content)
    if importlib.util.find_spec("matplotlib") is not None:
        plot_tables(tables, plan.output / "table.png")
    examples = {
        problem.name: examples_of(job, data.load(problem, job.seed)[1])
        for problem in problems
        if (job := _shown_job(jobs, problem)) is not None
    }
    write(plan.output / "report.html", table_report(tables, content, results, examples))
    tell(f"{time.perf_counter() - began:.0f} s; report.html, text, JSON and models are in {plan.output}/")
    return tables


def _shown_job(jobs: Sequence[Job], problem: Problem) -> Job | None:
    """The job whose answers are shown in the report: the full model with the first seed, else the last."""
    mine = [job for job in jobs if job.problem.name == problem.name]
    full = [job for job in mine if job.row.name == FULL]
    return full[0] if full else mine[-1] if mine else None


def run_training(
    problem: Problem,
    plan: Plan,
    seed: int = 0,
    *,
    recipe: Recipe = train_row,
    tell: Tell = print,
    timeout: float = TIMEOUT,
) -> Path:
    """Train one model, and score it if the target's test split has moments.

    Processes started by ``torchrun`` with the same call train it together.

    Args:
        problem: the two domains.
        plan: the options; ``plan.rows`` names one row.
        seed: seed of weights, batches, and a simulated world.
        recipe: function that trains.
        tell: called with each line of output, on rank 0.
        timeout: timeout of collectives in seconds.

    Returns:
        Path of the model file.

    Raises:
        UnusableError: the options cannot be used, or the model exists and neither ``plan.overwrite`` nor
            ``plan.resume`` is set.
        VMRDataError: the data cannot be used.
        TrainingStopped: on SIGINT or SIGTERM.

    Notes:
        Rank 0 locks the folder and writes. A restart after a process died (``torchrun --max-restarts``) resumes from
        the last save, as with ``plan.resume``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> problem = Problem("small", world="language", videos=40)
        >>> with TemporaryDirectory() as folder:
        ...     plan = Plan(rows=("source-only",), smoke=True, output=Path(folder))
        ...     run_training(problem, plan, tell=lambda line: None).name
        'small-source-only-0.pt'
    """
    with joined(plan.device, timeout) as (ranks, device), ExitStack() as held:

        def hold() -> None:
            check_writable(plan.output)
            held.enter_context(only_run(plan.output, together=True))

        ranks.first(hold)
        plan = replace(plan, device=device, resume=plan.resume or bool(max(ranks.most(restarted()))))
        return _run_training(problem, plan, seed, recipe, tell if ranks.rank == 0 else _hush, ranks)


def _check_free(job: Job, overwrite: bool) -> None:
    """Raise if a new training would replace a model, such as the table's of the same row and seed."""
    if job.model_path.exists() and not (overwrite or job.resume):
        rule = "the model must not exist yet (--output names another folder, --resume keeps a finished model, "
        raise UnusableError(f"{job.model_path}: {rule}--overwrite replaces it), got an earlier one")


def _hush(line: str) -> None:
    """Ignore the line: output of ranks other than 0."""


def _run_training(problem: Problem, plan: Plan, seed: int, recipe: Recipe, tell: Tell, ranks: Ranks) -> Path:
    check_device(plan.device)
    if plan.fsdp and ranks.size == 1:
        raise UnusableError("--fsdp: must have several processes to shard over (torchrun starts them), got one")
    data = Draws()
    why = unlabelled_test(data.load(problem, seed)[1])
    for line in found_in(problem, data, test=why is None):
        tell(line)
    if why is not None:
        tell(f"not scored: {why}")
    jobs = plan_jobs(problem, replace(plan, seeds=1), data)
    if len(jobs) != 1:
        raise UnusableError(f"--row: must name one row, got {', '.join(repr(job.row.name) for job in jobs)}")
    parallel: Parallel | None = None if ranks.size == 1 else "fsdp" if plan.fsdp else "ddp"
    job = replace(jobs[0], seed=seed, parallel=parallel)
    for name, size in (("batch-size", job.batch_size), ("target-batch-size", job.target_batch_size)):
        if size < ranks.size:
            raise UnusableError(f"--{name}: must be at least the number of processes ({ranks.size}), got {size}")
    ranks.first(lambda: _check_free(job, plan.overwrite))
    run = functools.partial(run_job, recipe=recipe, test=why is None)
    (result,) = train_all([job], 1, run, ranks=ranks)
    for metric, value in result["metrics"].items():
        tell(f"{metric:14}{100 * value:6.1f}")
    report = plan.output / "reports" / f"{job.stem}.html"
    examples = examples_of(job, data.load(problem, seed)[1]) if why is None else []
    write(report, training_report(result, environment(), examples))
    tell(f"report: {report}")
    tell(f"kept: step {result['chosen_step']} of {job.training.steps}, {result['seconds']:.0f} s: {job.model_path}")
    return job.model_path
