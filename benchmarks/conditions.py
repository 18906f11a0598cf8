"""Losses under training conditions, compared with plain PyTorch code: ``python -m benchmarks.conditions``.

Masks, weights, several domains, half precision: a step is forward and backward (tests and retrieval: forward), float32
unless stated, in CPU time of one thread. Ours and the alternative alternate in one process; a ratio is that of the
medians, and that of the shortest times stands beside it, as other programs on the machine lengthen a median. With
``--before TREE`` an earlier checkout of this project runs in a separate process, in alternating rounds. ``--threads 2``
takes wall time with two threads, which needs a quiet machine. Rows beside POT and geomloss need these packages.

    python -m benchmarks.conditions                    # one to three minutes
    python -m benchmarks.conditions --only Sinkhorn
    python -m benchmarks.conditions --before ../earlier --json out.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
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
from mmda.layers import DomainDiscriminator, DomainSpecificBatchNorm1d
from mmda.layers.reversal import gradient_reversal
from mmda.losses import (
    CORALLoss,
    DomainAdversarialLoss,
    MMDLoss,
    batch_nuclear_norm_loss,
    hsic_loss,
    info_nce_loss,
    joint_mmd_loss,
    margin_disparity_loss,
    mmd_loss,
    multi_domain_loss,
    nt_xent_loss,
    sigmoid_contrastive_loss,
    sinkhorn_divergence_loss,
)
from mmda.two_sample import permutation_test

Step = Callable[[], Any]
KERNEL = Gaussian(16.0)


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gram(x: Tensor, y: Tensor, variance: float = 256.0) -> Tensor:
    """Five Gaussian kernels in plain PyTorch."""
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    kernels = (torch.exp(squared / (-2 * s * variance)) for s in FIVE_SCALES)
    return sum(kernels, start=torch.zeros(())) / len(FIVE_SCALES)


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

        def weighted() -> Tensor:
            logits, target = logits_of(x, y), torch.arange(n)
            each = F.cross_entropy(logits + counts, target, reduction="none")
            each = each + F.cross_entropy(logits.T + counts, target, reduction="none")
            return ((each + 2 * counts) * weight).sum() / (2 * weight.sum())

        return lambda: info_nce_loss(x, y, temperature=0.07, weight=weight), weighted
    if what == "negatives":
        return (
            lambda: info_nce_loss(x, y, temperature=0.07, negative_mask=negatives),
            lambda: cross_entropy(logits_of(x, y).masked_fill(~negatives, -torch.inf)),
        )
    labels = torch.randint(0, max(n // 4, 2), (n,), generator=generator)
    same = labels[:, None] == labels
    if what == "positives":
        return (
            lambda: info_nce_loss(x, y, temperature=0.07, positive_mask=same),
            lambda: (several(logits_of(x, y), same) + several(logits_of(x, y).T, same)) / 2,
        )
    bank, own = rows(4 * n, 256, 3).detach(), torch.eye(n, 4 * n, dtype=torch.bool)
    if what == "queue":
        return (
            lambda: info_nce_loss(x, bank, temperature=0.07, positive_mask=own, symmetric=False),
            lambda: several(logits_of(x, bank), own),
        )
    if what == "NT-Xent":
        return lambda: nt_xent_loss(x, y, positive_mask=same), lambda: plain_nt_xent(x, y, same)
    return lambda: sigmoid_contrastive_loss(x, y, mask=mask), lambda: plain_sigmoid(x[mask], y[mask])


def several(logits: Tensor, positive: Tensor) -> Tensor:
    """The mean over each row's positives."""
    return (logits.logsumexp(1) - (positive * logits).sum(1) / positive.sum(1)).mean()


def plain_nt_xent(x: Tensor, y: Tensor, same: Tensor) -> Tensor:
    z = F.normalize(torch.cat([x, y]), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / 0.5).masked_fill(itself, -torch.inf)
    positive = same.repeat(2, 2) & ~itself
    found = torch.where(positive, logits, 0).sum(1) / positive.sum(1)
    return (logits.logsumexp(1) - found).mean()


