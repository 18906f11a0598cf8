"""Models and runs on disk."""

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

#: What models did before a field of the config was there to say so.
_BEFORE = {"agreement": 0.0}


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
        ValueError: the config is not that of the model, or a weight is not finite.

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
    """``config`` gives a model of the same weights, in which they mean the same."""
    with torch.device("meta"):  # shapes only: no memory, no random number
        built = build_mmcda(config)
    for name in ("shared_space", "temperature", "agreement.width", "neighbours.strength"):
        came, made = (_setting(each, name) for each in (model, built))
        if came != made:
            fail("save_model", "config", "be that of the model", f"`{name}` {made} for a model with {came}")
    wanted, given = ({k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (built, model))
    for name in [*given, *wanted]:
        if wanted.get(name) != given.get(name):
            came_text = f"`{name}` of shape {wanted.get(name)} for {given.get(name)}"
            fail("save_model", "config", "be that of the model", came_text)


def _setting(model: MMCDA, name: str) -> Any:
    """A plain value that no weight shows; ``None`` where its part is left out."""
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def load_model(path: str | Path) -> tuple[MMCDA, dict[str, Any]]:
    """Read a model written by :func:`save_model`, in ``eval()`` mode, and its facts.

    Args:
        path: file to read; no code in it is run.

    Returns:
        The model, on the CPU, and the facts as they were given.

    Raises:
        CheckpointError: the file is missing, no regular file, damaged in any bit, holds something else, or a weight
            that is not finite.

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
        raise CheckpointError(f"{path}: the weights must fit the config beside them, got a damaged file") from error
    return model.eval(), content.get("facts", {})


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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators: the CPU's, and that of a GPU that is trained on."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """The other way round of :func:`random_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


class Run:
    """Everything that a training changes, and what it must be gone on with: saved whole, taken up whole or not at all.

    Schedules and the order of batches are functions of the number of steps: with the loaders' facts it says where
    they stand.
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
        self.must, self.device = dict(must), device  # plain values: what a file must agree with
        self.ranks = Ranks(together=False, device=device) if ranks is None else ranks
        self.scaler = scaler
        self.state = Progress()
        self.best: dict[str, Tensor] | None = None

    def save(self, path: Path, random: Mapping[str, Tensor] | None = None) -> None:
        """Write the run as it stands, or as it stood with the generators in these states.

        All ranks save together: rank 0 writes, and what keeps it from writing is raised on every rank.
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
        """Go on with a file of :meth:`save`, read by rank 0; where it cannot be used, nothing is changed.

        On another number of ranks each batch has the same rows; what dropout draws is other.
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
                load_whole(self.parts["model"], best)  # a trial: the end of the run needs it
                best = cloned(self.parts["model"].state_dict())
            for name, part in self.parts.items():
                load_whole(part, content[name])
            if self.scaler is not None and content.get("scaler"):
                self.scaler.load_state_dict(content["scaler"])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            for name, part in self.parts.items():
                part.load_state_dict(before[name])
            rule = "be whole and of the same model and objective"
            raise CheckpointError(f"{path}: the run must {rule}, got another or a damaged one") from error
        if content.get("code") != _code() and self.ranks.rank == 0:
            told = f"{path}: begun with {content.get('code')}, gone on with by {_code()}: numbers may differ"
            warnings.warn(told, stacklevel=3)
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
    """The versions that decide what a step computes."""
    return {"mmda": __version__, "torch": str(torch.__version__)}
