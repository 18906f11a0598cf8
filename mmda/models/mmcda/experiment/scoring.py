"""Scores of a trained model, or of a file of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmda._core.files import read_lines_file
from mmda.metrics import PRESETS
from mmda.models.mmcda.experiment.domains import Draws
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.questions import Checkpoint
from mmda.models.mmcda.experiment.runs import evaluated, suppression
from mmda.models.mmcda.training import predict_split
from mmda.vmr import Annotations, ResidentLoader, VMRDataError, VMRQuery
from mmda.vmr.evaluation import (
    Evaluation,
    Prediction,
    align_predictions,
    evaluate,
    qvhighlights_scores,
    read_predictions,
    read_saliency,
)
from mmda.vmr.evaluation.files import by_query


def score_checkpoint(checkpoint: Checkpoint, preset: str, iou: Sequence[float], data: Draws) -> Evaluation:
    """Evaluate a model on the test split of its target."""
    _, target = data.load(checkpoint.problem, checkpoint.seed)
    asked = ResidentLoader(target.opened("test"), 128, shuffle=False, labels=False)
    spans, _ = predict_split(checkpoint.model, asked, nms_threshold=suppression(PRESETS[preset]))
    return evaluated(spans.windows, target, preset, iou, mask=spans.mask, name=checkpoint.path.stem)


def score_predictions(file: Path, annotations: Annotations, preset: str, iou: Sequence[float]) -> Evaluation:
    """Evaluate predictions in the QVHighlights format, or as a table writes them, matched by query id.

    Spans are ranked by their order in the file. The checksum next to a file written by a table is verified.
    """
    labelled, found = _read(file, annotations)
    spans, _, mask = align_predictions(found, labelled, source=file)
    return evaluate(spans, labelled, prediction_mask=mask, preset=PRESETS[preset], iou=iou, name=file.stem)


def score_as_published(file: Path, annotations: Annotations, path: str) -> dict[str, float]:
    """The "brief" metrics of the public QVHighlights evaluator, with highlights if the predictions contain saliency.

    ``path``: the annotation file, which contains the highlights.
    """
    labelled, found = _read(file, annotations)
    has_saliency = all(query.qid in found and found[query.qid].saliency is not None for query in labelled)
    try:
        return qvhighlights_scores(found, labelled, read_saliency(path) if has_saliency else None)
    except VMRDataError:
        raise
    except ValueError as error:
        raise UnusableError(f"{file}: {error}") from error


def _read(file: Path, annotations: Annotations) -> tuple[list[VMRQuery], dict[str, Prediction]]:
    """The labelled queries and the predictions by query id; verified if there is a checksum file."""
    labelled = [query for query in annotations if query.windows]
    if not labelled:
        raise VMRDataError(annotations.source, None, "hold a query with a moment", "unlabelled ones only")
    try:
        read_lines_file(file)
    except ValueError as error:
        raise UnusableError(str(error)) from error
    return labelled, by_query(read_predictions(file), labelled)
