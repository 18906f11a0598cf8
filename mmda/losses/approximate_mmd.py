"""Estimates of the squared MMD in less than quadratic time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_features, check_same_width, fail, fail_type
from mmda._core.components import check_kernel
from mmda._core.counts import pooled_centre, total_weight
from mmda._core.digits import LOST, with_enough_digits
from mmda._core.draws import DRAWS, Draws, fixed_normal, fresh_normal
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import two_samples
from mmda._core.transforms import values_are_known
from mmda._math.kernel_tensors import register_bandwidth
from mmda.kernels import Gaussian, Kernel, distances_about, settle_bandwidth
from mmda.losses._domain_modules import KernelModule, ProjectedModule

#: Largest angle for which the float32 sine is accurate to 1e-4.
_PHASE = 500.0


def block_mmd_loss(source: Tensor, target: Tensor, *, kernel: Kernel = Gaussian(), block_rows: int = 64) -> Tensor:
    r"""Squared MMD estimated inside blocks of rows; lower means closer distributions. Unbiased, in linear time.

    Source and target are cut, in the order of their rows, into K blocks, :math:`K = \lfloor \min(n, m) / B \rfloor`
    (at least one), of equal sizes :math:`\lfloor n / K \rfloor` and :math:`\lfloor m / K \rfloor`, and

    .. math:: \frac{1}{K} \sum_{b = 1}^{K} \mathrm{MMD}^2_{\text{unbiased}}(x^{(b)}, y^{(b)})

    Args:
        source: source features, in random order (as in a shuffled batch).
        target: target features.
        kernel: any :class:`mmda.kernels.Kernel`; its bandwidth is set once from the pooled sample of the call.
        block_rows: B, the rows of a block. More rows, less noise, more time; with ``block_rows >= min(n, m)`` this is
            ``mmd_loss(..., estimator="unbiased")``.

    Shape:
        ``source`` (n, d), ``target`` (m, d).

    Returns:
        Scalar, float32 (float64 for float64 input). May be negative.

    Raises:
        ValueError: wrong shapes, fewer than two rows in a sample, ``block_rows`` below two.
        TypeError: features that are not floating point.

    Notes:
        O((n + m) B d) time and O((n + m) B) memory. Up to K - 1 rows at the end of each sample are left out. The
        variance falls as 1 / (n B) where the two distributions are equal. No masks or weights, since leaving a row out
        would shift the following rows into other blocks; use :func:`random_feature_mmd_loss` for masked batches.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> source = torch.randn(1024, 8, generator=generator)
        >>> target = torch.randn(1024, 8, generator=generator) + 1.0
        >>> 0.1 < block_mmd_loss(source, target, kernel=Gaussian(3.0)).item() < 0.3
        True

    References:
        Zaremba, Gretton & Blaschko, "B-test: A Non-parametric, Low Variance Kernel Two-sample Test", NeurIPS 2013,
        section 3.
    """
    caller = "block_mmd_loss"
    check_count(caller, "block_rows", block_rows, at_least=2)
    check_kernel(caller, "kernel", kernel)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, _, _ = two_samples(caller, source, target, fewest=2)
        bandwidth = settle_bandwidth(kernel, x, y, None, None)
        centre = pooled_centre(x, y, None, None)
        blocks = max(min(x.shape[0], y.shape[0]) // block_rows, 1)
        x, y = _cut(x, blocks), _cut(y, blocks)

        def by_blocks(dtype: torch.dtype) -> Tensor:
            about, sigma = centre.to(dtype), bandwidth.to(dtype)
            left, right = x.to(dtype), y.to(dtype)

            def gram(a: Tensor, b: Tensor, same: bool = False) -> Tensor:
                return kernel.evaluate(distances_about(about, a, b, same=same), sigma)

            within = [_mean_of_pairs(gram(z, z, same=True), kernel.at_zero) for z in (left, right)]
            across = gram(left, right).mean(2).double().mean()
            return within[0] + within[1] - 2 * across

        return with_enough_digits(by_blocks, x, y, bandwidth, dtype=dtype, bounded=kernel.at_zero > 0).to(dtype)


def _cut(rows: Tensor, blocks: int) -> Tensor:
    size = rows.shape[0] // blocks
    return rows[: blocks * size].view(blocks, size, rows.shape[1])


def _mean_of_pairs(gram: Tensor, at_zero: float) -> Tensor:
    """Mean over blocks of the mean of k(z_i, z_j), i != j."""
    size = gram.shape[1]
    return (gram.sum(2).double().sum(1).mean() - size * at_zero) / (size * (size - 1))


class BlockMMDLoss(KernelModule):
    """Module form of :func:`block_mmd_loss`, which documents the formula, shapes and errors.

    Args:
        kernel: any :class:`mmda.kernels.Kernel`.
        block_rows: rows of a block.

    Example:
        >>> BlockMMDLoss(kernel=Gaussian(2.0, scales=(1.0,)))
        BlockMMDLoss(kernel=Gaussian(bandwidth=2, scales=(1,)), block_rows=64)
    """

    _function = staticmethod(block_mmd_loss)

    def __init__(self, *, kernel: Kernel = Gaussian(), block_rows: int = 64) -> None:
        super().__init__()
        check_count("BlockMMDLoss", "block_rows", block_rows, at_least=2)
        check_kernel("BlockMMDLoss", "kernel", kernel)
        self.kernel = kernel
        register_bandwidth(self, kernel)
        self.block_rows = block_rows

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """See :func:`block_mmd_loss`."""
        return block_mmd_loss(source, target, **self._options())

    if TYPE_CHECKING:
        __call__ = forward


def random_feature_mmd_loss(
    source: Tensor,
    target: Tensor,
    *,
    kernel: Gaussian = Gaussian(),
    n_features: int = 320,
    draws: Draws = "fixed",
    projections: Tensor | None = None,
    generator: torch.Generator | None = None,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared MMD of a Gaussian kernel through orthogonal random features; lower means closer. In linear time.

    With S scales, frequencies :math:`\omega_1 \dots \omega_D`, of which :math:`D_k` share the scale of the k-th, and
    :math:`\phi(x) = (S D_k)^{-1/2} (\cos \omega_k \cdot x, \sin \omega_k \cdot x)_{k \le D}`, whose inner products
    approach the kernel,

    .. math::

       \frac{\lVert \sum_i \phi(x_i) \rVert^2 - n}{n (n - 1)} + \frac{\lVert \sum_j \phi(y_j) \rVert^2 - m}{m (m - 1)}
       - \frac{2}{n m} \sum_i \phi(x_i) \cdot \sum_j \phi(y_j),

    the unbiased estimator for the approximate kernel (without the pairs i = j, each of which adds one).

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        kernel: a :class:`mmda.kernels.Gaussian`; frequency k gets scale k modulo S, and all scales have the same
            weight.
        n_features: D, the number of frequencies, at least one per scale. The error falls as :math:`D^{-1/2}` or faster.
        projections: frequencies for a bandwidth of one, instead of drawn ones; with standard normal rows the value
            estimates the kernel's MMD. Row k gets scale k modulo S.
        draws: without a generator: ``"fixed"``, the same frequencies at every call, or ``"fresh"``, new ones from
            PyTorch's global generator of the features' device.
        generator: draws new frequencies at every call from this generator.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t);
        ``projections`` (D, d).

    Returns:
        Scalar, float32 (float64 for float64 input). May be negative. Zero if masks and weights leave a sample with at
        most one row.

    Raises:
        ValueError: wrong shapes, fewer than two rows in a sample, fewer features or projections than scales.
        TypeError: another kernel, a mask that is not bool, features that are not floating point.

    Notes:
        O((n + m) D d) time and O((n + m) D) memory, and O(D d min(D, d)) time to draw the frequencies. The frequencies
        are orthogonal in groups of d, with the lengths of independent Gaussian vectors: still unbiased for the kernel,
        with less variance. In training, draw new ones at each step, as the module does: a fixed set trains only those
        frequencies, and did worse in three of our four comparisons on digits.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> source = torch.randn(1024, 8, generator=generator)
        >>> target = torch.randn(1024, 8, generator=generator) + 1.0
        >>> 0.1 < random_feature_mmd_loss(source, target, kernel=Gaussian(3.0)).item() < 0.3
        True

    References:
        Rahimi & Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007, section 3; Yu et al.,
        "Orthogonal Random Features", NeurIPS 2016, section 3; Zhao & Meng, "FastMMD: Ensemble of Circular Discrepancy
        for Efficient Two-Sample Test", Neural Computation 27 (2015), section 3.
    """
    caller = "random_feature_mmd_loss"
    _check_features(caller, kernel, n_features, draws)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask), fewest=2
        )
        if projections is not None:
            check_features(caller, "projections", projections, axes="(projections, features)")
            check_same_width(caller, "source", x, "projections", projections)
            n_features = projections.shape[0]
            if n_features < len(kernel.scales):
                fail(caller, "projections", f"have at least {len(kernel.scales)} rows, one per scale", n_features)
        drawn = projections is None
        directions = _draw(n_features, x, draws, generator) if projections is None else projections
        given = (x, y, x_weight, y_weight, directions)
        own = kernel.bandwidth if isinstance(kernel.bandwidth, Tensor) else None
        if dtype == torch.float32 and values_are_known(*given, own):
            single: list[Any] = [None if t is None else t.float() for t in given]
            value, angle = _by_features(kernel, n_features, drawn, *single)
            if float(angle) < _PHASE and not abs(float(value.detach())) < LOST:
                return value
        wide: list[Any] = [None if t is None else t.double() for t in given]
        return _by_features(kernel, n_features, drawn, *wide)[0].to(dtype)


