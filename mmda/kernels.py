r"""Kernels on squared distances, and the bandwidth heuristics.

A kernel is a small immutable object passed to a loss: ``mmd_loss(x, y, kernel=Gaussian(2.0))``. It has two methods:
``evaluate`` maps squared distances to similarities, ``settle`` sets the bandwidth from a pooled sample. Several scales
are averaged, so every bounded kernel here has k(x, x) = 1 for any number of scales.

Bandwidths are distances. Other libraries parametrise the Gaussian differently; with :math:`\sigma` as here, ``gamma``
in :math:`\exp(-\gamma d^2)` is :math:`1 / (2 \sigma^2)`, and a "bandwidth" :math:`h` in :math:`\exp(-d^2 / h)` is
:math:`2 \sigma^2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmda._core.checks import (
    check_choice,
    check_features,
    check_number,
    check_same_width,
    check_sequence,
    check_weight,
    fail,
    shape_text,
)
from mmda._core.draws import fixed_bits
from mmda._core.hints import hint_settings, unknown_name
from mmda._core.masking import full_precision, safe_divide, working_dtype, zero_padding
from mmda._core.transforms import values_are_known

Bandwidth = Literal["median", "mean"] | float | Tensor

#: The five factors on the squared bandwidth that are common in domain adaptation.
FIVE_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)

#: For larger pooled samples the "median" bandwidth is computed on a fixed subsample of this size.
MEDIAN_ROWS = 512


@runtime_checkable
class Kernel(Protocol):
    """Interface of a kernel."""

    def settle(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """The bandwidth for these pooled rows ``(n, d)`` and row weights ``(n,)``: a scalar tensor.

        A bandwidth computed from the rows is detached; a tensor given to the kernel is returned with its gradient.
        """
        ...

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        """Similarities at these squared distances."""
        ...

    @property
    def at_zero(self) -> float:
        """k(x, x)."""
        ...


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    r"""Squared Euclidean distances between rows, accurate in float32 far from the origin.

    .. math:: D_{ij} = \lVert x_i - y_j \rVert^2

    computed as :math:`\lVert x_i \rVert^2 + \lVert y_j \rVert^2 - 2 x_i \cdot y_j` about the pooled mean where that is
    accurate; otherwise in float64, with pairs that are much closer to each other than to the mean computed from their
    difference. So neither a common offset nor distant rows or clusters reduce the accuracy, and equal rows have
    distance exactly zero.

    Args:
        x: rows.
        y: other rows; ``x`` itself by default.

    Shape:
        ``x`` (n, d), ``y`` (m, d); result (n, m).

    Returns:
        Distances >= 0, float32 or wider.

    Raises:
        ValueError: not two-dimensional, or different widths.

    Notes:
        O(n m d) time, O(n m) memory. Derivatives of any order are those of the exact expression.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    check_features("squared_distances", "x", x)
    if y is not None:
        check_features("squared_distances", "y", y)
        check_same_width("squared_distances", "x", x, "y", y)
    with full_precision(x):
        dtype = working_dtype(x) if y is None else working_dtype(x, y)
        a = x.to(dtype)
        b = a if y is None else y.to(dtype)
        n, m = a.shape[0], b.shape[0]
        centre = (a.mean(0) if y is None else (a.sum(0) + b.sum(0)) / (n + m)).detach()
        return distances_about(centre, a, b, same=y is None)


