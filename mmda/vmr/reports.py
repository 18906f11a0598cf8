"""Problems of data on disk: an exception that names file, id and rule, and a report that counts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Every rule of a report: what was found and how it was handled.
RULES: Mapping[str, str] = {
    "clipped": "moments end after the video: cut to its end",
    "negative": "moments start before 0 s: cut to 0",
    "inverted": "moments have end <= start: dropped",
    "outside": "moments start after the end of the video: dropped",
    "no_moment": "queries lost all their moments: dropped",
    "missed": "queries lost all their moments: kept without one, a miss",
    "shares": "queries, all of the file, have moments within the first second: fractions of the video, not seconds?",
    "no_text": "queries have no words: dropped",
    "no_duration": "queries belong to a video of unknown or zero length: dropped",
    "no_video": "videos have no features: their queries are dropped",
    "bad_video": "videos have unusable features: their queries are dropped",
    "no_query": "queries have no features: dropped",
    "bad_query": "queries have unusable features: dropped",
    "transposed": "videos have a common feature width as their number of rows: saved as (features, time)?",
    "long_video": "videos have features past their end: cut to the end",
    "short_video": "videos have features that stop more than a clip before the end",
    "odd_length": "videos whose features do not fit the clip length of the others: spread over their length",
    "past_features": "moments begin after the last feature of their video: no target",
    "unknown_words": "words have no vector: skipped",
}

#: Rules that make a folder unusable for training as it is; all others are handled and only counted.
PROBLEMS: tuple[str, ...] = (
    "shares",
    "no_video",
    "bad_video",
    "no_query",
    "bad_query",
    "past_features",
    "transposed",
)


class VMRDataError(ValueError):
    """Invalid data on disk; the message is one line that names file, id and rule.

    Args:
        file: the invalid file or folder.
        id: the video, query or line concerned; ``None`` for the whole file.
        rule: what must hold, as the words after "must".
        came: what was found instead.

    Example:
        >>> print(VMRDataError("clip/AO8RW.npz", "AO8RW", "hold finite numbers", "3 NaN"))
        clip/AO8RW.npz: `AO8RW` must hold finite numbers, got 3 NaN
    """

    def __init__(self, file: str | Path, id: str | None, rule: str, came: object) -> None:
        self.file, self.id, self.rule, self.came = str(file), id, rule, str(came)
        who = f"`{id}` " if id is not None else ""
        super().__init__(f"{file}: {who}must {rule}, got {came}".replace("\n", " "))

    def __reduce__(self) -> tuple[type[VMRDataError], tuple[str, str | None, str, str]]:
        return type(self), (self.file, self.id, self.rule, self.came)


class ClosedMomentsError(RuntimeError):
    """Raised on access to moments that are hidden, as those of a target domain."""


@dataclass(frozen=True)
class Report:
    """Counts of the data read, and of violations of each rule of :data:`RULES`.

    Args:
        name: the file, folder or data set.
        facts: what was read, in printing order: layout, counts, widths.
        findings: the ids found for each rule; an id may occur more than once (one query, two cut moments).
        errors: one line for each problem, naming file, id and rule.

    Example:
        >>> report = Report("a.txt", {"rows": 3, "queries": 2}, {"inverted": ("v_1",)})
        >>> print(report)
        a.txt: rows 3, queries 2
          inverted          1  moments have end <= start: dropped (v_1)
        >>> report.count("inverted"), report.count("clipped"), report.ok
        (1, 0, True)
    """

    name: str
    facts: Mapping[str, object] = field(default_factory=dict)
    findings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.findings) - set(RULES))
        if unknown:
            raise ValueError(f"Report: `findings` must use the rules {', '.join(RULES)}, got {', '.join(unknown)}")

    def count(self, rule: str) -> int:
        """How often ``rule`` was found."""
        if rule not in RULES:
            raise ValueError(f"Report.count: `rule` must be one of {', '.join(RULES)}, got {rule!r}")
        return len(self.findings.get(rule, ()))

    @property
    def ok(self) -> bool:
        """Whether no rule of :data:`PROBLEMS` was found; all other findings have been handled."""
        return not self.errors and not any(self.count(rule) for rule in PROBLEMS)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON: facts, counts and ids."""
        return {
            "name": self.name,
            "facts": dict(self.facts),
            "counts": {rule: len(ids) for rule, ids in self.findings.items()},
            "ids": {rule: list(ids) for rule, ids in self.findings.items()},
            "errors": list(self.errors),
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: " + ", ".join(f"{key} {value}" for key, value in self.facts.items())]
        for rule in RULES:
            ids = self.findings.get(rule, ())
            if ids:
                shown = list(dict.fromkeys(ids))
                some = ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
                lines.append(f"  {rule:<13} {len(ids):>5}  {RULES[rule]} ({some})")
        return "\n".join(lines)


class Findings:
    """Collects findings while a file is read; :meth:`report` creates the report."""

    def __init__(self) -> None:
        self._ids: dict[str, list[str]] = {}
        self._errors: list[str] = []

    def add(self, rule: str, id: str, error: VMRDataError | None = None) -> None:
        """Count ``rule`` for ``id``; ``error`` is kept for printing."""
        self._ids.setdefault(rule, []).append(id)
        if error is not None:
            self._errors.append(str(error))

    def extend(self, rule: str, ids: Iterable[str]) -> None:
        """Count ``rule`` for every id."""
        for id in ids:
            self.add(rule, id)

    def report(self, name: str, facts: Mapping[str, object]) -> Report:
        """The report so far."""
        return Report(name, facts, {rule: tuple(ids) for rule, ids in self._ids.items()}, tuple(self._errors))
