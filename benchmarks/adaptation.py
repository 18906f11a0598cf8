"""Every adapter on features of four data sets, one harness: ``python -m benchmarks.adaptation``.

Twelve transfers: MNIST and USPS digits (pixels), Office-Caltech10 on SURF counts and on the features of a small
network, Amazon reviews (tf-idf). Features of both domains are standardised together and brought to 128 principal
directions; a hidden layer of 64 and a linear classifier are trained, and rows differ in one term, whose strength rises
over the steps by ``mmda.schedules.dann_ramp``. The closed-form rows move the source's features before the same
training. A row's weight is chosen by ``mmda.validators.information_maximisation_score`` on the target's rows at seed 0,
without a label; beside it stands what the best of the weights by the labels gave (the oracle).

    python -m benchmarks.adaptation               # seed by seed: everything the result lacks
    python -m benchmarks.adaptation --page        # write docs/results/adaptation.csv; no training

The data is read from ``uda`` under ``$MMDA_DATA`` or ``../shared/data`` beside the checkout (digits and
Office-Caltech10 as ``benchmarks.digits`` and ``benchmarks.office`` have them; ``amazon_reviews/<domain>/`` with
``{positive,negative}.parsed``, raw text in ``<review>`` tags). Needs scikit-learn and scipy (``pip
install "torch-mmda[bench]"``).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import office
from benchmarks.digits import (
    ROOT,
    Batch,
    Term,
    by_class,
    discrepancy,
    joint,
    machine,
    norms,
    of_predictions,
    prototypes,
)
from benchmarks.digits import load as load_digits
from mmda import losses
from mmda.layers import DomainDiscriminator, GradientReversal
from mmda.linear import CORALMap, SubspaceAlignment, Whitening
from mmda.schedules import dann_ramp
from mmda.validators import information_maximisation_score

RESULTS = ROOT / "benchmarks" / "results" / "adaptation.json"
PAGE = ROOT / "docs" / "results" / "adaptation.csv"
HIDDEN = 64

TRANSFERS = (
    ("digits", "mnist", "usps"),
    ("digits", "usps", "mnist"),
    ("surf", "amazon", "caltech"),
    ("surf", "caltech", "dslr"),
    ("surf", "dslr", "webcam"),
    ("surf", "webcam", "amazon"),
    ("effnetlite0", "caltech", "amazon"),
    ("effnetlite0", "webcam", "caltech"),
    ("reviews", "books", "kitchen"),
    ("reviews", "kitchen", "dvd"),
    ("reviews", "dvd", "electronics"),
    ("reviews", "electronics", "books"),
)


# Data


def reviews(path: Path) -> list[str]:
    """The texts between ``<review_text>`` tags, or else between ``<review>`` tags."""
    raw = path.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"<review_text>(.*?)</review_text>", raw, re.DOTALL)
    return found or re.findall(r"<review>(.*?)</review>", raw, re.DOTALL)


def read(root: Path, kind: str, source: str, target: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of the source, then of the target; the target's labels are for the printed accuracy."""
    if kind == "digits":
        both = [load_digits(root / "digits" / f"{name}.npz", test=0, seed=i) for i, name in enumerate((source, target))]
        (x, a), (y, b) = ((d.images.flatten(1)[:2000], d.labels[:2000]) for d in both)
        return x, a, y, b
    if kind == "reviews":
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts, labels = [], []
        for domain in (source, target):
            for label, name in enumerate(("negative", "positive")):
                found = reviews(root / "amazon_reviews" / domain / f"{name}.parsed")
                texts += found
                labels += [label] * len(found)
        counts = TfidfVectorizer(sublinear_tf=True, min_df=3, max_features=5000).fit_transform(texts)
        rows = TruncatedSVD(200, random_state=0).fit_transform(counts).astype(np.float32)
        n = len(texts) // 2
        x, y = torch.from_numpy(rows).split([n, len(texts) - n])
        a, b = torch.tensor(labels).split([n, len(texts) - n])
        return x, a, y, b
    (x, a), (y, b) = (office.load(root, kind, domain) for domain in (source, target))
    return x, a, y, b


# Rows: a term beside the source's cross-entropy, or a map of the features before


