"""MNIST <-> USPS: accuracy of a small network trained with each loss: ``python -m benchmarks.digits``.

One small convolutional network, one training loop, one budget; the rows differ only in an `Adapter`. Target labels are
used only by the "target-supervised" row and to print accuracies at the end. Each adapter's weight is selected from
three by ``mmda.validators.information_maximisation_score`` on the unlabelled training rows of the target, at one seed;
if the best is the smallest or the largest, the grid is extended in that direction. All seeds then train with the
selected weight. The strength is ramped up with ``mmda.schedules.dann_ramp``.

    python -m benchmarks.digits                       # everything, about 40 minutes of one core
    python -m benchmarks.digits --only MMD CORAL      # train these rows again, keep the others of the result
    python -m benchmarks.digits --resume              # train the missing runs
    python -m benchmarks.digits --page                # write its tables into docs/digits.rst and draw its plot

The data, ``mnist.npz`` and ``usps.npz`` (``imgs`` uint8, ``labs``), is read from ``uda/digits`` under ``$MMDA_DATA`` or
``../shared/data`` next to the checkout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmda import losses
from mmda.layers import (
    DomainDiscriminator,
    DomainSpecificBatchNorm1d,
    DomainSpecificBatchNorm2d,
    GradientReversal,
    adapt_batch_norm,
)
from mmda.schedules import dann_ramp
from mmda.validators import information_maximisation_score

Normalise = Literal["shared", "by domain"] | None

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "digits.json", ROOT / "docs" / "digits.rst"
MARKS = (".. Written by ``python -m benchmarks.digits --page`` from here", ".. to here")
CLASSES, FEATURES = 10, 64
DIRECTIONS = {"MNIST to USPS": ("mnist", "usps"), "USPS to MNIST": ("usps", "mnist")}
#: 97.5 % point of Student's distribution, by number of values in the mean.
STUDENT = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764}


# Data


@dataclasses.dataclass(frozen=True)
class Domain:
    """Images (n, 1, 16, 16) in [0, 1] and labels, in two parts."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(path: Path, *, test: int, seed: int) -> Domain:
    """One file, resized to 16 x 16 by area interpolation and split at random."""
    with np.load(path, allow_pickle=False) as archive:
        images = torch.from_numpy(archive["imgs"]).float().unsqueeze(1) / 255
        labels = torch.from_numpy(archive["labs"]).long().reshape(-1)
    if images.shape[-2:] != (16, 16):
        images = F.interpolate(images, size=(16, 16), mode="area")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held, rest = order[:test], order[test:]
    return Domain(images[rest], labels[rest], images[held], labels[held])


# Network


class Network(nn.Module):
    """Two convolutions, a hidden layer of 64 features, a linear classifier.

    ``normalise`` puts batch normalisation before each ReLU, shared or one per domain. It has no affine parameters,
    since those of the target would not be trained.
    """

    def __init__(self, *, normalise: Normalise = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 5, padding=2)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.hidden = nn.Linear(16 * 4 * 4, FEATURES)
        self.classifier = nn.Linear(FEATURES, CLASSES)
        self.normalise = normalise
        self.norms = nn.ModuleList()
        if normalise == "shared":
            for layer in (nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(16, affine=False)):
                self.norms.append(layer)
            self.norms.append(nn.BatchNorm1d(FEATURES, affine=False))
        elif normalise == "by domain":
            for width in (8, 16):
                self.norms.append(DomainSpecificBatchNorm2d(width, 2, affine=False))
            self.norms.append(DomainSpecificBatchNorm1d(FEATURES, 2, affine=False))

    def _normalised(self, layer: int, x: Tensor, domain: int) -> Tensor:
        if self.normalise is None:
            return x
        normed: Tensor = self.norms[layer](x) if self.normalise == "shared" else self.norms[layer](x, domain)
        return normed

    def features(self, images: Tensor, domain: int) -> Tensor:
        """The 64 features; the source is domain 0, the target domain 1."""
        x = F.max_pool2d(self._normalised(0, self.first(images), domain).relu(), 2)
        x = F.max_pool2d(self._normalised(1, self.second(x), domain).relu(), 2)
        return self._normalised(2, self.hidden(x.flatten(1)), domain).relu()

    def forward(self, images: Tensor, domain: int) -> Tensor:
        logits: Tensor = self.classifier(self.features(images, domain))
        return logits


