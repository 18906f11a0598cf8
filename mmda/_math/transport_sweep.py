r"""The Sinkhorn divergence with its gradient, solved until it has converged.

A plan is :math:`P_{ij} = a_i b_j \exp(f_i + g_j - C_{ij} / \varepsilon)`, with potentials in units of the
regularisation. Near the solution steps are made on the factors of a matrix of exponentials that already holds the
potentials found so far, :math:`M = \exp(f_i + g_j - C_{ij} / \varepsilon)`: a step is two products of M with a vector,
and no exponential. Three solvers take turns:

* between a sample and itself one potential serves both sides. The slope of its equation has eigenvalues between 1 and
  2, so a step of 2 / 3 of the residual takes two thirds of any error away, whatever the regularisation;
* across, plain steps begin, and Newton steps follow, whose linear systems conjugate gradients solve with the same
  products: the error squares at each, where plain steps slow down;
* where that stalls, at costs of many hundred times the regularisation, the potential of
  :func:`mmda._math.transport.transport_potential`, which follows the solution down from a large one.

Large samples are swept in tiles of M that are made anew for each product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import fail
from mmda._engine.scaffold import Needed, Sweep, edges
from mmda._math.transport import FLOAT32, transport_cost, transport_potential
from mmda.kernels import distances_about, safe_sqrt

#: The most entries of a matrix that is kept; larger ones are made tile by tile, of so many rows and columns.
_KEPT, _TILE = 1 << 22, 1024
#: Above this ratio float64 does not hold it to 1e-3.
_FLOAT64 = 1e12
#: Up to this ratio plain steps begin.
_PLAIN = 2000.0
#: Plain steps at first, and in a row where Newton's does not help; Newton steps, and products of one of them.
_FIRST, _MORE, _NEWTON, _CONJUGATE = 8, 20, 12, 60
#: The share of mass that may be out of place: what rounding leaves, a few times over.
_CONVERGED = {torch.float32: 2e-6, torch.float64: 1e-12}
#: Steps between a sample and itself: 3^-60 is beyond any rounding.
_SELF = 60
#: Exponents beyond this are cut: they would leave the range of float32, or make it slow.
_REACH = 80.0


class Inputs(NamedTuple):
    """Rows of both sides (n, d) and (m, d), their shares, which sum to one each, and a point (d,) in their midst."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    centre: Tensor


class Settings(NamedTuple):
    """How cost and its regularisation are taken; ``iterations`` bounds the last of the solvers."""

    regularisation: float
    cost: str
    iterations: int


def _costs(x: Tensor, y: Tensor, cost: str, *, same: bool = False) -> Tensor:
    squared = distances_about(None, x, y, same=same)
    return squared if cost == "squared" else safe_sqrt(squared)


def _dense(inputs: Inputs, settings: Settings) -> Tensor:
    """In plain operations, and in float64: what is differentiated again, or transformed, cannot look at its values."""
    x, y, a, b, centre = (t.double() for t in inputs)
    x, y = x - centre, y - centre

    def transport(left: Tensor, right: Tensor, p: Tensor, q: Tensor, same: bool = False) -> Tensor:
        cost = _costs(left, right, settings.cost, same=same)
        return transport_cost(cost, p, q, regularisation=settings.regularisation, iterations=settings.iterations)

    value = transport(x, y, a, b) - (transport(x, x, a, a, same=True) + transport(y, y, b, b, same=True)) / 2
    return value.to(inputs.x.dtype)


