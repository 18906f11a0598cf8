"""The linear form: closed-form maps, learned heads, neighbours, votes; and the objective as a list."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmda.losses import SigmoidContrastiveLoss, sigmoid_contrastive_loss
from mmda.metrics import temporal_iou
from mmda.models.mmcda import (
    MMCDA,
    FrameAgreement,
    LinearHead,
    MMCDAConfig,
    MMCDAObjective,
    NeighbourScaling,
    PooledPairTerm,
    QueryFeedback,
    Term,
    TrainingConfig,
    View,
    attended_rows,
    build_mmcda,
    closed_form,
    default_terms,
    fit,
    fit_joint_maps,
    high_runs,
    load_model,
    moment_rows,
    save_model,
    sentence_rows,
    smoothed,
    stacked_weights,
    start_linear,
    vote_spans,
)
from mmda.vmr import ResidentLoader, ResidentSplit, Simulation, World, simulate

CONFIG = MMCDAConfig(video_width=12, query_width=10, joint=6, form="linear", members=2)


@pytest.fixture(scope="module")
def draw() -> Simulation:
    return simulate(World(videos=60, test_videos=20, video_width=12, query_width=10), seed=3)


@pytest.fixture(scope="module")
def splits(draw: Simulation) -> tuple[ResidentSplit, ResidentSplit]:
    return tuple(ResidentSplit.from_batch(batch) for batch in (draw.source_train, draw.target_train))  # type: ignore


def started(splits: tuple[ResidentSplit, ResidentSplit], **changes: object) -> MMCDA:
    torch.manual_seed(0)
    model = build_mmcda(replace(CONFIG, **changes))  # type: ignore[arg-type]
    start_linear(model, splits[0], splits[1].without_moments(), domain=splits[1].without_moments())
    return model.eval()


def profile(seed: int, b: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities, mask and clip times of videos of different lengths."""
    g = torch.Generator().manual_seed(seed)
    s = torch.randn(b, t, generator=g, dtype=torch.float64)
    length = torch.randint(1, t + 1, (b,), generator=g)
    mask = torch.arange(t) < length.unsqueeze(1)
    edge = torch.arange(t + 1, dtype=torch.float64) * 2
    times = torch.stack([edge[:-1], edge[1:]], 1).expand(b, t, 2)
    return s.masked_fill(~mask, torch.nan), mask, times


def plain_run(s: np.ndarray, times: np.ndarray, width: int, level: float) -> tuple[float, float]:
    """The decoder in a loop over clips."""
    n, h = len(s), width // 2
    m = np.array([s[max(0, i - h) : i + h + 1].mean() for i in range(n)])
    k = int(m.argmax())
    least = m.mean() + level * (m.max() - m.mean())
    first = last = k
    while first > 0 and m[first - 1] >= least:
        first -= 1
    while last < n - 1 and m[last + 1] >= least:
        last += 1
    return times[first, 0], times[last, 1]


@pytest.mark.parametrize(("width", "level"), list(itertools.product((1, 4, 7), (0.0, 0.3, 1.0))))
def test_a_run_is_that_of_a_loop_over_clips(width: int, level: float) -> None:
    s, mask, times = profile(width, 40, 20)
    found = high_runs(s, mask, times, width=width, level=level)
    for i in range(len(s)):
        n = int(mask[i].sum())
        expected = plain_run(s[i, :n].numpy(), times[i, :n].numpy(), width, level)
        assert found[i].tolist() == pytest.approx(expected)


def test_longer_videos_are_smoothed_over_as_large_a_share() -> None:
    s = torch.randn(1, 50, dtype=torch.float64)
    fine = s.repeat_interleave(3, 1)  # 150 clips for the same 50: twice as many as 75
    there = torch.ones_like(fine, dtype=torch.bool)
    wide = smoothed(fine, there, 7)  # a window of 15 clips
    expected = torch.nn.functional.avg_pool1d(fine, 15, 1)
    assert torch.allclose(wide[:, 7:-7], expected)


