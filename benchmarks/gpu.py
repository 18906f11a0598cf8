"""Losses on a GPU, compared with plain PyTorch: ``python -m benchmarks.gpu``.

Milliseconds of a step (forward and backward, float32 unless stated, matrix products in full float32 as PyTorch's
default), by the device's own events: the median of five after two that are not counted. Memory is the device's peak
during a step beyond what was allocated before it, gradients of the inputs included. "plain" is the textbook formula on
the full matrix of pairs, "plain, compiled" the same under ``torch.compile``.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json
    python -m benchmarks.gpu --small          # without 500,000 rows a side
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conditions import gram
from benchmarks.work import SCALES, TEMPERATURE, clip_shared, rows, samples, sigma, sigmoid_paper
from mmda._engine import fused
from mmda.kernels import Gaussian
from mmda.losses import (
    coral_loss,
    energy_distance_loss,
    info_nce_loss,
    mmd_loss,
    nt_xent_loss,
    sigmoid_contrastive_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_mmd(x: Tensor, y: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Five Gaussian kernels, biased, as usually written."""
    z, n = torch.cat((x, y)), x.shape[0]
    similar = gram(z, z, sigma(x.shape[1]) ** 2)
    if weights is None:
        return similar[:n, :n].mean() + similar[n:, n:].mean() - 2 * similar[:n, n:].mean()
    a = torch.cat((weights[0] / weights[0].sum(), -weights[1] / weights[1].sum()))
    return a @ similar @ a


def plain_energy(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).mean() - (torch.cdist(x, x).mean() + torch.cdist(y, y).mean()) / 2


def plain_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    z = F.normalize(torch.cat((a, b)), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    n = a.shape[0]
    return F.cross_entropy(logits, torch.arange(2 * n, device=a.device).roll(n))


def mmd(x: Tensor, y: Tensor) -> Tensor:
    return mmd_loss(x, y, kernel=Gaussian(sigma(x.shape[1]), scales=SCALES))


@contextlib.contextmanager
def in_operations() -> Iterator[None]:
    """Without the fused programs."""
    os.environ["MMDA_FUSED"] = "0"
    fused.device_serves.cache_clear()
    try:
        yield
    finally:
        del os.environ["MMDA_FUSED"]
        fused.device_serves.cache_clear()


class Row:
    """A kind of work at one size: contestants by name."""

    def __init__(self, kind: str, n: int, d: int, inputs: tuple[Tensor, Tensor], **losses: Loss) -> None:
        self.kind, self.n, self.d, self.inputs = kind, n, d, inputs
        self.losses = {name.replace("_", " "): loss for name, loss in losses.items()}
        for name in [name for name in self.losses if name.startswith("plain")]:
            self.losses[f"{name}, compiled"] = torch.compile(self.losses[name])  # type: ignore[assignment]


def measure(loss: Loss, inputs: tuple[Tensor, Tensor], repeats: int) -> dict[str, Any]:
    def step() -> Tensor:
        for tensor in inputs:
            tensor.grad = None
        value = loss(*inputs)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    try:
        value = step()
        if repeats > 1:
            step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, spent = torch.cuda.memory_allocated(), []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize()
            spent.append(begin.elapsed_time(end))
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20
        return {"milliseconds": round(statistics.median(spent), 3), "MiB": round(memory, 1), "value": value.item()}
    except torch.cuda.OutOfMemoryError:
        return {"error": "out of memory"}
    finally:
        torch.cuda.empty_cache()


def kernel_row(n: int, d: int, *, plain: bool) -> Row:
    losses: dict[str, Loss] = {"ours": mmd, "ours_in_operations": operations(mmd)}
    return Row("MMD, five Gaussians", n, d, samples(n, d, CUDA), **losses, **({"plain": plain_mmd} if plain else {}))


def operations(loss: Loss) -> Loss:
    def run(x: Tensor, y: Tensor) -> Tensor:
        with in_operations():
            return loss(x, y)

    return run


CUDA = torch.device("cuda")


def table(*, large: bool) -> Iterator[Row]:
    for n, d in ((1024, 64), (4096, 64), (16384, 64), (4096, 128), (16384, 128), (4096, 256), (4096, 512)):
        yield kernel_row(n, d, plain=n < 16384)
    yield kernel_row(50_000, 64, plain=False)
    x, y = samples(4096, 64, CUDA)
    a, b = (torch.rand(4096, device=CUDA, generator=torch.Generator(CUDA).manual_seed(s)) + 0.5 for s in (0, 1))
    yield Row(
        "MMD, row weights",
        4096,
        64,
        (x, y),
        ours=lambda x, y: mmd_loss(x, y, kernel=Gaussian(sigma(64), scales=SCALES), source_weight=a, target_weight=b),
        plain=lambda x, y: plain_mmd(x, y, (a, b)),
    )
    yield Row("energy distance", 4096, 64, (x, y), ours=energy_distance_loss, plain=plain_energy)
    yield Row("CORAL", 4096, 256, samples(4096, 256, CUDA), ours=coral_loss, plain=plain_coral)
    for n in (1024, 4096, 16384, 32768):
        pairs = rows(n, 256, CUDA)
        yield Row(
            "InfoNCE, both directions",
            n,
            256,
            pairs,
            ours=lambda a, b: info_nce_loss(a, b, temperature=TEMPERATURE, normalize=False),
            plain=clip_shared(n, CUDA),
        )
    pairs = rows(4096, 256, CUDA)
    yield Row(
        "NT-Xent", 4096, 256, pairs, ours=lambda a, b: nt_xent_loss(a, b, temperature=TEMPERATURE), plain=plain_nt_xent
    )
    yield Row(
        "sigmoid loss",
        4096,
        256,
        pairs,
        ours=lambda a, b: sigmoid_contrastive_loss(a, b, temperature=0.1, bias=-10.0, normalize=False),
        plain=sigmoid_paper(4096, CUDA),
    )
    half = tuple(t.detach().bfloat16().requires_grad_() for t in pairs)
    yield Row(
        "InfoNCE, rows in bfloat16",
        4096,
        256,
        (half[0], half[1]),
        ours=lambda a, b: info_nce_loss(a, b, temperature=TEMPERATURE, normalize=False),
        plain=clip_shared(4096, CUDA),
    )
    if large:
        yield Row("MMD, five Gaussians", 500_000, 64, samples(500_000, 64, CUDA), ours=mmd)


def plain_coral(x: Tensor, y: Tensor) -> Tensor:
    return (torch.cov(x.T) - torch.cov(y.T)).square().sum() / (4 * x.shape[1] ** 2)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="without 500,000 rows a side")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing to measure", file=sys.stderr)
        return 1
    facts = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(facts)
    found = []
    for row in table(large=not given.small):
        torch.compiler.reset()
        repeats = 1 if row.n >= 500_000 else 5
        results = {name: measure(loss, row.inputs, repeats) for name, loss in row.losses.items()}
        found.append({"kind": row.kind, "n": row.n, "d": row.d, "results": results})
        print(f"{row.kind}, n = m = {row.n:,}, d = {row.d}")
        for name, result in results.items():
            text = result.get("error") or f"{result['milliseconds']:>10.2f} ms {result['MiB']:>9.1f} MiB"
            print(f"    {name:<22} {text}   {result.get('value', '')}", flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps({"machine": facts, "table": found}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
