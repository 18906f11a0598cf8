"""Memory and traffic of a loss over the rows of all ranks: gathered, and with rows that pass by.

    python -m benchmarks.ring            # writes benchmarks/results/ring.json

By world size from 8 to 1,024 ranks: the formulas, and the same numbers from a simulation of the schedule that checks
that every rank meets the rows of every other exactly once. For 2 and 4 gloo processes on one machine: what was sent,
by how much the peak of resident memory rose in a call with its backward, and how far value and gradients of the two
ways lie apart in float64.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmda._engine import ring
from mmda.distributed import DistributedLoss
from mmda.kernels import Gaussian
from mmda.losses import InfoNCELoss, MMDLoss, SigmoidContrastiveLoss

RESULTS = Path(__file__).with_name("results") / "ring.json"

#: Rows of a rank on each side, and their width, of the measured runs.
ROWS, WIDTH = 1024, 4096

LOSSES = {
    "mmd": lambda: MMDLoss(kernel=Gaussian("mean")),
    "info_nce": lambda: InfoNCELoss(temperature=0.1),
    "sigmoid": lambda: SigmoidContrastiveLoss(),
}

#: Numbers a row that travels has in each round, for rows of width d on two sides.
TRAVELLING = {
    "mmd": lambda n, d: [2 * n * (d + 1)],
    "info_nce": lambda n, d: [2 * n * d, n * (2 * d + 2)],
    "sigmoid": lambda n, d: [2 * n * d],
}


def formula(loss: str, ranks: int, n: int, d: int, size: int = 4) -> dict[str, float]:
    """Bytes that a rank holds of rows and their gradients, and that it sends, with n rows of width d a side.

    Gathered: the rows of all ranks and their gradient; the gather sends (W - 1) blocks, the sum of the gradients
    (a ring all-reduce) twice as many. Passing by: own rows, their gradients, and two blocks under way.
    """
    block = 2 * n * d
    rounds = TRAVELLING[loss](n, d)
    return {
        "gather_held": size * (2 * ranks * block + block),
        "gather_sent": size * 3 * (ranks - 1) * block,
        "ring_held": size * (2 * block + 2 * max(rounds)),
        "ring_sent": size * (ranks - 1) * sum(rounds),
    }


def simulated(loss: str, ranks: int, n: int, d: int, size: int = 4) -> dict[str, float]:
    """The same of the ring by going through its schedule."""
    sent, most = [0] * ranks, 0
    for numbers in TRAVELLING[loss](n, d):
        held = list(range(ranks))
        met = [{rank} for rank in range(ranks)]
        for _ in range(ranks - 1):
            most = max(most, size * (4 * n * d + 2 * numbers))
            held = [held[(rank - 1) % ranks] for rank in range(ranks)]
            for rank in range(ranks):
                sent[rank] += size * numbers
                assert held[rank] not in met[rank]
                met[rank].add(held[rank])
        assert all(len(each) == ranks for each in met)
    assert len(set(sent)) == 1
    return {"ring_held": most, "ring_sent": sent[0]}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _apart(rank: int, loss: str) -> float:
    """The largest difference of value and gradients between the two ways, over the largest gradient, in float64."""
    draw = torch.Generator().manual_seed(rank)
    found = []
    rows = [torch.randn(65 + rank * (loss == "mmd"), 33, generator=draw, dtype=torch.float64) for _ in range(2)]
    for passing in (False, True):
        leaves = [x.clone().requires_grad_() for x in rows]
        value = DistributedLoss(LOSSES[loss](), ring=passing)(*leaves)
        found.append([value.detach(), *torch.autograd.grad(value, leaves)])
    largest = max(float(x.abs().max()) for x in found[0][1:])
    return max(float((a - b).abs().max()) for a, b in zip(*found)) / largest


def _measure(rank: int, ranks: int, loss: str, passing: bool, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    hour = datetime.timedelta(hours=1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks, timeout=hour)
    rings: list[ring.Ring] = []

    class Counted(ring.Ring):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            rings.append(self)

    ring.Ring = Counted  # type: ignore[misc]
    module = DistributedLoss(LOSSES[loss](), ring=passing)
    small = [torch.randn(8, WIDTH, requires_grad=True) for _ in range(2)]
    module(*small).backward()  # whatever the first call loads
    x, y = (torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(rank + k)) for k in (0, 100))
    x.requires_grad_()
    y.requires_grad_()
    rings.clear()
    before = _peak()
    value = module(x, y)
    value.backward()
    found = {"rise": _peak() - before, "sent": sum(each.sent for each in rings), "apart": _apart(rank, loss)}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measured(loss: str, ranks: int) -> dict[str, float]:
    """One call and its backward, each way, in fresh processes; the largest rise of any rank."""
    found: dict[str, float] = {}
    for name, passing in (("gather", False), ("ring", True)):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_measure, args=(ranks, loss, passing, folder), nprocs=ranks)
            each = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
        found[f"{name}_rise"] = max(one["rise"] for one in each)
        found["apart"] = max(one["apart"] for one in each)
        if passing:
            found["ring_sent"] = max(one["sent"] for one in each)
    return found


def main() -> None:
    """Make the table and write it."""
    table = []
    for loss in LOSSES:
        for ranks in (8, 16, 32, 64, 128, 256, 512, 1024):
            row = formula(loss, ranks, ROWS, 512)
            again = simulated(loss, ranks, ROWS, 512)
            assert all(row[name] == value for name, value in again.items()), (loss, ranks)
            table.append({"loss": loss, "ranks": ranks, **row})
    runs = []
    for loss in LOSSES:
        for ranks in (2, 4):
            runs.append({"loss": loss, "ranks": ranks, **measured(loss, ranks)})
            print(runs[-1], flush=True)
            assert runs[-1]["ring_sent"] == formula(loss, ranks, ROWS, WIDTH)["ring_sent"], runs[-1]
    content = {
        "unit": "bytes a rank",
        "formula": {"rows a rank and side": ROWS, "width": 512, "dtype": "float32", "by world size": table},
        "measured": {"rows a rank and side": ROWS, "width": WIDTH, "dtype": "float32", "runs": runs},
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
