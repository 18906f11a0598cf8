"""``mmda check``: :mod:`mmda.vmr.check`, for files or for a folder in the layout of ``mmda table``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mmda.models.mmcda.experiment.domains import Place, annotation_files, features_beside
from mmda.vmr import VMRDataError
from mmda.vmr.check import main as check_main

_FOLDER = """
mmda check FOLDER ...   of the annotations in a folder, with `video*` and `query*` beside them as features; options
                        name others"""


def main(arguments: Sequence[str]) -> int:
    """Check annotations and features, and report errors."""
    if {"-h", "--help"} & set(arguments):
        try:
            return check_main(["check", "--help"], program="mmda")
        finally:
            print(_FOLDER)
    try:
        calls = _named(*arguments) if arguments and not arguments[0].startswith("-") else [list(arguments)]
    except VMRDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return max(check_main(["check", *call], program="mmda") for call in calls)


def _named(folder: str, *options: str) -> list[list[str]]:
    """The options equivalent to a folder, for each of its annotation files; options given explicitly come first."""
    files = annotation_files(Place(folder)).values()
    video, query = features_beside(Path(folder)) if Path(folder).is_dir() else ([], [])
    found: list[str] = []
    if video and "--video" not in options:
        found += ["--video", *video]
    if query and not {"--query", "--glove"} & set(options):
        found += ["--query", query[0]]
    return [[*options, "--annotations", str(file), *found] for file in files]
