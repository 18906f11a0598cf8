"""Frame and query features from public frame captions: latent semantics or sentence embeddings. No labels are used.

The caption files are from public projects, the queries from the annotations of the data sets:

- QVHighlights: a zip of ``val/<vid>.jsonl``, a line ``{"moment": k, "description": text}`` for each 2 s clip
  (github.com/YoucanBaby/VTG-GPT); queries ``highlight_val_release.jsonl`` (github.com/jayleicn/moment_detr)
- NExT-GQA: a zip of ``<vid>_cap.json``, ``{"second": text}`` (github.com/wxh1996/VideoAgent); questions ``val.csv``
  and ``gsub_val.json`` (github.com/doc-doc/NExT-GQA)
- Charades: captions of spans, a line ``VID START END##text`` each, ``charades_sta_train_pseudo.txt`` of SPL
  (github.com/minghangz/SPL, ``EMB/data/dataset/charades``), or a JSON line ``{"vid", "duration", "spans": [[start, end,
  text], ...]}`` per video; queries ``charades_sta_train.txt`` (github.com/microsoft/2D-TAN) beside
  ``Charades_v1_train.csv``, of which 494 videos have no captions and are left out with ``--drop``

::

    python -m benchmarks.caption_features --out features --drop \\
        --set qvhighlights_val val.zip highlight_val_release.jsonl 2 \\
        --set nextgqa_val nextqa_allcaps_1fps.zip val.csv 1 \\
        --set charades_blip_train charades_sta_train_pseudo.txt charades_sta_train.txt 1

writes ``<name>_video.npz`` and ``<name>_query.npz``, which :func:`mmda.vmr.open_features` reads. The feature of a clip
is that of its caption. If spans are captioned, it is the mean over the texts whose span contains the clip's centre,
each weighted by one over the length of its span; a clip in no span gets the feature of the nearest clip in one. All
sets share one vocabulary and one decomposition (tf-idf, truncated SVD, unit norm), hence one space. The signs of its
directions are arbitrary: two runs agree in inner products, but not in every number. Needs scikit-learn.

``--encoder sentence-transformers/all-MiniLM-L6-v2 --width 256`` takes sentence embeddings instead, projected to the
directions of most energy. It needs the package sentence-transformers; both come with ``pip install
"torch-mmda[captions]"``.

``--like FOLDER`` compares them with other features of the same sets, for example those behind
``docs/results_real.rst``: the rank correlation of the cosines of clips with clips and with queries, and how often both
find the same clip for a query.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmda.vmr import Annotations, open_features, read_annotations

Floats = NDArray[np.float32]

#: The captions of a clip: texts with weights.
Said = list[tuple[str, float]]


def read_captions(
    path: Path, seconds: float = 1.0, durations: Mapping[str, float] | None = None
) -> dict[str, list[Said]]:
    """The captions of each video's clips, in order.

    From a zip of ``.jsonl`` or ``_cap.json`` files with one text per clip, or from a file of spans, split into clips of
    ``seconds``; ``durations`` are those of the videos, for spans in a text file.
    """
    if not zipfile.is_zipfile(path):
        return read_spans(path, seconds, durations or {})
    found: dict[str, list[Said]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            stem, text = PurePosixPath(name).name, archive.read
            if stem.endswith("_cap.json"):
                rows = json.loads(text(name))
                found[stem.removesuffix("_cap.json")] = [[(rows[second], 1.0)] for second in sorted(rows, key=float)]
            elif stem.endswith(".jsonl"):
                lines = [json.loads(line) for line in text(name).decode("utf-8").splitlines() if line.strip()]
                lines.sort(key=lambda line: float(line["moment"]))
                found[stem.removesuffix(".jsonl")] = [[(line["description"], 1.0)] for line in lines]
    if not found:
        raise SystemExit(f"{path}: must hold <vid>.jsonl or <vid>_cap.json files, got none")
    return found


def read_spans(path: Path, seconds: float, durations: Mapping[str, float]) -> dict[str, list[Said]]:
    """The captions of clips of ``seconds``, from captions of spans, one JSON line per video or one line per span."""
    packed = path.read_bytes()
    text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode("utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and not lines[0].startswith("{"):
        rows = text_spans(lines, path, durations)
    else:
        rows = [json.loads(line) for line in lines]
    found = {}
    for row in rows:
        if not row["spans"]:
            raise SystemExit(f"{path}: `{row['vid']}` must have a captioned span, got none")
        clips = max(1, math.ceil(row["duration"] / seconds - 1e-9))
        found[row["vid"]] = (
            nearest(
                [
                    [(text, 1 / max(end - start, 1e-3)) for start, end, text in row["spans"] if start <= centre < end]
                    for centre in ((k + 0.5) * seconds for k in range(clips))
                ]
            )
            or [[(row["spans"][0][2], 1.0)]] * clips
        )  # spans so short that they contain no centre
    return found


def text_spans(lines: Sequence[str], path: Path, durations: Mapping[str, float]) -> list[dict[str, Any]]:
    """Lines ``VID START END##text`` by video; videos without a duration have no annotations and are left out."""
    spans: dict[str, list[tuple[float, float, str]]] = {}
    for number, line in enumerate(lines, start=1):
        head, _, text = line.partition("##")
        try:
            vid, start, end = head.split()
            spans.setdefault(vid, []).append((float(start), float(end), text.strip()))
        except ValueError:
            raise SystemExit(f"{path}: line {number} must be `VID START END##text`, got {line[:60]!r}") from None
    return [{"vid": v, "duration": durations[v], "spans": said} for v, said in spans.items() if v in durations]


