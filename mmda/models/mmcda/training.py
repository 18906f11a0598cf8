"""One training run: two loaders, one objective, one optimiser, one backward; and the choice of a checkpoint."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_number, fail
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.logs import Clock, StepFacts, step_facts
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
    local,
    quiet,
    shard,
    spread_seeds,
    whole,
)
from mmda.models.mmcda.saving import Progress, Run, random_state
from mmda.schedules import cosine_decay, dann_ramp
from mmda.vmr.batch import VMRBatch


class Loader(Protocol):
    """What training asks of a loader: passes over batches, each with its own order."""

    epoch: int

    def __iter__(self) -> Iterator[VMRBatch]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast.

    Args:
        steps: optimiser steps.
        learning_rate: peak of AdamW's rate; a short warm-up leads to it, half a cosine away from it.
        weight_decay: of AdamW.
        warmup: steps of the linear warm-up.
        clip_norm: gradients are scaled down to this norm.
        gamma: steepness of the ramp on the target's terms, :func:`mmda.schedules.dann_ramp`.
        average: decay of the running mean of the weights, in [0, 1); 0 turns it off. Where it is on, the mean is what
            is weighed, kept and left behind. At step k the decay is at most (1 + k) / (10 + k): the first steps are
            forgotten soon.
        evaluations: candidates for the checkpoint, spread over the second half of the run.
        gradient_norms: also log each term's gradient norm at every evaluation (one more backward a term).
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` to run the model under autocast; losses stay in
            float32. ``"float16"`` scales the loss (``torch.amp.GradScaler``), on CUDA or the CPU: a step whose scaled
            gradient overflows is left out and the scale halved.
        accumulate: batches of a step. Their gradients are averaged; the pairs of a contrastive term and the samples of
            a discrepancy are those of one batch.

    Raises:
        ValueError: a value out of range.
    """

    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warmup: int = 20
    clip_norm: float = 5.0
    gamma: float = 10.0
    average: float = 0.0
    evaluations: int = 4
    gradient_norms: bool = False
    precision: str = "float32"
    accumulate: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "warmup", "evaluations", "accumulate"):
            check_count("TrainingConfig", name, getattr(self, name))
        for name in ("learning_rate", "clip_norm", "gamma"):
            check_number("TrainingConfig", name, getattr(self, name), above=0)
        check_number("TrainingConfig", "weight_decay", self.weight_decay, at_least=0)
        check_choice("TrainingConfig", "precision", self.precision, ("float32", "bfloat16", "float16"))
        check_number("TrainingConfig", "average", self.average, at_least=0, below=1)

    def milestones(self) -> tuple[int, ...]:
        """Steps after which a checkpoint is weighed: evenly over the second half, the last step included."""
        half = self.steps // 2
        return tuple(
            sorted({self.steps - (self.steps - half) * k // self.evaluations for k in range(self.evaluations)})
        )


class TrainingStopped(Exception):
    """A run was asked to stop: its step is finished and, where it has a file, saved.

    Args:
        signal: the number of the signal that asked, 0 for none.

    Example:
        >>> TrainingStopped(15).signal
        15
    """

    def __init__(self, signal: int = 0) -> None:
        super().__init__(signal)
        self.signal = signal


def forever(loader: Loader, *, skip: int = 0) -> Iterator[VMRBatch]:
    """Pass after pass over a loader; ``skip`` batches are left out as a run that made that many steps would."""
    passes, rest = divmod(skip, len(loader))
    while True:
        if hasattr(loader, "epoch"):  # whoever else goes over the loader moves its own count
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
    """Train ``model`` in place and leave it at the chosen checkpoint.

    The checkpoint with the highest ``validate(model)`` among ``config.evaluations`` candidates is kept; without
    ``validate`` it is the last. What ``validate`` may look at is its affair: :func:`selection_score` reads no
    target boundary.

    Args:
        model: trained in place, in ``train()`` mode; returned to ``eval()`` mode.
        objective: the terms; its parameters (an adversary's, say) are trained with the model's.
        source: batches with moments.
        target: batches; their moments are never read.
        config: steps and rates.
        validate: score of a checkpoint, higher is better.
        on_step: called after each step with its number (progress bars). It may raise :class:`TrainingStopped`: the
            run is saved to ``resume`` first, as it stands after this step.
        log: called with the :class:`StepFacts` of every ``log_steps``-th step, on rank 0.
        log_steps: see ``log``.
        resume: a file that holds the run: read where it exists, written at every evaluation and as the next two say.
        save_steps: write it after each so many steps; ``None`` for never.
        save_seconds: write it when so many seconds have passed since it was last written; ``None`` for never.
        device: where batches go; the model and objective are expected there.
        parallel: train with all processes of torch.distributed's default group, each with the whole model (``"ddp"``)
            or with a shard of its parameters (``"fsdp"``). The loaders then give each rank its share (``rank=`` and
            ``ranks=``), and rank 0 reads and writes ``resume``. ``None``: this process alone.

    Returns:
        :class:`Progress`.

    Raises:
        ValueError: the objective needs a target and none is given; a loader that does not give this rank its share;
            ``float16`` on other devices than CUDA and the CPU; gradient norms by term of sharded parameters.
        CheckpointError: ``resume`` is damaged, or of another config, model, objective or other loaders; nothing is
            changed then.
        TrainingStopped: from ``on_step``, of any rank.
        FloatingPointError: the loss or its gradient is not finite; the step, the terms and the queries are named. With
            ``resume``, the run as it stood before this step lies beside it in ``NAME.failed.pt``.
        OSError: ``resume`` cannot be written; the file that was there before is still whole.

    Notes:
        Dropout and random terms draw from torch's global generators, whose states (the CPU's, and that of the GPU that
        is trained on, of every rank) are kept in the file with the versions of the code; another version is a warning.
        A run that is gone on with equals the uninterrupted one bit for bit on the CPU, wherever it was saved; on
        another number of ranks it sees the same batches.

        With several ranks each computes every term of the joined batch, from the gathered outputs of the model: the
        weights are those of one process that trains on the joined batches, to rounding, dropout apart. All ranks stop,
        save and fail together. A rank that dies ends the others with a ``RuntimeError`` of torch.distributed, at the
        latest after the group's timeout. ``validate`` is called on every rank, and rank 0's score counts. A term of
        your own that reads features from its batch has them gathered too.

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
        _train(run, call, config, batches, validate, on_step, log, log_steps, path, save_steps, save_seconds)
        if run.best is not None:
            model.load_state_dict(run.best)
    model.eval()
    return run.state


def _train(
    run: Run,
    call: Wrapped,
    config: TrainingConfig,
    batches: Iterator[tuple[VMRBatch, VMRBatch | None]],
    validate: Callable[[MMCDA], float] | None,
    on_step: Callable[[int], None] | None,
    log: Callable[[StepFacts], None] | None,
    log_steps: int,
    path: Path | None,
    save_steps: int | None,
    save_seconds: float | None,
) -> None:
    """The steps that are left, with what is due after each."""
    state, ranks, clock = run.state, run.ranks, Clock()
    milestones = set(config.milestones())
    while state.step < config.steps:
        random = random_state(run.device)
        weighing = state.step + 1 in milestones
        logging = log is not None and (state.step + 1) % log_steps == 0
        try:
            made = _step(run, call, config, batches, clock, norms=config.gradient_norms and (weighing or logging))
        except FloatingPointError as error:
            if path is None:
                raise
            failed = path.with_name(f"{path.stem}.failed{path.suffix}")
            run.save(failed, random)
            raise FloatingPointError(f"{error}; the run as it stood before this step is in {failed}") from None
        stopped = _told(on_step, state.step)
        if log is not None and logging and ranks.rank == 0:
            log(made.facts(run, clock))
        if weighing:
            _weigh(run, validate, made)
        late = save_seconds is not None and clock.since_save() >= save_seconds
        stop, due = ranks.most(0 if stopped is None else 1 + stopped.signal, int(late and ranks.rank == 0))
        due |= weighing or stop > 0 or (save_steps is not None and state.step % save_steps == 0)
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
            fail("fit", name, "give at least one batch a pass (is the split smaller than a batch?)", "none")
    if save_steps is not None:
        check_count("fit", "save_steps", save_steps)
    if save_seconds is not None:
        check_number("fit", "save_seconds", save_seconds, at_least=0)
    check_count("fit", "log_steps", log_steps)
    if parallel is not None:
        check_choice("fit", "parallel", parallel, PARALLEL)
    if config.precision == "float16" and device.type not in ("cuda", "cpu"):
        fail("fit", "device", "be CUDA or the CPU for float16 (bfloat16 needs no scaling and runs anywhere)", device)
    if config.gradient_norms and parallel == "fsdp":
        fail("fit", "config.gradient_norms", "be False where parameters are sharded", True)


def _prepared(
    model: MMCDA,
    objective: MMCDAObjective,
    used: Mapping[str, Loader | None],
    config: TrainingConfig,
    ranks: Ranks,
    parallel: Parallel | None,
) -> tuple[Run, Wrapped]:
    """The run at its beginning, and the step as it is called: on every rank with the weights of rank 0."""
    for module in (model, objective):
        copied_from_first(module, ranks)
    spread_seeds(ranks)
    mean = copy.deepcopy(model).requires_grad_(False) if config.average > 0 else model
    if parallel == "fsdp" and ranks.size > 1:
        for part in dict.fromkeys((model, objective, mean)):
            shard(part)
    call = Wrapped(Step(model, objective, joined=ranks.size > 1), parallel, ranks)
    parameters = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    # one sweep over all parameters, not a dozen each
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
    """What decides the order of a loader's batches, as far as it says."""
    told = {name: getattr(loader, name, None) for name in ("batch_size", "seed")}
    return {"batches": len(loader), **{name: value for name, value in told.items() if isinstance(value, int)}}


@dataclass
class _Made:
    """What a step computed: terms of every batch, norms, and how many pairs went in."""

    rate: float
    strength: float
    found: list[dict[str, Tensor]] = field(default_factory=list)
    qids: list[str] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    norm: float = math.nan

    def terms(self) -> dict[str, float]:
        """The mean of each term over the step's batches."""
        return {role: sum(each[role].item() for each in self.found) / len(self.found) for role in self.found[0]}

    def facts(self, run: Run, clock: Clock) -> StepFacts:
        """For the log."""
        weights = run.must["weights"]
        return step_facts(
            step=run.state.step,
            terms=self.terms(),
            weights=weights,
            gradient_norm=self.norm,
            gradient_norms=self.norms,
            rate=self.rate,
            strength=self.strength,
            objective=run.parts["objective"],
            pairs=len(self.qids) * run.ranks.size,
            clock=clock,
            device=run.device,
        )


def _step(
    run: Run,
    call: Wrapped,
    config: TrainingConfig,
    batches: Iterator[tuple[VMRBatch, VMRBatch | None]],
    clock: Clock,
    *,
    norms: bool,
) -> _Made:
    """One optimiser step on ``config.accumulate`` batches; gradient norms by role, of the last, if asked for."""
    model, _, optimizer, mean = run.parts.values()
    state, scaler = run.state, run.scaler
    done = state.step / config.steps
    rate = config.learning_rate * cosine_decay(done, floor=0.02) * min(1, (state.step + 1) / config.warmup)
    made = _Made(rate, dann_ramp(done, gamma=config.gamma))
    for group in optimizer.param_groups:
        group["lr"] = rate
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    clock.begin()
    for at in range(config.accumulate):
        last = at + 1 == config.accumulate
        with clock.data():
            source_batch, target_batch = next(batches)
            source_batch = source_batch.to(run.device)
            target_batch = None if target_batch is None else target_batch.without_moments().to(run.device)
        made.qids += [*source_batch.qids, *(() if target_batch is None else target_batch.qids)]
        with nullcontext() if last else call.unsynchronised():
            with _precision(config, run.device):
                total = call(source_batch, target_batch, made.strength)
            made.found.append(call.step.terms)
            if norms and last:
                made.norms = _gradient_norms(call.step.terms, parameters, run.ranks)
            total = total if config.accumulate == 1 else total / config.accumulate
            torch.autograd.backward(total if scaler is None else scaler.scale(total))
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    made.norm = float(whole(norm))
    if not math.isfinite(made.norm) and not (scaler is not None and _overflow(made.found, scaler)):
        optimizer.zero_grad(set_to_none=True)
        qids = [qid for share in run.ranks.every(made.qids) for qid in share]
        raise FloatingPointError(_not_finite(state.step + 1, made.found, qids))
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    call.step.terms = {}
    state.step += 1
    if mean is not model:
        _move_towards(mean, model, 1 - min(config.average, (1 + state.step) / (10 + state.step)))
    clock.end()
    return made


def _overflow(found: Sequence[Mapping[str, Tensor]], scaler: torch.amp.GradScaler) -> bool:
    """Whether the scale alone made a gradient infinite: the terms are finite, and there is a scale to halve."""
    finite = all(bool(torch.isfinite(term)) for terms in found for term in terms.values())
    return finite and scaler.get_scale() >= 1


def _precision(config: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Autocast, where it is asked for. The losses compute in float32 inside it too."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def _not_finite(step: int, found: Sequence[dict[str, Tensor]], qids: Sequence[str]) -> str:
    """What is told of a step that cannot be made: the terms at fault, all terms, and the queries."""
    values = {role: [float(terms[role].detach()) for terms in found] for role in found[0]}
    bad = [role for role, numbers in values.items() if not all(map(math.isfinite, numbers))]
    which = f"term {', '.join(bad)}" if bad else "their gradient, and no term"
    shown = {role: numbers[0] if len(numbers) == 1 else numbers for role, numbers in values.items()}
    return f"fit: loss or gradient not finite at step {step}: {shown}; at fault: {which}; queries {', '.join(qids)}"


def _weigh(run: Run, validate: Callable[[MMCDA], float] | None, made: _Made) -> None:
    """Score the weights as they stand, log it, and keep them if no earlier ones were better."""
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
    """Whether whoever is told of this step asks to stop."""
    try:
        if on_step is not None:
            on_step(step)
    except TrainingStopped as stopped:
        return stopped
    return None


@torch.no_grad()
def _move_towards(mean: MMCDA, model: MMCDA, share: float) -> None:
    """``mean`` goes ``share`` of the way to ``model``; buffers are taken as they are."""
    torch._foreach_lerp_([local(p) for p in mean.parameters()], [local(p) for p in model.parameters()], share)
    for kept, now in zip(mean.buffers(), model.buffers()):
        kept.copy_(now)


def _gradient_norms(terms: Mapping[str, Tensor], parameters: Sequence[Tensor], ranks: Ranks) -> dict[str, float]:
    norms = {}
    for role, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms[role] = sum(float(g.square().sum()) for g in ranks.averaged(gradients) if g is not None) ** 0.5
    return norms


@torch.no_grad()
def predict_split(
    model: MMCDA, loader: Iterable[VMRBatch], *, n: int = 5, mix: float = 0.4, nms_threshold: float = 0.5
) -> tuple[Spans, tuple[str, ...]]:
    """The n best spans of every row of a loader, in its order, on the CPU, and the rows' names.

    Args:
        model: in ``eval()`` mode.
        loader: batches; windows are not read.
        n: spans a query.
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
