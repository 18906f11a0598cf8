"""Annotations joined with features: each query with its moments, its video's features and its words, checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmda.vmr.annotations import Annotations, VMRQuery, Window, as_name, load_json, read_annotations, video_id
from mmda.vmr.features import (
    Array,
    FeatureStore,
    MappedStore,
    PathLike,
    check_finite,
    clip_bounds,
    open_features,
    pool_clips,
)
from mmda.vmr.reports import Findings, Report, VMRDataError


@dataclass(frozen=True)
class VMRExample:
    """One (video, query) pair, ready to be batched.

    Args:
        qid: id of the query.
        vid: id of the video.
        text: the sentence.
        frames: clip features.
        words: word features.
        clip_times: start and end of every clip in seconds.
        duration: length of the video in seconds.
        windows: the moments in seconds; ``None`` if they are hidden.
        video_index: index of the video in its data set.
        text_index: index of the text in its data set; equal texts share it.

    Shape:
        frames ``(t, d_v)``, words ``(l, d_q)``, clip_times ``(t, 2)``.
    """

    qid: str
    vid: str
    text: str
    frames: Tensor
    words: Tensor
    clip_times: Tensor
    duration: float
    windows: tuple[Window, ...] | None
    video_index: int
    text_index: int


class VMRDataset:
    """Annotations joined with video and query features, checked once and then read from memory.

    Args:
        annotations: the queries; moments stay hidden if they are hidden there (:meth:`Annotations.without_moments`).
        video: features by video id.
        query: features by query id.
        max_clips: average-pool longer videos to this many clips.
        max_words: keep at most this many words of a query.
        clip_seconds: length of a clip; by default that of the store, otherwise the video's length over its number of
            clips.
        on_bad: ``"raise"`` at the first missing or unusable feature; ``"drop"`` drops its queries and counts them.
        in_memory: keep the features (after pooling) in memory; otherwise read them from the store for each example,
            which is fast from a packed folder.

    Raises:
        VMRDataError: if features are missing, empty, not finite or of another width and ``on_bad`` is
            ``"raise"``; if no query is left; if annotations created in code are invalid.
        ValueError: if an option is out of range.

    Notes:
        Only features named by the annotations are read, once at construction to check them. The width is that of the
        majority. Clips of ``clip_seconds`` that start after the end of the video are cut; the last clip extends to the
        end of the video if that is less than a clip away. If the clips of more than one video in ten cover less than
        half or more than twice its length, the clip length is wrong and an error is raised. A moment that begins after
        the last feature is a problem; with ``"drop"`` the query is kept without a target for that moment
        (:func:`mmda.losses.moment_targets`).

    Example:
        >>> import numpy as np
        >>> from mmda.vmr import ArrayStore, VMRQuery, validate_queries
        >>> notes = validate_queries([VMRQuery("q", "v", "a dog runs", 10.0, ((4.0, 8.0),))])
        >>> data = VMRDataset(notes, ArrayStore({"v": np.ones((5, 3))}), ArrayStore({"q": np.ones(4)}))
        >>> data[0].clip_times[2].tolist(), data[0].windows, data.frame_width, data.word_width
        ([4.0, 6.0], ((4.0, 8.0),), 3, 4)
    """

    def __init__(
        self,
        annotations: Annotations,
        video: FeatureStore,
        query: FeatureStore,
        *,
        max_clips: int | None = None,
        max_words: int | None = None,
        clip_seconds: float | None = None,
        on_bad: Literal["raise", "drop"] = "raise",
        in_memory: bool = True,
    ) -> None:
        seconds = video.clip_seconds if clip_seconds is None else clip_seconds
        for name, value in (("max_clips", max_clips), ("max_words", max_words), ("clip_seconds", seconds)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"VMRDataset: `{name}` must be above 0, got {value}")
        if on_bad not in ("raise", "drop"):
            raise ValueError(f"VMRDataset: `on_bad` must be one of 'raise', 'drop', got {on_bad!r}")
        self._video, self._query = video, query
        self._max_clips, self._max_words = max_clips, max_words
        self._clip_seconds = seconds
        self._in_memory = in_memory
        self._frames: dict[str, Tensor] = {}
        self._words: dict[str, Tensor] = {}
        self._clip_times: dict[str, Tensor] = {}
        self._clip_rows: dict[str, int] = {}  # rows of the stored array within the video, before pooling
        found = Findings()
        if not annotations.closed:
            _check_windows(annotations)
        durations = annotations.durations
        clips: dict[str, int] = {}
        widths = {vid: self._take_video(vid, durations[vid], found, on_bad, clips) for vid in annotations.vids}
        _check_orientation(clips, widths, video.source)
        found.extend("transposed", _look_transposed(clips, widths))
        lengths = {vid: (rows, durations[vid]) for vid, rows in clips.items()}
        if seconds is None:
            found.extend("odd_length", _odd_lengths(lengths))
        else:
            _check_clip_seconds(lengths, seconds, video.source)
        self.frame_width, good = _one_width(widths, video.source, "bad_video", found, on_bad)
        widths = {q.qid: self._take_query(q.qid, found, on_bad) for q in annotations if q.vid in good}
        self.word_width, usable = _one_width(widths, query.source, "bad_query", found, on_bad)
        kept = tuple(q for q in annotations if q.vid in good and q.qid in usable)
        if not kept:
            first = next(iter(found.report("", {}).errors), "none")
            rule = "share a usable query with the features"
            raise VMRDataError(annotations.source, None, rule, f"none; the first problem: {first}")
        if not annotations.closed:
            self._check_covered(kept, annotations.source, found, on_bad)
        self.annotations = Annotations(kept, annotations.report, annotations.source, annotations.closed)
        self._number()
        facts: dict[str, object] = {
            "queries": len(kept),
            "videos": len(self.annotations.vids),
            "frame width": self.frame_width,
            "word width": self.word_width,
            "clips": _range(self._clip_times[vid].shape[0] for vid in self.annotations.vids),
            "clip seconds": "from duration" if self._clip_seconds is None else f"{self._clip_seconds:g}",
        }
        unused = len(video) - sum(vid in video for vid in annotations.vids)
        if unused > 0:
            facts["videos without query"] = unused
        self.report: Report = found.report(f"{annotations.source} with features", facts)

    def __len__(self) -> int:
        """Number of (video, query) pairs."""
        return len(self.annotations)

    def __getitem__(self, index: int) -> VMRExample:
        return self._example(index, self.frames)

    def as_stored(self, index: int) -> VMRExample:
        """The example for :func:`collate`, which copies it: frames of a packed folder are its pages, in its precision,
        and must not be written to."""
        return self._example(index, self._stored_frames)

    def _example(self, index: int, frames_of: Callable[[str], Tensor]) -> VMRExample:
        query = self.annotations[index]
        return VMRExample(
            qid=query.qid,
            vid=query.vid,
            text=query.text,
            frames=frames_of(query.vid),
            words=self.words(query.qid),
            clip_times=self._clip_times[query.vid],
            duration=query.duration,
            windows=None if self.annotations.closed else query.windows,
            video_index=self._vid_number[query.vid],
            text_index=self._text_number[_plain(query.text)],
        )

    def __iter__(self) -> Iterator[VMRExample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        closed = ", closed" if self.closed else ""
        return (
            f"VMRDataset({self.annotations.source!r}, {len(self)} queries, {len(self.vids)} videos, "
            f"widths {self.frame_width} and {self.word_width}{closed})"
        )

    @property
    def queries(self) -> tuple[VMRQuery, ...]:
        """The queries kept, in order."""
        return self.annotations.queries

    @property
    def vids(self) -> tuple[str, ...]:
        """Every video once, in order of first mention."""
        return self.annotations.vids

    @property
    def closed(self) -> bool:
        """Whether the moments are hidden."""
        return self.annotations.closed

    @property
    def lengths(self) -> list[int]:
        """Number of clips of every example, for bucketing; reads no features."""
        return [self._clip_times[query.vid].shape[0] for query in self.queries]

    @property
    def indices(self) -> tuple[list[int], list[int]]:
        """Video and text index of every example, as in :class:`VMRExample`; reads no features."""
        videos = [self._vid_number[query.vid] for query in self.queries]
        return videos, [self._text_number[_plain(query.text)] for query in self.queries]

    def frames(self, vid: str) -> Tensor:
        """Clip features ``(t, d_v)`` of a video, pooled and cut according to the options."""
        held = self._frames.get(vid)
        return held if held is not None else self._pooled(self._video[vid][: self._clip_rows[vid]])

    def _stored_frames(self, vid: str) -> Tensor:
        rows = self._clip_rows[vid]
        pooled = self._max_clips is not None and rows > self._max_clips
        if vid in self._frames or pooled or not isinstance(self._video, MappedStore):
            return self.frames(vid)
        return self._video.pages(vid)[:rows]

    def words(self, qid: str) -> Tensor:
        """Word features ``(l, d_q)`` of a query."""
        held = self._words.get(qid)
        return held if held is not None else _tensor(self._query[qid][: self._max_words])

    def clip_times(self, vid: str) -> Tensor:
        """Start and end of every clip of a video in seconds, ``(t, 2)``."""
        return self._clip_times[vid]

    def select(self, vids: Collection[str]) -> VMRDataset:
        """The queries of these videos, in order; features are shared, not copied."""
        return self._with(self.annotations.select(vids))

    def without_moments(self) -> VMRDataset:
        """The same data set with hidden moments, for the target domain; features are shared."""
        return self._with(self.annotations.without_moments())

    def _with(self, annotations: Annotations) -> VMRDataset:
        view = object.__new__(VMRDataset)
        view.__dict__.update(self.__dict__)
        view.annotations = annotations
        view._number()
        return view

    def _number(self) -> None:
        self._vid_number = {vid: k for k, vid in enumerate(self.annotations.vids)}
        texts = dict.fromkeys(_plain(query.text) for query in self.annotations)
        self._text_number = {text: k for k, text in enumerate(texts)}

    def _check_covered(self, queries: Iterable[VMRQuery], source: str, found: Findings, on_bad: str) -> None:
        """Raise or count moments that begin after their video's last feature."""
        for query in queries:
            end = float(self._clip_times[query.vid][-1, 1])
            for start, stop in query.windows:
                if start >= end:
                    rule = f"have moments that begin before the last feature of `{query.vid}` ends, at {end:g} s"
                    error = VMRDataError(source, query.qid, rule, f"({start:g}, {stop:g})")
                    if on_bad == "raise":
                        raise error
                    found.add("past_features", query.qid, error)

    def _take_video(self, vid: str, duration: float, found: Findings, on_bad: str, clips: dict[str, int]) -> int:
        array = _take(self._video, vid, "video", found, on_bad)
        if array is None:
            return 0
        clips[vid] = len(array)
        times, rows, gap = _clip_times(len(array), duration, self._clip_seconds)
        if gap > 0:
            found.add("short_video", vid)
        elif gap < 0:
            found.add("long_video", vid)
        if self._max_clips is not None and rows > self._max_clips:
            bounds = clip_bounds(rows, self._max_clips)
            times = np.stack([times[bounds[:-1], 0], times[bounds[1:] - 1, 1]], axis=1)
        self._clip_rows[vid] = rows
        self._clip_times[vid] = torch.from_numpy(times)
        if self._in_memory:
            self._frames[vid] = self._pooled(array[:rows])
        return int(array.shape[1])

    def _take_query(self, qid: str, found: Findings, on_bad: str) -> int:
        array = _take(self._query, qid, "query", found, on_bad)
        if array is None:
            return 0
        if self._in_memory:
            self._words[qid] = _tensor(array[: self._max_words])
        return int(array.shape[1])

    def _pooled(self, array: Array) -> Tensor:
        return _tensor(array if self._max_clips is None else pool_clips(array, self._max_clips))


