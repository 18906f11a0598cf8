"""Data at size: a folder of many small files, and a packed store larger than memory.

    python -m benchmarks.large_data                    # 20,000 files; 10,000 videos, 37,000 queries, 18 GB (sparse)
    python -m benchmarks.large_data --videos 1000

The packed store is a sparse file: one row of each video is on the disk, the others are holes, which read as zeros at
the speed of a warm page cache. Memory is that of the process alone: pages of the mapped file belong to the system,
which takes them back. Times are of the processor, one thread; the share of data is that of reading, widening and
padding a batch in the time of a training step, which includes it. Paired: the same batches, by turns in memory that the
loader uses again and in new memory. Batches a second are by the clock, without a training step, the best of three
rounds that alternate between the ways.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mmda._core.files import sealed_json
from mmda.models.mmcda import MMCDAConfig, MMCDAObjective, TrainingConfig, build_mmcda, fit
from mmda.vmr import (
    ArrayStore,
    VMRDataset,
    VMRLoader,
    VMRQuery,
    bucketed_batches,
    collate,
    open_features,
    pack_features,
    validate_queries,
)

RESULTS = Path(__file__).with_name("results") / "large_data.json"
WIDTH, ROWS, BATCH = 2304, 400, 32


def timed(work: Callable[[], Any]) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    work()
    return round(time.process_time() - began, 2)


def own_pages() -> float:
    """MB of memory that is this process's alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def small_files(folder: Path, count: int) -> dict[str, object]:
    """A folder of so many files of 20 rows: read as it is, converted, and read again."""
    (folder / "files").mkdir()
    array = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    for number in range(count):
        np.save(folder / "files" / f"v{number}.npy", array)

    def read(path: Path) -> None:
        store = open_features(path)
        for id in store.ids:
            store[id]

    def pack() -> None:
        pack_features(open_features(folder / "files"), folder / "packed", dtype="float32", resume=True)

    return {
        "files": count,
        "read, s": timed(lambda: read(folder / "files")),
        "converted, s": timed(pack),
        "read converted, s": timed(lambda: read(folder / "packed")),
    }


def sparse(folder: Path, videos: int) -> None:
    """A packed folder of so many videos, of each of which one row is there."""
    folder.mkdir()
    first = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float16)
    rows = np.zeros((ROWS, WIDTH), np.float16)
    rows[0] = first
    shape = (videos * ROWS, WIDTH)
    array = np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    array[::ROWS] = first
    array.flush()
    index = {
        "ids": [f"v{number}" for number in range(videos)],
        "offsets": [number * ROWS for number in range(videos + 1)],
        "shape": shape,
        "dtype": rows.dtype.str,
        "clip_seconds": 0.5,
        "crc32": [zlib.crc32(rows.data)] * videos,
    }
    (folder / "index.json").write_bytes(sealed_json(json.dumps(index)))


def paired(data: VMRDataset, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the processor that a batch takes in memory used again and in new memory, by turns."""
    index = {query.qid: k for k, query in enumerate(data.queries)}
    ways: dict[str, list[float]] = {"used again": [], "new": []}
    batches = iter(VMRLoader(data, BATCH, seed=1, drop_last=True, prefetch=0))
    next(batches)
    for _ in range(rounds):
        began = time.process_time()
        batch = next(batches)
        ways["used again"].append(time.process_time() - began)
        rows = [index[qid] for qid in batch.qids]
        began = time.process_time()
        collate([data.as_stored(row) for row in rows])
        ways["new"].append(time.process_time() - began)
    each = {name: sorted(1e3 * time for time in times) for name, times in ways.items()}
    return {name: {"least": round(t[0], 1), "median": round(statistics.median(t), 1)} for name, t in each.items()}


def batches_a_second(data: VMRDataset, count: int) -> dict[str, float]:
    """By the number of threads of the loader, and of worker processes of PyTorch's."""

    def threads(number: int) -> Iterable[object]:
        return VMRLoader(data, BATCH, seed=2, drop_last=True, prefetch=number)

    def workers(number: int) -> Iterable[object]:
        order = bucketed_batches(data.lengths, BATCH, seed=2, drop_last=True)
        whole: Any = data
        return DataLoader(whole, batch_sampler=order, collate_fn=collate, num_workers=number)

    ways = {f"VMRLoader(prefetch={number})": partial(threads, number) for number in (0, 1, 2)}
    ways |= {f"DataLoader(num_workers={number})": partial(workers, number) for number in (0, 1, 2)}
    best = dict.fromkeys(ways, 0.0)
    for _ in range(3):
        for name, make in ways.items():
            batches = iter(make())
            next(batches)
            began = time.perf_counter()
            for _, _ in zip(range(count), batches):
                pass
            best[name] = max(best[name], round(count / (time.perf_counter() - began), 1))
            del batches
    return best


def large(folder: Path, videos: int, steps: int) -> dict[str, object]:
    """Queries on a store larger than memory: what opening costs, memory over two stretches, the share of data."""
    sparse(folder / "large", videos)
    store = open_features(folder / "large")
    length = ROWS * 0.5
    queries = [
        VMRQuery(f"q{k}", f"v{k % videos}", f"word{k % 97} word{k % 89}", length, ((10.0, 40.0),))
        for k in range(int(3.7 * videos))
    ]
    words = ArrayStore({query.qid: np.full((8, 32), 1.0 + k % 7, np.float32) for k, query in enumerate(queries)})
    found: dict[str, Any] = {"videos": videos, "queries": len(queries), "GB": round(videos * ROWS * WIDTH * 2 / 1e9, 1)}
    data: list[VMRDataset] = []
    notes = validate_queries(queries)
    before = own_pages()
    found["opened and verified, s"] = timed(lambda: data.append(VMRDataset(notes, store, words, in_memory=False)))
    found["memory of opening, MB"] = round(own_pages() - before, 1)
    loader = VMRLoader(data[0], BATCH, seed=0, drop_last=True)
    torch.manual_seed(0)
    config = MMCDAConfig(video_width=WIDTH, query_width=32, hidden=256, joint=128)
    model, objective = build_mmcda(config), MMCDAObjective(weights={"moment": 1.0, "cross_modal_source": 1.0})
    memory: list[float] = []

    def read() -> None:
        for _, _ in zip(range(10 * steps), VMRLoader(data[0], BATCH, seed=0, drop_last=True, prefetch=0)):
            memory.append(own_pages())

    reading = timed(read) / 10
    found["batches read"] = len(memory)
    found["memory, MB, after a fifth of them and at the end"] = [round(memory[at], 1) for at in (2 * steps, -1)]
    whole = timed(lambda: fit(model, objective, loader, config=TrainingConfig(steps=steps, evaluations=1)))
    found["step, ms"] = round(1e3 * whole / steps, 1)
    found["share of data in a step"] = round(reading / whole, 4)
    found["steps"] = steps
    found["paired, ms a batch"] = paired(data[0], 2 * steps)
    found["batches a second"] = batches_a_second(data[0], 12)
    found["cores"] = os.cpu_count()
    return found


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, object] = {"small files": small_files(Path(folder), options.files)}
        print(json.dumps(found), flush=True)
        found["packed"] = large(Path(folder), options.videos, options.steps)
    found |= {"torch": torch.__version__, "machine": platform.machine()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