def nearest(clips: list[Said]) -> list[Said]:
    """Clips without captions get those of the nearest clip with captions (the earlier of two), if any."""
    said = [k for k, texts in enumerate(clips) if texts]
    return [clips[min(said, key=lambda j, k=k: abs(j - k))] for k in range(len(clips))] if said else []


def text_features(corpus: Sequence[str], texts: Sequence[str], *, width: int = 128, seed: int = 0) -> Floats:
    """Latent semantic features of texts: unit rows, one per text.

    tf-idf of words (English stop words left out, 1 + log of the counts), then the leading ``width`` directions of the
    truncated SVD, both fitted on the corpus. A text without a known word is a row of zeros.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    counts = vectorizer.fit_transform(corpus)
    decomposition = TruncatedSVD(min(width, min(counts.shape) - 1), random_state=seed).fit(counts)
    features = decomposition.transform(vectorizer.transform(texts))
    return unit(features)


def sentence_features(corpus: Sequence[str], texts: Sequence[str], encoder: str, *, width: int) -> Floats:
    """Sentence embeddings of texts in the ``width`` directions of most energy in the corpus: unit rows."""
    from sentence_transformers import SentenceTransformer

    features = unit(np.asarray(SentenceTransformer(encoder).encode(list(texts)), dtype=np.float32))
    at = {text: row for row, text in enumerate(texts)}
    fitted = features[[at[text] for text in corpus]].astype(np.float64)
    return unit(features @ np.linalg.eigh(fitted.T @ fitted)[1][:, ::-1][:, :width])


def evenly(texts: Sequence[str], most: int) -> list[str]:
    """At most this many of the distinct texts, evenly spaced, so that a large set of captions does not dominate."""
    distinct = list(dict.fromkeys(texts))
    return distinct[:: -(-len(distinct) // most)]


def quantise(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise to integers from -127 to 127 with one scale per column; the error is at most half a step."""
    scale = np.abs(rows).max(axis=0) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(rows / scale).astype(np.int8), scale


