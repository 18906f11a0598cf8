r"""The Sinkhorn divergence with its gradient, solved to convergence.

A plan is :math:`P_{ij} = a_i b_j \exp(f_i + g_j - C_{ij} / \varepsilon)`, with potentials in units of the
regularisation. Near the solution, iterations update scaling vectors of a fixed matrix that includes the potentials
found so far, :math:`M = \exp(f_i + g_j - C_{ij} / \varepsilon)`: so a step is two matrix-vector products without
exponentials. There are three solvers:

* for a sample with itself both potentials are equal. The Jacobian of the fixed-point equation has eigenvalues between 1
  and 2, so a step of 2 / 3 of the residual removes at least two thirds of the error, for any regularisation;
* between two samples, Sinkhorn steps are followed by Newton steps with conjugate gradients on the same matrix-vector
  products, which converge quadratically where Sinkhorn steps slow down;
* if that stalls, at costs of many hundred times the regularisation, :func:`mmda._math.transport.transport_potential`,
  which anneals the regularisation.

For large samples M is recomputed tile by tile for each product.

The squared costs of an outlier are so large that float64 loses their differences, on which the plan depends. Between
two samples, terms that are constant over a row or column are therefore subtracted first: squared norms, then minima.
They do not change the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import fail
from mmda._core.counts import median_centre
from mmda._engine.scaffold import Needed, Sweep, edges
from mmda._math.transport import FLOAT32, reduced_cost, transport_cost, transport_potential, without_common_parts
from mmda.kernels import distances_about, safe_sqrt

#: Largest number of entries of a stored matrix, and rows and columns per tile for larger ones.
_KEPT, _TILE = 1 << 22, 1024
#: Above this ratio of cost to regularisation float64 is not accurate to 1e-3, unless no mass moves at such a cost.
#: Above the second, terms constant over rows and columns are subtracted from squared costs.
_FLOAT64, _WIDE = 1e12, 1e8
#: Up to this ratio Sinkhorn steps are tried first.
_PLAIN = 2000.0
#: Sinkhorn steps at the start, and after a failed Newton step; Newton steps, and conjugate gradient iterations per
#: step.
_FIRST, _MORE, _NEWTON, _CONJUGATE = 8, 20, 12, 60
#: Tolerance of the marginal error, a few times the rounding error.
_CONVERGED = {torch.float32: 2e-6, torch.float64: 1e-12}
#: Marginal error up to which the gradient is accurate to 1e-3.
_SETTLED = 1e-4
#: Steps for a sample with itself: 3^-60 is below any rounding error.
_SELF = 60
#: Fraction of a row's mass below which the cost of its transport is not checked.
_MOVED = 1e-6
#: Exponents are clamped to this size, to avoid overflow and slow denormal numbers in float32.
_REACH = 80.0


class Inputs(NamedTuple):
    """Rows of both samples (n, d) and (m, d), their normalised weights, and a centre (d,)."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    centre: Tensor


class Settings(NamedTuple):
    """Regularisation and cost; ``iterations`` limits the last of the solvers."""

    regularisation: float
    cost: str
    iterations: int


def _costs(x: Tensor, y: Tensor, cost: str, *, same: bool = False) -> Tensor:
    squared = distances_about(None, x, y, same=same)
    return squared if cost == "squared" else safe_sqrt(squared)


def _dense(inputs: Inputs, settings: Settings) -> Tensor:
    """In plain float64 operations, for second derivatives and transforms, where values cannot be inspected."""
    x, y, a, b, centre = (t.double() for t in inputs)
    x, y = x - centre, y - centre

    def transport(cost: Tensor, p: Tensor, q: Tensor) -> Tensor:
        return transport_cost(cost, p, q, regularisation=settings.regularisation, iterations=settings.iterations)

    if settings.cost == "squared":
        rest, of_rows, of_columns = reduced_cost(x, y, a, b)
        across = transport(rest, a, b) + a @ of_rows + b @ of_columns
    else:
        across = transport(_costs(x, y, settings.cost), a, b)
    within = [transport(_costs(rows, rows, settings.cost, same=True), p, p) for rows, p in ((x, a), (y, b))]
    value = across - (within[0] + within[1]) / 2
    return value.to(inputs.x.dtype)