def load_packed(
    video: PathLike,
    query: PathLike,
    annotations: PathLike,
    *,
    max_clips: int | None = None,
    on_bad: Literal["raise", "drop"] = "raise",
    closed: bool = False,
) -> VMRDataset:
    """Load a data set from annotations, one file or folder of video features and one of query features.

    Args:
        video: video features, in any layout of :func:`open_features`.
        query: query features; unnamed rows are matched in the order of the annotations.
        annotations: moment annotations, in any layout of :func:`read_annotations`.
        max_clips: average-pool longer videos to this many clips.
        on_bad: as in :class:`VMRDataset`.
        closed: hide the moments, as in :func:`read_annotations`, for the target domain.

    Returns:
        The checked data set; features are read on demand.

    Raises:
        VMRDataError: if a file is invalid, or the three do not match.

    Example:
        >>> import json
        >>> from tempfile import TemporaryDirectory
        >>> row = {"qid": 7, "query": "a cat", "vid": "a", "duration": 8, "relevant_windows": [[0, 2]]}
        >>> with TemporaryDirectory() as folder:
        ...     notes, features = Path(folder, "val.jsonl"), Path(folder, "features.npz")
        ...     _ = notes.write_text(json.dumps(row), encoding="utf-8")
        ...     np.savez(features, video_a=np.ones((4, 3)), text_7=np.ones((2, 5)))
        ...     example = load_packed(features, features, notes)[0]
        >>> example.frames.shape, example.words.shape
        (torch.Size([4, 3]), torch.Size([2, 5]))
    """
    notes = read_annotations(annotations, closed=closed)
    order = notes.order
    return VMRDataset(
        notes,
        open_features(video),
        open_features(query, kind="query", ids=order),
        max_clips=max_clips,
        on_bad=on_bad,
    )


