"""One reader per published layout, yielding raw queries in file order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mmda.vmr.annotations.names import video_id
from mmda.vmr.annotations.parsing import (
    as_mapping,
    as_name,
    as_number,
    as_text,
    as_windows,
    load_json,
    once,
    open_text,
    parse_json,
    shown,
    table_rows,
)
from mmda.vmr.annotations.queries import VMRQuery, Window
from mmda.vmr.reports import VMRDataError

# DiDeMo splits a video into segments of 5 s, six by default.
_DIDEMO_SECONDS = 5.0
_DIDEMO_SEGMENTS = 6


def _split_word(file: Path) -> str:
    words = re.split(r"[._\-]", file.stem)
    return next((f"{word}_" for word in words if word in ("train", "val", "test")), "")


def read_charades(file: Path, durations: str | Path | Mapping[str, float] | None, closed: bool) -> Iterator[VMRQuery]:
    lengths = _charades_durations(file, durations)
    split, counts = _split_word(file), dict[str, int]()
    with open_text(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            head, mark, text = line.partition("##")
            parts = head.split()
            if not mark or not parts or (len(parts) != 3 and not closed):
                raise VMRDataError(file, f"line {number}", "read `VID START END##sentence`", shown(line.strip()))
            vid = video_id(parts[0])
            counts[vid] = counts.get(vid, 0) + 1
            qid = f"{vid}_{split}{counts[vid]}"
            windows = (
                () if closed else ((as_number(file, qid, "start", parts[1]), as_number(file, qid, "end", parts[2])),)
            )
            yield VMRQuery(qid, vid, text, lengths.get(vid, math.nan), windows)


def _charades_durations(file: Path, given: str | Path | Mapping[str, float] | None) -> Mapping[str, float]:
    if isinstance(given, Mapping):
        return _by_video(file, ((vid, as_number(file, vid, "durations", length)) for vid, length in given.items()))
    if given is None:
        word = _split_word(file).rstrip("_")
        beside = file.parent / f"Charades_v1_{word}.csv"
        if not beside.is_file():
            rule = f"have its videos' durations next to it ({beside.name}) or in `durations`"
            raise VMRDataError(file, None, rule, "neither")
        given = beside
    table = Path(given)
    if table.suffix == ".csv":
        with open_text(table) as stream:
            rows = table_rows(table, stream, "id", "length")
            return _by_video(table, ((row["id"], as_number(table, row["id"], "length", row["length"])) for row in rows))
    loaded = as_mapping(table, None, "map video ids to lengths", load_json(table))
    return _by_video(
        table,
        (
            (vid, as_number(table, vid, "duration", entry.get("duration") if isinstance(entry, dict) else entry))
            for vid, entry in loaded.items()
        ),
    )


def _by_video(file: Path, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Lengths by video id, file suffixes removed."""
    lengths: dict[str, float] = {}
    for name, length in pairs:
        if lengths.setdefault(video_id(name), length) != length:
            raise VMRDataError(file, name, "have one length", f"{lengths[video_id(name)]:.15g} and {length:.15g}")
    return lengths