def distances_about(centre: Tensor | None, a: Tensor, b: Tensor, *, same: bool = False) -> Tensor:
    """:func:`squared_distances` of rows ``a`` (..., n, d) and ``b`` (..., m, d) in their working dtype, or of batches.

    ``centre`` (d,) is any point near most rows, the origin by default; ``same`` means that ``b`` is ``a``.
    """
    traced = not values_are_known(a, b)
    if a.dtype == torch.float32 and not traced:
        raw, bound, *_ = _by_products(centre, a, b, same)
        values = raw.detach()
        if same:  # changes only the value, here and below: the gradient of |x - y|^2 is already exact
            values.diagonal(dim1=-2, dim2=-1).zero_()
        if not bool(_near_pairs(values, bound.detach().mul_(NEAR_FLOAT32), same).any()):
            return raw
    raw, bound, left, right = _by_products(centre, a.double(), b.double(), same)
    near = NEAR_WIDENED if a.dtype == torch.float32 else NEAR
    correct = near_correction if traced else _near_correction
    correction = correct(raw.detach(), bound.detach(), left.detach(), right.detach(), near, same)
    return (raw if correction is None else raw + correction).to(a.dtype)


def _by_products(centre: Tensor | None, a: Tensor, b: Tensor, same: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squared distances, sums of squared lengths, and the centred rows."""
    a = a if centre is None else a - centre
    b = a if same else b if centre is None else b - centre
    a_squares = a.square().sum(-1)
    b_squares = a_squares if same else b.square().sum(-1)
    bound = a_squares.unsqueeze(-1) + b_squares.unsqueeze(-2)
    products = torch.addmm if a.ndim == 2 else torch.baddbmm
    return products(bound, a, b.mT, alpha=-2), bound, a, b


#: A pair is near if its squared distance is below this fraction of the sum of its squared lengths. Without near pairs,
#: float32 products are accurate enough (4e-4 in the worst pair, 1e-7 in most). Otherwise products are computed in
#: float64, accurate to 1e-5 or better, and near pairs are recomputed as squared differences.
NEAR_FLOAT32, NEAR_WIDENED, NEAR = 1e-3, 1e-10, 1e-7
#: Number of elements in the differences computed at once.
_AT_ONCE = 1 << 22


def _near_pairs(raw: Tensor, limits: Tensor, same: bool) -> Tensor:
    """Mask of near pairs, without pairs of a row and itself."""
    places = raw < limits
    if same:
        places.diagonal(dim1=-2, dim2=-1).fill_(False)
    return places


def _near_correction(raw: Tensor, bound: Tensor, a: Tensor, b: Tensor, near: float, same: bool) -> Tensor | None:
    """The correction of the squared distances ``raw`` at near pairs; None if there are none."""
    *batch, i, j = _near_pairs(raw, near * bound, same).nonzero(as_tuple=True)
    if i.shape[0] == 0 and not same:
        return None
    correction = torch.zeros_like(raw)
    if same:
        own = raw.diagonal(dim1=-2, dim2=-1)
        correction.diagonal(dim1=-2, dim2=-1).copy_(own.neg())
    step = max(_AT_ONCE // a.shape[-1], 1)
    for start in range(0, i.shape[0], step):
        part = [index[start : start + step] for index in (*batch, i, j)]
        pairs, of_a, of_b = tuple(part), tuple(part[:-1]), (*part[:-2], part[-1])
        correction[pairs] = (a[of_a] - b[of_b]).square().sum(-1) - raw[pairs]
    return correction


@torch.library.custom_op("mmda::near_correction", mutates_args=())
def near_correction(raw: Tensor, bound: Tensor, a: Tensor, b: Tensor, near: float, same: bool) -> Tensor:
    """:func:`_near_correction` as one operator for compiled graphs and function transforms; always a tensor."""
    found = _near_correction(raw, bound, a, b, near, same)
    return torch.zeros_like(raw) if found is None else found


@near_correction.register_fake
def _(raw: Tensor, bound: Tensor, a: Tensor, b: Tensor, near: float, same: bool) -> Tensor:
    return torch.empty_like(raw)


@near_correction.register_vmap
def _(
    info: object,
    in_dims: tuple[int | None, ...],
    raw: Tensor,
    bound: Tensor,
    a: Tensor,
    b: Tensor,
    near: float,
    same: bool,
) -> tuple[Tensor, int]:
    size = info.batch_size  # type: ignore[attr-defined]
    raw, bound, a, b = (
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0) for t, dim in zip((raw, bound, a, b), in_dims)
    )
    return near_correction(raw, bound, a, b, near, same), 0


def safe_sqrt(squared: Tensor) -> Tensor:
    """Square root with gradient zero, not infinite, at zero. NaN stays NaN."""
    return safe_power(squared, 0.5)


def safe_power(squared: Tensor, exponent: float) -> Tensor:
    """Power of squared distances with zero gradient at zero."""
    nothing = squared <= 0
    base = torch.where(nothing, torch.ones((), dtype=squared.dtype, device=squared.device), squared)
    power = base.sqrt() if exponent == 0.5 else base**exponent
    return torch.where(nothing, torch.zeros((), dtype=squared.dtype, device=squared.device), power)


def mean_bandwidth(rows: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Root mean squared distance between different rows: closed form, O(n d).

    .. math:: \sigma^2 = \frac{1}{n (n - 1)} \sum_{i \ne j} \lVert x_i - x_j \rVert^2
              = \frac{2}{n - 1} \sum_i \lVert x_i - \bar x \rVert^2

    Args:
        rows: pooled sample.
        weight: row weights: 2 counts a row twice, 0 leaves it out.

    Shape:
        ``rows`` (n, d), ``weight`` (n,); result a scalar.

    Returns:
        Detached scalar > 0; 1 if all rows coincide (or one row is left), so that the kernel is defined. A permutation
        of the rows changes it only by rounding, a few units in the last place.

    Raises:
        ValueError: ``rows`` is not two-dimensional.

    Example:
        >>> mean_bandwidth(torch.tensor([[0.0], [3.0]])).item()
        3.0
    """
    check_features("mean_bandwidth", "rows", rows)
    if weight is not None:
        check_weight("mean_bandwidth", "weight", weight, rows.shape[:1], device=rows.device)
        weight = weight.to(working_dtype(rows))
    with full_precision(rows):
        x = _from_first(rows.detach().to(working_dtype(rows)), weight)
        top = _defined(x.abs().amax())  # avoids overflow and underflow of squares in float32
        x = x / top
        if weight is None:
            squares = (x - x.mean(0)).square().sum()
            pairs = torch.full((), float(max(x.shape[0] - 1, 1)), dtype=x.dtype, device=x.device)
        else:
            w = weight.detach().to(x.dtype)
            total = w.sum()
            centre = safe_divide(w @ x, total)
            squares = ((x - centre).square() * w.unsqueeze(1)).sum()
            pairs = total - 1
        return _defined(safe_divide(2 * squares, pairs).sqrt() * top)


def median_bandwidth(rows: Tensor, weight: Tensor | None = None) -> Tensor:
    """Median distance between different rows (the mean of the two middle ones for an even number).

    Args:
        rows: pooled sample.
        weight: row weights: 2 counts a row twice, 0 leaves it out.

    Shape:
        ``rows`` (n, d), ``weight`` (n,); result a scalar.

    Returns:
        Detached scalar > 0; 1 if the median is zero (more than half of the pairs coincide) or no pair is left.

    Raises:
        ValueError: ``rows`` is not two-dimensional.

    Notes:
        Distances are norms of differences, so offsets and distant rows do not reduce the accuracy. Up to 512 rows
        (``MEDIAN_ROWS``) the result is exact and bitwise independent of the order of the rows. For more rows a fixed
        subsample of 512 is used, chosen by position: memory is bounded and the result deterministic, but a permutation
        of the rows changes it slightly. Rows of weight 0 are chosen last.

    Example:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0], [5.0]])).item()
        4.0

    References:
        Garreau, Jitkrittum & Kanagawa, "Large sample analysis of the median heuristic" (2017), section 2.
    """
    check_features("median_bandwidth", "rows", rows)
    if weight is not None:
        check_weight("median_bandwidth", "weight", weight, rows.shape[:1], device=rows.device)
        weight = weight.to(working_dtype(rows))
    with full_precision(rows):
        x = rows.detach().to(working_dtype(rows))
        w = None if weight is None else weight.detach()
        return _median_distance(x, w) if values_are_known(x, w) else median_distance(x, w)


def _median_distance(x: Tensor, weight: Tensor | None) -> Tensor:
    if x.shape[0] > MEDIAN_ROWS:
        chosen = _subsample(x.shape[0], weight, MEDIAN_ROWS, x.device)
        x, weight = x[chosen], None if weight is None else weight[chosen]
    if x.shape[0] < 2:
        return x.new_ones(())
    if weight is not None:  # rows of weight zero must not affect the result
        first = (weight > 0).to(x.dtype).argmax().reshape(1, 1).expand(1, x.shape[1])
        x = torch.where((weight > 0).unsqueeze(1), x, x.gather(0, first))
    # Scaling by a power of two, which is exact, avoids overflow and underflow of squares. Most samples need none.
    spread = (x.amax(0) - x.amin(0)).amax()
    if x.device.type == "cpu" and 1e-9 < float(spread) < 1e9:
        value = _middle_distance(x, weight)
        if float(value) > 1e-9:
            return value
    exponent = torch.frexp(spread).exponent - _SPREAD[x.dtype]
    value = _defined(torch.ldexp(_middle_distance(torch.ldexp(x, -exponent), weight), exponent))
    return torch.where(spread.isnan(), spread, value)  # the median ignores NaN


def _middle_distance(x: Tensor, weight: Tensor | None) -> Tensor:
    pairs = torch.nn.functional.pdist(x)
    low, high = _middle(pairs) if weight is None else _middle_of_counts(pairs, weight.double())
    return (low + high) / 2


@torch.library.custom_op("mmda::median_distance", mutates_args=())
def median_distance(x: Tensor, weight: Tensor | None) -> Tensor:
    """:func:`_median_distance` as one operator for compiled graphs and function transforms, for any number of rows."""
    return _median_distance(x, weight)


@median_distance.register_fake
def _(x: Tensor, weight: Tensor | None) -> Tensor:
    return x.new_empty(())


@median_distance.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor | None) -> tuple[Tensor, int]:
    size = info.batch_size  # type: ignore[attr-defined]
    xs, weights = (
        [None if t is None else t if dim is None else t.select(dim, k) for k in range(size)]
        for t, dim in zip((x, weight), in_dims)
    )
    return torch.stack([median_distance(*both) for both in zip(xs, weights)]), 0