# Adapters: the rows of the table


@dataclasses.dataclass(frozen=True)
class Batch:
    """The inputs of a term: features and logits of both domains, and the labels of the source."""

    source: Tensor
    target: Tensor
    source_logits: Tensor
    target_logits: Tensor
    labels: Tensor
    classifier: nn.Module

    @property
    def pseudo(self) -> Tensor:
        """Class probabilities of the target rows, detached."""
        return self.target_logits.detach().softmax(1)


#: A term added to the source's cross-entropy: ``term(batch, strength)``.
Term = Callable[[Batch, float], Tensor]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A row: its term (built for each run, since it may have a discriminator), and candidate weights."""

    name: str
    build: Callable[[], Term] | None
    weights: tuple[float, ...] = (1.0,)
    normalise: Normalise = None
    readapt: bool = False  # re-estimate the batch statistics on the target after training
    labels_of: Literal["source", "target"] = "source"

    @property
    def baseline(self) -> str:
        """The baseline of the row: the same network trained on the source only."""
        return "source-only" if self.normalise is None else "source-only, batch norm"


def discrepancy(loss: Callable[..., Tensor], *, of: Callable[[Tensor], Tensor] = lambda x: x) -> Callable[[], Term]:
    """A discrepancy between the features of both domains."""

    def term(batch: Batch, strength: float) -> Tensor:
        return strength * loss(of(batch.source), of(batch.target))

    return lambda: term


def by_class(loss: Callable[..., Tensor]) -> Callable[[], Term]:
    """A discrepancy that takes labels and predicted probabilities."""

    def term(batch: Batch, strength: float) -> Tensor:
        labels = {"source_labels": batch.labels, "target_probabilities": batch.pseudo}
        return strength * loss(batch.source, batch.target, **labels)

    return lambda: term


def joint(loss: Callable[..., Tensor]) -> Callable[[], Term]:
    """A discrepancy between pairs of features and predictions."""

    def term(batch: Batch, strength: float) -> Tensor:
        source, target = batch.source_logits.softmax(1), batch.target_logits.softmax(1)
        return strength * loss((batch.source, source), (batch.target, target))

    return lambda: term


def prototypes(loss: Callable[..., Tensor]) -> Callable[[], Term]:
    """Rows of either domain against the class means of the other."""

    def term(batch: Batch, strength: float) -> Tensor:
        return strength * loss(batch.source, batch.target, batch.labels, batch.pseudo)

    return lambda: term


def norms(loss: Callable[..., Tensor]) -> Callable[[], Term]:
    """A loss of the features of each domain separately."""

    def term(batch: Batch, strength: float) -> Tensor:
        return strength * (loss(batch.source) + loss(batch.target))

    return lambda: term


def of_predictions(loss: Callable[..., Tensor]) -> Callable[[], Term]:
    """A loss of the target's logits."""

    def term(batch: Batch, strength: float) -> Tensor:
        return strength * loss(batch.target_logits)

    return lambda: term


class Adversary(nn.Module):
    """A discriminator with the full learning rate; the strength scales the gradient reversal."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = losses.DomainAdversarialLoss(DomainDiscriminator(FEATURES, hidden=[64]))

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.loss.set_strength(strength)
        value: Tensor = self.loss(batch.source, batch.target)
        return value


class ConditionalAdversary(nn.Module):
    """The same, conditioned on the predictions."""

    def __init__(self, *, entropy_weighting: bool, random: bool = False) -> None:
        super().__init__()
        width = 256 if random else FEATURES * CLASSES
        self.loss = losses.ConditionalAdversarialLoss(
            DomainDiscriminator(width, hidden=[64]),
            entropy_weighting=entropy_weighting,
            random_map=losses.RandomMultilinearMap(FEATURES, CLASSES, width) if random else None,
        )

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.loss.set_strength(strength)
        value: Tensor = self.loss(batch.source, batch.target, batch.source_logits, batch.target_logits)
        return value


class Disparity(nn.Module):
    """A second classifier, after a gradient reversal, that disagrees with the first on the target."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = losses.MarginDisparityLoss()
        self.reversal = GradientReversal()
        self.adversary = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.reversal.set_strength(strength)
        source, target = self.adversary(self.reversal(batch.source)), self.adversary(self.reversal(batch.target))
        value: Tensor = self.loss(batch.source_logits, source, batch.target_logits, target)
        return value


