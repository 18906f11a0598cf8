"""Find an annotation file, detect its layout, read and validate it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from mmda.vmr.annotations.layouts import READERS, read_charades
from mmda.vmr.annotations.parsing import load_json, open_text
from mmda.vmr.annotations.queries import Annotations, validate_queries
from mmda.vmr.reports import VMRDataError

Layout = Literal["charades", "activitynet", "tacos", "qvhighlights", "nextgqa", "didemo"]


def read_annotations(
    path: str | Path,
    layout: Layout | None = None,
    *,
    split: str | None = None,
    durations: str | Path | Mapping[str, float] | None = None,
    closed: bool = False,
    unusable: Literal["drop", "miss"] = "drop",
) -> Annotations:
    """Read one split of moment annotations in any of the six layouts.

    Args:
        path: the annotation file; or its folder, with ``split``. For NExT-GQA either the questions (``val.csv``)
            or the grounded spans (``gsub_val.json``); the other is found in the same folder.
        layout: one of ``"charades"``, ``"activitynet"`` (Charades-CD and ActivityNet-CD too), ``"tacos"``,
            ``"qvhighlights"``, ``"nextgqa"``, ``"didemo"``; detected from the file by default.
        split: which file of a folder: a word in its name (``"train"``, ``"val"``, ``"test"``).
        durations: length of every video, only for Charades-STA: a mapping, a ``csv`` with columns ``id`` and
            ``length``, or a ``json`` of numbers or ``{"duration": number}``; ids with or without a file suffix. By
            default ``Charades_v1_<split>.csv`` in the same folder.
        closed: hide the moments, for a target domain. They are not read at all, so invalid ones affect neither which
            queries are kept nor whether the file can be read. Query ids and ``order`` are the same as with ``False``.
        unusable: how to handle a query whose moments are all inverted or outside its video: ``"drop"`` it, or keep it
            without a moment as a ``"miss"`` (as in Ego4D's evaluator), see :func:`mmda.vmr.evaluation.evaluate`.

    Returns:
        The queries in file order. Query ids: the ``qid`` of the file (QVHighlights), ``<vid>_<qid>`` (NExT-GQA), the
        stem of the audio file if given, otherwise ``<vid>_<split>_<k>``, k from 1 within the video.

    Raises:
        VMRDataError: if the layout is not recognised or the file is invalid.
        ValueError: if ``layout`` is not one of the six, or ``durations`` are given for a layout that contains them.
        OSError: if a file cannot be read.

    Notes:
        Differs from the published files: moments are clipped to the video and rows with ``end <= start`` dropped; TACoS
        frames are converted to seconds with the video's frame rate; file suffixes of ids are removed; repeated blanks
        are collapsed. For NExT-GQA the text is ``question? answer``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "charades_sta_test.txt")
        ...     _ = file.write_text("AO8RW 0.0 6.9##a person is putting a book on a shelf.", encoding="utf-8")
        ...     notes = read_annotations(file, durations={"AO8RW": 33.7})
        >>> notes[0].qid, notes[0].windows
        ('AO8RW_test_1', ((0.0, 6.9),))

        DiDeMo: segments ``[first, last]`` of 5 s become seconds, those of its annotators are the query's moments.

    References:
        Gao et al., "TALL", ICCV 2017 (Charades-STA); Krishna et al., "Dense-Captioning Events in Videos", ICCV
        2017; Regneri et al., "Grounding Action Descriptions in Videos", TACL 2013; Lei et al., "QVHighlights",
        NeurIPS 2021; Xiao et al., "Can I Trust Your Answer?", CVPR 2024;
        Hendricks et al., "Localizing Moments in Video with Natural Language", ICCV 2017 (DiDeMo); Yuan et al., "A
        Closer Look at Temporal Sentence Grounding in Videos", HUMA 2021 (Charades-CD).
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
        rows = read_charades(file, durations, closed)
    else:
        rows = READERS[layout](file, closed)
    notes = validate_queries(rows, source=file, facts={"layout": layout}, unusable=unusable)
    return notes.without_moments() if closed else notes


def published_splits(path: str | Path) -> tuple[str, ...]:
    """The splits of a folder with one file per split, such as ``train.json`` and ``test.json``.

    Args:
        path: the folder.

    Returns:
        Those of ``"train"``, ``"val"`` and ``"test"`` for which :func:`read_annotations` finds a file; none for a
        single file. Splits may share videos: ActivityNet Captions has two test splits of the same videos.

    Raises:
        VMRDataError: if the folder or file does not exist.

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
    """Detect the layout of an annotation file from its suffix and first entry.

    Args:
        path: the file.

    Returns:
        ``"charades"``, ``"activitynet"``, ``"tacos"``, ``"qvhighlights"``, ``"nextgqa"`` or ``"didemo"``. A ``.jsonl``
        file is recognised by its name; all others are opened.

    Raises:
        VMRDataError: if it is not one of the six.

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
        row = loaded[0] if isinstance(loaded, list) and loaded else None
        if isinstance(row, dict) and {"annotation_id", "description"} <= set(row):
            return "didemo"
        first = next(iter(loaded.values()), None) if isinstance(loaded, dict) else None
        if isinstance(first, dict):
            if "location" in first or file.name.startswith("gsub_"):
                return "nextgqa"
            if {"timestamps", "sentences"} & set(first):  # a file without moments is recognised by its sentences
                return "tacos" if "num_frames" in first else "activitynet"
    rule = (
        "be in a known layout (Charades-STA .txt with `##`, ActivityNet Captions or TACoS .json with `timestamps`, "
        "QVHighlights .jsonl, NExT-GQA .csv or .json with `location`, DiDeMo .json list)"
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
    """Names of the files in a folder that may contain the annotations of a split."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".txt", ".json", ".jsonl", ".csv"))
    aside = re.compile(r"^(\.|Charades_v1|gsub_|valid_videos|.*durations)")
    return [name for name in names if not aside.match(name) and (split is None or split in re.split(r"[._\-]", name))]