class _Plan:
    """The matrix M between two samples for the potentials that it was given last, and its products."""

    def __init__(self, x: Tensor, y: Tensor, settings: Settings, *, same: bool) -> None:
        self.x, self.y, self.settings, self.same = x, y, settings, same
        self.kept = x.shape[0] * y.shape[0] <= _KEPT
        self.f, self.g = x.new_zeros(x.shape[0]), x.new_zeros(y.shape[0])
        eps = settings.regularisation
        self._left, self._squares = x * (2 / eps), tuple(rows.square().sum(1) / eps for rows in (x, y))
        self.scaled = self._scaled(slice(None), slice(None)) if self.kept else None
        self.matrix: Tensor | None = None

    def _scaled(self, i: slice, j: slice) -> Tensor:
        """Minus cost over regularisation."""
        square = self.same and i == j
        if self.settings.cost == "distance":
            distances = _costs(self.x[i], self.y[j], "distance", same=square)
            return distances.div_(-self.settings.regularisation)
        # Of squares the rounding is a share of the largest cost, which the ratio to the regularisation allows for.
        first, second = self._squares
        scaled = (self._left[i] @ self.y[j].T).sub_(first[i].unsqueeze(1)).sub_(second[j]).clamp_(max=0)
        return scaled.fill_diagonal_(0) if square else scaled

    def _tiles(self) -> Iterator[tuple[slice, slice]]:
        for top, bottom in edges(0, self.x.shape[0], _TILE):
            for left, right in edges(0, self.y.shape[0], _TILE):
                yield slice(top, bottom), slice(left, right)

    def _exponentials(self, scaled: Tensor, i: slice, j: slice) -> Tensor:
        return (scaled + self.f[i].unsqueeze(1)).add_(self.g[j]).clamp_(-_REACH, _REACH).exp_()

    def take(self, f: Tensor, g: Tensor) -> None:
        """Hold these potentials from here on."""
        self.f, self.g = f, g
        if self.scaled is not None:
            self.matrix = self._exponentials(self.scaled, slice(None), slice(None))

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """M, with where each part of it lies."""
        if self.matrix is not None:
            yield slice(None), slice(None), self.matrix
        else:
            for i, j in self._tiles():
                yield i, j, self._exponentials(self._scaled(i, j), i, j)

    def rows(self, weight: Tensor) -> Tensor:
        """M times a vector."""
        if self.matrix is not None:
            return self.matrix @ weight
        total = self.x.new_zeros(self.x.shape[0])
        for i, j, part in self.tiles():
            total[i] += part @ weight[j]
        return total

    def columns(self, weight: Tensor) -> Tensor:
        """Its transpose times a vector."""
        if self.matrix is not None:
            return weight @ self.matrix
        total = self.x.new_zeros(self.y.shape[0])
        for i, j, part in self.tiles():
            total[j] += weight[i] @ part
        return total

    def transform(self, potential: Tensor, log_weight: Tensor, *, columns: bool = False) -> Tensor:
        """The soft transform of a potential: minus the log-sum-exp over the other side, in the log domain."""
        weight = potential + log_weight
        if self.scaled is not None:
            return -torch.logsumexp(self.scaled + (weight.unsqueeze(1) if columns else weight), 0 if columns else 1)
        found = self.x.new_full((self.y.shape[0] if columns else self.x.shape[0],), -torch.inf)
        for i, j in self._tiles():
            mine, other, dim = (j, i, 0) if columns else (i, j, 1)
            shift = weight[other].unsqueeze(1) if columns else weight[other]
            found[mine] = torch.logaddexp(found[mine], torch.logsumexp(self._scaled(i, j) + shift, dim))
        return -found


def _log(share: Tensor) -> Tensor:
    return torch.where(share > 0, share, 1).log() + torch.where(share > 0, 0.0, -torch.inf).to(share)


def _solve_self(plan: _Plan, a: Tensor) -> None:
    """One potential for both sides."""
    tolerance = _CONVERGED[a.dtype]
    f = plan.transform(torch.zeros_like(a), _log(a)) / 2
    plan.take(f, f)
    u = torch.ones_like(a)
    for _ in range(_SELF):
        residual = (u * plan.rows(a * u)).log()
        if not bool(a @ residual.abs() > tolerance):
            break
        u = u * (residual * (-2 / 3)).exp()
        if bool(u.log().abs().amax() > _REACH / 8):
            f = f + u.log()
            plan.take(f, f)
            u = torch.ones_like(a)
    f = f + u.log()
    plan.take(f, f)


