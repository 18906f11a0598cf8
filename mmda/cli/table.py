"""``mmda table``: train every row of a comparison, and print the table with its intervals."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmda.cli import options as shared
from mmda.cli import predict
from mmda.cli.ending import exit_code
from mmda.models.mmcda.experiment import run_table, train_row
from mmda.models.mmcda.experiment.runs import Recipe

DESCRIPTION = """\
Cross-domain video moment retrieval: train on one domain, lose accuracy on another, and recover part of it with MMCDA.

    mmda table                                            two simulated worlds, under three minutes on two cores
    mmda table --world noisy --ablation --seeds 5
    mmda table --source DATA/charades --target DATA/tacos --epochs 25

On real data, --source and --target each name a folder that holds annotations (any format that `mmda check` reads)
beside `video` and `query` features, or the common prefix of three files PREFIX.jsonl, PREFIX_video.npz and
PREFIX_query.npz, or a file of annotations, with --source-video and so on for its features. Published files of train,
val and test are the splits; one file alone is split by video. Frames of both domains must have one width, queries too.

The target's boundaries are hidden: training and checkpoint selection do not use them. Only the evaluation reads
those of the test split, and rows named "supervised" read others.
"""


def _parser(program: str, description: str, *, asking: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared.add_data(parser)
    training = shared.add_training(parser)
    training.add_argument("--ablation", action="store_true", help="all rows: also each module left out, and controls")
    help_text = "train only these rows: names, or prefixes of names"
    training.add_argument("--rows", nargs="+", metavar="NAME", help=help_text)
    training.add_argument("--seeds", type=int, help="number of seeds (default: 3 for training on real data, else 1)")
    training.add_argument(
        "--workers", type=int, help="number of processes (default: one per core, at most 8; 1 on a GPU)"
    )
    shared.add_output(training)
    shared.add_evaluation(parser)
    if asking:
        group = parser.add_argument_group("prediction with a trained model")
        group.add_argument("--predict", metavar="SENTENCE", help="print the best moments of --video for a sentence")
        help_text = "answer every query of a file, folder or prefix of annotations, with features as for --target"
        group.add_argument("--predict-all", metavar="PATH", help=f"{help_text}; written to --output/predictions")
        predict.add_asking(group)
    return parser


def main(
    arguments: Sequence[str],
    *,
    recipe: Recipe = train_row,
    program: str = "mmda table",
    description: str = DESCRIPTION,
    asking: bool = False,
) -> int:
    """Run the command; ``asking`` adds the options of ``mmda predict``. Returns the exit code."""
    parser = _parser(program, description, asking=asking)
    options = parser.parse_args(arguments)
    asks = asking and (options.predict is not None or options.predict_all is not None)
    if asks:
        predict.check(parser, options)
    else:
        shared.check_data(parser, options)
    shared.check_numbers(parser, options)
    if asks:
        return exit_code(lambda: predict.run(options))
    workers = options.workers or (1 if options.smoke else None)
    problems, plan = shared.problems_of(options), shared.plan_of(options)

    def command() -> None:
        run_table(problems, plan, workers=workers, recipe=recipe, arguments=arguments)

    return exit_code(command)
