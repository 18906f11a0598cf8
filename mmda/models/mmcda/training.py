"""One training run: two loaders, one objective, one optimiser, one backward; and the choice of a checkpoint."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_number, fail
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.objective import MMCDAObjective
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
        precision: ``"float32"``, or ``"bfloat16"`` to run the model under autocast; losses stay in float32.
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
        check_choice("TrainingConfig", "precision", self.precision, ("float32", "bfloat16"))
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
    resume: str | Path | None = None,
    save_steps: int | None = None,
    save_seconds: float | None = 60.0,
    device: torch.device | str = "cpu",
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
        resume: a file that holds the run: read where it exists, written at every evaluation and as the next two say.
        save_steps: write it after each so many steps; ``None`` for never.
        save_seconds: write it when so many seconds have passed since it was last written; ``None`` for never.
        device: where batches go; the model and objective are expected there.

    Returns:
        :class:`Progress`.

    Raises:
        ValueError: the objective needs a target and none is given.
        CheckpointError: ``resume`` is damaged, or of another config, model, objective or other loaders; nothing is
            changed then.
        TrainingStopped: from ``on_step``.
        FloatingPointError: the loss or its gradient is not finite; the step, the terms and the queries are named. With
            ``resume``, the run as it stood before this step lies beside it in ``NAME.failed.pt``.
        OSError: ``resume`` cannot be written; the file that was there before is still whole.

    Notes:
        Dropout and random terms draw from torch's global generators, whose states (the CPU's, and that of the GPU that
        is trained on) are kept in the file with the versions of the code; another version is a warning. A run that is
        gone on with equals the uninterrupted one bit for bit on the CPU, wherever it was saved.

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
    if objective.needs_target and target is None:
        fail("fit", "target", "be given for this objective", "none")
    for name, loader in (("source", source), ("target", target)):
        if loader is not None and len(loader) == 0:
            fail("fit", name, "give at least one batch a pass (is the split smaller than a batch?)", "none")
    if save_steps is not None:
        check_count("fit", "save_steps", save_steps)
    if save_seconds is not None:
        check_number("fit", "save_seconds", save_seconds, at_least=0)
    parameters = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)  # one sweep over all parameters, not a dozen each
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    mean = copy.deepcopy(model).requires_grad_(False) if config.average > 0 else model
    used = {"source": source, "target": target} if objective.needs_target else {"source": source}
    must = {
        "config": asdict(config),
        "weights": dict(objective.weights),
        "loaders": {name: _facts(loader) for name, loader in used.items() if loader is not None},
    }
    run = Run(model, objective, optimizer, mean, must=must, device=torch.device(device))
    path = None if resume is None else Path(resume)
    if path is not None and path.exists():
        run.load(path)
    state = run.state
    skip = state.step * config.accumulate
    batches = zip(
        forever(source, skip=skip),
        forever(target, skip=skip) if target is not None and objective.needs_target else itertools.repeat(None),
    )
    milestones = set(config.milestones())
    saved = time.monotonic()
    model.train()
    while state.step < config.steps:
        random = random_state(run.device)
        weighing = state.step + 1 in milestones
        try:
            found, norms = _step(run, config, parameters, batches, norms=weighing and config.gradient_norms)
        except FloatingPointError as error:
            if path is None:
                raise
            failed = path.with_name(f"{path.stem}.failed{path.suffix}")
            run.save(failed, random)
            raise FloatingPointError(f"{error}; the run as it stood before this step is in {failed}") from None
        stopped = _told(on_step, state.step)
        if weighing:
            _weigh(run, validate, found, norms)
        due = weighing or stopped is not None
        due |= save_steps is not None and state.step % save_steps == 0
        due |= save_seconds is not None and time.monotonic() - saved >= save_seconds
        if path is not None and due:
            run.save(path)
            saved = time.monotonic()
        if stopped is not None:
            raise stopped
    if run.best is not None:
        model.load_state_dict(run.best)
    model.eval()
    return state


def _facts(loader: Loader) -> dict[str, int]:
    """What decides the order of a loader's batches, as far as it says."""
    told = {name: getattr(loader, name, None) for name in ("batch_size", "seed")}
    return {"batches": len(loader), **{name: value for name, value in told.items() if isinstance(value, int)}}


