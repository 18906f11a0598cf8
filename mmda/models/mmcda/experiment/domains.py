"""The two domains: simulated worlds, or annotations and features on disk, as splits in memory.

The pairs of a domain contain no moments: ``Domain.opened`` reads the moments of one split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from mmda._core.files import read_file, text_lines
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.vmr import (
    WORLDS,
    Annotations,
    FeatureStore,
    ResidentSplit,
    TextFeatures,
    VMRBatch,
    VMRDataError,
    VMRDataset,
    detect_layout,
    open_features,
    read_annotations,
    read_glove,
    read_splits,
    simulate,
    tokenize,
)
from mmda.vmr.annotations import parse_json
from mmda.vmr.evaluation import pad_spans

SPLITS = ("train", "val", "test")
NOTES = (".jsonl", ".json", ".txt", ".csv")
BESIDE_NOTES = re.compile(r"Charades_v1|gsub_|valid_videos|.*durations")  # published with the annotations


@dataclass(frozen=True)
class Place:
    """Paths of a domain's data, and how to read it.

    Args:
        path: folder of annotations and features, file of annotations, or the common prefix of three files.
        video: paths of frame features stored elsewhere; several are concatenated on the feature axis.
        query: path of query features stored elsewhere.
        splits: file that lists the videos of each split.
        max_clips: average-pool longer videos to this many clips.
        drop: leave out videos and queries without usable features.
        glove: word vectors to use instead of query features.
        durations: file of video durations, for annotations that do not contain them (Charades-STA).
        clip_seconds: clip length, if the features do not contain it.
    """

    path: str
    video: tuple[str, ...] = ()
    query: str | None = None
    splits: str | None = None
    max_clips: int | None = None
    drop: bool = False
    glove: str | None = None
    durations: str | None = None
    clip_seconds: float | None = None

    @property
    def name(self) -> str:
        """Name of the data set: the folder, or the file without its suffix."""
        path = Path(os.path.abspath(self.path))
        return path.stem if path.is_file() else path.name

    def absolute(self) -> Place:
        """The same place with absolute paths."""

        def whole(path: str | None) -> str | None:
            return None if path is None else os.path.abspath(path)

        return replace(
            self,
            path=os.path.abspath(self.path),
            video=tuple(map(os.path.abspath, self.video)),
            query=whole(self.query),
            splits=whole(self.splits),
            glove=whole(self.glove),
            durations=whole(self.durations),
        )


@dataclass(frozen=True)
class Problem:
    """The two domains of an experiment: a simulated world, or two places on disk.

    Args:
        name: name in tables and files.
        world: key of :data:`mmda.vmr.WORLDS`.
        videos: number of videos, if not the world's default.
        source: place of the labelled domain.
        target: place of the other one.
    """

    name: str
    world: str | None = None
    videos: int | None = None
    source: Place | None = None
    target: Place | None = None


@dataclass(frozen=True)
class Domain:
    """One domain in memory. Its pairs contain no moments: ``opened`` reads the moments of one split.

    Args:
        pairs: videos and queries of each split.
        opened: returns a split by name, with its moments; queries without any are left out.
        texts: text of each query, by query id.
        videos: video of each query, by query id.
        told: messages about what was left out or chosen while reading, one line each.
        numbers: the query ids that are numbers in the annotation file.
    """

    pairs: dict[str, ResidentSplit]
    opened: Callable[[str], ResidentSplit]
    texts: dict[str, str]
    videos: dict[str, str]
    told: tuple[str, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict)


def load_problem(problem: Problem, seed: int = 0) -> tuple[Domain, Domain]:
    """Source and target of a problem.

    Args:
        problem: a simulated world, or two places on disk.
        seed: seed of a simulated world; no effect on data on disk.

    Returns:
        The two domains; the moments of domains on disk are not read.

    Raises:
        VMRDataError: the data cannot be used; the message names file, id and rule.

    Example:
        >>> source, target = load_problem(Problem("small", world="language", videos=8))
        >>> {split: len(pairs) for split, pairs in target.pairs.items()}
        {'train': 8, 'val': 20, 'test': 20}
    """
    if problem.world is not None:
        world = WORLDS[problem.world]
        if problem.videos is not None:
            world = replace(world, videos=problem.videos, test_videos=max(20, problem.videos // 4))
        draw = simulate(world, seed=seed)
        names = {qid: qid for qid in draw.texts}

        def of(**splits: VMRBatch) -> Domain:
            opened = {split: ResidentSplit.from_batch(batch) for split, batch in splits.items()}
            pairs = {split: each.without_moments() for split, each in opened.items()}
            return Domain(pairs, opened.__getitem__, draw.texts, names)

        source = of(train=draw.source_train, val=draw.source_val)
        return source, of(train=draw.target_train, val=draw.target_val, test=draw.target_test)
    if problem.source is None or problem.target is None:
        raise UnusableError(f"{problem.name}: must name a world, or a source and a target")
    check_durations(problem.source, problem.target)
    source, target = read_domain(problem.source, ("train", "val")), read_domain(problem.target, SPLITS)
    for what in ("frames", "words"):
        a, b = (getattr(domain.pairs["train"], what).shape[-1] for domain in (source, target))
        if a != b:
            raise VMRDataError(problem.target.path, None, f"have {what} of one width in both domains", f"{a} and {b}")
    return source, target


class Draws:
    """The domains of problems, each read once; the last two are kept.

    Example:
        >>> data = Draws()
        >>> problem = Problem("small", world="language", videos=8)
        >>> data.load(problem, 0) is data.load(problem, 0)
        True
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Problem, int], tuple[Domain, Domain]] = {}
        self._fitted: dict[Hashable, dict[Hashable, object]] = {}

    def fitted(self, *of: Hashable) -> dict[Hashable, object]:
        """Cache of closed-form fits to the same data, which rows share; the last four are kept."""
        if of not in self._fitted:
            self._fitted = dict([*self._fitted.items()][-3:])
            self._fitted[of] = {}
        return self._fitted[of]

    def load(self, problem: Problem, seed: int) -> tuple[Domain, Domain]:
        """:func:`load_problem`. Each seed draws a new simulated world; real data stays the same."""
        key = (problem, 0 if problem.world is None else seed)
        if key not in self._kept:
            self._kept = dict([*self._kept.items()][-1:])
            self._kept[key] = load_problem(*key)
        return self._kept[key]