@pytest.mark.parametrize(("seconds", "window"), [(0.5, 29), (1.0, 15), (2.0, 7), (4.0, 7)])
def test_wide_windows_are_no_longer_in_seconds_than_those_of_75_clips(seconds: float, window: int) -> None:
    """300 clips: of half a second a video of 75 clips of 2 s seen finer, of 2 s one four times as long."""
    s = torch.randn(2, 300, dtype=torch.float64)
    there = torch.ones_like(s, dtype=torch.bool)
    times = (seconds * torch.arange(301.0)).unfold(0, 2, 1).expand(2, -1, -1)
    expected = torch.nn.functional.avg_pool1d(s, window, 1)
    half = window // 2
    assert torch.allclose(smoothed(s, there, 7, clip_times=times)[:, half:-half], expected)
    s = torch.zeros(1, 300).index_fill(1, torch.arange(140, 152), 1.0)
    run = high_runs(s, there[:1], times[:1], width=7, level=0.5)[0].tolist()
    assert (run == [140 * seconds, 152 * seconds]) == (window == 7)  # wider ones blur twelve clips


def test_the_vote_is_the_span_of_the_largest_mean_iou() -> None:
    s, mask, times = profile(0, 60, 25)
    s, mask, times = (each[mask.sum(1) >= 15] for each in (s, mask, times))  # no window is wider than a third
    widths, levels = (3, 5), (0.1, 0.3, 0.5)
    spans = vote_spans(s, mask, times, n=3, widths=widths, levels=levels)
    all_runs = torch.stack([high_runs(s, mask, times, width=w, level=a) for w in widths for a in levels], 1)
    for i in range(len(s)):
        mean = [float(temporal_iou(run, all_runs[i]).mean()) for run in all_runs[i]]
        best = float(temporal_iou(spans.windows[i, 0], all_runs[i]).mean())
        assert best == pytest.approx(max(mean))
        assert spans.scores[i, 0].item() == pytest.approx(math.log(max(mean)))
    order = spans.scores.masked_fill(~spans.mask, -1e9)
    assert (order[:, :-1] >= order[:, 1:]).all()
    again = temporal_iou(spans.windows[:, :1], spans.windows[:, 1:])
    assert (again[spans.mask[:, 1:]] <= 0.5).all()  # further spans do not overlap


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
def test_fewer_spans_are_the_first_of_more(threshold: float) -> None:
    """As many spans as requested while clips are left, each different from those before it."""
    s, mask, times = profile(7, 40, 40)
    most = vote_spans(s, mask, times, n=6, nms_threshold=threshold)
    for n in (1, 2, 3, 5):
        fewer = vote_spans(s, mask, times, n=n, nms_threshold=threshold)
        for found, wanted in zip(fewer, most):
            assert torch.equal(found, wanted[:, :n])
    for windows, kept in zip(most.windows, most.mask):
        overlap = temporal_iou(windows[kept].unsqueeze(1), windows[kept].unsqueeze(0)).fill_diagonal_(0)
        assert (overlap <= threshold).all()


@pytest.mark.parametrize("clips", [3, 6, 8])
def test_short_videos_are_voted_on_by_windows_of_a_third(clips: int) -> None:
    """A window as wide as the video would give a flat profile, and the whole video for every span."""
    times = torch.arange(clips + 1.0).unfold(0, 2, 1).unsqueeze(0)
    s = torch.zeros(1, clips).index_fill(1, torch.tensor([1]), 1.0)
    found = vote_spans(s, s >= 0, times, n=1, widths=(11, 21)).windows[0, 0]
    half = clips // 6
    assert found.tolist() == [1.0 - half, 2.0 + half]
    assert torch.equal(smoothed(s, s >= 0, 11, widest=1 / 3), smoothed(s, s >= 0, 2 * half + 1))


