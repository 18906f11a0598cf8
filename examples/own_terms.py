"""The objective of MMCDA is a list of terms: replace a loss, append your own, train as before."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from mmda.losses import SigmoidContrastiveLoss
from mmda.models.mmcda import (
    MMCDAConfig,
    MMCDAObjective,
    PooledPairTerm,
    Term,
    TrainingConfig,
    View,
    build_mmcda,
    default_terms,
    fit,
    source_score,
)
from mmda.vmr import ResidentLoader, World, simulate


def decorrelation(target: View) -> Tensor:
    """A custom term: squared correlations between the joint dimensions of the target's queries."""
    query = target.output.joint_query
    query = (query - query.mean(0)) / (query.std(0) + 1e-4)
    correlation = query.T @ query / len(query)
    return (correlation - torch.diag(correlation.diagonal())).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to check that it runs")
    steps = 4 if parser.parse_args().smoke else 300
    draw = simulate(World(videos=400, test_videos=100))
    terms = [term for term in default_terms() if term.role != "cross_modal"]
    terms.append(Term("cross_modal", "target", 0.5, PooledPairTerm(SigmoidContrastiveLoss(bias=-3.0))))
    terms.append(Term("decorrelation", "target", 0.1, decorrelation))
    torch.manual_seed(0)
    model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, joint=32))
    objective = MMCDAObjective(terms=terms)
    source, target = ResidentLoader(draw.source_train, 32), ResidentLoader(draw.target_train, 32, labels=False)
    progress = fit(model, objective, source, target, config=TrainingConfig(steps=steps, evaluations=1))
    score = source_score(model, [draw.target_test])
    print(f"step {progress.step}: {', '.join(objective.weights)}; mean IoU on the target {100 * score:.1f}")


if __name__ == "__main__":
    main()