def plain_sigmoid(x: Tensor, y: Tensor) -> Tensor:
    logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.1 - 10
    return -F.logsigmoid((2 * torch.eye(len(x)) - 1) * logits).sum() / len(x)


def transport(n: int) -> tuple[Step, Step]:
    """Regularisation of 5 % of the largest cost; the plain loop stops where the marginals err by 1e-6."""
    x, y = rows(n, 64), rows(n, 64, 1)
    epsilon = 0.05 * float(torch.cdist(x, y).square().max().detach())

    def plain(a: Tensor, b: Tensor) -> Tensor:
        cost = torch.cdist(a, b).square()
        with torch.no_grad():
            k, level = -cost / epsilon, math.log(len(a))
            f = g = torch.zeros(len(a))
            for step in range(2000):
                f = level * -1 - (k + g).logsumexp(1)
                g = level * -1 - (k + f[:, None]).logsumexp(0)
                if step % 10 == 9 and float(((k + f[:, None] + g).exp().sum(1) - 1 / len(a)).abs().sum()) < 1e-6:
                    break
            plan = (k + f[:, None] + g).exp()
        # The envelope: the dual's value, with the gradient of the cost under the plan.
        dual = epsilon * ((f + level).mean() + (g + level).mean())
        moved = (plan * cost).sum()
        return dual + moved - moved.detach()

    return (
        lambda: sinkhorn_divergence_loss(x, y, regularisation=epsilon),
        lambda: plain(x, y) - (plain(x, x) + plain(y, y)) / 2,
    )


def transport_peer(n: int, peer: str) -> tuple[Step, Step]:
    """The same divergence by another library, as accurate as its settings here make it.

    Errors relative to double precision at n = 64, 256 and 1,024: ours at most 1e-6, POT with a tolerance of 1e-5 at
    most 6e-6, geomloss with a scaling of 0.9 from 4e-5 to 4e-3 (the cost is half of the squared distance).
    """
    x, y = rows(n, 64), rows(n, 64, 1)
    epsilon = 0.05 * float(torch.cdist(x, y).square().max().detach())
    if peer == "geomloss":
        from geomloss import SamplesLoss

        loss = SamplesLoss("sinkhorn", p=2, blur=math.sqrt(epsilon / 2), scaling=0.9, debias=True, backend="tensorized")
        other: Step = lambda: 2 * loss(x, y)  # noqa: E731
    else:
        import ot

        def plan(a: Tensor, b: Tensor) -> Any:
            how = {"reg": epsilon, "reg_type": "entropy", "grad": "envelope", "tol": 1e-5, "max_iter": 2000}
            return ot.solve(ot.dist(a, b), **how).value

        other = lambda: plan(x, y) - (plan(x, x) + plan(y, y)) / 2  # noqa: E731
    return lambda: sinkhorn_divergence_loss(x, y, regularisation=epsilon), other


def permuted(n: int, count: int) -> tuple[Step, Step]:
    """The unbiased test statistic of ``count`` relabellings, two samples of n rows; the loop is in float32."""
    x, y = rows(n, 64).detach(), rows(n, 64, 1).detach() + 0.1

    def loop() -> float:
        z = torch.cat([x, y])
        k = gram(z, z).fill_diagonal_(0)
        generator, found = torch.Generator().manual_seed(0), []
        for draw in range(count + 1):
            order = torch.randperm(2 * n, generator=generator) if draw else torch.arange(2 * n)
            sign = torch.ones(2 * n)
            sign[order[n:]] = -1
            within, across = (k @ (1 + sign) / 2) @ (1 + sign) / 2 + (k @ (1 - sign) / 2) @ (1 - sign) / 2, k.sum()
            found.append(within / (n * (n - 1)) - (across - within) / n**2)
        values = torch.stack(found)
        return float((values >= values[0]).float().mean())

    return lambda: permutation_test(x, y, kernel=KERNEL, permutations=count), loop