def _step(
    run: Run,
    config: TrainingConfig,
    parameters: Sequence[Tensor],
    batches: Iterator[tuple[VMRBatch, VMRBatch | None]],
    *,
    norms: bool,
) -> tuple[list[dict[str, Tensor]], dict[str, float]]:
    """One optimiser step on ``config.accumulate`` batches; their terms, and gradient norms by role if asked for."""
    model, objective, optimizer, mean = run.parts.values()
    state = run.state
    done = state.step / config.steps
    rate = config.learning_rate * cosine_decay(done, floor=0.02) * min(1, (state.step + 1) / config.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate
    found: list[dict[str, Tensor]] = []
    qids: list[str] = []
    gradients: dict[str, float] = {}
    optimizer.zero_grad(set_to_none=True)
    for source_batch, target_batch in itertools.islice(batches, config.accumulate):
        source_batch = source_batch.to(run.device)
        target_batch = None if target_batch is None else target_batch.without_moments().to(run.device)
        qids += [*source_batch.qids, *(() if target_batch is None else target_batch.qids)]
        with _precision(config, run.device):
            result = objective(
                model(source_batch),
                source_batch,
                None if target_batch is None else model(target_batch),
                target_batch,
                strength=dann_ramp(done, gamma=config.gamma),
            )
        found.append(result.terms)
        if norms:
            gradients = _gradient_norms(result.terms, parameters)
        (result.total if config.accumulate == 1 else result.total / config.accumulate).backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    if not torch.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(_not_finite(state.step + 1, found, qids))
    optimizer.step()
    state.step += 1
    if mean is not model:
        _move_towards(mean, model, 1 - min(config.average, (1 + state.step) / (10 + state.step)))
    return found, gradients


def _precision(config: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Autocast, where it is asked for. The losses compute in float32 inside it too."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _not_finite(step: int, found: Sequence[dict[str, Tensor]], qids: Sequence[str]) -> str:
    """What is told of a step that cannot be made: the terms at fault, all terms, and the queries."""
    values = {role: [float(terms[role].detach()) for terms in found] for role in found[0]}
    bad = [role for role, numbers in values.items() if not all(map(math.isfinite, numbers))]
    which = f"term {', '.join(bad)}" if bad else "their gradient, and no term"
    shown = {role: numbers[0] if len(numbers) == 1 else numbers for role, numbers in values.items()}
    return f"fit: loss or gradient not finite at step {step}: {shown}; at fault: {which}; queries {', '.join(qids)}"


def _weigh(
    run: Run,
    validate: Callable[[MMCDA], float] | None,
    found: Sequence[Mapping[str, Tensor]],
    norms: Mapping[str, float],
) -> None:
    """Score the weights as they stand, log it, and keep them if no earlier ones were better."""
    state, mean = run.state, run.parts["mean"]
    score = float(state.step if validate is None else validate(mean.eval()))
    if not math.isfinite(score):
        fail("fit", "validate", "return a finite score", f"{score} at step {state.step}")
    mean.train()
    terms = {role: sum(each[role].item() for each in found) / len(found) for role in found[0]}
    weights = {role: run.must["weights"][role] for role in terms}
    entry = {"step": state.step, "score": score, "terms": terms, "weights": weights}
    state.log.append({**entry, "gradient_norms": dict(norms)})
    if score > state.best_score:
        state.best_score, state.best_step = score, state.step
        run.best = copy.deepcopy(mean.state_dict())


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
    torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), share)
    for kept, now in zip(mean.buffers(), model.buffers()):
        kept.copy_(now)


def _gradient_norms(terms: dict[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, float]:
    norms = {}
    for role, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms[role] = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
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