def _solve_across(plan: _Plan, a: Tensor, b: Tensor, ratio: float) -> None:
    """Both potentials; of the last transform the row sums are exact."""
    tolerance = _CONVERGED[a.dtype]
    error = float("inf")
    if ratio <= _PLAIN:
        error = _near(plan, a, b, tolerance)
    if error > 100 * tolerance:
        _far(plan, a, b)


def _near(plan: _Plan, a: Tensor, b: Tensor, tolerance: float) -> float:
    """Plain steps, then Newton's; the share of mass out of place in the end (not NaN: then there is nothing to do)."""
    log_a, log_b = _log(a), _log(b)
    f = plan.transform(torch.zeros_like(b), log_b)
    g = plan.transform(f, log_a, columns=True)
    f = plan.transform(g, log_b)
    plan.take(f, g)
    u, v = torch.ones_like(a), torch.ones_like(b)

    def placed() -> tuple[Tensor, float]:
        """Mass a column over its share, and the mass out of place; rows are exact."""
        share = v * plan.columns(a * u)
        return share, float(b @ (share - 1).abs())

    def settle() -> None:
        nonlocal u, v, f, g
        f, g = f + u.log(), g + v.log()
        plan.take(f, g)
        u, v = torch.ones_like(a), torch.ones_like(b)

    share, error = placed()
    plain, newton = _FIRST, 0
    while error > tolerance:
        if plain:
            plain -= 1
            v = v / share
            u = 1 / plan.rows(b * v)
            share, error = placed()
            if float(torch.maximum(u.log().abs().amax(), v.log().abs().amax())) > _REACH / 4:
                settle()
            continue
        if newton == _NEWTON:
            break
        newton += 1
        before = u, v, share, error
        move = _newton(plan, a, b, u, v, share, min(0.1, error))
        v = v * move.clamp(-3, 3).exp()
        u = 1 / plan.rows(b * v)
        share, error = placed()
        if not error < 0.5 * before[3]:
            if error <= 5 * tolerance:  # as far as rounding goes
                break
            u, v, share, error = before
            plain = _MORE
    settle()
    return error


def _newton(plan: _Plan, a: Tensor, b: Tensor, u: Tensor, v: Tensor, share: Tensor, accuracy: float) -> Tensor:
    """The step of log v at which columns are exact to first order, rows kept: by conjugate gradients."""
    mass = b * share
    left, right = a * u, b * v
    move = torch.zeros_like(b)
    residual = b - mass
    scale = torch.where(mass > 0, 1 / mass, 0.0)
    ahead = scale * residual
    direction, size = ahead, residual @ ahead
    wanted = size * accuracy**2
    for _ in range(_CONJUGATE):
        if not bool(size > wanted):
            break
        through = mass * direction - right * plan.columns(left * (u * plan.rows(right * direction)))
        curvature = direction @ through
        if not bool(curvature > 0):
            break
        length = size / curvature
        move = move + length * direction
        residual = residual - length * through
        ahead = scale * residual
        following = residual @ ahead
        direction, size = ahead + (following / size) * direction, following
    return move


def _far(plan: _Plan, a: Tensor, b: Tensor) -> None:
    """By the solver that comes from a large regularisation; it needs the whole matrix, whatever its size."""
    settings = plan.settings
    cost = _costs(plan.x, plan.y, settings.cost)
    eps = settings.regularisation
    if cost.shape[0] < cost.shape[1]:
        potential = transport_potential(cost.T, b, a, eps, settings.iterations, False)[0] / eps
        g = plan.transform(potential, _log(a), columns=True)
        f = plan.transform(g, _log(b))
    else:
        g = transport_potential(cost, a, b, eps, settings.iterations, False)[0] / eps
        f = plan.transform(g, _log(b))
    plan.take(f, g)


