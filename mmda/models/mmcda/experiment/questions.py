"""Predictions of a trained model: the best moments for a sentence in a video, or for every query of a file."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmda._core.files import open_file
from mmda.models.mmcda.corpus import Found, encode_videos
from mmda.models.mmcda.experiment.domains import (
    Domain,
    Draws,
    Place,
    Problem,
    annotation_files,
    check_durations,
    numbered,
    read_datasets,
)
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import file_stem, job_stem
from mmda.models.mmcda.experiment.rows import FULL
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.saving import load_model
from mmda.models.mmcda.training import predict_split
from mmda.vmr import (
    WORLDS,
    ArrayStore,
    ResidentLoader,
    ResidentSplit,
    VMRBatch,
    VMRDataError,
    VMRDataset,
    VMRQuery,
    encode_sentence,
    open_features,
    read_glove,
    tokenize,
    validate_queries,
)
from mmda.vmr.features import as_sequence, check_finite

#: Spans per query that a table decodes and scores. Fewer spans are the first of these, since a form may select among
#: what it decodes.
AS_SCORED = 5


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and the problem it was trained on.

    Args:
        path: its file.
        model: in ``eval()`` mode.
        problem: the two domains.
        seed: seed of a simulated world.

    Example:
        >>> from torch import nn
        >>> Checkpoint(Path("model.pt"), nn.Module(), Problem("small", world="language"), seed=0).problem.name
        'small'
    """

    path: Path
    model: MMCDA
    problem: Problem
    seed: int


def open_checkpoint(path: Path, asked: Sequence[Problem] = ()) -> Checkpoint:
    """Read a trained model; if ``asked`` is given, its problem must be one of them.

    Args:
        path: a file that :func:`mmda.models.mmcda.experiment.run_job` wrote.
        asked: problems that the user named; paths on disk may differ from those at training time.

    Returns:
        The model and its problem.

    Raises:
        CheckpointError: the file cannot be used.
        UnusableError: the model is of another problem, or the file does not name one.

    Example:
        >>> try:
        ...     open_checkpoint(Path("nowhere.pt"))
        ... except ValueError as error:
        ...     print(error)
        nowhere.pt: the checkpoint must exist, got no such file
    """
    model, facts = load_model(path)
    return Checkpoint(path, model, _problem_of(path, facts, asked), int(facts.get("seed", 0)))


def _problem_of(path: Path, facts: Mapping[str, Any], asked: Sequence[Problem]) -> Problem:
    """The problem of the checkpoint; it must be one of ``asked``, if any."""
    name = facts.get("problem")
    try:
        kept = dict(facts["settings"]["problem"])
        for side in ("source", "target"):
            if kept[side] is not None:
                kept[side] = Place(**{**kept[side], "video": tuple(kept[side]["video"])})
        trained = Problem(**kept)
    except (LookupError, TypeError, ValueError):
        trained = None
    if asked:
        same = [problem for problem in asked if problem.name == name]
        if not same and trained is not None and trained.world is None and [each.world for each in asked] == [None]:
            same = [replace(asked[0], name=trained.name)]  # moved to folders of other names
        if not same:
            names = " or ".join(repr(problem.name) for problem in asked)
            raise UnusableError(f"{path}: the checkpoint must be of {names}, got {name!r}")
        if same[0].world is None:  # the data may have been moved
            return same[0]
    if trained is None:
        rule = "name what it was trained on"
        raise UnusableError(f"{path}: the checkpoint must {rule} (save it again with this version), got {name!r} only")
    return trained


def default_checkpoint(folder: Path, problems: Sequence[Problem], alignment: str, *, named: bool) -> Path:
    """Path of the full model with the first seed; if no problem is ``named``, the only one in the folder."""
    models = folder / "models"
    known: list[Path] = [models / f"{job_stem(each, FULL, 0, alignment)}.pt" for each in problems]
    there = [path for path in known if path.exists()]
    if not there and not named:
        there = sorted(models.glob(f"*-{file_stem(f'{FULL} 0')}.pt"))
        if len(there) > 1:
            names = ", ".join(path.name for path in there)
            raise UnusableError(f"{models}: must hold one full model, or --checkpoint must name it, got {names}")
    others = sorted(path.name for path in models.glob("*.pt"))
    if named and not there and others and all(problem.world is None for problem in problems):
        rule = "hold a model of these two domains, or --checkpoint must name one (as after a move to other names)"
        raise UnusableError(f"{models}: must {rule}, got {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}")
    return (there or known)[0]


@dataclass(frozen=True)
class Question:
    """A sentence to find in a video.

    Args:
        sentence: the text.
        vid: id of the video, in the target or in ``video``.
        video: files of frame features of a new video; several are concatenated.
        query: file of features of the sentence, from the encoder of the target's queries.
        clip_seconds: clip length of the new video, if its features do not contain it.

    Example:
        >>> Question("a man cuts an onion", "NEW", video=("new/video",), query="new/query", clip_seconds=2.0).vid
        'NEW'
    """

    sentence: str
    vid: str
    video: tuple[str, ...] = ()
    query: str | None = None
    clip_seconds: float | None = None


