"""Queries in memory, and their validation."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NoReturn

from mmda.vmr.annotations.names import video_id
from mmda.vmr.reports import RULES, ClosedMomentsError, Findings, Report, VMRDataError

Window = tuple[float, float]


@dataclass(frozen=True)
class VMRQuery:
    """A sentence about a video and the moments it describes, in seconds.

    Args:
        qid: id of the query, unique in its annotations.
        vid: id of the video, without a file suffix.
        text: the sentence, blanks collapsed.
        duration: length of the video in seconds.
        windows: the moments ``(start, end)`` with ``0 <= start < end <= duration``; empty if unlabelled.
    """

    qid: str
    vid: str
    text: str
    duration: float
    windows: tuple[Window, ...] = ()


class _ClosedQuery(VMRQuery):
    """A query with hidden moments: they are not stored, and accessing them raises."""

    def __init__(self, query: VMRQuery) -> None:
        for name in ("qid", "vid", "text", "duration"):
            object.__setattr__(self, name, getattr(query, name))

    @property
    def windows(self) -> NoReturn:
        raise ClosedMomentsError(
            f"the moments of query `{self.qid}` are hidden: a target domain is trained without its boundaries; "
            "for evaluation use the annotations on which `without_moments()` was called"
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
    """Validated queries of one split, in file order, with a report of what was clipped and dropped.

    Args:
        queries: the queries kept.
        report: what was read, clipped and dropped.
        source: the file they came from, for messages.
        closed: whether the moments are hidden, for a target domain.
        order: the id of every row of the file, kept or not, to match unnamed feature rows.

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
        wanted = {video_id(vid) for vid in vids}
        kept = tuple(query for query in self.queries if query.vid in wanted)
        if not kept:
            some = ", ".join(sorted(wanted)[:3])
            raise VMRDataError(self.source, None, "have a query on one of the selected videos", f"none on {some}")
        return replace(self, queries=kept)

    def without_moments(self) -> Annotations:
        """The same pairs with hidden moments, for a target domain; accessing ``windows`` raises."""
        if self.closed:
            return self
        return replace(self, queries=tuple(_ClosedQuery(query) for query in self.queries), closed=True)


def validate_queries(
    queries: Iterable[VMRQuery],
    *,
    source: str | Path = "memory",
    facts: Mapping[str, object] | None = None,
    findings: Findings | None = None,
    unusable: Literal["drop", "miss"] = "drop",
) -> Annotations:
    """Validate raw queries: clip moments to the video and drop unusable queries.

    A moment that ends after the video is clipped and counted (``clipped``), one with ``end <= start`` is dropped and
    counted (``inverted``); a moment may be counted as both. A query that loses all its moments, has no words or belongs
    to a video of unknown length is dropped and counted. A query that never had a moment is kept.

    Args:
        queries: raw queries, in order.
        source: the file they came from, for messages.
        facts: first entries of the report.
        findings: findings already counted by the caller.
        unusable: ``"drop"`` queries that lose all their moments, or keep them without a moment as a ``"miss"``.

    Returns:
        The annotations with their report.

    Raises:
        VMRDataError: if a qid is repeated, a time is not a finite number, a video has two lengths, or no query is left.

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
            rule = f"give video `{query.vid}` the length of its other queries, {lengths[query.vid]:.15g} s"
            raise VMRDataError(source, query.qid, rule, f"{query.duration:.15g} s")
        windows = tuple(_clip(query, found, source))
        if query.windows and not windows:
            found.add("no_moment" if unusable == "drop" else "missed", query.qid)
            if unusable == "drop":
                continue
        moments += len(windows)
        kept.append(replace(query, text=text, duration=float(query.duration), windows=windows))
    said: dict[str, object] = dict(facts or {})
    said |= {"rows": rows, "queries": len(kept), "videos": len({query.vid for query in kept}), "moments": moments}
    if not kept:
        why = "; ".join(f"{len(ids)} {RULES[rule]}" for rule, ids in found.report("", {}).findings.items())
        raise VMRDataError(
            source, None, "hold at least one usable query", f"{rows} rows, none usable: {why or 'empty'}"
        )
    ends = [end for query in kept for _, end in query.windows]
    if ends and max(ends) <= 1 < min(query.duration for query in kept if query.windows) / 2:
        found.extend("shares", (query.qid for query in kept if query.windows))
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
