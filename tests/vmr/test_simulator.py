"""The simulator: seeds, settings, statistics and words."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mmda.vmr import LAWS, WORLDS, Simulation, VMRBatch, World, encode_sentence, simulate
from mmda.vmr.simulator import _rotation

TINY = {"videos": 60, "test_videos": 30}


def tiny(**knobs: object) -> World:
    base = World(video_mean=0.0, video_rotation=0.0, query_rotation=0.0, cooccurrence=0.0, generic_words=0.0)
    return replace(base, **{**TINY, **knobs})  # type: ignore[arg-type]


def same(a: VMRBatch, b: VMRBatch) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in ((getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    )


def test_same_seed_same_numbers_and_no_global_state() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (simulate(replace(WORLDS["hard"], **TINY), seed=seed) for seed in (5, 5, 6))
    assert all(same(a, b) for a, b in zip(one[:5], two[:5]))
    assert one.texts == two.texts
    assert not same(one.target_test, other.target_test)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_splits_are_different_videos_of_one_world() -> None:
    draw = simulate(tiny())
    assert not torch.equal(draw.target_val.frames, draw.target_test.frames)
    assert [len(split) for split in draw[:5]] == [60, 30, 60, 30, 30]
    names = [qid for split in draw[:5] for qid in split.qids]
    assert len(set(names)) == len(names) == len(draw.texts)


def moments(split: VMRBatch) -> tuple[np.ndarray, np.ndarray]:
    assert split.windows is not None
    relative = (split.windows[:, 0] / split.duration.unsqueeze(1)).numpy()
    return relative[:, 0], relative[:, 1]


@pytest.mark.parametrize("name", sorted(LAWS))
def test_laws_have_the_statistics_they_are_named_after(name: str) -> None:
    law = LAWS[name]
    split = simulate(tiny(source_law=law, videos=1500)).source_train
    start, end = moments(split)
    assert float(split.duration.mean()) == pytest.approx(law.duration, rel=0.03)
    assert (end - start).mean() == pytest.approx(law.share, rel=0.05)
    assert (start < 0.1).mean() == pytest.approx(law.first_tenth, abs=0.05)
    assert float(split.word_mask.sum(1).float().mean()) == pytest.approx(law.words, rel=0.07)


def test_moments_lie_in_the_video_and_clips_cover_it() -> None:
    split = simulate(tiny()).target_train
    start, end = moments(split)
    assert (start >= 0).all()
    assert (end <= 1 + 1e-6).all()
    assert (end > start).all()
    for i in range(len(split)):
        times = split.clip_times[i][split.frame_mask[i]]
        assert float(times[0, 0]) == 0
        assert float(times[-1, 1]) == pytest.approx(float(split.duration[i]), rel=1e-5)
        assert torch.equal(times[1:, 0], times[:-1, 1])


def test_frames_of_the_moment_show_the_concept_that_the_query_names() -> None:
    """Without noise and shift, the mean frame inside of a moment is nearest to those of the same concept."""
    draw = simulate(tiny(noise=0.0, word_noise=0.0, videos=200))
    split = draw.source_train
    assert split.windows is not None
    concept, inside = [], []
    for i, qid in enumerate(split.qids):
        words = [w for w in draw.texts[qid].split() if w.startswith("concept")]
        assert len({w.split("-")[0] for w in words}) == 1
        centre = split.clip_times[i].mean(-1)
        low, high = split.windows[i, 0].tolist()
        middle = (centre - (low + high) / 2).abs().argmin()
        concept.append(words[0].split("-")[0])
        inside.append(split.frames[i, middle])
    x = torch.stack(inside)
    distance = torch.cdist(x, x) + 1e9 * torch.eye(len(x))
    nearest = distance.argmin(1).tolist()
    agree = np.mean([concept[i] == concept[j] for i, j in enumerate(nearest) if concept.count(concept[i]) > 1])
    assert agree > 0.95


def flat(split: VMRBatch, what: str) -> torch.Tensor:
    x, mask = getattr(split, what), split.frame_mask if what == "frames" else split.word_mask
    return x[mask].double()


@pytest.mark.parametrize("what", ["frames", "words"])
@pytest.mark.parametrize("knob", ["mean", "scale", "covariance", "rotation"])
def test_each_knob_moves_its_modality_alone(what: str, knob: str) -> None:
    """The shift is exactly the documented map: fitting it from unshifted to shifted frames leaves no residual."""
    modality = {"frames": "video", "words": "query"}[what]
    plain, moved = (simulate(tiny(noise=0.3, **knobs)) for knobs in ({}, {f"{modality}_{knob}": 0.7}))
    other = "words" if what == "frames" else "frames"
    assert torch.equal(flat(plain.target_test, other), flat(moved.target_test, other))
    assert same(plain.source_train, moved.source_train)
    x, y = flat(plain.target_train, what), flat(moved.target_train, what)
    if knob == "mean":
        offset = (y - x).mean(0)
        assert float(offset.norm()) == pytest.approx(0.7 * x.shape[1] ** 0.5, rel=1e-4)
        torch.testing.assert_close(y, x + offset, atol=1e-5, rtol=0)
        return
    fitted = torch.linalg.lstsq(x, y).solution
    torch.testing.assert_close(x @ fitted, y, atol=1e-4, rtol=0)
    if knob == "rotation":
        torch.testing.assert_close(fitted @ fitted.T, torch.eye(len(fitted), dtype=fitted.dtype), atol=1e-3, rtol=0)
    elif knob == "scale":
        assert float((fitted - torch.diag(fitted.diagonal())).abs().max()) < 1e-3
        assert float(fitted.diagonal().log().std()) == pytest.approx(0.7, rel=0.4)
    else:
        assert float((fitted - torch.eye(len(fitted))).norm()) == pytest.approx(0.7 * len(fitted) ** 0.5, rel=0.3)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_rotation_strength_is_in_quarter_turns(strength: float) -> None:
    turn = _rotation(np.random.default_rng(0), 40, strength)
    np.testing.assert_allclose(turn @ turn.T, np.eye(40), atol=1e-10)
    if strength < 0.5:  # angles are compared where all are below half a turn
        angles = np.angle(np.linalg.eigvals(turn))
        assert np.sqrt((angles**2).mean()) == pytest.approx(strength * np.pi / 2, rel=1e-6)


def content(draw: Simulation, split: VMRBatch) -> list[list[str]]:
    return [[w for w in draw.texts[q].split() if "-" in w] for q in split.qids]


def test_vocabulary_knobs() -> None:
    draw = simulate(tiny(new_synonyms=0.5, generic_words=0.4, videos=300))
    source = [w for ws in content(draw, draw.source_train) for w in ws]
    target = [w for ws in content(draw, draw.target_train) for w in ws]
    concepts = [w for w in target if w.startswith("concept")]
    assert not any(w[-1].isupper() for w in source)
    assert np.mean([w[-1].isupper() for w in concepts]) == pytest.approx(0.5, abs=0.06)
    assert 0.1 < np.mean([w.startswith("topic") for w in target]) < 0.4
    assert all(any(w.startswith("concept") for w in ws) for ws in content(draw, draw.target_train))


def test_label_shift_tilts_the_target_only() -> None:
    draw = simulate(tiny(label_shift=2.0, videos=600))

    def entropy(split: VMRBatch) -> float:
        named = [next(w for w in ws if w.startswith("concept")).split("-")[0] for ws in content(draw, split)]
        share = np.unique(named, return_counts=True)[1] / len(named)
        return float(-(share * np.log(share)).sum())

    assert entropy(draw.source_train) > 0.97 * np.log(24) > entropy(draw.target_train) + 0.3


def test_wrong_pairs_touch_the_share_they_name_and_training_only() -> None:
    right, wrong = (simulate(tiny(wrong_pairs=share, videos=400)) for share in (0.0, 0.3))
    pairs = zip(content(right, right.target_train), content(wrong, wrong.target_train))
    assert np.mean([a != b for a, b in pairs]) == pytest.approx(0.3, abs=0.07)
    assert torch.equal(right.target_train.frames, wrong.target_train.frames)
    assert same(right.target_test, wrong.target_test)


def test_sentences_are_encoded_as_the_target_shows_them() -> None:
    world = tiny(word_noise=0.0, query_rotation=0.6, query_mean=0.4, new_synonyms=0.5)
    draw = simulate(world, seed=2)
    for i, qid in enumerate(draw.target_test.qids):
        words = draw.target_test.words[i][draw.target_test.word_mask[i]]
        torch.testing.assert_close(encode_sentence(world, draw.texts[qid], seed=2), words, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"encode_sentence: `sentence` must use words such as .* got 'dog'"):
        encode_sentence(world, "the dog", seed=2)
    with pytest.raises(ValueError, match="at least one word"):
        encode_sentence(world, "  ", seed=2)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"cooccurrence": 1.5}, "World: `cooccurrence` must be a finite number >= 0 and <= 1, got 1.5"),
        ({"concepts": 25}, r"World: `concepts` must be a multiple of `topics` \(6\), got 25"),
        ({"topics": 24}, "World: `topics` must leave at least 2 concepts per topic, got 24"),
        ({"video_rotation": -1.0}, "World: `video_rotation` must be a finite number >= 0, got -1.0"),
    ],
)
def test_bad_knobs(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**knobs)  # type: ignore[arg-type]


def test_too_few_concepts_for_a_video_are_refused() -> None:
    with pytest.raises(ValueError, match="World: `concepts` must be an integer >= 8"):
        World(concepts=6, topics=3)


def test_a_name_is_one_word_however_many_synonyms() -> None:
    world = tiny(synonyms=40, new_synonyms=0.5, word_noise=0.0, query_mean=0.3, query_rotation=0.2, test_videos=100)
    draw = simulate(world, seed=2)
    split = draw.target_test
    for row, qid in enumerate(split.qids):
        shown = split.words[row][split.word_mask[row]]
        torch.testing.assert_close(encode_sentence(world, draw.texts[qid], seed=2), shown)
    content = {word for text in draw.texts.values() for word in text.split() if "-" in word}
    assert any(len(word.rpartition("-")[2]) == 2 for word in content)
    assert all(word.rpartition("-")[2].isalpha() for word in content)
