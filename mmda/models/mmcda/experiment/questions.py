"""Asking a trained model: the best moments of a sentence in a video, and of every query of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmda.models.mmcda.experiment.domains import Domain, Place, Problem, annotation_files, read_datasets
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import file_stem, job_stem
from mmda.models.mmcda.experiment.rows import FULL
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.training import load_model, predict_split
from mmda.vmr import (
    WORLDS,
    ResidentLoader,
    ResidentSplit,
    VMRBatch,
    VMRDataError,
    VMRDataset,
    encode_sentence,
    read_glove,
    tokenize,
)


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, and what it was trained on.

    Args:
        path: its file.
        model: in ``eval()`` mode.
        problem: the two domains.
        seed: of the draw of a simulated world.
    """

    path: Path
    model: MMCDA
    problem: Problem
    seed: int


def open_checkpoint(path: Path, asked: Sequence[Problem] = ()) -> Checkpoint:
    """Read a trained model; its problem must be one of those ``asked`` for, if any are.

    Args:
        path: a file that :func:`mmda.models.mmcda.experiment.run_job` wrote.
        asked: problems that the user named; a place on disk may be another one than at the time of training.

    Returns:
        The model and its problem.

    Raises:
        CheckpointError: the file cannot be used.
        UnusableError: it is of another problem, or does not say of which.

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
    """What the checkpoint was trained on; it must be one of those asked for, if any are."""
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
        if not same:
            names = " or ".join(repr(problem.name) for problem in asked)
            raise UnusableError(f"{path}: the checkpoint must be of {names}, got {name!r}")
        if same[0].world is None:  # the data may have been moved
            return same[0]
    if trained is None:
        rule = "name what it was trained on"
        raise UnusableError(f"{path}: the checkpoint must {rule} (write it anew with this program), got {name!r} only")
    return trained


def default_checkpoint(folder: Path, problems: Sequence[Problem], alignment: str, *, named: bool) -> Path:
    """The full model of the first seed; where no problem is ``named``, of the only other one that is there."""
    models = folder / "models"
    known: list[Path] = [models / f"{job_stem(each, FULL, 0, alignment)}.pt" for each in problems]
    there = [path for path in known if path.exists()]
    if not there and not named:
        there = sorted(models.glob(f"*-{file_stem(f'{FULL} 0')}.pt"))
        if len(there) > 1:
            names = ", ".join(path.name for path in there)
            raise UnusableError(f"{models}: must hold one full model, or --checkpoint must name it, got {names}")
    return (there or known)[0]


def video_of(target: Domain, vid: str, problem: Problem) -> VMRBatch:
    """One pair of this video of the target."""
    for split in reversed(target.pairs.values()):
        rows = [i for i, qid in enumerate(split.qids) if target.videos[qid] == vid]
        if rows:
            return split.slice(rows[:1])
    example = target.videos[target.pairs["test"].qids[0]]
    raise VMRDataError(problem.name, vid, "be a video of the target", f"try {example!r}")


def sentence_features(checkpoint: Checkpoint, target: Domain, sentence: str) -> torch.Tensor:
    """Features of a sentence: by its words, or those that the query features hold; no other has any then."""
    problem = checkpoint.problem
    if problem.world is not None:
        try:
            return encode_sentence(WORLDS[problem.world], sentence, seed=checkpoint.seed).unsqueeze(0)
        except ValueError as error:
            raise UnusableError(f"--predict: {error}") from error
    assert problem.target is not None
    if problem.target.glove is not None:
        vectors = read_glove(problem.target.glove, tokenize(sentence))
        return torch.from_numpy(vectors.encode(sentence)).unsqueeze(0)
    plain = " ".join(sentence.lower().split())
    for split in reversed(target.pairs.values()):
        for i, qid in enumerate(split.qids):
            if " ".join(target.texts[qid].lower().split()) == plain:
                return split.words[i : i + 1][:, split.word_mask[i]]
    rule = "hold the sentence: others than the target's queries have no features"
    raise VMRDataError(problem.name, None, rule, repr(sentence))


def find_moments(model: MMCDA, video: VMRBatch, words: torch.Tensor, *, top: int = 5) -> Spans:
    """The best moments of one video for one sentence.

    Args:
        model: in ``eval()`` mode.
        video: one pair; its words are left out.
        words: (1, l, d_q), features of the sentence.
        top: how many moments.

    Returns:
        Spans of (1, top).

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=1, test_videos=1)).target_test
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=8, joint=8)).eval()
        >>> find_moments(model, batch, torch.ones(1, 3, 24), top=2).windows.shape
        torch.Size([1, 2, 2])
    """
    mask = torch.ones(words.shape[:2], dtype=torch.bool)
    return model.predict(replace(video, words=words, word_mask=mask), n=top)


def answer_queries(checkpoint: Checkpoint, data: VMRDataset, *, top: int = 5) -> list[dict[str, Any]]:
    """The best moments of every query, in the layout of QVHighlights' submissions."""
    pairs = ResidentSplit.from_dataset(data)
    loader = ResidentLoader(pairs, 128, shuffle=False, labels=False)
    try:
        spans, qids = predict_split(checkpoint.model, loader, n=top)
    except ValueError as error:  # of another width
        rule = f"features must be as those {checkpoint.path} was trained on"
        raise UnusableError(f"{data.annotations.source}: {rule}, got {error}") from error
    found = {
        qid: [[*span, score] for span, score, keep in zip(*each) if keep]
        for qid, each in zip(qids, zip(spans.windows.tolist(), spans.scores.tolist(), spans.mask.tolist()))
    }
    return [{"qid": q.qid, "query": q.text, "vid": q.vid, "pred_relevant_windows": found[q.qid]} for q in data.queries]


def queries_of(checkpoint: Checkpoint, place: Place) -> dict[str, VMRDataset]:
    """Annotations with features to be answered, pooled and embedded as the checkpoint's target was unless named."""
    trained = checkpoint.problem.target
    place = replace(
        place,
        max_clips=place.max_clips or (trained.max_clips if trained else None),
        glove=place.glove or (trained.glove if trained else None),
    )
    return read_datasets(place, annotation_files(place))


def numbered(file: Path) -> dict[str, int]:
    """Which query ids of a file of JSON lines are written there as numbers."""
    if file.suffix != ".jsonl":
        return {}
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    return {str(qid): qid for row in rows if isinstance(qid := row.get("qid"), int) and not isinstance(qid, bool)}