class TwoClassifiers(nn.Module):
    """A second classifier; both maximise their disagreement on the target, and the features minimise it."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = losses.ClassifierDiscrepancyLoss()
        self.reversal = GradientReversal()
        self.second = nn.Linear(FEATURES, CLASSES)

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.reversal.set_strength(strength)
        reversed_target = self.reversal(batch.target)
        differ: Tensor = self.loss(batch.classifier(reversed_target), self.second(reversed_target))
        return F.cross_entropy(self.second(batch.source), batch.labels) - differ


ADAPTERS = (
    Adapter("source-only", None),
    Adapter("MMD", discrepancy(losses.MMDLoss()), (0.3, 1.0, 3.0)),
    Adapter("MMD, unbiased", discrepancy(losses.MMDLoss(estimator="unbiased")), (0.3, 1.0, 3.0)),
    Adapter("MMD, random features", discrepancy(losses.RandomFeatureMMDLoss(n_features=100)), (0.3, 1.0, 3.0)),
    Adapter("joint MMD", joint(losses.JointMMDLoss()), (0.3, 1.0, 3.0)),
    Adapter("local MMD", by_class(losses.LocalMMDLoss()), (0.3, 1.0, 3.0)),
    Adapter("contrastive domain", by_class(losses.ContrastiveDomainDiscrepancyLoss()), (0.1, 0.3, 1.0)),
    Adapter("CORAL", discrepancy(losses.CORALLoss()), (10.0, 100.0, 1000.0)),
    Adapter("CORAL with means", discrepancy(losses.CORALLoss(match_mean=True)), (10.0, 100.0, 1000.0)),
    Adapter("central moments", discrepancy(losses.CentralMomentDiscrepancyLoss(), of=torch.sigmoid), (0.3, 1.0, 3.0)),
    Adapter("third moments", discrepancy(losses.HigherOrderMomentLoss(order=3), of=torch.tanh), (30.0, 100.0, 300.0)),
    Adapter("energy distance", discrepancy(losses.EnergyDistanceLoss()), (0.1, 0.3, 1.0)),
    Adapter("sliced Wasserstein", discrepancy(losses.SlicedWassersteinLoss()), (0.3, 1.0, 3.0)),
    Adapter(
        "Sinkhorn", discrepancy(losses.SinkhornDivergenceLoss(regularisation=10.0, iterations=5)), (0.01, 0.03, 0.1)
    ),
    Adapter("adversary", Adversary, (0.1, 0.3, 1.0)),
    Adapter("conditional adversary", lambda: ConditionalAdversary(entropy_weighting=False), (0.1, 0.3, 1.0)),
    Adapter(
        "conditional adversary, entropy, random map",
        lambda: ConditionalAdversary(entropy_weighting=True, random=True),
        (0.1, 0.3, 1.0),
    ),
    Adapter("margin disparity", Disparity, (0.03, 0.1, 0.3)),
    Adapter("two classifiers", TwoClassifiers, (0.3, 1.0, 3.0)),
    Adapter("feature norm, hard", norms(losses.AdaptiveFeatureNormLoss(variant="hard")), (0.001, 0.003, 0.01)),
    Adapter("feature norm, stepwise", norms(losses.AdaptiveFeatureNormLoss()), (0.001, 0.003, 0.01)),
    Adapter("class confusion", of_predictions(losses.MinimumClassConfusionLoss()), (0.3, 1.0, 3.0)),
    Adapter("nuclear norm", of_predictions(losses.BatchNuclearNormLoss()), (0.3, 1.0, 3.0)),
    Adapter("entropy", of_predictions(losses.EntropyLoss()), (0.01, 0.03, 0.1)),
    Adapter("information maximisation", of_predictions(losses.InformationMaximisationLoss()), (0.1, 0.3, 1.0)),
    Adapter("prototypes", prototypes(losses.PrototypeContrastiveLoss()), (0.03, 0.1, 0.3)),
    Adapter("source-only, batch norm", None, normalise="shared"),
    Adapter("adapted batch norm", None, normalise="shared", readapt=True),
    Adapter("domain-specific batch norm", None, normalise="by domain"),
    Adapter("target-supervised", None, labels_of="target"),
)


# The loop


@torch.no_grad()
def predict(network: Network, images: Tensor, domain: int) -> Tensor:
    """Logits in evaluation mode."""
    network.eval()
    return torch.cat([network(part, domain) for part in images.split(500)])


def train(
    adapter: Adapter, weight: float, source: Domain, target: Domain, *, steps: int, seed: int, batch: int = 64
) -> dict[str, float]:
    """One run: accuracy on the target's test rows, the score without labels, seconds of processor time."""
    begin = time.process_time()
    # The network is initialised before the term, and batches use their own generator, so all adapters share both.
    torch.manual_seed(seed)
    network = Network(normalise=adapter.normalise)
    term = None if adapter.build is None else adapter.build()
    modules = nn.ModuleList([network, *([term] if isinstance(term, nn.Module) else [])])
    optimiser = torch.optim.Adam(modules.parameters(), lr=2e-3, fused=True)
    draws = torch.Generator().manual_seed(seed)
    labelled, domain = (target, 1) if adapter.labels_of == "target" else (source, 0)
    both = term is not None or adapter.normalise == "by domain"
    for step in range(steps):
        network.train()
        rows = torch.randint(len(labelled.labels), (batch,), generator=draws)
        other = torch.randint(len(target.labels), (batch,), generator=draws)
        labels = labelled.labels[rows]
        if adapter.normalise is None and both:
            features = network.features(torch.cat([labelled.images[rows], target.images[other]]), 0)
            logits = network.classifier(features)
            (x, y), (a, b) = features.split(batch), logits.split(batch)
        else:
            x = network.features(labelled.images[rows], domain)
            a = network.classifier(x)
            if both:
                y = network.features(target.images[other], 1)
                b = network.classifier(y)
        loss = F.cross_entropy(a, labels)
        if term is not None:
            loss = loss + term(Batch(x, y, a, b, labels, network.classifier), weight * dann_ramp(step / steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    if adapter.readapt:
        adapt_batch_norm(network, target.images.split(500), forward=lambda model, images: model(images, 1))
    seconds = time.process_time() - begin
    score = information_maximisation_score(predict(network, target.images, 1)).item()
    right = predict(network, target.test_images, 1).argmax(1) == target.test_labels
    return {"accuracy": right.double().mean().item(), "score": score, "seconds": seconds}


# Results


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, as stored in the result file."""

    direction: str
    adapter: str
    weight: float
    seed: int
    accuracy: float
    score: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.direction, self.adapter, self.weight, self.seed


def choose(runs: Sequence[Run], direction: str, adapter: str) -> float:
    """The weight of the highest score at seed 0, without target labels."""
    tried = [run for run in runs if (run.direction, run.adapter, run.seed) == (direction, adapter, 0)]
    return max(tried, key=lambda run: run.score).weight


#: Maximum number of weights per row and direction.
TRIED = 7


def rung(weight: float, up: bool) -> float:
    """The next weight in the sequence ..., 0.1, 0.3, 1, 3, 10, ..."""
    first = f"{weight:.0e}"[0] == "1"
    return float(f"{weight * (3 if first else 10 / 3) if up else weight / (10 / 3 if first else 3):.0e}")


def plan(adapters: Sequence[Adapter], seeds: int, runs: list[Run]) -> tuple[str, Adapter, float, int] | None:
    """The next missing run: all weights at seed 0 first, then the selected one at the other seeds.

    If the best weight is at the edge of those tried, the next one beyond is tried, up to `TRIED` in total.
    """
    done = {run.key for run in runs}
    for seed in range(seeds):
        for adapter in adapters:
            for direction in DIRECTIONS:
                if seed == 0:
                    tried = sorted({w for d, name, w, s in done if (d, name, s) == (direction, adapter.name, 0)})
                    wanted = [weight for weight in adapter.weights if weight not in tried]
                    if not wanted and 1 < len(tried) < TRIED:
                        best = choose(runs, direction, adapter.name)
                        if best in (tried[0], tried[-1]):
                            wanted = [rung(best, up=best == tried[-1])]
                else:
                    wanted = [choose(runs, direction, adapter.name)]
                for weight in wanted:
                    if (direction, adapter.name, weight, seed) not in done:
                        return direction, adapter, weight, seed
    return None


def interval(values: Sequence[float]) -> float:
    """Half-width of Student's 95 % interval of the mean, for two to five values; NaN for one."""
    if len(values) < 2:
        return math.nan
    return STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table; accuracies in percent."""

    adapter: str
    weight: float
    accuracy: float
    half_width: float
    gain: float
    gain_half_width: float
    best_weight_accuracy: float
    seconds: float


def table(runs: Sequence[Run], direction: str) -> list[Row]:
    """The rows with runs, in the order of `ADAPTERS`; gains are differences per seed."""
    mine = [run for run in runs if run.direction == direction]
    by_seed: dict[str, dict[int, Run]] = {}
    for adapter in ADAPTERS:
        if any(run.adapter == adapter.name for run in mine):
            weight = choose(mine, direction, adapter.name)
            chosen = [run for run in mine if (run.adapter, run.weight) == (adapter.name, weight)]
            by_seed[adapter.name] = {run.seed: run for run in chosen}
    rows = []
    for adapter in ADAPTERS:
        if adapter.name not in by_seed:
            continue
        own, alone = by_seed[adapter.name], by_seed.get(adapter.baseline, {})
        accuracies = [100 * run.accuracy for run in own.values()]
        gains = [100 * (run.accuracy - alone[seed].accuracy) for seed, run in own.items() if seed in alone]
        rows.append(
            Row(
                adapter=adapter.name,
                weight=own[0].weight,
                accuracy=statistics.mean(accuracies),
                half_width=interval(accuracies),
                gain=statistics.mean(gains) if gains else math.nan,
                gain_half_width=interval(gains),
                best_weight_accuracy=max(
                    100 * run.accuracy for run in mine if (run.adapter, run.seed) == (adapter.name, 0)
                ),
                seconds=statistics.median(run.seconds for run in own.values()),
            )
        )
    return rows


def cells(row: Row) -> list[str]:
    """A row as text: adapter, weight, accuracy, gain, seconds."""
    adapter = next(a for a in ADAPTERS if a.name == row.adapter)
    gain = "" if adapter.name == adapter.baseline else f"{row.gain:+.1f} ± {row.gain_half_width:.1f}"
    weight = f"{row.weight:g}" if len(adapter.weights) > 1 else ""
    return [row.adapter, weight, f"{row.accuracy:.1f} ± {row.half_width:.1f}", gain, f"{row.seconds:.1f}"]


def as_text(rows: Sequence[Row]) -> str:
    """For the terminal."""
    widths = (44, 8, 14, 14, 6)
    lines = [("adapter", "weight", "accuracy, %", "gain", "s a run"), *(cells(row) for row in rows)]
    return "\n".join("".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def as_page(runs: Sequence[Run]) -> str:
    """For the documentation: one list-table per direction."""
    lines = []
    for direction, (source, target) in DIRECTIONS.items():
        lines += [f".. list-table:: {source.upper()} to {target.upper()}", "   :header-rows: 1", ""]
        header = ["adapter", "weight", "accuracy, %", "gain over source-only", "seconds a run"]
        for line in [header, *(cells(row) for row in table(runs, direction))]:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(line)]
        lines.append("")
    return "\n".join(lines)


def plot(runs: Sequence[Run], path: Path) -> None:
    """Accuracies with intervals, one panel per direction, with source-only and target-supervised as lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 5.2), sharey=True, layout="constrained")
    for axis, (direction, (source, target)) in zip(axes, DIRECTIONS.items()):
        rows = {row.adapter: row for row in table(runs, direction)}
        names = [a.name for a in ADAPTERS if a.name in rows]
        for name, colour in (("source-only", "#7a7a7a"), ("target-supervised", "#3a7d44")):
            if name in rows:
                axis.axvline(rows[name].accuracy, color=colour, linewidth=0.8, linestyle=":")
        for y, name in enumerate(reversed(names)):
            row, bare = rows[name], name.startswith(("source-only", "target-supervised"))
            colour = "#7a7a7a" if bare else "#1f4e9c"
            axis.errorbar(row.accuracy, y, xerr=row.half_width, fmt="o", color=colour, markersize=3.5, linewidth=1)
        axis.set_yticks(range(len(names)), list(reversed(names)))
        axis.set(title=f"{source.upper()} to {target.upper()}", xlabel="accuracy on the target, %", xlim=(0, 100))
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


