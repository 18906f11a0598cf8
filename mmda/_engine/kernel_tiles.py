"""Kernel values and their derivatives on a tile of squared distances, in place, or as steps for the compiled loops.

Built-in kernels are given as a :class:`mmda.kernels.Formula`, which :class:`FormulaOnTiles` evaluates. For a user's own
kernel see :mod:`mmda._engine.own_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mmda._engine import native_kernels
from mmda.kernels import Formula


class KernelOnTiles:
    """A kernel and its slope dk/dt on a tile of t = -|z_i - z_j|^2, with z the rows times ``stretch`` over the
    bandwidth.

    Attributes:
        stretch: factor of the rows; None: z are the unscaled rows, and the kernel applies its bandwidth.
        value_factor, slope_factor: factors to multiply values and slopes of a tile with.
        work: number of work tiles needed.
        steepest: bound on the absolute value of dk/dt; None if unbounded.
        steps: the kernel as steps of the compiled loops; None if they do not support it.
    """

    stretch: float | None = None
    value_factor, slope_factor, work = 1.0, 1.0, 0
    steepest: float | None = None
    steps: native_kernels.KernelSteps | None = None

    def size(self, largest: float) -> float:
        """Order of magnitude of the kernel's values for rows z up to this squared length."""
        return 1.0

    def add(self, found: Found, t: Tensor, work: Sequence[Tensor], *, same: bool, need_slope: bool) -> Tensor | None:
        """Add k over its factor to ``found``, zero for i = j; overwrites ``t`` and ``work``.

        With ``need_slope`` returns dk/dt over its factor, in one of these tiles or a new one.
        """
        raise NotImplementedError

    def both(self, t: Tensor) -> Tensor:
        """k and dk/dt (2, rows, rows) of one small tile of rows with themselves."""
        raise NotImplementedError


