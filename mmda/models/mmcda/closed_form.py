"""The joint space in closed form: linear maps from the source's moments and the target's pairs, before any training."""

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

#: Pairs whose frames are held at a time.
_CHUNK = 256

#: Ridge of the CORAL map between domains, at least: see :func:`_recolouring`.
_RECOLOUR = 0.1

#: How the frames of a pair stand for its moment: all, by how much they look like the query; the best; or all alike.
Pooling = Literal["attention", "top", "mean"]

#: Fewer videos than the first say nothing about which map is good; fewer than the second not all.
_FEW, _ENOUGH = 8, 32

#: Share of a video's frames that are its best.
_TOP = 0.125


def sentence_rows(split: ResidentSplit) -> Tensor:
    """Mean of the words of each query.

    Args:
        split: its words are read.

    Returns:
        (n, d_q), a row a pair.

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
        split: with its moments.

    Returns:
        (n, d_v), a row a pair.

    Raises:
        ValueError: the moments are closed.

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
    r"""Mean of each video's frames, weighted by how much they look like the query under ``maps``.

    .. math:: p_i = \sum_t \operatorname{softmax}_t(\cos(x_{it} B, q_i A) / \tau) \, x_{it}

    Args:
        split: pairs; no moment is read.
        maps: fitted to (query, frame) rows; ``None`` weighs all frames alike.
        temperature: :math:`\tau` > 0.
        pooling: ``"attention"``, the formula; ``"top"``: the plain mean of the best eighth of the frames, at least one;
            ``"mean"``: of all frames.

    Returns:
        (n, d_v), a row a pair.

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
        maps = copy.deepcopy(maps).to(split.frames.dtype)  # weights of a mean need no double precision
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
    r"""Canonical correlation of queries (x) with frames (y), from labelled moments, unlabelled pairs, or both.

    A source pair is a query and the mean frame of its known moment; a target pair is a query and its video's frames,
    pooled by the map of the round before (:func:`attended_rows`), at first alike. Both domains weigh the same.

    Args:
        source: labelled pairs.
        pairs: pairs whose moments are not known, and are not read.
        components: width of the joint space.
        ridge: of :class:`mmda.linear.CCA`; 1 doubles the mean variance of each side.
        scale: of :class:`mmda.linear.CCA`.
        rounds: fits, each with frames pooled anew.
        temperature: of the pooling.
        pooling: of :func:`attended_rows`.
        domain: give the source's rows the mean and covariance of this domain first, on both sides
            (:class:`mmda.linear.CORALMap`): those of its queries and of its pooled frames, or without ``pairs`` of all
            its frames. Without it, that the domains' means differ is itself a correlation.

    Returns:
        The fitted maps: ``map_x`` takes sentences, ``map_y`` frames.

    Raises:
        ValueError: neither side is given, a source without moments, numbers out of range.

    Notes:
        O(rounds n (t d k + d^2)) time; the frames of 256 pairs are held at a time.

    Example:
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> draw = simulate(World(videos=30, test_videos=1))
        >>> source, target = (ResidentSplit.from_batch(b) for b in (draw.source_train, draw.target_train))
        >>> fit_joint_maps(source, target.without_moments(), components=8).map_y(target.frames).shape[-1]
        8

    References:
        The pooling in rounds is chosen here; for the parts see :mod:`mmda.linear`.
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
    """Rows of one domain as the other's. The fewer rows for the features, the less their covariances can be trusted."""
    return CORALMap(ridge=max(_RECOLOUR, x.shape[1] / min(len(x), len(y)))).fit(x, y)


def _towards(source: ResidentSplit, domain: ResidentSplit) -> CORALMap:
    """From frames of one domain to those of the other, by the frames of all their videos."""
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
    """1 at the best eighth of the real frames of each row, else 0."""
    ranked = torch.where(frame_mask, similarity, -torch.inf).argsort(1, descending=True).argsort(1)
    count = (_TOP * frame_mask.sum(1, keepdim=True)).ceil().clamp(min=1)
    return ((ranked < count) & frame_mask).to(similarity.dtype)


def _weighted(batch: VMRBatch, weight: Tensor) -> Tensor:
    """Mean of the frames by ``weight`` (b, t); zeros where there is none."""
    total = weight.sum(1, keepdim=True)
    share = weight / torch.where(total > 0, total, torch.ones_like(total))
    return torch.bmm(share.unsqueeze(1), zero_padding(batch.frames, batch.frame_mask)).squeeze(1)


@dataclass(frozen=True)
class _Member:
    """What one map is fitted to."""

    known: bool
    asked: bool
    recoloured: bool
    pooling: Pooling
    scale: float


def _members(known: bool, asked: bool, recoloured: bool, pooling: Pooling) -> list[_Member]:
    """The maps that stand side by side, the first the most needed."""
    if not asked or not known:
        return [_Member(known, asked, recoloured, pooling, scale) for scale in (1.0, 0.5)]
    return [
        _Member(False, True, False, pooling, 1.0),
        _Member(True, True, recoloured, pooling, 0.5),
        _Member(True, False, recoloured, pooling, 0.5),
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
    """Fix the maps of a linear :class:`MMCDA` in closed form; nothing that is learned changes.

    The members differ in what they believe. In turn they are fitted to the target's pairs alone, with directions
    weighed by their correlation; to the source and the pairs, weighed by its square root; and to the source alone,
    weighed so too. How much each counts is read from the pairs: every map is fitted to half of the target's videos, and
    :func:`stacked_weights` asks which weights find the videos of the other half's queries best. A far source gets
    little that way, and no boundary is read. Fewer than 32 videos tell less: their weights are drawn towards those of
    no pair at hand, which leave the map of the pairs alone out, and with fewer than 8 they are those. Without pairs, or
    without a source, there are two maps, of either scale, that count alike.

    Args:
        model: of :func:`build_mmcda` with ``form="linear"``; changed in place. Of the maps it takes the first
            ``members``.
        source: labelled pairs.
        pairs: the target's pairs; no moment of theirs is read.
        domain: of :func:`fit_joint_maps`.
        pooling: of :func:`attended_rows`.
        fitted: keeps what was fitted, for another call with the same splits.

    Returns:
        Nothing; the model's maps, their weights, and the sentences its neighbours are counted among, are set.

    Raises:
        TypeError: the heads are no :class:`LinearHead`.
        ValueError: neither side is given; a source without moments.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import ResidentSplit, World, simulate
        >>> split = ResidentSplit.from_batch(simulate(World(videos=30, test_videos=1)).source_train)
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, joint=8, form="linear"))
        >>> start_linear(model, split, None)
        >>> model(split.slice([0, 1])).joint_query.shape
        torch.Size([2, 24])
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
        informed = torch.tensor([float(member.known) for member in members], dtype=torch.float64)
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
    """Every other video and the others, either way round, and how far what they tell is to be trusted, in [0, 1]."""
    videos, place = torch.unique(pairs.frame_row, return_inverse=True)
    if len(videos) < _FEW:
        return [], 0.0
    first, second = (pairs.select((place % 2 == side).nonzero().flatten().tolist()) for side in (0, 1))
    return [(first, second), (second, first)], min(1.0, len(videos) / _ENOUGH)
