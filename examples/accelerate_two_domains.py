"""Two data loaders in Accelerate, bf16, one process or several: the alignment term uses the gathered batch.

On one process, `python examples/accelerate_two_domains.py`; on several, `accelerate launch --num_processes 2 --cpu
examples/accelerate_two_domains.py`. Network and losses are in one module, so that `prepare` wraps them together.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from mmda.distributed import DistributedLoss
from mmda.losses import MMDLoss
from mmda.schedules import dann_ramp

try:
    from accelerate import Accelerator
except ImportError:
    Accelerator = None


class Step(nn.Module):
    """Source features, target features and labels in, one loss out."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.features = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.head = nn.Linear(32, 2)
        self.alignment = DistributedLoss(MMDLoss(estimator="unbiased"))

    def forward(self, source: Tensor, labels: Tensor, target: Tensor, ramp: float) -> Tensor:
        """The loss of one step; the ramp comes from the training loop."""
        f_source, f_target = self.features(source), self.features(target)
        loss = cross_entropy(self.head(f_source), labels)
        return loss + self.weight * ramp * self.alignment(f_source, f_target)


def train(weight: float, epochs: int) -> float:
    """Accuracy on the target after training; its labels are only used for this."""
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    torch.manual_seed(0)
    labels, hidden = torch.randint(2, (2, 600))
    source = torch.randn(600, 10) + 1.5 * labels[:, None]
    target = 1.3 * (torch.randn(600, 10) + 1.5 * hidden[:, None]) + torch.linspace(2, -1, 10)
    step = Step(weight)
    optimiser = torch.optim.Adam(step.parameters(), lr=0.01)
    mine = DataLoader(TensorDataset(source, labels), batch_size=100, shuffle=True)
    other = DataLoader(TensorDataset(target), batch_size=100, shuffle=True)
    step, optimiser, mine, other = accelerator.prepare(step, optimiser, mine, other)
    for epoch in range(epochs):
        for (x, y), (z,) in zip(mine, other, strict=True):
            optimiser.zero_grad()
            accelerator.backward(step(x, y, z, dann_ramp(epoch / epochs)))
            optimiser.step()
    trained = accelerator.unwrap_model(step)
    with torch.no_grad():
        answers = trained.head(trained.features(target.to(accelerator.device))).argmax(1).cpu()
    accelerator.end_training()
    return (answers == hidden).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few epochs")
    epochs = 2 if parser.parse_args().smoke else 20
    if Accelerator is None:
        print("skipped: accelerate is not installed (pip install accelerate)")
        raise SystemExit(0)
    for weight in (0.0, 1.0):
        print(f"weight {weight:g}: {train(weight, epochs):.0%} right on the target")
