"""Logging of training steps: the contents of a log line, and writers."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypedDict

import torch
from torch import nn

from mmda._core.files import named, read_file, text_lines, write_all, write_file
from mmda.losses import DomainAdversarialLoss

if sys.platform != "win32":
    import resource


class StepFacts(TypedDict):
    """One line of the log.

    Attributes:
        step: optimiser steps done.
        loss: the weighted sum of the terms, at the strength of this step.
        terms: unweighted terms by role; the mean over the batches of the step.
        gradient_norm: norm over all parameters, before clipping.
        gradient_norms: norm of each term separately, with ``TrainingConfig.gradient_norms``.
        learning_rate: learning rate of the step.
        strength: factor of the terms that use the target.
        adversaries: for each term with a discriminator, its loss divided by log 2, the loss of guessing (near 1: it
            cannot separate the domains, because they are aligned or it does not learn; near 0: it separates them
            perfectly, and features get no gradient), and its gradient norm.
        pairs_per_second: source and target pairs of all ranks, since the last line.
        step_seconds: mean time of a step since the last line.
        data_share: fraction of it spent waiting for batches.
        memory_mb: peak memory of this process; on a GPU, peak allocated memory there.
    """

    step: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    gradient_norms: dict[str, float]
    learning_rate: float
    strength: float
    adversaries: dict[str, dict[str, float]]
    pairs_per_second: float
    step_seconds: float
    data_share: float
    memory_mb: float


class Clock:
    """Timing of steps, of waiting for data, and since the last save."""

    def __init__(self) -> None:
        self._saved = self._began = time.monotonic()
        self._steps, self._total, self._waited, self._last = 0, 0.0, 0.0, 0

    def begin(self) -> None:
        """Start a step."""
        self._began = time.monotonic()

    @contextmanager
    def data(self) -> Iterator[None]:
        """Context in which the step waits for a batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def end(self) -> None:
        """End a step."""
        self._total += time.monotonic() - self._began
        self._steps += 1

    def since_save(self) -> float:
        """Seconds since the run was last saved."""
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """Record that the run was saved."""
        self._saved = time.monotonic()

    def taken(self) -> tuple[float, float]:
        """Mean seconds per step and fraction of waiting since the last call."""
        steps, total, waited = max(1, self._steps), self._total, self._waited
        self._steps, self._total, self._waited = 0, 0.0, 0.0
        return total / steps, waited / total if total else 0.0


def step_facts(
    *,
    step: int,
    terms: dict[str, float],
    weights: Mapping[str, float],
    gradient_norm: float,
    gradient_norms: dict[str, float],
    rate: float,
    strength: float,
    objective: nn.Module,
    pairs: int,
    clock: Clock,
    device: torch.device,
) -> StepFacts:
    """The facts of the last step, whose gradients are still stored."""
    seconds, share = clock.taken()
    sides = {term.role: term.side for term in objective.terms}  # type: ignore[union-attr]
    loss = sum(weights[role] * value * (1.0 if sides[role] == "source" else strength) for role, value in terms.items())
    return {
        "step": step,
        "loss": loss,
        "terms": terms,
        "gradient_norm": gradient_norm,
        "gradient_norms": dict(gradient_norms),
        "learning_rate": rate,
        "strength": strength,
        "adversaries": _adversaries(objective, terms),
        "pairs_per_second": pairs / seconds if seconds else 0.0,
        "step_seconds": seconds,
        "data_share": share,
        "memory_mb": memory_mb(device),
    }


