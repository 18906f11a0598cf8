"""A corpus ranks videos as scoring them one by one does, and shows the moments that the model finds in each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda.models.mmcda import MMCDA, Corpus, MMCDAConfig, build_mmcda, encode_videos, start_linear
from mmda.models.mmcda import corpus as module
from mmda.vmr import ArrayStore, ResidentSplit, VMRBatch, World, simulate

FORMS = ["linear", "towers", "shared"]


def built(form: str) -> MMCDA:
    torch.manual_seed(0)
    if form == "shared":
        return build_mmcda(MMCDAConfig(video_width=24, query_width=24, hidden=16, shared_space=True)).eval()
    model = build_mmcda(
        MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8, form="linear" if form == "linear" else "towers")
    )
    if form == "linear":
        split = ResidentSplit.from_batch(simulate(World(videos=30, test_videos=1)).source_train)
        start_linear(model, split, None)
    return model.eval()


def store(width: int, lengths: list[int]) -> ArrayStore:
    rng = np.random.default_rng(0)
    return ArrayStore(
        {f"v{k}": rng.standard_normal((t, width)).astype(np.float32) for k, t in enumerate(lengths)}, clip_seconds=2.0
    )


def one_by_one(model: MMCDA, videos: ArrayStore, words: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Score and moments of each video alone, by the model's own call."""
    found = {}
    template = simulate(World(videos=1, test_videos=1)).target_train.without_moments()
    for vid in videos.ids:
        frames = torch.from_numpy(videos[vid])[None]
        t = frames.shape[1]
        edges = torch.arange(t + 1, dtype=torch.float64) * 2.0
        batch: VMRBatch = replace(
            template.slice([0]),
            frames=frames,
            frame_mask=torch.ones(1, t, dtype=torch.bool),
            clip_times=torch.stack([edges[:-1], edges[1:]], 1)[None],
            words=words[None],
            word_mask=torch.ones(1, len(words), dtype=torch.bool),
        )
        later = model.agreement, model.feedback
        model.agreement = model.feedback = None  # videos are ranked by frames without feedback
        with torch.no_grad():
            profile = model.profile(model(batch))[0] * model.temperature
        model.agreement, model.feedback = later
        best = sorted(profile.tolist(), reverse=True)[:5]
        found[vid] = (sum(best) / len(best), model.predict(batch))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lengths", [[12] * 20, [3, 1, 30, 7, 12, 5, 4, 16, 9, 2, 22]], ids=["equal", "unequal"])
def test_ranks_and_moments_are_those_of_each_video_alone(
    form: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 4)
    monkeypatch.setattr(module, "_CHUNK", 3)
    model = built(form)
    videos = store(24 if form == "shared" else 32, lengths)
    words = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    alone = one_by_one(model, videos, words)
    corpus = encode_videos(model, videos)
    assert repr(corpus) == f"Corpus({len(lengths)} videos, {sum(lengths)} clips)"
    ranked = corpus.rank(words, top=len(lengths), spans=2)
    assert [found.vid for found in ranked] == sorted(alone, key=lambda vid: -alone[vid][0])
    for found in ranked:
        score, spans = alone[found.vid]
        assert found.score == pytest.approx(score, abs=2e-6)
        keep = spans.mask[0, :2]
        torch.testing.assert_close(found.windows, spans.windows[0, :2][keep])
        torch.testing.assert_close(found.scores, spans.scores[0, :2][keep], rtol=1e-4, atol=1e-4)
    few = corpus.rank(words, top=3)
    assert [found.vid for found in few] == [found.vid for found in ranked[:3]]
    assert all(len(found.windows) == 1 for found in few)


def test_no_row_among_the_best_is_left_out() -> None:
    """Many rows with one high entry and a low mean, so that the first selection misses the best means."""
    generator = torch.Generator().manual_seed(0)
    profile = torch.rand(400, 8, generator=generator) * 0.3
    profile[:200, 0] = 2.0  # high entry, low mean: 2 + 4 * 0.3 at most, over 5
    profile[300:304] = 0.9
    known = torch.ones_like(profile, dtype=torch.bool)
    scores, places = module._best_means(profile, known, 4)
    assert places.tolist() == [300, 301, 302, 303]
    assert scores.tolist() == pytest.approx([0.9] * 4)


@torch.no_grad()
def mean_frame_order(model: MMCDA, videos: ArrayStore, words: Tensor) -> list[str]:
    query = model.embed_query(words[None], torch.ones(1, len(words), dtype=torch.bool))[1][0]
    cosines = {}
    for vid in videos.ids:
        frames = torch.from_numpy(videos[vid])[None]
        rows = model.embed_frames(frames, torch.ones(frames.shape[:2], dtype=torch.bool))[1][0]
        cosines[vid] = float(torch.cosine_similarity(rows.mean(0), query, dim=0))
    return sorted(cosines, key=lambda vid: -cosines[vid])


def test_a_preselection_keeps_scores_and_asks_the_mean_frame() -> None:
    model, words = built("linear"), torch.randn(4, 24)
    videos = store(32, [6, 9, 3, 12, 8, 5, 7])
    corpus = encode_videos(model, videos)
    whole = {found.vid: found for found in corpus.rank(words, top=7)}
    nearest = mean_frame_order(model, videos, words)[:3]
    some = corpus.rank(words, top=7, preselect=3)
    assert {found.vid for found in some} == set(nearest)
    for found in some:
        assert found.score == pytest.approx(whole[found.vid].score, abs=1e-6)
        torch.testing.assert_close(found.windows, whole[found.vid].windows)
    assert [found.vid for found in some] == [vid for vid in whole if vid in nearest]


def test_pooled_videos_have_pooled_times() -> None:
    model = built("towers")
    corpus = encode_videos(model, store(32, [10, 4]), max_clips=5)
    assert corpus.lengths.tolist() == [5, 4]
    assert corpus.clip_times[:5].tolist() == [[0, 4], [4, 8], [8, 12], [12, 16], [16, 20]]


def test_bad_input_says_what() -> None:
    model = built("towers")
    bare = ArrayStore({"a": np.ones((3, 32), dtype=np.float32)})
    with pytest.raises(
        ValueError, match="encode_videos: `clip_seconds` must be given for features that do not contain it"
    ):
        encode_videos(model, bare)
    with pytest.raises(ValueError, match="have 32 features, got 7"):
        encode_videos(model, store(7, [3]))
    corpus: Corpus = encode_videos(model, bare, clip_seconds=1.0)
    with pytest.raises(ValueError, match=r"Corpus.rank: `words` must have shape \(words, features\)"):
        corpus.rank(torch.randn(24))
    with pytest.raises(ValueError, match="`top` must be"):
        corpus.rank(torch.randn(2, 24), top=0)
    with pytest.raises(ValueError, match="`preselect` must be"):
        corpus.rank(torch.randn(2, 24), preselect=0)
    with pytest.raises(ValueError, match="have 24 features, got 9"):
        corpus.rank(torch.randn(2, 9))
