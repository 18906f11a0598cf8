"""Moment annotations as researchers have them on disk, read into one validated form.

Five layouts are known: Charades-STA, ActivityNet Captions, TACoS, QVHighlights and NExT-GQA. Times become
continuous seconds, moments are cut to the video once, here, and a report counts what was cut and dropped.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, cast, get_args

from mmda.vmr.reports import ClosedMomentsError, Findings, Report, VMRDataError

Layout = Literal["charades", "activitynet", "tacos", "qvhighlights", "nextgqa"]
Window = tuple[float, float]

_VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")


@dataclass(frozen=True)
class VMRQuery:
    """One sentence about one video and the moments it names, in seconds.

    Args:
        qid: name of the query, unique in its annotations.
        vid: name of the video, without a file suffix.
        text: the sentence, blanks collapsed.
        duration: length of the video in seconds.
        windows: the moments ``(start, end)`` with ``0 <= start < end <= duration``; empty where unlabelled.
    """

    qid: str
    vid: str
    text: str
    duration: float
    windows: tuple[Window, ...] = ()


class _ClosedQuery(VMRQuery):
    """A query whose moments are not there: not hidden, not copied; reading them raises."""

    def __init__(self, query: VMRQuery) -> None:
        for name in ("qid", "vid", "text", "duration"):
            object.__setattr__(self, name, getattr(query, name))

    @property
    def windows(self) -> NoReturn:
        raise ClosedMomentsError(
            f"the moments of query `{self.qid}` are closed: a target domain is trained without its boundaries; "
            "read them from the annotations that `without_moments()` was called on, in evaluation only"
        )

    def _key(self) -> tuple[object, ...]:
        return self.qid, self.vid, self.text, self.duration

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ClosedQuery) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"VMRQuery(qid={self.qid!r}, vid={self.vid!r}, text={self.text!r}, duration={self.duration}, closed)"


@dataclass(frozen=True)
class Annotations:
    """Validated queries of one split, in file order, with the report of what was cut and dropped.

    Args:
        queries: the queries kept.
        report: what was read, cut and dropped.
        source: the file they came from, for messages.
        closed: the moments are not readable (the target's view).
        order: the name of every row of the file, kept or not: what rows of features without names go by.

    Example:
        >>> notes = validate_queries([VMRQuery("q1", "v", "a dog runs", 10.0, ((4.0, 12.0),))], source="mine")
        >>> notes[0].windows, notes.report.count("clipped")
        (((4.0, 10.0),), 1)
        >>> notes.without_moments()[0]
        VMRQuery(qid='q1', vid='v', text='a dog runs', duration=10.0, closed)
    """

    queries: tuple[VMRQuery, ...]
    report: Report = field(repr=False)
    source: str = "memory"
    closed: bool = False
    order: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.queries)

    def __iter__(self) -> Iterator[VMRQuery]:
        return iter(self.queries)

    def __getitem__(self, index: int) -> VMRQuery:
        return self.queries[index]

    @property
    def vids(self) -> tuple[str, ...]:
        """Every video once, in order of first mention."""
        return tuple(dict.fromkeys(query.vid for query in self.queries))

    @property
    def durations(self) -> dict[str, float]:
        """Length of every video in seconds."""
        return {query.vid: query.duration for query in self.queries}

    def select(self, vids: Collection[str]) -> Annotations:
        """The queries of these videos, in the same order.

        Raises:
            VMRDataError: if none of the videos is known.
        """
        wanted = set(vids)
        kept = tuple(query for query in self.queries if query.vid in wanted)
        if not kept:
            some = ", ".join(sorted(wanted)[:3])
            raise VMRDataError(self.source, None, "have a query on one of the selected videos", f"none on {some}")
        return replace(self, queries=kept)

    def without_moments(self) -> Annotations:
        """The target's view: the same pairs, whose moments are gone; reading ``windows`` raises."""
        if self.closed:
            return self
        return replace(self, queries=tuple(_ClosedQuery(query) for query in self.queries), closed=True)


def validate_queries(
    queries: Iterable[VMRQuery],
    *,
    source: str | Path = "memory",
    facts: Mapping[str, object] | None = None,
    findings: Findings | None = None,
) -> Annotations:
    """Bring raw queries into the validated form: cut moments to the video, drop what names no moment.

    A moment that ends after the video is cut and counted (``clipped``), one with ``end <= start`` is dropped and
    counted (``inverted``); a moment may count under both. A query that loses all its moments, has no words or
    belongs to a video of unknown length is dropped and counted. A query that never had a moment is kept.

    Args:
        queries: raw queries, in order.
        source: the file they came from, for messages.
        facts: what to say first in the report.
        findings: what the caller has counted already.

    Returns:
        The annotations with their report.

    Raises:
        VMRDataError: if a qid comes twice, a time is not a finite number, one video has two lengths, or no query is
            left.

    Example:
        >>> raw = [VMRQuery("1", "v", "a  cat", 10.0, ((2.0, 12.0),)), VMRQuery("2", "v", "", 10.0)]
        >>> notes = validate_queries(raw)
        >>> [(query.text, query.windows) for query in notes]
        [('a cat', ((2.0, 10.0),))]
        >>> notes.report.count("clipped"), notes.report.count("no_text")
        (1, 1)
    """
    found = findings if findings is not None else Findings()
    kept: list[VMRQuery] = []
    seen: dict[str, None] = {}
    lengths: dict[str, float] = {}
    rows = moments = 0
    for query in queries:
        rows += 1
        if query.qid in seen:
            raise VMRDataError(source, query.qid, "name one query only", "the same qid twice")
        seen[query.qid] = None
        text = " ".join(query.text.split())
        if not text:
            found.add("no_text", query.qid)
            continue
        if not (math.isfinite(query.duration) and query.duration > 0):
            found.add("no_duration", query.qid)
            continue
        if lengths.setdefault(query.vid, query.duration) != query.duration:
            rule = f"give video `{query.vid}` the length of its other queries, {lengths[query.vid]:g} s"
            raise VMRDataError(source, query.qid, rule, f"{query.duration:g} s")
        windows = tuple(_clip(query, found, source))
        if query.windows and not windows:
            found.add("no_moment", query.qid)
            continue
        moments += len(windows)
        kept.append(replace(query, text=text, duration=float(query.duration), windows=windows))
    said: dict[str, object] = dict(facts or {})
    said |= {"rows": rows, "queries": len(kept), "videos": len({query.vid for query in kept}), "moments": moments}
    if not kept:
        raise VMRDataError(source, None, "hold at least one usable query", f"{rows} rows, none usable")
    return Annotations(tuple(kept), found.report(str(source), said), str(source), order=tuple(seen))


def _clip(query: VMRQuery, found: Findings, source: str | Path) -> Iterator[Window]:
    for start, end in query.windows:
        if not (math.isfinite(start) and math.isfinite(end)):
            raise VMRDataError(source, query.qid, "have finite moment times", f"({start}, {end})")
        if end > query.duration:
            found.add("clipped", query.qid)
        if start < 0 < end:
            found.add("negative", query.qid)
        low, high = max(start, 0.0), min(end, query.duration)
        if end <= start:
            found.add("inverted", query.qid)
        elif high <= low:
            found.add("outside", query.qid)
        else:
            yield float(low), float(high)


def read_annotations(
    path: str | Path,
    layout: Layout | None = None,
    *,
    split: str | None = None,
    durations: str | Path | Mapping[str, float] | None = None,
    closed: bool = False,
) -> Annotations:
    """Read one split of moment annotations in any of the five layouts.

    Args:
        path: the annotation file; or its folder, with ``split``. For NExT-GQA either the questions (``val.csv``)
            or the grounded spans (``gsub_val.json``); the other is found beside it.
        layout: one of ``"charades"``, ``"activitynet"``, ``"tacos"``, ``"qvhighlights"``, ``"nextgqa"``;
            recognised from the file where left out.
        split: which file of a folder: the word in its name (``"train"``, ``"val"``, ``"test"``).
        durations: length of every video, only for Charades-STA: a mapping, a ``csv`` with columns ``id`` and
            ``length``, or a ``json`` of numbers or ``{"duration": number}``; by default
            ``Charades_v1_<split>.csv`` beside the file.
        closed: the target's view: moments are never looked at, so that inverted, absent or damaged ones decide
            neither which queries are kept nor whether the file can be read. Query names and ``order`` are those of
            an open reading. ``False`` opens them.

    Returns:
        The queries in file order. Query names: the file's own ``qid`` (QVHighlights), ``<vid>_<qid>`` (NExT-GQA),
        the audio's stem where given, else ``<vid>_<split>_<k>``, k from 1 within the video.

    Raises:
        VMRDataError: if the layout is not recognised or the file breaks it.
        ValueError: if ``layout`` is none of the five, or ``durations`` are given for a layout that holds them.
        OSError: if a file cannot be read.

    Notes:
        Differs from the published files: moments are cut to the video, rows with ``end <= start`` dropped;
        TACoS frames become seconds by the video's own frame rate; file suffixes of ids are removed; blanks
        collapse. For NExT-GQA the text is ``question? answer``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "charades_sta_test.txt")
        ...     _ = file.write_text("AO8RW 0.0 6.9##a person is putting a book on a shelf.", encoding="utf-8")
        ...     notes = read_annotations(file, durations={"AO8RW": 33.7})
        >>> notes[0].qid, notes[0].windows
        ('AO8RW_test_1', ((0.0, 6.9),))

    References:
        Gao et al., "TALL", ICCV 2017 (Charades-STA); Krishna et al., "Dense-Captioning Events in Videos", ICCV
        2017; Regneri et al., "Grounding Action Descriptions in Videos", TACL 2013; Lei et al., "QVHighlights",
        NeurIPS 2021; Xiao et al., "Can I Trust Your Answer?", CVPR 2024.
    """
    file = _pick_file(Path(path), split)
    if layout is None:
        layout = detect_layout(file)
    elif layout not in get_args(Layout):
        known = ", ".join(repr(name) for name in get_args(Layout))
        raise ValueError(f"read_annotations: `layout` must be one of {known}, got {layout!r}")
    if durations is not None and layout != "charades":
        raise ValueError(
            f"read_annotations: `durations` must be left out for {layout!r}, whose files hold them, got {durations!r}"
        )
    if layout == "charades":
        rows = _read_charades(file, durations, closed)
    else:
        rows = _READERS[layout](file, closed)
    notes = validate_queries(rows, source=file, facts={"layout": layout})
    return notes.without_moments() if closed else notes


def published_splits(path: str | Path) -> tuple[str, ...]:
    """Which splits a folder of published files has: a file of its own for each, as ``train.json`` and ``test.json``.

    Args:
        path: the folder.

    Returns:
        Those of ``"train"``, ``"val"`` and ``"test"`` that :func:`read_annotations` finds a file for with ``split``;
        none for a single file. A video may be in two of them: ActivityNet Captions has two test splits of the same
        videos.

    Raises:
        VMRDataError: if there is no such folder or file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("charades_sta_train.txt", "charades_sta_test.txt", "Charades_v1_train.csv"):
        ...         Path(folder, name).touch()
        ...     published_splits(folder)
        ('train', 'test')
    """
    folder = Path(path)
    if not folder.exists():
        raise VMRDataError(folder, None, "exist", "no such file or folder")
    if not folder.is_dir():
        return ()
    return tuple(split for split in ("train", "val", "test") if len(_candidates(folder, split)) == 1)


def detect_layout(path: str | Path) -> Layout:
    """Recognise the layout of an annotation file from its suffix and first entry.

    Args:
        path: the file.

    Returns:
        ``"charades"``, ``"activitynet"``, ``"tacos"``, ``"qvhighlights"`` or ``"nextgqa"``. The name of a ``.jsonl``
        file is enough; all others are opened.

    Raises:
        VMRDataError: if it is none of the five.

    Example:
        >>> detect_layout("highlight_val_release.jsonl")
        'qvhighlights'
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        return "qvhighlights"
    if suffix == ".txt":
        with open_text(file) as stream:
            if "##" in next((line for line in stream if line.strip()), ""):
                return "charades"
    elif suffix == ".csv":
        with open_text(file) as stream:
            if {"video_id", "question", "answer", "qid"} <= set(next(csv.reader(stream), ())):
                return "nextgqa"
    elif suffix == ".json":
        loaded = load_json(file)
        first = next(iter(loaded.values()), None) if isinstance(loaded, dict) else None
        if isinstance(first, dict):
            if "location" in first or file.name.startswith("gsub_"):
                return "nextgqa"
            if {"timestamps", "sentences"} & set(first):  # a file without moments is recognised by its sentences
                return "tacos" if "num_frames" in first else "activitynet"
    rule = (
        "be in a known layout (Charades-STA .txt with `##`, ActivityNet Captions or TACoS .json with `timestamps`, "
        "QVHighlights .jsonl, NExT-GQA .csv or .json with `location`)"
    )
    raise VMRDataError(file, None, rule, f"a {suffix or 'suffixless'} file that fits none")


def _pick_file(path: Path, split: str | None) -> Path:
    if not path.exists():
        raise VMRDataError(path, None, "exist", "no such file or folder")
    if not path.is_dir():
        return path
    candidates = _candidates(path, split)
    if len(candidates) != 1:
        word = f"exactly one annotation file for split {split!r}" if split else "exactly one annotation file"
        raise VMRDataError(path, None, f"hold {word} (or name the file)", ", ".join(candidates) or "none")
    return path / candidates[0]


def _candidates(folder: Path, split: str | None) -> list[str]:
    """Names of the files of a folder that may hold the annotations of a split."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".txt", ".json", ".jsonl", ".csv"))
    aside = re.compile(r"^(\.|Charades_v1|gsub_|valid_videos|.*durations)")
    return [name for name in names if not aside.match(name) and (split is None or split in re.split(r"[._\-]", name))]


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """A file of UTF-8 text, with or without a byte-order mark; no other text, and no such file, are named errors."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except FileNotFoundError:
        raise VMRDataError(file, None, "exist", "no such file") from None
    except UnicodeDecodeError as error:
        raise VMRDataError(file, None, "be UTF-8 text", error) from None
    except csv.Error as error:
        raise VMRDataError(file, None, "be rows of comma-separated values", error) from None


def load_json(file: Path) -> Any:
    """The content of a JSON file whose outermost keys come once."""
    with open_text(file) as stream:
        return parse_json(stream.read(), file)


class _Twice(dict[str, Any]):
    """An object of which a key came twice: refused where it is used, so that what is not looked at cannot fail."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def parse_json(text: str, file: Path, id: str | None = None) -> Any:
    """The value of a JSON text whose outermost keys come once."""

    def unite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        united = dict(pairs)
        return united if len(united) == len(pairs) else _Twice(pairs)

    try:
        # an integer of hundreds of digits is no number of seconds: as a float it is infinite, and told as such
        value = json.loads(text, object_pairs_hook=unite, parse_int=lambda d: int(d) if len(d) < 300 else float(d))
    except json.JSONDecodeError as error:
        raise VMRDataError(file, id, "be valid JSON", error) from None
    except RecursionError:
        raise VMRDataError(file, id, "be valid JSON", "brackets nested too deep") from None
    return _once(file, id, value)


def _once(file: Path, id: str | None, value: Any) -> Any:
    if isinstance(value, _Twice):
        raise VMRDataError(file, id, f"have the key `{value.key}` once", "it twice")
    return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def as_name(file: Path, id: str | None, name: str, value: object) -> str:
    """A video's or a query's name: text, or an integer as text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise VMRDataError(file, id, f"have a name as `{name}`", _shown(value))
    return str(value)


def _text(file: Path, id: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise VMRDataError(file, id, f"have text as `{name}`", _shown(value))
    return value


def _mapping(file: Path, id: str | None, rule: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise VMRDataError(file, id, rule, type(value).__name__)
    return cast("dict[str, Any]", _once(file, id, value))


def _table(file: Path, stream: TextIO, *columns: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file that has these columns, each with all of them."""
    reader = csv.DictReader(stream)
    if not set(columns) <= set(reader.fieldnames or ()):
        raise VMRDataError(file, None, f"have the columns {', '.join(columns)}", ", ".join(reader.fieldnames or ()))
    try:
        for row in reader:
            missing = [column for column in columns if row.get(column) is None]
            if missing:
                rule = f"have the columns {', '.join(columns)}"
                raise VMRDataError(file, f"line {reader.line_num}", rule, f"no {', '.join(missing)}")
            yield row
    except csv.Error as error:
        rule = "be a row of comma-separated values"
        raise VMRDataError(file, f"line {reader.line_num + 1}", rule, error) from None


def _number(file: Path, id: str, name: str, value: object) -> float:
    if isinstance(value, bool):
        raise VMRDataError(file, id, f"have a number as `{name}`", value)
    try:
        return float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise VMRDataError(file, id, f"have a number as `{name}`", _shown(value)) from None


def _windows(file: Path, id: str, name: str, value: object) -> tuple[Window, ...]:
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise VMRDataError(file, id, f"have a list of [start, end] as `{name}`", _shown(value))
    return tuple((_number(file, id, name, start), _number(file, id, name, end)) for start, end in value)


def video_id(name: str) -> str:
    """A video's name without a file suffix: ``s13-d21.avi`` is ``s13-d21``; dots elsewhere stay."""
    for suffix in _VIDEO_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _split_word(file: Path) -> str:
    words = re.split(r"[._\-]", file.stem)
    return next((f"{word}_" for word in words if word in ("train", "val", "test")), "")


def _read_charades(file: Path, durations: str | Path | Mapping[str, float] | None, closed: bool) -> Iterator[VMRQuery]:
    lengths = _charades_durations(file, durations)
    split, counts = _split_word(file), dict[str, int]()
    with open_text(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            head, mark, text = line.partition("##")
            parts = head.split()
            if not mark or not parts or (len(parts) != 3 and not closed):
                raise VMRDataError(file, f"line {number}", "read `VID START END##sentence`", _shown(line.strip()))
            vid = video_id(parts[0])
            counts[vid] = counts.get(vid, 0) + 1
            qid = f"{vid}_{split}{counts[vid]}"
            windows = () if closed else ((_number(file, qid, "start", parts[1]), _number(file, qid, "end", parts[2])),)
            yield VMRQuery(qid, vid, text, lengths.get(vid, math.nan), windows)


def _charades_durations(file: Path, given: str | Path | Mapping[str, float] | None) -> Mapping[str, float]:
    if isinstance(given, Mapping):
        return {vid: _number(file, vid, "durations", length) for vid, length in given.items()}
    if given is None:
        word = _split_word(file).rstrip("_")
        beside = file.parent / f"Charades_v1_{word}.csv"
        if not beside.is_file():
            rule = f"have its videos' lengths beside it ({beside.name}) or in `durations`"
            raise VMRDataError(file, None, rule, "neither")
        given = beside
    table = Path(given)
    if table.suffix == ".csv":
        lengths: dict[str, float] = {}
        with open_text(table) as stream:
            for row in _table(table, stream, "id", "length"):
                length = _number(table, row["id"], "length", row["length"])
                if lengths.setdefault(row["id"], length) != length:
                    raise VMRDataError(table, row["id"], "have one length", f"{lengths[row['id']]:g} and {length:g}")
        return lengths
    loaded = _mapping(table, None, "map video ids to lengths", load_json(table))
    return {
        vid: _number(table, vid, "duration", entry.get("duration") if isinstance(entry, dict) else entry)
        for vid, entry in loaded.items()
    }


def _read_timestamps(file: Path, closed: bool, *, frames: bool) -> Iterator[VMRQuery]:
    """The layout of ActivityNet Captions (seconds) and of TACoS (frames, with the video's frame rate)."""
    split = _split_word(file)
    loaded = _mapping(file, None, "map video ids to their captions", load_json(file))
    for name, entry in loaded.items():
        vid = video_id(name)
        _once(file, name, entry)
        timed = () if closed else ("timestamps",)
        needed = (*timed, "sentences", *(("fps", "num_frames") if frames else ("duration",)))
        missing = [key for key in needed if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise VMRDataError(file, name, f"have the keys {', '.join(needed)}", f"no {', '.join(missing)}")
        sentences, audios = entry["sentences"], entry.get("audios", [])
        if not isinstance(sentences, list):
            raise VMRDataError(file, name, "have a list of sentences", type(sentences).__name__)
        if not isinstance(audios, list) or not all(isinstance(audio, str) for audio in audios):
            raise VMRDataError(file, name, "have a list of file names as `audios`, or none", _shown(audios))
        times = [None] * len(sentences) if closed else entry["timestamps"]
        if not isinstance(times, list):
            raise VMRDataError(file, name, "have a list of timestamps", type(times).__name__)
        if len(times) != len(sentences):
            rule = "have as many timestamps as sentences"
            raise VMRDataError(file, name, rule, f"{len(times)} and {len(sentences)}")
        rate = _number(file, name, "fps", entry["fps"]) if frames else 1.0
        if not rate > 0:
            raise VMRDataError(file, name, "have a positive `fps`", rate)
        length = _number(file, name, "length", entry["num_frames" if frames else "duration"]) / rate
        for k, (window, text) in enumerate(zip(times, sentences)):
            named = len(audios) == len(sentences)
            qid = Path(audios[k]).stem if named else f"{vid}_{split}{k + 1}"
            windows = () if closed else _windows(file, qid, "timestamps", [window])
            yield VMRQuery(
                qid,
                vid,
                _text(file, qid, "sentences", text),
                length,
                tuple((start / rate, end / rate) for start, end in windows),
            )


def _read_activitynet(file: Path, closed: bool) -> Iterator[VMRQuery]:
    return _read_timestamps(file, closed, frames=False)


def _read_tacos(file: Path, closed: bool) -> Iterator[VMRQuery]:
    return _read_timestamps(file, closed, frames=True)


def _read_qvhighlights(file: Path, closed: bool) -> Iterator[VMRQuery]:
    with open_text(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row = parse_json(line, file, f"line {number}")
            needed = ("qid", "vid", "query", "duration")
            missing = [key for key in needed if not isinstance(row, dict) or key not in row]
            if missing:
                rule = f"have the keys {', '.join(needed)}"
                raise VMRDataError(file, f"line {number}", rule, f"no {', '.join(missing)}")
            qid = as_name(file, f"line {number}", "qid", row["qid"])
            windows = None if closed else row.get("relevant_windows")
            yield VMRQuery(
                qid,
                video_id(as_name(file, qid, "vid", row["vid"])),
                _text(file, qid, "query", row["query"]),
                _number(file, qid, "duration", row["duration"]),
                () if windows is None else _windows(file, qid, "relevant_windows", windows),
            )


def _read_nextgqa(file: Path, closed: bool) -> Iterator[VMRQuery]:
    if file.suffix == ".csv":
        questions, spans = file, file.with_name(f"gsub_{file.stem}.json")
    else:
        questions, spans = file.with_name(f"{file.stem.removeprefix('gsub_')}.csv"), file
    grounded = _mapping(spans, None, "map video ids to `duration` and `location`", load_json(spans))
    with open_text(questions) as stream:
        for row in _table(questions, stream, "video_id", "qid", "question", "answer"):
            vid, qid = row["video_id"], f"{row['video_id']}_{row['qid']}"
            entry = _once(spans, vid, grounded.get(vid))
            needed = ("duration",) if closed else ("duration", "location")
            if not isinstance(entry, dict) or not all(key in entry for key in needed):
                rule = f"have {' and '.join(f'`{key}`' for key in needed)}"
                raise VMRDataError(spans, vid, rule, "no such entry")
            windows: tuple[Window, ...] = ()
            if not closed:
                located = _mapping(spans, vid, "map question ids to moments in `location`", entry["location"])
                windows = _windows(spans, qid, "location", located.get(row["qid"], []))
            duration = _number(spans, vid, "duration", entry["duration"])
            yield VMRQuery(qid, vid, f"{row['question']}? {row['answer']}", duration, windows)


_READERS: Mapping[str, Callable[[Path, bool], Iterator[VMRQuery]]] = {
    "activitynet": _read_activitynet,
    "tacos": _read_tacos,
    "qvhighlights": _read_qvhighlights,
    "nextgqa": _read_nextgqa,
}
