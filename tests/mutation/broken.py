"""Eleven losses broken on purpose, each in the one way that a tired evening breaks it.

Every class stands in for the module it copies: same call, same claims. Written plainly (dense sums, no tiles), so that
each fault is the only thing wrong; the unbroken plain form is beside it and passes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmda._core.masking import full_precision, working_dtype
from mmda._core.rows import as_rows
from mmda.kernels import Gaussian, squared_distances


class Plain(nn.Module):
    """A discrepancy from rows and row weights: everything around the mathematics done right."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        dtype = working_dtype(source, target)
        with full_precision(source):
            x, a = as_rows("plain", "source", source, mask=source_mask, weight=source_weight, dtype=dtype)
            y, b = as_rows("plain", "target", target, mask=target_mask, weight=target_weight, dtype=dtype)
            ones = torch.ones((), dtype=dtype)
            a = ones.expand(x.shape[0]) if a is None else a
            b = ones.expand(y.shape[0]) if b is None else b
            value = self.mathematics(x, y, a, b)
            return torch.where((a.sum() > 0) & (b.sum() > 0), value, 0 * value)


def total(weight: Tensor) -> Tensor:
    return torch.where(weight.sum() > 0, weight.sum(), torch.ones_like(weight.sum()))


class PlainMMD(Plain):
    """Biased MMD, Gaussian, fixed bandwidth."""

    sign = 1.0
    keep_diagonal = True

    def sigma(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.full((), 1.5, dtype=x.dtype)

    def gram(self, x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        pooled = torch.cat([x, y])
        return Gaussian(1.0, scales=(1.0,)).evaluate(squared_distances(pooled), sigma)

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        n, gram = x.shape[0], self.gram(x, y, self.sigma(x, y))
        p, q = a / total(a), b / total(b)
        return p @ gram[:n, :n] @ p + q @ gram[n:, n:] @ q - 2 * self.sign * (p @ gram[:n, n:] @ q)


class PlainUnbiasedMMD(PlainMMD):
    """The U-statistic."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        n, gram = x.shape[0], self.gram(x, y, self.sigma(x, y))
        across = a @ gram[:n, n:] @ b / (total(a) * total(b))
        return self.within(gram[:n, :n], a) + self.within(gram[n:, n:], b) - 2 * across

    def within(self, gram: Tensor, weight: Tensor) -> Tensor:
        pairs = weight.sum() ** 2 - weight.sum()
        return (weight @ gram @ weight - weight.sum()) / torch.where(pairs > 0, pairs, torch.ones_like(pairs))


class PlainCORAL(Plain):
    """Squared distance of covariances over 4 d^2."""

    def covariance(self, x: Tensor, a: Tensor) -> Tensor:
        centred = x - a @ x / total(a)
        degrees = total(a) - 1
        return (centred.T * a) @ centred / torch.where(degrees > 0, degrees, torch.ones_like(degrees))

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        gap = self.covariance(x, a) - self.covariance(y, b)
        return gap.square().sum() / (4 * x.shape[1] ** 2)


class PlainSlicedWasserstein(Plain):
    """Mean of |sorted projections' difference|^2 for equal numbers of unweighted rows."""

    def directions(self, width: int) -> Tensor:
        return torch.linspace(-1, 1, 6 * width).cos().reshape(width, 6)

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        along = nn.functional.normalize(self.directions(x.shape[1]).to(x), dim=0)
        rows = min(x.shape[0], y.shape[0])
        return ((x[:rows] @ along).sort(0).values - (y[:rows] @ along).sort(0).values).square().mean()


class PlainEntropy(nn.Module):
    """Mean entropy of the rows of logits."""

    axis = -1

    def forward(self, logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        with full_precision(logits):
            z, a = as_rows("plain", "logits", logits, mask=mask, weight=weight, dtype=working_dtype(logits))
            a = torch.ones_like(z[:, 0]) if a is None else a
            log_p = z.log_softmax(self.axis)
            return a @ -(log_p.exp() * log_p).sum(1) / total(a)


# The faults.


class WrongSign(PlainMMD):
    """Cross term added: minimising it pushes the domains apart."""

    sign = -1.0


class MissingSquare(PlainCORAL):
    """The norm of the difference instead of its square."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        gap = self.covariance(x, a) - self.covariance(y, b)
        return (gap.square().sum() + 1e-12).sqrt() / (4 * x.shape[1] ** 2)


class DiagonalKept(PlainUnbiasedMMD):
    """The "unbiased" mean divides by n (n - 1) but sums the diagonal too."""

    def within(self, gram: Tensor, weight: Tensor) -> Tensor:
        pairs = weight.sum() ** 2 - weight.sum()
        return weight @ gram @ weight / torch.where(pairs > 0, pairs, torch.ones_like(pairs))


class NoGradient(PlainMMD):
    """The value is right and nothing trains."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return super().mathematics(x, y, a, b).detach() + 0 * x.sum() + 0 * y.sum()


class MaskOnOneSide(PlainMMD):
    """The target's mask is checked, and then forgotten: padding counts as rows of zeros."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return super().mathematics(x, y, a, torch.ones_like(b))


class WrongConstant(PlainCORAL):
    """1 / n instead of 1 / (n - 1)."""

    def covariance(self, x: Tensor, a: Tensor) -> Tensor:
        centred = x - a @ x / total(a)
        return (centred.T * a) @ centred / total(a)


class StaleBandwidth(PlainMMD):
    """The heuristic runs once, on the first batch, and is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(()))

    def sigma(self, x: Tensor, y: Tensor) -> Tensor:
        if self.kept == 0:
            self.kept = squared_distances(torch.cat([x, y])).detach().mean().sqrt()
        return self.kept.to(x.dtype)


class DetachedInput(PlainMMD):
    """Only the target learns."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return super().mathematics(x.detach(), y, a, b)


class SwallowedNaN(PlainMMD):
    """A NaN that counts is made a zero: training goes on with a number that means nothing."""

    def mathematics(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return super().mathematics(x, y, a, b).nan_to_num()


class SoftmaxOverOneUnit(PlainEntropy):
    """The softmax runs over the axis of the rows: with one row every probability is one."""

    axis = 0


class GlobalRandomness(PlainSlicedWasserstein):
    """Projections drawn from torch's global generator."""

    def directions(self, width: int) -> Tensor:
        return torch.randn(width, 6)


#: fault -> (the broken module, the module it stands in for, the conditions that must notice)
MUTANTS: dict[str, tuple[Callable[[], nn.Module], str, tuple[str, ...]]] = {
    "wrong sign": (WrongSign, "MMDLoss", ("reference",)),
    "missing square": (MissingSquare, "CORALLoss", ("reference",)),
    "diagonal kept": (DiagonalKept, "MMDLoss(estimator='unbiased')", ("reference",)),
    "no gradient": (NoGradient, "MMDLoss", ("reaches_inputs", "gradcheck")),
    "mask on one side": (
        MaskOnOneSide,
        "MMDLoss",
        ("masked_is_unpadded", "inert_padding", "batch_time", "weight_two", "weight_zero"),
    ),
    "wrong constant": (WrongConstant, "CORALLoss", ("reference",)),
    "stale bandwidth": (StaleBandwidth, "MMDLoss", ("state_unchanged",)),
    "detached input": (DetachedInput, "MMDLoss", ("reaches_inputs", "gradcheck")),
    "swallowed NaN": (SwallowedNaN, "MMDLoss", ("nan",)),
    "softmax over one unit": (SoftmaxOverOneUnit, "EntropyLoss", ("reference", "weight_two", "weight_zero")),
    "global randomness": (GlobalRandomness, "SlicedWassersteinLoss", ("global_rng",)),
}

#: The unbroken plain forms, for the control: the conditions that catch the mutants let these through.
CONTROLS: dict[str, Callable[[], nn.Module]] = {
    "MMDLoss": PlainMMD,
    "MMDLoss(estimator='unbiased')": PlainUnbiasedMMD,
    "CORALLoss": PlainCORAL,
    "EntropyLoss": PlainEntropy,
    "SlicedWassersteinLoss": PlainSlicedWasserstein,
}
