"""Find the annotation file, recognise its layout, read and validate it."""

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
            or the grounded spans (``gsub_val.json``); the other is found beside it.
        layout: one of ``"charades"``, ``"activitynet"`` (Charades-CD and ActivityNet-CD too), ``"tacos"``,
            ``"qvhighlights"``, ``"nextgqa"``, ``"didemo"``; recognised from the file where left out.
        split: which file of a folder: the word in its name (``"train"``, ``"val"``, ``"test"``).
        durations: length of every video, only for Charades-STA: a mapping, a ``csv`` with columns ``id`` and
            ``length``, or a ``json`` of numbers or ``{"duration": number}``; ids with or without a file suffix. By
            default ``Charades_v1_<split>.csv`` beside the file.
        closed: the target's view: moments are never looked at, so that inverted, absent or damaged ones decide
            neither which queries are kept nor whether the file can be read. Query names and ``order`` are those of
            an open reading. ``False`` opens them.
        unusable: what becomes of a query whose every moment is inverted or outside its video: ``"drop"`` it, or
            keep it without a moment, to count as a ``"miss"`` (Ego4D's scorer), see
            :func:`mmda.vmr.evaluation.evaluate`.

    Returns:
        The queries in file order. Query names: the file's own ``qid`` (QVHighlights), ``<vid>_<qid>`` (NExT-GQA),
        the audio's stem where given, else ``<vid>_<split>_<k>``, k from 1 within the video.

    Raises:
        VMRDataError: if the layout is not recognised or the file breaks it.
        ValueError: if ``layout`` is none of the six, or ``durations`` are given for a layout that holds them.
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
        ``"charades"``, ``"activitynet"``, ``"tacos"``, ``"qvhighlights"``, ``"nextgqa"`` or ``"didemo"``. The
        name of a ``.jsonl`` file is enough; all others are opened.

    Raises:
        VMRDataError: if it is none of the six.

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
    """Names of the files of a folder that may hold the annotations of a split."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".txt", ".json", ".jsonl", ".csv"))
    aside = re.compile(r"^(\.|Charades_v1|gsub_|valid_videos|.*durations)")
    return [name for name in names if not aside.match(name) and (split is None or split in re.split(r"[._\-]", name))]
