"""The joint space in closed form: linear maps from source moments and target pairs, without gradient training."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_count, check_number, fail, fail_type
from mmda._core.masking import zero_padding
from mmda._core.reductions import masked_mean, masked_softmax
from mmda._core.unit_rows import normalized_rows
from mmda.linear import CCA, CORALMap, PairMoments
from mmda.losses import moment_targets
from mmda.models.mmcda.linear_head import LinearHead
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.stacking import pair_scores, stacked_weights
from mmda.vmr.batch import VMRBatch
from mmda.vmr.resident import ResidentSplit

#: Pairs whose frames are in memory at a time.
_CHUNK = 256

#: Ridge of the CORAL map between domains, at least: see :func:`_recolouring`.
_RECOLOUR = 0.1

#: How the frames of a pair are pooled: weighted by similarity to the query, the best ones, or all equally.
Pooling = Literal["attention", "top", "mean"]

#: Number of target videos below which fitted weights are not used, and from which they are used in full.
_FEW, _ENOUGH = 8, 32

#: Fraction of a video's frames used as its best frames.
_TOP = 0.125


def sentence_rows(split: ResidentSplit) -> Tensor:
    """Mean of the words of each query.

    Args:
        split: pairs, of which the words are used.

    Returns:
        (n, d_q), one row per pair.

    Example:
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> sentence_rows(ResidentSplit.from_batch(simulate(World(videos=3, test_videos=1)).source_train)).shape
        torch.Size([3, 24])
    """
    words = zero_padding(split.words, split.word_mask)
    return masked_mean(words, split.word_mask.unsqueeze(-1).expand_as(words), 1)


def moment_rows(split: ResidentSplit) -> Tensor:
    """Mean of the frames inside each query's moments.

    Args:
        split: pairs with moments.

    Returns:
        (n, d_v), one row per pair.

    Raises:
        ValueError: the moments are hidden.

    Example:
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> moment_rows(ResidentSplit.from_batch(simulate(World(videos=3, test_videos=1)).source_train)).shape
        torch.Size([3, 32])
    """
    if split.windows is None:
        fail("moment_rows", "split", "carry windows", "none")
    return torch.cat([_weighted(batch, _inside(batch).to(batch.frames.dtype)) for batch in _pieces(split)])


def attended_rows(
    split: ResidentSplit, maps: CCA | None = None, *, temperature: float = 0.1, pooling: Pooling = "attention"
) -> Tensor:
    r"""Mean of each video's frames, weighted by their similarity to the query under ``maps``.

    .. math:: p_i = \sum_t \operatorname{softmax}_t(\cos(x_{it} B, q_i A) / \tau) \, x_{it}

    Args:
        split: pairs; moments are not used.
        maps: fitted to (query, frame) rows; ``None`` weights all frames equally.
        temperature: :math:`\tau` > 0.
        pooling: ``"attention"``: the formula; ``"top"``: the mean of the best eighth of the frames, at least one;
            ``"mean"``: the mean of all frames.

    Returns:
        (n, d_v), one row per pair.

    Raises:
        ValueError: a temperature that is not positive.

    Example:
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> attended_rows(ResidentSplit.from_batch(simulate(World(videos=3, test_videos=1)).target_train)).shape
        torch.Size([3, 32])
    """
    check_number("attended_rows", "temperature", temperature, above=0)
    check_choice("attended_rows", "pooling", pooling, get_args(Pooling))
    rows = []
    if maps is not None:
        maps = copy.deepcopy(maps).to(split.frames.dtype)  # float32 is sufficient for the weights of a mean
    for batch in _pieces(split):
        if maps is None or pooling == "mean":
            weight = batch.frame_mask.to(batch.frames.dtype)
        else:
            words = zero_padding(batch.words, batch.word_mask)
            sentence = masked_mean(words, batch.word_mask.unsqueeze(-1).expand_as(words), 1)
            query = normalized_rows(maps.map_x(sentence))
            frames = normalized_rows(maps.map_y(zero_padding(batch.frames, batch.frame_mask)))
            similarity = torch.bmm(frames, query.unsqueeze(2)).squeeze(2)
            if pooling == "attention":
                weight = masked_softmax(similarity / temperature, batch.frame_mask, 1)
            else:
                weight = _best_frames(similarity, batch.frame_mask)
        rows.append(_weighted(batch, weight))
    return torch.cat(rows)


@torch.no_grad()
def fit_joint_maps(
    source: ResidentSplit | None,
    pairs: ResidentSplit | None,
    *,
    components: int = 64,
    ridge: float = 1.0,
    scale: float = 1.0,
    rounds: int = 4,
    temperature: float = 0.1,
    pooling: Pooling = "attention",
    domain: ResidentSplit | None = None,
) -> CCA:
    r"""Canonical correlation analysis of queries (x) and frames (y), from labelled moments, unlabelled pairs, or both.

    A source pair is a query and the mean frame of its known moment; a target pair is a query and its video's frames,
    pooled with the map of the previous round (:func:`attended_rows`), initially with equal weights. Both domains have
    the same weight.

    Args:
        source: labelled pairs.
        pairs: pairs with unknown moments.
        components: width of the joint space.
        ridge: as in :class:`mmda.linear.CCA`; 1 doubles the mean variance of each modality.
        scale: as in :class:`mmda.linear.CCA`.
        rounds: number of fits, each with newly pooled frames.
        temperature: temperature of the pooling.
        pooling: as in :func:`attended_rows`.
        domain: first map the source's queries and frames to the mean and covariance of this domain
            (:class:`mmda.linear.CORALMap`): of its queries and pooled frames, or without ``pairs`` of all its frames.
            Otherwise the difference of the domains' means would itself count as a correlation.

    Returns:
        The fitted maps: ``map_x`` for sentences, ``map_y`` for frames.

    Raises:
        ValueError: neither ``source`` nor ``pairs``, a source without moments, numbers out of range.

    Notes:
        O(rounds n (t d k + d^2)) time; the frames of 256 pairs are in memory at a time.

    Example:
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> draw = simulate(World(videos=30, test_videos=1))
        >>> source, target = (ResidentSplit.from_batch(b) for b in (draw.source_train, draw.target_train))
        >>> fit_joint_maps(source, target.without_moments(), components=8).map_y(target.frames).shape[-1]
        8

    References:
        The pooling in rounds is our own choice; for the components see :mod:`mmda.linear`.
    """
    check_count("fit_joint_maps", "rounds", rounds)
    if source is None and pairs is None:
        fail("fit_joint_maps", "source", "be given without `pairs`", "neither")
    cca = CCA(components, ridge=ridge, scale=scale)
    known = None if source is None else (sentence_rows(source), moment_rows(source))
    queries = None if known is None else known[0]
    if queries is not None and domain is not None:
        queries = _recolouring(queries, sentence_rows(domain))(queries)
    if pairs is None:
        assert known is not None
        assert queries is not None
        frames = known[1]
        if domain is not None:
            assert source is not None
            frames = _towards(source, domain)(frames)
        return cca.to(frames.device).fit(queries, frames)
    sentences = sentence_rows(pairs)
    cca = cca.to(sentences.device)
    for step in range(1 if pooling == "mean" else rounds):
        pooled = attended_rows(pairs, cca if step else None, temperature=temperature, pooling=pooling)
        domains = [_moments(sentences, pooled)]
        if known is not None and queries is not None:
            frames = known[1]
            if domain is not None:
                frames = _recolouring(frames, pooled)(frames)
            domains.append(_moments(queries, frames))
        cca.fit_moments(*domains)
    return cca


def _recolouring(x: Tensor, y: Tensor) -> CORALMap:
    """Map rows of one domain to the other, with a larger ridge for fewer rows per feature."""
    return CORALMap(ridge=max(_RECOLOUR, x.shape[1] / min(len(x), len(y)))).fit(x, y)


def _towards(source: ResidentSplit, domain: ResidentSplit) -> CORALMap:
    """Map frames of one domain to the other, from the frames of all videos."""
    return CORALMap(ridge=_RECOLOUR).fit(
        source.frames, domain.frames, source_mask=source.frame_mask, target_mask=domain.frame_mask
    )


def _moments(x: Tensor, y: Tensor) -> PairMoments:
    return PairMoments(x.shape[1], y.shape[1]).to(x.device).update(x, y)


def _pieces(split: ResidentSplit) -> Iterator[VMRBatch]:
    for start in range(0, len(split), _CHUNK):
        yield split.slice(range(start, min(start + _CHUNK, len(split))))


def _inside(batch: VMRBatch) -> Tensor:
    assert batch.windows is not None
    assert batch.window_mask is not None
    return moment_targets(batch.windows, batch.window_mask, batch.clip_times, batch.frame_mask).inside


def _best_frames(similarity: Tensor, frame_mask: Tensor) -> Tensor:
    """1 for the best eighth of the valid frames of each row, else 0."""
    ranked = torch.where(frame_mask, similarity, -torch.inf).argsort(1, descending=True).argsort(1)
    count = (_TOP * frame_mask.sum(1, keepdim=True)).ceil().clamp(min=1)
    return ((ranked < count) & frame_mask).to(similarity.dtype)


def _weighted(batch: VMRBatch, weight: Tensor) -> Tensor:
    """Mean of the frames with ``weight`` (b, t); zeros if all weights are zero."""
    total = weight.sum(1, keepdim=True)
    share = weight / torch.where(total > 0, total, torch.ones_like(total))
    return torch.bmm(share.unsqueeze(1), zero_padding(batch.frames, batch.frame_mask)).squeeze(1)


@dataclass(frozen=True)
class _Member:
    """The data that one map is fitted to."""

    known: bool
    asked: bool
    recoloured: bool
    pooling: Pooling
    scale: float


def _members(known: bool, asked: bool, recoloured: bool, pooling: Pooling) -> list[_Member]:
    """The members of a linear model, most important first."""
    if not asked or not known:
        return [_Member(known, asked, recoloured, pooling, scale) for scale in (1.0, 0.5)]
    return [
        _Member(False, True, False, pooling, 1.0),
        _Member(True, True, recoloured, pooling, 0.5),
        _Member(True, False, recoloured, pooling, 0.5),
        _Member(True, True, False, pooling, 1.0),
    ]


def start_linear(
    model: MMCDA,
    source: ResidentSplit | None,
    pairs: ResidentSplit | None,
    *,
    domain: ResidentSplit | None = None,
    pooling: Pooling = "attention",
    fitted: MutableMapping[Hashable, object] | None = None,
) -> None:
    """Set the linear maps of a linear :class:`MMCDA` in closed form; learned parameters are unchanged.

    The members differ in their training data. In order, they are fitted to only the target's pairs, with directions
    weighted by their correlation; to the source and the pairs, weighted by its square root; to only the source, also by
    the square root; and to the source, unchanged by ``domain``, and the pairs by the correlation, the best map where
    both domains are alike. The weight of each member comes from the pairs: every map is fitted to half of the target's
    videos, and :func:`stacked_weights` finds the weights that best retrieve the videos of the other half's queries. A
    source far from the target gets a small weight this way; boundaries are not read. With fewer than 32 videos the
    weights are shrunk towards those used without pairs, one half for the second and the third map; with fewer than 8
    they equal those. Without pairs, or without a source, there are two maps, one of each scale, with equal weights.

    Args:
        model: from :func:`build_mmcda` with ``form="linear"``; changed in place. Uses the first ``members`` maps.
        source: labelled pairs.
        pairs: the target's pairs; their moments are not used.
        domain: as in :func:`fit_joint_maps`.
        pooling: as in :func:`attended_rows`.
        fitted: cache of fitted maps, for further calls with the same splits.

    Returns:
        Nothing; sets the model's maps, their weights, and the reference sentences of its neighbour scaling.

    Raises:
        TypeError: the heads are not :class:`LinearHead`.
        ValueError: neither ``source`` nor ``pairs``; a source without moments.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> split = ResidentSplit.from_batch(simulate(World(videos=30, test_videos=1)).source_train)
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, joint=8, form="linear"))
        >>> start_linear(model, split, None)
        >>> model(split.slice([0, 1])).joint_query.shape
        torch.Size([2, 32])
    """
    video, query = model.video_head, model.query_head
    for name, head in (("model.video_head", video), ("model.query_head", query)):
        if not isinstance(head, LinearHead):
            fail_type("start_linear", name, "be a LinearHead", head)
    assert isinstance(video, LinearHead)
    assert isinstance(query, LinearHead)
    if source is None and pairs is None:
        fail("start_linear", "source", "be given without `pairs`", "neither")
    members = _members(source is not None, pairs is not None, domain is not None, pooling)[: video.members]
    kept: MutableMapping[Hashable, object] = {} if fitted is None else fitted

    def maps(member: _Member, asked: ResidentSplit | None, part: str) -> CCA:
        key = (member, video.joint, part)
        if key not in kept:
            kept[key] = fit_joint_maps(
                source if member.known else None,
                asked if member.asked else None,
                components=video.joint,
                scale=member.scale,
                pooling=member.pooling,
                domain=domain if member.recoloured else None,
            )
        found = kept[key]
        assert isinstance(found, CCA)
        return found

    def scores(member: _Member, half: ResidentSplit, other: ResidentSplit, part: str) -> tuple[Tensor, Tensor]:
        key = (member, video.joint, part, "scores")
        if key not in kept:
            kept[key] = pair_scores(maps(member, half, part if member.asked else "all"), other)
        return kept[key]  # type: ignore[return-value]

    shares = torch.full((len(members),), 1 / len(members), dtype=torch.float64)
    if pairs is not None and source is not None and len(members) > 1:
        informed = torch.tensor([float(member.known and member.scale < 1) for member in members], dtype=torch.float64)
        shares = informed / informed.sum()
        halves, trust = _halves(pairs)
        found = []
        for part, (half, other) in zip(("first", "second"), halves):
            each = [scores(member, half, other, part) for member in members]
            found.append(stacked_weights(torch.stack([s for s, _ in each]), each[0][1]))
        if found:
            shares = shares.lerp(torch.stack(found).mean(0).to(shares), trust)
    everything = torch.zeros(video.members, dtype=torch.float64)
    everything[: len(members)] = shares.cpu()
    for at, member in enumerate(members):
        cca = maps(member, pairs, "all")
        query.start(at, cca.x_mean, cca.x_map)
        video.start(at, cca.y_mean, cca.y_map)
    query.weigh(everything)
    video.weigh(everything)
    if model.neighbours is not None:
        spoken = domain if domain is not None else pairs if pairs is not None else source
        assert spoken is not None
        model.neighbours.keep(sentence_rows(spoken))


def _halves(pairs: ResidentSplit) -> tuple[list[tuple[ResidentSplit, ResidentSplit]], float]:
    """Both orders of two halves of the videos, and the confidence in weights fitted to them, in [0, 1]."""
    videos, place = torch.unique(pairs.frame_row, return_inverse=True)
    if len(videos) < _FEW:
        return [], 0.0
    first, second = (pairs.select((place % 2 == side).nonzero().flatten().tolist()) for side in (0, 1))
    return [(first, second), (second, first)], min(1.0, len(videos) / _ENOUGH)
