"""Where a condition of the grid cannot hold, and why: the only place that excuses a case from one.

An entry names cases (a pattern of :mod:`fnmatch`, or several), the conditions, and the reason that the docs print.
With ``raises`` the suite asserts this error and its text; without, it asserts that the condition really fails, so an
entry that has become needless fails the suite.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

from tests.contract.cases import Case


@dataclasses.dataclass(frozen=True)
class Excuse:
    cases: tuple[str, ...]
    conditions: tuple[str, ...]
    reason: str
    raises: type[Exception] | None = None
    match: str = ""

    def covers(self, case: Case, condition: str) -> bool:
        return condition in self.conditions and any(fnmatchcase(case.name, escape(p)) for p in self.cases)


def escape(pattern: str) -> str:
    return pattern.replace("[", "[[]")


UNBIASED = ("MMDLoss(estimator='unbiased')",)
LINEAR = ("MMDLoss(estimator='linear')",)

EXCUSES: tuple[Excuse, ...] = (
    Excuse(
        UNBIASED,
        ("one_row",),
        "the U-statistic has no pair to average over",
        ValueError,
        "at least 2 samples for estimator='unbiased'",
    ),
    Excuse(
        LINEAR,
        ("one_row",),
        "the linear estimator has no pair to average over",
        ValueError,
        "at least 2 samples for estimator='linear'",
    ),
)


def excuse_for(case: Case, condition: str) -> Excuse | None:
    return next((excuse for excuse in EXCUSES if excuse.covers(case, condition)), None)
