"""Entropic optimal transport between two weighted samples, solved to machine precision and twice differentiable.

The dual problem is maximised over one potential g; the other is its soft transform,

    f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps),      V(g) = sum_i a_i f_i + sum_j b_j g_j,

a concave function with gradient b - S^T a and Hessian -(diag(S^T a) - S^T diag(a) S) / eps, S the row softmax of the
plan. The regularisation is annealed geometrically from the largest cost to eps, with one Sinkhorn step and one Newton
step (with a line search on V) at each value. This tracks the solution to small eps, where only Sinkhorn steps would
take thousands of iterations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmda._core.counts import median_centre
from mmda.kernels import distances_about

#: Up to this ratio of cost to regularisation a float32 plan is accurate to 1e-4; above it, float32 inputs are computed
#: in float64.
FLOAT32 = 500.0
#: Fraction of the iterations over which the regularisation is annealed; the rest refine at the final value.
_FALLING = 0.7
#: Step lengths tried in the line search, in addition to zero.
_STEPS = (1.0, 0.3, 0.1)
#: Largest change of g per step, in units of eps.
_REACH = 10.0
#: Marginal error at which the solver stops, and factors on the iterations for retries without convergence.
_CONVERGED = {torch.float32: 1e-5, torch.float64: 1e-11}
_LONGER = (1, 2, 4, 8)
#: Ratios of cost to regularisation at which costs are clamped, in turn, and the share of a row's mass at clamped costs
#: above which the next is tried.
_RANGE, _MOVED = (1e9, math.inf), 1e-9


def without_common_parts(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared cost minus a part per row and a part per column, >= 0 for rows that count; and these parts."""
    rest = -2 * (x @ y.T)
    of_rows = torch.where(b > 0, rest.detach(), torch.inf).amin(1)
    rest = rest - of_rows.unsqueeze(1)
    of_columns = torch.where((a > 0).unsqueeze(1), rest.detach(), torch.inf).amin(0)
    rest = rest - of_columns
    return rest, of_rows + x.square().sum(1), of_columns + y.square().sum(1)


