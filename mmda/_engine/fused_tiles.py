"""The kernel sums as one Triton program per block of rows: products, kernel values and gradients stay on the chip.

Each program keeps a block of rows and its gradient in registers and passes over all columns, as attention kernels do.
Only the inputs are read and only sums and gradients are written: no pair of rows reaches the device's memory. Imported
only where Triton is needed; see :mod:`mmda._engine.fused`.
"""

# Triton reads the source of its functions, so annotations must be what they seem: no postponed evaluation here.

import triton
import triton.language as tl

GAUSSIAN = tl.constexpr(0)
LAPLACIAN = tl.constexpr(1)
ENERGY = tl.constexpr(2)


@triton.jit
def _values(t, KIND: tl.constexpr, STEPS: tl.constexpr):
    """k and dk/dt, over their factors, at t = -|z_i - z_j|^2 <= 0; the steps of :class:`KernelSteps`."""
    value = tl.zeros_like(t)
    slope = tl.zeros_like(t)
    if KIND == GAUSSIAN or KIND == LAPLACIAN:  # noqa: SIM109 - Triton knows no tuples here
        inverse = tl.zeros_like(t)
        at = t
        if KIND == LAPLACIAN:
            inverse = tl.where(t < 0, tl.rsqrt(-t), 0.0)
            at = t * inverse  # minus the distance
        for k in tl.static_range(len(STEPS)):
            if STEPS[k][0] != 0.0:  # as in the first step
                e = tl.exp2(at * STEPS[k][0])
            else:
                e = e * e
            value += e * STEPS[k][1]
            slope += e * STEPS[k][2]
        if KIND == LAPLACIAN:
            slope *= inverse
    elif KIND == ENERGY:
        slope = tl.where(t < 0, tl.rsqrt(-t), 0.0)
        value = -t * slope
    else:
        for k in tl.static_range(len(STEPS)):
            base = 1.0 / (1.0 - t * STEPS[k][0])
            value += base
            slope += base * base * STEPS[k][2]
    return value, slope


@triton.jit
def kernel_rows(
    z,
    norms,
    left,
    right,
    row_values,
    row_slopes,
    gradient,
    row_near,
    n,
    total,
    d,
    chunk,
    share,
    within_x,
    across,
    within_y,
    q,
    KIND: tl.constexpr,
    STEPS: tl.constexpr,
    RANK: tl.constexpr,  # of C per pair of samples: 0 constant, 1 row weights, otherwise padded q
    GRADIENT: tl.constexpr,
    LOOK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    WHOLE: tl.constexpr,  # whether d <= BD
    PRECISION: tl.constexpr,
):
    """A block of rows against one chunk of the columns, with BD columns of the gradient.

    Writes, for chunk s and row i, over the columns j != i of the chunk: ``row_values[s, g, i]``, the sum of k_ij (times
    right_j, or C_ij) over the columns of sample g; ``row_slopes[s, i]``, the sum of C_ij k'_ij; ``gradient[s, i]``, the
    sum of C_ij k'_ij z_j; ``row_near[s, i]``, the number of near pairs. Without ``GRADIENT`` only columns j > i.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    here = rows < total
    dims = tl.program_id(2) * BD + tl.arange(0, BD)
    wide = rows.to(tl.int64)
    if WHOLE:
        z_i = tl.load(z + wide[:, None] * d + dims[None, :], mask=here[:, None] & (dims[None, :] < d), other=0.0)
    norm_i = tl.load(norms + rows, mask=here, other=0.0)
    slopes = tl.zeros([BM], tl.float32)
    total_gradient = tl.zeros([BM, BD], tl.float32)
    near = tl.zeros([BM], tl.int32)
    chunk_start = split * chunk
    chunk_stop = tl.minimum(chunk_start + chunk, total)
    if not GRADIENT:
        chunk_start = tl.maximum(chunk_start, tl.program_id(0) * BM)
    for group in range(2):  # not unrolled
        start = tl.maximum(chunk_start, group * n)
        stop = tl.minimum(chunk_stop, n + group * (total - n))
        own = tl.where(group == 0, within_x, within_y)
        factor = tl.where((rows < n) == (group == 0), own, across)
        values = tl.zeros([BM], tl.float64)
        if RANK == 1:
            factor = tl.load(left + wide * 2 + group, mask=here, other=0.0)
        if RANK > 1:
            ranks = tl.arange(0, RANK)
            left_i = tl.load(
                left + wide[:, None] * (2 * q) + group * q + ranks[None, :],
                mask=here[:, None] & (ranks[None, :] < q),
                other=0.0,
            )
        for first in range(start, stop, BN):
            columns = first + tl.arange(0, BN)
            there = columns < stop
            far = columns.to(tl.int64)
            if WHOLE:
                z_j = tl.load(
                    z + far[:, None] * d + dims[None, :], mask=there[:, None] & (dims[None, :] < d), other=0.0
                )
                products = tl.dot(z_i, tl.trans(z_j), input_precision=PRECISION)
            else:
                products = tl.zeros([BM, BN], tl.float32)
                for begin in range(0, d, BD):
                    some = begin + tl.arange(0, BD)
                    a = tl.load(
                        z + wide[:, None] * d + some[None, :], mask=here[:, None] & (some[None, :] < d), other=0.0
                    )
                    b = tl.load(
                        z + far[None, :] * d + some[:, None], mask=there[None, :] & (some[:, None] < d), other=0.0
                    )
                    products = tl.dot(a, b, products, input_precision=PRECISION)
            norm_j = tl.load(norms + columns, mask=there, other=0.0)
            bound = norm_i[:, None] + norm_j[None, :]
            t = products * 2.0 + bound
            if GRADIENT:
                counted = there[None, :] & (rows[:, None] != columns[None, :])
            else:
                counted = there[None, :] & (rows[:, None] < columns[None, :])
            if LOOK:
                near += tl.sum((counted & here[:, None] & (t > bound * share)).to(tl.int32), 1)
            t = tl.where(t > 0.0, 0.0, t)  # unlike a minimum, keeps NaN
            value, slope = _values(t, KIND, STEPS)
            if RANK == 1:
                right_j = tl.load(right + columns, mask=there, other=0.0)
                value *= right_j[None, :]
                slope *= right_j[None, :]
            if RANK > 1:
                right_j = tl.load(
                    right + far[:, None] * q + ranks[None, :],
                    mask=there[:, None] & (ranks[None, :] < q),
                    other=0.0,
                )
                pairs = tl.dot(left_i, tl.trans(right_j), input_precision=PRECISION)
                value *= pairs
                slope *= pairs
            values += tl.sum(tl.where(counted, value, 0.0), 1).to(tl.float64)
            if GRADIENT:
                slope = tl.where(counted, slope, 0.0)
                if RANK < 2:
                    slope *= factor[:, None]
                slopes += tl.sum(slope, 1)
                if not WHOLE:
                    z_j = tl.load(
                        z + far[:, None] * d + dims[None, :], mask=there[:, None] & (dims[None, :] < d), other=0.0
                    )
                total_gradient = tl.dot(slope, z_j, total_gradient, input_precision=PRECISION)
        tl.store(row_values + (split * 2 + group) * total + rows, values, mask=here)
    if GRADIENT:
        place = split.to(tl.int64) * total
        tl.store(row_slopes + place + rows, slopes, mask=here)
        tl.store(
            gradient + (place + wide)[:, None] * d + dims[None, :],
            total_gradient,
            mask=here[:, None] & (dims[None, :] < d),
        )
    if LOOK:
        tl.store(row_near + split * total + rows, near, mask=here)
