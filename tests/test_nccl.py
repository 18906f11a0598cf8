"""Every collective on one rank, over gloo and, with a GPU, over NCCL: as the plain loss and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmda.distributed import DistributedLoss
from mmda.kernels import Gaussian
from mmda.layers import LearnableTemperature
from mmda.losses import CORALLoss, InfoNCELoss, MMDLoss, SigmoidContrastiveLoss

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "coral": CORALLoss,
    "mmd": lambda: MMDLoss(kernel=Gaussian("mean")),
    "info nce": lambda: InfoNCELoss(temperature=LearnableTemperature(0.2)),
    "sigmoid": SigmoidContrastiveLoss,
}
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Step(nn.Module):
    """A network and a loss; ``ring`` as in :class:`DistributedLoss`, None for the plain loss."""

    def __init__(self, make: Callable[[], nn.Module], ring: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.loss, self.ring = nn.Sequential(nn.Linear(5, 4), nn.Tanh()), make(), ring

    def forward(self, x: Tensor, y: Tensor, keywords: dict[str, Tensor]) -> Tensor:
        rows = self.encoder(x), self.encoder(y)
        if self.ring is None:
            return self.loss(*rows, **keywords)
        return DistributedLoss(self.loss, ring=self.ring)._over_ranks(rows, keywords)  # `forward` skips it for one rank


@pytest.mark.parametrize(
    ("backend", "device"), [("gloo", "cpu"), pytest.param("nccl", "cuda:0", marks=NEEDS_GPU)], ids=["gloo", "nccl"]
)
def test_one_rank(backend: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    meeting: dict[str, Any] = {"init_method": f"file://{tmp_path}/meeting", "rank": 0, "world_size": 1}
    dist.init_process_group(backend, device_id=torch.device(device) if backend == "nccl" else None, **meeting)
    try:
        draw = torch.Generator().manual_seed(1)
        rows = [torch.randn(9, 5, generator=draw, dtype=torch.float64).to(device) for _ in range(2)]
        for name, make in LOSSES.items():
            keywords = {"source_mask": torch.arange(9, device=device) < 7} if name == "mmd" else {}
            found = []
            for ring in (None, False) if name == "coral" else (None, False, True):
                step = nn.parallel.DistributedDataParallel(Step(make, ring).to(device, torch.float64))
                value = step(*rows, keywords)
                value.backward()
                found.append({f"{name} {key}": p.grad for key, p in step.named_parameters()} | {name: value.detach()})
            for each in found[1:]:
                torch.testing.assert_close(each, found[0], rtol=1e-10, atol=1e-12)
    finally:
        dist.destroy_process_group()
