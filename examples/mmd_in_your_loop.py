"""MMD as an additional term in your own training loop.

Two classes and two cameras. The images of the source camera are labelled; those of the target camera are brighter,
differ in contrast, and have no labels. The same network is trained twice with the same steps: on the source labels
only, and with the squared MMD between the features of the two cameras added.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmda.losses import MMDLoss
from mmda.schedules import dann_ramp


def draw(samples: int, *, shifted: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two classes in 20 dimensions; the shift is an offset and a scaling, independent of the labels."""
    labels = torch.randint(2, (samples,), generator=generator)
    x = torch.randn(samples, 20, generator=generator)
    x[:, :5] += 2.0 * labels[:, None] - 1.0
    return (1.3 * x + 1.5, labels) if shifted else (x, labels)


def train(weight: float, *, steps: int, seed: int) -> float:
    """Accuracy on the target after training with this weight on the MMD term; 0 is source-only."""
    generator = torch.Generator().manual_seed(seed)
    source, source_labels = draw(2000, shifted=False, generator=generator)
    target, _ = draw(2000, shifted=True, generator=generator)
    test, test_labels = draw(2000, shifted=True, generator=generator)
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16))
    head = nn.Linear(16, 2)
    optimiser = torch.optim.Adam([*features.parameters(), *head.parameters()], lr=1e-3)
    mmd = MMDLoss(estimator="unbiased")
    for step in range(steps):
        s, t = torch.randint(2000, (2, 128), generator=generator)
        f_source, f_target = features(source[s]), features(target[t])
        loss = cross_entropy(head(f_source), source_labels[s])
        if weight:
            loss = loss + weight * dann_ramp(step / steps) * mmd(f_source, f_target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (head(features(test)).argmax(1) == test_labels).double().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="draws the data and the initial weights (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to check that it runs")
    options = parser.parse_args()
    steps = 5 if options.smoke else options.steps
    for name, weight in (("source only", 0.0), ("with MMD", 1.0)):
        print(f"{name:12} target accuracy {train(weight, steps=steps, seed=options.seed):.3f}")
