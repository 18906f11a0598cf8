"""Jobs: one row, one seed, with every setting that its result depends on; and what was already done of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.experiment.domains import SPLITS, Domain, Draws, Problem
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.results import Result, read_record
from mmda.models.mmcda.experiment.rows import ABLATION, REAL_ROWS, ROWS, TRAINED_ONLY, Row, chosen_rows
from mmda.models.mmcda.files import check_file
from mmda.models.mmcda.parallel import Parallel
from mmda.models.mmcda.training import TrainingConfig
from mmda.vmr import VMRDataError

IOU = (0.3, 0.5, 0.7)

#: Sizes for some thousand real queries. Real moments have habits that both domains share: the localizer sees positions.
REAL: dict[str, Any] = {"hidden": 64, "joint": 64, "localizer_channels": 32, "dropout": 0.3, "positions": True}

#: Linear heads started in closed form, for real data.
LINEAR: dict[str, Any] = {"form": "linear", "joint": 64}

#: Enough for the simulated worlds.
SMALL: dict[str, Any] = {
    "hidden": 64,
    "joint": 32,
    "context_layers": 0,
    "localizer_channels": 24,
    "localizer_layers": 2,
    "dropout": 0.0,
}


@dataclass(frozen=True)
class Plan:
    """What is asked of a table; ``None`` stands for the default of the problem at hand, simulated or real.

    Args:
        rows: names of rows, or their beginnings; none for the usual ones.
        ablation: every row instead: also each module left out, and controls.
        seeds: number of seeds; 1 on simulated worlds and where nothing is trained, 3 on real data.
        alignment: what (i) aligns with, one of ``ALIGNMENTS``.
        form: ``"linear"`` or ``"towers"`` (:class:`mmda.models.mmcda.MMCDAConfig`); linear on real data in two spaces.
        epochs: passes over the source; 10 on simulated worlds, 12 on real data. A linear form is left at its start
            unless a number is given.
        batch_size: source queries a step; 32, or 64 in a linear form.
        target_batch_size: target queries a step; as many.
        train_on_val: train on the validation videos too; no checkpoint is chosen then. So does a linear form.
        shared_space: frames and words come from one encoder.
        dropout: share of features hidden while training; 0 on simulated worlds, 0.3 on real data.
        gradient_norms: log each term's gradient norm.
        preset: key of :data:`mmda.metrics.PRESETS`.
        iou: thresholds beside 0.3, 0.5 and 0.7.
        device: where to train.
        output: folder for all results.
        resume: keep finished rows, and go on with begun ones.
        save_steps: save what is being trained after each so many steps.
        save_seconds: and when so many seconds have passed.
        precision: of :class:`mmda.models.mmcda.TrainingConfig`.
        clip_norm: the same.
        accumulate: the same.
        log_steps: write the facts of each so many steps to ``logs/NAME.jsonl`` in ``output``.
        tensorboard: and to a TensorBoard folder beside it.
        fsdp: where several processes train one model, each holds a shard of its parameters.
        smoke: as few steps as show that everything is wired.
    """

    rows: tuple[str, ...] = ()
    ablation: bool = False
    seeds: int | None = None
    alignment: str = "mmd"
    form: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    target_batch_size: int | None = None
    train_on_val: bool | None = None
    shared_space: bool = False
    dropout: float | None = None
    gradient_norms: bool = False
    preset: str = "default"
    iou: tuple[float, ...] = ()
    device: str = "cpu"
    output: Path = field(default=Path("outputs/mmcda_vmr"))
    resume: bool = False
    save_steps: int | None = None
    save_seconds: float = 60.0
    precision: str = "float32"
    clip_norm: float = 5.0
    accumulate: int = 1
    log_steps: int | None = None
    tensorboard: bool = False
    fsdp: bool = False
    smoke: bool = False

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The IoU thresholds of the table."""
        return tuple(sorted({*IOU, *self.iou}))

    def form_of(self, problem: Problem) -> str:
        """The model's form for this problem."""
        return self.form or ("towers" if problem.world is not None or self.shared_space else "linear")

    def learns(self, problem: Problem) -> bool:
        """Whether anything is trained: a linear form is left at its start, the same for every seed, by default."""
        return self.form_of(problem) == "towers" or bool(self.epochs)

    def trains_on_val(self, problem: Problem) -> bool:
        """Whether validation videos are trained on."""
        return self.form_of(problem) == "linear" if self.train_on_val is None else self.train_on_val

    def seeds_of(self, problem: Problem) -> int:
        """How many seeds this problem gets."""
        return self.seeds or (3 if problem.world is None and not self.smoke and self.learns(problem) else 1)


