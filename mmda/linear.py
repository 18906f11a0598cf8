"""Linear maps between domains and modalities, fitted in closed form.

For paired rows of two modalities there are :class:`CCA` and :class:`Procrustes`; for unpaired samples in one space
:class:`CORALMap`, :class:`SubspaceAlignment` and :class:`Whitening`. All are fitted from means and covariances, which
:class:`Moments` and :class:`PairMoments` accumulate batch by batch in float64, so a fit takes O(n d^2) time and O(d^2)
memory for any n.

A map is an ``nn.Module`` without parameters. Its fitted values are float64 buffers, saved in the ``state_dict`` and
moved by ``to``; gradients flow through the map. It computes in the dtype of the buffers and returns that of its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mmda._core.checks import (
    check_choice,
    check_count,
    check_floating,
    check_number,
    check_same_device,
    check_same_width,
    check_values,
    fail,
)
from mmda._core.masking import full_precision, safe_divide
from mmda._core.module_checks import check_at_weights
from mmda._core.rows import as_rows

#: Rows converted to float64 at a time.
_CHUNK = 1 << 15


class Moments(nn.Module):
    r"""Count, mean and covariance of weighted rows, accumulated over batches.

    .. math:: W = \sum_i w_i, \qquad \mu = \frac{1}{W} \sum_i w_i x_i, \qquad
              C = \frac{1}{W} \sum_i w_i (x_i - \mu)(x_i - \mu)^\top

    Batches are merged about their own means (Chan, Golub & LeVeque), which is accurate for features far from zero.

    Args:
        width: d, number of features.

    Raises:
        ValueError: a width below 1.

    Notes:
        O(n d^2) time, O(d^2) memory plus a chunk of the rows.

    Example:
        >>> x = torch.randn(100, 3)
        >>> moments = Moments(3).update(x[:60]).update(x[60:])
        >>> torch.allclose(moments.covariance, torch.cov(x.double().T, correction=0))
        True

    References:
        Chan, Golub & LeVeque, "Algorithms for Computing the Sample Variance", The American Statistician 37 (1983).
    """

    total: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        check_count("Moments", "width", width)
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(width, width, dtype=torch.float64))

    @property
    def covariance(self) -> Tensor:
        """C (d, d); zeros before the first row."""
        return safe_divide(self.scatter, self.total)

    @torch.no_grad()
    def update(self, x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Moments:
        """Add rows ``(n, d)``, or with a mask ``(b, t, d)``, and return self.

        Args:
            x: features.
            weight: row weights, (n,) or (b, t).
            mask: bool, True = keep. Padding may hold anything.

        Raises:
            ValueError: rows of another width, wrong shapes.
            TypeError: features that are not floating point, a mask that is not bool.
        """
        with full_precision(x):
            rows, counts = as_rows("Moments.update", "x", x, mask=mask, weight=weight, dtype=x.dtype)
            check_values("Moments.update", "x", x)
            if rows.shape[1] != self.mean.shape[0]:
                fail("Moments.update", "x", f"have {self.mean.shape[0]} features", rows.shape[1])
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK].to(self.mean)
                w = torch.ones_like(part[:, 0]) if counts is None else counts[start : start + _CHUNK].to(part)
                total = w.sum()
                mean = safe_divide(w @ part, total)
                part = part - mean
                self._join(total, mean, (part * w.unsqueeze(1)).T @ part)
        return self

    @torch.no_grad()
    def merge(self, other: Moments) -> Moments:
        """Add all rows accumulated in ``other``, for example by another process, and return self.

        Raises:
            ValueError: moments of another width.
        """
        check_same_width("Moments.merge", "self", self.mean, "other", other.mean)
        self._join(other.total.to(self.total), other.mean.to(self.mean), other.scatter.to(self.scatter))
        return self

    def _join(self, total: Tensor, mean: Tensor, scatter: Tensor) -> None:
        both = self.total + total
        step = mean - self.mean
        share = safe_divide(total, both)
        self.scatter += scatter + step.outer(step) * (self.total * share)
        self.mean += step * share
        self.total.copy_(both)

    def extra_repr(self) -> str:
        return f"width={self.mean.shape[0]}, total={float(self.total):g}"


class PairMoments(nn.Module):
    """:class:`Moments` of paired rows: both means, both covariances, and the cross-covariance.

    Args:
        x_width: p, features of the first modality.
        y_width: q, features of the second modality.

    Raises:
        ValueError: a width below 1.

    Example:
        >>> x, y = torch.randn(50, 3), torch.randn(50, 2)
        >>> PairMoments(3, 2).update(x, y).xy.shape
        torch.Size([3, 2])
    """

    def __init__(self, x_width: int, y_width: int) -> None:
        super().__init__()
        check_count("PairMoments", "x_width", x_width)
        check_count("PairMoments", "y_width", y_width)
        self.x_width = x_width
        self.joint = Moments(x_width + y_width)

    def update(self, x: Tensor, y: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> PairMoments:
        """Add pairs ``(n, p)`` and ``(n, q)``, or with a mask ``(b, t, p)`` and ``(b, t, q)``, and return self.

        Args:
            x: rows of the first modality.
            y: rows of the second modality; row i belongs to row i.
            weight: pair weights.
            mask: bool, True = keep.

        Raises:
            ValueError: different numbers of rows, rows of another width, wrong shapes.
        """
        check_floating("PairMoments.update", "x", x)
        check_floating("PairMoments.update", "y", y)
        check_same_device("PairMoments.update", "x", x, "y", y)
        if x.shape[:-1] != y.shape[:-1]:
            fail("PairMoments.update", "y", f"have the rows of `x` {tuple(x.shape[:-1])}", tuple(y.shape[:-1]))
        if x.shape[-1] != self.x_width:
            fail("PairMoments.update", "x", f"have {self.x_width} features", x.shape[-1])
        self.joint.update(torch.cat([x.double(), y.double()], -1), weight=weight, mask=mask)
        return self

    def merge(self, other: PairMoments) -> PairMoments:
        """Add all pairs accumulated in ``other`` and return self."""
        self.joint.merge(other.joint)
        return self

    @property
    def total(self) -> Tensor:
        """Total weight of the pairs."""
        return self.joint.total

    @property
    def x_mean(self) -> Tensor:
        """Mean of the first modality (p,)."""
        return self.joint.mean[: self.x_width]

    @property
    def y_mean(self) -> Tensor:
        """Mean of the second modality (q,)."""
        return self.joint.mean[self.x_width :]

    @property
    def xx(self) -> Tensor:
        """Covariance of the first modality (p, p)."""
        return self.joint.covariance[: self.x_width, : self.x_width]

    @property
    def yy(self) -> Tensor:
        """Covariance of the second modality (q, q)."""
        return self.joint.covariance[self.x_width :, self.x_width :]

    @property
    def xy(self) -> Tensor:
        """Cross-covariance (p, q)."""
        return self.joint.covariance[: self.x_width, self.x_width :]


def pooled_moments(moments: Sequence[PairMoments], *, shares: Sequence[float] | None = None) -> PairMoments:
    r"""Moments of a mixture of several domains with given shares, independent of their numbers of rows.

    .. math:: \mu = \sum_k \pi_k \mu_k, \qquad C = \sum_k \pi_k (C_k + (\mu_k - \mu)(\mu_k - \mu)^\top)

    Args:
        moments: one per domain.
        shares: weights of the domains, >= 0, normalised to :math:`\pi`; equal by default.

    Returns:
        Moments of total weight 1, on the device of the first.

    Raises:
        ValueError: no domain, another number of shares, shares that sum to 0, a domain without rows.

    Example:
        >>> near, far = (PairMoments(2, 2).update(torch.randn(n, 2), torch.randn(n, 2) + 1) for n in (10, 1000))
        >>> mixed = pooled_moments([near, far])
        >>> torch.allclose(mixed.y_mean, (near.y_mean + far.y_mean) / 2)
        True
    """
    if not moments:
        fail("pooled_moments", "moments", "hold at least one domain", "none")
    chosen = [1.0] * len(moments) if shares is None else [float(share) for share in shares]
    if len(chosen) != len(moments):
        fail("pooled_moments", "shares", f"hold one number per domain ({len(moments)})", len(chosen))
    for share in chosen:
        check_number("pooled_moments", "shares", share, at_least=0)
    if sum(chosen) == 0:
        fail("pooled_moments", "shares", "have a positive sum", chosen)
    first = moments[0]
    mixed = PairMoments(first.x_width, first.y_mean.shape[0]).to(first.joint.mean.device)
    for part, share in zip(moments, chosen):
        if not part.total > 0:
            fail("pooled_moments", "moments", "have rows in every domain", "none")
        if share > 0:
            scaled = PairMoments(part.x_width, part.y_mean.shape[0]).to(part.joint.mean.device)
            weight = share / sum(chosen)
            scaled.joint.total.fill_(weight)
            scaled.joint.mean.copy_(part.joint.mean)
            scaled.joint.scatter.copy_(part.joint.covariance * weight)
            mixed.merge(scaled)
    return mixed


def symmetric_power(matrix: Tensor, power: float, *, ridge: float = 0.0) -> Tensor:
    r"""Power of a covariance matrix, as a pseudo-inverse for negative powers.

    .. math:: \Big( C + \rho \, \frac{\operatorname{tr} C}{d} I \Big)^{p}

    Args:
        matrix: C (d, d), symmetric, without negative eigenvalues.
        power: p; -0.5 whitens.
        ridge: :math:`\rho` >= 0, in units of the mean eigenvalue.

    Returns:
        (d, d) in the dtype of ``matrix``. For negative powers, directions whose eigenvalue is below :math:`d \,
        \varepsilon` times the largest are left out, as in a pseudo-inverse.

    Raises:
        ValueError: a matrix that is not square, a negative ridge.

    Notes:
        Differentiable where the eigenvalues differ.

    Example:
        >>> symmetric_power(torch.tensor([[4.0, 0.0], [0.0, 0.0]]), -0.5)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    check_floating("symmetric_power", "matrix", matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        fail("symmetric_power", "matrix", "be square", tuple(matrix.shape))
    check_number("symmetric_power", "power", power)
    check_number("symmetric_power", "ridge", ridge, at_least=0)
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values = values + ridge * matrix.diagonal().mean()
    kept = values > values[-1:].clamp(min=0) * (len(values) * torch.finfo(values.dtype).eps)
    safe = torch.where(kept, values, torch.ones_like(values))
    powers: Tensor = torch.where(kept, safe.pow(power), torch.zeros_like(safe))
    raised: Tensor = (vectors * powers) @ vectors.T
    return raised


def cca_maps(
    xx: Tensor, yy: Tensor, xy: Tensor, *, components: int, ridge: float = 0.0, scale: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Regularised canonical correlation analysis from covariance matrices.

    .. math::

       U \Sigma V^\top = \tilde C_{xx}^{-1/2} C_{xy} \tilde C_{yy}^{-1/2}, \qquad
       A = \tilde C_{xx}^{-1/2} U_k \Sigma_k^{s}, \quad B = \tilde C_{yy}^{-1/2} V_k \Sigma_k^{s}, \qquad
       \tilde C = C + \rho \, \frac{\operatorname{tr} C}{d} I

    With :math:`\rho = s = 0` the mapped modalities have unit variance and correlations :math:`\Sigma`. A scale of 1
    weights each direction by its correlation, so that inner products emphasise what both modalities share.

    Args:
        xx: :math:`C_{xx}` (p, p).
        yy: :math:`C_{yy}` (q, q).
        xy: :math:`C_{xy}` (p, q).
        components: k, limited to min(p, q).
        ridge: :math:`\rho` >= 0, in units of the mean eigenvalue of each modality.
        scale: s >= 0.

    Returns:
        A (p, k), B (q, k) and the k regularised correlations, largest first. Signs are fixed so that the largest entry
        of each column of A is positive.

    Raises:
        ValueError: shapes that do not fit, a negative ridge or scale, components below 1.

    Notes:
        O(p^3 + q^3) time. Differentiable where the correlations differ.

    Example:
        >>> x = torch.randn(500, 3, dtype=torch.float64)
        >>> y = torch.cat([x[:, :1] + 0.1 * torch.randn(500, 1), torch.randn(500, 1)], 1)
        >>> moments = PairMoments(3, 2).update(x, y)
        >>> _, _, correlations = cca_maps(moments.xx, moments.yy, moments.xy, components=1)
        >>> bool(correlations[0] > 0.98)
        True

    References:
        Hotelling, "Relations Between Two Sets of Variates", Biometrika 28 (1936); Vinod, "Canonical Ridge and
        Econometrics of Joint Production", Journal of Econometrics 4 (1976).
    """
    check_count("cca_maps", "components", components)
    check_number("cca_maps", "scale", scale, at_least=0)
    check_floating("cca_maps", "xy", xy)
    if tuple(xy.shape) != (xx.shape[0], yy.shape[0]):
        fail("cca_maps", "xy", f"have shape {(xx.shape[0], yy.shape[0])}", tuple(xy.shape))
    left, right = symmetric_power(xx, -0.5, ridge=ridge), symmetric_power(yy, -0.5, ridge=ridge)
    u, s, vh = torch.linalg.svd(left @ xy @ right, full_matrices=False)
    a, b, s = left @ u[:, :components], right @ vh[:components].T, s[:components]
    top = torch.take_along_dim(a, a.detach().abs().argmax(0, keepdim=True), 0)
    sign = torch.where(top < 0, -torch.ones_like(top), torch.ones_like(top))
    size = sign * (s**scale if scale else torch.ones_like(s))
    return a * size, b * size, s


class _Fitted(nn.Module):
    """A map with buffers set by ``fit``; ``load_state_dict`` also works on an unfitted map."""

    _names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in self._names:
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in self._names:
            came, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(came, Tensor) and came.shape != own.shape:
                setattr(self, name, own.new_zeros(came.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _set(self, **values: Tensor) -> None:
        for name, value in values.items():
            setattr(self, name, value.detach().clone())

    def _apply_map(self, argument: str, x: Tensor, mean: Tensor, matrix: Tensor, goal: Tensor | None = None) -> Tensor:
        """(x - mean) matrix [+ goal], in the dtype of ``x``."""
        caller = type(self).__name__
        check_floating(caller, argument, x)
        if not len(mean):
            raise RuntimeError(f"{caller}: call `fit` first")
        if x.ndim == 0 or x.shape[-1] != len(mean):
            fail(caller, argument, f"have {len(mean)} features", x.shape[-1] if x.ndim else "()")
        check_at_weights(caller, argument, x, mean)
        with full_precision(x):
            mapped = (x.to(mean) - mean) @ matrix
            return (mapped if goal is None else mapped + goal).to(x.dtype)


def _moments(
    caller: str, argument: str, x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Moments:
    check_floating(caller, argument, x)
    moments = Moments(x.shape[-1] if x.ndim and x.shape[-1] else 1).to(x.device).update(x, weight=weight, mask=mask)
    if not moments.total > 0:
        fail(caller, argument, "have a row of nonzero weight", "none")
    return moments


class CCA(_Fitted):
    r"""Canonical correlation analysis: maps two modalities to one space, from paired rows. Formula in :func:`cca_maps`.

    .. math:: x \mapsto (x - \mu_x) A, \qquad y \mapsto (y - \mu_y) B

    Args:
        components: width of the common space, limited to min(p, q).
        ridge: in units of each modality's mean eigenvalue; larger for fewer rows per feature. 0 is classical CCA.
        scale: power of the correlation that weights each direction: 0 for unit variance, 1 if mapped rows are compared
            by inner products or cosines.

    Shape:
        ``x`` (n, p), ``y`` (n, q), or (b, t, p) and (b, t, q) with a mask; the maps take (..., p) and (..., q).

    Raises:
        ValueError: components below 1, a negative ridge or scale; see :meth:`fit`.
        RuntimeError: a map called before ``fit``.

    Example:
        >>> z = torch.randn(400, 2)
        >>> x, y = z @ torch.randn(2, 6), z @ torch.randn(2, 5)
        >>> cca = CCA(2, ridge=0.01, scale=1.0).fit(x, y)
        >>> a, b = cca.map_x(x), cca.map_y(y)
        >>> bool((torch.cosine_similarity(a, b) > 0.9).float().mean() > 0.9)
        True

    References:
        See :func:`cca_maps`.
    """

    _names = ("x_mean", "y_mean", "x_map", "y_map", "correlations")
    x_mean: Tensor
    y_mean: Tensor
    x_map: Tensor
    y_map: Tensor
    correlations: Tensor

    def __init__(self, components: int, *, ridge: float = 0.0, scale: float = 0.0) -> None:
        super().__init__()
        check_count("CCA", "components", components)
        check_number("CCA", "ridge", ridge, at_least=0)
        check_number("CCA", "scale", scale, at_least=0)
        self.components, self.ridge, self.scale = components, ridge, scale

    def fit(self, x: Tensor, y: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> CCA:
        """Fit to pairs of rows and return self.

        Args:
            x: rows of the first modality.
            y: rows of the second modality; row i belongs to row i.
            weight: pair weights.
            mask: bool, True = keep.

        Raises:
            ValueError: sides of different numbers of rows, or no row of nonzero weight.
        """
        for name, side in (("x", x), ("y", y)):
            check_floating("CCA.fit", name, side)
            if side.ndim == 0:
                fail("CCA.fit", name, "have an axis of features", "()")
        moments = PairMoments(x.shape[-1], y.shape[-1]).to(x.device).update(x, y, weight=weight, mask=mask)
        return self.fit_moments(moments)

    @torch.no_grad()
    def fit_moments(self, *moments: PairMoments, shares: Sequence[float] | None = None) -> CCA:
        """Fit to accumulated moments, one per domain, mixed by :func:`pooled_moments`; returns self."""
        mixed = pooled_moments(moments, shares=shares)
        a, b, s = cca_maps(mixed.xx, mixed.yy, mixed.xy, components=self.components, ridge=self.ridge, scale=self.scale)
        self._set(x_mean=mixed.x_mean, y_mean=mixed.y_mean, x_map=a, y_map=b, correlations=s)
        return self

    def map_x(self, x: Tensor) -> Tensor:
        """``x`` (..., p) -> (..., k) in the common space."""
        return self._apply_map("x", x, self.x_mean, self.x_map)

    def map_y(self, y: Tensor) -> Tensor:
        """``y`` (..., q) -> (..., k) in the common space."""
        return self._apply_map("y", y, self.y_mean, self.y_map)

    def extra_repr(self) -> str:
        return f"{self.components}, ridge={self.ridge:g}, scale={self.scale:g}"


class Procrustes(_Fitted):
    r"""The orthogonal map, with a shift and optionally a scale, that aligns paired rows in least squares.

    .. math:: \min_{R^\top R = I,\, c} \sum_i w_i \lVert c \, (x_i - \mu_x) R + \mu_y - y_i \rVert^2, \qquad
              R = U V^\top, \quad c = \frac{\operatorname{tr} \Sigma}{\operatorname{tr} C_{xx}}, \quad
              U \Sigma V^\top = C_{xy}

    Args:
        scale: fit c; else c = 1.

    Shape:
        ``x`` and ``y`` (n, d), or (b, t, d) with a mask; ``forward`` (..., d) -> (..., d).

    Raises:
        ValueError: different shapes, no row of nonzero weight.
        RuntimeError: ``forward`` called before ``fit``.

    Example:
        >>> rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
        >>> x = torch.randn(20, 3, dtype=torch.float64)
        >>> torch.allclose(Procrustes().fit(x, x @ rotation + 5)(x), x @ rotation + 5)
        True

    References:
        Schoenemann, "A Generalized Solution of the Orthogonal Procrustes Problem", Psychometrika 31 (1966).
    """

    _names = ("x_mean", "y_mean", "matrix")
    x_mean: Tensor
    y_mean: Tensor
    matrix: Tensor

    def __init__(self, *, scale: bool = False) -> None:
        super().__init__()
        self.scale = scale

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Procrustes:
        """Fit to pairs of rows and return self; ``weight``: pair weights; ``mask``: True = keep."""
        check_floating("Procrustes.fit", "x", x)
        check_same_width("Procrustes.fit", "x", x, "y", y)
        moments = PairMoments(x.shape[-1], y.shape[-1]).to(x.device).update(x, y, weight=weight, mask=mask)
        if not moments.total > 0:
            fail("Procrustes.fit", "x", "have a row of nonzero weight", "none")
        u, s, vh = torch.linalg.svd(moments.xy)
        size = safe_divide(s.sum(), moments.xx.diagonal().sum()) if self.scale else 1.0
        self._set(x_mean=moments.x_mean, y_mean=moments.y_mean, matrix=size * (u @ vh))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., d) to the space of ``y``."""
        return self._apply_map("x", x, self.x_mean, self.matrix, self.y_mean)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class Whitening(_Fitted):
    r"""Whitening: maps rows to mean zero and covariance I.

    .. math:: x \mapsto (x - \mu) W, \qquad W W^\top = \Big( C + \rho \, \frac{\operatorname{tr} C}{d} I \Big)^{-1}

    Args:
        kind: ``"zca"`` gives :math:`W = \tilde C^{-1/2}`, the whitened rows nearest to the original rows; ``"pca"``
            gives principal components over their standard deviations, largest first.
        ridge: :math:`\rho` >= 0, in units of the mean eigenvalue.

    Shape:
        ``x`` (n, d), or (b, t, d) with a mask; ``forward`` (..., d) -> (..., d).

    Raises:
        ValueError: another kind, a negative ridge, no row of nonzero weight.
        RuntimeError: ``forward`` called before ``fit``.

    Example:
        >>> x = torch.randn(500, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
        >>> white = Whitening().fit(x)(x)
        >>> torch.allclose(white.T @ white / 500, torch.eye(3, dtype=torch.float64))
        True

    References:
        Kessy, Lewin & Strimmer, "Optimal Whitening and Decorrelation", The American Statistician 72 (2018).
    """

    _names = ("mean", "matrix")
    mean: Tensor
    matrix: Tensor

    def __init__(self, *, kind: Literal["zca", "pca"] = "zca", ridge: float = 0.0) -> None:
        super().__init__()
        check_choice("Whitening", "kind", kind, ("zca", "pca"))
        check_number("Whitening", "ridge", ridge, at_least=0)
        self.kind, self.ridge = kind, ridge

    @torch.no_grad()
    def fit(self, x: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Whitening:
        """Fit to rows and return self; ``weight``: row weights; ``mask``: True = keep."""
        moments = _moments("Whitening.fit", "x", x, weight=weight, mask=mask)
        matrix = symmetric_power(moments.covariance, -0.5, ridge=self.ridge)
        if self.kind == "pca":
            matrix = matrix @ _principal(moments.covariance, len(matrix))
        self._set(mean=moments.mean, matrix=matrix)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Whiten ``x`` (..., d)."""
        return self._apply_map("x", x, self.mean, self.matrix)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, ridge={self.ridge:g}"


class _FittedToDomains(_Fitted):
    """A map fitted to the moments of two domains."""

    @torch.no_grad()
    def fit(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Self:
        """Fit to both samples and return self; weights: row weights; masks: True = keep."""
        caller = f"{type(self).__name__}.fit"
        check_same_width(caller, "source", source, "target", target)
        s = _moments(caller, "source", source, weight=source_weight, mask=source_mask)
        self._fit(s, _moments(caller, "target", target, weight=target_weight, mask=target_mask))
        return self

    def _fit(self, s: Moments, t: Moments) -> None:
        raise NotImplementedError


class CORALMap(_FittedToDomains):
    r"""Correlation alignment in closed form: maps source rows to the target's mean and covariance.

    .. math:: x \mapsto (x - \mu_s) \, \tilde C_s^{-1/2} \, \tilde C_t^{1/2} + \mu_t, \qquad
              \tilde C = C + \rho \, \frac{\operatorname{tr} C}{d} I

    Args:
        ridge: :math:`\rho` >= 0, in units of each domain's mean eigenvalue.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or (b, t, d) with a mask; ``forward`` (..., d) -> (..., d).

    Raises:
        ValueError: domains of different widths, a negative ridge, no row of nonzero weight.
        RuntimeError: ``forward`` called before ``fit``.

    Notes:
        Differs from the paper, which uses :math:`\tilde C = C + I`, dependent on the unit of the features, and does not
        align means.

    Example:
        >>> source, target = torch.randn(200, 3), 2 * torch.randn(300, 3) + 1
        >>> moved = CORALMap().fit(source, target)(source)
        >>> torch.allclose(torch.cov(moved.T, correction=0), torch.cov(target.T, correction=0), atol=1e-4)
        True

    References:
        Sun, Feng & Saenko, "Return of Frustratingly Easy Domain Adaptation", AAAI 2016, algorithm 1.
    """

    _names = ("source_mean", "target_mean", "matrix")
    source_mean: Tensor
    target_mean: Tensor
    matrix: Tensor

    def __init__(self, *, ridge: float = 0.0) -> None:
        super().__init__()
        check_number("CORALMap", "ridge", ridge, at_least=0)
        self.ridge = ridge

    def _fit(self, s: Moments, t: Moments) -> None:
        white = symmetric_power(s.covariance, -0.5, ridge=self.ridge)
        matrix = white @ symmetric_power(t.covariance, 0.5, ridge=self.ridge)
        self._set(source_mean=s.mean, target_mean=t.mean, matrix=matrix)

    def forward(self, source: Tensor) -> Tensor:
        """Map ``source`` (..., d) to the target domain."""
        return self._apply_map("source", source, self.source_mean, self.matrix, self.target_mean)

    def extra_repr(self) -> str:
        return f"ridge={self.ridge:g}"


class SubspaceAlignment(_FittedToDomains):
    r"""Subspace alignment: k principal components of both domains, with the source's aligned to the target's.

    .. math:: x_s \mapsto (x_s - \mu_s) P_s P_s^\top P_t, \qquad x_t \mapsto (x_t - \mu_t) P_t

    with the k principal directions P (d, k) of each domain.

    Args:
        components: k, limited to d.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or (b, t, d) with a mask; the maps (..., d) -> (..., k).

    Raises:
        ValueError: components below 1, domains of different widths, no row of nonzero weight.
        RuntimeError: a map called before ``fit``.

    Example:
        >>> aligned = SubspaceAlignment(2).fit(torch.randn(30, 5), torch.randn(40, 5))
        >>> aligned.map_source(torch.randn(3, 5)).shape, aligned.map_target(torch.randn(4, 5)).shape
        (torch.Size([3, 2]), torch.Size([4, 2]))

    References:
        Fernando, Habrard, Sebban & Tuytelaars, "Unsupervised Visual Domain Adaptation Using Subspace Alignment",
        ICCV 2013, equations 1 to 3.
    """

    _names = ("source_mean", "target_mean", "source_map", "target_map")
    source_mean: Tensor
    target_mean: Tensor
    source_map: Tensor
    target_map: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        check_count("SubspaceAlignment", "components", components)
        self.components = components

    def _fit(self, s: Moments, t: Moments) -> None:
        from_s, to_t = _principal(s.covariance, self.components), _principal(t.covariance, self.components)
        turned = from_s @ (from_s.T @ to_t)
        self._set(source_mean=s.mean, target_mean=t.mean, source_map=turned, target_map=to_t)

    def map_source(self, source: Tensor) -> Tensor:
        """``source`` (..., d) -> (..., k)."""
        return self._apply_map("source", source, self.source_mean, self.source_map)

    def map_target(self, target: Tensor) -> Tensor:
        """``target`` (..., d) -> (..., k)."""
        return self._apply_map("target", target, self.target_mean, self.target_map)

    def extra_repr(self) -> str:
        return f"{self.components}"


def _principal(covariance: Tensor, components: int) -> Tensor:
    """The leading eigenvectors as columns, largest eigenvalue first, with the largest entry of each positive."""
    vectors = torch.linalg.eigh(covariance)[1].flip(1)[:, :components]
    top = torch.take_along_dim(vectors, vectors.abs().argmax(0, keepdim=True), 0)
    return torch.where(top < 0, -vectors, vectors)
