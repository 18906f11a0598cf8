"""``python -m mmda.vmr check | pack``: report problems of a data folder, and pack features for fast reading.

Exit code 0: no fault was found. Exit code 2: bad input, with one line on standard error that names file, id and rule;
no partial files are left.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from mmda.vmr.annotations import Annotations, Layout, read_annotations
from mmda.vmr.data import VMRDataset
from mmda.vmr.disk import MAX_BYTES
from mmda.vmr.features import FeatureStore, open_features, pack_features
from mmda.vmr.reports import PROBLEMS, Report, VMRDataError
from mmda.vmr.text import TextFeatures, read_glove, tokenize

_DESCRIPTION = """\
Check moment-retrieval data on disk before training on it.

layouts of annotations   Charades-STA .txt, ActivityNet Captions .json, TACoS .json, QVHighlights .jsonl,
                         NExT-GQA .csv + .json, DiDeMo .json; recognised from the file
layouts of features      folder of <id>.npz or <id>.npy, HDF5, packed npz, npz keyed by id, packed folder;
                         several --video folders are joined on the feature axis
"""


def check_data(
    annotations: Annotations,
    video: FeatureStore | None = None,
    query: FeatureStore | None = None,
    *,
    clip_seconds: float | None = None,
) -> tuple[Report, ...]:
    """Check annotations, and features if given, without stopping at the first problem.

    Args:
        annotations: the queries.
        video: video features, or ``None`` to leave them unchecked.
        query: query features, or ``None`` to leave them unchecked.
        clip_seconds: length of a clip; by default that of the store.

    Returns:
        The reports of the annotations, of word vectors if there are any, and of the joined features; if one has ``ok``
        False, its ``errors`` name file, id and rule.

    Raises:
        VMRDataError: if nothing is left after dropping faulty data.

    Example:
        >>> import numpy as np
        >>> from mmda.vmr import ArrayStore, VMRQuery, validate_queries
        >>> notes = validate_queries([VMRQuery("q", "v", "hi", 9.0), VMRQuery("p", "w", "hi", 9.0)])
        >>> reports = check_data(notes, ArrayStore({"v": np.ones((3, 4))}))
        >>> reports[-1].ok, reports[-1].errors
        (False, ('memory: `w` must have video features: the annotations name it, got none; it has v, ...',))
    """
    reports = [annotations.report]
    if isinstance(query, TextFeatures):
        reports.append(query.report)
    if video is not None or query is not None:
        joined = VMRDataset(
            annotations if video is not None else annotations.without_moments(),
            video if video is not None else _Anything(),
            query if query is not None else _Anything(),
            clip_seconds=clip_seconds,
            on_bad="drop",
            in_memory=False,
        )
        reports.append(_without_stand_ins(joined.report, video is None, query is None))
    return tuple(reports)


class _Anything:
    """Placeholder for features that were not given: one number for every id."""

    source, layout, clip_seconds, width, ids = "not given", "none", None, 1, ()

    def __len__(self) -> int:
        return 0

    def __contains__(self, id: object) -> bool:
        return True

    def __getitem__(self, id: str) -> NDArray[np.float32]:
        return np.ones((1, 1), dtype=np.float32)


def _without_stand_ins(report: Report, no_video: bool, no_query: bool) -> Report:
    """The joined report without facts about features that were not given."""
    hidden = {"frame width", "clips", "clip seconds"} if no_video else set[str]()
    hidden |= {"word width"} if no_query else set()
    facts = {key: value for key, value in report.facts.items() if key not in hidden}
    return Report(report.name, facts, report.findings, report.errors)


#: With fewer, differences between two rows of a table are mostly chance.
FEW_VIDEOS = 200


def _check(options: argparse.Namespace) -> int:
    notes = read_annotations(options.annotations, options.layout, split=options.split, durations=options.durations)
    video = query = None
    stores: list[tuple[str, FeatureStore]] = []
    if options.video:
        video = open_features(
            options.video, key=options.video_key, prefix=options.video_prefix, max_bytes=options.max_bytes
        )
        stores.append(("video", video))
    if options.query:
        key, most = options.query_key, options.max_bytes
        query = open_features(options.query, kind="query", key=key, ids=notes.order, max_bytes=most)
        stores.append(("query", query))
    elif options.glove:
        words = {word for q in notes for word in tokenize(q.text)}
        query = TextFeatures(notes, read_glove(options.glove, words))
    reports = check_data(notes, video, query, clip_seconds=options.clip_seconds)
    lines = [str(reports[0])]
    widths = {what: reports[-1].facts.get(fact) for what, fact in (("video", "frame width"), ("query", "word width"))}
    lines += [f"{what} features, {store.source}: {_describe(store, widths[what])}" for what, store in stores]
    lines += [str(report) for report in reports[1:]]
    errors = [line for report in reports for line in report.errors]
    if options.json:
        described = {what: {"layout": s.layout, "ids": len(s), "width": widths[what]} for what, s in stores}
        print(json.dumps({"reports": [r.as_dict() for r in reports], "features": described}, indent=1))
    else:
        print("\n".join(lines))
        for line in errors[: options.show]:
            print(f"  ! {line}")
        if len(errors) > options.show:
            print(f"  ! ... {len(errors) - options.show} more (--show {len(errors)} lists them all)")
    faults = [report for report in reports if not report.ok]
    if faults and not options.drop:
        counts = {rule: sum(report.count(rule) for report in reports) for rule in PROBLEMS}
        first = errors[0] if errors else f"{faults[0].name}: must hold none of the faults above"
        print(f"error: {first} {_more(counts)}", file=sys.stderr)
        return 2
    if not options.json:
        unseen = [flag for flag, seen in (("--video", video), ("--query or --glove", query)) if seen is None]
        videos = len({q.vid for q in notes})
        if videos < FEW_VIDEOS:
            print(f"few videos: {videos}; a trained model needs some hundreds a domain, else scores differ by chance")
        print(f"no fault found; not looked at without {' and '.join(unseen)}" if unseen else "ready for training")
    return 0


def _more(counts: Mapping[str, int]) -> str:
    names = {
        "no_video": "videos without features",
        "bad_video": "videos with unusable features",
        "no_query": "queries without features",
        "bad_query": "queries with unusable features",
        "shares": "queries with moments within the first second",
        "past_features": "moments past their features",
        "transposed": "videos with rows and columns exchanged",
    }
    return "(in all " + ", ".join(f"{count} {names[rule]}" for rule, count in counts.items() if count) + ")"


def _describe(store: FeatureStore, width: object) -> str:
    clip = "" if store.clip_seconds is None else f", clips of {store.clip_seconds:g} s"
    return f"{store.layout}, {len(store)} ids, width {width}{clip}"


def _pack(options: argparse.Namespace) -> int:
    packed = pack_features(
        open_features(options.features, kind=options.kind, key=options.key, max_bytes=options.max_bytes),
        options.out,
        dtype=options.dtype,
        max_clips=options.max_clips,
        overwrite=options.overwrite,
        resume=options.resume,
        progress=_Progress(),
    )
    size = (Path(options.out) / "features.npy").stat().st_size
    print(f"{options.out}: {_describe(packed, packed.width)}, {size / 1e6:.1f} MB of {options.dtype}")
    return 0


class _Progress:
    """A counter that is overwritten on a terminal; elsewhere one line every 20 s and at the end."""

    def __init__(self) -> None:
        self._bar, self._began, self._told = sys.stderr.isatty(), time.monotonic(), time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._told < (0.2 if self._bar else 20.0):
            return
        self._told = now
        line = f"packing {done}/{total}, {now - self._began:.0f} s"
        print(f"\r{line}" if self._bar else line, end="" if self._bar and done < total else "\n", file=sys.stderr)
        sys.stderr.flush()


def _count(text: str) -> int:
    """An integer >= 0 of the command line."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, got {value}")
    return value


