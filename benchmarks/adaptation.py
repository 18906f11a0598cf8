"""All adapters on features of four data sets: ``python -m benchmarks.adaptation``.

Twelve transfers: MNIST and USPS digits (pixels), Office-Caltech10 on SURF counts and on the features of a small
network, Amazon reviews (tf-idf). Features of both domains are reduced to 128 joint principal components; a hidden layer
of 64 and a linear classifier are trained on batches of 64, and rows differ in one term
(``benchmarks.adaptation_rows``), whose strength is ramped up with ``mmda.schedules.dann_ramp``. The closed-form rows
transform the features before the same training. A row's weight is selected from three by
``mmda.validators.information_maximisation_score`` on the target's rows at seed 0, without labels; the result of the
best of the three by the labels (the oracle) is shown next to it.

    python -m benchmarks.adaptation               # all runs missing from the result, seed by seed
    python -m benchmarks.adaptation --peers       # also the same-named losses of other libraries, if installed
    python -m benchmarks.adaptation --page        # write docs/results/adaptation*.csv; no training

The data is read from ``uda`` under ``$MMDA_DATA`` or ``../shared/data`` next to the checkout (digits and
Office-Caltech10 as ``benchmarks.digits`` and ``benchmarks.office`` have them; ``amazon_reviews/<domain>/`` with
``{positive,negative}.parsed``, raw text in ``<review>`` tags). Needs scikit-learn and scipy (``pip install
"torch-mmda[bench]"``).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import office
from benchmarks.adaptation_rows import HIDDEN, PEERS, ROWS, Row
from benchmarks.digits import ROOT, Batch, interval, machine
from benchmarks.digits import load as load_digits
from benchmarks.office import Run
from benchmarks.office import of_best_weight as chosen
from mmda.schedules import dann_ramp
from mmda.validators import information_maximisation_score

RESULTS = ROOT / "benchmarks" / "results" / "adaptation.json"
PAGES = ROOT / "docs" / "results"
#: Number of digits read from each data set.
DIGITS = 2000

TRANSFERS = (
    ("digits", "mnist", "usps"),
    ("surf", "dslr", "webcam"),
    ("effnetlite0", "webcam", "caltech"),
    ("reviews", "books", "kitchen"),
    ("digits", "usps", "mnist"),
    ("surf", "caltech", "dslr"),
    ("reviews", "kitchen", "dvd"),
    ("surf", "webcam", "amazon"),
    ("effnetlite0", "caltech", "amazon"),
    ("reviews", "dvd", "electronics"),
    ("surf", "amazon", "caltech"),
    ("reviews", "electronics", "books"),
)
KINDS = tuple(dict.fromkeys(kind for kind, *_ in TRANSFERS))
#: 97.5 % points of Student's distribution for the mean over two transfers, over three, ...
T_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010)


# Data


def reviews(path: Path) -> list[str]:
    """The texts between ``<review_text>`` tags, or else between ``<review>`` tags."""
    raw = path.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"<review_text>(.*?)</review_text>", raw, re.DOTALL)
    return found or re.findall(r"<review>(.*?)</review>", raw, re.DOTALL)


def read(root: Path, kind: str, source: str, target: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of the source, then of the target, whose labels are only used for accuracy."""
    if kind == "reviews":
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts, labels, sizes = [], [], []
        for domain in (source, target):
            before = len(texts)
            for label, name in enumerate(("negative", "positive")):
                found = reviews(root / "amazon_reviews" / domain / f"{name}.parsed")
                texts += found
                labels += [label] * len(found)
            sizes.append(len(texts) - before)
        counts = TfidfVectorizer(sublinear_tf=True, min_df=3, max_features=5000).fit_transform(texts)
        rows = torch.from_numpy(TruncatedSVD(office.WIDTH, random_state=0).fit_transform(counts).astype(np.float32))
        rows = rows - rows.mean(0)
        x, y = (rows / rows.std()).split(sizes)
        a, b = torch.tensor(labels).split(sizes)
        return x, a, y, b
    if kind == "digits":
        # The files have the same order of digits, so each domain is sampled independently.
        both = [load_digits(root / "digits" / f"{name}.npz", test=0, seed=i) for i, name in enumerate((source, target))]
        (x, a), (y, b) = ((d.images.flatten(1)[:DIGITS], d.labels[:DIGITS]) for d in both)
    else:
        (x, a), (y, b) = (office.load(root, kind, domain) for domain in (source, target))
    x, y = office.pooled_directions(x, y)
    return x, a, y, b


# The loop