@dataclass(frozen=True)
class Job:
    """One row, one seed.

    Args:
        problem: the two domains.
        row: which modules are on.
        seed: of weights, batches, and the draw of a simulated world.
        alignment: what (i) aligns with.
        training: steps and rates.
        batch_size: source queries a step.
        target_batch_size: target queries a step.
        model: fields of :class:`mmda.models.mmcda.MMCDAConfig`, without the widths.
        pair_weight: weight of the terms that learn from the target's pairs.
        learns: anything is trained on top of where the model starts.
        train_on_val: train on the validation split too.
        preset: conventions of the evaluation.
        iou: thresholds of the evaluation.
        device: where to train.
        folder: where everything is written.
        resume: keep what is finished or begun.
        save_steps: save after each so many steps.
        save_seconds: and when so many seconds have passed.
        log_steps: write the facts of each so many steps to :attr:`log_path`.
        tensorboard: and to a folder beside it.
        parallel: of :func:`mmda.models.mmcda.fit`: how several processes train this job together.
    """

    problem: Problem
    row: Row
    seed: int
    alignment: str
    training: TrainingConfig
    batch_size: int
    target_batch_size: int
    model: dict[str, Any]
    pair_weight: float
    learns: bool
    train_on_val: bool
    preset: str
    iou: tuple[float, ...]
    device: str
    folder: Path
    resume: bool
    save_steps: int | None = None
    save_seconds: float | None = 60.0
    log_steps: int | None = None
    tensorboard: bool = False
    parallel: Parallel | None = None

    @property
    def stem(self) -> str:
        """File name of everything this job writes."""
        return job_stem(self.problem, self.row.name, self.seed, self.alignment)

    @property
    def is_of(self) -> tuple[str, int]:
        """Row and seed."""
        return self.row.name, self.seed

    @property
    def result_path(self) -> Path:
        """The finished job's numbers."""
        return self.folder / "jobs" / f"{self.stem}.json"

    @property
    def model_path(self) -> Path:
        """The trained model."""
        return self.folder / "models" / f"{self.stem}.pt"

    @property
    def run_path(self) -> Path:
        """The run as far as it has come."""
        return self.folder / "runs" / f"{self.stem}.pt"

    @property
    def log_path(self) -> Path:
        """The facts of its steps."""
        return self.folder / "logs" / f"{self.stem}.jsonl"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the objective's roles; none where nothing is trained."""
        return self.row.weights(self.pair_weight, self.form) if self.learns else {}

    @property
    def form(self) -> str:
        """``"linear"`` or ``"towers"``."""
        return str(self.model.get("form", "towers"))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are trained on."""
        return SPLITS[:2] if self.train_on_val else SPLITS[:1]

    def config(self, video_width: int, query_width: int) -> MMCDAConfig:
        """The model's config for features of these widths."""
        return MMCDAConfig(video_width=video_width, query_width=query_width, **self.model)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, as JSON gives it back: with other settings it is another result."""
        outside = ("device", "folder", "resume", "save_steps", "save_seconds", "log_steps", "tensorboard", "parallel")
        plain = {name: value for name, value in asdict(self).items() if name not in outside}
        for side in ("source", "target"):
            if plain["problem"][side] is not None:
                plain["problem"][side] = asdict(getattr(self.problem, side).absolute())
        settings: dict[str, Any] = json.loads(json.dumps(plain))
        return settings


def job_stem(problem: Problem, row: str, seed: int, alignment: str) -> str:
    """File name of a job; what aligns is named where it is not the default."""
    return file_stem(f"{problem.name} {row} {seed} {'' if alignment == 'mmd' else alignment}")


def file_stem(text: str) -> str:
    """A file name made of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def plan_jobs(problem: Problem, plan: Plan, data: Draws | None = None) -> list[Job]:
    """Rows times seeds; every row of a problem takes the same number of steps.

    Args:
        problem: the two domains.
        plan: what is asked for.
        data: where the domains are read from.

    Returns:
        The jobs, seed by seed.

    Raises:
        UnusableError: an unknown row, or a shared space of two widths.
        VMRDataError: the data cannot be used.

    Example:
        >>> jobs = plan_jobs(Problem("small", world="language", videos=8), Plan(rows=("full: ",), seeds=2, smoke=True))
        >>> [(job.row.name, job.seed, job.training.steps) for job in jobs]
        [('full: (i) + (ii) + (iii)', 0, 4), ('full: (i) + (ii) + (iii)', 1, 4)]
    """
    real = problem.world is None
    source, target = (data or Draws()).load(problem, 0)
    pairs = source.pairs["train"]
    widths = pairs.frames.shape[-1], pairs.words.shape[-1]
    if plan.shared_space and widths[0] != widths[1]:
        came = f"{widths[0]} and {widths[1]} in {problem.name}"
        raise UnusableError(f"--shared-space: frames and words must have one width, got {came}")
    linear, on_val = plan.form_of(problem) == "linear", plan.trains_on_val(problem)
    batch_size = plan.batch_size or (64 if linear else 32)
    epochs = plan.epochs or (1 if plan.smoke else 12 if real else 10)
    rows_a_pass = sum(len(source.opened(split)) for split in (SPLITS[:2] if on_val else SPLITS[:1]))
    steps = max(4, epochs * max(1, rows_a_pass // (batch_size * plan.accumulate)))
    training = TrainingConfig(
        steps=steps,
        learning_rate=5e-3 if linear else 1e-3 if real else 3e-3,
        weight_decay=0.1 if real or linear else 0.01,
        average=0.99 if real and not linear else 0.0,
        gradient_norms=plan.gradient_norms,
        evaluations=2 if plan.smoke else 4,
        precision=plan.precision,
        clip_norm=plan.clip_norm,
        accumulate=plan.accumulate,
    )
    model = {**(LINEAR if linear else REAL if real else SMALL), "shared_space": plan.shared_space}
    if plan.dropout is not None:
        model["dropout"] = plan.dropout
    return [
        Job(
            problem=problem,
            row=row,
            seed=seed,
            alignment=plan.alignment,
            training=training,
            batch_size=batch_size,
            target_batch_size=plan.target_batch_size or batch_size,
            model=model,
            pair_weight=1.0 if real or linear else 0.5,
            learns=plan.learns(problem),
            train_on_val=on_val,
            preset=plan.preset,
            iou=plan.thresholds,
            device=plan.device,
            folder=plan.output,
            resume=plan.resume,
            save_steps=plan.save_steps,
            save_seconds=plan.save_seconds,
            log_steps=plan.log_steps,
            tensorboard=plan.tensorboard,
        )
        for seed in range(plan.seeds_of(problem))
        for row in _rows(plan, problem, target)
    ]


def usual_rows(plan: Plan, problem: Problem) -> Sequence[Row]:
    """The rows where none are named."""
    return ABLATION if plan.ablation else ROWS if problem.world is not None else REAL_ROWS


def _rows(plan: Plan, problem: Problem, target: Domain) -> Sequence[Row]:
    """The rows asked for, or of the usual ones those that the data has labels for."""
    if plan.rows:
        return chosen_rows(plan.rows)
    rows = usual_rows(plan, problem)
    if not plan.learns(problem):  # these would equal their neighbours
        rows = [row for row in rows if row.name not in TRAINED_ONLY]
    return rows if unlabelled(rows, target) is None else [row for row in rows if row.train_on == "source"]


def unlabelled(rows: Sequence[Row], target: Domain) -> VMRDataError | None:
    """Why rows that learn from the target's moments cannot be trained; ``None`` where they can or there are none."""
    try:
        for split in SPLITS[:2] if any(row.train_on != "source" for row in rows) else ():
            target.opened(split)
    except VMRDataError as error:
        return error
    return None


def unlabelled_test(target: Domain) -> VMRDataError | None:
    """Why the target cannot be scored on; ``None`` where it can."""
    try:
        target.opened("test")
    except VMRDataError as error:
        return error
    return None


def finished(job: Job) -> Result | None:
    """The result of a job that need not run again; raises where what is there is of other settings."""
    if not job.resume:
        return None
    if job.result_path.exists():
        done = read_record(job.result_path)
        if not isinstance(done, dict) or "metrics" not in done or (done.get("row"), done.get("seed")) != job.is_of:
            came = "a damaged one: delete it"
            raise UnusableError(
                f"--resume: {job.result_path} must be the whole result of this row and seed, got {came}"
            )
        check_settings(job.result_path, done, job.settings)
        result: Result = done  # type: ignore[assignment]
        return result
    if job.run_path.exists():
        check_file(job.run_path, "mmcda run")
        beside = job.run_path.with_suffix(".json")
        check_settings(job.run_path, read_record(beside) if beside.exists() else None, job.settings)
    return None


def check_settings(path: Path, content: Any, settings: dict[str, Any]) -> None:
    """What lies at ``path`` was made with these settings."""
    rule = f"--resume: {path} must be of the settings asked for"
    kept = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(kept, dict):
        raise UnusableError(f"{rule}, got a file that does not name its own")
    there, asked = flat_settings(kept), flat_settings(settings)
    names = [name for name in {**asked, **there} if there.get(name) != asked.get(name)]
    if names:
        differ = "; ".join(f"{name} {there.get(name)!r}, not {asked.get(name)!r}" for name in names)
        raise UnusableError(f"{rule}, got {differ}")


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