# The command


def machine() -> dict[str, Any]:
    """The processor of the measured times."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"processor": model, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.digits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [adapter.name for adapter in ADAPTERS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of: {'; '.join(names)}")
    parser.add_argument("--steps", type=int, default=900, help="training steps a run (default: 900)")
    parser.add_argument("--seeds", type=int, choices=range(1, 6), default=3, help="runs a row (default: 3)")
    parser.add_argument("--test", type=int, default=1000, help="held-out rows of each domain (default: 1000)")
    parser.add_argument("--data", type=Path, help="the folder that holds uda/digits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    parser.add_argument("--resume", action="store_true", help="keep the runs that the result file has")
    parser.add_argument("--page", action="store_true", help="write table and plot of the result into docs; no training")
    given = parser.parse_args(arguments)

    if given.page:
        runs = [Run(**run) for run in json.loads(given.results.read_text(encoding="utf-8"))["runs"]]
        before, after = (PAGE.read_text(encoding="utf-8").split(mark) for mark in MARKS)
        PAGE.write_text(f"{before[0]}{MARKS[0]}\n\n{as_page(runs)}\n{MARKS[1]}{after[1]}", encoding="utf-8")
        plot(runs, PAGE.parent / "_static" / "digits.png")
        return 0

    root = given.data or Path(os.environ.get("MMDA_DATA", ROOT.parent / "shared" / "data"))
    files = {name: root / "uda" / "digits" / f"{name}.npz" for name in ("mnist", "usps")}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        print(f"digits: skipped, {' and '.join(missing)} not found; set MMDA_DATA or --data", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    # The files have the same order of digits, so each domain is split and sampled independently.
    domains = {name: load(path, test=given.test, seed=i) for i, (name, path) in enumerate(files.items())}
    budget = {"steps": given.steps, "seeds": given.seeds, "test": given.test}
    adapters = [adapter for adapter in ADAPTERS if given.only is None or adapter.name in given.only]
    runs = []
    if given.results.is_file() and (given.resume or given.only):
        found = json.loads(given.results.read_text(encoding="utf-8"))
        if found["budget"] != budget:
            parser.error(f"{given.results} was made with {found['budget']}, not {budget}")
        retrained = set() if given.resume else {adapter.name for adapter in adapters}
        runs = [Run(**run) for run in found["runs"] if run["adapter"] not in retrained]
    while (following := plan(adapters, given.seeds, runs)) is not None:
        direction, adapter, weight, seed = following
        source, target = (domains[name] for name in DIRECTIONS[direction])
        found = train(adapter, weight, source, target, steps=given.steps, seed=seed)
        runs.append(run := Run(direction, adapter.name, weight, seed, **found))
        print(f"{direction}, {adapter.name}, {weight:g}, {seed}: {run.accuracy:.3f}, {run.seconds:.1f} s", flush=True)
        result = {"machine": machine(), "budget": budget, "runs": [dataclasses.asdict(r) for r in runs]}
        given.results.parent.mkdir(parents=True, exist_ok=True)
        given.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for direction in DIRECTIONS:
        print(f"\n{direction}\n{as_text(table(runs, direction))}")
    print(f"\n{len(runs)} runs, {sum(run.seconds for run in runs) / 60:.1f} minutes of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
