"""Temporal NMS and recall: batched over all queries, compared with the per-query loops of public evaluators.

Method. Random spans, one window per query, NMS at IoU 0.5 to the five best, then R@{1,5} at IoU {.3, .5, .7}. The time
of the loops (``tests/reference/metrics.py``, written from the published evaluators) is linear in the number of queries,
so they run on a subset, alternating with ours, and their time is scaled. Ours runs on all queries. CPU time of one
thread, medians of repeats; the hits are compared before timing.

    python benchmarks/nms.py                      # 100,000 queries x 100 spans
    python benchmarks/nms.py --queries 10000 --repeats 3 --json out.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmda.metrics import recall_at_iou, temporal_nms
from tests.reference.metrics import hull_iou, moment_detr_nms, two_d_tan_nms

N, IOU, THRESHOLD = (1, 5), (0.3, 0.5, 0.7), 0.5


def problem(queries: int, spans: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = 80 * torch.rand(queries, spans, generator=generator, dtype=dtype)
    length = 1 + 40 * torch.rand(queries, spans, generator=generator, dtype=dtype)
    first = 80 * torch.rand(queries, 1, generator=generator, dtype=dtype)
    scores = torch.rand(queries, spans, generator=generator, dtype=dtype)
    return torch.stack([start, start + length], -1), scores, torch.stack([first, first + 20], -1)


def ours(spans: torch.Tensor, scores: torch.Tensor, windows: torch.Tensor) -> np.ndarray:
    index, keep = temporal_nms(spans, scores, threshold=THRESHOLD, top_n=max(N))
    best = spans.gather(1, index.unsqueeze(-1).expand(-1, -1, 2))
    return recall_at_iou(best, windows, n=N, iou=IOU, prediction_mask=keep).hits.numpy()


def two_d_tan(spans: np.ndarray, scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    hits = np.zeros((len(spans), len(N), len(IOU)), dtype=bool)
    for q in range(len(spans)):
        best = spans[q][two_d_tan_nms(spans[q], scores[q], THRESHOLD, max(N))]
        inter = np.minimum(best[:, 1], windows[q, 0, 1]) - np.maximum(best[:, 0], windows[q, 0, 0])
        hull = np.maximum(best[:, 1], windows[q, 0, 1]) - np.minimum(best[:, 0], windows[q, 0, 0])
        overlap = np.maximum(inter, 0.0) / hull
        for j, m in enumerate(IOU):
            for i, n in enumerate(N):
                hits[q, i, j] = (overlap >= m)[:n].any()
    return hits


def moment_detr(spans: np.ndarray, scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    hits = np.zeros((len(spans), len(N), len(IOU)), dtype=bool)
    for q in range(len(spans)):
        rows = spans[q].tolist()
        window = windows[q, 0].tolist()
        kept = moment_detr_nms(rows, scores[q].tolist(), THRESHOLD, max(N))
        overlap = [hull_iou(rows[i], window) for i in kept]
        hits[q] = [[any(v >= m for v in overlap[:n]) for m in IOU] for n in N]
    return hits


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--spans", type=int, default=100)
    parser.add_argument("--subset", type=int, default=2_000, help="queries given to the loops")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)

    subset = min(given.subset, given.queries)
    spans, scores, windows = problem(given.queries, given.spans, torch.float32)
    few = [x[:subset].double().numpy() for x in (spans, scores, windows)]
    exact = ours(*(torch.from_numpy(x) for x in few))
    loops = {"2D-TAN's loop": two_d_tan, "moment_detr's loop": moment_detr}
    for name, loop in loops.items():
        assert np.array_equal(exact, loop(*few)), f"{name}: other hits"

    times: dict[str, list[float]] = {name: [] for name in ("ours", *loops)}
    ours(spans[:subset], scores[:subset], windows[:subset])
    for _ in range(given.repeats):
        times["ours"].append(seconds(lambda: ours(spans, scores, windows)))
        for name, loop in loops.items():
            scale = given.queries / subset
            times[name].append(scale * seconds(lambda loop=loop: loop(*few)))
    median = {name: statistics.median(t) for name, t in times.items()}
    print(f"{given.queries} queries x {given.spans} spans, float32 (loops float64, {subset} queries, scaled)")
    print(f"{'':20}{'seconds':>10}{'spread':>18}{'ratio':>8}")
    for name, t in times.items():
        spread = f"{min(t):.2f} - {max(t):.2f}"
        print(f"{name:20}{median[name]:10.2f}{spread:>18}{median[name] / median['ours']:8.1f}")
    if given.json is not None:
        facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        figures = {"queries": given.queries, "spans": given.spans, "seconds": times, "median": median, **facts}
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