class _Plan:
    """The matrix M between two samples for the current potentials, and its products."""

    def __init__(self, x: Tensor, y: Tensor, settings: Settings, *, same: bool, rest: Tensor | None = None) -> None:
        self.x, self.y, self.settings, self.same, self.rest = x, y, settings, same, rest
        self.kept = rest is not None or x.shape[0] * y.shape[0] <= _KEPT
        self.f, self.g = x.new_zeros(x.shape[0]), x.new_zeros(y.shape[0])
        eps = settings.regularisation
        self._left, self._squares = x * (2 / eps), tuple(rows.square().sum(1) / eps for rows in (x, y))
        self.scaled = self._scaled(slice(None), slice(None)) if self.kept else None
        self.matrix: Tensor | None = None

    def _scaled(self, i: slice, j: slice) -> Tensor:
        """Minus cost over regularisation."""
        if self.rest is not None:
            return self.rest[i, j] / -self.settings.regularisation
        square = self.same and i == j
        if self.settings.cost == "distance":
            distances = _costs(self.x[i], self.y[j], "distance", same=square)
            return distances.div_(-self.settings.regularisation)
        # The rounding error of squares is relative to the largest cost, which the limit on the ratio accounts for.
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
        """Set the current potentials."""
        self.f, self.g = f, g
        if self.scaled is not None:
            self.matrix = self._exponentials(self.scaled, slice(None), slice(None))

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Iterate over the parts of M with their slices."""
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
        """The transpose of M times a vector."""
        if self.matrix is not None:
            return weight @ self.matrix
        total = self.x.new_zeros(self.y.shape[0])
        for i, j, part in self.tiles():
            total[j] += weight[i] @ part
        return total

    def transform(self, potential: Tensor, log_weight: Tensor, *, columns: bool = False) -> Tensor:
        """The soft transform of a potential: minus the log-sum-exp over the other sample."""
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
    """Solve for the common potential of a sample with itself."""
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
    """Solve for both potentials; row sums are exact because the last transform is over rows."""
    tolerance = _CONVERGED[a.dtype]
    error = float("inf")
    if ratio <= _PLAIN:
        error = _near(plan, a, b, tolerance)
    if error > 100 * tolerance:
        _far(plan, a, b)
        error = _out_of_place(plan, a, b)
        if error > _SETTLED:
            held = plan.f, plan.g
            if not _near(plan, a, b, tolerance, start=plan.g) < error:
                plan.take(*held)
            error = _out_of_place(plan, a, b)
    if error > _SETTLED:
        settings = plan.settings
        rule = f"be larger, or `iterations` ({settings.iterations}), for a marginal error of at most {_SETTLED:g}"
        got = f"{settings.regularisation:g} (marginal error {error:.1g})"
        fail("sinkhorn_divergence_loss", "regularisation", rule, got)


def _out_of_place(plan: _Plan, a: Tensor, b: Tensor) -> float:
    """The marginal error of the columns."""
    return float(b @ (plan.columns(a) - 1).abs())


def _near(plan: _Plan, a: Tensor, b: Tensor, tolerance: float, start: Tensor | None = None) -> float:
    """Sinkhorn steps, then Newton steps; returns the final marginal error (NaN stops at once)."""
    log_a, log_b = _log(a), _log(b)
    if start is None:
        f = plan.transform(torch.zeros_like(b), log_b)
        start = plan.transform(f, log_a, columns=True)
    g = start
    f = plan.transform(g, log_b)
    plan.take(f, g)
    u, v = torch.ones_like(a), torch.ones_like(b)

    def placed() -> tuple[Tensor, float]:
        """Column masses relative to their targets, and the marginal error; rows are exact."""
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
            if error <= 5 * tolerance:  # limited by rounding
                break
            u, v, share, error = before
            plain = _MORE
    settle()
    return error


def _newton(plan: _Plan, a: Tensor, b: Tensor, u: Tensor, v: Tensor, share: Tensor, accuracy: float) -> Tensor:
    """The Newton step of log v, which makes columns exact to first order and keeps rows exact; by conjugate
    gradients."""
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
    """Solve by annealing the regularisation; needs the full matrix, whatever its size."""
    settings = plan.settings
    cost = _costs(plan.x, plan.y, settings.cost) if plan.rest is None else plan.rest
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
    """By the envelope theorem: the plan times the gradients of the cost."""
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


def _refuse(ratio: float, settings: Settings) -> None:
    least = settings.regularisation * ratio / _FLOAT64
    fail(
        "sinkhorn_divergence_loss",
        "regularisation",
        f"be at least {least:.2g}, {1 / _FLOAT64:.0e} of the largest cost, for float64 to hold the plan",
        settings.regularisation,
    )


def _run(inputs: Inputs, settings: Settings, needed: Needed) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    x, y, a, b, centre = (t.detach() for t in inputs)
    dtype = x.dtype
    x, y = x - centre, y - centre
    reach = float(torch.cat([x, y]).double().square().sum(1).amax()) * 4  # bound on the largest squared distance
    ratio = (reach if settings.cost == "squared" else reach**0.5) / settings.regularisation
    if dtype == torch.float32 and ratio > FLOAT32:
        x, y, a, b, centre = (t.detach().double() for t in inputs)
        x, y = x - centre, y - centre
    wide = _WIDE < ratio < float("inf") and settings.cost == "squared"
    if _FLOAT64 < ratio < float("inf") and not wide:
        _refuse(ratio, settings)
    a, b = a / a.sum(), b / b.sum()
    value = x.new_zeros((), dtype=torch.float64)
    rest = None
    if wide:
        near = median_centre(x, y, a, b)
        x, y = x - near, y - near
        rest, of_rows, of_columns = without_common_parts(x, y, a, b)
        value = value + a @ of_rows + b @ of_columns
    gradients: list[Tensor | None] = [None, None]

    def add(plan: _Plan, p: Tensor, q: Tensor, factor: float, sides: tuple[int, int]) -> None:
        nonlocal value
        held = (p.double() @ plan.f.double()) + (q.double() @ plan.g.double())
        value = value + factor * settings.regularisation * held
        # For a sample with itself both arguments contribute equally.
        wanted = [needed[sides[0]], needed[sides[1]] and sides[0] != sides[1]]
        for side, gradient in zip(sides, _gradients(plan, p, q, *wanted)):
            if gradient is not None:
                gradient = gradient * (factor if sides[0] != sides[1] else 2 * factor)
                known = gradients[side]
                gradients[side] = gradient if known is None else known.add_(gradient)

    plan = _Plan(x, y, settings, same=False, rest=rest)
    _solve_across(plan, a, b, ratio)
    if rest is not None and plan.matrix is not None:
        moved = torch.where(plan.matrix * b > _MOVED, rest, 0.0)[a > 0].amax() / settings.regularisation
        if moved > _FLOAT64:
            _refuse(float(moved), settings)
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
    if inputs.x.is_meta:  # without values
        return _dense(inputs, settings)
    return _sweep(inputs, settings)
