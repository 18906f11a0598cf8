"""Frame and query features from public frame captions: tf-idf, truncated SVD, unit norm. No labels are used.

The caption files are those of two public projects, the queries those of the data sets' own annotations:

- QVHighlights: a zip of ``val/<vid>.jsonl``, a line ``{"moment": k, "description": text}`` for each 2 s clip
  (github.com/YoucanBaby/VTG-GPT); queries ``highlight_val_release.jsonl`` (github.com/jayleicn/moment_detr)
- NExT-GQA: a zip of ``<vid>_cap.json``, ``{"second": text}`` (github.com/wxh1996/VideoAgent); questions ``val.csv``
  and ``gsub_val.json`` (github.com/doc-doc/NExT-GQA)

::

    python -m benchmarks.caption_features --out features \\
        --set qvhighlights_val qvhighlights_val.zip highlight_val_release.jsonl 2 \\
        --set nextgqa_val nextgqa_val.zip val.csv 1

writes ``<name>_video.npz`` and ``<name>_query.npz``, which :func:`mmda.vmr.open_features` reads. One vocabulary and one
decomposition serve all sets, so the sets share a space. The sign of a direction is arbitrary: two runs agree in every
inner product, not in every number. Needs scikit-learn (``pip install "torch-mmda[bench]"``).
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mmda.vmr import Annotations, read_annotations

Floats = NDArray[np.float32]


def read_captions(path: Path) -> dict[str, list[str]]:
    """The captions of each video in the order of its clips, from a zip of ``.jsonl`` or ``_cap.json`` files."""
    found: dict[str, list[str]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            stem, text = PurePosixPath(name).name, archive.read
            if stem.endswith("_cap.json"):
                rows = json.loads(text(name))
                found[stem.removesuffix("_cap.json")] = [rows[second] for second in sorted(rows, key=float)]
            elif stem.endswith(".jsonl"):
                lines = [json.loads(line) for line in text(name).decode("utf-8").splitlines() if line.strip()]
                lines.sort(key=lambda line: float(line["moment"]))
                found[stem.removesuffix(".jsonl")] = [line["description"] for line in lines]
    if not found:
        raise SystemExit(f"{path}: must hold <vid>.jsonl or <vid>_cap.json files, got none")
    return found


def text_features(corpus: Sequence[str], texts: Sequence[str], *, width: int = 128, seed: int = 0) -> Floats:
    """Latent semantic features of texts: unit rows, one a text.

    tf-idf of words (English stop words left out, 1 + log of the counts), then the leading ``width`` directions of the
    truncated SVD, both fitted on the corpus. A text without a known word is a row of zeros.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    counts = vectorizer.fit_transform(corpus)
    decomposition = TruncatedSVD(min(width, min(counts.shape) - 1), random_state=seed).fit(counts)
    features = decomposition.transform(vectorizer.transform(texts))
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(norms > 0, norms, 1), dtype=np.float32)


def evenly(texts: Sequence[str], most: int) -> list[str]:
    """At most so many of the distinct texts, evenly spaced: a set of many captions does not outweigh the others."""
    distinct = list(dict.fromkeys(texts))
    return distinct[:: -(-len(distinct) // most)]


def quantise(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rows as whole numbers from -127 to 127 times a scale for each column; an error of at most half a step."""
    scale = np.abs(rows).max(axis=0) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(rows / scale).astype(np.int8), scale


#: Captions by video, annotations, seconds of a clip.
CaptionSet = tuple[Mapping[str, list[str]], Annotations, float]


def build(sets: Mapping[str, CaptionSet], out: Path, *, width: int = 128, most: int = 20_000) -> None:
    """Write the features of every set; at most ``most`` distinct captions of each, and all queries, are fitted on."""
    texts: list[str] = []
    corpus: list[str] = []
    for captions, notes, _ in sets.values():
        missing = [vid for vid in notes.vids if vid not in captions]
        if missing:
            raise SystemExit(f"{notes.source}: `{missing[0]}` must have captions, got none for {len(missing)} videos")
        frames, queries = [text for vid in notes.vids for text in captions[vid]], [query.text for query in notes]
        texts += frames + queries
        corpus += evenly(frames, most) + queries
    features = text_features(corpus, texts, width=width)
    out.mkdir(parents=True, exist_ok=True)
    at = 0
    for name, (captions, notes, seconds) in sets.items():
        offsets = np.cumsum([0] + [len(captions[vid]) for vid in notes.vids])
        rows, scale = quantise(features[at : at + int(offsets[-1])])
        at += int(offsets[-1])
        words = features[at : at + len(notes)].astype(np.float16)
        at += len(notes)
        np.savez_compressed(
            out / f"{name}_video.npz",
            feat_int8=rows,
            scale=scale,
            offsets=offsets,
            vids=np.array(notes.vids),
            clip_seconds=np.float32(seconds),
        )
        np.savez_compressed(out / f"{name}_query.npz", feat=words, qids=np.array([query.qid for query in notes]))
        print(f"{name}: {len(notes.vids)} videos, {offsets[-1]} clips, {len(notes)} queries, width {features.shape[1]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.caption_features", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder to write to")
    parser.add_argument("--width", type=int, default=128, metavar="N", help="number of features (default 128)")
    parser.add_argument(
        "--set", nargs=4, action="append", required=True, metavar=("NAME", "CAPTIONS", "ANNOTATIONS", "SECONDS")
    )
    options = parser.parse_args(arguments)
    sets = {
        name: (read_captions(Path(captions)), read_annotations(notes), float(seconds))
        for name, captions, notes, seconds in options.set
    }
    build(sets, options.out, width=options.width)
    return 0


if __name__ == "__main__":
    sys.exit(main())
