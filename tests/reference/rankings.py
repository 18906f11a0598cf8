"""Average precision of ranked moments and of clip scores by its definition: loops, lists and exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Span = tuple[int, int]


def iou(a: Span, b: Span) -> Fraction:
    inter = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return Fraction(inter, union) if union else Fraction(0)


def interpolated(right: Sequence[bool], positives: int) -> Fraction:
    """Area under the precision envelope: for each right answer the best precision at its rank or a later one."""
    precision = [Fraction(sum(right[: r + 1]), r + 1) for r in range(len(right))]
    return sum((max(precision[r:]) for r in range(len(right)) if right[r]), Fraction(0)) / positives


def moment_average_precision(spans: Sequence[Span], windows: Sequence[Span], level: Fraction) -> Fraction:
    """Spans best first; each takes the free window of highest IoU, if that is at least the level."""
    free = list(range(len(windows)))
    right = []
    for span in spans:
        able = [w for w in free if iou(span, windows[w]) >= level]
        right.append(bool(able))
        if able:
            free.remove(max(able, key=lambda w: (iou(span, windows[w]), w)))
    return interpolated(right, len(windows)) if right else Fraction(0)


def clip_average_precision(highlight: Sequence[bool], scores: Sequence[float]) -> Fraction:
    """At each score: how many clips lie at or above it, and how many of them are highlights."""
    if all(highlight):
        return Fraction(1)
    if not any(highlight):
        return Fraction(0)
    points = []
    for score in sorted(set(scores), reverse=True):
        above = [h for h, s in zip(highlight, scores) if s >= score]
        points.append((sum(above), Fraction(sum(above), len(above))))
    rises = [k for k, (found, _) in enumerate(points) if found > (points[k - 1][0] if k else 0)]
    return sum((max(p for _, p in points[k:]) for k in rises), Fraction(0)) / len(rises)


def discounted(span: Span, window: Span, length: int) -> Fraction:
    """Product of what each boundary is worth: 1 where it is right, 0 where it is off by the whole video."""
    start = max(Fraction(0), 1 - Fraction(abs(span[0] - window[0]), length))
    end = max(Fraction(0), 1 - Fraction(abs(span[1] - window[1]), length))
    return start * end