class Adversary(nn.Module):
    """A discriminator, or a critic, that learns at full rate; the strength is that of the reversal."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.loss.set_strength(strength)  # type: ignore[operator]
        logits = ()
        if isinstance(self.loss, losses.ConditionalAdversarialLoss):
            logits = (batch.source_logits, batch.target_logits)
        value: Tensor = self.loss(batch.source, batch.target, *logits)
        return value


class SecondClassifier(nn.Module):
    """A classifier behind a reversal: of margin disparity, or of classifier discrepancy."""

    def __init__(self, classes: int, *, margin: bool) -> None:
        super().__init__()
        self.reversal = GradientReversal()
        hidden = nn.Sequential(nn.Linear(HIDDEN, 64), nn.ReLU(), nn.Linear(64, classes))
        self.second, self.margin = hidden if margin else nn.Linear(HIDDEN, classes), margin

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.reversal.set_strength(strength)
        target = self.reversal(batch.target)
        if self.margin:
            mine, other = self.second(self.reversal(batch.source)), self.second(target)
            value: Tensor = losses.margin_disparity_loss(batch.source_logits, mine, batch.target_logits, other)
            return value
        differ = losses.classifier_discrepancy_loss(batch.classifier(target), self.second(target))
        return F.cross_entropy(self.second(batch.source), batch.labels) - differ


def conditional(classes: int) -> Term:
    return Adversary(losses.ConditionalAdversarialLoss(DomainDiscriminator(HIDDEN * classes, hidden=[64])))


def critic(classes: int) -> Term:
    net = nn.Sequential(nn.Linear(HIDDEN, 64), nn.ReLU(), nn.Linear(64, 1))
    return Adversary(losses.WassersteinCriticLoss(net, penalty=10.0))


def transport(batch: Batch, strength: float) -> Tensor:
    """Joint transport of features and labels, in units of the mean squared distance of features."""
    scale = torch.cdist(batch.source.detach(), batch.target.detach()).square().mean().clamp(min=1e-6).item()
    value = losses.joint_transport_loss(
        batch.source,
        batch.target,
        batch.labels,
        batch.target_logits,
        feature_weight=1 / scale,
        regularisation=0.1,
        iterations=20,
    )
    return strength * value


def smooth(batch: Batch, strength: float) -> Tensor:
    """Predictions that a small move of the features does not change (VAT, here from the features on)."""
    move = losses.virtual_adversarial_perturbation(batch.classifier, batch.target.detach(), logits=batch.target_logits)
    return strength * losses.virtual_adversarial_loss(batch.target_logits, batch.classifier(batch.target + move))


def self_training(batch: Batch, strength: float) -> Tensor:
    """Cross-entropy with the target's own labels, by their confidence."""
    sure, labels = batch.pseudo.max(1)
    return strength * losses.self_training_loss(batch.target_logits, labels, confidence=sure)


def of_any(build: Callable[[], Term]) -> Callable[[int], Term]:
    """A term that does not ask for the number of classes."""
    return lambda classes: build()


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: its term, the weights to choose from, or a map of both domains' features."""

    name: str
    build: Callable[[int], Term] | None = None
    weights: tuple[float, ...] = (1.0,)
    move: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


