"""The training loop: two loaders, one objective and one optimiser, with checkpoint selection."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from mmda._core.checks import check_choice, check_count, check_number, fail
from mmda.models.mmcda.config import TrainingConfig
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.logs import Clock, StepFacts
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.objective import MMCDAObjective
from mmda.models.mmcda.parallel import (
    PARALLEL,
    Parallel,
    Ranks,
    Step,
    Wrapped,
    check_share,
    cloned,
    copied_from_first,
    quiet,
    shard,
    spread_seeds,
)
from mmda.models.mmcda.saving import Progress, Run, random_state
from mmda.models.mmcda.steps import Made, make_step
from mmda.vmr.batch import VMRBatch


class Loader(Protocol):
    """Interface of a loader: iteration over batches, in a new order in each epoch."""

    epoch: int

    def __iter__(self) -> Iterator[VMRBatch]: ...

    def __len__(self) -> int: ...


class TrainingStopped(Exception):
    """Raised when a run was asked to stop, after finishing its step and saving it if it has a file.

    Args:
        signal: the signal number, 0 for none.

    Example:
        >>> TrainingStopped(15).signal
        15
    """

    def __init__(self, signal: int = 0) -> None:
        super().__init__(signal)
        self.signal = signal


def forever(loader: Loader, *, skip: int = 0) -> Iterator[VMRBatch]:
    """Iterate over epochs of a loader, skipping the first ``skip`` batches."""
    passes, rest = divmod(skip, len(loader))
    while True:
        if hasattr(loader, "epoch"):  # other iterations over the loader must not change the count
            loader.epoch = passes
        for at, batch in enumerate(loader):
            if at >= rest:
                yield batch
        passes, rest = passes + 1, 0


def fit(
    model: MMCDA,
    objective: MMCDAObjective,
    source: Loader,
    target: Loader | None = None,
    *,
    config: TrainingConfig,
    validate: Callable[[MMCDA], float] | None = None,
    on_step: Callable[[int], None] | None = None,
    log: Callable[[StepFacts], None] | None = None,
    log_steps: int = 10,
    resume: str | Path | None = None,
    save_steps: int | None = None,
    save_seconds: float | None = 60.0,
    device: torch.device | str = "cpu",
    parallel: Parallel | None = None,
) -> Progress:
    """Train ``model`` in place and load the selected checkpoint.

    The checkpoint with the highest ``validate(model)`` among ``config.evaluations`` candidates is selected; without
    ``validate`` the last one. :func:`selection_score` is a validation score without target moments.

    Args:
        model: trained in place in ``train()`` mode; left in ``eval()`` mode.
        objective: the terms; its parameters (such as a discriminator's) are trained with the model's.
        source: batches with moments.
        target: batches; their moments are not used.
        config: settings.
        validate: score of a checkpoint, higher is better.
        on_step: called after each step with its number (for progress bars). It may raise :class:`TrainingStopped`; the
            run is then saved to ``resume`` first.
        log: called on rank 0 with the :class:`StepFacts` of every ``log_steps``-th step.
        log_steps: see ``log``.
        resume: file of the run: resumed from if it exists, written at every evaluation and according to the next two.
        save_steps: write it every this many steps; ``None`` for never.
        save_seconds: write it if this many seconds have passed since the last write; ``None`` for never.
        device: device for batches, on which model and objective must be.
        parallel: train with all processes of torch.distributed's default group, each with the whole model (``"ddp"``)
            or with a shard of its parameters (``"fsdp"``). The loaders must then give each rank its part (``rank=`` and
            ``ranks=``), and rank 0 reads and writes ``resume``. ``None``: only this process.

    Returns:
        :class:`Progress`.

    Raises:
        ValueError: the objective needs a target and none is given; a loader that does not give this rank its part of
            each batch; ``float16`` on devices other than CUDA and the CPU; gradient norms by term of sharded
            parameters; a compiled step on several processes.
        CheckpointError: ``resume`` is damaged, or of another config, model, objective or loaders; nothing is changed
            then.
        TrainingStopped: raised by ``on_step`` on any rank.
        FloatingPointError: the loss or its gradient is not finite, with the step, the terms and the queries. With
            ``resume``, the state before this step is saved as ``NAME.failed.pt`` in the same folder.
        OSError: ``resume`` cannot be written; an existing file stays intact.

    Notes:
        Dropout and random terms draw from torch's global generators, whose states (of CPU and GPU, for every rank) are
        saved in the file with the versions of the code; another version gives a warning. On the CPU a resumed run
        equals the uninterrupted one bit for bit, wherever it was saved; on another number of ranks it uses the same
        batches.

        With several ranks each computes every term of the joint batch from the gathered outputs of the model: up to
        rounding and dropout, the weights equal those of one process trained on the joint batches. All ranks stop, save
        and fail together. If a rank dies, the others fail with a ``RuntimeError`` of torch.distributed, at the latest
        after the group's timeout. ``validate`` is called on every rank, and rank 0's score is used. For custom terms,
        features of the batch are gathered too.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import ResidentLoader, World, simulate
        >>> loader = ResidentLoader(simulate(World(videos=8, test_videos=1)).source_train, 4)
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=8, joint=8))
        >>> objective = MMCDAObjective(weights={"moment": 1.0})
        >>> progress = fit(model, objective, loader, config=TrainingConfig(steps=3, evaluations=1))
        >>> progress.step, progress.best_step, model.training
        (3, 3, False)
    """
    _check_fit(objective, source, target, config, save_steps, save_seconds, log_steps, torch.device(device), parallel)
    ranks = Ranks(together=parallel is not None, device=torch.device(device))
    used = {"source": source, "target": target} if objective.needs_target else {"source": source}
    for name, loader in used.items():
        check_share(name, loader, ranks)
    with quiet(ranks):
        run, call = _prepared(model, objective, used, config, ranks, parallel)
        path = None if resume is None else Path(resume)
        if path is not None and ranks.first(path.exists):
            run.load(path)
        skip = run.state.step * config.accumulate
        batches = zip(
            forever(source, skip=skip),
            forever(target, skip=skip) if target is not None and objective.needs_target else itertools.repeat(None),
        )
        model.train()
        between = _Between(validate, on_step, log, log_steps, path, save_steps, save_seconds)
        _train(run, call, config, batches, between)
        if run.best is not None:
            model.load_state_dict(run.best)
    model.eval()
    return run.state


@dataclass(frozen=True)
class _Between:
    """Validation, callbacks, logging and saving between steps."""

    validate: Callable[[MMCDA], float] | None
    on_step: Callable[[int], None] | None
    log: Callable[[StepFacts], None] | None
    log_steps: int
    path: Path | None
    save_steps: int | None
    save_seconds: float | None

    def logs(self, step: int) -> bool:
        """Whether this step is logged."""
        return self.log is not None and step % self.log_steps == 0

    def saves(self, step: int) -> bool:
        """Whether the run is saved after this step, whatever the time."""
        return self.save_steps is not None and step % self.save_steps == 0


def _train(
    run: Run,
    call: Wrapped,
    config: TrainingConfig,
    batches: Iterator[tuple[VMRBatch, VMRBatch | None]],
    between: _Between,
) -> None:
    """Run the remaining steps, with evaluation, saving and logging."""
    state, ranks, clock, path = run.state, run.ranks, Clock(), between.path
    milestones = set(config.milestones())
    while state.step < config.steps:
        random = random_state(run.device)
        weighing, logging = state.step + 1 in milestones, between.logs(state.step + 1)
        try:
            made = make_step(run, call, config, batches, clock, norms=config.gradient_norms and (weighing or logging))
        except FloatingPointError as error:
            if path is None:
                raise
            failed = path.with_name(f"{path.stem}.failed{path.suffix}")
            run.save(failed, random)
            raise FloatingPointError(f"{error}; the state before this step is saved in {failed}") from None
        stopped = _told(between.on_step, state.step)
        if between.log is not None and logging and ranks.rank == 0:
            between.log(made.facts(run, clock))
        if weighing:
            _weigh(run, between.validate, made)
        late = between.save_seconds is not None and clock.since_save() >= between.save_seconds
        stop, due = ranks.most(0 if stopped is None else 1 + stopped.signal, int(late and ranks.rank == 0))
        due |= weighing or stop > 0 or between.saves(state.step)
        if path is not None and due:
            run.save(path)
            clock.saved()
        if stop:
            raise stopped or TrainingStopped(stop - 1)


def _check_fit(
    objective: MMCDAObjective,
    source: Loader,
    target: Loader | None,
    config: TrainingConfig,
    save_steps: int | None,
    save_seconds: float | None,
    log_steps: int,
    device: torch.device,
    parallel: str | None,
) -> None:
    if objective.needs_target and target is None:
        fail("fit", "target", "be given for this objective", "none")
    for name, loader in (("source", source), ("target", target)):
        if loader is not None and len(loader) == 0:
            fail("fit", name, "give at least one batch per epoch (is the split smaller than a batch?)", "none")
    if save_steps is not None:
        check_count("fit", "save_steps", save_steps)
    if save_seconds is not None:
        check_number("fit", "save_seconds", save_seconds, at_least=0)
    check_count("fit", "log_steps", log_steps)
    if parallel is not None:
        check_choice("fit", "parallel", parallel, PARALLEL)
    if config.precision == "float16" and device.type not in ("cuda", "cpu"):
        fail("fit", "device", "be CUDA or the CPU for float16 (bfloat16 needs no scaling and runs anywhere)", device)
    if config.compile and parallel is not None:
        fail("fit", "config.compile", "be False with `parallel`", True)
    if config.gradient_norms and parallel == "fsdp":
        fail("fit", "config.gradient_norms", "be False if parameters are sharded", True)


def _prepared(
    model: MMCDA,
    objective: MMCDAObjective,
    used: Mapping[str, Loader | None],
    config: TrainingConfig,
    ranks: Ranks,
    parallel: Parallel | None,
) -> tuple[Run, Wrapped]:
    """The initial run and the wrapped step, with the weights of rank 0 on every rank."""
    for module in (model, objective):
        copied_from_first(module, ranks)
    spread_seeds(ranks)
    mean = copy.deepcopy(model).requires_grad_(False) if config.average > 0 else model
    if parallel == "fsdp" and ranks.size > 1:
        for part in dict.fromkeys((model, objective, mean)):
            shard(part)
    call = Wrapped(Step(model, objective, joined=ranks.size > 1), parallel, ranks, compiled=config.compile)
    parameters = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    # fused: one pass over all parameters instead of a dozen
    fused = parallel != "fsdp" and all(p.device.type in ("cpu", "cuda") for p in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    must = {
        "config": asdict(config),
        "weights": dict(objective.weights),
        "loaders": {name: _facts(loader) for name, loader in used.items() if loader is not None},
    }
    scaler = torch.amp.GradScaler(ranks.device.type) if config.precision == "float16" else None
    run = Run(model, objective, optimizer, mean, must=must, device=ranks.device, ranks=ranks, scaler=scaler)
    return run, call


def _facts(loader: Loader) -> dict[str, int]:
    """The attributes that determine the order of a loader's batches."""
    settings = {name: getattr(loader, name, None) for name in ("batch_size", "seed")}
    return {"batches": len(loader), **{name: value for name, value in settings.items() if isinstance(value, int)}}


