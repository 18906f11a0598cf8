"""MMCDA in a plain training loop: two loaders, one model, one objective, one backward pass per step.

In addition to this, `fit` clips gradients, decays the learning rate, selects a checkpoint, saves, and resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from mmda.models.mmcda import MMCDAConfig, MMCDAObjective, build_mmcda, predict_split
from mmda.schedules import dann_ramp
from mmda.vmr import WORLDS, ResidentLoader, VMRBatch, simulate
from mmda.vmr.evaluation import evaluate_windows


def forever(loader: ResidentLoader) -> Iterator[VMRBatch]:
    while True:
        yield from loader


def train(weights: dict[str, float] | None, *, steps: int, seed: int = 0) -> float:
    """R@1 at IoU 0.5 on the target's test videos; `weights=None` is the full objective."""
    draw = simulate(WORLDS["language"], seed=seed)  # the domains share videos but use different words
    source = forever(ResidentLoader(draw.source_train, 32, seed=seed, drop_last=True))
    target = forever(ResidentLoader(draw.target_train, 32, seed=seed + 1, labels=False, drop_last=True))

    torch.manual_seed(seed)
    config = MMCDAConfig(video_width=32, query_width=24, hidden=64, joint=32, context_layers=0, dropout=0.0)
    model = build_mmcda(config)
    objective = MMCDAObjective(weights=weights)
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=2e-3)
    for step in range(steps):
        source_batch, target_batch = next(source), next(target)
        result = objective(
            model(source_batch),
            source_batch,
            model(target_batch) if objective.needs_target else None,
            target_batch if objective.needs_target else None,
            strength=dann_ramp(step / steps),  # the target's terms ramp up
        )
        optimiser.zero_grad()
        result.total.backward()
        optimiser.step()

    test = draw.target_test
    spans, _ = predict_split(model.eval(), ResidentLoader(test, 128, shuffle=False, labels=False))
    assert test.windows is not None
    return evaluate_windows(spans.windows, test.windows, prediction_mask=spans.mask)["R@1, IoU=0.5"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: 300)")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to check that it runs")
    options = parser.parse_args()
    steps = 3 if options.smoke else options.steps
    for name, weights in (("source only", {"moment": 1.0}), ("MMCDA", None)):
        print(f"{name:12} R@1 at IoU 0.5 on the target: {100 * train(weights, steps=steps):.1f}")


if __name__ == "__main__":
    main()