def coral_map(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return CORALMap(ridge=0.1).fit(x, y)(x), y


def whitening(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each domain with mean 0 and covariance I, by itself."""
    return Whitening(ridge=0.1).fit(x)(x), Whitening(ridge=0.1).fit(y)(y)


def means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each domain with mean 0 and variance 1, by itself."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6), (y - y.mean(0)) / y.std(0).clamp(min=1e-6)


def subspace(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    maps = SubspaceAlignment(40).fit(x, y)
    return maps.map_source(x), maps.map_target(y)


ONE = (0.3, 1.0, 3.0)
LOW = (0.03, 0.1, 0.3)
ROWS = (
    Row("source-only"),
    Row("standardised by domain", move=means),
    Row("whitened by domain", move=whitening),
    Row("CORAL map", move=coral_map),
    Row("subspace alignment", move=subspace),
    Row("MMD", of_any(discrepancy(losses.MMDLoss())), ONE),
    Row("MMD, unbiased", of_any(discrepancy(losses.MMDLoss(estimator="unbiased"))), ONE),
    Row("MMD, polynomial kernel", of_any(discrepancy(losses.PolynomialMMDLoss())), LOW),
    Row("MMD, random features", of_any(discrepancy(losses.RandomFeatureMMDLoss(n_features=100))), ONE),
    Row("joint MMD", of_any(joint(losses.JointMMDLoss())), ONE),
    Row("local MMD", of_any(by_class(losses.LocalMMDLoss())), ONE),
    Row("contrastive domain", of_any(by_class(losses.ContrastiveDomainDiscrepancyLoss())), (0.1, 0.3, 1.0)),
    Row("CORAL", of_any(discrepancy(losses.CORALLoss())), (1.0, 10.0, 100.0)),
    Row("central moments", of_any(discrepancy(losses.CentralMomentDiscrepancyLoss(), of=torch.sigmoid)), ONE),
    Row(
        "third moments", of_any(discrepancy(losses.HigherOrderMomentLoss(order=3), of=torch.tanh)), (10.0, 30.0, 100.0)
    ),
    Row("energy distance", of_any(discrepancy(losses.EnergyDistanceLoss())), (0.1, 0.3, 1.0)),
    Row("sliced Wasserstein", of_any(discrepancy(losses.SlicedWassersteinLoss())), ONE),
    Row(
        "Sinkhorn",
        of_any(discrepancy(losses.SinkhornDivergenceLoss(regularisation=10.0, iterations=5))),
        (0.01, 0.03, 0.1),
    ),
    Row("joint transport", lambda classes: transport, (0.1, 0.3, 1.0)),
    Row("adversary", lambda c: Adversary(losses.DomainAdversarialLoss(DomainDiscriminator(HIDDEN, hidden=[64]))), LOW),
    Row("conditional adversary", conditional, LOW),
    Row("Wasserstein critic", critic, LOW),
    Row("margin disparity", lambda c: SecondClassifier(c, margin=True), LOW),
    Row("two classifiers", lambda c: SecondClassifier(c, margin=False), (0.1, 0.3, 1.0)),
    Row("spectral penalty", of_any(discrepancy(losses.BatchSpectralPenaltyLoss())), (1e-5, 1e-4, 1e-3)),
    Row("feature norm, stepwise", of_any(norms(losses.AdaptiveFeatureNormLoss())), (0.001, 0.003, 0.01)),
    Row("class confusion", of_any(of_predictions(losses.MinimumClassConfusionLoss())), ONE),
    Row("nuclear norm", of_any(of_predictions(losses.BatchNuclearNormLoss())), ONE),
    Row("entropy", of_any(of_predictions(losses.EntropyLoss())), LOW),
    Row("information maximisation", of_any(of_predictions(losses.InformationMaximisationLoss())), (0.1, 0.3, 1.0)),
    Row("self-training", lambda classes: self_training, (0.1, 0.3, 1.0)),
    Row("virtual adversarial", lambda classes: smooth, (0.1, 0.3, 1.0)),
    Row("prototypes", of_any(prototypes(losses.PrototypeContrastiveLoss())), LOW),
)


# The loop


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, as the result file holds it."""

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


def train(
    x: Tensor, labels: Tensor, y: Tensor, *, row: Row, weight: float, steps: int, seed: int, batch: int = 64
) -> Tensor:
    """Logits of the target's rows after training; of the target, features alone are read."""
    classes = int(labels.max()) + 1
    if row.move is not None:
        x, y = row.move(x, y)
        size = torch.cat([x, y]).std()
        x, y = x / size, y / size
    torch.manual_seed(seed)
    encoder, classifier = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU()), nn.Linear(HIDDEN, classes)
    term = None if row.build is None else row.build(classes)
    modules = nn.ModuleList([encoder, classifier, *([term] if isinstance(term, nn.Module) else [])])
    optimiser = torch.optim.Adam(modules.parameters(), lr=2e-3, fused=True)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        mine, other = (torch.randint(len(rows), (batch,), generator=draws) for rows in (x, y))
        if term is None:
            loss = F.cross_entropy(classifier(encoder(x[mine])), labels[mine])
        else:
            features = encoder(torch.cat([x[mine], y[other]]))
            (source, target), (a, b) = features.split(batch), classifier(features).split(batch)
            value = term(Batch(source, target, a, b, labels[mine], classifier), weight * dann_ramp(step / steps))
            loss = F.cross_entropy(a, labels[mine]) + value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        logits: Tensor = classifier(encoder(y))
    return logits


def chosen(runs: Sequence[Run], cell: tuple[str, str, str, str], *, oracle: bool = False) -> list[Run]:
    """The runs of a cell with the weight of the highest score at seed 0, or of the highest accuracy there."""
    mine = [r for r in runs if r.cell == cell]
    first = [r for r in mine if r.seed == 0]
    if not first:
        return []
    best = max(first, key=lambda r: r.accuracy if oracle else r.score)
    return [r for r in mine if r.weight == best.weight and (not oracle or r.seed == 0)]


def table(runs: Sequence[Run]) -> list[list[str]]:
    """A line a row: mean gain over the source alone in points a kind of data and in all, transfers hurt, the oracle."""
    kinds = list(dict.fromkeys(kind for kind, *_ in TRANSFERS))
    lines = [["adapter", *kinds, "mean gain", "transfers that lose", "gain with the best weight, seed 0"]]
    for row in ROWS:
        gains: dict[str, list[float]] = {kind: [] for kind in kinds}
        best = []
        for transfer in TRANSFERS:
            alone = {r.seed: r.accuracy for r in chosen(runs, (*transfer, "source-only"))}
            found = chosen(runs, (*transfer, row.name))
            both = [100 * (r.accuracy - alone[r.seed]) for r in found if r.seed in alone]
            if both:
                gains[transfer[0]].append(statistics.mean(both))
                top = chosen(runs, (*transfer, row.name), oracle=True)[0]
                best.append(100 * (top.accuracy - alone[0]))
        every = [gain for each in gains.values() for gain in each]
        if len(every) == len(TRANSFERS):
            mean = [f"{statistics.mean(each):+.1f}" for each in (*gains.values(), every)]
            lines.append([row.name, *mean, str(sum(g < 0 for g in every)), f"{statistics.mean(best):+.1f}"])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=150, help="training steps a run (default: 150)")
    parser.add_argument("--seeds", type=int, default=5, help="runs a cell (default: 5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the rows")
    parser.add_argument("--data", type=Path, help="the folder that holds uda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    parser.add_argument("--page", action="store_true", help="write the table of the result into docs; no training")
    given = parser.parse_args(arguments)
    runs: list[Run] = []
    if given.results.is_file():
        found = json.loads(given.results.read_text(encoding="utf-8"))
        if found["budget"]["steps"] != given.steps:
            parser.error(f"{given.results} was made with {found['budget']['steps']} steps")
        runs = [Run(**run) for run in found["runs"]]
    if given.page:
        with PAGE.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(table(runs))
        return 0
    root = (given.data or Path(os.environ.get("MMDA_DATA", ROOT.parent / "shared" / "data"))) / "uda"
    if not (root / "amazon_reviews").is_dir():
        print(f"adaptation: skipped, {root} not found; set MMDA_DATA or --data", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    rows = [row for row in ROWS if given.only is None or row.name in given.only]
    features: dict[tuple[str, str, str], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    for transfer in TRANSFERS:
        x, labels, y, truth = read(root, *transfer)
        x, y = office.pooled_directions(x, y)
        features[transfer] = x, labels, y, truth
    done = {(r.cell, r.weight, r.seed) for r in runs}
    for seed in range(given.seeds):
        for transfer in TRANSFERS:
            x, labels, y, truth = features[transfer]
            for row in rows:
                cell = (*transfer, row.name)
                weights = row.weights if seed == 0 else (chosen(runs, cell)[0].weight,)
                for weight in weights:
                    if (cell, weight, seed) in done:
                        continue
                    begin = time.process_time()
                    logits = train(x, labels, y, row=row, weight=weight, steps=given.steps, seed=seed)
                    seconds = time.process_time() - begin
                    score = information_maximisation_score(logits).item()
                    accuracy = (logits.argmax(1) == truth).double().mean().item()
                    runs.append(Run(*cell, weight, seed, round(accuracy, 5), round(score, 5), round(seconds, 3)))
            budget = {"steps": given.steps, "seeds": seed + 1}
            result = {"machine": machine(), "budget": budget, "runs": [dataclasses.asdict(r) for r in runs]}
            given.results.parent.mkdir(parents=True, exist_ok=True)
            given.results.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
            print(seed, *transfer, f"{sum(r.seconds for r in runs):.0f} s of processor time", flush=True)
    for line in table(runs):
        print("".join(cell.ljust(26 if i == 0 else 14) for i, cell in enumerate(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