def _weigh(run: Run, validate: Callable[[MMCDA], float] | None, made: Made) -> None:
    """Evaluate the current weights, log the score, and keep them if they are the best so far."""
    state, mean = run.state, run.parts["mean"]
    own = float(state.step if validate is None else validate(mean.eval()))
    score = run.ranks.first(lambda: own)
    if not math.isfinite(score):
        fail("fit", "validate", "return a finite score", f"{score} at step {state.step}")
    mean.train()
    terms = made.terms()
    weights = {role: run.must["weights"][role] for role in terms}
    entry = {"step": state.step, "score": score, "terms": terms, "weights": weights}
    state.log.append({**entry, "gradient_norms": dict(made.norms)})
    if score > state.best_score:
        state.best_score, state.best_step = score, state.step
        run.best = cloned(mean.state_dict())


def _told(on_step: Callable[[int], None] | None, step: int) -> TrainingStopped | None:
    """Call ``on_step`` and return its request to stop, if any."""
    try:
        if on_step is not None:
            on_step(step)
    except TrainingStopped as stopped:
        return stopped
    return None


@torch.no_grad()
def predict_split(
    model: MMCDA, loader: Iterable[VMRBatch], *, n: int = 5, mix: float = 0.4, nms_threshold: float = 0.5
) -> tuple[Spans, tuple[str, ...]]:
    """Predict the n best spans of every row of a loader, in order, on the CPU; also returns the query ids.

    Args:
        model: in ``eval()`` mode.
        loader: batches; windows are not used.
        n: spans per query.
        mix: see :func:`mmda.models.mmcda.span_scores`.
        nms_threshold: see :func:`mmda.models.mmcda.decode_spans`.

    Returns:
        :class:`Spans` of (rows, n) and the ``qids``.

    Raises:
        ValueError: ``n`` below 1, a threshold outside [0, 1], or no batch in the loader.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=2, test_videos=1)).target_train
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=8, joint=8)).eval()
        >>> spans, names = predict_split(model, [batch], n=3)
        >>> spans.windows.shape, names
        (torch.Size([2, 3, 2]), ('target-train-0', 'target-train-1'))
    """
    device = next(model.parameters()).device
    windows, scores, masks = [], [], []
    names: list[str] = []
    for batch in loader:
        spans = model.predict(batch.to(device), n=n, mix=mix, nms_threshold=nms_threshold)
        windows.append(spans.windows.cpu())
        scores.append(spans.scores.cpu())
        masks.append(spans.mask.cpu())
        names += batch.qids
    if not names:
        fail("predict_split", "loader", "give at least one batch", "none")
    return Spans(torch.cat(windows), torch.cat(scores), torch.cat(masks)), tuple(names)