def test_a_flat_profile_has_one_span_and_ends() -> None:
    """Every vote is the whole video: no other span is found, and the search ends."""
    times = torch.arange(31.0).unfold(0, 2, 1).unsqueeze(0)
    spans = vote_spans(torch.ones(1, 30), torch.ones(1, 30, dtype=torch.bool), times, n=5)
    assert spans.mask.tolist() == [[True, False, False, False, False]]
    nothing = vote_spans(torch.ones(1, 30), torch.zeros(1, 30, dtype=torch.bool), times, n=2)
    assert not nothing.mask.any()
    assert (nothing.scores == -torch.inf).all()


def test_padding_changes_no_span() -> None:
    s, mask, times = profile(4, 10, 15)
    for fill in (0.0, 1e9, math.inf):
        other = vote_spans(s.masked_fill(~mask, fill), mask, times, n=2)
        assert torch.equal(other.windows, vote_spans(s, mask, times, n=2).windows)


def test_pooled_frames_are_the_formulas(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    source, target = splits
    assert source.windows is not None
    moment, sentence = moment_rows(source), sentence_rows(source)
    maps = fit_joint_maps(source, None, components=5)
    attended = attended_rows(target.without_moments(), maps, temperature=0.2)
    for i in range(0, len(source), 7):
        pair, other = source.slice([i]), target.slice([i])
        centre = pair.clip_times[0].mean(1)
        inside = ((centre >= source.windows[i, 0, 0]) & (centre < source.windows[i, 0, 1])) & pair.frame_mask[0]
        torch.testing.assert_close(moment[i], pair.frames[0, inside].mean(0))
        torch.testing.assert_close(sentence[i], pair.words[0, pair.word_mask[0]].mean(0))
        frames = other.frames[0, other.frame_mask[0]].double()
        query = (other.words[0, other.word_mask[0]].double().mean(0) - maps.x_mean) @ maps.x_map
        cosine = torch.cosine_similarity((frames - maps.y_mean) @ maps.y_map, query.unsqueeze(0))
        expected = torch.softmax(cosine / 0.2, 0) @ frames
        torch.testing.assert_close(attended[i].double(), expected, atol=1e-5, rtol=1e-4)


def test_one_fit_is_that_of_the_pooled_rows_and_both_domains_weigh_the_same(
    splits: tuple[ResidentSplit, ResidentSplit],
) -> None:
    source, target = splits[0].select(range(20)), splits[1].without_moments()
    found = fit_joint_maps(source, target, components=4, rounds=2)
    first = fit_joint_maps(source, target, components=4, rounds=1)
    x = torch.cat([sentence_rows(source), sentence_rows(target)]).double().numpy()
    y = torch.cat([moment_rows(source), attended_rows(target, first)]).double().numpy()
    w = np.r_[np.full(20, 0.5 / 20), np.full(len(target), 0.5 / len(target))]
    c = np.cov(np.c_[x, y].T, aweights=w, ddof=0)
    p = x.shape[1]

    def inverse_root(m: np.ndarray) -> np.ndarray:
        e, u = np.linalg.eigh(m + np.trace(m) / len(m) * np.eye(len(m)))
        return (u / np.sqrt(e)) @ u.T

    s = np.linalg.svd(inverse_root(c[:p, :p]) @ c[:p, p:] @ inverse_root(c[p:, p:]), compute_uv=False)
    np.testing.assert_allclose(found.correlations.numpy(), s[:4], rtol=1e-5)


def test_no_moment_of_the_pairs_is_read(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    assert splits[1].windows is not None
    moved = replace(splits[1], windows=splits[1].windows + 3.0)
    model, other = (build_mmcda(CONFIG) for _ in range(2))
    start_linear(model, splits[0], splits[1], domain=splits[1])
    start_linear(other, splits[0], moved, domain=moved)
    assert torch.equal(model.video_head.matrix, other.video_head.matrix)  # type: ignore[union-attr]


def test_the_joint_cosine_is_the_weighted_mean_of_the_members(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    model = started(splits)
    batch = splits[1].slice(range(5))
    output = model(batch)
    cosines = [
        torch.cosine_similarity(part, query.unsqueeze(1), dim=2)
        for part, query in zip(output.joint_frames.split(6, 2), output.joint_query.split(6, 1))
    ]
    share = model.video_head.share
    assert isinstance(share, Tensor)
    assert bool((share > 0).all())
    mean = torch.einsum("m,mbt->bt", share, torch.stack(cosines)) / model.temperature
    torch.testing.assert_close(output.similarity[output.frame_mask], mean[output.frame_mask])
    alone = fit_joint_maps(None, splits[1].without_moments(), components=6)
    frames = torch.nn.functional.normalize(alone.map_y(batch.frames), dim=2)
    query = torch.nn.functional.normalize(alone.map_x(sentence_rows(ResidentSplit.from_batch(batch))), dim=1)
    first = torch.einsum("btd,bd->bt", frames, query)
    torch.testing.assert_close(cosines[0][batch.frame_mask], first[batch.frame_mask], atol=1e-5, rtol=1e-4)


def test_what_is_learned_starts_at_zero_and_learns(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    model, plain = started(splits, residual=8), started(splits)
    batch = splits[1].slice(range(8))
    assert torch.equal(model(batch).similarity, plain(batch).similarity)
    before = {name: value.clone() for name, value in model.named_buffers()}
    terms = default_terms({"frame_query": 1.0, "cross_modal": 1.0})
    loaders = ResidentLoader(splits[0], 16), ResidentLoader(splits[1], 16, labels=False)
    fit(model, MMCDAObjective(terms=terms), *loaders, config=TrainingConfig(steps=3, evaluations=1))
    assert not torch.equal(model(batch).similarity, plain(batch).similarity)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_padding_and_batching_change_no_answer(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    model, batch = started(splits), splits[1].slice(range(6))
    dirty = replace(
        batch,
        frames=batch.frames.masked_fill(~batch.frame_mask.unsqueeze(2), torch.nan),
        words=batch.words.masked_fill(~batch.word_mask.unsqueeze(2), torch.inf),
    )
    whole = model.predict(batch, n=2)
    assert torch.equal(model.predict(dirty, n=2).windows, whole.windows)
    assert torch.equal(model.predict(batch.slice([4]), n=2).windows, whole.windows[4:5])


def test_a_started_model_goes_through_a_file(tmp_path: Path, splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    model, batch = started(splits), splits[1].slice(range(4))
    save_model(tmp_path / "model.pt", model, CONFIG)
    other, _ = load_model(tmp_path / "model.pt")
    assert torch.equal(other.predict(batch).windows, model.predict(batch).windows)


def test_neighbours_take_the_mean_of_the_nearest_queries() -> None:
    torch.manual_seed(0)
    scaling = NeighbourScaling(4, references=10, share=0.3, strength=2.0)
    frames = torch.nn.functional.normalize(torch.randn(2, 3, 4), dim=2)
    assert not scaling(frames, nn.Identity()).any()
    sentences = torch.randn(25, 4)
    scaling.keep(sentences)
    assert torch.equal(scaling.sentences, sentences[[0, 2, 5, 7, 10, 12, 15, 17, 20, 22]])
    unit = torch.nn.functional.normalize(scaling.sentences, dim=1)
    expected = 2.0 * (frames @ unit.T).sort(-1, descending=True).values[..., :3].mean(-1)
    torch.testing.assert_close(scaling(frames, nn.Identity()), expected)


def test_what_cannot_be_started_is_told(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    with pytest.raises(TypeError, match=r"start_linear: `model.video_head` must be a LinearHead, got Sequential"):
        start_linear(build_mmcda(replace(CONFIG, form="towers")), splits[0], None)
    with pytest.raises(ValueError, match="fit_joint_maps: `source` must be given without `pairs`"):
        fit_joint_maps(None, None)
    with pytest.raises(ValueError, match="moment_rows: `split` must carry windows"):
        fit_joint_maps(splits[0].without_moments(), None)
    with pytest.raises(ValueError, match=r"LinearHead.start: `member` must be one of 1, got 1"):
        LinearHead(3, 2).start(1, torch.zeros(3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="MMCDAConfig: `shared_space` must be False"):
        MMCDAConfig(4, 4, form="linear", shared_space=True)


def views(draw: Simulation) -> tuple[View, View]:
    model = build_mmcda(MMCDAConfig(video_width=12, query_width=10, hidden=16, joint=8))
    source, target = draw.source_train.slice(range(8)), draw.target_train.slice(range(8)).without_moments()
    return View(model(source), source), View(model(target), target)


def test_another_loss_stands_in_for_the_contrast(draw: Simulation) -> None:
    """(ii) by the sigmoid loss equals that loss of the pooled rows; the other terms keep their values."""
    source, target = views(draw)
    terms = [term for term in default_terms() if term.role != "cross_modal"]
    terms.append(Term("cross_modal", "target", 0.25, PooledPairTerm(SigmoidContrastiveLoss(bias=-3.0))))
    args = (source.output, source.batch, target.output, target.batch)
    usual, changed = MMCDAObjective()(*args), MMCDAObjective(terms=terms)(*args)
    out = target.output
    cosine = (out.joint_frames * out.joint_query.unsqueeze(1)).sum(2).masked_fill(~out.frame_mask, -math.inf)
    pooled = torch.einsum("bt,btd->bd", torch.softmax(cosine / 0.1, 1), out.joint_frames)
    expected = sigmoid_contrastive_loss(pooled, out.joint_query, bias=-3.0, negative_mask=target.negatives)
    torch.testing.assert_close(changed.terms["cross_modal"], expected, atol=1e-5, rtol=1e-5)
    for role in set(usual.terms) - {"cross_modal"}:
        assert torch.equal(usual.terms[role], changed.terms[role])


def test_a_term_of_ones_own_is_weighed_scaled_and_trained(draw: Simulation) -> None:
    source, target = views(draw)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = nn.Parameter(torch.tensor(2.0))

        def forward(self, first: View, second: View) -> Tensor:
            assert second.batch.windows is None
            return self.size * (first.output.query.mean() - second.output.query.mean()).square() + 1.0

    own = Own()
    objective = MMCDAObjective(terms=[*default_terms({"moment": 1.0}), Term("own", "both", 0.5, own)])
    assert list(objective.parameters()) == [own.size]
    assert objective.needs_target
    assert objective.weights == {"moment": 1.0, "own": 0.5}
    result = objective(source.output, source.batch, target.output, draw.target_train.slice(range(8)), strength=0.1)
    expected = result.terms["moment"] + 0.05 * result.terms["own"]
    assert result.total.item() == pytest.approx(expected.item())


def test_lists_that_contradict_themselves_are_told() -> None:
    term = Term("one", "source", 1.0, lambda view: view.output.query.sum())
    with pytest.raises(ValueError, match=r"MMCDAObjective: `terms` must have different roles, got several of .'one'."):
        MMCDAObjective(terms=[term, term])
    with pytest.raises(ValueError, match="MMCDAObjective: `weights` must be left out if `terms` are given"):
        MMCDAObjective(terms=[term], weights={"moment": 1.0})
    with pytest.raises(ValueError, match="Term: `side` must be one of 'source', 'target', 'both', got 'all'"):
        Term("one", "all", 1.0, term.compute)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Term: `compute` must be callable"):
        Term("one", "source", 1.0, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"View.labels: `batch` must have windows"):
        _ = View(None, simulate(World(videos=2, test_videos=1)).target_train.without_moments()).labels  # type: ignore[arg-type]


def test_stacked_weights_are_the_minimum_over_non_negative_ones() -> None:
    g = torch.Generator().manual_seed(0)
    own = torch.randint(7, (40,), generator=g)
    scores = torch.randn(3, 40, 7, generator=g, dtype=torch.float64)
    scores[0] += 2 * torch.nn.functional.one_hot(own, 7)
    scores[1] += torch.nn.functional.one_hot(own, 7)
    scores[2] -= torch.nn.functional.one_hot(own, 7)
    found = stacked_weights(scores, own)
    centred = (scores - scores.mean(2, keepdim=True)).numpy()

    def loss(a: np.ndarray) -> float:
        together = np.einsum("m,mnv->nv", a, centred)
        fit = np.log(np.exp(together).sum(1)) - together[np.arange(40), own]
        return float(fit.mean() + (np.square(centred).mean((1, 2)) * a**2).sum() / 80)

    grid = np.linspace(0, 4, 81)
    best = min((loss(np.array([a, b, 0.0])), a, b) for a in grid for b in grid)
    assert loss(np.array([best[1], best[2], 0.05])) > best[0]  # leaving out the third is better
    np.testing.assert_allclose(found.numpy(), np.array([best[1], best[2], 0]) / (best[1] + best[2]), atol=0.02)
    assert stacked_weights(-scores[:2], own).tolist() == [0.5, 0.5]  # no moments: equal weights


def test_a_source_of_strangers_counts_little(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    near, pairs = splits[1], splits[1].without_moments()
    far = replace(near, words=near.words.roll(1, 0), word_mask=near.word_mask.roll(1, 0))
    shares = []
    for source in (near, far):
        model = build_mmcda(replace(CONFIG, members=3))
        start_linear(model, source, pairs)
        share = model.video_head.share
        assert isinstance(share, Tensor)
        assert torch.equal(share, model.query_head.share)  # type: ignore[arg-type]
        shares.append(float(share[2]))
    assert shares[1] < 0.1 < 0.3 < shares[0]


def test_a_source_of_the_same_domain_is_taken_as_it_is(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    """The last map has the larger weight where both domains are one, and a smaller one for a moved source."""
    every, shares = splits[1], []
    source, pairs = (every.select((every.frame_row % 2 == side).nonzero().flatten()) for side in (0, 1))
    pairs = pairs.without_moments()
    moved = replace(source, frames=source.frames @ torch.randn(12, 12, generator=torch.Generator().manual_seed(3)))
    for known in (source, moved):
        model = build_mmcda(replace(CONFIG, members=4))
        start_linear(model, known, pairs, domain=pairs)
        shares.append(model.video_head.share.tolist())  # type: ignore[union-attr]
    assert shares[1][3] < 0.2 < 0.4 < shares[0][3]


def test_few_pairs_weigh_no_map_of_their_own(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    """Below 8 videos the maps fitted with moments have equal weights; up to 32 the weights are shrunk towards that."""
    source, pairs = splits[0], splits[1].without_moments()

    def shares(videos: int, **change: Any) -> Tensor:
        model = build_mmcda(replace(CONFIG, members=4))
        kept = pairs.select((pairs.frame_row < videos).nonzero().flatten())
        with pytest.MonkeyPatch.context() as patch:
            for name, value in change.items():
                patch.setattr(closed_form, name, value)
            start_linear(model, source, kept, domain=kept)
        share = model.video_head.share
        assert isinstance(share, Tensor)
        return share.double()

    nothing = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    assert torch.equal(shares(7), nothing)
    told = shares(20, _ENOUGH=1)  # as if 20 videos sufficed
    assert (told - nothing).abs().max() > 0.05
    torch.testing.assert_close(shares(20), nothing.lerp(told, 20 / 32), rtol=1e-5, atol=1e-6)


def test_a_query_moves_as_the_formula_says() -> None:
    g = torch.Generator().manual_seed(2)
    frames = torch.nn.functional.normalize(torch.randn(2, 9, 5, generator=g, dtype=torch.float64), dim=2)
    query = torch.nn.functional.normalize(torch.randn(2, 5, generator=g, dtype=torch.float64), dim=1)
    common = torch.randn(2, 9, generator=g, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    feedback = QueryFeedback(0.7, rounds=3, temperature=0.2)
    found = feedback(query, frames.masked_fill(~mask.unsqueeze(2), torch.nan), mask, common)
    for i, n in enumerate((9, 4)):
        f, h = frames[i, :n].numpy(), common[i, :n].numpy()
        q = first = query[i].numpy()
        for _ in range(3):
            share = np.exp((f @ q - h) / 0.2)
            q = first + 0.7 * ((share / share.sum()) @ f - f.mean(0))
            q = q / np.linalg.norm(q)
        np.testing.assert_allclose(found[i].numpy(), q, atol=1e-12)
    alike = frames[:, :1].expand(-1, 9, -1)
    torch.testing.assert_close(feedback(query, alike, mask, common), query)


def test_feedback_moves_the_similarity_of_a_prediction_alone(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    batch = splits[1].slice([0, 1, 2])
    plain, fed = (started(splits, agreement=0.0, feedback=strength) for strength in (0.0, 0.9))
    with torch.no_grad():
        before, output = plain(batch), fed(batch)
        assert plain.feedback is None
        assert fed.feedback is not None
        assert torch.equal(output.similarity, before.similarity)
        common = fed.neighbours(output.joint_frames, fed.query_head)  # type: ignore[misc]
        moved = fed.feedback(output.joint_query, output.joint_frames, output.frame_mask, common)
        expected = (output.joint_frames @ moved.unsqueeze(2)).squeeze(2) - common
        torch.testing.assert_close(fed.profile(output), expected / fed.temperature)
        assert (fed.profile(output) - plain.profile(before)).abs().max() > 0.1


def test_frames_agree_as_the_formula_says() -> None:
    g = torch.Generator().manual_seed(1)
    frames = torch.nn.functional.normalize(torch.randn(2, 90, 5, generator=g, dtype=torch.float64), dim=2)
    s = torch.randn(2, 90, generator=g, dtype=torch.float64)
    mask = torch.arange(90) < torch.tensor([[84], [6]])
    found = FrameAgreement(2.0, temperature=0.3)(s.masked_fill(~mask, torch.nan), frames, mask)
    for i, n in enumerate((84, 6)):
        width = 2.0 * max(1.0, n / 75)
        for t in range(n):
            near = [float(frames[i, t] @ frames[i, u]) / 0.3 - (t - u) ** 2 / (2 * width**2) for u in range(n)]
            share = np.exp(near) / np.exp(near).sum()
            assert abs(float(found[i, t]) - share @ s[i, :n].numpy()) < 1e-10
    assert not found[~mask].any()


def test_pairs_are_pooled_by_all_by_the_best_or_alike(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    pairs = splits[1].without_moments()
    maps = fit_joint_maps(None, pairs, components=6)
    alike = attended_rows(pairs)
    assert torch.equal(attended_rows(pairs, maps, pooling="mean"), alike)
    best = attended_rows(pairs, maps, pooling="top")
    frames = pairs.frames[pairs.frame_row[0]][pairs.frame_mask[pairs.frame_row[0]]]
    query = torch.nn.functional.normalize(maps.map_x(sentence_rows(pairs)[:1]), dim=1)
    cosine = torch.nn.functional.normalize(maps.map_y(frames), dim=1) @ query[0]
    kept = cosine.topk(-(-len(frames) // 8)).indices
    torch.testing.assert_close(best[0], frames[kept].mean(0))
    assert not torch.equal(fit_joint_maps(None, pairs, components=6, pooling="mean").x_map, maps.x_map)


def test_a_state_of_equal_members_is_still_read(splits: tuple[ResidentSplit, ResidentSplit]) -> None:
    model = started(splits)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("share")}
    other = build_mmcda(CONFIG)
    other.load_state_dict(state)
    assert other.video_head.share.tolist() == [0.5, 0.5]  # type: ignore[union-attr,operator]