def read_domain(place: Place, names: Sequence[str]) -> Domain:
    """Annotations and features of one domain, checked, split by video, and padded; moments are not read."""
    files = annotation_files(place)
    data = read_datasets(place, files)
    told = [str(part.report) for part in data.values() if not part.report.ok]  # only with --drop
    if "" in data:
        data = split_by_video(place, data[""], told)
        files = dict.fromkeys(data, files[""])
    else:
        told.append(f"{place.path}: " + ", ".join(f"{split} is {file.name}" for split, file in sorted(files.items())))
        files = {"val": files["train"], **files}
        if "val" not in data:
            vids = in_order(data["train"].vids)
            held = max(1, len(vids) // 10)
            told.append(f"{place.path}: no file for val, {held} videos of train are held out as such")
            train = data["train"]
            data |= {"val": train.select(vids[:held]), "train": train.select(vids[held:])}
    pairs = {name: ResidentSplit.from_dataset(data[name]) for name in names}

    @cache
    def opened(split: str) -> ResidentSplit:
        moments = {query.qid: query.windows for query in read_place(place, files[split])}
        rows = [i for i, qid in enumerate(pairs[split].qids) if moments.get(qid)]
        if not rows:
            raise VMRDataError(files[split], split, "hold a query with a moment in this split", "unlabelled ones only")
        labelled = pairs[split] if len(rows) == len(pairs[split]) else pairs[split].select(rows)
        windows, mask = pad_spans([moments[qid] for qid in labelled.qids])
        return replace(labelled, windows=windows, window_mask=mask)

    queries = [query for part in data.values() for query in part.queries]
    texts, videos = ({query.qid: getattr(query, name) for query in queries} for name in ("text", "vid"))
    numbers = {qid: number for file in {*files.values()} for qid, number in numbered(file).items()}
    return Domain(pairs, opened, texts, videos, tuple(told), numbers)


def split_by_video(place: Place, data: VMRDataset, told: list[str]) -> dict[str, VMRDataset]:
    """The splits that --splits lists, else 70 / 10 / 20 by video, at least one video in each."""
    if place.splits is not None:
        every = read_splits(place.splits)
        splits = every[splits_name(place, list(every))]
        listed = {vid for vids in splits.values() for vid in vids}
        unknown, spare = len(listed.difference(data.vids)), len(set(data.vids) - listed)
        if unknown:
            told.append(f"{place.splits}: of {len(listed)} videos listed for {place.name}, {unknown} are unknown there")
        if spare:
            told.append(f"{place.splits}: of {len(data.vids)} videos of {place.name}, {spare} are in no split")
    else:
        vids = in_order(data.vids)
        n = len(vids)
        if n < len(SPLITS):
            rule = "hold at least 3 videos, one each to train on, to validate and to test"
            raise VMRDataError(place.path, None, rule, str(n))
        a = min(int(0.7 * n), n - 2)
        b = min(max(int(0.8 * n), a + 1), n - 1)
        splits = {"train": tuple(vids[:a]), "val": tuple(vids[a:b]), "test": tuple(vids[b:])}
    for name in SPLITS:
        if not set(splits.get(name, ())) & set(data.vids):
            raise VMRDataError(place.splits or place.path, name, "hold at least one query in this split", "none")
    return {name: data.select(splits[name]) for name in SPLITS}


def splits_name(place: Place, known: list[str]) -> str:
    """Name of this data set in --splits: the same name, else the one name that is a prefix of the other."""
    found = [name for name in known if name == place.name]
    found = found or [name for name in known if name.startswith(place.name) or place.name.startswith(name)]
    if len(found) != 1:
        rule = f"name the data set {place.name!r}, or exactly one with that prefix"
        raise VMRDataError(place.splits or "", None, rule, ", ".join(found or known) or "none")
    return found[0]


def in_order(vids: Sequence[str]) -> list[str]:
    """Videos in an order that depends only on their names."""
    return sorted(vids, key=hash_text)


def hash_text(text: str) -> int:
    """A hash that is the same in every process."""
    value = 0
    for byte in text.encode():
        value = (value * 1_000_003 + byte) % (1 << 61)
    return (value * 0x9E3779B97F4A7C15) % (1 << 61)


def annotation_files(place: Place) -> dict[str, Path]:
    """The one annotation file, with the key "", or the published files of train, val and test by split."""
    path = Path(place.path)
    if not path.is_dir():
        file = path if path.is_file() else Path(f"{path}.jsonl")
        if not file.exists():
            raise VMRDataError(path, None, "be a folder or a file of annotations", f"nothing there, nor at {file}")
        return {"": file}
    found = [p for p in sorted(path.iterdir()) if p.suffix in NOTES and not BESIDE_NOTES.match(p.name)]
    if len(found) == 1:
        return {"": found[0]}
    words = [[word for word in SPLITS if word in re.split(r"[._-]", file.name)] for file in found]
    files = {word[0]: file for word, file in zip(words, found) if len(word) == 1}
    if set(files) == {"train", "val"}:  # the labels of the test split are not published: QVHighlights
        files = {"train": files["train"], "test": files["val"]}
    if not (len(files) == len(found) > 1 and {"train", "test"} <= set(files)):
        rule = "hold one file of annotations, or one each with `train` and `test` or `val` in its name"
        came = ", ".join(file.name for file in found) or "none"
        raise VMRDataError(path, None, f"{rule} (or name a file instead of the folder)", came)
    if place.splits is not None:
        raise VMRDataError(path, None, "be one file of annotations for --splits", ", ".join(map(str, files.values())))
    return files


def check_durations(*places: Place) -> None:
    """Raise if durations are given but no annotation file needs them."""
    given = [place for place in places if place.durations is not None]
    if given and not any(_needs_durations(file) for place in given for file in annotation_files(place).values()):
        rule = "be left out where the annotations contain durations, as all but Charades-STA do"
        raise VMRDataError(given[0].durations or "", None, rule, ", ".join(place.path for place in given))


def _needs_durations(file: Path) -> bool:
    return detect_layout(file) == "charades"


def read_place(place: Place, file: Path, *, closed: bool = False) -> Annotations:
    """The annotations of one file of a place."""
    needed = place.durations is not None and _needs_durations(file)
    return read_annotations(file, durations=place.durations if needed else None, closed=closed)


def numbered(file: Path) -> dict[str, int]:
    """The query ids that are numbers in a JSON lines file; public evaluators need them as numbers again."""
    if file.suffix != ".jsonl":
        return {}
    lines = text_lines(read_file(file).decode("utf-8-sig"))
    rows = (parse_json(line, file, f"line {number}") for number, line in enumerate(lines, start=1) if line.strip())
    return {str(qid): qid for row in rows if isinstance(qid := row.get("qid"), int) and not isinstance(qid, bool)}


def features_beside(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the video features and of the query features in a folder, by the beginning of their names."""
    names = [path for path in sorted(folder.iterdir()) if path.suffix not in NOTES]
    video, query = ([str(path) for path in names if path.name.startswith(kind)] for kind in ("video", "query"))
    return video, query


def read_datasets(place: Place, files: dict[str, Path]) -> dict[str, VMRDataset]:
    """Annotations with their moments hidden, and features: `video*` and `query*` in the folder or PREFIX_*.npz."""
    path = Path(place.path)
    notes = {split: read_place(place, file, closed=True) for split, file in files.items()}
    video, query = place.video, place.query
    if path.is_dir():
        found, queries = features_beside(path)
        video = video or tuple(found)
        if query is None and len(queries) > 1 and place.glove is None:
            rule = "hold query features once (or --source-query, --target-query must name them)"
            raise VMRDataError(path, None, rule, ", ".join(queries))
        query = query or next(iter(queries), None)
    else:
        prefix = path.with_suffix("") if path.is_file() else path
        video = video or (f"{prefix}_video.npz",)
        query = query or f"{prefix}_query.npz"
        needed = video if place.glove else (*video, query)
        missing = [name for name in needed if path.is_file() and not Path(name).exists()]
        if missing:
            rule = "come with features (--source-video and --source-query, or --target-..., name them)"
            raise VMRDataError(path, None, rule, f"no {missing[0]}")
    if not video or (query is None and place.glove is None):
        missing_kind = "video" if not video else "query"
        rule = f"hold `{missing_kind}` features, or --source-{missing_kind}, --target-{missing_kind} name them"
        raise VMRDataError(path, None, rule, "none")
    frames = open_features(video if len(video) > 1 else video[0])
    words: dict[str, FeatureStore]
    if place.glove is not None:
        vectors = read_glove(place.glove, {word for each in notes.values() for q in each for word in tokenize(q.text)})
        words = {split: TextFeatures(each, vectors) for split, each in notes.items()}
    else:
        assert query is not None
        one = open_features(query, kind="query", ids=[qid for each in notes.values() for qid in each.order])
        words = dict.fromkeys(notes, one)
    on_bad: Literal["drop", "raise"] = "drop" if place.drop else "raise"
    return {
        split: VMRDataset(
            each, frames, words[split], max_clips=place.max_clips, clip_seconds=place.clip_seconds, on_bad=on_bad
        )
        for split, each in notes.items()
    }