def train(
    x: Tensor, labels: Tensor, y: Tensor, *, row: Row, weight: float, steps: int, seed: int, batch: int = 64
) -> Tensor:
    """Logits of the target's rows after training; only the target's features are used."""
    classes = int(labels.max()) + 1
    if row.move is not None:
        x, y = row.move(x, y)
        size = torch.cat([x, y]).std()
        x, y = x / size, y / size
    # The network is initialised before the term, and batches use their own generator, so all rows share both.
    torch.manual_seed(seed)
    encoder, classifier = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU()), nn.Linear(HIDDEN, classes)
    term = None if row.build is None else row.build(classes)
    modules = nn.ModuleList([encoder, classifier, *([term] if isinstance(term, nn.Module) else [])])
    optimiser = torch.optim.Adam(modules.parameters(), lr=4e-3, fused=True)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        mine, other = (torch.randint(len(rows), (batch,), generator=draws) for rows in (x, y))
        features = encoder(torch.cat([x[mine], y[other]]))
        (source, target), (a, b) = features.split(batch), classifier(features).split(batch)
        loss = F.cross_entropy(a, labels[mine])
        if term is not None:
            loss = loss + term(Batch(source, target, a, b, labels[mine], classifier), weight * dann_ramp(step / steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        logits: Tensor = classifier(encoder(y))
    return logits


# Results


def by_cell(runs: Sequence[Run]) -> dict[tuple[str, str, str, str], list[Run]]:
    cells: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    return cells


def whole(cells: dict[tuple[str, str, str, str], list[Run]], rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The transfers on which all of these rows that have been begun anywhere were trained."""
    names = {row.name for row in rows} & {name for *_, name in cells} | {"source-only"}
    return [t for t in TRANSFERS if all((*t, name) in cells for name in names)]


HEADER = [
    "adapter",
    *("digits", "SURF", "deep", "reviews"),
    "mean gain",
    "up / down by a point",
    "first seed",
    "first seed, oracle",
    "s a run",
]


def summary(runs: Sequence[Run], rows: Sequence[Row] = ROWS) -> list[list[str]]:
    """One line per row: gains over source-only in percentage points, for each kind of data and over all transfers.

    The gain of a transfer is the mean over its seeds; the interval is over the transfers (Student's t). Only transfers
    where all of these rows have been trained are included.
    """
    cells, lines = by_cell(runs), [HEADER]
    every = whole(cells, rows)
    for row in rows:
        kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        gains: list[float] = []
        first, best, seconds = [], [], []
        for transfer in every:
            alone = {r.seed: r.accuracy for r in chosen(cells.get((*transfer, "source-only"), []))}
            mine = cells.get((*transfer, row.name), [])
            found = {r.seed: 100 * (r.accuracy - alone[r.seed]) for r in chosen(mine) if r.seed in alone}
            if found:
                gains.append(statistics.mean(found.values()))
                kinds[transfer[0]].append(gains[-1])
                first.append(found[0])
                best.append(100 * (max(r.accuracy for r in mine if r.seed == 0) - alone[0]))
                seconds += [r.seconds for r in mine]
        if not gains:
            continue
        lines.append(
            [
                row.name,
                *(f"{statistics.mean(each):+.1f}" if each else "" for each in kinds.values()),
                f"{statistics.mean(gains):+.1f} ± {over_transfers(gains):.1f}",
                f"{sum(gain >= 1 for gain in gains)} / {sum(gain <= -1 for gain in gains)}",
                f"{statistics.mean(first):+.1f}",
                f"{statistics.mean(best):+.1f}",
                f"{statistics.median(seconds):.2f}",
            ]
        )
    return lines


def beside(runs: Sequence[Run]) -> list[list[str]]:
    """A line a loss of another library: its mean gain, and that of ours on the same transfers and seeds."""
    cells = by_cell(runs)
    every = whole(cells, PEERS)
    lines = [["loss", "transfers", "theirs", "ours", "s a run, theirs", "ours"]]
    for row in PEERS:
        names = row.name, row.name.rpartition(" (")[0]
        if not every or (*every[0], row.name) not in cells:
            continue
        gains: dict[str, list[float]] = {name: [] for name in names}
        for transfer in every:
            alone = {r.seed: r.accuracy for r in chosen(cells[(*transfer, "source-only")])}
            theirs, ours = ({r.seed: r.accuracy for r in chosen(cells.get((*transfer, n), []))} for n in names)
            seeds = [seed for seed in theirs if seed in ours and seed in alone]
            for name, found in zip(names, (theirs, ours)):
                gains[name].append(100 * statistics.mean(found[seed] - alone[seed] for seed in seeds))
        means = [f"{statistics.mean(gains[name]):+.1f} ± {over_transfers(gains[name]):.1f}" for name in names]
        seconds = [statistics.median(r.seconds for t in every for r in cells[(*t, name)]) for name in names]
        lines.append([row.name, str(len(every)), *means, *(f"{s:.2f}" for s in seconds)])
    return lines


def over_transfers(gains: Sequence[float]) -> float:
    """Half-width of Student's 95 % interval of the mean; NaN for one value."""
    if len(gains) < 2:
        return math.nan
    return T_QUANTILES[len(gains) - 2] * statistics.stdev(gains) / len(gains) ** 0.5


def transfers(runs: Sequence[Run]) -> list[list[str]]:
    """One line per transfer: accuracy of source-only in percent, then the gain of every row, mean over the seeds."""
    cells = by_cell(runs)
    every = whole(cells, ROWS)
    lines = [["adapter", *(f"{kind}, {source} to {target}" for kind, source, target in every)]]
    for row in (*ROWS, *PEERS):
        line = [row.name]
        for transfer in every:
            alone = {r.seed: r.accuracy for r in chosen(cells.get((*transfer, "source-only"), []))}
            found = {r.seed: r.accuracy for r in chosen(cells.get((*transfer, row.name), [])) if r.seed in alone}
            if row.name == "source-only" and found:
                line.append(f"{100 * statistics.mean(found.values()):.1f}")
            elif found:
                gain = [100 * (accuracy - alone[seed]) for seed, accuracy in found.items()]
                line.append(f"{statistics.mean(gain):+.1f}" + (f" ± {interval(gain):.1f}" if len(gain) > 1 else ""))
            else:
                line.append("")
        if any(line[1:]):
            lines.append(line)
    return lines


# The command


def save(path: Path, steps: int, runs: Sequence[Run]) -> None:
    """After every row, so that a run that is cut short keeps what it has."""
    head = {"machine": machine(), "steps": steps, "columns": [field.name for field in dataclasses.fields(Run)]}
    lines = ",\n".join(json.dumps(dataclasses.astuple(run)) for run in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{json.dumps(head)[:-1]}, "runs": [\n{lines}\n]}}\n', encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps a run (default: 100)")
    parser.add_argument("--seeds", type=int, choices=range(1, 6), default=5, help="runs a cell (default: 5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the rows")
    parser.add_argument("--peers", action="store_true", help="add the rows of other libraries that are installed")
    parser.add_argument("--data", type=Path, help="the folder that holds uda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    parser.add_argument("--page", type=Path, nargs="?", const=PAGES, help="write the tables here; no training")
    given = parser.parse_args(arguments)
    runs: list[Run] = []
    if given.results.is_file():
        found = json.loads(given.results.read_text(encoding="utf-8"))
        if found["steps"] != given.steps:
            parser.error(f"{given.results} was made with {found['steps']} steps")
        runs = [Run(**dict(zip(found["columns"], run))) for run in found["runs"]]
    if given.page:
        tables = {"": summary(runs), "_peers": beside(runs), "_transfers": transfers(runs)}
        for name, lines in tables.items():
            with (given.page / f"adaptation{name}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(lines)
        return 0
    root = (given.data or Path(os.environ.get("MMDA_DATA", ROOT.parent / "shared" / "data"))) / "uda"
    if not (root / "amazon_reviews").is_dir():
        print(f"adaptation: skipped, {root} not found; set MMDA_DATA or --data", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    rows = [row for row in (*ROWS, *(PEERS if given.peers else ())) if given.only is None or row.name in given.only]
    for row in rows:
        if not row.available:
            print(f"adaptation: without {row.name}, which is not installed", file=sys.stderr)
    rows = [row for row in rows if row.available]
    done = {(r.cell, r.weight, r.seed) for r in runs}
    data: dict[tuple[str, str, str], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    for seed in range(given.seeds):
        for transfer in TRANSFERS:
            if transfer not in data:
                data[transfer] = read(root, *transfer)
            x, labels, y, truth = data[transfer]
            for row in rows:
                cell = (*transfer, row.name)
                of_cell = [r for r in runs if r.cell == cell]
                for weight in row.weights if seed == 0 else (chosen(of_cell)[0].weight,):
                    if (cell, weight, seed) in done:
                        continue
                    begin = time.process_time()
                    logits = train(x, labels, y, row=row, weight=weight, steps=given.steps, seed=seed)
                    seconds = time.process_time() - begin
                    score = information_maximisation_score(logits).item()
                    accuracy = (logits.argmax(1) == truth).double().mean().item()
                    runs.append(Run(*cell, weight, seed, round(accuracy, 4), round(score, 4), round(seconds, 2)))
                save(given.results, given.steps, runs)
            print(seed, *transfer, f"{sum(r.seconds for r in runs):.0f} s of processor time", flush=True)
    for table in (summary(runs), beside(runs)):
        for line in table:
            print("".join(cell.ljust(40 if i == 0 else 14) for i, cell in enumerate(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
