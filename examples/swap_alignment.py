"""One training loop, several alignments: swap MMD for CORAL or an adversary by one argument.

Three classes, labelled in the source. The target has the same classes, shifted and scaled, without labels. `train`
takes any discrepancy, that is, any module called as `loss(source, target)`, including your own. Its parameters, if any
(such as an adversary's discriminator), are passed to the same optimiser; there is one backward pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmda.kernels import Energy
from mmda.layers import DomainDiscriminator
from mmda.losses import CORALLoss, DomainAdversarialLoss, MMDLoss
from mmda.schedules import dann_ramp

WIDTH = 16  # number of features to align
OFFSET = torch.linspace(2.0, -2.0, 20)  # between source and target

# Each loss with its weight: the values of these losses have different units.
ALIGNMENTS: dict[str, tuple[Callable[[], nn.Module | None], float]] = {
    "none": (lambda: None, 0.0),
    "MMD": (lambda: MMDLoss(estimator="unbiased"), 1.0),
    "energy distance": (lambda: MMDLoss(kernel=Energy()), 1.0),
    "CORAL with means": (lambda: CORALLoss(match_mean=True), 100.0),
    "adversary": (lambda: DomainAdversarialLoss(DomainDiscriminator(WIDTH, hidden=[32])), 1.0),
}


def draw(samples: int, *, shifted: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Three classes in 20 dimensions, each offset from the origin along four axes."""
    labels = torch.randint(3, (samples,), generator=generator)
    x = torch.randn(samples, 20, generator=generator)
    x[:, :12] += 1.5 * nn.functional.one_hot(labels, 3).repeat_interleave(4, dim=1)
    return (1.3 * x + OFFSET, labels) if shifted else (x, labels)


def train(alignment: nn.Module | None, *, weight: float, steps: int, seed: int) -> float:
    """Accuracy on the target after training with this alignment; none is source-only."""
    generator = torch.Generator().manual_seed(seed)
    source, source_labels = draw(2000, shifted=False, generator=generator)
    target, _ = draw(2000, shifted=True, generator=generator)
    test, test_labels = draw(2000, shifted=True, generator=generator)
    features, head = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, WIDTH)), nn.Linear(WIDTH, 3)
    modules = nn.ModuleList([features, head] if alignment is None else [features, head, alignment])
    optimiser = torch.optim.Adam(modules.parameters(), lr=1e-3)
    for step in range(steps):
        s, t = torch.randint(2000, (2, 128), generator=generator)
        f_source, f_target = features(source[s]), features(target[t])
        loss = cross_entropy(head(f_source), source_labels[s])
        if alignment is not None:
            loss = loss + weight * dann_ramp(step / steps) * alignment(f_source, f_target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (head(features(test)).argmax(1) == test_labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps (default: 400)")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs per row (default: 3)")
    parser.add_argument("--smoke", action="store_true", help="a few steps and two seeds, to check that it runs")
    options = parser.parse_args()
    steps, seeds = (5, 2) if options.smoke else (options.steps, max(2, options.seeds))
    print(f"{'alignment':18} target accuracy, mean and deviation over {seeds} seeds")
    for name, (build, weight) in ALIGNMENTS.items():
        scores = []
        for seed in range(seeds):
            torch.manual_seed(seed)  # for the initial weights, including the discriminator's
            scores.append(train(build(), weight=weight, steps=steps, seed=seed))
        print(f"{name:18} {mean(scores):.3f} +- {stdev(scores):.3f}")


if __name__ == "__main__":
    main()
