"""Jobs: one row and one seed, with every setting that the result depends on; and reading finished results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmda.models.mmcda.config import MMCDAConfig, TrainingConfig
from mmda.models.mmcda.experiment.domains import SPLITS, Domain, Draws, Problem
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.results import Result, read_record
from mmda.models.mmcda.experiment.rows import ABLATION, REAL_ROWS, ROWS, TRAINED_ONLY, Row, chosen_rows
from mmda.models.mmcda.experiment.settings import check_settings, model_settings, recipe_defaults
from mmda.models.mmcda.files import check_file
from mmda.models.mmcda.parallel import Parallel
from mmda.vmr import VMRDataError

IOU = (0.3, 0.5, 0.7)

#: Sizes for a few thousand real queries. Moments of real data sets have similar priors over position, so the localizer
#: gets positions.
REAL: dict[str, Any] = {"hidden": 64, "joint": 64, "localizer_channels": 32, "dropout": 0.3, "positions": True}

#: Linear heads initialised in closed form, for real data.
LINEAR: dict[str, Any] = {"form": "linear", "joint": 64}

#: Sizes for the simulated worlds.
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
    """Options of a table; ``None`` is the default of the problem, which differs between simulated and real data.

    Args:
        rows: names of rows, or prefixes of them; empty for the default rows.
        ablation: all rows instead: also each module left out, and controls.
        seeds: number of seeds; by default 1 on simulated worlds and if nothing is trained, 3 on real data.
        alignment: discrepancy of (i), one of ``ALIGNMENTS``.
        form: ``"linear"`` or ``"towers"`` (:class:`mmda.models.mmcda.MMCDAConfig`); linear on real data in two spaces.
        epochs: passes over the source; by default 10 on simulated worlds, 12 on real data. A linear form keeps its
            closed-form initialisation unless a number is given.
        batch_size: source queries per step; by default 32, or 64 in a linear form.
        target_batch_size: target queries per step; by default ``batch_size``.
        train_on_val: train on the validation videos too; then no checkpoint is selected. Default for a linear form.
        shared_space: frame and word features come from one encoder.
        dropout: dropout probability; by default 0 on simulated worlds, 0.3 on real data.
        gradient_norms: log each term's gradient norm.
        preset: key of :data:`mmda.metrics.PRESETS`.
        iou: IoU thresholds in addition to 0.3, 0.5 and 0.7.
        device: device to train on.
        output: folder for all results.
        resume: keep finished rows, and resume unfinished ones.
        overwrite: let :func:`run_training` replace a model of the same name.
        save_steps: save the training state every this many steps.
        save_seconds: save also after this many seconds.
        precision: as in :class:`mmda.models.mmcda.TrainingConfig`.
        clip_norm: as in the same class.
        accumulate: as in the same class.
        log_steps: write a log line to ``logs/NAME.jsonl`` in ``output`` every this many steps.
        tensorboard: write the logs to a TensorBoard folder next to it too.
        fsdp: if several processes train one model, shard its parameters over them.
        smoke: a very short run that checks that everything works.
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
    overwrite: bool = False
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
        """Form of the model for this problem."""
        return self.form or ("towers" if problem.world is not None or self.shared_space else "linear")

    def learns(self, problem: Problem) -> bool:
        """Whether anything is trained: by default a linear form keeps its initialisation, which is the same for every
        seed."""
        return self.form_of(problem) == "towers" or bool(self.epochs)

    def trains_on_val(self, problem: Problem) -> bool:
        """Whether validation videos are trained on."""
        return self.form_of(problem) == "linear" if self.train_on_val is None else self.train_on_val

    def seeds_of(self, problem: Problem) -> int:
        """Number of seeds for this problem."""
        return self.seeds or (3 if problem.world is None and not self.smoke and self.learns(problem) else 1)


