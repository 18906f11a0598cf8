"""Weights of several linear maps, estimated from held-out target pairs without moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_floating, check_number, fail
from mmda._core.masking import zero_padding
from mmda._core.reductions import masked_mean
from mmda._core.unit_rows import normalized_rows
from mmda.linear import CCA
from mmda.vmr.resident import ResidentSplit

#: Number of candidate videos per query; more take longer and change little.
_VIDEOS = 256


@torch.no_grad()
def pair_scores(maps: CCA, split: ResidentSplit, *, top: float = 0.125) -> tuple[Tensor, Tensor]:
    r"""Similarity of each query to each video: the mean cosine of the video's best frames.

    .. math:: S_{iv} = \frac{1}{k} \sum_{t \in \text{best } k} \cos(x_{vt} B, q_i A)

    Args:
        maps: fitted to (query, frame) rows.
        split: pairs; moments are not used. Of more than 256 videos, 256 evenly spaced ones are used with their queries.
        top: fraction of the frames that represents a video, in (0, 1], at least one frame.

    Returns:
        S (n, v), and for each query the column of its video (n,).

    Raises:
        ValueError: ``top`` outside (0, 1].

    Example:
        >>> from mmda.models.mmcda import fit_joint_maps
        >>> from mmda.vmr import World, simulate
        >>> split = ResidentSplit.from_batch(simulate(World(videos=20, test_videos=1)).source_train)
        >>> scores, own = pair_scores(fit_joint_maps(split, None, components=8), split)
        >>> scores.shape, own.shape
        (torch.Size([20, 20]), torch.Size([20]))
    """
    check_number("pair_scores", "top", top, above=0, at_most=1)
    videos = torch.unique(split.frame_row)
    step = torch.arange(min(_VIDEOS, len(videos)), device=videos.device)
    videos = videos[(step * len(videos)) // max(1, len(step))]
    rows = torch.isin(split.frame_row, videos).nonzero().flatten()
    words, mask = split.words[rows], split.word_mask[rows]
    sentences = masked_mean(zero_padding(words, mask), mask.unsqueeze(-1).expand_as(words), 1)
    queries = normalized_rows(maps.map_x(sentences))
    columns = []
    for video in videos.tolist():
        frames = split.frames[video][split.frame_mask[video]]
        if not len(frames):
            columns.append(queries.new_full((len(queries),), -1.0))
            continue
        cosines = normalized_rows(maps.map_y(frames)) @ queries.T
        columns.append(cosines.topk(max(1, math.ceil(top * len(frames))), dim=0).values.mean(0))
    return torch.stack(columns, 1).double(), torch.searchsorted(videos, split.frame_row[rows])


@torch.no_grad()
def stacked_weights(scores: Tensor, own: Tensor, *, ridge: float = 1.0, iterations: int = 50) -> Tensor:
    r"""Non-negative weights that combine several scores to identify the correct candidate best.

    .. math:: \min_{a \ge 0} \; \frac{1}{n} \sum_i \Big[ \log \sum_v \exp \Big( \sum_m a_m S_{miv} \Big)
              - \sum_m a_m S_{m i y_i} \Big] + \frac{\rho}{2 n} \sum_m \sigma_m^2 a_m^2

    with :math:`\sigma_m^2` the variance of score m over the candidates: a conditional logit with a Gaussian prior. The
    problem is convex; a score that adds nothing to the others gets weight 0.

    Args:
        scores: S for every member, query and candidate.
        own: y, the correct candidate of each query.
        ridge: :math:`\rho` > 0, strength of the prior; with few queries it keeps the weights small and similar.
        iterations: maximum number of Newton steps.

    Shape:
        ``scores`` (m, n, v), ``own`` (n,) -> (m,).

    Returns:
        Weights that sum to 1, float64; all equal if no score is informative.

    Raises:
        ValueError: shapes that do not fit, a ridge that is not positive.

    Notes:
        O(iterations m n v) time.

    Example:
        >>> own = torch.arange(6)
        >>> good, noise = torch.eye(6), torch.randn(6, 6)
        >>> weights = stacked_weights(torch.stack([good, -good]), own)
        >>> weights.tolist()
        [1.0, 0.0]

    References:
        McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", Frontiers in Econometrics (1974);
        Wolpert, "Stacked Generalization", Neural Networks 5 (1992).
    """
    check_floating("stacked_weights", "scores", scores)
    check_number("stacked_weights", "ridge", ridge, above=0)
    check_count("stacked_weights", "iterations", iterations)
    if scores.ndim != 3 or not scores.numel():
        fail("stacked_weights", "scores", "have shape (members, queries, candidates), none of them 0", scores.shape)
    if tuple(own.shape) != (scores.shape[1],):
        fail("stacked_weights", "own", f"have shape ({scores.shape[1]},)", tuple(own.shape))
    s = scores.double()
    m, n, _ = s.shape
    s = s - s.mean(2, keepdim=True)  # a common offset of all candidates cancels
    own_scores = s.gather(2, own.view(1, n, 1).expand(m, n, 1)).squeeze(2)
    penalty = ridge * s.square().mean((1, 2)).clamp(min=torch.finfo(s.dtype).tiny) / n
    weights = torch.zeros(m, dtype=s.dtype, device=s.device)

    def loss(a: Tensor) -> Tensor:
        fit = torch.einsum("m,mnv->nv", a, s).logsumexp(1) - a @ own_scores
        return fit.mean() + (penalty * a.square()).sum() / 2

    value = loss(weights)
    for _ in range(iterations):
        share = torch.einsum("m,mnv->nv", weights, s).softmax(1)
        expected = torch.einsum("nv,mnv->mn", share, s)
        gradient = (expected - own_scores).mean(1) + penalty * weights
        second = torch.einsum("knv,mnv->km", s * share, s) / n - expected @ expected.T / n + penalty.diag()
        target = _quadratic_minimum(second, gradient - second @ weights)
        step = target - weights
        size = 1.0
        while size > 1e-4 and not loss(weights + size * step) < value:
            size /= 2
        if size <= 1e-4 or value - loss(weights + size * step) < 1e-12:
            break
        weights = weights + size * step
        value = loss(weights)
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / m)


def _quadratic_minimum(second: Tensor, gradient: Tensor) -> Tensor:
    """The x >= 0 that minimises x'Hx/2 + g'x, by coordinate descent."""
    x = torch.zeros_like(gradient)
    for _ in range(200):
        before = x.clone()
        for i in range(len(x)):
            rest = gradient[i] + second[i] @ x - second[i, i] * x[i]
            x[i] = (-rest / second[i, i]).clamp(min=0)
        if torch.equal(before, x) or (x - before).abs().max() <= 1e-12 * x.abs().max():
            break
    return x
