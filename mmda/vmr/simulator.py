"""A simulator of videos and queries with one parameter for each kind of domain shift.

A video is a sequence of segments, each showing one concept; frames are noisy views of the concept's latent vector. A
query names the concept of one segment by content words among function words. In the source, features are fixed maps of
these latents; the target's maps are shifted by the parameters of a :class:`World`. Results show whether a method
removes the shift it is designed for; they do not predict results on Charades-STA, ActivityNet Captions or TACoS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmda._core.checks import check_count, check_number, fail
from mmda.vmr.batch import VMRBatch

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """Distribution of video lengths, moment locations and query lengths.

    Args:
        duration: mean length of a video in seconds; lengths are drawn within 30 % of it.
        share: mean fraction of the video covered by the moment.
        first_tenth: fraction of the moments that start in the first tenth of the video.
        words: mean number of words per query.

    Raises:
        ValueError: a value out of range.
    """

    duration: float = 56.0
    share: float = 0.16
    first_tenth: float = 0.12
    words: float = 8.0

    def __post_init__(self) -> None:
        check_number("Law", "duration", self.duration, above=0)
        check_number("Law", "share", self.share, above=0, below=1)
        check_number("Law", "first_tenth", self.first_tenth, at_least=0, at_most=1)
        check_number("Law", "words", self.words, at_least=2)


#: Distributions with the statistics of ActivityNet Captions, Charades-STA and TACoS (training sets).
LAWS: dict[str, Law] = {
    "activitynet": Law(duration=117.0, share=0.31, first_tenth=0.34, words=13.5),
    "charades": Law(duration=31.0, share=0.27, first_tenth=0.31, words=6.2),
    "tacos": Law(duration=224.0, share=0.10, first_tenth=0.22, words=8.4),
}


@dataclass(frozen=True)
class World:
    """All differences between the two domains, and the sizes of the splits.

    Shifts apply only to the target. Rotations are in units of a quarter turn: 1 rotates every plane by 90 degrees in
    root mean square, which removes a concept's original direction.

    Args:
        video_mean: length of the target's offset on frames, in units of a frame feature's spread.
        video_scale: log-scale spread of the target's per-feature gain on frames.
        video_covariance: strength of a random linear mixing of the target's frame features.
        video_rotation: rotation of the target's frame features.
        query_mean: the offset on words.
        query_scale: the per-feature gain on words.
        query_covariance: the mixing of word features.
        query_rotation: the rotation of word features.
        generic_words: fraction of the content words that name the topic instead of the concept (both domains).
        new_synonyms: fraction of the target's content words that never occur in the source.
        cooccurrence: probability that all segments of a video come from one topic (both domains).
        label_shift: spread of the target's log-prior over concepts; 0 is the source's uniform prior.
        noise: spread of the frame noise relative to a concept's latent vector.
        word_noise: the same for words.
        wrong_pairs: fraction of the target's training videos paired with a query of another video.
        source_law: lengths and locations in the source.
        target_law: lengths and locations in the target.
        videos: source training videos.
        target_videos: target training videos; as many as ``videos`` by default.
        test_videos: videos of each validation and test split.
        concepts: number of concepts, a multiple of ``topics``.
        topics: number of topics.
        synonyms: words per concept in each of the two vocabularies.
        video_width: frame features.
        query_width: word features.
        clips: mean number of clips per video.

    Raises:
        ValueError: a parameter out of range.
    """

    video_mean: float = 0.8
    video_scale: float = 0.0
    video_covariance: float = 0.0
    video_rotation: float = 0.8
    query_mean: float = 0.0
    query_scale: float = 0.0
    query_covariance: float = 0.0
    query_rotation: float = 0.5
    generic_words: float = 0.2
    new_synonyms: float = 0.0
    cooccurrence: float = 0.6
    label_shift: float = 0.0
    noise: float = 0.5
    word_noise: float = 0.2
    wrong_pairs: float = 0.0
    source_law: Law = Law()
    target_law: Law = Law()
    videos: int = 1000
    target_videos: int | None = None
    test_videos: int = 400
    concepts: int = 24
    topics: int = 6
    synonyms: int = 3
    video_width: int = 32
    query_width: int = 24
    clips: int = 20

    def __post_init__(self) -> None:
        for name in ("generic_words", "new_synonyms", "cooccurrence", "wrong_pairs"):
            check_number("World", name, getattr(self, name), at_least=0, at_most=1)
        for name in ("video_mean", "video_scale", "video_covariance", "video_rotation", "label_shift", "noise"):
            check_number("World", name, getattr(self, name), at_least=0)
        for name in ("query_mean", "query_scale", "query_covariance", "query_rotation", "word_noise"):
            check_number("World", name, getattr(self, name), at_least=0)
        for name in ("videos", "test_videos", "topics", "synonyms", "video_width", "query_width"):
            check_count("World", name, getattr(self, name))
        check_count("World", "clips", self.clips, at_least=8)
        check_count("World", "concepts", self.concepts, at_least=8)
        if self.target_videos is not None:
            check_count("World", "target_videos", self.target_videos)
        if self.concepts % self.topics:
            fail("World", "concepts", f"be a multiple of `topics` ({self.topics})", self.concepts)
        if self.concepts // self.topics < 2:
            fail("World", "topics", "leave at least 2 concepts per topic", self.topics)


_NO_SHIFT = World(video_mean=0.0, video_rotation=0.0, query_rotation=0.0, cooccurrence=0.3)

#: Named worlds. Each of ``no_shift`` to ``location`` changes one parameter; the others combine several.
WORLDS: dict[str, World] = {
    "default": World(),
    "language": World(
        video_mean=1.5, video_rotation=0.6, query_mean=1.0, query_rotation=1.0, cooccurrence=0.3, noise=0.5
    ),
    "noisy": World(video_mean=1.5, video_rotation=0.7, query_mean=1.0, query_rotation=0.7, cooccurrence=0.3, noise=1.0),
    "hard": World(video_mean=0.8, video_rotation=0.9, query_rotation=0.6, cooccurrence=0.8),
    "no_shift": _NO_SHIFT,
    "mean": replace(_NO_SHIFT, video_mean=1.5, query_mean=1.0),
    "label": replace(_NO_SHIFT, label_shift=1.5),
    "cooccurrence": replace(_NO_SHIFT, cooccurrence=1.0),
    "location": replace(_NO_SHIFT, source_law=Law(first_tenth=0.7), target_law=Law(first_tenth=0.05)),
    "vocabulary": replace(_NO_SHIFT, new_synonyms=0.5),
    "wrong_pairs": World(wrong_pairs=0.3),
    "wide": World(
        videos=250, test_videos=200, video_width=192, query_width=192, concepts=72, topics=12, noise=0.8, clips=60
    ),
}


class Simulation(NamedTuple):
    """The splits of one draw. Every batch includes windows; call ``without_moments()`` on the target's before training.

    Attributes:
        source_train: source videos to train on.
        source_val: source videos to validate on.
        target_train: target videos to adapt to; a fraction ``World.wrong_pairs`` has the query of another video.
        target_val: held-out target pairs, for checkpoint selection without windows.
        target_test: target videos for evaluation.
        texts: the words of every query by id; a video has the id of its query.
    """

    source_train: VMRBatch
    source_val: VMRBatch
    target_train: VMRBatch
    target_val: VMRBatch
    target_test: VMRBatch
    texts: dict[str, str]


class _Views(NamedTuple):
    """The feature map of one domain: x = (latent * gain) @ mix @ rotation + offset."""

    gain: Array
    mix: Array
    rotation: Array
    offset: Array

    def show(self, latent: Array) -> Array:
        return (latent * self.gain) @ self.mix @ self.rotation + self.offset


def _rotation(rng: np.random.Generator, width: int, strength: float) -> Array:
    """exp(strength * S), S skew-symmetric with plane angles of a quarter turn in root mean square."""
    raw = rng.standard_normal((width, width))
    skew = raw - raw.T
    # eigenvalues of S are +-i angle, so the sum of squared entries is the sum of squared angles
    skew *= (np.pi / 2) * np.sqrt(width) / np.linalg.norm(skew)
    values, vectors = np.linalg.eigh(1j * skew)
    rotated: Array = (vectors * np.exp(-1j * strength * values)) @ vectors.conj().T
    return np.real(rotated)


def _views(
    rng: np.random.Generator, width: int, mean: float, scale: float, covariance: float, rotation: float
) -> _Views:
    direction = rng.standard_normal(width)
    return _Views(
        gain=np.exp(scale * rng.standard_normal(width)),
        mix=np.eye(width) + covariance * rng.standard_normal((width, width)) / np.sqrt(width),
        rotation=_rotation(rng, width, rotation),
        offset=mean * np.sqrt(width) * direction / np.linalg.norm(direction),
    )


#: Function words in :attr:`Simulation.texts`.
FUNCTION_WORDS = (
    *("the", "a", "of", "and", "to", "in", "on", "is", "with", "at"),
    *("it", "then", "his", "her", "up", "down", "some", "by", "from", "as"),
)


class _Lexicon(NamedTuple):
    """Latent vectors of concepts and words."""

    seen: Array  # (concepts, video_width)
    concept_words: Array  # (2 vocabularies, concepts, synonyms, query_width)
    topic_words: Array  # (topics, synonyms, query_width)
    function_words: Array  # (20, query_width)


def _lexicon(rng: np.random.Generator, world: World) -> _Lexicon:
    topic = np.arange(world.concepts) // (world.concepts // world.topics)

    def latents(width: int) -> tuple[Array, Array]:
        topics = rng.standard_normal((world.topics, width))
        own = rng.standard_normal((world.concepts, width))
        return topics, np.sqrt(0.3) * topics[topic] + np.sqrt(0.7) * own

    _, seen = latents(world.video_width)
    topics, meanings = latents(world.query_width)
    spread = 0.4 * rng.standard_normal((2, world.concepts, world.synonyms, world.query_width))
    spread[1] *= 2.5  # words that only the target uses: related to their concept, but not close to the source's words
    general = 0.4 * rng.standard_normal((world.topics, world.synonyms, world.query_width))
    function = rng.standard_normal((20, world.query_width))
    return _Lexicon(seen, meanings[None, :, None] + spread, topics[:, None] + general, 0.6 * function)


class _Domain(NamedTuple):
    """The distributions from which the splits of a domain are drawn."""

    law: Law
    prior: Array
    video: _Views
    query: _Views
    new_synonyms: float


def simulate(world: World, *, seed: int = 0) -> Simulation:
    """Draw a world; the same seed gives the same numbers.

    Args:
        world: the parameters.
        seed: seed of concepts, maps and videos.

    Returns:
        :class:`Simulation`, whose batches have ``frames`` (videos, t, world.video_width) and ``words`` (videos, l,
        world.query_width), float32, one query per video.

    Example:
        >>> draw = simulate(World(videos=4, test_videos=2), seed=1)
        >>> draw.target_test.frames.shape[0], draw.source_train.words.shape[2]
        (2, 24)
    """
    roots = np.random.SeedSequence(seed).spawn(9)
    rng = [np.random.default_rng(root) for root in roots[4:]]
    lexicon, source, target = _settle(world, roots)
    texts: dict[str, str] = {}
    target_videos = world.videos if world.target_videos is None else world.target_videos
    return Simulation(
        source_train=_split(rng[0], world, lexicon, source, world.videos, "source-train", 0.0, texts),
        source_val=_split(rng[1], world, lexicon, source, world.test_videos, "source-val", 0.0, texts),
        target_train=_split(rng[2], world, lexicon, target, target_videos, "target-train", world.wrong_pairs, texts),
        target_val=_split(rng[3], world, lexicon, target, world.test_videos, "target-val", 0.0, texts),
        target_test=_split(rng[4], world, lexicon, target, world.test_videos, "target-test", 0.0, texts),
        texts=texts,
    )


def encode_sentence(world: World, sentence: str, *, seed: int = 0) -> Tensor:
    """Word features of a sentence in the target domain of a draw, without word noise.

    Args:
        world: the parameters of the draw.
        sentence: words as in :attr:`Simulation.texts`: ``concept07-a``, ``topic2-b``, ``the``.
        seed: seed of the draw.

    Returns:
        (words, world.query_width), float32.

    Raises:
        ValueError: the sentence is empty or has an unknown word.

    Example:
        >>> encode_sentence(World(), "the concept07-a", seed=1).shape
        torch.Size([2, 24])
    """
    lexicon, _, target = _settle(world, np.random.SeedSequence(seed).spawn(9))
    known: dict[str, Array] = dict(zip(FUNCTION_WORDS, lexicon.function_words))
    for synonym in range(world.synonyms):
        for topic in range(world.topics):
            known[_topic_word(topic, synonym)] = lexicon.topic_words[topic, synonym]
        for vocabulary in (0, 1):
            for concept in range(world.concepts):
                word = _concept_word(vocabulary, concept, synonym)
                known[word] = lexicon.concept_words[vocabulary, concept, synonym]
    words = sentence.split()
    if not words:
        fail("encode_sentence", "sentence", "have at least one word", repr(sentence))
    for word in words:
        if word not in known:
            fail("encode_sentence", "sentence", "use words such as 'concept07-a', 'topic2-b' or 'the'", repr(word))
    shown = target.query.show(np.stack([known[word] for word in words]))
    return torch.from_numpy(shown).to(torch.float32)


def _concept_word(vocabulary: int, concept: int, synonym: int) -> str:
    letters = _letters(synonym)
    return f"concept{concept:02d}-{letters.upper() if vocabulary else letters}"


def _topic_word(topic: int, synonym: int) -> str:
    return f"topic{topic}-{_letters(synonym)}"


def _letters(number: int) -> str:
    """a to z, then aa, ab and so on."""
    more, last = divmod(number, 26)
    return (_letters(more - 1) if more else "") + chr(ord("a") + last)


def _settle(world: World, roots: list[np.random.SeedSequence]) -> tuple[_Lexicon, _Domain, _Domain]:
    """The latent vectors of a draw, and the two domains' length distributions, priors and feature maps."""
    rng = [np.random.default_rng(root) for root in roots[:4]]
    lexicon = _lexicon(rng[0], world)
    uniform = np.full(world.concepts, 1 / world.concepts)
    tilt = np.exp(world.label_shift * rng[1].standard_normal(world.concepts))
    source = _Domain(
        world.source_law,
        uniform,
        _views(rng[2], world.video_width, 0.0, 0.0, 0.0, 0.0),
        _views(rng[2], world.query_width, 0.0, 0.0, 0.0, 0.0),
        0.0,
    )
    target = _Domain(
        world.target_law,
        tilt / tilt.sum(),
        _views(
            rng[3],
            world.video_width,
            world.video_mean,
            world.video_scale,
            world.video_covariance,
            world.video_rotation,
        ),
        _views(
            rng[3],
            world.query_width,
            world.query_mean,
            world.query_scale,
            world.query_covariance,
            world.query_rotation,
        ),
        world.new_synonyms,
    )
    return lexicon, source, target


