"""``mmda predict``: the best moments for a sentence in a video, or for every query of a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmda.cli import options as shared
from mmda.cli.ending import exit_code
from mmda.models.mmcda.experiment import Draws, Place, find_moments, open_checkpoint
from mmda.models.mmcda.experiment import questions as ask
from mmda.models.mmcda.experiment.jobs import file_stem
from mmda.models.mmcda.experiment.results import write_lines

DESCRIPTION = """\
Predict with a trained model.

    mmda predict "the concept07-a of" --video target-test-3          the best moments of one video for a sentence
    mmda predict --all QUERIES.jsonl --target-video VIDEO --target-query QUERY
                                                                     an answer to every query, as JSON lines
    mmda predict "a dog runs" --video NEW --target-video VIDEO --target-query QUERY --clip-seconds 2
                                                                     a new video and a new sentence
    mmda predict "a dog runs" --corpus VIDEOS --target-query QUERY   which of many videos, and where in them
"""


def add_asking(parser: argparse._ActionsContainer) -> None:
    """Add the options for model, video and number of moments."""
    parser.add_argument("--video", metavar="ID", help="a video of the target")
    help_text = "frame features of many videos, any format: rank them by similarity to the sentence"
    parser.add_argument("--corpus", metavar="PATH", help=help_text)
    parser.add_argument("--checkpoint", type=Path, help="default: the full model of the first seed in --output")
    parser.add_argument("--top", type=int, default=5, help="number of moments, or of videos with --corpus (default: 5)")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with a usage error if options contradict each other."""
    if options.predict is not None and options.predict_all is not None:
        parser.error("one sentence and a file of queries exclude each other")
    if options.predict is not None and (options.video is None) == (options.corpus is None):
        parser.error("a sentence needs --video or --corpus")
    if options.predict_all is not None and options.corpus is not None:
        parser.error("--corpus goes with one sentence")
    alone = ("target_video", "target_query", "clip_seconds", "target_clip_seconds")
    shared.check_data(parser, options, *alone, *(("glove", "drop", "durations") if options.predict_all else ()))


def run(options: argparse.Namespace) -> None:
    """Predict, and print the result."""
    problems, named = shared.problems_of(options), bool(options.world or options.source)
    path = options.checkpoint or ask.default_checkpoint(options.output, problems, options.alignment, named=named)
    checkpoint = open_checkpoint(path, problems if named else ())
    print(f"model: {checkpoint.path}")
    if options.predict_all is not None:
        _answer_all(checkpoint, options)
    elif options.corpus is not None:
        _search(checkpoint, options)
    else:
        _answer(checkpoint, options)


def _answer(checkpoint: ask.Checkpoint, options: argparse.Namespace) -> None:
    alone = options.target is None  # otherwise these are the features of the target
    question = ask.Question(
        sentence=options.predict,
        vid=options.video,
        video=tuple(options.target_video) if alone else (),
        query=options.target_query if alone else None,
        clip_seconds=shared.clip_seconds(options, "target"),
    )
    pair, messages = ask.asked_pair(checkpoint, question, Draws())
    spans = find_moments(checkpoint.model, pair, top=options.top)
    print("".join(f"{line}\n" for line in messages), end="")
    print(f"{options.video} ({float(pair.duration[0]):.1f} s): {options.predict!r}")
    for (start, end), score, kept in zip(spans.windows[0].tolist(), spans.scores[0].tolist(), spans.mask[0].tolist()):
        if kept:
            print(f"  {start:7.1f} s - {end:7.1f} s   score {score:7.2f}")
    print("scores rank the moments of one video; they are not probabilities")


def _search(checkpoint: ask.Checkpoint, options: argparse.Namespace) -> None:
    question = ask.Question(
        sentence=options.predict,
        vid="",
        video=(options.corpus,),
        query=options.target_query if options.target is None else None,
        clip_seconds=shared.clip_seconds(options, "target"),
    )
    found, messages = ask.find_videos(checkpoint, question, Draws(), top=options.top)
    print("".join(f"{line}\n" for line in messages), end="")
    print(f"{options.corpus}: {options.predict!r}")
    for video in found:
        start, end = video.windows[0].tolist()
        print(f"  {start:7.1f} s - {end:7.1f} s   similarity {video.score:6.3f}   {video.vid}")


def _answer_all(checkpoint: ask.Checkpoint, options: argparse.Namespace) -> None:
    place = Place(
        path=options.predict_all,
        video=tuple(options.target_video),
        query=options.target_query,
        max_clips=options.max_clips,
        drop=options.drop,
        glove=options.glove,
        durations=options.durations,
        clip_seconds=shared.clip_seconds(options, "target"),
    )
    rows = []
    for data, numbers in ask.queries_of(checkpoint, place):
        print(data.report)
        rows += ask.answer_queries(checkpoint, data, top=options.top, numbers=numbers)
    file = options.output / "predictions" / f"{file_stem(place.name)}-by-{checkpoint.path.stem}.jsonl"
    write_lines(file, rows)
    print(f"{len(rows)} queries answered: {file}")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="mmda predict", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predict", nargs="?", metavar="SENTENCE", help="sentence to find in --video")
    help_text = "answer every query of a file, folder or prefix of annotations; written to --output/predictions"
    parser.add_argument("--all", dest="predict_all", metavar="PATH", help=help_text)
    add_asking(parser)
    shared.add_data(parser)
    parser.add_argument("--alignment", default="mmd", help="alignment of the model in --output (default: mmd)")
    shared.add_output(parser)
    options = parser.parse_args(arguments)
    if (options.predict is None) == (options.predict_all is None):
        parser.error("either SENTENCE or --all must be given")
    check(parser, options)
    shared.check_numbers(parser, options)
    return exit_code(lambda: run(options))