@dataclass(frozen=True)
class Job:
    """One row, one seed.

    Args:
        problem: the two domains.
        row: the modules to train.
        seed: seed of weights, batches, and a simulated world.
        alignment: discrepancy of (i).
        training: number of steps and learning rates.
        batch_size: source queries per step.
        target_batch_size: target queries per step.
        model: fields of :class:`mmda.models.mmcda.MMCDAConfig`, without the widths.
        pair_weight: weight of the terms on the target's pairs.
        learns: whether the model is trained after its initialisation.
        train_on_val: train on the validation split too.
        preset: evaluation conventions.
        iou: IoU thresholds.
        device: device to train on.
        folder: output folder.
        resume: keep finished results and resume unfinished training.
        save_steps: save every this many steps.
        save_seconds: save also after this many seconds.
        log_steps: write a log line to :attr:`log_path` every this many steps.
        tensorboard: write the logs to a TensorBoard folder next to it too.
        parallel: as in :func:`mmda.models.mmcda.fit`, if several processes train this job together.
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
        """File name, without suffix, of all files of this job."""
        return job_stem(self.problem, self.row.name, self.seed, self.alignment)

    @property
    def is_of(self) -> tuple[str, int]:
        """Row and seed."""
        return self.row.name, self.seed

    @property
    def result_path(self) -> Path:
        """File of the result."""
        return self.folder / "jobs" / f"{self.stem}.json"

    @property
    def model_path(self) -> Path:
        """File of the trained model."""
        return self.folder / "models" / f"{self.stem}.pt"

    @property
    def run_path(self) -> Path:
        """File of the training state of an unfinished run."""
        return self.folder / "runs" / f"{self.stem}.pt"

    @property
    def log_path(self) -> Path:
        """File of the training log."""
        return self.folder / "logs" / f"{self.stem}.jsonl"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the objective's roles; empty if nothing is trained."""
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
        """Every setting that the result depends on, defaults too, as values that survive JSON."""
        outside = ("device", "folder", "resume", "save_steps", "save_seconds", "log_steps", "tensorboard", "parallel")
        plain = {name: value for name, value in asdict(self).items() if name not in outside}
        for side in ("source", "target"):
            if plain["problem"][side] is not None:
                plain["problem"][side] = asdict(getattr(self.problem, side).absolute())
        plain |= {"model": model_settings(self.model), "weights": self.weights, "recipe": recipe_defaults()}
        settings: dict[str, Any] = json.loads(json.dumps(plain))
        return settings


def job_stem(problem: Problem, row: str, seed: int, alignment: str) -> str:
    """File name of a job; includes the alignment if it is not the default."""
    return file_stem(f"{problem.name} {row} {seed} {'' if alignment == 'mmd' else alignment}")


def file_stem(text: str) -> str:
    """A file name made of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def plan_jobs(problem: Problem, plan: Plan, data: Draws | None = None) -> list[Job]:
    """Rows times seeds; every row of a problem takes the same number of steps.

    Args:
        problem: the two domains.
        plan: the options.
        data: loads and caches the domains.

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
    """The default rows."""
    return ABLATION if plan.ablation else ROWS if problem.world is not None else REAL_ROWS


def _rows(plan: Plan, problem: Problem, target: Domain) -> Sequence[Row]:
    """The requested rows, or the default rows that the data has labels for."""
    if plan.rows:
        return chosen_rows(plan.rows)
    rows = usual_rows(plan, problem)
    if not plan.learns(problem):  # these would equal other rows
        rows = [row for row in rows if row.name not in TRAINED_ONLY]
    return rows if unlabelled(rows, target) is None else [row for row in rows if row.train_on == "source"]


def unlabelled(rows: Sequence[Row], target: Domain) -> VMRDataError | None:
    """Error if rows need moments of the target that are missing, else ``None``."""
    try:
        for split in SPLITS[:2] if any(row.train_on != "source" for row in rows) else ():
            target.opened(split)
    except VMRDataError as error:
        return error
    return None


def unlabelled_test(target: Domain) -> VMRDataError | None:
    """Error if the target's test split has no moments to score against, else ``None``."""
    try:
        target.opened("test")
    except VMRDataError as error:
        return error
    return None


def finished(job: Job) -> Result | None:
    """The stored result of a finished job; raises if it was made with other settings."""
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
