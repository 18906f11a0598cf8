"""The training loop: two loaders, one objective and one optimiser, with checkpoint selection."""

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
    """Interface of a loader: iteration over batches, in a new order in each epoch."""

    epoch: int

    def __iter__(self) -> Iterator[VMRBatch]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run.

    Args:
        steps: optimiser steps.
        learning_rate: peak learning rate of AdamW, with a linear warm-up and a cosine decay.
        weight_decay: weight decay of AdamW.
        warmup: steps of the linear warm-up.
        clip_norm: maximum gradient norm.
        gamma: steepness of the ramp of the target's terms, :func:`mmda.schedules.dann_ramp`.
        average: decay of the exponential moving average of the weights, in [0, 1); 0 turns it off. If on, the averaged
            weights are evaluated, selected and returned. At step k the decay is at most (1 + k) / (10 + k), so that the
            first steps are forgotten quickly.
        evaluations: number of candidate checkpoints, spread over the second half of the run.
        gradient_norms: also log each term's gradient norm at every evaluation (one more backward pass per term).
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` to run the model under autocast; losses stay in
            float32. ``"float16"`` scales the loss (``torch.amp.GradScaler``), on CUDA or the CPU: a step whose scaled
            gradient overflows is skipped and the scale is halved.
        accumulate: number of batches per step, whose gradients are averaged; contrastive terms and discrepancies only
            see one batch at a time.

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
        """Steps after which a checkpoint is evaluated: evenly spaced over the second half, including the last step."""
        half = self.steps // 2
        return tuple(
            sorted({self.steps - (self.steps - half) * k // self.evaluations for k in range(self.evaluations)})
        )


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
            parameters.
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
    """Run the remaining steps, with evaluation, saving and logging."""
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
            raise FloatingPointError(f"{error}; the state before this step is saved in {failed}") from None
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
    call = Wrapped(Step(model, objective, joined=ranks.size > 1), parallel, ranks)
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


@dataclass
class _Made:
    """Results of a step: terms of every batch, norms, and number of pairs."""

    rate: float
    strength: float
    found: list[dict[str, Tensor]] = field(default_factory=list)
    qids: list[str] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    norm: float = math.nan

    def terms(self) -> dict[str, float]:
        """The mean of each term over the batches of the step."""
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
    """One optimiser step on ``config.accumulate`` batches; optionally gradient norms by role, of the last batch."""
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
    """Whether only the loss scale made a gradient infinite: the terms are finite, and the scale can be halved."""
    finite = all(bool(torch.isfinite(term)) for terms in found for term in terms.values())
    return finite and scaler.get_scale() >= 1


def _precision(config: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Autocast if requested. Losses compute in float32 inside it too."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def _not_finite(step: int, found: Sequence[dict[str, Tensor]], qids: Sequence[str]) -> str:
    """Error message of a non-finite step: the non-finite terms, all terms, and the queries."""
    values = {role: [float(terms[role].detach()) for terms in found] for role in found[0]}
    bad = [role for role, numbers in values.items() if not all(map(math.isfinite, numbers))]
    which = f"term {', '.join(bad)}" if bad else "their gradient, and no term"
    shown = {role: numbers[0] if len(numbers) == 1 else numbers for role, numbers in values.items()}
    return f"fit: loss or gradient not finite at step {step}: {shown}; at fault: {which}; queries {', '.join(qids)}"


def _weigh(run: Run, validate: Callable[[MMCDA], float] | None, made: _Made) -> None:
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
def _move_towards(mean: MMCDA, model: MMCDA, share: float) -> None:
    """Update the moving average ``mean`` towards ``model`` by ``share``; buffers are copied."""
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