def _by_features(
    kernel: Gaussian,
    count: int,
    drawn: bool,
    x: Tensor,
    y: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """The loss, computed in the dtype of the inputs, and the largest angle."""
    if drawn:
        directions = _orthogonal(count, directions)
    bandwidth = settle_bandwidth(kernel, x, y, x_weight, y_weight)
    centre = pooled_centre(x, y, x_weight, y_weight)
    scales, share = _scale_and_share(kernel.scales, count, x)
    frequencies = directions / (bandwidth * scales.sqrt().unsqueeze(1))
    angles = (x - centre) @ frequencies.T, (y - centre) @ frequencies.T
    x_sum, x_total = _feature_sum(angles[0], x_weight), total_weight(x, x_weight)
    y_sum, y_total = _feature_sum(angles[1], y_weight), total_weight(y, y_weight)

    def within(total: Tensor, count: Tensor) -> Tensor:
        return safe_divide((share * total.square()).sum() - count, count.square() - count)

    value = within(x_sum, x_total) + within(y_sum, y_total)
    value = value - 2 * safe_divide((share * x_sum * y_sum).sum(), x_total * y_total)
    largest = torch.stack([angle.detach().abs().amax() for angle in angles]).amax()
    return torch.where((x_total > 1) & (y_total > 1), value, 0 * value), largest


def _check_features(caller: str, kernel: Gaussian, n_features: int, draws: Draws) -> None:
    if not isinstance(kernel, Gaussian):
        fail_type(caller, "kernel", "be a mmda.kernels.Gaussian", kernel)
    check_count(caller, "n_features", n_features, at_least=len(kernel.scales))
    check_choice(caller, "draws", draws, DRAWS)


def _scale_and_share(scales: Sequence[float], count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The scale of each of ``count`` frequencies (cycling through ``scales``) and its weight; weights add up to one."""
    in_turn = [k % len(scales) for k in range(count)]
    shares = [1 / (len(scales) * in_turn.count(k)) for k in range(len(scales))]
    return like.new_tensor([scales[k] for k in in_turn]), like.new_tensor([shares[k] for k in in_turn])


def _feature_sum(angles: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted sums over the rows of cos and sin, (2, D)."""
    both = torch.stack((angles.cos(), angles.sin()))
    return both.sum(1) if weight is None else weight @ both


def _draw(count: int, rows: Tensor, draws: Draws, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers for :func:`_orthogonal`. They are float64, except for fresh draws, so that a generator
    gives the same frequencies for every dtype of the features."""
    width = rows.shape[1]
    size = min(count, width)
    shape = (2 * -(-count // size) * size, width)
    if generator is not None:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device).to(rows.device)
    if draws == "fixed":
        return fixed_normal(*shape, dtype=torch.float64, device=rows.device)
    return fresh_normal(*shape, like=rows)


def _orthogonal(count: int, normal: Tensor) -> Tensor:
    """Standard normal vectors (count, d), orthogonal within each group of d."""
    width = normal.shape[1]
    size = min(count, width)
    directions, lengths = normal.view(2, -1).unbind(0)
    unit: Tensor = torch.linalg.qr(directions.view(-1, width, size))[0].mT
    lengths = lengths.view(-1, size, width)
    return (unit * lengths.square().sum(2, keepdim=True).sqrt()).reshape(-1, width)[:count]


class RandomFeatureMMDLoss(ProjectedModule, KernelModule):
    """Module form of :func:`random_feature_mmd_loss`, which documents the formula, shapes and errors.

    In training mode each call draws new frequencies from PyTorch's global generator of the features' device (as in
    dropout, ``torch.manual_seed`` and activation checkpointing reproduce them), unless the call passes a ``generator``
    or ``projections``. In evaluation mode they are the same at every call.

    Args:
        kernel: a :class:`mmda.kernels.Gaussian`.
        n_features: the number of frequencies.
        draws: ``"fresh"`` as above, or ``"fixed"``: the same frequencies at every call, in training too.

    Example:
        >>> RandomFeatureMMDLoss(kernel=Gaussian(2.0, scales=(1.0,)))
        RandomFeatureMMDLoss(kernel=Gaussian(bandwidth=2, scales=(1,)), n_features=320, draws='fresh')
    """

    _function = staticmethod(random_feature_mmd_loss)

    def __init__(self, *, kernel: Gaussian = Gaussian(), n_features: int = 320, draws: Draws = "fresh") -> None:
        super().__init__()
        _check_features("RandomFeatureMMDLoss", kernel, n_features, draws)
        self.kernel = kernel
        register_bandwidth(self, kernel)
        self.n_features = n_features
        self.draws: Draws = draws
