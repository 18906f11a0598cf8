"""Checkpoints of many rows of one direction, and their scores by every validator, for ``benchmarks.grounding``."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmda import validators
from mmda.metrics import best_iou
from mmda.models.mmcda import (
    MMCDA,
    MMCDAConfig,
    MMCDAObjective,
    TrainingConfig,
    build_mmcda,
    fit,
    pair_score,
    start_linear,
)
from mmda.models.mmcda.experiment.jobs import LINEAR, REAL
from mmda.models.mmcda.experiment.rows import Row, alignment_of
from mmda.models.mmcda.experiment.runs import pooling_of, shuffled
from mmda.vmr import ResidentLoader, ResidentSplit

#: Rows whose checkpoints are scored; steps of the towers, and steps between checkpoints.
ROWS = (
    Row("source-only", ("supervised",)),
    Row("full", ("supervised", "domain", "cross_modal", "specific")),
    Row("full, target pairs shuffled", ("supervised", "domain", "cross_modal", "specific"), shuffled=True),
)
CLOSED = (
    *ROWS,
    Row("(i)", ("supervised", "domain")),
    Row("(ii)", ("supervised", "cross_modal")),
    Row("(iii)", ("supervised", "specific")),
)
#: Further settings of each linear form at its initialisation: a narrow joint space, plain similarities, one map.
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"joint": 16}, {"neighbours": 0.0, "agreement": 0.0}, {"members": 1})
STEPS, EVERY = 240, 60
LINEAR_STEPS, LINEAR_EVERY = 40, 20

#: Maximum number of queries for scores, including the oracle, so that both use the same.
HELD, VAL, FITTED = 250, 120, 120


def checkpoints(
    train: ResidentSplit, val: ResidentSplit, pairs: ResidentSplit, held: ResidentSplit
) -> Iterator[dict[str, Any]]:
    """Each checkpoint with its scores and its answers for ``held``; moments of the target are not used.

    Towers trained on the source only, with all modules, and with all modules and shuffled target pairs; linear forms at
    their initialisation, with each single module and in several settings, and during training with all modules.
    """
    few, fitted = some(train, FITTED), {}  # type: ignore[var-annotated]
    for row in CLOSED:
        own = {} if row.shuffled else fitted  # rows share closed-form fits
        for setting in SETTINGS:
            name = ", ".join([row.name, *(f"{key} {value:g}" for key, value in setting.items())])
            yield record("linear", name, 0, started(row, train, pairs, own, **setting), few, val, held)
    for form, rows in (("linear", ROWS[1:]), ("towers", ROWS)):
        for row in rows:
            for step, model in trained(form, row, train, pairs):
                yield record(form, f"{row.name}, trained", step, model, few, val, held)


def some(split: ResidentSplit, count: int) -> ResidentSplit:
    """At most this many pairs, evenly spaced."""
    take = min(count, len(split))
    return split.select([(at * len(split)) // take for at in range(take)])


def record(
    family: str, row: str, step: int, model: MMCDA, train: ResidentSplit, val: ResidentSplit, held: ResidentSplit
) -> dict[str, Any]:
    found, spans = scores(model, train, val, held)
    return {
        "family": family,
        "row": row,
        "step": step,
        "scores": {k: round(v, 6) for k, v in found.items()},
        "spans": spans,
    }


def config_of(form: str, split: ResidentSplit, **setting: Any) -> MMCDAConfig:
    usual = LINEAR if form == "linear" else REAL
    return MMCDAConfig(split.frames.shape[-1], split.words.shape[-1], **{**usual, **setting})


def started(
    row: Row,
    train: ResidentSplit,
    pairs: ResidentSplit,
    fitted: dict[Hashable, object] | None = None,
    **setting: Any,
) -> MMCDA:
    """A linear form at its initialisation."""
    model = build_mmcda(config_of("linear", train, **setting))
    own = shuffled(pairs, 0) if row.shuffled else pairs
    domain = own if "domain" in row.modules else None
    start_linear(
        model, train, own if row.uses_pairs else None, domain=domain, pooling=pooling_of(row.modules), fitted=fitted
    )
    return model.eval()


def trained(form: str, row: Row, train: ResidentSplit, pairs: ResidentSplit) -> list[tuple[int, MMCDA]]:
    """One training run, and copies of the model during it."""
    torch.manual_seed(0)
    model = build_mmcda(config_of(form, train)) if form == "towers" else started(row, train, pairs)
    own = shuffled(pairs, 0) if row.shuffled else pairs
    objective = MMCDAObjective(
        weights=row.weights(1.0, form),
        video_discrepancy=alignment_of("mmd", 64),
        query_discrepancy=alignment_of("mmd", 64),
    )
    steps, every = (STEPS, EVERY) if form == "towers" else (LINEAR_STEPS, LINEAR_EVERY)
    kept: list[tuple[int, MMCDA]] = []

    def keep(step: int) -> None:
        if step % every == 0:
            kept.append((step, copy.deepcopy(model).eval()))

    size = 32 if form == "towers" else 64
    fit(
        model,
        objective,
        ResidentLoader(train, min(size, len(train)), drop_last=True),
        ResidentLoader(own, min(size, len(own)), seed=1, labels=False, drop_last=True),
        config=TrainingConfig(
            steps=steps, learning_rate=1e-3 if form == "towers" else 5e-3, weight_decay=0.1, evaluations=1
        ),
        on_step=keep,
    )
    return kept


@dataclass(frozen=True)
class Seen:
    """Outputs of a model on a split: queries and their most similar frames in the joint space, and its answers."""

    query: Tensor
    video: Tensor
    profile: Tensor
    frame_mask: Tensor
    start: Tensor
    end: Tensor
    spans: Tensor
    retrieval: Tensor  # every query against every video
    own: Tensor


@torch.no_grad()
def seen(model: MMCDA, split: ResidentSplit, *, answers: bool = True) -> Seen:
    parts: dict[str, list[Tensor]] = {name: [] for name in ("query", "video", "profile", "start", "end", "spans")}
    frames, videos = [], {}  # type: ignore[var-annotated]
    for rows in torch.arange(len(split)).split(128):
        batch = split.slice(rows)
        output = model(batch)
        weight = output.similarity.masked_fill(~output.frame_mask, -torch.inf).softmax(1)
        parts["query"].append(output.joint_query)
        parts["video"].append(torch.bmm(weight.unsqueeze(1), output.joint_frames).squeeze(1))
        parts["profile"].append(profile := model.profile(output) if answers else output.similarity)
        parts["start"].append(output.logits.start)
        parts["end"].append(output.logits.end)
        spans = batch.clip_times[:, 0]
        if answers:
            spans = model.decode(profile, output.logits, batch.frame_mask, batch.clip_times, n=1).windows[:, 0]
        parts["spans"].append(spans.double())
        for at, video in enumerate(split.frame_row[rows].tolist()):
            if video not in videos:
                videos[video] = len(frames)
                frames.append(output.joint_frames[at][output.frame_mask[at]])
    joined = {name: torch.cat(found) for name, found in parts.items()}
    own = torch.tensor([videos[video] for video in split.frame_row.tolist()])
    best = [(f @ joined["query"].T).topk(max(1, len(f) // 8), dim=0).values.mean(0) for f in frames]
    mask = split.frame_mask[split.frame_row]
    return Seen(**joined, frame_mask=mask, retrieval=torch.stack(best, 1) / model.temperature, own=own)


def scores(
    model: MMCDA, train: ResidentSplit, val: ResidentSplit, held: ResidentSplit
) -> tuple[dict[str, float], Tensor]:
    """Every validator, with signs such that higher is better, and the answers; moments of the target are not used."""
    mine, theirs = seen(model, val), seen(model, held)
    fitted = seen(model, train, answers=False)
    assert val.windows is not None
    assert val.window_mask is not None
    missed = 1 - best_iou(mine.spans.unsqueeze(1), val.windows.double(), window_mask=val.window_mask)[:, 0]
    source = float(1 - missed.mean())
    recall = pair_score(model, ResidentLoader(held, 128, shuffle=False, labels=False))
    relative = theirs.spans / held.duration.unsqueeze(1)
    found = {
        "source_score": source,
        "pair_score": recall,
        "selection_score": source + recall,
        "pair_retrieval_recall": validators.pair_retrieval_recall(theirs.query, theirs.video, duplicates=theirs.own),
        "held_out_pair_loss": -validators.held_out_pair_loss(theirs.query, theirs.video, duplicates=theirs.own),
        "span_entropy": -validators.span_entropy(theirs.profile, theirs.profile, theirs.frame_mask),
        "span_constancy": -validators.span_constancy(relative),
        "mmd_score, frames": validators.mmd_score(fitted.video, theirs.video),
        "mmd_score, queries": validators.mmd_score(fitted.query, theirs.query),
        "deep_embedded_validation_risk": -validators.deep_embedded_validation_risk(
            missed, mine.video * mine.query, fitted.video * fitted.query, theirs.video * theirs.query
        ),
        "entropy_score, videos": validators.entropy_score(theirs.retrieval),
        "information_maximisation_score, videos": validators.information_maximisation_score(theirs.retrieval),
        "nuclear_norm_score, videos": validators.nuclear_norm_score(theirs.retrieval),
        "soft_neighbourhood_density, videos": validators.soft_neighbourhood_density(theirs.retrieval.softmax(1)),
    }
    if float(theirs.start.abs().max()) > 0:
        found["span_entropy, localizer"] = -validators.span_entropy(theirs.start, theirs.end, theirs.frame_mask)
    return {name: float(value) for name, value in found.items()}, theirs.spans


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation, with ties at their mean rank; ``None`` for fewer than three values or a constant input."""
    if len(a) < 3 or len({*a}) < 2 or len({*b}) < 2:
        return None
    x, y = (_ranks(torch.tensor(values, dtype=torch.float64)) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x.norm() * y.norm()))


def _ranks(values: Tensor) -> Tensor:
    return (values.unsqueeze(1) > values).double().sum(1) + ((values.unsqueeze(1) == values).double().sum(1) + 1) / 2