def _split(
    rng: np.random.Generator,
    world: World,
    lexicon: _Lexicon,
    domain: _Domain,
    n: int,
    name: str,
    wrong: float,
    texts: dict[str, str],
) -> VMRBatch:
    durations = domain.law.duration * rng.uniform(0.7, 1.3, n)
    clip_seconds = domain.law.duration / world.clips
    counts = np.maximum(np.ceil(durations / clip_seconds - 1e-9).astype(int), 1)
    t = int(counts.max())
    latent = np.zeros((n, t, world.video_width))
    windows = np.zeros((n, 1, 2))
    concept = np.zeros(n, dtype=int)
    for i in range(n):
        edges, moment = _segments(rng, domain.law)
        shown = _concepts(rng, world, domain.prior, len(edges) - 1)
        concept[i] = shown[moment]
        windows[i, 0] = edges[moment] * durations[i], edges[moment + 1] * durations[i]
        centres = (np.arange(counts[i]) + 0.5) * clip_seconds / durations[i]
        # Frames near a cut blend both segments, over about one clip.
        width = 0.5 * clip_seconds / durations[i]
        after = 1 / (1 + np.exp(-np.clip((centres[:, None] - edges[None, 1:-1]) / width * 2, -30, 30)))
        steps = np.concatenate([np.ones((len(centres), 1)), after, np.zeros((len(centres), 1))], axis=1)
        latent[i, : counts[i]] = (steps[:, :-1] - steps[:, 1:]) @ lexicon.seen[shown]
    latent += world.noise * rng.standard_normal(latent.shape)
    frame_mask = np.arange(t) < counts[:, None]
    frames = domain.video.show(latent) * frame_mask[..., None]
    words, word_mask, sentences = _queries(rng, world, lexicon, domain, concept)
    if wrong > 0:
        strangers = np.flatnonzero(rng.uniform(size=n) < wrong)
        moved = np.roll(strangers, 1)
        words[strangers], word_mask[strangers] = words[moved], word_mask[moved]
        for stranger, sentence in zip(strangers, [sentences[i] for i in moved]):
            sentences[stranger] = sentence
    qids = tuple(f"{name}-{i}" for i in range(n))
    texts.update(zip(qids, sentences))
    cuts = np.arange(t + 1) * clip_seconds  # one array for both edges, so that neighbouring clips touch exactly
    clip_times = np.stack(np.broadcast_arrays(cuts[:-1], np.minimum(cuts[1:], durations[:, None])), axis=-1)

    def as_float(array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(torch.float32)

    return VMRBatch(
        frames=as_float(frames),
        frame_mask=torch.from_numpy(frame_mask),
        words=as_float(words),
        word_mask=torch.from_numpy(word_mask),
        clip_times=torch.from_numpy(np.where(frame_mask[..., None], clip_times, 0.0)),
        duration=torch.from_numpy(durations),
        windows=torch.from_numpy(windows),
        window_mask=torch.ones(n, 1, dtype=torch.bool),
        video_index=torch.arange(n),
        text_index=torch.arange(n),
        qids=qids,
    )


def _segments(rng: np.random.Generator, law: Law) -> tuple[Array, int]:
    """Relative cuts of a video into three to about five segments, and the index of the moment."""
    length = float(np.clip(law.share * rng.uniform(0.4, 1.6), 0.03, 0.9))
    if rng.uniform() < law.first_tenth:
        start = rng.uniform(0.0, min(0.1, 1 - length))
    else:
        start = rng.uniform(min(0.1, 1 - length), 1 - length)
    end = start + length

    def cuts(low: float, high: float) -> Array:
        """Split the rest of the video into segments about as long as moments."""
        if high - low < 0.02:
            return np.empty(0)
        parts = int(np.clip(round((high - low) / max(law.share, 0.2) + rng.uniform(-0.5, 0.5)), 1, 3))
        shares = rng.dirichlet(np.full(parts, 6.0))
        return low + (high - low) * np.concatenate([[0.0], np.cumsum(shares)[:-1]])

    before, behind = cuts(0.0, start), cuts(end, 1.0)
    first = np.array([0.0 if before.size == 0 else start])
    last = np.array([1.0 if behind.size == 0 else end])
    edges = np.concatenate([before, first, last[:1] if behind.size == 0 else behind, [1.0] if behind.size else []])
    return edges, before.size


def _concepts(rng: np.random.Generator, world: World, prior: Array, count: int) -> npt.NDArray[np.int64]:
    """Distinct concepts of one video; with probability ``cooccurrence`` from one topic, as far as it has enough."""
    if rng.uniform() < world.cooccurrence:
        size = world.concepts // world.topics
        topic = int(rng.choice(world.concepts, p=prior)) // size
        members = np.arange(topic * size, (topic + 1) * size)
        weights = prior[members] / prior[members].sum()
        chosen = rng.choice(members, size=min(count, size), replace=False, p=weights)
        if count > size:  # more segments than concepts of the topic: the rest are from other topics
            others = np.setdiff1d(np.arange(world.concepts), members)
            chosen = np.concatenate([chosen, rng.choice(others, size=count - size, replace=False)])
            chosen = rng.permutation(chosen)
        return chosen
    return rng.choice(world.concepts, size=count, replace=False, p=prior)


def _queries(
    rng: np.random.Generator, world: World, lexicon: _Lexicon, domain: _Domain, concept: npt.NDArray[np.int64]
) -> tuple[Array, npt.NDArray[np.bool_], list[str]]:
    """Words of every query: one to three content words, at least one of them naming the concept, and function words."""
    n = len(concept)
    lengths = np.clip(rng.poisson(domain.law.words - 2, n) + 2, 2, int(2.5 * domain.law.words))
    content = np.minimum(rng.integers(1, 4, n), lengths - 1)
    longest = int(lengths.max())
    slot = np.arange(longest)
    is_content = slot < content[:, None]
    vocabulary = (rng.uniform(size=(n, longest)) < domain.new_synonyms).astype(int)
    synonym = rng.integers(world.synonyms, size=(n, longest))
    named = lexicon.concept_words[vocabulary, concept[:, None], synonym]
    topic = concept // (world.concepts // world.topics)
    general = lexicon.topic_words[topic[:, None], synonym]
    is_general = (rng.uniform(size=(n, longest)) < world.generic_words) & (slot > 0)
    filler = rng.integers(len(lexicon.function_words), size=(n, longest))
    function = lexicon.function_words[filler]
    latent = np.where(is_content[..., None], np.where(is_general[..., None], general, named), function)
    latent = latent + world.word_noise * rng.standard_normal(latent.shape)
    mask = slot < lengths[:, None]
    order = np.argsort(np.where(mask, rng.uniform(size=mask.shape), 2.0), axis=1)
    latent = np.take_along_axis(latent, order[..., None], axis=1)

    def word(i: int, j: int) -> str:
        if not is_content[i, j]:
            return FUNCTION_WORDS[int(filler[i, j])]
        if is_general[i, j]:
            return _topic_word(topic[i], synonym[i, j])
        return _concept_word(vocabulary[i, j], concept[i], synonym[i, j])

    sentences = [" ".join(word(i, j) for j in order[i, : lengths[i]]) for i in range(n)]
    return domain.query.show(latent) * mask[..., None], mask, sentences


__all__ = ["FUNCTION_WORDS", "LAWS", "WORLDS", "Law", "Simulation", "World", "encode_sentence", "simulate"]