def read_splits(path: PathLike) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read splits by video: ``{data set: {split: [video id, ...]}}``, as JSON.

    Args:
        path: the JSON file.

    Returns:
        The same mapping with ids without file suffixes, as in annotations; ``dataset.select(splits[name]["train"])``
        applies it.

    Raises:
        VMRDataError: if the file is invalid, or a video is in two splits of one data set.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "splits.json")
        ...     _ = file.write_text('{"qvhighlights": {"train": ["a"], "test": ["b", "c"]}}', encoding="utf-8")
        ...     read_splits(file)
        {'qvhighlights': {'train': ('a',), 'test': ('b', 'c')}}
    """
    file = Path(path)
    loaded = load_json(file)
    splits: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, parts in loaded.items() if isinstance(loaded, dict) else [("the file", None)]:
        if not isinstance(parts, dict) or not all(isinstance(vids, list) for vids in parts.values()):
            raise VMRDataError(file, name, "map splits to lists of video ids", type(parts).__name__)
        home: dict[str, str] = {}
        named = {
            split: tuple(video_id(as_name(file, f"{name}, {split}", "video id", vid)) for vid in vids)
            for split, vids in parts.items()
        }
        for split, vids in named.items():
            for vid in vids:
                if home.setdefault(vid, split) != split:
                    raise VMRDataError(file, vid, f"be in one split of {name}", f"{home[vid]} and {split}")
        splits[name] = named
    return splits


def _take(store: FeatureStore, id: str, what: Literal["video", "query"], found: Findings, on_bad: str) -> Array | None:
    """Features of ``id`` if they exist and are usable; otherwise raise, or count the problem and return ``None``."""
    rule = f"no_{what}"
    try:
        if id not in store:
            rule_text = f"have {what} features: the annotations name it"
            raise VMRDataError(store.source, id, rule_text, f"none; it has {_alike(store, id)}")
        rule = f"bad_{what}"
        array = store[id]
        check_finite(array, store.source, id)
        if not array.any():
            raise VMRDataError(store.source, id, "hold a number other than zero", f"{array.size} zeros")
    except VMRDataError as error:
        if on_bad == "raise":
            raise
        found.add(rule, id, error)
        return None
    return array


def _alike(store: FeatureStore, id: str) -> str:
    """A hint if an id differs only by the prefix ``v_``; otherwise the first few ids."""
    other = id[2:] if id.startswith("v_") else f"v_{id}"
    if other in store:
        return f'`{other}`: open the features with `prefix="v_"` if the two are one'
    return ", ".join([*store.ids[:3], "..."])


#: Fraction of the videos that may contradict a clip length, and by which factor.
_CONTRADICTING, _FIT = 0.1, (1 / 2, 2)


def _check_orientation(clips: Mapping[str, int], widths: Mapping[str, int], source: str) -> None:
    """Raise if all arrays have the same number of rows but different widths: they are stored as (features, time)."""
    rows, columns = set(clips.values()), {widths[vid] for vid in clips}
    if len(clips) > 2 and len(rows) == 1 and len(columns) > 1:
        came = f"{rows.pop()} rows in every array and {min(columns)} to {max(columns)} columns: (features, time)?"
        raise VMRDataError(source, None, "have shape (time, features)", came)


#: Common widths of frame features: CLIP, I3D, C3D, VGG, SlowFast and their concatenations.
_USUAL_WIDTHS = frozenset({256, 300, 384, 500, 512, 768, 1024, 1280, 2048, 2304, 2816, 4096})


def _look_transposed(clips: Mapping[str, int], widths: Mapping[str, int]) -> list[str]:
    """Every video, if all have a common width as their number of rows and none has one as its number of columns."""
    rows, columns = set(clips.values()), {widths[vid] for vid in clips}
    looks = len(rows) == 1 and rows <= _USUAL_WIDTHS and not columns & _USUAL_WIDTHS
    return list(clips) if looks else []


def _check_clip_seconds(lengths: Mapping[str, tuple[int, float]], seconds: float, source: str) -> None:
    """Raise if clips of this length do not match the duration of more than a tenth of the videos."""
    off = [
        vid
        for vid, (rows, duration) in lengths.items()
        if not _FIT[0] <= rows * seconds / duration <= _FIT[1] and abs(rows * seconds - duration) > seconds
    ]
    if len(off) > _CONTRADICTING * len(lengths):
        rows, duration = lengths[off[0]]
        implied = float(np.median([duration / rows for rows, duration in lengths.values()]))
        rule = f"fit a clip length of {seconds:g} s in all but one video in ten"
        came = f"{len(off)} of {len(lengths)} that do not (`{off[0]}`: {rows} clips, {duration:g} s); "
        raise VMRDataError(source, None, rule, came + f"the lengths say about {implied:.3g} s")


def _odd_lengths(lengths: Mapping[str, tuple[int, float]]) -> list[str]:
    """Videos that deviate by more than two clips from the clip length on which at least four in five others agree."""
    if len(lengths) < 3:
        return []
    common = float(np.median([duration / rows for rows, duration in lengths.values()]))
    odd = [vid for vid, (rows, duration) in lengths.items() if abs(rows * common - duration) > 2 * common]
    return odd if 5 * len(odd) <= len(lengths) else []


def _one_width(widths: Mapping[str, int], source: str, rule: str, found: Findings, on_bad: str) -> tuple[int, set[str]]:
    """The most frequent width and the ids that have it; other widths raise or are counted. Width 0 means no array."""
    counts = Counter(width for width in widths.values() if width)
    width = max(counts, key=counts.__getitem__, default=0)
    for id, came in widths.items():
        if came not in (0, width):
            error = VMRDataError(source, id, f"have width {width} like the others", came)
            if on_bad == "raise":
                raise error
            found.add(rule, id, error)
    return width, {id for id, came in widths.items() if came == width != 0}


def _clip_times(clips: int, duration: float, clip_seconds: float | None) -> tuple[NDArray[np.float64], int, int]:
    """Start and end of each clip in seconds, the number of clips that begin inside the video, and a gap flag.

    The flag is 1 if more than one clip of the video has no feature, -1 if the features continue for more than one
    clip past its end, else 0.
    """
    if clip_seconds is None:
        cuts = np.linspace(0.0, duration, clips + 1)
        return np.stack([cuts[:-1], cuts[1:]], axis=1), clips, 0
    edges = (
        np.arange(clips + 1) * clip_seconds
    )  # one array for both edges, so that a clip ends exactly where the next starts
    inside = max(1, int((edges[:-1] < duration).sum()))
    starts, ends = edges[:inside], np.minimum(edges[1 : inside + 1], duration)
    covered = clips * clip_seconds
    if 0 < duration - covered <= clip_seconds:
        ends[-1] = duration
    gap = 1 if duration - covered > clip_seconds else -1 if covered - duration > clip_seconds else 0
    return np.stack([starts, ends], axis=1), inside, gap


def _check_windows(annotations: Annotations) -> None:
    for query in annotations:
        for start, end in query.windows:
            if not 0 <= start < end <= query.duration:
                rule = f"have moments with 0 <= start < end <= {query.duration:g} (see `validate_queries`)"
                raise VMRDataError(annotations.source, query.qid, rule, f"({start:g}, {end:g})")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".?! ")


def _range(counts: Iterable[int]) -> str:
    numbers = list(counts)
    return f"{min(numbers)} to {max(numbers)}"


def _tensor(array: Array) -> Tensor:
    """The array as a tensor; memory maps and read-only arrays are copied first."""
    return torch.from_numpy(array if array.flags.owndata and array.flags.writeable else array.copy())
