"""Peak memory by number of rows with masks and weights, ours and the dense formula: ``python -m benchmarks.memory``.

A step is forward and backward of two samples of n rows in float32, 64 features, an eighth of the rows masked and
weights of 1 to 3. Each number is the rise of the resident set's high-water mark in a process of its own, beyond inputs
and a first step of 64 rows. Dense formulas stop where they would take more than some 8 GB. Both values are compared
(terms of order one in float32).

    python -m benchmarks.memory            # writes benchmarks/results/memory.json and docs/_static/memory.svg
    python -m benchmarks.memory --plot     # draws the picture again
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conditions import KERNEL, gram, processor, rows
from mmda.losses import info_nce_loss, mmd_loss, sigmoid_contrastive_loss

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "memory.json", ROOT / "docs" / "_static" / "memory.svg"
WIDTH, SIZES = 64, (256, 512, 1024, 2048, 4096, 8192, 16384)
#: The largest n of each loss's dense formula.
DENSE = {"MMD, five kernels": 4096, "InfoNCE": 8192, "sigmoid loss": 8192}

Given = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(n: int) -> Given:
    """Rows of both samples, a mask and weights."""
    weight = torch.randint(1, 4, (n,), generator=torch.Generator().manual_seed(2)).float()
    return rows(n, WIDTH), rows(n, WIDTH, 1), torch.arange(n) % 8 > 0, weight


def dense_mmd(given: Given) -> Tensor:
    x, y, mask, weight = given
    share = mask * weight / (mask * weight).sum()
    sign = torch.cat([share, -share])
    z = torch.cat([x, y])
    return sign @ gram(z, z) @ sign


def _logits(given: Given, scale: float) -> tuple[Tensor, Tensor]:
    x, y, mask, weight = given
    x, y = (F.normalize(side[mask], dim=1) for side in (x, y))
    return x @ y.T * scale, weight[mask]


def dense_info_nce(given: Given) -> Tensor:
    logits, weight = _logits(given, 1 / 0.07)
    target = torch.arange(len(logits))
    each = sum(F.cross_entropy(one + weight.log(), target, reduction="none") for one in (logits, logits.T))
    return ((each + 2 * weight.log()) * weight).sum() / (2 * weight.sum())


def dense_sigmoid(given: Given) -> Tensor:
    logits, weight = _logits(given, 10.0)
    logits = logits - 10
    own = logits.diagonal()
    pairs = weight @ F.softplus(logits) @ weight
    partners = (weight * (F.softplus(-own) - F.softplus(own))).sum()  # of weight w: one positive, w - 1 negatives
    return (pairs + partners) / weight.sum()


LOSSES: dict[str, dict[str, Callable[[Given], Tensor]]] = {
    "MMD, five kernels": {
        "ours": lambda g: mmd_loss(
            *g[:2], kernel=KERNEL, source_mask=g[2], target_mask=g[2], source_weight=g[3], target_weight=g[3]
        ),
        "dense": dense_mmd,
    },
    "InfoNCE": {
        "ours": lambda g: info_nce_loss(*g[:2], temperature=0.07, mask=g[2], weight=g[3]),
        "dense": dense_info_nce,
    },
    "sigmoid loss": {
        "ours": lambda g: sigmoid_contrastive_loss(*g[:2], mask=g[2], weight=g[3]),
        "dense": dense_sigmoid,
    },
}


def measured(loss: str, form: str, n: int) -> dict[str, float]:
    """One step, in this process."""
    torch.set_num_threads(1)
    step = LOSSES[loss][form]
    step(inputs(64)).backward()
    given = inputs(n)
    for side in given[:2]:
        side.grad = torch.zeros_like(side)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    value = step(given)
    value.backward()
    seconds, peak = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"n": n, "megabytes": (peak - before) / 1024, "seconds": seconds, "value": float(value.detach())}


def plot(figures: dict[str, Any]) -> None:
    """Draw the three losses side by side, as the pictures beside it are drawn."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "mmda", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.9), layout="constrained", sharey=True)
    for axis, (loss, forms) in zip(axes, figures["losses"].items()):
        for (form, found), colour, marker in zip(forms.items(), ("#1f4e9c", "#c0641c"), "os"):
            size, memory = zip(*((one["n"], max(one["megabytes"], 0.1)) for one in found))
            axis.loglog(size, memory, color=colour, marker=marker, markersize=4, label=form)
        axis.set(xlabel="rows a side", title=loss)
    axes[0].set(ylabel="peak memory, MB")
    axes[0].legend(frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__, formatter_class=form)
    parser.add_argument("--plot", action="store_true", help="draw the picture from the written figures")
    parser.add_argument("--most", type=int, default=max(SIZES), help="rows a side; fewer than all write nothing")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one[0], given.one[1], int(given.one[2]))))
        return
    if not given.plot:
        losses: dict[str, dict[str, list[dict[str, float]]]] = {}
        for loss in LOSSES:
            losses[loss] = {"ours": [], "dense": []}
            for n in (n for n in SIZES if n <= given.most):
                values = []
                for name in ("ours", "dense")[: 1 + (n <= DENSE[loss])]:
                    command = [sys.executable, "-m", "benchmarks.memory", "--one", loss, name, str(n)]
                    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
                    found = json.loads(out)
                    losses[loss][name].append(found)
                    values.append(found["value"])
                    print(
                        f"{loss:18} {name:6} n = {n:6,} {found['megabytes']:9.1f} MB {found['seconds']:8.3f} s",
                        flush=True,
                    )
                assert all(math.isclose(value, values[0], rel_tol=1e-4, abs_tol=1e-6) for value in values), (
                    loss,
                    n,
                    values,
                )
        if given.most < max(SIZES):
            return
        content = {"processor": processor(), "torch": torch.__version__, "width": WIDTH, "losses": losses}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    plot(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
