"""Several processes: each has a part of the batch, and trains on the losses of the whole batch.

The mean of the MMDs of each process is not the MMD of the batch. `DistributedLoss` applies a differentiable gather
before a loss; with `ring=True` blocks of rows are passed between processes instead, and no process ever holds all rows.
At the end the weights are compared with those of one process trained on the whole batches.

    python examples/two_processes.py                 # starts the processes itself, on CPUs
    torchrun --nproc-per-node 2 examples/two_processes.py
"""

from __future__ import annotations

import argparse
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mmda.distributed import DistributedLoss
from mmda.kernels import Gaussian
from mmda.losses import InfoNCELoss, MMDLoss

WIDTH, ROWS = 16, 48


class Step(nn.Module):
    """Network and losses in one module, so that one wrapper handles all parameters."""

    def __init__(self, *, ring: bool) -> None:
        super().__init__()
        self.frames, self.words = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
        self.pairs = DistributedLoss(InfoNCELoss(temperature=0.1), ring=ring)
        self.alignment = DistributedLoss(MMDLoss(kernel=Gaussian("mean")), ring=ring)

    def forward(self, frames: Tensor, words: Tensor, target: Tensor) -> Tensor:
        frames, target = self.frames(frames), self.frames(target)
        loss: Tensor = self.pairs(frames, self.words(words)) + self.alignment(frames, target)
        return loss


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames with their words, and frames of another domain."""
    draw = torch.Generator().manual_seed(step)
    frames = torch.randn(ROWS, WIDTH, generator=draw)
    words = frames.flip(1) + 0.1 * torch.randn(ROWS, WIDTH, generator=draw)
    return frames, words, torch.randn(ROWS, WIDTH, generator=draw) + 0.5


def train(steps: int, *, ring: bool) -> nn.Module:
    """Train on this process's part of every batch, or on all of it without other processes."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)
    step = Step(ring=ring)
    model = nn.parallel.DistributedDataParallel(step) if size > 1 else step
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(steps):
        shares = [x.tensor_split(size)[rank] for x in batch(number)]  # they may differ in size
        optimiser.zero_grad()
        model(*shares).backward()
        optimiser.step()
    return step


def work(rank: int, size: int, port: int, steps: int) -> None:
    """Entry point of a process: train both ways, and compare with a single process."""
    if port:  # without torchrun, which sets these variables
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    alone = train(steps, ring=False)
    dist.init_process_group("gloo")
    for ring in (False, True):
        together = train(steps, ring=ring)
        far = max((a - b).detach().abs().max().item() for a, b in zip(alone.parameters(), together.parameters()))
        if dist.get_rank() == 0:
            way = "ring" if ring else "rows gathered"
            print(f"{dist.get_world_size()} processes, {way:13}: weights of one process to {far:.0e}")
        if far > 1e-4:
            raise SystemExit("the weights differ from those of one process")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="number of processes without torchrun (default: 2)")
    parser.add_argument("--steps", type=int, default=50, help="training steps (default: 50)")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to check that it runs")
    options = parser.parse_args()
    steps = 3 if options.smoke else options.steps
    if "RANK" in os.environ:
        work(0, 0, 0, steps)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(options.processes, port, steps), nprocs=options.processes)


if __name__ == "__main__":
    main()
