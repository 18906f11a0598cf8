"""Losses in the conditions of training beside what a user would write: ``python -m benchmarks.conditions``.

Masks, weights, several domains, half precision: a step is forward and backward, float32 unless said, of one thread and
in processor time. Ours and the alternative take turns inside one process, and a ratio is of the medians; with
``--before TREE`` an earlier checkout of this project takes its turn in a process of its own, a round of each in turn.

    python -m benchmarks.conditions
    python -m benchmarks.conditions --before ../earlier --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmda.kernels import FIVE_SCALES, Gaussian
from mmda.losses import (
    CORALLoss,
    MMDLoss,
    batch_nuclear_norm_loss,
    hsic_loss,
    info_nce_loss,
    joint_mmd_loss,
    mmd_loss,
    multi_domain_loss,
)

Step = Callable[[], Tensor]
KERNEL = Gaussian(16.0)


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gram(x: Tensor, y: Tensor) -> Tensor:
    """Five Gaussians, as a user writes them."""
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return sum((torch.exp(squared / (-2 * s * 256.0)) for s in FIVE_SCALES), start=torch.zeros(())) / len(FIVE_SCALES)


def domains(count: int, each: int, discrepancy: Any) -> tuple[Step, Step]:
    x = rows(count * each, 256)
    index = torch.arange(count).repeat(each)

    def loop() -> Tensor:
        parts = [x[index == k] for k in range(count)]
        return torch.stack([discrepancy(a, b) for a, b in combinations(parts, 2)]).mean()

    return lambda: multi_domain_loss(x, index, discrepancy=discrepancy, domains=count), loop


def cross_entropy(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    target = torch.arange(len(logits))
    if weight is None:
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    each = F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")
    return (each * weight).sum() / (2 * weight.sum())


def logits_of(x: Tensor, y: Tensor) -> Tensor:
    return F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.07


def contrast(n: int, what: str) -> tuple[Step, Step]:
    x, y = rows(n, 256), rows(n, 256, 1)
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(n, generator=generator) > 0.1
    weight = torch.randint(1, 4, (n,), generator=generator).float()
    negatives = (torch.rand(n, n, generator=generator) > 0.05) | torch.eye(n, dtype=torch.bool)
    if what == "mask":
        return (
            lambda: info_nce_loss(x, y, temperature=0.07, mask=mask),
            lambda: cross_entropy(logits_of(x[mask], y[mask])),
        )
    if what == "weights":
        counts = weight.log()
        eye = torch.eye(n)

        def weighted() -> Tensor:
            logits, target = logits_of(x, y), torch.arange(n)
            bias = counts * (1 - eye)
            each = F.cross_entropy(logits + bias, target, reduction="none")
            each = each + F.cross_entropy(logits.T + bias, target, reduction="none")
            return (each * weight).sum() / (2 * weight.sum())

        return lambda: info_nce_loss(x, y, temperature=0.07, weight=weight), weighted
    return (
        lambda: info_nce_loss(x, y, temperature=0.07, negative_mask=negatives),
        lambda: cross_entropy(logits_of(x, y).masked_fill(~negatives, -torch.inf)),
    )


def masked_mmd(n: int) -> tuple[Step, Step]:
    x, y = rows(n, 64), rows(n, 64, 1)
    mask = torch.arange(n) % 8 > 0
    return (
        lambda: mmd_loss(x, y, kernel=KERNEL, source_mask=mask, target_mask=mask),
        lambda: plain_mmd(gram(x[mask], x[mask]), gram(y[mask], y[mask]), gram(x[mask], y[mask])),
    )


def plain_mmd(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    return xx.mean() + yy.mean() - 2 * xy.mean()


def independence(n: int) -> tuple[Step, Step]:
    x, z = rows(n, 64), rows(n, 32, 1)

    def trace() -> Tensor:
        k, l = gram(x, x), gram(z, z)  # noqa: E741
        centred = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
        return (centred * l).sum() / n**2

    return lambda: hsic_loss(x, z, kernel=KERNEL), trace


def joint(n: int) -> tuple[Step, Step]:
    a, b, c, d = rows(n, 64), rows(n, 32, 1), rows(n, 64, 2), rows(n, 32, 3)
    return (
        lambda: joint_mmd_loss((a, b), (c, d), kernel=KERNEL),
        lambda: plain_mmd(gram(a, a) * gram(b, b), gram(c, c) * gram(d, d), gram(a, c) * gram(b, d)),
    )


def half(n: int) -> tuple[Step, Step]:
    x, y = (t.detach().bfloat16().requires_grad_() for t in (rows(n, 256), rows(n, 256, 1)))
    return lambda: info_nce_loss(x, y, temperature=0.07), lambda: cross_entropy(logits_of(x, y).float())


def nuclear(n: int) -> tuple[Step, Step]:
    x = rows(n, 31)
    return lambda: batch_nuclear_norm_loss(x), lambda: -torch.linalg.matrix_norm(x.softmax(1), "nuc") / n


MMD_MEDIAN, MMD_FIXED = MMDLoss(), MMDLoss(kernel=KERNEL)
#: By name: ours and the alternative, and what the alternative is.
ROWS: dict[str, tuple[Callable[[], tuple[Step, Step]], str]] = {
    "4 domains of 256 rows, median bandwidths": (lambda: domains(4, 256, MMD_MEDIAN), "loop over slices"),
    "4 domains of 256 rows, one bandwidth": (lambda: domains(4, 256, MMD_FIXED), "loop over slices"),
    "8 domains of 64 rows, one bandwidth": (lambda: domains(8, 64, MMD_FIXED), "loop over slices"),
    "4 domains of 256 rows, CORAL": (lambda: domains(4, 256, CORALLoss()), "loop over slices"),
    "InfoNCE, a mask, n = 256": (lambda: contrast(256, "mask"), "x[mask] and cross-entropy"),
    "InfoNCE, a mask, n = 1,024": (lambda: contrast(1024, "mask"), "x[mask] and cross-entropy"),
    "InfoNCE, weights, n = 256": (lambda: contrast(256, "weights"), "logits and cross-entropy"),
    "InfoNCE, weights, n = 1,024": (lambda: contrast(1024, "weights"), "logits and cross-entropy"),
    "InfoNCE, negative mask, n = 256": (lambda: contrast(256, "negatives"), "logits and cross-entropy"),
    "InfoNCE, negative mask, n = 1,024": (lambda: contrast(1024, "negatives"), "logits and cross-entropy"),
    "InfoNCE of bfloat16 features, n = 256": (lambda: half(256), "bfloat16 products"),
    "MMD with masks, n = 64": (lambda: masked_mmd(64), "x[mask], plain formula"),
    "HSIC, n = 64": (lambda: independence(64), "plain formula"),
    "HSIC, n = 512": (lambda: independence(512), "plain formula"),
    "joint MMD of two layers, n = 64": (lambda: joint(64), "plain formula"),
    "joint MMD of two layers, n = 512": (lambda: joint(512), "plain formula"),
    "batch nuclear norm, n = 64": (lambda: nuclear(64), "torch.linalg.matrix_norm"),
}


def turns(steps: tuple[Step, Step], seconds: float) -> list[float]:
    """Median seconds of each, taking turns for about so long."""
    for step in steps:
        step().backward()
    times: list[list[float]] = [[], []]
    end = time.process_time() + seconds
    while len(times[0]) < 3 or time.process_time() < end:
        for step, found in zip(steps, times):
            begin = time.process_time()
            step().backward()
            found.append(time.process_time() - begin)
    return [statistics.median(found) for found in times]


def serve(seconds: float) -> None:
    """A line of names in, a line of times out."""
    torch.set_num_threads(1)
    made: dict[str, tuple[Step, Step]] = {}
    for line in sys.stdin:
        name = line.rstrip("\n")
        made = {name: made[name] if name in made else ROWS[name][0]()}
        print(json.dumps(turns(made[name], seconds)), flush=True)


def measure(trees: dict[str, Path], rounds: int, seconds: float) -> dict[str, Any]:
    """Every row, in each tree in turn."""
    workers = {}
    for name, tree in trees.items():
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", "--seconds", str(seconds)]
        variables = dict(os.environ, PYTHONPATH=str(tree), OMP_NUM_THREADS="1")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        workers[name] = subprocess.Popen(command, env=variables, cwd=tree, text=True, **pipes)  # type: ignore[call-overload]
    figures: dict[str, Any] = {}
    for row, (_, alternative) in ROWS.items():
        found: dict[str, list[list[float]]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                worker.stdin.write(row + "\n")
                worker.stdin.flush()
                found[name].append(json.loads(worker.stdout.readline()))
        figures[row] = {"alternative": alternative}
        for name, times in found.items():
            ours, theirs = (statistics.median(pair[k] for pair in times) for k in (0, 1))
            figures[row][name] = {
                "ours_ms": round(1e3 * ours, 4),
                "alternative_ms": round(1e3 * theirs, 4),
                "ratio": round(statistics.median(pair[1] / pair[0] for pair in times), 3),
            }
        shown = ", ".join(f"{name} {figures[row][name]['ratio']:.2f}" for name in workers)
        print(f"{row:45} times the speed of the alternative: {shown}", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return figures


def processor() -> str:
    """As the system names it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditions", description=__doc__, formatter_class=form)
    parser.add_argument("--before", type=Path, help="an earlier checkout, built")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="a row, a round and a tree")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.seconds)
        return
    trees = {"now": Path(__file__).resolve().parent.parent}
    if given.before is not None:
        trees = {"before": given.before.resolve(), **trees}
    figures = {
        "processor": processor(),
        "torch": torch.__version__,
        "threads": 1,
        "rows": measure(trees, given.rounds, given.seconds),
    }
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
