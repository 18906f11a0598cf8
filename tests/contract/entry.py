"""What the suite has to be told of a loss or layer beside its signature: one :class:`Entry`, in a file of its own.

``tests/contract/entries/<file>.py`` holds what belongs to ``mmda/losses/<file>.py`` (``layers_<file>.py`` to
``mmda/layers/<file>.py``): how it is made, which conditions of the grid cannot hold and why, how its value is computed
a second time. A module whose constructor has defaults and whose call speaks the vocabulary needs no more than a
reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from tests.contract.vocabulary import Role

Build = Callable[[int], nn.Module]
Value = Callable[[SimpleNamespace, SimpleNamespace], float]


@dataclasses.dataclass(frozen=True)
class Excuse:
    """Conditions of the grid that cannot hold, and the reason that the docs print.

    With ``raises`` the suite asserts this error and its text; without, it asserts that the condition really fails, so
    an excuse that has become needless fails the suite.
    """

    conditions: tuple[str, ...]
    reason: str
    raises: type[Exception] | None = None
    match: str = ""
    #: False: of the module at its defaults alone, not of its variants.
    variants: bool = True


LEFT_OUT = Excuse(
    ("slope_at_weight_zero",),
    "a row of weight 0 is left out before the sums are made, and what its weight would add is not seen",
    AssertionError,
    "slope on `(source_)?weight` at 0",
)


@dataclasses.dataclass(frozen=True)
class Move:
    """One setting at another value, under other settings where it only counts under them."""

    setting: str
    value: Any
    under: Mapping[str, Any]
    sizes: Mapping[str, int]

    @property
    def moved(self) -> dict[str, Any]:
        return {**self.under, self.setting: self.value}

    @property
    def ignored(self) -> dict[str, Any]:
        """What a loss that does not read the setting computes."""
        return dict(self.under)

    def __str__(self) -> str:
        shown = (f"{k}={'...' if isinstance(v, Tensor | nn.Module) else repr(v)}" for k, v in self.moved.items())
        return ", ".join(shown)


def move(setting: str, value: Any, *, sizes: Mapping[str, int] | None = None, **under: Any) -> Move:
    return Move(setting, value, under, sizes or {})


@dataclasses.dataclass(frozen=True)
class Reference:
    """How the loss is computed a second time, in float64 loops from its formula, at every setting it has.

    ``value`` gives the same number from :mod:`tests.reference`, from the inputs ``p`` of the call as NumPy arrays and
    the settings ``s``, both by name; at each of ``moves`` the two must agree and an ignored setting must show;
    ``excused`` are settings that cannot change the value, and why.
    """

    value: Value
    moves: tuple[Move, ...] = ()
    excused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: What every call is made with: arguments without a default, and the sample of a randomised loss.
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rtol: float = 1e-9


@dataclasses.dataclass(frozen=True)
class Variant:
    """A further row of the grid: other settings of the same module that take another path through it."""

    settings: str
    build: Build
    settled: Build | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    #: Refuses weights and masks: conditions about something else do not bring any.
    bare: bool = False
    excuses: tuple[Excuse, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One exported module (or a loss function whose module takes other tensors), by name."""

    name: str
    #: Makes it for the width ``d`` of the problem, under a fixed seed, where the constructor asks for something.
    build: Build | None = None
    #: The same with every detached quantity (a bandwidth by heuristic, say) fixed, so that a finite difference sees
    #: the function whose gradient is claimed.
    settled: Build | None = None
    #: Arguments that mean something else here than in the vocabulary.
    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    #: Sizes that it asks for (equal samples, say).
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    #: Its ``weight`` counts a repeated pair as a duplicate of its twin, hence not as its negative.
    twins_are_duplicates: bool = False
    #: Claims not to feel a common factor on all features, as every loss of (anchor, positive) does.
    scale_free: bool = False
    excuses: tuple[Excuse, ...] = ()
    variants: tuple[Variant, ...] = ()
    reference: Reference | None = None
    #: Why it is no row of the grid.
    no_row: str = ""
    #: Why it is no row of the digits' benchmark.
    no_digits: str = ""
