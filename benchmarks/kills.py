"""Kills of `mmda train`: does every one leave a file to go on from, and does going on change a bit?

    python -m benchmarks.kills                # 50 kills, about five minutes; benchmarks/results/kills.json

One training saves after each step and is killed again and again (SIGKILL): half of the times at a random moment, half
inside a write, at a system call of a save drawn by lot, with half of its bytes on the disk. After each kill the file of
the run must be readable, and its weights, optimiser and random states those of an undisturbed training at the same
step, to the last bit. At the end so must the model be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).with_name("results") / "kills.json"
ARGUMENTS = ["train", "--world", "language", "--smoke", "--row", "full: ", "--epochs", "100", "--save-steps", "1"]
CALLS = ("open", "write", "fsync", "close", "replace")


def digest(content: object) -> str:
    """Of all numbers in a run."""
    found = hashlib.sha256()

    def take(value: object) -> None:
        if isinstance(value, Tensor):
            found.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in value:
                found.update(str(key).encode())
                take(value[key])
        elif isinstance(value, (list, tuple)):
            for each in value:
                take(each)
        else:
            found.update(repr(value).encode())

    take(content)
    return found.hexdigest()


def of_run(content: Mapping[str, Any]) -> str:
    """Of what a run goes on from; logs hold times, which differ."""
    return digest({name: content[name] for name in ("model", "objective", "optimizer", "mean", "best", "random")})


class Deadly:
    """``os``, of which the k-th call ends the process; half of a write is on the disk then."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call


def child(folder: str, die_at: int, note: str) -> int:
    """The training itself; ``note``: where to write the digest of every step."""
    from mmda._core import files
    from mmda.cli import main
    from mmda.models.mmcda import saving

    if die_at:
        files.os = Deadly(die_at)  # type: ignore[assignment]
    noted: dict[int, str] = {}
    if note:
        save = saving.save_file

        def noting(path: str | Path, kind: str, content: dict[str, Any]) -> None:
            if kind == "mmcda run":
                noted[content["state"]["step"]] = of_run(content)
            save(path, kind, content)

        saving.save_file = noting
    code: int = main([*ARGUMENTS, "--output", folder, "--resume"])
    if note:
        Path(note).write_text(json.dumps(noted))
    return code


def start(folder: Path, *, die_at: int = 0, note: str = "") -> subprocess.Popen[bytes]:
    """A training in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kills", "--child", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--die-at", str(die_at), "--note", note],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def run_file(folder: Path) -> Path | None:
    """The file of the begun training."""
    return next(iter((folder / "runs").glob("*.pt")), None)


def model_of(folder: Path) -> str:
    """Digest of the weights that a finished training left."""
    from mmda.models.mmcda import load_model

    (path,) = (folder / "models").glob("*.pt")
    return digest(load_model(path)[0].state_dict())


def kill_at_random(folder: Path, draw: random.Random) -> int:
    """Start it, wait for its next save and a moment, kill it; its exit code."""
    path = run_file(folder)
    before = path.stat().st_mtime_ns if path else 0
    with start(folder) as process:
        while process.poll() is None:
            path = run_file(folder)
            if path and path.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        return process.returncode


def kill_inside(folder: Path, draw: random.Random) -> int:
    """Start one that dies at a system call of a save drawn by lot."""
    with start(folder, die_at=draw.randint(1, 60)) as process:
        process.communicate()
        return process.returncode


def main() -> None:
    """Kill, check, write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--die-at", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--note", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        raise SystemExit(child(options.child, options.die_at, options.note))
    from mmda.models.mmcda.files import CheckpointError, load_file

    draw, rows = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as place:
        whole, killed, note = Path(place, "whole"), Path(place, "killed"), Path(place, "note.json")
        with start(whole, note=str(note)) as process:
            told = process.communicate()[1]
            assert process.returncode == 0, told
        unreadable = different = 0
        right = {int(step): value for step, value in json.loads(note.read_text()).items()}
        for number in range(options.kills):
            inside = number % 2 == 1
            code = (kill_inside if inside else kill_at_random)(killed, draw)
            path = run_file(killed)
            try:
                content = load_file(path, "mmcda run") if path else None
            except CheckpointError as error:
                print(number, error, flush=True)
                content, unreadable = None, unreadable + 1
            step = content["state"]["step"] if content else 0
            left = len(list((killed / "runs").glob(".*.part"))) if path else 0
            different += content is not None and of_run(content) != right[step]
            rows.append({"inside a write": inside, "killed": code == -signal.SIGKILL, "step": step, "half files": left})
            print(number, rows[-1], flush=True)
        with start(killed) as process:
            told = process.communicate()[1]
            assert process.returncode == 0, told
        same = model_of(killed) == model_of(whole)
    kills = [row for row in rows if row["killed"]]
    found = {
        "kills": len(kills),
        "inside a write": sum(bool(row["inside a write"]) for row in kills),
        "left a half-written file beside": sum(row["half files"] > 0 for row in kills),
        "unreadable": unreadable,
        "other bits than the undisturbed training": different,
        "steps": max(right),
        "steps at the kills": [row["step"] for row in kills],
        "final model": "equal to the last bit" if same else "other numbers",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if unreadable or different or not same:
        raise SystemExit("a kill left another training")


if __name__ == "__main__":
    main()
