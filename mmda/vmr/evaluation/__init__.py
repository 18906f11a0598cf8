"""Evaluation of predicted spans: metrics with per-query values, confidence intervals and paired tests.

Everything is in seconds and float64. Queries of one video are not independent, so all intervals and tests here resample
whole videos. Prediction files in the public submission format are read, aligned by query and written;
:func:`qvhighlights_scores` reproduces the public evaluator of QVHighlights.
"""

from mmda.vmr.evaluation.files import Prediction, align_predictions, read_predictions, write_predictions
from mmda.vmr.evaluation.intervals import (
    Interval,
    PairedTest,
    bootstrap_interval,
    paired_test,
    recovered_gap,
    seed_interval,
)
from mmda.vmr.evaluation.ranking import (
    average_precision,
    highlight_scores,
    moment_scores,
    qvhighlights_scores,
    read_saliency,
)
from mmda.vmr.evaluation.rows import Evaluation, evaluate, evaluate_windows, pad_spans

__all__ = [
    "Evaluation",
    "Interval",
    "PairedTest",
    "Prediction",
    "align_predictions",
    "average_precision",
    "bootstrap_interval",
    "evaluate",
    "evaluate_windows",
    "highlight_scores",
    "moment_scores",
    "pad_spans",
    "paired_test",
    "qvhighlights_scores",
    "read_predictions",
    "read_saliency",
    "recovered_gap",
    "seed_interval",
    "write_predictions",
]
