"""A soak of training in pieces: does memory, or the number of open files, grow, and does a step get slower?

    nice -n 19 python -m benchmarks.soak --minutes 15       # benchmarks/results/soak.json

One process trains a small MMCDA on simulated videos with discriminator, running mean, checkpoints by steps and a log of
JSON lines. Every few minutes it is stopped as by SIGTERM and gone on with from its file. Each piece tells its resident
memory, open files and steps a second of processor time, which other work on the machine disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mmda.layers import DomainDiscriminator
from mmda.losses import DomainAdversarialLoss
from mmda.models.mmcda import MMCDAConfig, MMCDAObjective, TrainingConfig, TrainingStopped, build_mmcda, fit
from mmda.models.mmcda.logs import JSONLines
from mmda.vmr import WORLDS, ResidentLoader, simulate

RESULTS = Path(__file__).with_name("results") / "soak.json"


def resident() -> float:
    """Memory of this process in MB of 10^6 bytes, as it is now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def slope(seconds: list[float], values: list[float]) -> float:
    """Of the line of least squares, an hour."""
    middle, mean = statistics.fmean(seconds), statistics.fmean(values)
    spread = sum((s - middle) ** 2 for s in seconds)
    return 3600 * sum((s - middle) * (v - mean) for s, v in zip(seconds, values)) / spread


def piece(folder: Path, seconds: float, began: float) -> list[dict[str, float]]:
    """Train for so long, from where the last piece ended; what was seen every five seconds."""
    draw = simulate(WORLDS["language"], seed=0)
    torch.manual_seed(0)
    model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=64, joint=32, dropout=0.1))
    objective = MMCDAObjective(joint_discrepancy=DomainAdversarialLoss(DomainDiscriminator(32)))
    source = ResidentLoader(draw.source_train, 32, seed=0, drop_last=True)
    target = ResidentLoader(draw.target_train, 32, seed=1, labels=False, drop_last=True)
    seen: list[dict[str, float]] = []
    ends, steps, processor = time.monotonic() + seconds, 0, time.process_time()

    def on_step(step: int) -> None:
        nonlocal steps, processor
        steps += 1
        now, used = time.monotonic(), time.process_time()
        if not seen or now - began - seen[-1]["seconds"] >= 5:
            rate = steps / (used - processor)
            facts = {"seconds": now - began, "step": step, "memory": resident(), "files": open_files(), "rate": rate}
            seen.append(facts)
            steps, processor = 0, used
        if now >= ends:
            raise TrainingStopped

    config = TrainingConfig(steps=10**7, evaluations=1, average=0.99, warmup=20)
    log = JSONLines(folder / "log.jsonl")
    try:
        fit(
            model,
            objective,
            source,
            target,
            config=config,
            on_step=on_step,
            log=log,
            log_steps=50,
            resume=folder / "run.pt",
            save_steps=200,
        )
    except TrainingStopped:
        return seen
    raise AssertionError("the training has an end")


def main() -> None:
    """Soak, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--pieces", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pieces: list[dict[str, Any]] = []
    every: list[dict[str, float]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.pieces):
            seen = piece(Path(folder), 60 * options.minutes / options.pieces, began)
            every += seen[1:]  # the first covers reading and starting
            pieces.append(
                {
                    "steps": int(seen[-1]["step"]),
                    "memory at the end, MB": round(seen[-1]["memory"], 1),
                    "open files": int(seen[-1]["files"]),
                    "steps a second of processor time": round(statistics.median(s["rate"] for s in seen[1:]), 2),
                }
            )
            print(number, pieces[-1], flush=True)
    # past the allocator's first growth
    later = [each for each in every if each["seconds"] > 0.2 * every[-1]["seconds"]]
    rates = [each["rate"] for each in every]
    share = max(1, len(rates) // 10)
    found = {
        "minutes": options.minutes,
        "pieces": pieces,
        "memory slope, MB an hour, after the first fifth": round(
            slope([e["seconds"] for e in later], [e["memory"] for e in later]), 2
        ),
        "memory, MB, after the first fifth and at the end": [round(later[at]["memory"], 1) for at in (0, -1)],
        "open files, least and most": [int(min(e["files"] for e in every)), int(max(e["files"] for e in every))],
        "throughput of the last tenth over the first": round(
            statistics.median(rates[-share:]) / statistics.median(rates[:share]), 3
        ),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
