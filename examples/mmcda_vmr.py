"""Cross-domain video moment retrieval: train on one domain, lose accuracy on another, recover part of it with MMCDA.

    python examples/mmcda_vmr.py                          two simulated worlds, under three minutes on two cores
    python examples/mmcda_vmr.py --world noisy --ablation --seeds 5
    python examples/mmcda_vmr.py --source DATA/charades --target DATA/tacos --epochs 25
    python examples/mmcda_vmr.py --predict "the concept07-a of" --video target-test-3
    python examples/mmcda_vmr.py --predict-all QUERIES.jsonl --target-video VIDEO --target-query QUERY

`recipe` below trains one row of the table; the library runs it for every row and seed in worker processes, resumes with
--resume, scores the rows and compares them. Edit it to get a table of your own recipe. The command `mmda` does the same
without this file.

On real data, --source and --target each name a folder that holds annotations (any format that `mmda check` reads)
beside `video` and `query` features, or the common prefix of three files PREFIX.jsonl, PREFIX_video.npz and
PREFIX_query.npz, or a file of annotations, with --source-video and so on for its features. Published files of train,
val and test are the splits; one file alone is split by video. Frames of both domains must have one width, queries too.

The target's boundaries are hidden: training and checkpoint selection do not use them. Only the evaluation reads those
of the test split, and rows named "supervised" read others.
"""

from __future__ import annotations

import sys

import torch

from mmda.cli.table import main
from mmda.models.mmcda import MMCDAObjective, Progress, build_mmcda, fit, selection_score
from mmda.models.mmcda.experiment import Draws, Job, Trained, alignment_of, batches_of
from mmda.models.mmcda.experiment.runs import OnStep, start_model


def recipe(job: Job, data: Draws, on_step: OnStep | None = None) -> Trained:
    """Train one row with one seed."""
    # Two domains. The source has moments; the target has pairs of video and query without moments.
    source, target = data.load(job.problem, job.seed)
    batches = batches_of(job, source, target)

    # The model maps a batch to the features and logits that the losses need.
    torch.manual_seed(job.seed)
    config = job.config(*batches.widths)
    model = build_mmcda(config).to(job.device)

    # Linear heads are first fitted in closed form to the source's moments, and to the target's pairs with (ii) or
    # (iii). The parameters trained below start at zero on top of them; some rows train none.
    start_model(model, job, data)
    if not job.weights:
        return Trained(model.eval(), config, Progress())

    # The terms, with one weight per role. The domain alignment is any loss called as loss(source, target).
    objective = MMCDAObjective(
        weights=job.weights,
        video_discrepancy=alignment_of(job.alignment, config.hidden),
        query_discrepancy=alignment_of(job.alignment, config.hidden),
        temperature=config.temperature,
    ).to(job.device)

    # One optimiser, one backward pass per step. Held-out source moments and held-out pairs select the checkpoint.
    held_out = batches.target_val if objective.needs_target else None
    progress = fit(
        model,
        objective,
        batches.source,
        batches.target,
        config=job.training,
        validate=None if job.train_on_val else lambda m: selection_score(m, batches.source_val, held_out),
        on_step=on_step,
        resume=job.run_path,
        save_steps=job.save_steps,
        save_seconds=job.save_seconds,
        device=job.device,
    )
    return Trained(model, config, progress)


if __name__ == "__main__":
    # Train every row, score it on the target's test videos, and print a table; all flags come from the library.
    program = "examples/mmcda_vmr.py"
    sys.exit(main(sys.argv[1:], recipe=recipe, program=program, description=__doc__, asking=True))