def retrieval(videos: int, clips: int) -> tuple[Step, Step]:
    """One sentence over a corpus of unit rows: the best ten videos, ours with a moment in each."""
    from mmda.models.mmcda import MMCDAConfig, build_mmcda
    from mmda.models.mmcda.corpus import Corpus

    model = build_mmcda(MMCDAConfig(video_width=64, query_width=64, hidden=64, joint=64)).eval()
    generator = torch.Generator().manual_seed(0)
    frames = F.normalize(torch.randn(videos * clips, 64, generator=generator), dim=1)
    edges = torch.arange(clips + 1, dtype=torch.float32)
    times = torch.stack([edges[:-1], edges[1:]], 1).repeat(videos, 1)
    blocks = [block.T.contiguous() for block in frames.split(256 * clips)]  # type: ignore[no-untyped-call]
    lengths = torch.full((videos,), clips)
    corpus = Corpus(model, [str(k) for k in range(videos)], lengths, blocks, torch.zeros(len(frames)), times)
    words = torch.randn(8, 64, generator=generator)

    @torch.no_grad()
    def plain() -> Any:
        query = model.embed_query(words.unsqueeze(0), torch.ones(1, 8, dtype=torch.bool))[1][0]
        return (frames @ query).view(videos, clips).topk(5).values.mean(1).topk(10)

    return lambda: corpus.rank(words), plain


def adversary(n: int) -> tuple[Step, Step]:
    """A step of DANN: reversal, a discriminator with one hidden layer, cross-entropy of both domains."""
    x, y = rows(n, 256), rows(n, 256, 1)
    network = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    ours, target = DomainAdversarialLoss(DomainDiscriminator(256, hidden=(256,))), torch.arange(2 * n) // n

    def plain() -> Tensor:
        logits = network(Reverse.apply(torch.cat([x, y]))).squeeze(1)  # type: ignore[no-untyped-call]
        return F.binary_cross_entropy_with_logits(logits, target.float())

    return lambda: ours(x, y), plain


