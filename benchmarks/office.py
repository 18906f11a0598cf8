"""Office-Caltech10: prototypes on fixed features, with and without confidence gate: ``python -m benchmarks.office``.

All twelve transfers between four domains, on SURF counts or on the features of a small network, standardised and
reduced to 128 joint principal components of both domains. A hidden layer and a classifier are trained, and the rows
differ in one term, whose strength is ramped up with ``mmda.schedules.dann_ramp``. A row's weight is selected from two
by ``mmda.validators.information_maximisation_score`` on the target's rows at seed 0; target labels are only used to
print accuracies.

    python -m benchmarks.office                 # everything, about five minutes of one core
    python -m benchmarks.office --page          # the table as text for docs/digits.rst; no training

The data is read from ``uda`` under ``$MMDA_DATA`` or ``../shared/data`` next to the checkout:
``office_caltech10_surf/<domain>_SURF_L10.mat`` (``fts``, ``labels``) and ``office_caltech10_effnetlite0/features.npz``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.digits import ROOT, machine
from mmda.losses import prototype_contrastive_loss
from mmda.schedules import dann_ramp
from mmda.validators import information_maximisation_score

RESULTS = ROOT / "benchmarks" / "results" / "office.json"
DOMAINS = ("amazon", "caltech", "dslr", "webcam")
FEATURES = ("surf", "effnetlite0")
CLASSES, WIDTH, HIDDEN = 10, 128, 64
WEIGHTS = (0.1, 0.3)


def shares_of_the_sure(pseudo: Tensor) -> Tensor:
    """Probabilities of rows with a maximum of at least 0.8, and zeros for other rows."""
    return torch.where(pseudo.amax(1, keepdim=True) >= 0.8, pseudo, 0.0)


#: The rows: the assignment of a target row from its predicted probabilities, and the gate; None: no term.
ROWS: dict[str, tuple[Callable[[Tensor], Tensor], float] | None] = {
    "source-only": None,
    "no gate": (lambda pseudo: pseudo, 0.0),
    "gate, shares kept": (shares_of_the_sure, 0.0),
    "gate (the default)": (lambda pseudo: pseudo, 0.8),
}


def load(root: Path, kind: str, domain: str) -> tuple[Tensor, Tensor]:
    """Features (n, d) as float32 and labels from 0."""
    if kind == "surf":
        from scipy.io import loadmat

        found = loadmat(root / "office_caltech10_surf" / f"{domain}_SURF_L10.mat")
        counts = torch.from_numpy(found["fts"].astype(np.float32))
        return counts / counts.sum(1, keepdim=True), torch.from_numpy(found["labels"].astype(np.int64)).flatten() - 1
    with np.load(root / "office_caltech10_effnetlite0" / "features.npz", allow_pickle=False) as archive:
        name = domain if f"{domain}_x" in archive else f"{domain}10"  # Caltech's ten classes have either name
        features, labels = archive[f"{name}_x"], archive[f"{name}_y"]
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, as stored in the result file."""

    kind: str
    source: str
    target: str
    row: str
    weight: float
    seed: int
    accuracy: float
    score: float
    seconds: float

    @property
    def cell(self) -> tuple[str, str, str, str]:
        return self.kind, self.source, self.target, self.row


def pooled_directions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples, standardised jointly and projected to their first joint principal components."""
    rows = torch.cat([x, y])
    rows = (rows - rows.mean(0)) / rows.std(0).clamp(min=1e-6)
    directions = torch.linalg.eigh(rows.T @ rows)[1][:, -WIDTH:]
    rows = rows @ directions
    return (rows / rows.std()).split([len(x), len(y)])


def train(
    x: Tensor, labels: Tensor, y: Tensor, *, row: str, weight: float, steps: int, seed: int
) -> tuple[Tensor, float]:
    """Logits of the target's rows after training, and the score without labels."""
    torch.manual_seed(seed)
    encoder, classifier = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU()), nn.Linear(HIDDEN, CLASSES)
    optimiser = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=2e-3, fused=True)
    draws = torch.Generator().manual_seed(seed)
    term = ROWS[row]
    for step in range(steps):
        mine, other = (torch.randint(len(rows), (64,), generator=draws) for rows in (x, y))
        source = encoder(x[mine])
        loss = F.cross_entropy(classifier(source), labels[mine])
        if term is not None:
            assign, gate = term
            target = encoder(y[other])
            pseudo = assign(classifier(target).detach().softmax(1))
            value = prototype_contrastive_loss(source, target, labels[mine], pseudo, classes=CLASSES, confidence=gate)
            loss = loss + weight * dann_ramp(step / steps) * value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        logits: Tensor = classifier(encoder(y))
    return logits, information_maximisation_score(logits).item()


