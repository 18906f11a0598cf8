"""DistributedDataParallel and FSDP2 on two processes: the gradients are those of one process with the whole batch.

The script starts its two processes itself, on CPUs with gloo. In practice use `torchrun` and nccl.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmda.distributed import DistributedLoss
from mmda.losses import InfoNCELoss, MMDLoss

PROCESSES = 2


class Step(nn.Module):
    """Network and losses in one module, so that one wrapper handles all parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.alignment = DistributedLoss(MMDLoss())
        self.pairs = DistributedLoss(InfoNCELoss(temperature=0.1))

    def forward(self, source: Tensor, target: Tensor, query: Tensor) -> Tensor:
        """InfoNCE of source and query, plus the discrepancy of the domains."""
        source, target = self.encoder(source), self.encoder(target)
        return self.pairs(source, query) + self.alignment(source, target)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """The same rows on every process."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(32, width, generator=generator) for width in (16, 16, 8))  # type: ignore[return-value]


def gradient(step: nn.Module) -> Tensor:
    """All gradients as one vector, with shards gathered."""
    found = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in step.parameters()]
    return torch.cat([each.flatten() for each in found])


def run(wrapper: str) -> Tensor:
    """One forward and backward pass on this process's part of the rows."""
    torch.manual_seed(0)
    step = Step()
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if wrapper == "DDP":
        step = nn.parallel.DistributedDataParallel(step)
    elif wrapper == "FSDP2":
        fully_shard(step, mesh=dist.device_mesh.init_device_mesh("cpu", (world,)))
    step(*(rows.chunk(world)[rank] for rows in batch())).backward()
    return gradient(step)


def work(rank: int, folder: str) -> None:
    """Entry point of each process."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    found = {name: run(name) for name in ("DDP", "FSDP2")}
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.barrier()
    dist.destroy_process_group()


def compare() -> dict[str, float]:
    """Largest relative difference to the gradient of one process with the whole batch."""
    alone = run("none")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, args=(folder,), nprocs=PROCESSES)
        found = torch.load(Path(folder, "found.pt"), weights_only=True)
    return {name: ((each - alone).norm() / alone.norm()).item() for name, each in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="no effect: the example is fast")
    parser.parse_args()
    found = compare()
    for name, difference in found.items():
        print(f"{name}: relative difference of the gradient {difference:.0e}")
    raise SystemExit(0 if max(found.values()) < 1e-5 else "the gradients differ")
