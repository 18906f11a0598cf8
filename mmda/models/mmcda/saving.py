"""Saving and loading of models and training runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmda._core.checks import fail, fail_type
from mmda._core.version import __version__
from mmda.models.mmcda.build import build_mmcda
from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.files import CheckpointError, encoded, is_plain, load_file, not_finite, save_file
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.objective import MMCDAObjective
from mmda.models.mmcda.parallel import Ranks, cloned, load_whole, spread_seeds, whole

_MODEL_FILE = "mmcda model"
_RUN_FILE = "mmcda run"

#: Defaults of config fields for checkpoints of earlier versions.
_BEFORE = {"agreement": 0.0, "feedback": 0.0}


def save_model(path: str | Path, model: MMCDA, config: MMCDAConfig, **facts: object) -> None:
    """Save a trained model with its config, atomically.

    Args:
        path: file to write.
        model: the model whose ``state_dict`` is saved.
        config: the config it was built from by :func:`build_mmcda`.
        facts: plain values (numbers, strings, lists, mappings) to store with it.

    Returns:
        Nothing.

    Raises:
        OSError: the file cannot be written.
        TypeError: a fact, or a value of the config, is not plain and could not be loaded by :func:`load_model`.
        ValueError: the config does not match the model, or a weight is not finite.

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
    for name, came in not_finite(model.state_dict()):
        fail("save_model", "model", "hold finite weights", f"{came} in `{name}`")
    save_file(path, _MODEL_FILE, {"config": asdict(config), "model": model.state_dict(), "facts": facts})


def _check_fit(model: MMCDA, config: MMCDAConfig) -> None:
    """Check that ``config`` builds a model with the same weights and settings."""
    with torch.device("meta"):  # shapes only, without memory or random numbers
        built = build_mmcda(config)
    for name in ("shared_space", "temperature", "agreement.width", "feedback.strength", "neighbours.strength"):
        came, made = (_setting(each, name) for each in (model, built))
        if came != made:
            fail("save_model", "config", "be that of the model", f"`{name}` {made} for a model with {came}")
    wanted, given = ({k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (built, model))
    for name in [*given, *wanted]:
        if wanted.get(name) != given.get(name):
            came_text = f"`{name}` of shape {wanted.get(name)} for {given.get(name)}"
            fail("save_model", "config", "be that of the model", came_text)


def _setting(model: MMCDA, name: str) -> Any:
    """A setting that is not visible in the weights; ``None`` if its component is disabled."""
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def load_model(path: str | Path) -> tuple[MMCDA, dict[str, Any]]:
    """Load a model saved by :func:`save_model`, in ``eval()`` mode, and its facts.

    Args:
        path: file to read; code in it is not executed.

    Returns:
        The model, on the CPU, and the facts.

    Raises:
        CheckpointError: the file is missing, not a regular file, damaged, of another kind, or contains a weight that is
            not finite.

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
    if not is_plain(content.get("config")):
        raise CheckpointError(f"{path}: the config must hold plain values, got others")
    try:
        model = build_mmcda(MMCDAConfig(**{**_BEFORE, **content["config"]}))
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights must match the config, got a damaged file") from error
    return model.eval(), content.get("facts", {})


@dataclass
class Progress:
    """State of a run, sufficient to resume it, and its log.

    Attributes:
        step: completed optimiser steps.
        best_step: step of the selected checkpoint, 0 before the first.
        best_score: its validation score.
        log: one entry per evaluation: step, score, unweighted and weighted terms, gradient norms if requested.
    """

    step: int = 0
    best_step: int = 0
    best_score: float = float("-inf")
    log: list[dict[str, Any]] = field(default_factory=list)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators of the CPU and of the GPU used for training."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the states of :func:`random_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


class Run:
    """The complete state of a training run, with the settings that must match to resume it; loaded all or nothing.

    Schedules and the order of batches are functions of the number of steps, so together with the loaders' facts the
    number of steps is sufficient.
    """

    def __init__(
        self,
        model: MMCDA,
        objective: MMCDAObjective,
        optimizer: torch.optim.Optimizer,
        mean: MMCDA,
        *,
        must: Mapping[str, Any],
        device: torch.device,
        ranks: Ranks | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.parts: dict[str, Any] = {"model": model, "objective": objective, "optimizer": optimizer, "mean": mean}
        self.must, self.device = dict(must), device  # plain values that a file must match
        self.ranks = Ranks(together=False, device=device) if ranks is None else ranks
        self.scaler = scaler
        self.state = Progress()
        self.best: dict[str, Tensor] | None = None

    def save(self, path: Path, random: Mapping[str, Tensor] | None = None) -> None:
        """Save the run, optionally with given states of the generators.

        All ranks call it: rank 0 writes, and its exceptions are raised on every rank.
        """
        states = {name: whole(part.state_dict()) for name, part in self.parts.items()}
        best = None if self.best is None else whole(self.best)
        everyone = self.ranks.every(random_state(self.device) if random is None else dict(random))

        def write() -> None:
            content = {
                **self.must,
                **states,
                "state": asdict(self.state),
                "best": best,
                "random": everyone[0],
                "random_of_others": everyone[1:],
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "code": _code(),
            }
            save_file(path, _RUN_FILE, content)

        self.ranks.first(write)

    def load(self, path: Path) -> None:
        """Resume from a file of :meth:`save`, read by rank 0; nothing changes if it is unusable.

        On another number of ranks batches have the same rows, but dropout draws different numbers.
        """
        content = self.ranks.first(lambda: self._read(path))
        before = {name: cloned(part.state_dict()) for name, part in self.parts.items()}
        try:
            state, best, random = Progress(**content["state"]), content["best"], content["random"]
            others = content.get("random_of_others", [])
            if not 0 <= state.step <= self.must["config"]["steps"]:
                raise ValueError("a step outside the run")
            torch.Generator().set_state(random["cpu"])
            if best is not None:
                load_whole(self.parts["model"], best)  # check that it loads, since the end of the run needs it
                best = cloned(self.parts["model"].state_dict())
            for name, part in self.parts.items():
                load_whole(part, content[name])
            if self.scaler is not None and content.get("scaler"):
                self.scaler.load_state_dict(content["scaler"])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            for name, part in self.parts.items():
                part.load_state_dict(before[name])
            rule = "be undamaged and of the same model and objective"
            raise CheckpointError(f"{path}: the run must {rule}, got another or a damaged one") from error
        if content.get("code") != _code() and self.ranks.rank == 0:
            message = f"{path}: started with {content.get('code')}, resumed with {_code()}: results may differ"
            warnings.warn(message, stacklevel=3)
        everyone = [random, *others]
        if len(everyone) == self.ranks.size:
            set_random_state(everyone[self.ranks.rank], self.device)
        else:
            set_random_state(random, self.device)
            spread_seeds(self.ranks)
        self.state, self.best = state, best

    def _read(self, path: Path) -> dict[str, Any]:
        content = load_file(path, _RUN_FILE)
        for name, wanted in self.must.items():
            came = content.get(name)
            if not is_plain(came):
                raise CheckpointError(f"{path}: the run must hold its training {name} in plain values, got others")
            if came != wanted:
                raise CheckpointError(f"{path}: the run must have the training {name} {wanted}, got {came}")
        return content


def _code() -> dict[str, str]:
    """The versions that affect the results of a step."""
    return {"mmda": __version__, "torch": str(torch.__version__)}
