"""Kernels of a user beside the built-in Gaussian: ``python -m benchmarks.own_kernels``.

Forward and backward of ``mmd_loss`` (last row: ``energy_distance_loss``), 2,048 rows per sample, float32, in processor
time of one thread. The kernels take turns in one process; figures are medians of the rounds, and ``ratio`` is to the
built-in Gaussian with five scales. ``megabytes`` is the rise of the process's peak memory in the first step, gradients
of the inputs included, in a process of its own, at 256 features.

    python -m benchmarks.own_kernels --json FILE
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.conditions import processor, rows
from benchmarks.worker import forget_peak, status
from mmda.kernels import Gaussian, Kernel, Laplacian
from mmda.losses import energy_distance_loss, mmd_loss

ROWS, WIDTHS = 2048, (64, 256)


def five(squared: Tensor, bandwidth: Tensor) -> Tensor:
    q = squared / (2 * bandwidth * bandwidth)
    total = torch.exp(-4 * q)
    for scale in (0.5, 1.0, 2.0, 4.0):
        total = total + torch.exp(-q / scale)
    return total / 5


def one(squared: Tensor, bandwidth: Tensor) -> Tensor:
    return torch.exp(-squared / (2 * bandwidth * bandwidth))


def laplacian(squared: Tensor, bandwidth: Tensor) -> Tensor:
    return torch.exp(-squared.clamp(min=1e-12).sqrt() / bandwidth)


def matern(squared: Tensor, bandwidth: Tensor) -> Tensor:
    r = (3 * squared.clamp(min=1e-12)).sqrt() / bandwidth
    return (1 + r) * torch.exp(-r)


def both(squared: Tensor, bandwidth: Tensor) -> Tensor:
    return (Gaussian(1.0).evaluate(squared, bandwidth) + Laplacian(1.0).evaluate(squared, bandwidth)) / 2


def branch(squared: Tensor, bandwidth: Tensor) -> Tensor:
    """Reads values, so that it is called on every tile."""
    return one(squared, bandwidth) if bool((squared >= 0).all()) else squared * torch.nan


class Own(Gaussian):
    """A subclass with a formula of its own."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(16.0)
        self.formula = formula

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return self.formula(squared, bandwidth)


class Inherited(Gaussian):
    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return super().evaluate(squared, bandwidth)


class Plain:
    at_zero = 1.0

    def settle(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        return rows.new_full((), 16.0)

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return one(squared, bandwidth)


def kernels() -> dict[str, Kernel | None]:
    """By name; None: the energy distance with an exponent of 1.3."""
    return {
        "built-in Gaussian, five scales": Gaussian(16.0),
        "five exponentials": Own(five),
        "super().evaluate, five scales": Inherited(16.0),
        "one exponential": Own(one),
        "one exponential, a plain object": Plain(),
        "one exponential after a branch on the values": Own(branch),
        "Laplacian, written out": Own(laplacian),
        "Matern 3/2": Own(matern),
        "sum of the built-in Gaussian and Laplacian": Own(both),
        "energy distance, exponent 1.3": None,
    }


def step(kernel: Kernel | None, x: Tensor, y: Tensor) -> Tensor:
    x.grad = y.grad = None
    value = energy_distance_loss(x, y, exponent=1.3) if kernel is None else mmd_loss(x, y, kernel=kernel)
    value.backward()
    return value.detach()


def samples(n: int, width: int) -> tuple[Tensor, Tensor]:
    return rows(n, width), (rows(n, width, 1).detach() + 0.1).requires_grad_()


def memory(name: str) -> float:
    """Rise of the peak in the first step at the largest width, in MB, after a step with few rows."""
    kernel = kernels()[name]
    step(kernel, *samples(600, WIDTHS[-1]))
    x, y = samples(ROWS, WIDTHS[-1])
    forget_peak()
    before = status("VmRSS")
    step(kernel, x, y)
    return status("VmHWM") - before


def times(rounds: int, width: int) -> dict[str, list[float]]:
    made, (x, y) = kernels(), samples(ROWS, width)
    found: dict[str, list[float]] = {name: [] for name in made}
    for kernel in made.values():
        step(kernel, x, y)
    for _ in range(rounds):
        for name, kernel in made.items():
            begin = time.process_time()
            step(kernel, x, y)
            found[name].append(time.process_time() - begin)
    return found


def measure(rounds: int) -> list[dict[str, Any]]:
    by_width = {width: times(rounds, width) for width in WIDTHS}
    table = []
    for name in kernels():
        row: dict[str, Any] = {"kernel": name}
        for width, found in by_width.items():
            ours, base = (statistics.median(found[key]) for key in (name, next(iter(found))))
            row[f"milliseconds_{width}"], row[f"ratio_{width}"] = round(1e3 * ours, 1), round(ours / base, 2)
        command = [sys.executable, "-m", "benchmarks.own_kernels", "--memory", name]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row[f"megabytes_{WIDTHS[-1]}"] = round(float(answer.stdout), 1)
        table.append(row)
        print(json.dumps(row), flush=True)
    return table


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_kernels", description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory is not None:
        print(memory(given.memory))
        return
    before = os.getloadavg()
    table = measure(given.rounds)
    figures = {
        "processor": processor(),
        "torch": torch.__version__,
        "threads": 1,
        "rounds": given.rounds,
        "load": {"before": before, "after": os.getloadavg(), "cores": os.cpu_count()},
        "rows": table,
    }
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
