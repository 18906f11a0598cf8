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
from mmda.vmr import Annotations, ResidentLoader, VMRDataError
from mmda.vmr.evaluation import Evaluation, align_predictions, evaluate, read_predictions


def score_checkpoint(checkpoint: Checkpoint, preset: str, iou: Sequence[float], data: Draws) -> Evaluation:
    """A model on the test split of the target that it was trained for."""
    _, target = data.load(checkpoint.problem, checkpoint.seed)
    asked = ResidentLoader(target.opened("test"), 128, shuffle=False, labels=False)
    spans, _ = predict_split(checkpoint.model, asked, nms_threshold=suppression(PRESETS[preset]))
    return evaluated(spans.windows, target, preset, iou, mask=spans.mask, name=checkpoint.path.stem)


def score_predictions(file: Path, annotations: Annotations, preset: str, iou: Sequence[float]) -> Evaluation:
    """Predictions in QVHighlights' layout, or as a table writes them, against annotations; aligned by query id.

    The order of the file is the rank. A file that a table wrote is verified against the digest beside it.
    """
    labelled = [query for query in annotations if query.windows]
    if not labelled:
        raise VMRDataError(annotations.source, None, "hold a query with a moment", "unlabelled ones only")
    try:
        read_lines_file(file)
    except ValueError as error:
        raise UnusableError(str(error)) from error
    spans, _, mask = align_predictions(read_predictions(file), labelled, source=file)
    return evaluate(spans, labelled, prediction_mask=mask, preset=PRESETS[preset], iou=iou, name=file.stem)