class FormulaOnTiles(KernelOnTiles):
    """A built-in kernel in few operations: ``exp2`` instead of ``exp``, and squares of powers for doubled rates."""

    def __init__(self, formula: Formula) -> None:
        self.kind, self.rates, self.exponent = formula
        self.stretch = 1.0
        self.value_factor = self.slope_factor = 1.0 / max(len(self.rates), 1)
        self.work = 3
        self.chains: list[tuple[float, list[int]]] = []
        self.one_chain = False
        # exp2 instead of exp is several times faster on many processors, also when it underflows.
        if self.kind == "gaussian":
            slowest = min(self.rates)
            self.stretch = math.sqrt(slowest / math.log(2))
            self.slope_factor *= math.log(2)
            self.steepest = math.log(2) * max(self.rates) / slowest
            self.chains = _doublings([rate / slowest for rate in self.rates])
            self.one_chain = len(self.chains) == 1 and self.chains[0][1][0] == 1
            self.work = 1 if self.one_chain else 2
        elif self.kind == "laplacian":
            self.stretch = 1 / math.log(2)
            self.slope_factor *= math.log(2) / 2
            self.chains = _doublings(self.rates)
        elif self.kind == "rational_quadratic":
            self.steepest = self.exponent * max(self.rates)
            self.slope_factor *= self.exponent
            self.work = 2 if self.exponent == 1 else 3
        else:
            self.value_factor, self.slope_factor = -1.0, self.exponent / 2
            self.work = 1 if self.exponent == 1 else 2
        self.steps = self._steps()

    def size(self, largest: float) -> float:
        return largest ** (self.exponent / 2) if self.kind == "distance" else 1.0

    def _steps(self) -> native_kernels.KernelSteps | None:
        if self.exponent != 1:
            return None
        if self.kind == "distance":
            return native_kernels.KernelSteps("energy", [(1.0, 1.0, 1.0)])
        if self.kind == "rational_quadratic":
            return native_kernels.KernelSteps(self.kind, [(rate, 1.0, rate) for rate in self.rates])
        steps = []
        for start, counts in self.chains:
            for position, count in enumerate(counts):
                rate = start * 2.0**position
                steps.append((start if position == 0 else 0.0, float(count), count * rate))
        return native_kernels.KernelSteps(self.kind, steps)

    def add(self, found: Found, t: Tensor, work: Sequence[Tensor], *, same: bool, need_slope: bool) -> Tensor | None:
        slope = work[0] if need_slope else None
        if self.one_chain:
            self._one_chain(t, work[0], found, same, need_slope)
            return t if need_slope else None
        if self.kind == "gaussian":
            self._chains(t, work[1], slope, found, same)
        elif self.kind == "rational_quadratic":
            self._powers(t, work[1:], slope, found, same)
        elif self.kind == "distance" and self.exponent != 1:
            if same:
                t.fill_diagonal_(0)
            power = torch.pow(t.neg_(), self.exponent / 2, out=work[1])
            found.add(power)
            if slope is not None:  # zero for coinciding rows
                torch.div(power, t, out=slope).masked_fill_(t == 0, 0)
        else:
            if same:
                t.fill_diagonal_(0)
            # 1 / root, zero where root is zero: the derivative of a distance is set to zero for coinciding rows.
            inverse = torch.rsqrt(t.neg_(), out=work[self.work - 1]).nan_to_num_(nan=math.nan, posinf=0.0, neginf=0.0)
            root = t.mul_(inverse)
            if self.kind == "distance":
                found.add(root)  # the slope is `inverse`, so one work tile suffices
            else:
                self._chains(root.neg_(), work[1], slope, found, same)
                if slope is not None:
                    slope.mul_(inverse)
        return slope

    def both(self, t: Tensor) -> Tensor:
        if not self.one_chain:
            both = t.new_empty(2, *t.shape)
            work = t.new_empty(self.work - 1, *t.shape)
            self.add(Found(both[0]), t, (both[1], *work.unbind(0)), same=True, need_slope=True)
            return both
        counts = self.chains[0][1]
        powers = t.new_empty(len(counts), *t.shape)
        power, *higher = powers.unbind(0)
        torch.exp2(t, out=power).fill_diagonal_(0)
        for following in higher:
            power = torch.mul(power, power, out=following)
        mix = t.new_tensor([counts, [count * 2.0**position for position, count in enumerate(counts)]])
        return (mix @ powers.flatten(1)).view(2, *t.shape)

    def _one_chain(self, t: Tensor, e: Tensor, found: Found, same: bool, need_slope: bool) -> None:
        """Sum of 2^t, 2^(2t), 2^(4t), ...: one power and its squares; the slope accumulates in place of t."""
        power = torch.exp2(t, out=t)
        if same:
            t.fill_diagonal_(0)
        for position, count in enumerate(self.chains[0][1]):
            if position:
                power = torch.mul(power, power, out=e)
            if count:
                found.add(power, count)
                if position and need_slope:
                    t.add_(e, alpha=count * 2**position)

    def _chains(self, t: Tensor, e: Tensor, slope: Tensor | None, found: Found, same: bool) -> None:
        """Sum of 2^(rate t): one power per chain, squared for each doubled rate."""
        begun = False
        for start, counts in self.chains:
            torch.exp2(t if start == 1 else torch.mul(t, start, out=e), out=e)
            if same:
                e.fill_diagonal_(0)
            rate = start
            for position, count in enumerate(counts):
                if position:
                    e.mul_(e)
                    rate *= 2
                if count:
                    found.add(e, count)
                    if slope is not None and begun:
                        slope.add_(e, alpha=count * rate)
                    elif slope is not None:
                        torch.mul(e, count * rate, out=slope)
                        begun = True

    def _powers(self, t: Tensor, work: Sequence[Tensor], slope: Tensor | None, found: Found, same: bool) -> None:
        """Sum of (1 - rate t) ** -exponent; an exponent of 1 needs no power."""
        base = work[0]
        if slope is not None:
            slope.zero_()
        for rate in self.rates:
            torch.mul(t, -rate, out=base).add_(1).reciprocal_()
            power = base if self.exponent == 1 else torch.pow(base, self.exponent, out=work[1])
            if same:
                power.fill_diagonal_(0)
            found.add(power)
            if slope is not None:
                slope.addcmul_(base, power, value=rate)


formula_on_tiles = lru_cache(maxsize=64)(FormulaOnTiles)  # immutable


class Found:
    """Kernel values added up in the tile ``similar``, or over its rows with ``weight``."""

    result: Tensor

    def __init__(self, similar: Tensor | None, weight: Tensor | None = None) -> None:
        self.similar, self.weight, self.begun = similar, weight, False

    def add(self, e: Tensor, count: int = 1) -> None:
        if self.similar is None:
            assert self.weight is not None
            if self.begun:
                self.result.addmv_(e, self.weight, alpha=count)
            else:
                self.result = torch.mv(e, self.weight)
                if count != 1:
                    self.result.mul_(count)
        elif self.begun:
            self.result.add_(e, alpha=count)
        else:
            self.result = torch.mul(e, count, out=self.similar)
        self.begun = True


def _doublings(rates: Sequence[float]) -> list[tuple[float, list[int]]]:
    """Group rates into chains r, 2 r, 4 r, ...: the first rate of each chain and the count of each doubling."""
    chains: list[tuple[float, list[int]]] = []
    for rate in sorted(rates):
        for start, counts in chains:
            steps = math.log2(rate / start)
            step = round(steps)
            if abs(steps - step) < 1e-12 and step < len(counts) + 2:
                counts.extend([0] * (step + 1 - len(counts)))
                counts[step] += 1
                break
        else:
            chains.append((rate, [1]))
    return chains
