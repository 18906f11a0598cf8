"""Further experiments on real videos, on folds of training and validation videos: ``python -m benchmarks.grounding``.

The directions are those among QVHighlights, NExT-GQA and Charades, with the features of ``docs/results_real.rst``. A
fold holds out a third of the target's training and validation videos: the pairs of the rest are used for fitting, and
the moments of the held-out third for scoring. The test split is not used.

    python -m benchmarks.grounding efficiency    # 0, 50, 200 and all videos of the target: closed form and full model
    python -m benchmarks.grounding few           # 5 to 40 videos of the target, and a small source
    python -m benchmarks.grounding selection     # every validator against the oracle, over checkpoints of many rows
    python -m benchmarks.grounding shift         # the shift of each modality, and the gain of each module
    python -m benchmarks.grounding page          # write docs/results/grounding_*.csv; no fitting

Each continues from ``benchmarks/results/grounding.json``. The data is read from ``vmr/features`` under ``$MMDA_DATA``
or ``../shared/data`` next to the checkout.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits import ROOT
from benchmarks.grounding_checkpoints import HELD, VAL, checkpoints, some, spearman
from mmda.models.mmcda import (
    MMCDAConfig,
    build_mmcda,
    fit_joint_maps,
    pair_score,
    predict_split,
    sentence_rows,
    start_linear,
)
from mmda.models.mmcda.experiment.closed_rows import plain_spans
from mmda.models.mmcda.experiment.domains import Domain, Place, Problem, in_order, load_problem
from mmda.models.mmcda.experiment.runs import as_queries, joined
from mmda.shift import shift_report
from mmda.vmr import ResidentLoader, ResidentSplit
from mmda.vmr.blind import constant_rows, constant_spans
from mmda.vmr.evaluation import bootstrap_interval, evaluate_windows

RESULTS = ROOT / "benchmarks" / "results" / "grounding.json"
PAGES = ROOT / "docs" / "results"
SETS = {"N": "nextgqa_val", "Q": "qvhighlights_val", "C": "charades_blip_train"}
DIRECTIONS = ("N to Q", "C to Q", "Q to C", "N to C", "Q to N", "C to N")
FOLDS = 3
#: Number of target videos for fitting; None: all videos of the fold.
SIZES = (0, 50, 200, None)
#: Sizes of the small setting: target and source videos, source moments, test queries.
FEW, FEW_SOURCE, FEW_KNOWN, FEW_ASKED = (5, 10, 20, 40), 80, 300, 250
#: Names of the committed tables of a direction, which contain the gains of the modules.
TABLES = ROOT / "benchmarks" / "results"

CONSTANT = "best constant of the source"

Record = dict[str, Any]


# Data


def place(root: Path, name: str) -> Place:
    """A data set with frames from latent-semantic features and queries from the sentence encoder."""
    first, second = root / "caption_lsa128", root / "caption_minilm256"
    return Place(
        path=str(first / f"{name}.jsonl"),
        video=(str(first / f"{name}_video.npz"),),
        query=str(second / f"{name}_query.npz"),
        splits=str(root / "splits.json"),
    )


@functools.lru_cache(maxsize=2)
def domains(root: Path, direction: str) -> tuple[Domain, Domain]:
    a, b = direction.split(" to ")
    return load_problem(Problem(direction, source=place(root, SETS[a]), target=place(root, SETS[b])))


def labelled(domain: Domain) -> ResidentSplit:
    """Training and validation videos with their moments."""
    return joined(map(domain.opened, ("train", "val")))


def of_videos(split: ResidentSplit, domain: Domain, keep: Callable[[int], bool]) -> ResidentSplit:
    """The pairs of the videos at these positions, ordered by name."""
    order = {vid: at for at, vid in enumerate(in_order(list({domain.videos[qid] for qid in split.qids})))}
    return split.select([row for row, qid in enumerate(split.qids) if keep(order[domain.videos[qid]])])


def fold(domain: Domain, number: int) -> tuple[ResidentSplit, ResidentSplit]:
    """Pairs without moments for fitting, and a third of the videos with moments."""
    every = labelled(domain)
    rest, held = (of_videos(every, domain, lambda at, out=out: (at % FOLDS == number) == out) for out in (False, True))  # type: ignore[misc]
    return rest.without_moments(), held


def scored(windows: Tensor, held: ResidentSplit, domain: Domain, mask: Tensor | None = None) -> Record:
    """IoU of each query, and the index of its video."""
    assert held.windows is not None
    found = evaluate_windows(
        windows,
        held.windows,
        window_mask=held.window_mask,
        videos=[domain.videos[qid] for qid in held.qids],
        duration=held.duration,
        prediction_mask=mask,
        iou=(0.5,),
        name="",
    )
    # Rounded down, so that rounding does not reach a threshold.
    return {"iou": [math.floor(1e4 * v) / 1e4 for v in found.ious], "video": held.video_index.tolist()}


def hits(ious: Sequence[float]) -> list[float]:
    """1 where the first span has an IoU of at least 0.5."""
    return [float(iou >= 0.5) for iou in ious]


def predicted(model: Any, held: ResidentSplit) -> tuple[Tensor, Tensor]:
    loader = ResidentLoader(held.without_moments(), 128, shuffle=False, labels=False)
    spans, _ = predict_split(model.eval(), loader, n=1)
    return spans.windows, spans.mask


# Number of target videos


def efficiency(root: Path, direction: str, done: Sequence[Record] = ()) -> Iterator[Record]:
    """Every row at every missing size and fold; the videos of a smaller size are a subset of those of a larger."""
    known = labelled(domains(root, direction)[0])
    yield from by_size(*domains(root, direction), known, direction, SIZES, done)


def few(root: Path, direction: str, done: Sequence[Record] = ()) -> Iterator[Record]:
    """As :func:`efficiency` with small data: about 80 source videos, 5 to 40 target videos, 250 test queries."""
    source, target = domains(root, direction)
    known = some(of_videos(labelled(source), source, lambda at: at < FEW_SOURCE), FEW_KNOWN)
    yield from by_size(source, target, known, direction, FEW, done, asked=FEW_ASKED)


def by_size(
    source: Domain,
    target: Domain,
    known: ResidentSplit,
    direction: str,
    sizes: Sequence[int | None],
    done: Sequence[Record],
    *,
    asked: int | None = None,
) -> Iterator[Record]:
    for number in range(FOLDS):
        rest, held = fold(target, number)
        if asked is not None:
            held = some(held, asked)
        for size in sizes:
            videos = "all" if size is None else size
            if any((r["fold"], r["videos"], r["row"]) == (number, videos, "full") for r in done):
                continue
            pairs = None if size == 0 else of_videos(rest, target, lambda at, size=size: size is None or at < size)  # type: ignore[misc]
            config = MMCDAConfig(known.frames.shape[-1], known.words.shape[-1], joint=64, form="linear")
            model = build_mmcda(config)
            begin = time.process_time()
            start_linear(model, known, pairs, domain=pairs)
            windows, mask = predicted(model, held)
            full, seconds = scored(windows, held, target, mask), time.process_time() - begin
            rows: dict[str, Record] = {}
            if pairs is None:
                constants = constant_spans(as_queries(source, known), n=1)
                rows[CONSTANT] = scored(constant_rows(constants, as_queries(target, held)), held, target)
                rows["CCA: source"] = scored(plain_spans(fit_joint_maps(known, None), held), held, target)
            else:
                rows["CCA: target pairs"] = scored(plain_spans(fit_joint_maps(None, pairs), held), held, target)
                rows["CCA: source + pairs"] = scored(plain_spans(fit_joint_maps(known, pairs), held), held, target)
            rows["full"] = full
            shares = [round(s, 3) for s in model.query_head.share.tolist()]
            for row, found in rows.items():  # the full model is last: once stored, this size is done
                yield {
                    "direction": direction,
                    "fold": number,
                    "videos": videos,
                    "row": row,
                    **found,
                    **({"shares": shares, "seconds": round(seconds, 2)} if row == "full" else {}),
                }


def efficiency_table(records: Sequence[Record], sizes: Sequence[int | None] = SIZES) -> list[list[str]]:
    """One line per direction, row and size: R@1 at IoU 0.5 and mean IoU over all folds, with intervals by video."""
    lines = [["direction", "videos", "row", "R@1, IoU=0.5", "mIoU", "full less this, R@1", "full less this, mIoU"]]
    for direction in DIRECTIONS:
        for size in ("all" if s is None else s for s in sizes):
            mine = [r for r in records if (r["direction"], r["videos"]) == (direction, size)]
            full = pooled(mine, "full")
            for row in (CONSTANT, "CCA: source", "CCA: target pairs", "CCA: source + pairs", "full"):
                found = pooled(mine, row)
                if found is None or full is None:
                    continue
                line = [direction, str(size), row]
                for key in ("hit", "iou"):
                    line.append(str(bootstrap_interval(found[key], groups=found["video"])))
                for key in ("hit", "iou"):
                    less = [b - a for a, b in zip(found[key], full[key])]
                    line.append("" if row == "full" else f"{bootstrap_interval(less, groups=full['video'])}")
                lines.append(line)
    return lines


def pooled(records: Sequence[Record], row: str) -> Record | None:
    """The queries of all available folds of a row."""
    mine = sorted((r for r in records if r["row"] == row), key=lambda r: r["fold"])
    if not mine:
        return None
    ious = [iou for r in mine for iou in r["iou"]]
    return {"hit": hits(ious), "iou": ious, "video": [f"{r['fold']}-{video}" for r in mine for video in r["video"]]}


# Checkpoint selection


def selection(root: Path, direction: str, done: Sequence[Record] = ()) -> Iterator[Record]:
    """Checkpoints of many rows, with the score of every validator and the scores by the labels of the first fold."""
    source, target = domains(root, direction)
    rest, held = fold(target, 0)
    held = some(held, HELD)
    for record in checkpoints(source.opened("train"), some(source.opened("val"), VAL), rest, held.without_moments()):
        found = scored(record.pop("spans").unsqueeze(1), held, target)
        truth = {"R@1, IoU=0.5": statistics.mean(hits(found["iou"])), "mIoU": statistics.mean(found["iou"])}
        yield {"direction": direction, **record, "oracle": {k: round(v, 5) for k, v in truth.items()}}


def selection_table(records: Sequence[Record], family: str | None = None) -> list[list[str]]:
    """One line per validator: Spearman's correlation with the mean IoU in each direction, and the loss of selecting by
    it."""
    mine = [r for r in records if family in (None, r["family"])]
    names = list(dict.fromkeys(name for r in mine for name in r["scores"]))
    shown = [d for d in DIRECTIONS if any(r["direction"] == d for r in mine)]
    lines = [["validator", *shown, "mean", "lowest", "mIoU lost", "R@1 lost"]]
    if not mine:
        return lines
    counts = [sum(r["direction"] == d for r in mine) for d in shown]
    lines.append(["checkpoints", *map(str, counts), "", "", "", ""])
    lines.append(
        ["none: one at random", *[""] * (len(shown) + 2), *(f"{lost(mine, shown, None, m):.1f}" for m in METRICS)]
    )
    for name in names:
        line, found = [name], []
        for direction in shown:
            here = [r for r in mine if r["direction"] == direction and r["scores"].get(name) is not None]
            value = spearman([r["scores"][name] for r in here], [r["oracle"]["mIoU"] for r in here])
            line.append("" if value is None else f"{value:+.2f}")
            if value is not None:
                found.append(value)
        if found:
            costs = [f"{lost(mine, shown, name, metric):.1f}" for metric in METRICS]
            lines.append([*line, f"{statistics.mean(found):+.2f}", f"{min(found):+.2f}", *costs])
    return lines


METRICS = ("mIoU", "R@1, IoU=0.5")


def lost(records: Sequence[Record], directions: Sequence[str], name: str | None, metric: str) -> float:
    """Points that the checkpoint of the highest score lies under the best one, mean over directions; ``None``: any."""
    costs = []
    for direction in directions:
        here = [r for r in records if r["direction"] == direction and (name is None or name in r["scores"])]
        if here:
            truth = [r["oracle"][metric] for r in here]
            chosen = (
                statistics.mean(truth) if name is None else max(here, key=lambda r: r["scores"][name])["oracle"][metric]
            )
            costs.append(100 * (max(truth) - chosen))
    return statistics.mean(costs) if costs else math.nan


# Shift and gain


def shift(root: Path, direction: str, done: Sequence[Record] = ()) -> Iterator[Record]:
    """Shift of each modality, with one row per video or query, and retrieval of the target's pairs by maps of each
    domain."""
    source, target = domains(root, direction)
    known, pairs = labelled(source), joined(target.pairs[split] for split in ("train", "val"))

    def videos(split: ResidentSplit) -> Tensor:
        rows = torch.unique(split.frame_row)
        mask = split.frame_mask[rows].unsqueeze(2)
        return (split.frames[rows] * mask).sum(1) / mask.sum(1).clamp(min=1)

    report = shift_report(
        {"video": (videos(known), videos(pairs)), "query": (sentence_rows(known), sentence_rows(pairs))},
        permutations=200,
        max_rows=500,
    )
    record: Record = {"direction": direction, "shift": {k: v.to_dict() for k, v in report.before.items()}}
    rest, held = fold(target, 0)
    loader = ResidentLoader(held.without_moments(), 128, shuffle=False, labels=False)
    for name, maps in (("source", (known, None)), ("pairs", (None, rest))):
        model = build_mmcda(MMCDAConfig(known.frames.shape[-1], known.words.shape[-1], joint=64, form="linear"))
        start_linear(model, *maps)
        record[f"found by {name}"] = round(pair_score(model.eval(), loader), 4)
    yield record


def gained(direction: str) -> dict[str, str]:
    """Gain of each module on the test videos, from the committed table: the full model minus the one without it."""
    path = TABLES / f"mmcda_linear_{direction.replace(' to ', '2').lower()}.json"
    rows = {row["row"]: row for row in json.loads(path.read_text(encoding="utf-8"))["tables"][0]["rows"]}
    full = next(row for name, row in rows.items() if name.startswith("full: "))
    return {
        module: " / ".join(
            f"{100 * (full['mean'][m] - rows[f'full without {module}']['mean'][m]):+.1f}"
            for m in ("R@1, IoU=0.5", "mIoU")
        )
        for module in ("(i)", "(ii)", "(iii)")
    }


def shift_table(records: Sequence[Record]) -> list[list[str]]:
    columns = ("squared_mmd", "relative_mean_shift", "scale_ratio", "classifier_error")
    heads = [f"{side}: {what}" for side in ("video", "query") for what in ("MMD^2", "mean / sd", "scale", "error")]
    lines = [["direction", *heads, "pairs found by source", "by pairs", "module (i)", "module (ii)", "module (iii)"]]
    for direction in DIRECTIONS:
        for record in (r for r in records if r["direction"] == direction):
            numbers = [f"{record['shift'][side][c]:.3f}" for side in ("video", "query") for c in columns]
            finds = [f"{100 * record[f'found by {name}']:.1f}" for name in ("source", "pairs")]
            lines.append([direction, *numbers, *finds, *gained(direction).values()])
    return lines


# The command

PARTS: dict[str, Callable[[Path, str, Sequence[Record]], Iterator[Record]]] = {
    "efficiency": efficiency,
    "few": few,
    "selection": selection,
    "shift": shift,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grounding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=(*PARTS, "page"))
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS), metavar="A to B")
    parser.add_argument("--data", type=Path, help="the folder that holds vmr/features")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    given = parser.parse_args(arguments)
    held: dict[str, Any] = {}
    if given.results.is_file():
        held = json.loads(given.results.read_text(encoding="utf-8"))
    if given.part == "page":
        tables = {
            "efficiency": efficiency_table(held.get("efficiency", [])),
            "few": efficiency_table(held.get("few", []), FEW),
            "selection": selection_table(held.get("selection", [])),
            "selection_towers": selection_table(held.get("selection", []), "towers"),
            "shift": shift_table(held.get("shift", [])),
        }
        for name, lines in tables.items():
            if len(lines) > 1:
                with (PAGES / f"grounding_{name}.csv").open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows(lines)
        return 0
    root = (given.data or Path(os.environ.get("MMDA_DATA", ROOT.parent / "shared" / "data"))) / "vmr" / "features"
    if not (root / "splits.json").is_file():
        print(f"grounding: skipped, {root} not found; set MMDA_DATA or --data", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    records: list[Record] = held.setdefault(given.part, [])
    for direction in given.directions:
        spent = held.setdefault("seconds", {})
        name = f"{given.part}, {direction}"
        if name in spent:
            continue
        begin, done = time.process_time(), [r for r in records if r["direction"] == direction]
        if given.part not in ("efficiency", "few") and done:  # incomplete: start again
            records[:], done = [r for r in records if r["direction"] != direction], []
        for record in PARTS[given.part](root, direction, done):
            records.append(record)
            write(given.results, held)
            print(name, len(records), f"{time.process_time() - begin:.0f} s", flush=True)
        spent[name] = round(time.process_time() - begin, 1)
        write(given.results, held)
    return 0


def write(path: Path, held: dict[str, Any]) -> None:
    """Write the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(held, separators=(",", ":")) + "\n", encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
