"""What the suite needs to know about a loss or layer beyond its signature: one :class:`Entry`, in its own file.

``tests/contract/entries/<file>.py`` belongs to ``mmda/losses/<file>.py`` (``layers_<file>.py`` to
``mmda/layers/<file>.py``): how to construct it, which conditions of the grid cannot hold and why, and a reference
implementation. A module whose constructor has defaults and whose arguments are all in the vocabulary only needs a
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
    """Conditions of the grid that cannot hold, and the reason, which is printed in the docs.

    With ``raises`` the suite asserts this error and its text; otherwise it asserts that the condition fails, so an
    excuse that is no longer needed fails the suite.
    """

    conditions: tuple[str, ...]
    reason: str
    raises: type[Exception] | None = None
    match: str = ""
    #: False: applies only to the module with default settings, not to its variants.
    variants: bool = True


LEFT_OUT = Excuse(
    ("slope_at_weight_zero",),
    "rows of weight 0 are removed before the sums, so the gradient of such a weight lacks the terms of its row",
    AssertionError,
    "gradient of `(source_)?weight` at 0",
)


@dataclasses.dataclass(frozen=True)
class Move:
    """A changed value of one setting, with further settings if it only has an effect with them."""

    setting: str
    value: Any
    under: Mapping[str, Any]
    sizes: Mapping[str, int]

    @property
    def moved(self) -> dict[str, Any]:
        return {**self.under, self.setting: self.value}

    @property
    def ignored(self) -> dict[str, Any]:
        """The settings as seen by a loss that ignores the changed one."""
        return dict(self.under)

    def __str__(self) -> str:
        shown = (f"{k}={'...' if isinstance(v, Tensor | nn.Module) else repr(v)}" for k, v in self.moved.items())
        return ", ".join(shown)


def move(setting: str, value: Any, *, sizes: Mapping[str, int] | None = None, **under: Any) -> Move:
    return Move(setting, value, under, sizes or {})


@dataclasses.dataclass(frozen=True)
class Reference:
    """Reference implementation of a loss, in float64 loops from its formula, for all its settings.

    ``value`` computes the loss with :mod:`tests.reference` from the inputs ``p`` of the call as NumPy arrays and the
    settings ``s``, both by name. At each of ``moves`` the two must agree, and must differ if the setting is ignored.
    ``excused`` are settings that cannot change the value, and why.
    """

    value: Value
    moves: tuple[Move, ...] = ()
    excused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Arguments of every call: those without a default, and the sample of a randomised loss.
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rtol: float = 1e-9


@dataclasses.dataclass(frozen=True)
class Variant:
    """A further row of the grid: settings of the same module that use another code path."""

    settings: str
    build: Build
    settled: Build | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    #: Raises for weights and masks, so other conditions do not pass any.
    bare: bool = False
    excuses: tuple[Excuse, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One exported module (or a loss function whose module takes other tensors), by name."""

    name: str
    #: Constructs it for the width ``d`` of the problem, with a fixed seed, if the constructor has required arguments.
    build: Build | None = None
    #: The same with every detached quantity (such as a heuristic bandwidth) fixed, so that finite differences match the
    #: gradient.
    settled: Build | None = None
    #: Arguments with another meaning than in the vocabulary.
    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    #: Required sizes (such as equal sample sizes).
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    #: With ``weight``, a repeated pair is not a negative of its duplicate.
    twins_are_duplicates: bool = False
    #: Invariant to a common factor on all features, as every loss of (anchor, positive) is.
    scale_free: bool = False
    excuses: tuple[Excuse, ...] = ()
    variants: tuple[Variant, ...] = ()
    reference: Reference | None = None
    #: Why it has no row in the grid.
    no_row: str = ""
    #: Why it has no row in the digits benchmark.
    no_digits: str = ""