def asked_pair(checkpoint: Checkpoint, question: Question, data: Draws) -> tuple[VMRBatch, list[str]]:
    """Video and sentence as a batch of one, and messages about the sentence."""
    words, messages = sentence_words(checkpoint, question, data)
    if not question.video:
        batch = _known_video(checkpoint, question.vid, data)
        mask = torch.ones(words.shape[:2], dtype=torch.bool)
        return replace(batch, words=words, word_mask=mask), messages
    store = open_features(question.video if len(question.video) > 1 else question.video[0])
    if question.vid not in store:
        known = ", ".join(list(store.ids)[:3]) + (", ..." if len(store) > 3 else "")
        raise VMRDataError(store.source, question.vid, "have frame features", f"{len(store)} others: {known}")
    frames = store[question.vid]
    seconds = store.clip_seconds if question.clip_seconds is None else question.clip_seconds
    if seconds is None:
        rule = "the length of a clip must be known (--clip-seconds says it)"
        raise UnusableError(f"--video {question.vid}: {rule}, got features that do not say")
    query = VMRQuery("asked", question.vid, question.sentence, len(frames) * seconds)
    trained = checkpoint.problem.target
    dataset = VMRDataset(
        validate_queries([query]).without_moments(),
        ArrayStore({question.vid: frames}),
        ArrayStore({"asked": words[0].numpy()}),
        max_clips=None if trained is None else trained.max_clips,
        clip_seconds=seconds,
    )
    return ResidentSplit.from_dataset(dataset).slice([0]), messages


def _target(checkpoint: Checkpoint, data: Draws) -> Domain:
    """The target that the model was trained on, read again."""
    for side in ("source", "target"):
        place: Place | None = getattr(checkpoint.problem, side)
        if place is None:
            continue
        path = Path(place.path)
        if not (path.exists() or any(path.parent.glob(f"{glob.escape(path.name)}*"))):
            rule = f"its {side} must lie where it was trained on (--{side} says where it lies now; a video and a "
            rule += "sentence with features of their own need neither: --target-video, --target-query)"
            raise UnusableError(f"{checkpoint.path}: {rule}, got nothing at {path}")
    return data.load(checkpoint.problem, checkpoint.seed)[1]


def _known_video(checkpoint: Checkpoint, vid: str, data: Draws) -> VMRBatch:
    """A pair with this video of the target."""
    problem = checkpoint.problem
    target = _target(checkpoint, data)
    for split in reversed(target.pairs.values()):
        rows = [i for i, qid in enumerate(split.qids) if target.videos[qid] == vid]
        if rows:
            return split.slice(rows[:1])
    example = target.videos[target.pairs["test"].qids[0]]
    rule = "be a video of the target (or --target-video must name a file with its frame features)"
    raise VMRDataError(problem.name, vid, rule, f"an unknown one; try {example!r}")


def answer(checkpoint: Checkpoint, question: Question, *, top: int = 5) -> Spans:
    """The best moments for a sentence in a video, known or new, as ``mmda predict`` gives them.

    Args:
        checkpoint: of :func:`open_checkpoint`.
        question: sentence and video.
        top: how many moments.

    Returns:
        Spans of (1, top), best first. Scores order the moments of one video; they are no probabilities.

    Raises:
        VMRDataError: no such video, or features that cannot be read.
        UnusableError: the sentence has no features, or features have another width than the model was trained on.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=8, joint=8)).eval()
        >>> checkpoint = Checkpoint(Path("model.pt"), model, Problem("small", world="language", videos=8), seed=0)
        >>> answer(checkpoint, Question("the concept07-a of", "target-test-3"), top=2).windows.shape
        torch.Size([1, 2, 2])
    """
    return find_moments(checkpoint.model, asked_pair(checkpoint, question, Draws())[0], top=top)


def sentence_words(checkpoint: Checkpoint, question: Question, data: Draws) -> tuple[torch.Tensor, list[str]]:
    """Features of the sentence: given, from word vectors, or those of a target query with the same text."""
    problem, sentence = checkpoint.problem, question.sentence
    if question.query is not None:
        return torch.from_numpy(_given_words(question.query)).unsqueeze(0), []
    if problem.world is not None:
        try:
            return encode_sentence(WORLDS[problem.world], sentence, seed=checkpoint.seed).unsqueeze(0), []
        except ValueError as error:
            raise UnusableError(f"--predict: {error}") from error
    assert problem.target is not None
    if problem.target.glove is not None:
        vectors = read_glove(problem.target.glove, tokenize(sentence))
        unknown = vectors.unknown(sentence)
        messages = [f"no vector for {', '.join(map(repr, unknown))}: left out"] if unknown else []
        return torch.from_numpy(vectors.encode(sentence)).unsqueeze(0), messages
    target = _target(checkpoint, data)
    plain = " ".join(sentence.lower().split())
    for split in reversed(target.pairs.values()):
        for i, qid in enumerate(split.qids):
            if " ".join(target.texts[qid].lower().split()) == plain:
                return split.words[i : i + 1][:, split.word_mask[i]], []
    rule = "hold the sentence: others than the target's queries have no features (--target-query FILE gives its own)"
    raise VMRDataError(problem.name, None, rule, repr(sentence))