def of_best_weight(runs: Sequence[Run], *, oracle: bool = False) -> list[Run]:
    """Of the runs of one cell those with the weight that has the highest score, or the highest accuracy, at seed 0."""
    first = [r for r in runs if r.seed == 0]
    if not first:
        return []
    best = max(first, key=lambda r: r.accuracy if oracle else r.score)
    return [r for r in runs if r.weight == best.weight]


def chosen(runs: Sequence[Run], kind: str, source: str, target: str, row: str) -> list[Run]:
    """The runs of a cell with the weight of the highest score at seed 0."""
    return of_best_weight([r for r in runs if r.cell == (kind, source, target, row)])


def table(runs: Sequence[Run], kind: str) -> list[list[str]]:
    """One line per transfer: accuracies of the rows in percent, means over the seeds; then means and numbers of
    losses."""
    lines, gains = [], {row: [] for row in ROWS}  # type: dict[str, list[float]]
    for source, target in itertools.permutations(DOMAINS, 2):
        cells = {row: chosen(runs, kind, source, target, row) for row in ROWS}
        if not all(cells.values()):
            continue
        means = {row: 100 * statistics.mean(r.accuracy for r in cell) for row, cell in cells.items()}
        for row in ROWS:
            gains[row].append(means[row] - means["source-only"])
        shown = [
            f"{means[row]:.1f}" + (f" ({cells[row][0].weight:g})" if ROWS[row] is not None else "") for row in ROWS
        ]
        lines.append([f"{source} to {target}", *shown])
    if lines:
        lines.append(
            ["mean gain", *("" if ROWS[r] is None else f"{statistics.mean(g):+.1f}" for r, g in gains.items())]
        )
        hurt = {r: sum(gain < 0 for gain in g) for r, g in gains.items()}
        lines.append(["transfers below source-only", *("" if ROWS[r] is None else str(n) for r, n in hurt.items())])
    return lines


def as_page(runs: Sequence[Run]) -> str:
    """For the documentation: one list-table per kind of features."""
    lines: list[str] = []
    for kind in FEATURES:
        lines += [f".. list-table:: Office-Caltech10, {kind}", "   :header-rows: 1", ""]
        for line in [["transfer", *ROWS], *table(runs, kind)]:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(line)]
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.office", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="training steps a run (default: 200)")
    parser.add_argument("--seeds", type=int, default=3, help="runs a cell (default: 3)")
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--data", type=Path, help="the folder that holds uda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    parser.add_argument("--page", action="store_true", help="print the tables of the result; no training")
    given = parser.parse_args(arguments)
    if given.page:
        print(as_page([Run(**run) for run in json.loads(given.results.read_text(encoding="utf-8"))["runs"]]))
        return 0
    root = (given.data or Path(os.environ.get("MMDA_DATA", ROOT.parent / "shared" / "data"))) / "uda"
    if not (root / "office_caltech10_surf").is_dir():
        print(f"office: skipped, {root} not found; set MMDA_DATA or --data", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    runs: list[Run] = []
    for kind, (source, target) in itertools.product(given.features, itertools.permutations(DOMAINS, 2)):
        (x, labels), (y, truth) = (load(root, kind, domain) for domain in (source, target))
        x, y = pooled_directions(x, y)
        for row, seed in itertools.product(ROWS, range(given.seeds)):
            weights: Sequence[float] = WEIGHTS if ROWS[row] is not None else (0.0,)
            if seed > 0:
                weights = (chosen(runs, kind, source, target, row)[0].weight,)
            for weight in weights:
                begin = time.process_time()
                logits, score = train(x, labels, y, row=row, weight=weight, steps=given.steps, seed=seed)
                accuracy = (logits.argmax(1) == truth).double().mean().item()
                seconds = time.process_time() - begin
                runs.append(Run(kind, source, target, row, weight, seed, accuracy, score, seconds))
        given.results.parent.mkdir(parents=True, exist_ok=True)
        budget = {"steps": given.steps, "seeds": given.seeds}
        result = {"machine": machine(), "budget": budget, "runs": [dataclasses.asdict(r) for r in runs]}
        given.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(kind, source, target, flush=True)
    for kind in given.features:
        print(kind, *("\t".join(line) for line in table(runs, kind)), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
