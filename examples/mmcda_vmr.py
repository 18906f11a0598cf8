"""Cross-domain video moment retrieval: train on one domain, fail on another, and win part of it back with MMCDA.

    python examples/mmcda_vmr.py                          two simulated worlds, under three minutes on two cores
    python examples/mmcda_vmr.py --world noisy --ablation --seeds 5
    python examples/mmcda_vmr.py --source DATA/charades --target DATA/tacos --epochs 25
    python examples/mmcda_vmr.py --predict "the concept07-a of" --video target-test-3
    python examples/mmcda_vmr.py --predict-all QUERIES.jsonl --target-video VIDEO --target-query QUERY

`recipe` below trains one row of the table; the library runs it for every row and seed, in worker processes, goes on
with what --resume finds, scores the rows and compares them. Change it, and the table is that of the changed recipe.
The command `mmda` does the same without this file.

On real data, --source and --target each name a folder that holds annotations (any layout that `mmda check` reads)
beside `video` and `query` features, or the common prefix of three files PREFIX.jsonl, PREFIX_video.npz and
PREFIX_query.npz, or a file of annotations, with --source-video and so on for its features. Published files of train,
val and test are the splits; one file alone is split by video. Frames of both domains must have one width, queries too.

The target's boundaries are closed: training and the choice of a checkpoint never look at them, so that nothing in them
changes a weight. Those of the test split are opened by the evaluation (and others by the rows that say "supervised").
"""

from __future__ import annotations

import sys

import torch

from mmda.cli.table import main
from mmda.models.mmcda import MMCDAObjective, Progress, build_mmcda, fit, selection_score
from mmda.models.mmcda.experiment import Draws, Job, Trained, alignment_of, batches_of
from mmda.models.mmcda.experiment.runs import OnStep, start_model


def recipe(job: Job, data: Draws, on_step: OnStep | None = None) -> Trained:
    """One row, one seed."""
    # Two domains. The source has moments, the target pairs of video and query without them.
    source, target = data.load(job.problem, job.seed)
    batches = batches_of(job, source, target)

    # The model maps a batch to what the losses need and knows none of them.
    torch.manual_seed(job.seed)
    config = job.config(*batches.widths)
    model = build_mmcda(config).to(job.device)

    # Linear heads are fixed in closed form first: by the source's moments, and by the target's pairs where (ii) or
    # (iii) is on. What is trained below starts at zero on top of them; some rows have nothing on top.
    start_model(model, job, data)
    if not job.weights:
        return Trained(model.eval(), config, Progress())

    # The terms: a weight each, by role. What aligns the domains is any loss with the call loss(source, target).
    objective = MMCDAObjective(
        weights=job.weights,
        video_discrepancy=alignment_of(job.alignment, config.hidden),
        query_discrepancy=alignment_of(job.alignment, config.hidden),
        temperature=config.temperature,
    ).to(job.device)

    # One optimiser, one backward a step. Held-out moments of the source and held-out pairs choose the checkpoint.
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
    # Every row trained, scored on the target's test videos, and set into a table; every flag is the library's.
    program = "examples/mmcda_vmr.py"
    sys.exit(main(sys.argv[1:], recipe=recipe, program=program, description=__doc__, asking=True))
