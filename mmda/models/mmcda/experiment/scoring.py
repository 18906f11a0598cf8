"""Scores of a trained model, or of a file of predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmda.metrics import PRESETS
from mmda.models.mmcda.experiment.domains import Draws
from mmda.models.mmcda.experiment.questions import Checkpoint
from mmda.models.mmcda.experiment.runs import evaluated, suppression
from mmda.models.mmcda.training import predict_split
from mmda.vmr import Annotations, ResidentLoader, VMRDataError
from mmda.vmr.evaluation import Evaluation, evaluate, pad_spans


def score_checkpoint(checkpoint: Checkpoint, preset: str, iou: Sequence[float], data: Draws) -> Evaluation:
    """A model on the test split of the target that it was trained for."""
    _, target = data.load(checkpoint.problem, checkpoint.seed)
    asked = ResidentLoader(target.opened("test"), 128, shuffle=False, labels=False)
    spans, _ = predict_split(checkpoint.model, asked, nms_threshold=suppression(PRESETS[preset]))
    return evaluated(spans.windows, target, preset, iou, mask=spans.mask, name=checkpoint.path.stem)


def score_predictions(file: Path, annotations: Annotations, preset: str, iou: Sequence[float]) -> Evaluation:
    """Predictions in QVHighlights' layout, or as a table writes them, against annotations; aligned by query id."""
    found = read_predictions(file)
    labelled = [query for query in annotations if query.windows]
    missing = [query.qid for query in labelled if query.qid not in found]
    if not labelled:
        raise VMRDataError(annotations.source, None, "hold a query with a moment", "unlabelled ones only")
    if missing:
        rule = f"answer every labelled query of {annotations.source}"
        raise VMRDataError(file, missing[0], rule, f"no answer to {len(missing)} of {len(labelled)}")
    spans, mask = pad_spans([found[query.qid] for query in labelled])
    return evaluate(spans, labelled, prediction_mask=mask, preset=PRESETS[preset], iou=iou, name=file.stem)


def read_predictions(file: Path) -> dict[str, list[list[float]]]:
    """Spans of each query, best first, by query id."""
    found: dict[str, list[list[float]]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row: Any = json.loads(line)
            qid, spans = str(row["qid"]), row["pred_relevant_windows"] if "spans" not in row else row["spans"]
            found_here = [[float(span[0]), float(span[1])] for span in spans]
        except (ValueError, TypeError, LookupError) as error:
            rule = "be a JSON object with `qid` and `pred_relevant_windows`, [[start, end, score], ...]"
            raise VMRDataError(file, where, rule, line[:60]) from error
        if qid in found:
            raise VMRDataError(file, where, "answer each query once", f"query {qid!r} again")
        found[qid] = found_here
    if not found:
        raise VMRDataError(file, None, "hold predictions", "none")
    return found