class Reverse(torch.autograd.Function):
    """Gradient reversal as it is usually written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return -slopes[0]


def reversal(n: int) -> tuple[Step, Step]:
    x = rows(n, 256)
    return lambda: gradient_reversal(x).sum(), lambda: Reverse.apply(x).sum()  # type: ignore[no-untyped-call]


def own_kernel(n: int) -> tuple[Step, Step]:
    class Own(Gaussian):
        def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
            return super().evaluate(squared, bandwidth)

    x, y = rows(n, 64), rows(n, 64, 1)
    kernel = Own(16.0)
    return (
        lambda: mmd_loss(x, y, kernel=kernel),
        lambda: plain_mmd(gram(x, x), gram(y, y), gram(x, y)),
    )


def many_domains() -> tuple[Step, Step]:
    """32 domains of 64 rows beside one MMD of as many rows."""
    x, index = rows(2048, 256), torch.arange(32).repeat(64)
    return (
        lambda: multi_domain_loss(x, index, discrepancy=MMD_FIXED, domains=32),
        lambda: mmd_loss(x[:1024], x[1024:], kernel=KERNEL),
    )


def normalised(n: int) -> tuple[Step, Step]:
    x, domain = rows(n, 256), torch.arange(n) % 2
    ours = DomainSpecificBatchNorm1d(256, domains=2)
    theirs = torch.nn.ModuleList([torch.nn.BatchNorm1d(256) for _ in range(2)])

    def loop() -> Tensor:
        out = torch.empty_like(x)
        for k, norm in enumerate(theirs):
            out[domain == k] = norm(x[domain == k])
        return out.square().sum()

    return lambda: ours(x, domain).square().sum(), loop


def disparity(n: int) -> tuple[Step, Step]:
    logits = [rows(n, 31, k) for k in range(4)]

    def plain() -> Tensor:
        a, b, c, d = logits
        source = F.cross_entropy(b, a.argmax(1))
        p = d.softmax(1).gather(1, c.argmax(1, keepdim=True))
        return 4 * source - torch.log(1 - p + 1e-6).mean()

    return lambda: margin_disparity_loss(*logits), plain


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
#: By name: ours, the alternative, and a description of the alternative.
ROWS: dict[str, tuple[Callable[[], tuple[Step, Step]], str]] = {
    "4 domains of 256 rows, median bandwidths": (lambda: domains(4, 256, MMD_MEDIAN), "loop over slices"),
    "4 domains of 256 rows, one bandwidth": (lambda: domains(4, 256, MMD_FIXED), "loop over slices"),
    "8 domains of 64 rows, one bandwidth": (lambda: domains(8, 64, MMD_FIXED), "loop over slices"),
    "4 domains of 256 rows, CORAL": (lambda: domains(4, 256, CORALLoss()), "loop over slices"),
    "32 domains of 64 rows, one bandwidth": (many_domains, "one MMD of 2,048 rows"),
    "InfoNCE, a mask, n = 256": (lambda: contrast(256, "mask"), "x[mask] and cross-entropy"),
    "InfoNCE, a mask, n = 1,024": (lambda: contrast(1024, "mask"), "x[mask] and cross-entropy"),
    "InfoNCE, weights, n = 256": (lambda: contrast(256, "weights"), "logits and cross-entropy"),
    "InfoNCE, weights, n = 1,024": (lambda: contrast(1024, "weights"), "logits and cross-entropy"),
    "InfoNCE, negative mask, n = 256": (lambda: contrast(256, "negatives"), "logits and cross-entropy"),
    "InfoNCE, negative mask, n = 1,024": (lambda: contrast(1024, "negatives"), "logits and cross-entropy"),
    **{
        f"InfoNCE, {what}, n = 64": (lambda key=key: contrast(64, key), "plain formula")  # type: ignore[misc]
        for what, key in (("a mask", "mask"), ("weights", "weights"), ("negative mask", "negatives"))
    },
    **{
        f"{what}, n = {n:,}": (lambda key=key, n=n: contrast(n, key), "plain formula")  # type: ignore[misc]
        for what, key in (
            ("InfoNCE, positive mask", "positives"),
            ("InfoNCE, a queue of 4 n rows", "queue"),
            ("NT-Xent, positive mask", "NT-Xent"),
            ("sigmoid loss, a mask", "sigmoid"),
        )
        for n in (64, 256, 1024)
    },
    "InfoNCE of bfloat16 features, n = 256": (lambda: half(256), "bfloat16 products"),
    "MMD with masks, n = 64": (lambda: masked_mmd(64), "x[mask], plain formula"),
    "HSIC, n = 64": (lambda: independence(64), "plain formula"),
    "HSIC, n = 512": (lambda: independence(512), "plain formula"),
    "joint MMD of two layers, n = 64": (lambda: joint(64), "plain formula"),
    "joint MMD of two layers, n = 512": (lambda: joint(512), "plain formula"),
    **{
        f"Sinkhorn divergence, n = {n}": (lambda n=n: transport(n), "log-domain loop to 1e-6")  # type: ignore[misc]
        for n in (64, 256)
    },
    **{
        f"Sinkhorn divergence, n = {n:,}, beside {peer}": (lambda n=n, peer=peer: transport_peer(n, peer), peer)  # type: ignore[misc]
        for peer, package in (("POT", "ot"), ("geomloss", "geomloss"))
        for n in (64, 256, 1024)
        if importlib.util.find_spec(package)
    },
    "HSIC, n = 2,048": (lambda: independence(2048), "plain formula"),
    "joint MMD of two layers, n = 1,024": (lambda: joint(1024), "plain formula"),
    "permutation test, 200 of 2 x 500 rows": (lambda: permuted(500, 200), "loop over relabellings"),
    "a sentence over 10,000 videos of 64 clips": (lambda: retrieval(10000, 64), "products, topk(5), topk(10)"),
    "DANN, 64 x 256": (lambda: adversary(64), "bare reversal, nn.Sequential"),
    "MMD with a kernel of one's own, n = 512": (lambda: own_kernel(512), "plain formula"),
    "gradient reversal, 64 x 256": (lambda: reversal(64), "a bare autograd function"),
    "domain-specific batch norm, 64 x 256": (lambda: normalised(64), "two nn.BatchNorm1d, by hand"),
    "margin disparity, n = 64": (lambda: disparity(64), "plain formula"),
    "batch nuclear norm, n = 64": (lambda: nuclear(64), "torch.linalg.matrix_norm"),
}


def run(step: Step) -> None:
    value = step()
    if isinstance(value, Tensor) and value.requires_grad:
        value.backward()


def turns(steps: tuple[Step, Step], seconds: float) -> list[list[float]]:
    """Median and least seconds of each, alternating for about this long."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for step in steps:
        run(step)
    times: list[list[float]] = [[], []]
    end = clock() + seconds
    while len(times[0]) < 3 or clock() < end:
        for step, found in zip(steps, times):
            begin = clock()
            run(step)
            found.append(clock() - begin)
    return [[statistics.median(found), min(found)] for found in times]


