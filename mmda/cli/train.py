"""``mmda train``: train one model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from mmda.cli import options as shared
from mmda.cli.ending import exit_code
from mmda.models.mmcda.experiment import run_training
from mmda.models.mmcda.experiment.launch import TIMEOUT
from mmda.models.mmcda.experiment.rows import FULL

DESCRIPTION = """\
Train one model on two domains and save it.

    mmda train --world language
    mmda train --source DATA/charades --target DATA/tacos --row source-only --seed 3

The data is given as for `mmda table`. If the target's test split has moments, the model is scored on it.

On several processes, each with its part of every batch (batch sizes are totals over all processes):

    torchrun --nproc-per-node 4 --max-restarts 3 -m mmda train --source DATA/charades --target DATA/tacos --epochs 25
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="mmda train", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared.add_data(parser)
    training = shared.add_training(parser)
    training.add_argument("--row", default=FULL, metavar="NAME", help=f"row of the table to train (default: {FULL})")
    training.add_argument("--seed", type=int, default=0, help="seed of weights and batches (default: 0)")
    help_text = "replace a model of the same row and seed in --output, such as the table's (default: an error)"
    training.add_argument("--overwrite", action="store_true", help=help_text)
    help_text = "on several processes: shard the parameters over them"
    training.add_argument("--fsdp", action="store_true", help=help_text)
    help_text = f"on several processes: timeout of collectives in seconds (default: {TIMEOUT:g})"
    training.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S", help=help_text)
    shared.add_output(training)
    shared.add_evaluation(parser)
    options = parser.parse_args(arguments)
    shared.check_data(parser, options)
    shared.check_numbers(parser, options)
    if not 0 < options.timeout < math.inf:
        parser.error(f"--timeout must be above 0, got {options.timeout}")
    options.rows, options.seeds, options.ablation = (options.row,), 1, False
    problems = shared.problems_of(options)
    if options.world is not None and len(problems) > 1:
        parser.error("--world may be given once")
    plan = shared.plan_of(options)

    def run() -> None:
        run_training(problems[0], plan, options.seed, timeout=options.timeout)

    return exit_code(run)