def _positive(text: str) -> int:
    """An integer >= 1 of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {value}")
    return value


_count.__name__ = _positive.__name__ = "int"  # so that argparse reports "invalid int value"


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=_DESCRIPTION,
        epilog="exit code 0: no fault was found; 2: bad input, described in one line",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="report problems of annotations and features")
    check.set_defaults(run=_check)
    check.add_argument("--annotations", required=True, metavar="PATH", help="annotation file, or folder with --split")
    check.add_argument("--layout", choices=get_args(Layout), help="layout of the annotations (default: recognised)")
    check.add_argument("--split", help="which file of an annotation folder: a word in its name, such as train")
    check.add_argument("--durations", metavar="PATH", help="lengths of the videos (Charades-STA), csv or json")
    check.add_argument("--video", nargs="+", metavar="PATH", help="video features; several are joined")
    check.add_argument("--video-key", metavar="KEY", help="array to take from each video file")
    check.add_argument("--video-prefix", default="", metavar="TEXT", help="v_: v_abc and abc are one video")
    check.add_argument("--max-bytes", type=_positive, default=MAX_BYTES, metavar="N", help="limit of one array")
    words = check.add_mutually_exclusive_group()
    words.add_argument("--query", metavar="PATH", help="query features")
    words.add_argument("--glove", metavar="PATH", help="GloVe text vectors for the queries' words")
    check.add_argument("--query-key", metavar="KEY", help="array to take from each query file, as pooler_output")
    check.add_argument(
        "--clip-seconds", type=float, metavar="S", help="length of a clip, if the file does not contain it"
    )
    check.add_argument("--drop", action="store_true", help="accept missing and unusable features and drop them")
    check.add_argument("--show", type=_count, default=10, metavar="N", help="number of problems to list (default 10)")
    check.add_argument("--json", action="store_true", help="print the report as JSON, with every id")

    pack = commands.add_parser("pack", help="copy features into one memory-mapped folder")
    pack.set_defaults(run=_pack)
    pack.add_argument("--features", required=True, nargs="+", metavar="PATH", help="features; several are joined")
    pack.add_argument("--out", required=True, metavar="PATH", help="folder to make")
    pack.add_argument("--kind", choices=("video", "query"), default="video", help="how files are named")
    pack.add_argument("--key", metavar="KEY", help="array to take from each file")
    pack.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="numbers on disk")
    pack.add_argument("--max-clips", type=_positive, metavar="N", help="average-pool longer videos to N clips")
    pack.add_argument("--max-bytes", type=_positive, default=MAX_BYTES, metavar="N", help="limit of one array")
    help_text = "continue a packing that was interrupted, and keep partial results"
    pack.add_argument("--resume", action="store_true", help=help_text)
    pack.add_argument("--overwrite", action="store_true", help="replace an existing packed folder")
    return parser


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m mmda.vmr") -> int:
    """Run the command line; returns the exit code."""
    options = _parser(program).parse_args(arguments)
    try:
        return int(options.run(options))
    except VMRDataError as error:
        print(f"error: {error}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return 2
