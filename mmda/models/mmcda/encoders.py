"""Encoders of frames and queries. Padding never affects valid outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_number, fail
from mmda._core.masking import zero_padding
from mmda.layers import AttentionPool


class FeatureDropout(nn.Module):
    """Dropout of whole features of a sequence: one draw per row and feature, shared by all steps.

    Neighbouring steps are nearly equal, so step-wise dropout hides little information; this drops a feature for the
    whole sequence and draws t times fewer numbers.

    Args:
        p: probability of dropping, in [0, 1); kept values are scaled by 1 / (1 - p).

    Shape:
        ``x`` (b, t, d) -> (b, t, d).

    Raises:
        ValueError: a probability outside [0, 1).

    Example:
        >>> x = FeatureDropout(0.5)(torch.ones(2, 3, 8))
        >>> torch.equal(x[:, 0], x[:, 2])
        True
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        check_number("FeatureDropout", "p", p, at_least=0, below=1)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (b, t, d) -> (b, t, d)."""
        if not self.training or self.p == 0:
            return x
        kept = nn.functional.dropout(torch.ones_like(x[:, :1]), self.p)
        return x * kept

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class MaskedConvBlock(nn.Module):
    """Residual convolution over time with kernel size three: norm, convolution, activation; zero-padded at the ends.

    The taps are concatenated and multiplied once: on a CPU one wide matrix product is about twice as fast as a
    one-dimensional convolution, forward and backward.

    Args:
        width: features in and out.
        dilation: spacing of the taps in steps.
        dropout: dropout (:class:`FeatureDropout`) of the residual branch.

    Shape:
        ``x`` (b, t, width), ``mask`` (b, t) bool, True = keep -> (b, t, width), zero on padding. Padding does not
        affect valid outputs; for a backward pass it must be finite, as from the encoders.

    Raises:
        ValueError: a dilation below 1, a dropout outside [0, 1).

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> MaskedConvBlock(4)(torch.randn(1, 3, 4), mask)[0, 2].tolist()
        [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, width: int, *, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        check_count("MaskedConvBlock", "dilation", dilation)
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        self.taps = nn.Linear(3 * width, width)
        self.dropout = FeatureDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` (b, t, d), ``mask`` (b, t) -> (b, t, d), zero on padding."""
        t, reach = x.shape[1], self.dilation
        padded = nn.functional.pad(zero_padding(self.norm(x), mask), (0, 0, reach, reach))
        taps = torch.cat([padded[:, :t], padded[:, reach : reach + t], padded[:, 2 * reach : 2 * reach + t]], -1)
        return zero_padding(x + self.dropout(nn.functional.relu(self.taps(taps))), mask)


class Projection(nn.Sequential):
    """Projection of input features of any scale: norm, linear map, norm, ReLU, dropout.

    The input is normalised first, because entries of unit-norm features with some hundred dimensions are so small that
    the bias of a newly initialised linear layer would dominate. Scale and offset of that norm are folded into the
    linear map: where the features need no gradient, a backward pass then takes one product less.

    Args:
        width: number of input features.
        hidden: number of output features.
        dropout: dropout (:class:`FeatureDropout`) of the output.

    Shape:
        ``x`` (b, t, width) -> (b, t, hidden).

    Raises:
        ValueError: a dropout outside [0, 1).

    Example:
        >>> Projection(8, 4)(torch.zeros(1, 3, 8)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        parts = (nn.LayerNorm(width), nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU())
        super().__init__(*parts, FeatureDropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (b, t, width) -> (b, t, hidden)."""
        norm, linear, *rest = self
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(linear, nn.Linear)
        unscaled = nn.functional.layer_norm(x, list(norm.normalized_shape), eps=norm.eps)
        bias = torch.addmv(linear.bias, linear.weight, norm.bias)
        x = nn.functional.linear(unscaled, linear.weight * norm.weight, bias)
        for part in rest:
            x = part(x)
        return x


def check_width(caller: str, argument: str, x: Tensor, width: int) -> None:
    """Require the number of features that the encoder was built for."""
    if x.shape[-1] != width:
        fail(caller, argument, f"have {width} features", x.shape[-1])


class VideoEncoder(nn.Module):
    """Projection of frame features followed by a convolutional context.

    Args:
        width: number of input features.
        hidden: number of output features.
        layers: context blocks; 0 encodes every frame separately.
        dropout: dropout inside the encoder.

    Shape:
        ``frames`` (b, t, width), ``frame_mask`` (b, t) -> (b, t, hidden), zero on padding. Padding may hold anything.

    Raises:
        ValueError: a negative number of layers, a dropout outside [0, 1); frames of another width.

    Example:
        >>> encoder, mask = VideoEncoder(8, 4), torch.tensor([[True, True, False]])
        >>> frames = torch.randn(1, 3, 8)
        >>> torch.equal(encoder(frames, mask), encoder(frames.masked_fill(~mask.unsqueeze(2), torch.nan), mask))
        True
    """

    def __init__(self, width: int, hidden: int, *, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        check_count("VideoEncoder", "layers", layers, at_least=0)
        self.width = width
        self.project = Projection(width, hidden, dropout)
        self.context = nn.ModuleList(MaskedConvBlock(hidden, dropout=dropout) for _ in range(layers))

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Frame features with context."""
        check_width("VideoEncoder", "frames", frames, self.width)
        x = zero_padding(self.project(zero_padding(frames, frame_mask)), frame_mask)
        for block in self.context:
            x = block(x, frame_mask)
        return x


class QueryEncoder(nn.Module):
    """Projection of word features, then attention pooling to one sentence feature.

    Args:
        width: number of input word features.
        hidden: number of output features.
        dropout: dropout inside the encoder.

    Shape:
        ``words`` (b, l, width), ``word_mask`` (b, l) -> (b, hidden). Padding may hold anything; a query without a
        word gives zeros.

    Raises:
        ValueError: a dropout outside [0, 1); words of another width.

    Example:
        >>> mask = torch.tensor([[True, True, False], [True, False, False]])
        >>> QueryEncoder(6, 4)(torch.randn(2, 3, 6), mask).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.project = Projection(width, hidden, dropout)
        self.pool = AttentionPool(hidden)

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """One feature per sentence."""
        check_width("QueryEncoder", "words", words, self.width)
        x = zero_padding(self.project(zero_padding(words, word_mask)), word_mask)
        pooled: Tensor = self.pool(x, mask=word_mask)
        return pooled


def joint_head(hidden: int, joint: int, *, correction: bool = False) -> nn.Module:
    """Two-layer head from encoder features to the joint space, without the normalisation.

    Args:
        hidden: encoder features.
        joint: width of the joint space.
        correction: initialise the output at zero, to be added to features that are already comparable.

    Returns:
        A module (..., hidden) -> (..., joint): linear, ReLU, linear.

    Example:
        >>> joint_head(8, 4)(torch.zeros(2, 3, 8)).shape
        torch.Size([2, 3, 4])
    """
    head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, joint))
    if correction:
        for parameter in head[-1].parameters():
            nn.init.zeros_(parameter)
    return head


def spread_frames(x: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` valid frames of a batch, evenly spaced in time with the same number per video.

    Args:
        x: frame features.
        mask: bool, True = keep; valid frames come first in every row.
        count: number of frames over the whole batch, but at least one per video.

    Shape:
        ``x`` (b, t, d), ``mask`` (b, t) -> (b, k, d) and (b, k), k = max(1, count // b) or t if that is less.

    Returns:
        The selected frames and their mask. For a video of T > k frames those at floor((2 j + 1) T / (2 k)), j = 0 ... k
        - 1; for a shorter one all frames, padded to k.

    Example:
        >>> x, mask = torch.arange(6.0).reshape(1, 6, 1), torch.ones(1, 6, dtype=torch.bool)
        >>> spread_frames(x, mask, 3)[0].flatten()
        tensor([1., 3., 5.])
    """
    b, t, _ = x.shape
    k = min(max(1, count // b), t)
    length = mask.sum(1, keepdim=True)  # (b, 1)
    step = torch.arange(k, device=x.device)
    spread = ((2 * step + 1) * length) // (2 * k)
    index = torch.where(length > k, spread, step.expand(b, k))
    return torch.take_along_dim(x, index.unsqueeze(-1), dim=1), torch.take_along_dim(mask, index, dim=1)