#: Exponent to which the spread of a sample is scaled: sums of a hundred thousand squares stay in range, and so do
#: squared distances down to the precision of the dtype.
_SPREAD = {torch.float32: 50, torch.float64: 490}


def _middle(values: Tensor) -> tuple[Tensor, Tensor]:
    """The two middle values (twice the middle one for an odd number), by selection: several times faster than
    sorting."""
    low = values.median()
    if values.shape[0] % 2:
        return low, low
    above = torch.where(values > low, values, torch.full((), torch.inf, dtype=values.dtype, device=values.device))
    repeated = (values <= low).sum() > values.shape[0] // 2
    return low, torch.where(repeated, low, above.amin())


def _middle_of_counts(pairs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The middle distances of the pairs i < j, where row i counts as ``weight[i]`` equal rows."""
    upper = torch.triu_indices(weight.shape[0], weight.shape[0], offset=1, device=weight.device)
    ordered, order = pairs.sort()
    # w (w - 1) / 2 pairs at distance zero among the copies of each row
    zeros = (weight * (weight - 1).clamp(min=0)).sum() / 2
    reached = (weight[upper[0]] * weight[upper[1]])[order].cumsum(0) + zeros
    half = reached[-1] / 2
    slack = half * 4 * torch.finfo(pairs.dtype).eps
    ordered = torch.cat((ordered.new_zeros(1), ordered))
    reached = torch.cat((zeros.reshape(1), reached))
    last = ordered.shape[0] - 1
    # gather, because indexing with a scalar tensor would synchronise with the host
    low = ordered.gather(0, (reached < half - slack).sum(0, keepdim=True).clamp(max=last)).squeeze(0)
    high = ordered.gather(0, (reached <= half + slack).sum(0, keepdim=True).clamp(max=last)).squeeze(0)
    nothing = torch.zeros_like(low)
    return torch.where(half > 0, low, nothing), torch.where(half > 0, high, nothing)


def _defined(sigma: Tensor) -> Tensor:
    """The bandwidth, or 1 if it is zero, so that constant batches have value and gradient 0. NaN stays NaN."""
    return torch.where(sigma <= 0, torch.ones_like(sigma), sigma)


def _from_first(x: Tensor, weight: Tensor | None) -> Tensor:
    """Rows minus the first row of nonzero weight. Equal rows become exact zeros, unlike after subtracting the mean.

    Rows of weight zero become zeros.
    """
    if weight is None:
        return x - x[:1]
    counts = weight > 0
    first = counts.to(x.dtype).argmax().reshape(1, 1).expand(1, x.shape[1])
    return zero_padding(x - x.gather(0, first), counts)


def _subsample(n: int, weight: Tensor | None, size: int, device: torch.device) -> Tensor:
    """``size`` distinct indices out of 0 .. n - 1, fixed, without random state.

    The choice depends on a row's position among the rows of nonzero weight, so padding does not change it.
    """
    key = fixed_bits(n, device)
    if weight is not None:
        counts = weight > 0
        key = torch.where(counts, key.gather(0, (counts.cumsum(0) - 1).clamp(min=0)), torch.full_like(key, 2**32))
    return key.topk(size, largest=False).indices


class Distances(Tensor):
    """Squared distances on which the engine records a user's kernel; a formula called by it is recorded as one step."""

    def evaluate(self, formula: Formula) -> Tensor:
        """The formula's values here."""
        raise NotImplementedError


class Formula(NamedTuple):
    r"""A kernel's formula as plain numbers, a function of q = :math:`\lVert x - y \rVert^2` over the squared bandwidth.

    The tiles and compiled loops of the engine use the same numbers as :meth:`evaluate`. The formula is the mean over
    the rates r of

    * ``"gaussian"``: :math:`e^{-r q}`;
    * ``"laplacian"``: :math:`e^{-r \sqrt q}`;
    * ``"rational_quadratic"``: :math:`(1 + r q)^{-a}`, a the exponent;

    or for ``"distance"`` :math:`-q^{a / 2}`, without rates.
    """

    kind: str
    rates: tuple[float, ...] = ()
    exponent: float = 1.0

    def evaluate(self, q: Tensor) -> Tensor:
        """The kernel's values."""
        if isinstance(q, Distances):
            return q.evaluate(self)
        if self.kind == "distance":
            return -safe_power(q, self.exponent / 2)
        if self.kind == "rational_quadratic":
            values = [(1 + rate * q) ** -self.exponent for rate in self.rates]
        else:
            base = q if self.kind == "gaussian" else safe_sqrt(q)
            values = [torch.exp(base * -rate) for rate in self.rates]
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total / len(values) if len(values) > 1 else total

    @property
    def at_zero(self) -> float:
        """k(x, x)."""
        return 0.0 if self.kind == "distance" else 1.0


def formula_of(kernel: Kernel) -> Formula | None:
    """The formula of a built-in kernel; None for a kernel that overrides ``evaluate``."""
    return kernel._formula if is_built_in(kernel) else None  # type: ignore[attr-defined]


def is_built_in(kernel: Kernel) -> bool:
    """Whether :func:`formula_of` knows the kernel."""
    replaced = "evaluate" in getattr(kernel, "__dict__", ())  # set on this object
    return not replaced and getattr(type(kernel), "evaluate", None) in (_Radial.evaluate, Energy.evaluate)


def settle_bandwidth(kernel: Kernel, x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None) -> Tensor:
    """The kernel's bandwidth for the pooled sample; rows are in their working dtype."""
    if is_built_in(kernel) and not isinstance(getattr(kernel, "bandwidth", None), str):
        return kernel.settle(x)  # a number or a tensor, independent of the sample
    pooled = torch.cat([x.detach(), y.detach()])
    if x_weight is None and y_weight is None:
        return kernel.settle(pooled)
    weights = [rows.new_ones(rows.shape[0]) if w is None else w.detach() for rows, w in ((x, x_weight), (y, y_weight))]
    return kernel.settle(pooled, torch.cat(weights))


class _Radial:
    """Base of the kernels with a bandwidth: heuristics, scales and repr."""

    at_zero = 1.0

    def __init__(self, bandwidth: Bandwidth = "median", *, scales: Sequence[float] = FIVE_SCALES) -> None:
        name = type(self).__name__
        if isinstance(bandwidth, str):
            check_choice(name, "bandwidth", bandwidth, ("median", "mean"))
        elif isinstance(bandwidth, Tensor):
            if bandwidth.ndim != 0:
                fail(name, "bandwidth", "be a scalar tensor", shape_text(bandwidth))
        else:
            check_number(name, "bandwidth", bandwidth, above=0)
        self.bandwidth = bandwidth
        check_sequence(name, "scales", scales, "factor")
        factors = [scale.item() if hasattr(scale, "item") else scale for scale in scales]
        for scale in factors:
            check_number(name, "scales", scale, above=0)
        self.scales = tuple(float(s) for s in factors)

    def settle(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """The bandwidth for these pooled rows: as given, or from the named heuristic and detached."""
        if isinstance(self.bandwidth, Tensor):
            return self.bandwidth.to(device=rows.device, dtype=working_dtype(rows))
        if self.bandwidth == "median":
            return median_bandwidth(rows, weight)
        if self.bandwidth == "mean":
            return mean_bandwidth(rows, weight)
        return rows.new_full((), self.bandwidth, dtype=working_dtype(rows))

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        """Mean over the scales of the single-scale kernel."""
        # Divided twice, because the squared bandwidth could overflow or underflow float32.
        return self._formula.evaluate(squared / bandwidth / bandwidth)

    @property
    def _formula(self) -> Formula:
        """The kernel at a bandwidth of one."""
        raise NotImplementedError

    def _options(self) -> tuple[object, ...]:
        return (self.bandwidth, self.scales)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        if isinstance(self.bandwidth, Tensor) or isinstance(other.bandwidth, Tensor):
            return self is other
        return self._options() == other._options()

    def __hash__(self) -> int:
        return hash((type(self), str(self.bandwidth), self.scales))

    def __repr__(self) -> str:
        shown = f"{self.bandwidth:g}" if isinstance(self.bandwidth, (int, float)) else repr(self.bandwidth)
        scales = ", ".join(f"{s:g}" for s in self.scales)
        return f"{type(self).__name__}(bandwidth={shown}, scales=({scales}{',' if len(self.scales) == 1 else ''}))"


class Gaussian(_Radial):
    r"""Gaussian kernel, averaged over several bandwidths.

    .. math:: k(x, y) = \frac{1}{|S|} \sum_{s \in S} \exp\left(-\frac{\lVert x - y \rVert^2}{2 s \sigma^2}\right)

    Args:
        bandwidth: :math:`\sigma`, a distance: a number, a scalar tensor (may require a gradient), ``"median"``
            (:func:`median_bandwidth`) or ``"mean"`` (:func:`mean_bandwidth`) of the pooled sample.
        scales: S, factors on :math:`\sigma^2`; ``(1.0,)`` is the single Gaussian.

    Raises:
        ValueError: a bandwidth or scale that is not positive, an unknown heuristic.

    Example:
        >>> Gaussian(2.0, scales=(1.0,))
        Gaussian(bandwidth=2, scales=(1,))
    """

    @property
    def _formula(self) -> Formula:
        return Formula("gaussian", tuple(0.5 / scale for scale in self.scales))


class Laplacian(_Radial):
    r"""Laplacian kernel on the Euclidean distance, averaged over several bandwidths.

    .. math:: k(x, y) = \frac{1}{|S|} \sum_{s \in S} \exp\left(-\frac{\lVert x - y \rVert}{\sqrt{s} \sigma}\right)

    It is not differentiable at coinciding points; the gradient there is zero.

    Args:
        bandwidth: :math:`\sigma`, a distance: a number, a scalar tensor, ``"median"`` or ``"mean"``.
        scales: S, factors on :math:`\sigma^2`.

    Raises:
        ValueError: a bandwidth or scale that is not positive, an unknown heuristic.

    Example:
        >>> Laplacian(scales=(1.0,)).evaluate(torch.tensor(4.0), torch.tensor(2.0)).item()  # exp(-1)
        0.3678794503211975
    """

    @property
    def _formula(self) -> Formula:
        return Formula("laplacian", tuple(scale**-0.5 for scale in self.scales))


class RationalQuadratic(_Radial):
    r"""Rational quadratic kernel, averaged over several bandwidths.

    .. math:: k(x, y) = \frac{1}{|S|} \sum_{s \in S}
              \left(1 + \frac{\lVert x - y \rVert^2}{2 \alpha s \sigma^2}\right)^{-\alpha}

    Args:
        bandwidth: :math:`\sigma`, a distance: a number, a scalar tensor, ``"median"`` or ``"mean"``.
        alpha: tail weight, > 0; the Gaussian is the limit of large alpha.
        scales: S, factors on :math:`\sigma^2`.

    Raises:
        ValueError: a bandwidth, scale or alpha that is not positive, an unknown heuristic.

    Example:
        >>> RationalQuadratic(alpha=1.0).evaluate(torch.tensor(2.0), torch.tensor(1.0)).item() < 1
        True

    References:
        Rasmussen & Williams, "Gaussian Processes for Machine Learning" (2006), equation 4.19.
    """

    def __init__(
        self, bandwidth: Bandwidth = "median", *, alpha: float = 1.0, scales: Sequence[float] = FIVE_SCALES
    ) -> None:
        super().__init__(bandwidth, scales=scales)
        check_number(type(self).__name__, "alpha", alpha, above=0)
        self.alpha = float(alpha)

    @property
    def _formula(self) -> Formula:
        return Formula("rational_quadratic", tuple(0.5 / (self.alpha * s) for s in self.scales), self.alpha)

    def _options(self) -> tuple[object, ...]:
        return (*super()._options(), self.alpha)

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"(alpha={self.alpha:g}, ", 1)


class Energy:
    r"""Negative distance, :math:`k(x, y) = -\lVert x - y \rVert`: conditionally positive definite, without a bandwidth.

    The squared MMD with it is the energy distance
    :math:`2 E\lVert X-Y\rVert - E\lVert X-X'\rVert - E\lVert Y-Y'\rVert`.

    Example:
        >>> Energy().evaluate(torch.tensor(9.0), torch.tensor(1.0)).item()
        -3.0

    References:
        Sejdinovic et al., "Equivalence of distance-based and RKHS-based statistics", Annals of Statistics 41
        (2013), theorem 22.
    """

    at_zero = 0.0
    _formula = Formula("distance")

    def settle(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """Always one."""
        return torch.ones((), dtype=working_dtype(rows), device=rows.device)

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        """Minus the distance."""
        return self._formula.evaluate(squared)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return "Energy()"


__all__ = [
    "Energy",
    "Gaussian",
    "Kernel",
    "Laplacian",
    "RationalQuadratic",
    "mean_bandwidth",
    "median_bandwidth",
    "squared_distances",
]

# So that files with kernels, such as Lightning's hyper-parameters, load with ``weights_only=True``.
torch.serialization.add_safe_globals([Gaussian, Laplacian, RationalQuadratic, Energy])


def __getattr__(name: str) -> Any:
    raise unknown_name(__name__, name, ())


hint_settings((_Radial, Gaussian, Laplacian, RationalQuadratic))
