"""Per-query loops of the public grounding evaluators, written from their published semantics.

Plain Python floats (IEEE double), one query at a time, no shared code with the library. They serve as oracles
of the tests and as the peers of ``benchmarks/nms.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Span = Sequence[float]


def cells_iou(a: tuple[int, int], b: tuple[int, int], *, inclusive: bool = False) -> float:
    """IoU of integer spans by counting: unit cells, or with ``inclusive`` the frames from first to last."""
    first = set(range(a[0], a[1] + inclusive))
    second = set(range(b[0], b[1] + inclusive))
    union = first | second
    return len(first & second) / len(union) if union else 0.0


def hull_iou(a: Span, b: Span) -> float:
    """Intersection over the hull; 0/0 is 0."""
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return inter / hull if hull else 0.0


def lengths_iou(a: Span, b: Span) -> float:
    """Intersection over the sum of the lengths without it; 0/0 is 0."""
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union else 0.0


def by_score(scores: Sequence[float]) -> list[int]:
    """Positions, best score first, equal scores in order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def moment_detr_nms(spans: Sequence[Span], scores: Sequence[float], threshold: float, top_n: int) -> list[int]:
    """moment_detr: walk the ranked list, pop every later entry above the threshold by hull IoU."""
    left = by_score(scores)
    kept: list[int] = []
    while left and len(kept) < top_n:
        best = left.pop(0)
        at = 0
        while at < len(left):
            if hull_iou(spans[best], spans[left[at]]) > threshold:
                left.pop(at)
            else:
                at += 1
        kept.append(best)
    return kept


def two_d_tan_nms(spans: np.ndarray, scores: np.ndarray, threshold: float, top_n: int) -> list[int]:
    """2D-TAN: numpy over the rest of the ranked list, keep those at or below the threshold (no 0/0)."""
    left = np.argsort(-scores, kind="stable")
    length = spans[:, 1] - spans[:, 0]
    kept: list[int] = []
    while left.size and len(kept) < top_n:
        best, rest = left[0], left[1:]
        kept.append(int(best))
        inter = np.minimum(spans[best, 1], spans[rest, 1]) - np.maximum(spans[best, 0], spans[rest, 0])
        inter = np.maximum(inter, 0.0)
        union = length[best] + length[rest] - inter
        overlap = inter / union
        left = rest[overlap <= threshold]
    return kept


def two_d_tan_hits(
    spans: np.ndarray,
    scores: np.ndarray,
    window: Span,
    threshold: float,
    n: Sequence[int],
    iou: Sequence[float],
) -> list[list[bool]]:
    """2D-TAN: R@n by strict ``>`` on the hull IoU of the suppressed list."""
    kept = two_d_tan_nms(spans, scores, threshold, max(n))
    overlap = [hull_iou(spans[i], window) for i in kept]
    return [[any(v > m for v in overlap[:count]) for m in iou] for count in n]


def mmn_hits(
    spans: Sequence[Span],
    scores: Sequence[float],
    window: Span,
    threshold: float,
    n: Sequence[int],
    iou: Sequence[float],
) -> list[list[bool]]:
    """MMN: suppress along the ranked list by hull IoU, then ``>=``."""
    ranked = by_score(scores)
    dropped = [False] * len(ranked)
    for i in range(len(ranked) - 1):
        if dropped[i]:
            continue
        for j in range(i + 1, len(ranked)):
            if hull_iou(spans[ranked[i]], spans[ranked[j]]) > threshold:
                dropped[j] = True
    kept = [spans[r] for r, gone in zip(ranked, dropped) if not gone]
    overlap = [hull_iou(span, window) for span in kept]
    return [[any(v >= m for v in overlap[:count]) for m in iou] for count in n]


def vslnet_hits(span: Span, window: Span, iou: Sequence[float]) -> list[bool]:
    """VSLNet: one decoded span, signed overlap over the hull, never below 0, ``>=``."""
    overlap = (min(span[1], window[1]) - max(span[0], window[0])) / (max(span[1], window[1]) - min(span[0], window[0]))
    return [max(0.0, overlap) >= m for m in iou]


def moment_detr_hits(
    spans: Sequence[Span],
    scores: Sequence[float],
    windows: Sequence[Span],
    duration: float,
    iou: Sequence[float],
    clip: float = 2.0,
) -> list[bool]:
    """moment_detr: clip to the video, round to clips (half to even), the best window counts, R@1 by ``>=``."""
    best = spans[by_score(scores)[0]]
    rounded = [round(min(max(value, 0.0), duration) / clip) * clip for value in best]
    overlap = max(hull_iou(rounded, window) for window in windows)
    return [overlap >= m for m in iou]
