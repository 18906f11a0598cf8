"""Multilinear maps: products of features and class probabilities, exact or through random projections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_features, check_same_device, fail, shape_text
from mmda._core.module_checks import check_at_weights, check_no_float8


def multilinear_map(features: Tensor, probabilities: Tensor) -> Tensor:
    r"""Row-wise outer product of features and class probabilities, flattened.

    .. math:: T(f, p)_{d (k - 1) + i} = f_i\, p_k

    Args:
        features: f, rows of features.
        probabilities: p; detach them if they should only condition, as in the adversarial loss.

    Shape:
        (n, d) and (n, classes) to (n, d * classes).

    Returns:
        Flattened products.

    Raises:
        ValueError: wrong shapes.

    Example:
        >>> import torch
        >>> multilinear_map(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.2500, 0.5000, 0.7500, 1.5000]])

    References:
        Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, section 3.1.
    """
    _check_joint("multilinear_map", features, probabilities)
    return (probabilities.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def _check_joint(caller: str, features: Tensor, probabilities: Tensor) -> None:
    check_features(caller, "features", features)
    check_features(caller, "probabilities", probabilities, axes="(samples, classes)")
    check_same_device(caller, "features", features, "probabilities", probabilities)
    for name, rows in (("features", features), ("probabilities", probabilities)):
        check_no_float8(caller, name, rows)
    if features.shape[0] != probabilities.shape[0]:
        fail(caller, "probabilities", f"have as many rows as `features` ({features.shape[0]})", probabilities.shape[0])


class RandomMultilinearMap(nn.Module):
    r"""Multilinear map through fixed random projections, for large d times classes.

    .. math:: T(f, p) = \frac{1}{\sqrt{o}} (R_f^\top f) \odot (R_p^\top p)

    Inner products of T are unbiased estimates of those of :func:`multilinear_map`.

    Args:
        features: d, width of the features.
        classes: number of classes.
        outputs: o, width of the result.
        generator: draws the standard normal entries of :math:`R_f, R_p`; the global random state if None.

    Shape:
        (n, d) and (n, classes) to (n, o).

    Raises:
        ValueError: wrong shapes.
        TypeError: a width that is not an integer.

    Notes:
        The projections are buffers: saved and moved with the module, not trained.

    Example:
        >>> import torch
        >>> random_map = RandomMultilinearMap(16, 4, 32, generator=torch.Generator().manual_seed(0))
        >>> random_map(torch.zeros(5, 16), torch.zeros(5, 4)).shape
        torch.Size([5, 32])

    References:
        Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, equation 6 and theorem 1.
    """

    feature_projection: Tensor
    class_projection: Tensor

    def __init__(self, features: int, classes: int, outputs: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, value in (("features", features), ("classes", classes), ("outputs", outputs)):
            check_count("RandomMultilinearMap", name, value)
        device = None if generator is None else generator.device
        self.register_buffer("feature_projection", torch.randn(features, outputs, generator=generator, device=device))
        self.register_buffer("class_projection", torch.randn(classes, outputs, generator=generator, device=device))

    def forward(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """See the class."""
        caller = "RandomMultilinearMap"
        _check_joint(caller, features, probabilities)
        for name, rows, projection in (
            ("features", features, self.feature_projection),
            ("probabilities", probabilities, self.class_projection),
        ):
            if rows.shape[1] != projection.shape[0]:
                fail(caller, name, f"have shape (samples, {projection.shape[0]})", shape_text(rows))
            check_at_weights(caller, name, rows, projection)
        left = features @ self.feature_projection.to(features.dtype)
        right = probabilities @ self.class_projection.to(probabilities.dtype)
        scale: float = self.feature_projection.shape[1] ** -0.5
        return left * right * scale

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        (features, outputs), classes = self.feature_projection.shape, self.class_projection.shape[0]
        return f"features={features}, classes={classes}, outputs={outputs}"