def serve(seconds: float, threads: int) -> None:
    """Worker loop: read a line of names, write a line of times."""
    torch.set_num_threads(threads)
    made: dict[str, tuple[Step, Step]] = {}
    for line in sys.stdin:
        name = line.rstrip("\n")
        made = {name: made[name] if name in made else ROWS[name][0]()}
        print(json.dumps(turns(made[name], seconds)), flush=True)


#: Rows that took the first versions minutes a step: they are not asked for an earlier checkout's time.
ONLY_NOW = ("32 domains of 64 rows, one bandwidth", "a sentence over 10,000 videos of 64 clips")


def measure(trees: dict[str, Path], rounds: int, seconds: float, threads: int, only: str) -> dict[str, Any]:
    """Every row whose name contains ``only``, alternating between the trees."""
    workers = {}
    for name, tree in trees.items():
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--serve",
            f"--seconds={seconds}",
            f"--threads={threads}",
        ]
        variables = dict(os.environ, PYTHONPATH=str(tree), OMP_NUM_THREADS=str(threads))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        workers[name] = subprocess.Popen(command, env=variables, cwd=tree, text=True, **pipes)  # type: ignore[call-overload]
    figures: dict[str, Any] = {}
    for row, (_, alternative) in ROWS.items():
        if only not in row:
            continue
        asked = {name: worker for name, worker in workers.items() if name == "now" or row not in ONLY_NOW}
        found: dict[str, list[list[list[float]]]] = {name: [] for name in asked}
        for _ in range(rounds):
            for name, worker in asked.items():
                worker.stdin.write(row + "\n")
                worker.stdin.flush()
                found[name].append(json.loads(worker.stdout.readline()))
        figures[row] = {"alternative": alternative}
        for name, times in found.items():
            ours, theirs = (statistics.median(pair[k][0] for pair in times) for k in (0, 1))
            least = [min(pair[k][1] for pair in times) for k in (0, 1)]
            figures[row][name] = {
                "ours_ms": round(1e3 * ours, 4),
                "alternative_ms": round(1e3 * theirs, 4),
                "ratio": round(statistics.median(pair[1][0] / pair[0][0] for pair in times), 3),
                "least_ms": [round(1e3 * one, 4) for one in least],
                "ratio_of_least": round(least[1] / least[0], 3),
            }
        shown = ", ".join(
            f"{name} {figures[row][name]['ratio']:.2f} ({figures[row][name]['ratio_of_least']:.2f} of the shortest)"
            for name in asked
        )
        print(f"{row:45} times the speed of the alternative: {shown}", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return figures


def processor() -> str:
    """Name of the processor."""
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
    parser.add_argument("--threads", type=int, default=1, help="more than one: wall time")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.seconds, given.threads)
        return
    trees = {"now": Path(__file__).resolve().parent.parent}
    if given.before is not None:
        trees = {"before": given.before.resolve(), **trees}
    figures = {
        "processor": processor(),
        "torch": torch.__version__,
        "threads": given.threads,
        "load": os.getloadavg(),
        "rows": measure(trees, given.rounds, given.seconds, given.threads, given.only),
    }
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
