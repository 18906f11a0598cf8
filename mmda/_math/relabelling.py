r"""Squared MMD of many relabellings at once for permutation tests, with a bound on the rounding error.

A permutation test compares the statistic T of each relabelling with the observed T. On repetitive data most
relabellings tie, and rounding must not decide ties. So equal rows are merged into one row with a count, and s marks the
rows of the *smaller* sample, for which

.. math:: T = A\, s^\top K s - B\, s^\top K \mathbf 1 + \text{const}, \quad
          A = \tfrac 1{p_k} + \tfrac 1{p_m} + \tfrac 2{k m}, \quad B = \tfrac 2{p_m} + \tfrac 2{k m}

(k rows chosen, m left, p the number of pairs) has no large cancelling terms, and every error is bounded:

* the error of a squared distance from a matrix product of centred rows is at most :math:`e = 2 (d + 8) u (r_i^2 +
  r_j^2)`, u the unit roundoff; that of a similarity convex in it, as for all kernels here, at most :math:`(k(0) - k(D))
  \, e / D`. Equal rows have no error.
* a sum of N similarities adds at most N u times the sum of their absolute values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmda.kernels import Kernel, distances_about

#: Rows per block of the Gram matrix, and terms per sum in float32.
_BLOCK = 512
#: Rows per tile, so that elementwise operations stay in the cache.
_TILE = 64
#: With at least this many distinct rows, relabellings are compared in float32 first.
FLOAT32_ROWS = 768


@dataclass(frozen=True)
class Gram:
    """The upper blocks of the similarities between distinct rows, with bounds on their rounding errors.

    Args:
        blocks: for each block of rows, the columns from its first row on.
        place: index of each row among the distinct rows.
        counts: multiplicity of each distinct row.
        row_sums: sums over all rows, with multiplicity.
        at_zero: similarity of a row with itself.
        size: largest absolute similarity.
        entry_error: error bound of a similarity.
        row_error: error bound of a row sum, without the rounding of the summation.
    """

    blocks: list[Tensor]
    place: Tensor
    counts: Tensor
    row_sums: Tensor
    at_zero: float
    size: float
    entry_error: float
    row_error: float


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(at, min(at + size, stop)) for at in range(start, stop, size))


def similarities(z: Tensor, kernel: Kernel, bandwidth: Tensor) -> Gram:
    """The similarities of finite float64 rows (N, d)."""
    rows, place, count = torch.unique(z, dim=0, return_inverse=True, return_counts=True)
    counts, different = count.to(z.dtype), len(rows)
    # Coordinate-wise medians are robust to outliers and keep integers exact.
    rows = rows - z.median(0).values
    radius = rows.square().sum(1)
    relative = (rows.shape[1] + 8) * torch.finfo(z.dtype).eps
    at_zero = kernel.evaluate(radius.new_zeros(()), bandwidth)
    row_sums, row_error = torch.zeros_like(radius), torch.zeros_like(radius)
    entry_error, size = radius.new_zeros(()), radius.new_zeros(())
    blocks = []
    for above in _slices(0, different, _BLOCK):
        block = rows.new_empty(above.stop - above.start, different - above.start)
        for i in _slices(above.start, above.stop, _TILE):
            for j in _slices(above.start, different, _BLOCK):
                value, wrong = _tile(rows, radius, relative, i, j, kernel, bandwidth, at_zero)
                block[i.start - above.start : i.stop - above.start, j.start - above.start : j.stop - above.start] = (
                    value
                )
                size = torch.maximum(size, value.abs().max())
                entry_error = torch.maximum(entry_error, wrong.max())
                row_sums[i] += value @ counts[j]
                row_error[i] += wrong @ counts[j]
                if j.start > above.start:  # the diagonal block holds both triangles
                    row_sums[j] += counts[i] @ value
                    row_error[j] += counts[i] @ wrong
        blocks.append(block)
    errors = float(entry_error), float(row_error.max())
    return Gram(blocks, place, counts, row_sums, float(at_zero), float(size), *errors)


def _tile(
    rows: Tensor,
    radius: Tensor,
    relative: float,
    i: slice,
    j: slice,
    kernel: Kernel,
    bandwidth: Tensor,
    at_zero: Tensor,
) -> tuple[Tensor, Tensor]:
    """Similarities between distinct rows of two slices, and their error bounds."""
    squared = distances_about(None, rows[i], rows[j])
    error = (radius[i].unsqueeze(1) + radius[j]).mul_(relative)
    if i.start < j.stop and j.start <= i.start:  # no error on the diagonal
        for part in (squared, error):
            part[:, i.start - j.start : i.stop - j.start].fill_diagonal_(0)
    value = kernel.evaluate(squared, bandwidth)
    near = squared < error
    wrong = (at_zero - value).abs_().mul_(error).div_(squared.clamp_(min=torch.finfo(squared.dtype).tiny))
    if bool(near.any()):
        wrong = torch.where(near, (at_zero - kernel.evaluate(2 * error, bandwidth)).abs(), wrong)
    return value, wrong


def matrix(gram: Gram) -> Tensor:
    """All similarities (N, N), bitwise equal for equal rows."""
    different = len(gram.counts)
    full = gram.counts.new_empty(different, different)
    for above, block in zip(_slices(0, different, _BLOCK), gram.blocks):
        full[above, above.start :] = block
        full[above.start :, above] = block.T
    return full[gram.place][:, gram.place]


class Splits:
    r"""The statistic T of splits of N rows into k and N - k, and its comparison with an observed value.

    With :math:`\tilde K_{ij} = K_{ij} - r_i - r_j + g` with the row means r and the overall mean g, :math:`T = A s^\top
    \tilde K s + L (s^\top r - k g) + C`; biased, L and C are zero.

    Args:
        gram: similarities of the pooled rows; its blocks are overwritten.
        chosen: k, at most half of the rows.
        unbiased: whether pairs of a row with itself are excluded.
    """

    def __init__(self, gram: Gram, chosen: int, *, unbiased: bool) -> None:
        total, k = len(gram.place), chosen
        m, least = total - k, int(unbiased)
        k_pairs, m_pairs = k * (k - least), m * (m - least)
        self._gram, self._chosen = gram, k
        self._mean = gram.row_sums / total
        self._grand = float(gram.counts @ self._mean) / total
        self._quadratic = 1 / k_pairs + 1 / m_pairs + 2 / (k * m)
        self._linear = 2 * (1 / k_pairs - 1 / m_pairs) if unbiased else 0.0
        self._constant = (self._grand - gram.at_zero) * (1 / (k - 1) + 1 / (m - 1)) if unbiased else 0.0
        size, absolute = gram.size, torch.zeros_like(self._mean)
        for above, block in zip(_slices(0, len(gram.counts), _BLOCK), gram.blocks):
            block.sub_(self._mean[above].unsqueeze(1)).sub_(self._mean[above.start :] - self._grand)
            size = max(size, float(block.abs().max()))
            absolute[above] += block.abs() @ gram.counts[above.start :]
            if block.shape[1] > block.shape[0]:
                later = block[:, block.shape[0] :]
                absolute[above.stop :] += gram.counts[above] @ later.abs()
                later.mul_(2)  # for the lower triangle
        unit = torch.finfo(self._mean.dtype).eps / 2
        from_rows = k * (gram.row_error + (total + 16) * unit * total * size)
        within = min(k * k * gram.entry_error, k * gram.row_error) + (total + 16) * unit * k * k * size
        #: Two values of T that differ by at most this may be equal.
        self.tolerance = 2 * (self._quadratic * within + (2 / m_pairs + 2 / (k * m)) * from_rows)
        self._single: list[Tensor] = []
        exact = gram.counts.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        if len(gram.counts) >= FLOAT32_ROWS and exact and size > 0:
            self._scale = size
            self._single = [(block / size).float() for block in gram.blocks]
            sums = min(float(absolute.max()), k * size) * k
            self._single_error = 2 * self._quadratic * (_BLOCK + 8) * torch.finfo(torch.float32).eps / 2 * sums

    def counts(self, chosen: Tensor) -> Tensor:
        """Multiplicity of each distinct row among the chosen rows (N, b), bool."""
        empty = self._mean.new_zeros(len(self._mean), chosen.shape[1])
        return empty.index_add_(0, self._gram.place, chosen.to(empty.device, empty.dtype))

    def values(self, counts: Tensor) -> Tensor:
        """T of the splits given by the columns of :meth:`counts`."""
        return self._value(counts, self._gram.blocks)

    def compared(self, counts: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """T of the splits, and which are at least ``observed``: in float32 first, in float64 where that is not
        decisive."""
        if not self._single:
            values = self.values(counts)
        else:
            values = self._value(counts, self._single)
            unclear = ((values - observed).abs() <= self._single_error + self.tolerance).nonzero().squeeze(1)
            values[unclear] = self.values(counts[:, unclear])
        return values, values >= observed - self.tolerance

    def _value(self, counts: Tensor, blocks: list[Tensor]) -> Tensor:
        halves = counts.to(blocks[0].dtype)
        within = torch.zeros_like(counts[0])
        for above, block in zip(_slices(0, len(counts), _BLOCK), blocks):
            if block.dtype == counts.dtype:
                ahead = block @ halves[above.start :]
            else:  # float32 sums of at most one block of terms
                ahead = torch.zeros_like(counts[above])
                for j in _slices(above.start, len(counts), _BLOCK):
                    ahead += block[:, j.start - above.start : j.stop - above.start] @ halves[j]
            within += (counts[above] * ahead).sum(0)
        if blocks is self._single:
            within *= self._scale
        value = self._quadratic * within + self._constant
        if self._linear:
            value += self._linear * (self._mean @ counts - self._chosen * self._grand)
        return value
