"""Several processes: each has its share of the batch, and trains on the losses of the whole of it.

The mean of the processes' own MMDs is not the MMD of the batch. `DistributedLoss` puts a gather with a gradient in
front of a loss; with `ring=True` the rows of the others pass by instead, and no process ever holds them all. At the end
the weights are compared with those of one process that was given the whole batches.

    python examples/two_processes.py                 # starts its processes itself, on CPUs
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
    """Network and losses in one module, so that one wrapper sees every parameter."""

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
    """Train on this process's share of every batch, or on all of it where it is alone."""
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
    """One process: train both ways, and compare with the process that is alone."""
    if port:  # without torchrun, which sets these itself
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    alone = train(steps, ring=False)
    dist.init_process_group("gloo")
    for ring in (False, True):
        together = train(steps, ring=ring)
        far = max((a - b).detach().abs().max().item() for a, b in zip(alone.parameters(), together.parameters()))
        if dist.get_rank() == 0:
            way = "rows pass by" if ring else "rows gathered"
            print(f"{dist.get_world_size()} processes, {way:13}: weights of one process to {far:.0e}")
        if far > 1e-4:
            raise SystemExit("the processes do not train what one process trains")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="where torchrun did not start any (default: 2)")
    parser.add_argument("--steps", type=int, default=50, help="training steps (default: 50)")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
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