def _gradients(plan: _Plan, a: Tensor, b: Tensor, need_x: bool, need_y: bool) -> tuple[Tensor | None, Tensor | None]:
    """By the envelope theorem: the plan times the slopes of the cost."""
    x, y, squared = plan.x, plan.y, plan.settings.cost == "squared"
    gx = torch.zeros_like(x) if need_x else None
    gy = torch.zeros_like(y) if need_y else None
    for i, j, matrix in plan.tiles():
        pairs = matrix * a[i].unsqueeze(1) * b[j]
        if squared:
            pairs.mul_(2)
        else:
            distance = _costs(x[i], y[j], "distance", same=plan.same and i == j)
            pairs = torch.where(distance > 0, pairs / distance, 0.0)
        if gx is not None:
            gx[i] += pairs.sum(1).unsqueeze(1) * x[i] - pairs @ y[j]
        if gy is not None:
            gy[j] += pairs.sum(0).unsqueeze(1) * y[j] - pairs.T @ x[i]
    return gx, gy


def _run(inputs: Inputs, settings: Settings, needed: Needed) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    x, y, a, b, centre = (t.detach() for t in inputs)
    dtype = x.dtype
    x, y = x - centre, y - centre
    reach = float(torch.cat([x, y]).double().square().sum(1).amax()) * 4  # the largest squared distance is below
    ratio = (reach if settings.cost == "squared" else reach**0.5) / settings.regularisation
    if dtype == torch.float32 and ratio > FLOAT32:
        x, y, a, b, centre = (t.detach().double() for t in inputs)
        x, y = x - centre, y - centre
    if _FLOAT64 < ratio < float("inf"):
        least = settings.regularisation * ratio / _FLOAT64
        fail(
            "sinkhorn_divergence_loss",
            "regularisation",
            f"be at least {least:.2g}, {1 / _FLOAT64:.0e} of the largest cost, for float64 to hold the plan",
            settings.regularisation,
        )
    a, b = a / a.sum(), b / b.sum()
    value = x.new_zeros((), dtype=torch.float64)
    gradients: list[Tensor | None] = [None, None]

    def add(plan: _Plan, p: Tensor, q: Tensor, factor: float, sides: tuple[int, int]) -> None:
        nonlocal value
        held = (p.double() @ plan.f.double()) + (q.double() @ plan.g.double())
        value = value + factor * settings.regularisation * held
        # Between a sample and itself both sides move: twice the one.
        wanted = [needed[sides[0]], needed[sides[1]] and sides[0] != sides[1]]
        for side, slope in zip(sides, _gradients(plan, p, q, *wanted)):
            if slope is not None:
                slope = slope * (factor if sides[0] != sides[1] else 2 * factor)
                known = gradients[side]
                gradients[side] = slope if known is None else known.add_(slope)

    plan = _Plan(x, y, settings, same=False)
    _solve_across(plan, a, b, ratio)
    add(plan, a, b, 1.0, (0, 1))
    for side, rows, share in ((0, x, a), (1, y, b)):
        plan = _Plan(rows, rows, settings, same=True)
        _solve_self(plan, share)
        add(plan, share, share, -0.5, (side, side))
    first, second = (None if g is None else g.to(dtype) for g in gradients)
    return value.to(dtype), (first, second)


_sweep = Sweep("sinkhorn_divergence", Inputs, Settings, slopes=2, run=_run, dense=_dense)


def sinkhorn_divergence(inputs: Inputs, settings: Settings) -> Tensor:
    """OT(x, y) - (OT(x, x) + OT(y, y)) / 2, in the dtype of the rows."""
    if inputs.x.is_meta:  # there is no value to look at
        return _dense(inputs, settings)
    return _sweep(inputs, settings)
