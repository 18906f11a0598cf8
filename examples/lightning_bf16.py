"""A classifier with an alignment term in Lightning: bf16, a kernel among the hyper-parameters, loading a checkpoint.

No special handling is needed: the loss is a module without parameters that converts bfloat16 features to float32, and a
kernel is a plain value that Lightning saves and `torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from mmda.kernels import Gaussian, Kernel
from mmda.losses import MMDLoss
from mmda.schedules import dann_ramp

try:
    import lightning
except ImportError:
    lightning = None


def problem(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two classes; the target is scaled and shifted. The target's labels are only used for accuracy."""
    labels, hidden = torch.randint(2, (2, n))
    source = torch.randn(n, 10) + 1.5 * labels[:, None]
    target = 1.3 * (torch.randn(n, 10) + 1.5 * hidden[:, None]) + torch.linspace(2, -1, 10)
    return source, labels, target, hidden


class Adapted(lightning.LightningModule if lightning else nn.Module):
    """Cross-entropy on the source, MMD between the features of both domains."""

    def __init__(self, weight: float = 1.0, kernel: Kernel | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.features = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.head = nn.Linear(32, 2)
        self.alignment = MMDLoss(kernel=kernel or Gaussian("median"), estimator="unbiased")

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        """One batch of both domains."""
        source, labels, target = batch
        f_source, f_target = self.features(source), self.features(target)
        alignment = self.alignment(f_source, f_target)
        ramp = dann_ramp(self.global_step / self.trainer.estimated_stepping_batches)
        return cross_entropy(self.head(f_source), labels) + self.hparams.weight * ramp * alignment

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Fraction of correct predictions."""
        with torch.no_grad():
            return (self.head(self.features(x)).argmax(1) == labels).float().mean().item()


def train(weight: float, epochs: int) -> tuple[Adapted, float]:
    """Train, save and load; returns the loaded model and its accuracy on the target."""
    lightning.seed_everything(0, verbose=False)
    source, labels, target, hidden = problem(600)
    loader = DataLoader(TensorDataset(source, labels, target), batch_size=100, shuffle=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=epochs, precision="bf16-mixed", accelerator="cpu", devices=1, enable_checkpointing=False, **quiet
    )
    trainer.fit(Adapted(weight, kernel=Gaussian("mean")), loader)
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/adapted.ckpt")
        model = Adapted.load_from_checkpoint(f"{folder}/adapted.ckpt", weights_only=True)
    return model, model.accuracy(target, hidden)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few epochs")
    epochs = 2 if parser.parse_args().smoke else 20
    if lightning is None:
        print("skipped: lightning is not installed (pip install lightning)")
        raise SystemExit(0)
    for weight in (0.0, 1.0):
        model, accuracy = train(weight, epochs)
        print(f"weight {weight:g}: {accuracy:.0%} right on the target, {model.hparams.kernel}")
