"""Recall of moments as a torchmetrics Metric: in a MetricCollection, summed over batches and over processes.

The library's metrics are functions of a batch. torchmetrics adds state: `update` sums hits and queries over batches,
and `compute` over ranks, so they work with Lightning's `self.log` and in a `MetricCollection`.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from mmda.metrics import mean_iou, recall_at_iou

try:
    from torchmetrics import Metric, MetricCollection
except ImportError:
    Metric, MetricCollection = object, None


class MomentRecall(Metric):
    """Recall@n at IoU m of predicted spans (b, k, 2), best first, with the true windows (b, w, 2)."""

    full_state_update = False
    higher_is_better = True

    def __init__(self, *, n: int = 1, iou: float = 0.5) -> None:
        super().__init__()
        self.n, self.iou = n, iou
        self.add_state("hits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("queries", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, spans: Tensor, windows: Tensor) -> None:
        """Add a batch."""
        self.hits += recall_at_iou(spans, windows, n=(self.n,), iou=(self.iou,)).hits.sum()
        self.queries += len(spans)

    def compute(self) -> Tensor:
        """Fraction of queries hit."""
        return self.hits / self.queries


class MomentIoU(Metric):
    """Mean IoU of the first span with the best-matching window."""

    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("queries", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, spans: Tensor, windows: Tensor) -> None:
        """Add a batch."""
        self.total += mean_iou(spans[:, :1], windows) * len(spans)
        self.queries += len(spans)

    def compute(self) -> Tensor:
        """Mean over all queries."""
        return self.total / self.queries


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="no effect: the example is fast")
    parser.parse_args()
    if MetricCollection is None:
        print("skipped: torchmetrics is not installed (pip install torchmetrics)")
        raise SystemExit(0)
    named = {"R1_50": MomentRecall(), "R5_70": MomentRecall(n=5, iou=0.7), "mIoU": MomentIoU()}
    metrics = MetricCollection(named)
    generator = torch.Generator().manual_seed(0)
    for size in (32, 7):
        spans, windows = (torch.rand(size, k, 2, generator=generator).sort(-1).values for k in (5, 1))
        metrics.update(spans, windows)
    print("  ".join(f"{name} {100 * value:.1f}" for name, value in metrics.compute().items()))