def _given_words(path: str) -> NDArray[np.float32]:
    """The single array in a file of query features."""
    if path.endswith(".npy"):
        try:
            with open_file(path) as stream:
                array = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise VMRDataError(path, None, "hold one array of numbers", "pickled objects or a damaged file") from error
        words = as_sequence(array, path, Path(path).stem)
        check_finite(words, path, Path(path).stem)
        return words.astype(np.float32)
    store = open_features(path, kind="query")
    if len(store) != 1:
        raise VMRDataError(path, None, "hold the features of one sentence", f"{len(store)}")
    return np.asarray(store[next(iter(store.ids))], dtype=np.float32)


def find_moments(model: MMCDA, pair: VMRBatch, *, top: int = 5) -> Spans:
    """The best moments of a video for a sentence.

    Args:
        model: in ``eval()`` mode.
        pair: a batch of one video and sentence.
        top: number of moments.

    Returns:
        Spans of shape (1, top).

    Raises:
        UnusableError: the feature widths differ from those the model was trained on.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=1, test_videos=1)).target_test
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=8, joint=8)).eval()
        >>> find_moments(model, batch.slice([0]), top=2).windows.shape
        torch.Size([1, 2, 2])
    """
    try:
        spans = model.predict(pair, n=max(top, AS_SCORED))
    except ValueError as error:
        raise UnusableError(f"features must be as those the model was trained on, got {error}") from error
    return Spans(spans.windows[:, :top], spans.scores[:, :top], spans.mask[:, :top])


def find_videos(
    checkpoint: Checkpoint, question: Question, data: Draws, *, top: int = 5, preselect: int | None = None
) -> tuple[list[Found], list[str]]:
    """The videos of ``question.video`` most similar to the sentence, with the best moment of each.

    Also returns messages about the sentence.
    """
    words, messages = sentence_words(checkpoint, question, data)
    store = open_features(question.video if len(question.video) > 1 else question.video[0])
    seconds = store.clip_seconds if question.clip_seconds is None else question.clip_seconds
    if seconds is None:
        rule = "the length of a clip must be known (--clip-seconds says it)"
        raise UnusableError(f"{store.source}: {rule}, got features that do not say")
    trained = checkpoint.problem.target
    try:
        corpus = encode_videos(
            checkpoint.model, store, clip_seconds=seconds, max_clips=None if trained is None else trained.max_clips
        )
        return corpus.rank(words[0], top=top, preselect=preselect), messages
    except VMRDataError:
        raise
    except ValueError as error:
        raise UnusableError(f"features must be as those the model was trained on, got {error}") from error


def answer_queries(
    checkpoint: Checkpoint, data: VMRDataset, *, top: int = 5, numbers: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """The best moments of every query, in the format of QVHighlights submissions.

    ``numbers``: the query ids to write as numbers.
    """
    pairs = ResidentSplit.from_dataset(data)
    loader = ResidentLoader(pairs, 128, shuffle=False, labels=False)
    try:
        spans, qids = predict_split(checkpoint.model, loader, n=max(top, AS_SCORED))
    except ValueError as error:  # of another width
        rule = f"features must be as those {checkpoint.path} was trained on"
        raise UnusableError(f"{data.annotations.source}: {rule}, got {error}") from error
    found = {
        qid: [[*span, score] for span, score, keep in zip(*each) if keep][:top]
        for qid, each in zip(qids, zip(spans.windows.tolist(), spans.scores.tolist(), spans.mask.tolist()))
    }
    out: Mapping[str, int | str] = numbers or {}
    return [
        {"qid": out.get(q.qid, q.qid), "query": q.text, "vid": q.vid, "pred_relevant_windows": found[q.qid]}
        for q in data.queries
    ]


def queries_of(checkpoint: Checkpoint, place: Place) -> list[tuple[VMRDataset, dict[str, int]]]:
    """Annotations and features to predict for, pooled and embedded like the checkpoint's target unless given.

    Each comes with the query ids that are numbers in the file.
    """
    trained = checkpoint.problem.target
    place = replace(
        place,
        max_clips=place.max_clips or (trained.max_clips if trained else None),
        glove=place.glove or (trained.glove if trained and place.query is None else None),
    )
    check_durations(place)
    files = annotation_files(place)
    return [(data, numbered(files[split])) for split, data in read_datasets(place, files).items()]