def _adversaries(objective: nn.Module, terms: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Loss relative to guessing, and gradient norm, of every term's discriminator."""
    found = {}
    parts: Any = objective.parts
    for role, part in parts.items():
        for module in part.modules():
            if isinstance(module, DomainAdversarialLoss) and role in terms:
                squares = [float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None]
                found[role] = {"over_guess": terms[role] / math.log(2), "gradient_norm": sum(squares) ** 0.5}
    return found


def memory_mb(device: torch.device) -> float:
    """Peak memory in MB (10^6 bytes) of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return math.nan
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3


class JSONLines:
    """Append the facts of each step as a line of JSON; non-finite numbers become null.

    Args:
        path: the file. A run resumed from an earlier step removes later and incomplete lines first.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "log.jsonl")
        ...     JSONLines(path)({"step": 1, "loss": math.nan})
        ...     path.read_text()
        '{"step": 1, "loss": null}\\n'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._begun = False

    def __call__(self, facts: Mapping[str, Any]) -> None:
        """Write a line, unbuffered."""
        if not self._begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._before(facts["step"])
            write_file(self.path, "".join(f"{line}\n" for line in kept).encode())
            self._begun = True
        line = json.dumps(_plain(facts), allow_nan=False)
        with named(self.path), self.path.open("ab", buffering=0) as file:
            write_all(file.fileno(), f"{line}\n".encode())

    def _before(self, step: int) -> list[str]:
        """The complete lines of earlier steps."""
        if not self.path.exists():
            return []
        lines = []
        for line in text_lines(read_file(self.path).decode(errors="replace")):
            try:
                if json.loads(line)["step"] < step:
                    lines.append(line)
            except (ValueError, LookupError, TypeError):
                continue
        return lines


def _plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


class TensorBoardLog:
    """Write the numbers of each step as TensorBoard scalars, nested names with slashes (needs ``tensorboard``).

    Args:
        folder: folder of the event files.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoardLog: needs the package `tensorboard`, which is not installed") from error
        self._writer: Any = SummaryWriter(str(folder))

    def __call__(self, facts: Mapping[str, Any]) -> None:
        """Write the numbers of a step."""
        for name, value in scalars(facts):
            self._writer.add_scalar(name, value, facts["step"])
        self._writer.flush()


def scalars(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by name, nested ones as ``outer/inner``, without the step.

    Example:
        >>> dict(scalars({"step": 3, "loss": 1.5, "terms": {"moment": 2.0}}))
        {'loss': 1.5, 'terms/moment': 2.0}
    """
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif name != "step":
            yield prefix + name, float(value)


class PlainLines:
    """Progress as occasional lines, with the interface of ``tqdm``, for output that is not a terminal.

    Args:
        total: number of steps.
        desc: description.
        seconds: seconds between two lines; the first and the last are always written.
        out: output stream.

    Example:
        >>> with PlainLines(4, "train", out=sys.stdout, seconds=100.0) as bar:
        ...     bar.update(1)
        ...     bar.update(3)
        train: step 1 of 4
        train: step 4 of 4
    """

    def __init__(self, total: int, desc: str, *, seconds: float = 20.0, out: TextIO | None = None) -> None:
        self.total, self.desc, self.seconds = total, desc, seconds
        self.n, self.postfix = 0, ""
        self._out = sys.stderr if out is None else out
        self._told: float | None = None
        self._began = time.monotonic()
        self._at_first = 0

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set_postfix_str(self, text: str) -> None:
        """Set the text after the count."""
        self.postfix = text

    def update(self, steps: int) -> None:
        """Advance by a number of steps."""
        self.n += steps
        now = time.monotonic()
        if steps > 0 and (self._told is None or self.n >= self.total or now - self._told >= self.seconds):
            if self._told is None:  # a resumed run starts in the middle, so the rate counts from here
                self._began, self._at_first = now, self.n
            self._told = now
            self._out.write(f"{self.desc}: step {self.n} of {self.total}{self._rate(now)}{self._after()}\n")
            self._out.flush()

    def _rate(self, now: float) -> str:
        done, seconds = self.n - self._at_first, now - self._began
        if done <= 0 or seconds < 1:
            return ""
        return f", {done / seconds:.1f} a second, {(self.total - self.n) * seconds / done:.0f} s to go"

    def _after(self) -> str:
        return f", {self.postfix}" if self.postfix else ""


def several(logs: Sequence[Callable[[StepFacts], None]]) -> Callable[[StepFacts], None] | None:
    """Combine several logs into one callable; ``None`` if there are none."""
    if not logs:
        return None

    def log(facts: StepFacts) -> None:
        for one in logs:
            one(facts)

    return log
