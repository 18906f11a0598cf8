"""``mmda evaluate``: score a trained model, or a file of predictions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmda.cli import options as shared
from mmda.cli.ending import exit_code
from mmda.models.mmcda.experiment import Draws, UnusableError, open_checkpoint
from mmda.models.mmcda.experiment.jobs import IOU
from mmda.models.mmcda.experiment.scoring import score_as_published, score_checkpoint, score_predictions
from mmda.vmr import Annotations, VMRDataError, read_annotations

DESCRIPTION = """\
Score a trained model on the test split of its target, or a file of predictions against annotations.

    mmda evaluate outputs/mmcda_vmr/models/world-language-full-i-ii-iii-0.pt
    mmda evaluate PREDICTIONS.jsonl --annotations FILE --preset moment_detr
    mmda evaluate PREDICTIONS.jsonl --annotations highlight_val_release.jsonl --qvhighlights

A line of predictions is {"qid": ..., "pred_relevant_windows": [[start, end, score], ...]}, best first.
"""


def _annotations(options: argparse.Namespace) -> Annotations:
    try:
        return read_annotations(options.annotations, split=options.split, durations=options.durations)
    except VMRDataError:
        raise
    except ValueError as error:  # durations for a format that contains them
        raise UnusableError(str(error)) from None


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="mmda evaluate", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a model (.pt), or predictions as JSON lines")
    parser.add_argument("--annotations", metavar="PATH", help="the true moments, for predictions")
    parser.add_argument("--split", help="file of a folder of annotations: a word in its name, such as test")
    parser.add_argument("--durations", metavar="PATH", help="durations of the videos (Charades-STA), csv or json")
    help_text = (
        "mAP, R1 and, if the predictions contain saliency, HIT@1, as printed by the public QVHighlights evaluator"
    )
    parser.add_argument("--qvhighlights", action="store_true", help=help_text)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    shared.add_evaluation(parser)
    options = parser.parse_args(arguments)
    shared.check_numbers(parser, options)
    is_model = options.file.suffix == ".pt"
    if is_model == (options.annotations is not None):
        parser.error("--annotations goes with a file of predictions, and with no model")
    if options.qvhighlights and is_model:
        parser.error("--qvhighlights goes with a file of predictions")
    thresholds = tuple(sorted({*IOU, *options.iou}))

    def run() -> None:
        if options.qvhighlights:
            scores = score_as_published(options.file, _annotations(options), options.annotations)
            lines = (f"{name:22}{value:7.2f}" for name, value in scores.items())
            print(json.dumps(scores, indent=1) if options.json else "\n".join(lines))
            return
        if is_model:
            result = score_checkpoint(open_checkpoint(options.file), options.preset, thresholds, Draws())
        else:
            notes = _annotations(options)
            result = score_predictions(options.file, notes, options.preset, thresholds)
        print(json.dumps({"queries": len(result), **result.as_dict()}, indent=1) if options.json else result)

    return exit_code(run)
