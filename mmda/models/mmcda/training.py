"""One training run: two loaders, one objective, one optimiser, one backward; and the choice of a checkpoint."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_number, fail, fail_type
from mmda.models.mmcda.build import build_mmcda
from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.files import CheckpointError, encoded, load_file, save_file
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.objective import MMCDAObjective
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

    def __post_init__(self) -> None:
        for name in ("steps", "warmup", "evaluations"):
            check_count("TrainingConfig", name, getattr(self, name))
        for name in ("learning_rate", "clip_norm", "gamma"):
            check_number("TrainingConfig", name, getattr(self, name), above=0)
        check_number("TrainingConfig", "weight_decay", self.weight_decay, at_least=0)
        check_number("TrainingConfig", "average", self.average, at_least=0, below=1)

    def milestones(self) -> tuple[int, ...]:
        """Steps after which a checkpoint is weighed: evenly over the second half, the last step included."""
        half = self.steps // 2
        return tuple(
            sorted({self.steps - (self.steps - half) * k // self.evaluations for k in range(self.evaluations)})
        )


@dataclass
class Progress:
    """State of a run: enough to go on with it, and its log.

    Attributes:
        step: optimiser steps done.
        best_step: step of the chosen checkpoint, 0 before the first.
        best_score: its validation score.
        log: one entry an evaluation: step, score, terms raw and weighted, gradient norms where asked for.
    """

    step: int = 0
    best_step: int = 0
    best_score: float = float("-inf")
    log: list[dict[str, Any]] = field(default_factory=list)


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
        resume: a file that holds the run: read where it exists, written at every evaluation.
        device: where batches go; the model and objective are expected there.

    Returns:
        :class:`Progress`.

    Raises:
        ValueError: the objective needs a target and none is given.
        CheckpointError: ``resume`` is damaged, or of another config, model or objective; nothing is changed then.
        TrainingStopped: from ``on_step``.
        FloatingPointError: the loss or its gradient is not finite; the step and the terms are named.

    Notes:
        Dropout and random terms draw from torch's global generators. A run that is gone on with equals the
        uninterrupted one bit for bit on the CPU; only the CPU generator's state is kept in the file.

    Example:
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
    parameters = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)  # one sweep over all parameters, not a dozen each
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    mean = copy.deepcopy(model).requires_grad_(False) if config.average > 0 else model
    state, best = Progress(), None
    if resume is not None and Path(resume).exists():
        state, best = _load_run(Path(resume), model, objective, optimizer, mean, config)
    source_batches = forever(source, skip=state.step)
    target_batches = forever(target, skip=state.step) if target is not None and objective.needs_target else None
    milestones = set(config.milestones())
    model.train()
    while state.step < config.steps:
        done = state.step / config.steps
        rate = config.learning_rate * cosine_decay(done, floor=0.02) * min(1, (state.step + 1) / config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        source_batch = next(source_batches).to(device)
        target_batch = None if target_batches is None else next(target_batches).without_moments().to(device)
        result = objective(
            model(source_batch),
            source_batch,
            None if target_batch is None else model(target_batch),
            target_batch,
            strength=dann_ramp(done, gamma=config.gamma),
        )
        state.step += 1
        weighing = state.step in milestones
        norms = _gradient_norms(result.terms, parameters) if weighing and config.gradient_norms else {}
        optimizer.zero_grad(set_to_none=True)
        result.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        if not torch.isfinite(norm):
            values = {role: term.item() for role, term in result.terms.items()}
            raise FloatingPointError(f"fit: loss or gradient not finite at step {state.step}: {values}")
        optimizer.step()
        if mean is not model:
            _move_towards(mean, model, 1 - min(config.average, (1 + state.step) / (10 + state.step)))
        stopped = _told(on_step, state.step)
        if weighing:
            score = float(state.step if validate is None else validate(mean.eval()))
            if not math.isfinite(score):
                fail("fit", "validate", "return a finite score", f"{score} at step {state.step}")
            mean.train()
            state.log.append(
                {
                    "step": state.step,
                    "score": score,
                    "terms": {role: term.item() for role, term in result.terms.items()},
                    "weights": {role: objective.weights[role] for role in result.terms},
                    "gradient_norms": norms,
                }
            )
            if score > state.best_score:
                state.best_score, state.best_step = score, state.step
                best = copy.deepcopy(mean.state_dict())
        if resume is not None and (weighing or stopped is not None):
            _save_run(Path(resume), model, objective, optimizer, mean, state, best, config)
        if stopped is not None:
            raise stopped
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return state


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


_MODEL_FILE = "mmcda model"
_RUN_FILE = "mmcda run"


def save_model(path: str | Path, model: MMCDA, config: MMCDAConfig, **facts: object) -> None:
    """Write a trained model with its config, whole or not at all.

    Args:
        path: file to write.
        model: whose ``state_dict`` is saved.
        config: that :func:`build_mmcda` made it from.
        facts: plain values (numbers, strings, lists, mappings) to keep beside it.

    Returns:
        Nothing; the file is there, whole.

    Raises:
        OSError: the file cannot be written.
        TypeError: a fact, or a value of the config, is not plain: :func:`load_model` would refuse the file.
        ValueError: the config is not that of the model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> config = MMCDAConfig(video_width=8, query_width=6, hidden=4, joint=4)
        >>> with TemporaryDirectory() as folder:
        ...     save_model(Path(folder, "model.pt"), build_mmcda(config), config, seed=3)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['model.pt']
    """
    for name, value in facts.items():
        if encoded(value) is None:
            fail_type("save_model", name, "be a plain value (number, string, list, mapping) or a tensor", value)
    for name, value in asdict(config).items():
        if encoded(value) is None:
            fail_type("save_model", f"config.{name}", "be a plain number, bool or string", value)
    _check_fit(model, config)
    save_file(path, _MODEL_FILE, {"config": asdict(config), "model": model.state_dict(), "facts": facts})


def _check_fit(model: MMCDA, config: MMCDAConfig) -> None:
    """``config`` gives a model of the same weights, in which they mean the same."""
    with torch.device("meta"):  # shapes only: no memory, no random number
        built = build_mmcda(config)
    for name in ("shared_space", "temperature"):
        came, made = getattr(model, name), getattr(built, name)
        if came != made:
            fail("save_model", "config", "be that of the model", f"`{name}` {made} for a model with {came}")
    wanted, given = ({k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (built, model))
    for name in [*given, *wanted]:
        if wanted.get(name) != given.get(name):
            came_text = f"`{name}` of shape {wanted.get(name)} for {given.get(name)}"
            fail("save_model", "config", "be that of the model", came_text)


def load_model(path: str | Path) -> tuple[MMCDA, dict[str, Any]]:
    """Read a model written by :func:`save_model`, in ``eval()`` mode, and its facts.

    Args:
        path: file to read; no code in it is run.

    Returns:
        The model, on the CPU, and the facts as they were given.

    Raises:
        CheckpointError: the file is missing, damaged or holds something else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> config = MMCDAConfig(video_width=8, query_width=6, hidden=4, joint=4)
        >>> with TemporaryDirectory() as folder:
        ...     save_model(Path(folder, "model.pt"), build_mmcda(config), config, seed=3)
        ...     model, facts = load_model(Path(folder, "model.pt"))
        >>> model.training, facts
        (False, {'seed': 3})
    """
    content = load_file(path, _MODEL_FILE)
    try:
        model = build_mmcda(MMCDAConfig(**content["config"]))
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights must fit the config beside them, got a damaged file") from error
    return model.eval(), content.get("facts", {})


def _save_run(
    path: Path,
    model: MMCDA,
    objective: MMCDAObjective,
    optimizer: torch.optim.Optimizer,
    mean: MMCDA,
    state: Progress,
    best: dict[str, Tensor] | None,
    config: TrainingConfig,
) -> None:
    content = {
        "config": asdict(config),
        "weights": objective.weights,
        "model": model.state_dict(),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "mean": mean.state_dict(),
        "state": asdict(state),
        "best": best,
        "rng": torch.get_rng_state(),
    }
    save_file(path, _RUN_FILE, content)


def _load_run(
    path: Path,
    model: MMCDA,
    objective: MMCDAObjective,
    optimizer: torch.optim.Optimizer,
    mean: MMCDA,
    config: TrainingConfig,
) -> tuple[Progress, dict[str, Tensor] | None]:
    content = load_file(path, _RUN_FILE)
    for name, wanted in (("config", asdict(config)), ("weights", objective.weights)):
        if content.get(name) != wanted:
            raise CheckpointError(f"{path}: the run must have the training {name} {wanted}, got {content.get(name)}")
    parts: tuple[Any, ...] = (model, objective, optimizer, mean)
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    try:
        state, best, rng = Progress(**content["state"]), content["best"], content["rng"]
        if not 0 <= state.step <= config.steps:
            raise ValueError("a step outside the run")
        torch.Generator().set_state(rng)
        if best is not None:
            model.load_state_dict(best)  # a trial: the end of the run needs it
        for part, name in zip(parts, ("model", "objective", "optimizer", "mean")):
            part.load_state_dict(content[name])
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        for part, kept in zip(parts, before):
            part.load_state_dict(kept)
        rule = "be whole and of the same model and objective"
        raise CheckpointError(f"{path}: the run must {rule}, got another or a damaged one") from error
    torch.set_rng_state(rng)
    return state, best
