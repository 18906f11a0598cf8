"""The losses on frames, queries and moments in float64 loops, without padding and masks.

Videos are a list of (frames, features) arrays of their own lengths. A pair that counts twice is given twice, and what
may serve as a negative is a matrix that says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def softmax(values: Sequence[float]) -> list[float]:
    whole = log_sum_exp(values)
    return [math.exp(v - whole) for v in values]


# Listwise likelihood of the moment's frames.


def frame_query(
    videos: Sequence[Array], queries: Sequence[Array], moments: Sequence[Sequence[int]], temperature: float
) -> float:
    rows = []
    for frames, query, moment in zip(videos, queries, moments):
        if not moment:
            continue
        scores = [cosine(frame, query) / temperature for frame in frames]
        whole = log_sum_exp(scores)
        rows.append(-math.fsum(scores[t] - whole for t in moment) / len(moment))
    return math.fsum(rows) / len(rows)


# Contrasts of videos and queries.


def pair_contrast(scores: Array, negatives: NDArray[np.bool_]) -> float:
    """Cross-entropy of the diagonal, by rows and by columns; N_i is the pair itself and its negatives."""
    n = len(scores)
    total = 0.0
    for i in range(n):
        row = [scores[i, j] for j in range(n) if j == i or negatives[i, j]]
        column = [scores[j, i] for j in range(n) if j == i or negatives[j, i]]
        total += (log_sum_exp(row) - scores[i, i]) / (2 * n) + (log_sum_exp(column) - scores[i, i]) / (2 * n)
    return total


def attention(
    videos: Sequence[Array], queries: Sequence[Array], attention_temperature: float
) -> list[list[list[float]]]:
    """How much query j looks at each frame of video i."""
    return [
        [softmax([cosine(frame, query) / attention_temperature for frame in frames]) for query in queries]
        for frames in videos
    ]


def attended_scores(
    videos: Sequence[Array], queries: Sequence[Array], looks: list[list[list[float]]], temperature: float
) -> Array:
    scores = np.empty((len(videos), len(queries)))
    for i, frames in enumerate(videos):
        for j, query in enumerate(queries):
            pooled = np.sum([a * frame / np.linalg.norm(frame) for a, frame in zip(looks[i][j], frames)], axis=0)
            scores[i, j] = cosine(pooled, query) / temperature
    return scores


def best_count(frames: int, top: str) -> int:
    """The share is written as a decimal, so that 0.15 of 100 frames are 15."""
    return math.ceil(Fraction(top) * frames)


def best_scores(videos: Sequence[Array], queries: Sequence[Array], temperature: float, top: str) -> Array:
    scores = np.empty((len(videos), len(queries)))
    for i, frames in enumerate(videos):
        k = best_count(len(frames), top)
        for j, query in enumerate(queries):
            ranked = sorted((cosine(frame, query) / temperature for frame in frames), reverse=True)
            scores[i, j] = math.fsum(ranked[:k]) / k
    return scores


def in_video_margin(videos: Sequence[Array], queries: Sequence[Array], temperature: float, top: str) -> float:
    """log(1 + exp(rest - best)), mean over the videos that have a rest; 0 where none has."""
    terms = []
    for frames, query in zip(videos, queries):
        k = best_count(len(frames), top)
        ranked = sorted((cosine(frame, query) / temperature for frame in frames), reverse=True)
        if k < len(frames):
            rest, best = np.mean(ranked[k:]), np.mean(ranked[:k])
            terms.append(math.log1p(math.exp(rest - best)))
    return math.fsum(terms) / len(terms) if terms else 0.0


# Moments in seconds.


def clips_of(window: tuple[float, float], clips: Sequence[tuple[float, float]]) -> list[int]:
    """Clips whose centre lies in [start, end), or else the one clip whose centre is nearest to the window's middle."""
    centres = [(a + b) / 2 for a, b in clips]
    owned = [t for t, centre in enumerate(centres) if window[0] <= centre < window[1]]
    if owned:
        return owned
    middle = (window[0] + window[1]) / 2
    return [min(range(len(clips)), key=lambda t: abs(centres[t] - middle))]


def targets(
    windows: Sequence[tuple[float, float]], clips: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float], list[bool]]:
    """Start and end mass and membership of each clip; a window wholly outside the clips is none."""
    windows = [w for w in windows if w[0] < clips[-1][1] and (w[1] > clips[0][0] or w[0] >= clips[0][0])]
    start, end, inside = [0.0] * len(clips), [0.0] * len(clips), [False] * len(clips)
    for window in windows:
        owned = clips_of(window, clips)
        start[owned[0]] += 1 / len(windows)
        end[owned[-1]] += 1 / len(windows)
        for t in owned:
            inside[t] = True
    return start, end, inside


def localization(
    starts: Sequence[Array], ends: Sequence[Array], insides: Sequence[Array], wanted: Sequence[tuple]
) -> float:
    """Mean over the rows that have a moment of both cross-entropies and the mean binary cross-entropy."""
    rows = []
    for start, end, inside, (start_mass, end_mass, member) in zip(starts, ends, insides, wanted):
        if not sum(start_mass):
            continue
        row = -math.fsum(mass * math.log(p) for mass, p in zip(start_mass, softmax(start)) if mass)
        row -= math.fsum(mass * math.log(p) for mass, p in zip(end_mass, softmax(end)) if mass)
        probabilities = [1 / (1 + math.exp(-z)) for z in inside]
        row -= math.fsum(math.log(p if m else 1 - p) for p, m in zip(probabilities, member)) / len(inside)
        rows.append(row)
    return math.fsum(rows) / len(rows)