def reduced_cost(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`without_common_parts` about the median, and the parts, which have no gradient.

    The first has that of the squared distances: P (x - y) keeps its digits where the marginals of P do not cancel
    coordinates as large as those of x and y.
    """
    near = median_centre(x, y, a, b)
    rest, of_rows, of_columns = without_common_parts(*(t.detach() for t in (x - near, y - near, a, b)))
    distance = distances_about(None, x, y)
    return rest + (distance - distance.detach()), of_rows, of_columns


def transport_cost(cost: Tensor, a: Tensor, b: Tensor, *, regularisation: float, iterations: int) -> Tensor:
    """min over plans P of <P, cost> + eps KL(P | a b^T), for weights a (n,) and b (m,) that each sum to one.

    The gradient follows from the envelope theorem. The potential depends on the inputs to first order by the implicit
    function theorem, which makes second derivatives correct; the residual gradient of V, zero up to rounding, is
    subtracted from the first derivative.
    """
    if cost.shape[0] < cost.shape[1]:
        cost, a, b = cost.T, b, a  # the linear systems have the size of the smaller sample
    potential, inverse = transport_potential(cost.detach(), a.detach(), b.detach(), regularisation, iterations, True)
    log_b = _log(b)
    gradient = b - a @ torch.softmax(log_b + (potential - cost) / regularisation, 1)
    settled = gradient.detach()
    shift = inverse @ (gradient - settled)
    potential = potential + shift
    other = -regularisation * torch.logsumexp(log_b + (potential - cost) / regularisation, 1)
    value: Tensor = a @ other + b @ potential - settled @ shift
    return value


def _log(share: Tensor) -> Tensor:
    one = torch.ones((), dtype=share.dtype, device=share.device)
    return torch.where(share > 0, torch.where(share > 0, share, one).log(), -math.inf * one)


@torch.library.custom_op("mmda::transport_potential", mutates_args=())
def transport_potential(
    cost: Tensor, a: Tensor, b: Tensor, regularisation: float, iterations: int, invert: bool
) -> tuple[Tensor, Tensor]:
    """The potential g (..., m) of the smaller sample, and the inverse (..., m, m) of minus the Hessian.

    If ``invert`` is False the second is empty.
    """
    for reach in _RANGE:
        # Costs at which no mass moves are clamped: potentials lose digits to the largest cost.
        limit = reach * regularisation
        held = cost.clamp(max=limit)
        for longer in _LONGER:
            potential, error, least = _followed(held, a, b, regularisation, longer * iterations)
            if not bool((error > least).any()):
                break
        beyond = cost > limit
        if not bool(beyond.any()):
            break
        moved = _exponentials(_log(b).unsqueeze(-2) + (potential.unsqueeze(-2) - held) / regularisation, -1)[0]
        if not bool((torch.where(beyond, moved, 0).sum(-1) * (a > 0)).amax() > _MOVED):
            break
    if not invert:
        return potential.clone(), potential.new_empty(0)
    soft = _exponentials(_log(b).unsqueeze(-2) + (potential.unsqueeze(-2) - cost) / regularisation, -1)[0]
    _, factor, scale = _newton_system(soft, a, b)
    identity = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device).expand(factor.shape)
    inverse = torch.cholesky_solve(identity, factor) * scale.unsqueeze(-1) * scale.unsqueeze(-2) * regularisation
    finite = torch.isfinite(inverse).all(-1, keepdim=True).all(-2, keepdim=True)
    return potential.clone(), torch.where(finite, inverse, torch.zeros_like(inverse))


def _followed(cost: Tensor, a: Tensor, b: Tensor, regularisation: float, iterations: int) -> tuple[Tensor, ...]:
    """The potential after at most ``iterations`` steps, the marginal error before the last step, and the tolerance."""
    log_a, log_b = _log(a), _log(b)
    kept = (a > 0).unsqueeze(-1) & (b > 0).unsqueeze(-2)
    start = torch.where(kept, cost, torch.zeros_like(cost)).amax((-2, -1)).clamp(min=regularisation)
    ratio = regularisation / start
    least = (64 * torch.finfo(b.dtype).eps / ratio).clamp(min=_CONVERGED[b.dtype])  # rounding error of the costs
    falling = max(math.ceil(_FALLING * iterations), 1)
    potential = torch.zeros_like(b)
    for step in range(1, iterations + 1):
        eps = (start * ratio ** min(step / falling, 1.0)).clamp(min=regularisation).unsqueeze(-1)
        scaled = cost / eps.unsqueeze(-1)
        f = -_exponentials((log_b + potential / eps).unsqueeze(-2) - scaled, -1)[1]
        g = -_exponentials((log_a + f).unsqueeze(-1) - scaled, -2)[1]
        potential = eps * g
        soft = _exponentials((log_b + g).unsqueeze(-2) - scaled, -1)[0]
        gradient, factor, scale = _newton_system(soft, a, b)
        error = gradient.abs().sum(-1)
        if step > falling and not bool((error > least).any()):
            break
        move = scale * torch.cholesky_solve((scale * gradient).unsqueeze(-1), factor).squeeze(-1)
        move = torch.where(b > 0, move, torch.zeros_like(move))
        move = move - move.mean(-1, keepdim=True)
        move = move * (_REACH / move.abs().amax(-1, keepdim=True).clamp(min=_REACH))
        gain, best = torch.zeros_like(start), torch.zeros_like(move)
        for length in _STEPS:
            # V changes by b . move - a . log(S e^move), which needs no new exponentials of the matrix.
            ahead = length * move
            rise = (b * ahead).sum(-1) - (a * (soft @ ahead.exp().unsqueeze(-1)).squeeze(-1).log()).sum(-1)
            better = rise > gain  # False for NaN
            gain = torch.where(better, rise, gain)
            best = torch.where(better.unsqueeze(-1), ahead, best)
        potential = potential + eps * best
    return potential, error, least


def _exponentials(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Softmax and log-sum-exp over one axis; ``logits`` is overwritten.

    Entries below exp(-80) of the largest are negligible; the floor avoids denormal numbers, which are many times
    slower.
    """
    top = logits.amax(dim, keepdim=True)
    soft = logits.sub_(top).clamp_(min=-80).exp_()
    total = soft.sum(dim, keepdim=True)
    return soft.div_(total), (total.log() + top).squeeze(dim)


def _newton_system(soft: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of V, the Cholesky factor of minus eps times its Hessian in scaled unknowns, and the scales.

    The Hessian is singular for constant shifts of g, so a rank-one term is added. A small multiple of the identity
    keeps the system positive definite when the plan is nearly a matching and g is nearly undetermined.
    """
    limits = torch.finfo(soft.dtype)
    mass = (a.unsqueeze(-2) @ soft).squeeze(-2)
    positive = mass > limits.tiny
    root = torch.where(positive, mass, torch.ones_like(mass)).sqrt()
    scale = torch.where(positive, 1 / root, torch.zeros_like(root))
    root = torch.where(positive, root, torch.zeros_like(root))
    # Entries whose squares underflow are negligible and would slow the product down many times.
    large = torch.where(soft > limits.tiny**0.5, soft, torch.zeros_like(soft)) * scale.unsqueeze(-2)
    system = root.unsqueeze(-1) * root.unsqueeze(-2) - large.mT @ (a.unsqueeze(-1) * large)
    system.diagonal(dim1=-2, dim2=-1).add_(1 + 4 * limits.eps * b.shape[-1])
    return b - mass, torch.linalg.cholesky_ex(system).L, scale


@transport_potential.register_fake
def _(
    cost: Tensor, a: Tensor, b: Tensor, regularisation: float, iterations: int, invert: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(b), b.new_empty((*b.shape, b.shape[-1]) if invert else (0,))


@transport_potential.register_vmap
def _(
    info: object,
    in_dims: tuple[int | None, ...],
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    regularisation: float,
    iterations: int,
    invert: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    size = info.batch_size  # type: ignore[attr-defined]
    cost, a, b = (
        x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip((cost, a, b), in_dims)
    )
    return transport_potential(cost, a, b, regularisation, iterations, invert), (0, 0)