def unit(rows: NDArray[Any]) -> Floats:
    """Rows of norm 1; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)


#: Captions of each video's clips, annotations, clip length in seconds.
CaptionSet = tuple[Mapping[str, list[Said]], Annotations, float]


def captioned(name: str, given: CaptionSet, *, drop: bool) -> CaptionSet:
    """The set without the videos that have no captions, which are an error unless ``drop`` and some have."""
    captions, notes, seconds = given
    missing = [vid for vid in notes.vids if vid not in captions]
    if missing and not (drop and len(missing) < len(notes.vids)):
        hint = "" if len(missing) == len(notes.vids) else " (--drop leaves them out)"
        raise SystemExit(
            f"{notes.source}: `{missing[0]}` must have captions, got none for {len(missing)} videos of "
            f"{len(notes.vids)}{hint}"
        )
    if missing:
        print(f"{name}: {len(missing)} videos of {len(notes.vids)} have no captions and are left out")
        notes = notes.select(set(notes.vids) - set(missing))
    return captions, notes, seconds


def build(
    sets: Mapping[str, CaptionSet],
    out: Path,
    *,
    width: int = 128,
    most: int = 20_000,
    drop: bool = False,
    encoder: str | None = None,
) -> None:
    """Write the features of every set; at most ``most`` distinct captions of each, and all queries, are fitted on."""
    texts: list[str] = []
    corpus: list[str] = []
    sets = {name: captioned(name, given, drop=drop) for name, given in sets.items()}
    for captions, notes, _ in sets.values():
        frames = [text for vid in notes.vids for said in captions[vid] for text, _ in said]
        queries = [query.text for query in notes]
        texts += list(dict.fromkeys(frames)) + queries
        corpus += evenly(frames, most) + queries
    texts = list(dict.fromkeys(texts))
    if encoder is None:
        features = text_features(corpus, texts, width=width)
    else:
        features = sentence_features(corpus, texts, encoder, width=width)
    at = {text: row for row, text in enumerate(texts)}
    out.mkdir(parents=True, exist_ok=True)
    for name, (captions, notes, seconds) in sets.items():
        offsets = np.cumsum([0] + [len(captions[vid]) for vid in notes.vids])
        clips = [said for vid in notes.vids for said in captions[vid]]
        means = np.stack(
            [np.average([features[at[t]] for t, _ in s], axis=0, weights=[w for _, w in s]) for s in clips]
        )
        rows, scale = quantise(unit(means))
        words = features[[at[query.text] for query in notes]].astype(np.float16)
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


def likeness(name: str, mine: Path, other: Path, *, most: int = 500) -> str:
    """How alike two features of a set are: at most ``most`` of its videos, one clip each, and of its queries.

    Returns:
        Spearman's correlation of all cosines of clips with clips and of clips with queries; the percentage of queries
        for which both have the same nearest clip, and of those with the other's nearest clip among their ten nearest.
    """
    from scipy.stats import spearmanr

    tables, counts = [], []
    for folder in (mine, other):
        video = open_features(folder / f"{name}_video.npz")
        with np.load(mine / f"{name}_video.npz") as content:
            vids = [vid for vid in content["vids"].tolist() if len(video[vid])]
        with np.load(folder / f"{name}_query.npz") as content:
            queries = unit(content["feat"].astype(np.float32))
        kept = [video[vid] for vid in evenly(vids, most)]
        clips = unit(np.stack([rows[(7 * at) % len(rows)] for at, rows in enumerate(kept)]))
        counts.append(len(queries))
        tables.append((clips @ clips.T, queries[:: -(-len(queries) // most)] @ clips.T))
    if counts[0] != counts[1]:
        raise SystemExit(f"{other}: `{name}` must have features of the same queries, {counts[0]}, got {counts[1]}")
    (clips, asked), (other_clips, other_asked) = tables
    upper = np.triu_indices(len(clips), 1)
    within, across = spearmanr(clips[upper], other_clips[upper])[0], spearmanr(asked.ravel(), other_asked.ravel())[0]
    nearest = other_asked.argmax(1)
    same = 100 * (asked.argmax(1) == nearest).mean()
    among = 100 * (np.argsort(-asked, 1)[:, :10] == nearest[:, None]).any(1).mean()
    found = (
        f"clips {within:.3f}, clips and queries {across:.3f}; same nearest clip {same:.0f} %, among ten {among:.0f} %"
    )
    return f"{name}: {found}"


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
    parser.add_argument(
        "--like", type=Path, metavar="PATH", help="folder of other features of the sets to compare with"
    )
    parser.add_argument("--drop", action="store_true", help="leave out videos without captions (default: an error)")
    parser.add_argument("--encoder", metavar="MODEL", help="sentence embeddings by this model instead of tf-idf")
    options = parser.parse_args(arguments)
    sets = {}
    for name, captions, queries, seconds in options.set:
        notes = read_annotations(queries)
        sets[name] = read_captions(Path(captions), float(seconds), notes.durations), notes, float(seconds)
    build(sets, options.out, width=options.width, drop=options.drop, encoder=options.encoder)
    if options.like is not None:
        for name in sets:
            print(likeness(name, options.out, options.like))
    return 0


if __name__ == "__main__":
    sys.exit(main())