def _read_timestamps(file: Path, closed: bool, *, frames: bool) -> Iterator[VMRQuery]:
    """Read ActivityNet Captions and Charades-CD (seconds) or TACoS (frames, with a frame rate)."""
    split = _split_word(file)
    loaded = as_mapping(file, None, "map video ids to their captions", load_json(file))
    for name, entry in loaded.items():
        vid = video_id(name)
        once(file, name, entry)
        timed = () if closed else ("timestamps",)
        seconds = "video_duration" if isinstance(entry, dict) and "video_duration" in entry else "duration"
        needed = (*timed, "sentences", *(("fps", "num_frames") if frames else (seconds,)))
        missing = [key for key in needed if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise VMRDataError(file, name, f"have the keys {', '.join(needed)}", f"no {', '.join(missing)}")
        sentences, audios = entry["sentences"], entry.get("audios", [])
        if not isinstance(sentences, list):
            raise VMRDataError(file, name, "have a list of sentences", type(sentences).__name__)
        if not isinstance(audios, list) or not all(isinstance(audio, str) for audio in audios):
            raise VMRDataError(file, name, "have a list of file names as `audios`, or none", shown(audios))
        times = [None] * len(sentences) if closed else entry["timestamps"]
        if not isinstance(times, list):
            raise VMRDataError(file, name, "have a list of timestamps", type(times).__name__)
        if len(times) != len(sentences):
            rule = "have as many timestamps as sentences"
            raise VMRDataError(file, name, rule, f"{len(times)} and {len(sentences)}")
        rate = as_number(file, name, "fps", entry["fps"]) if frames else 1.0
        if not rate > 0:
            raise VMRDataError(file, name, "have a positive `fps`", rate)
        length = as_number(file, name, "length", entry["num_frames" if frames else seconds]) / rate
        for k, (window, text) in enumerate(zip(times, sentences)):
            named = len(audios) == len(sentences)
            qid = Path(audios[k]).stem if named else f"{vid}_{split}{k + 1}"
            windows = () if closed else as_windows(file, qid, "timestamps", [window])
            yield VMRQuery(
                qid,
                vid,
                as_text(file, qid, "sentences", text),
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
                as_text(file, qid, "query", row["query"]),
                as_number(file, qid, "duration", row["duration"]),
                () if windows is None else as_windows(file, qid, "relevant_windows", windows),
            )


def _read_didemo(file: Path, closed: bool) -> Iterator[VMRQuery]:
    """Moments are given as first and last segment of 5 s, one pair per annotator."""
    loaded = load_json(file)
    if not isinstance(loaded, list):
        raise VMRDataError(file, None, "be a list of descriptions", type(loaded).__name__)
    for number, row in enumerate(loaded, start=1):
        entry, needed = f"entry {number}", ("annotation_id", "video", "description", *(() if closed else ("times",)))
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise VMRDataError(file, entry, f"have the keys {', '.join(needed)}", f"no {', '.join(missing)}")
        qid = as_name(file, entry, "annotation_id", once(file, entry, row)["annotation_id"])
        segments = as_number(file, qid, "num_segments", row.get("num_segments", _DIDEMO_SEGMENTS))
        pairs = () if closed else as_windows(file, qid, "times", row["times"])
        for first, last in pairs:
            if not 0 <= first <= last < segments:
                rule = f"have times [first, last] among its {segments:g} segments"
                raise VMRDataError(file, qid, rule, f"[{first:g}, {last:g}]")
        yield VMRQuery(
            qid,
            video_id(as_name(file, qid, "video", row["video"])),
            as_text(file, qid, "description", row["description"]),
            segments * _DIDEMO_SECONDS,
            tuple(dict.fromkeys((first * _DIDEMO_SECONDS, (last + 1) * _DIDEMO_SECONDS) for first, last in pairs)),
        )


def _read_nextgqa(file: Path, closed: bool) -> Iterator[VMRQuery]:
    if file.suffix == ".csv":
        questions, spans = file, file.with_name(f"gsub_{file.stem}.json")
    else:
        questions, spans = file.with_name(f"{file.stem.removeprefix('gsub_')}.csv"), file
    grounded = as_mapping(spans, None, "map video ids to `duration` and `location`", load_json(spans))
    with open_text(questions) as stream:
        for row in table_rows(questions, stream, "video_id", "qid", "question", "answer"):
            vid, qid = row["video_id"], f"{row['video_id']}_{row['qid']}"
            entry = once(spans, vid, grounded.get(vid))
            needed = ("duration",) if closed else ("duration", "location")
            if not isinstance(entry, dict) or not all(key in entry for key in needed):
                rule = f"have {' and '.join(f'`{key}`' for key in needed)}"
                raise VMRDataError(spans, vid, rule, "no such entry")
            windows: tuple[Window, ...] = ()
            if not closed:
                located = as_mapping(spans, vid, "map question ids to moments in `location`", entry["location"])
                windows = as_windows(spans, qid, "location", located.get(row["qid"], []))
            duration = as_number(spans, vid, "duration", entry["duration"])
            yield VMRQuery(qid, vid, f"{row['question']}? {row['answer']}", duration, windows)


READERS: Mapping[str, Callable[[Path, bool], Iterator[VMRQuery]]] = {
    "activitynet": _read_activitynet,
    "tacos": _read_tacos,
    "qvhighlights": _read_qvhighlights,
    "nextgqa": _read_nextgqa,
    "didemo": _read_didemo,
}
