"""Time of a training step of the reference model and of variants with recurrent encoders: ``python -m
benchmarks.step``.

Method. A step is one step of :func:`mmda.models.mmcda.fit` on one batch of each domain: forward of both, the whole
objective, backward, clipping, AdamW. The peers differ from the model in two parts: a bidirectional ``nn.GRU`` replaces
the convolutional context of the frames, and another is added before the pooling of the words; over packed sequences or
padded batches. Pairs are random features; the number of clips of a video is uniform between a quarter of the longest
and the longest, and so is the number of words of a query. The library's batches contain rows of similar length, as in
:mod:`mmda.vmr`; the goals compare with peers on batches in random order, as from a plain loader, and every model is
timed on both kinds. All models process the same pairs; rounds alternate between the contestants; a ratio is the median
over rounds of the ratio within a round; CPU time of one thread, float32.

Then one pass is profiled: the time of every part of the step, with the backward of an operation attributed to the part
of its forward.

    python -m benchmarks.step                     # one to four minutes
    python -m benchmarks.step --rounds 9 --json out.json

``--ours`` times the library's step alone, with batches of 64 pairs of up to 128 clips and of 8 pairs of up to 32;
``--before TREE`` adds an earlier checkout (built), ``--compile`` the step under ``torch.compile`` as
``TrainingConfig(compile=True)`` has it. Each runs in a process of its own, in alternating rounds.

    python -m benchmarks.step --ours --before ../earlier --compile
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.profiler import profile, record_function

from mmda.layers import AttentionPool
from mmda.models.mmcda import MMCDA, MMCDAConfig, MMCDAObjective, build_mmcda
from mmda.vmr import VMRBatch, VMRExample, bucketed_batches, collate

try:
    from mmda.models.mmcda.parallel import Step
except ImportError:  # an earlier checkout
    Step = None  # type: ignore[assignment,misc]

#: A source batch and a target batch.
Batches = tuple[VMRBatch, VMRBatch]
GOALS = {"nn.GRU, packed": 2.2, "nn.GRU, padded": 1.8}
OURS, ALIKE = "ours", ", lengths alike"
LABEL = "part: "
#: Pairs of a batch and clips of the longest video, for ``--ours``.
SIZES = ((64, 128), (8, 32))


class Recurrence(nn.Module):
    """A bidirectional ``nn.GRU`` of the same width, over packed or padded rows; zero on padding."""

    def __init__(self, width: int, *, packed: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.packed = packed

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if not self.packed:
            return self.gru(x)[0] * mask.unsqueeze(2)
        packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class RecurrentVideo(nn.Module):
    """The library's projection of frames, then the recurrence."""

    def __init__(self, project: nn.Module, hidden: int, *, packed: bool) -> None:
        super().__init__()
        self.project, self.context = project, Recurrence(hidden, packed=packed)

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        return self.context(self.project(frames) * frame_mask.unsqueeze(2), frame_mask)


class RecurrentQuery(nn.Module):
    """The library's projection of words, the recurrence, the library's pooling."""

    def __init__(self, project: nn.Module, pool: AttentionPool, hidden: int, *, packed: bool) -> None:
        super().__init__()
        self.project, self.context, self.pool = project, Recurrence(hidden, packed=packed), pool

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        return self.pool(self.context(self.project(words) * word_mask.unsqueeze(2), word_mask), mask=word_mask)


def build(kind: str, config: MMCDAConfig) -> MMCDA:
    """The library's model, or a variant with recurrent encoders."""
    torch.manual_seed(0)
    model = build_mmcda(config)
    if kind != OURS:
        video, query, packed = model.video_encoder, model.query_encoder, "packed" in kind
        model.video_encoder = RecurrentVideo(video.project, config.hidden, packed=packed)
        model.query_encoder = RecurrentQuery(query.project, query.pool, config.hidden, packed=packed)
    return model.train()


def pairs(given: argparse.Namespace, seed: int, offset: float) -> list[VMRExample]:
    """Random pairs of varying length, with one moment each and features around ``offset``."""
    generator = torch.Generator().manual_seed(seed)

    def length(longest: int) -> int:
        return int(torch.randint(max(1, longest // 4), longest + 1, (), generator=generator))

    made = []
    for k in range(given.pairs):
        t, words = length(given.frames), length(given.words)
        edges = torch.arange(t + 1, dtype=torch.float32)
        start, stop = sorted(torch.rand(2, generator=generator).mul(t).tolist())
        made.append(
            VMRExample(
                qid=str(k),
                vid=str(k),
                text=str(k),
                frames=torch.randn(t, given.video_width, generator=generator) + offset,
                words=torch.randn(words, given.query_width, generator=generator) + offset,
                clip_times=torch.stack([edges[:-1], edges[1:]], 1),
                duration=float(t),
                windows=((start, stop),),
                video_index=k,
                text_index=k,
            )
        )
    return made


def batches(examples: list[VMRExample], size: int, *, alike: bool) -> list[VMRBatch]:
    """A pass over the examples, grouped by length or in random order."""
    # equal lengths, so that the order within a pool is random
    lengths = [len(example.frames) if alike else 1 for example in examples]
    return [collate([examples[i] for i in batch]) for batch in bucketed_batches(lengths, size)]


class Training:
    """A contestant: a model with its optimiser and batches."""

    def __init__(self, kind: str, config: MMCDAConfig, steps: list[Batches]) -> None:
        self.model, self.objective, self.steps = build(kind, config), MMCDAObjective(), steps
        self.parameters = list(self.model.parameters())
        self.step: Callable[..., Tensor] = self.plain
        if Step is not None:
            self.step = Step(self.model, self.objective, joined=False)
        self.optimizer = torch.optim.AdamW(self.parameters, fused=True)

    def plain(self, source: VMRBatch, target: VMRBatch, progress: float) -> Tensor:
        """The loss as an earlier checkout computes it."""
        total: Tensor = self.objective(self.model(source), source, self.model(target), target).total  # type: ignore[call-arg,arg-type]
        return total

    def run(self) -> float:
        """Run one pass; returns the last loss."""
        loss = 0.0
        for source, target in self.steps:
            total = self.step(source, target, 1.0)
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            with record_function(LABEL + "optimiser"):
                nn.utils.clip_grad_norm_(self.parameters, 5.0, foreach=True)
                self.optimizer.step()
            loss = total.item()
        return loss

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts of the profile."""
        model, objective = self.model, self.objective
        yield "projection of frames", model.video_encoder.project
        context = model.video_encoder.context
        for module in context if isinstance(context, nn.ModuleList) else [context]:
            yield "context of frames", module
        yield "query encoder", model.query_encoder
        yield "heads", model.video_head
        yield "heads", model.query_head
        yield "localizer", model.localizer
        for name, module in objective.parts.named_children():
            yield f"loss: {name}", module

    def profiled(self) -> dict[str, dict[str, float]]:
        """Seconds of one pass by part: forward and backward."""
        handles, open_parts = [], []

        def enter(name: str, *_: Any) -> None:
            open_parts.append(record_function(LABEL + name))
            open_parts[-1].__enter__()

        def leave(*_: Any) -> None:
            open_parts.pop().__exit__(None, None, None)

        for name, module in self.parts():
            handles.append(module.register_forward_pre_hook(functools.partial(enter, name)))
            handles.append(module.register_forward_hook(leave))
        try:
            with profile() as recorded:
                self.run()
        finally:
            for handle in handles:
                handle.remove()
        return attribute(recorded.events())


def attribute(events: Any) -> dict[str, dict[str, float]]:
    """Self time of every recorded operation, by part and direction.

    A node of the backward graph has the sequence number of the forward operation that created it; if several operations
    have the same number, the last of them created the node.
    """
    engine = "autograd::engine::evaluate_function"
    ordered = sorted(events, key=lambda event: event.time_range.start)
    owner: dict[int, str] = {}
    place: dict[int, tuple[str, str]] = {}  # part and direction by event; a parent starts before its children

    for event in ordered:
        above = place.get(id(event.cpu_parent), ("everything else", "forward"))
        if event.name.startswith(engine):
            above = (owner.get(event.sequence_nr, "everything else"), "backward")
        elif event.name.startswith(LABEL) and above[0] == "everything else":
            above = (event.name.removeprefix(LABEL), "forward")
        elif event.sequence_nr >= 0 and above[1] == "forward":
            owner[event.sequence_nr] = above[0]
        place[id(event)] = above
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    for event in ordered:
        part, direction = place[id(event)]
        found[part][direction] += event.self_cpu_time_total * 1e-6
    return dict(found)


def configured(given: argparse.Namespace) -> MMCDAConfig:
    return MMCDAConfig(
        video_width=given.video_width, query_width=given.query_width, hidden=given.hidden, joint=given.joint
    )


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Time all contestants, then profile ours."""
    config = configured(given)
    source, target = pairs(given, 0, 0.0), pairs(given, 1, 0.3)
    steps: dict[bool, list[Batches]] = {}
    for alike in (True, False):
        both = [batches(examples, given.batch, alike=alike) for examples in (source, target)]
        steps[alike] = [(s, t.without_moments()) for s, t in zip(*both)]
    contestants = {OURS: Training(OURS, config, steps[True])}
    for kind in GOALS:
        contestants[kind] = Training(kind, config, steps[False])
    contestants[OURS + ", random order"] = Training(OURS, config, steps[False])
    for kind in GOALS:
        contestants[kind + ALIKE] = Training(kind, config, steps[True])
    for contestant in contestants.values():
        contestant.run()
    count = len(steps[True])
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(given.rounds):
        for name, contestant in contestants.items():
            times[name].append(seconds(contestant.run) / count)
    return {
        "sizes": {name: value for name, value in vars(given).items() if isinstance(value, int)},
        "kept": {
            "lengths alike" if alike else "random order": statistics.fmean(
                float(batch.frame_mask.float().mean()) for step in made for batch in step
            )
            for alike, made in steps.items()
        },
        "seconds": times,
        "median": {name: statistics.median(t) for name, t in times.items()},
        "ratio": {name: statistics.median(b / a for a, b in zip(times[OURS], t)) for name, t in times.items()},
        "goals": GOALS,
        "profile": {name: contestants[name].profiled() for name in (OURS, "nn.GRU, padded")},
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }


def serve(given: argparse.Namespace) -> None:
    """Worker loop: for each line of batch size, clips and whether to compile, run a pass and write seconds a step."""
    made: dict[str, Training] = {}
    for line in sys.stdin:
        if line not in made:
            given.batch, given.frames, compiled = json.loads(line)
            config = configured(given)
            both = [batches(pairs(given, k, 0.3 * k), given.batch, alike=True) for k in (0, 1)]
            made[line] = Training(OURS, config, [(s, t.without_moments()) for s, t in zip(*both)])
            if compiled:
                made[line].step = torch.compile(made[line].step, dynamic=True)
            made[line].run()
        print(seconds(made[line].run) / len(made[line].steps), flush=True)


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Our step by size: now, compiled, and in an earlier checkout, taking turns."""
    from benchmarks.conditions import processor  # the worker of an earlier checkout has none

    here = Path(__file__).resolve()
    runs = {"now": (here.parent.parent, False)}
    if given.compile:
        runs["compiled"] = (here.parent.parent, True)
    if given.before is not None:
        runs["before"] = (given.before.resolve(), False)
    workers = {}
    for name, (tree, _) in runs.items():
        options = [f"--{key}={getattr(given, key.replace('-', '_'))}" for key in ("pairs", "words", "hidden", "joint")]
        options += [f"--video-width={given.video_width}", f"--query-width={given.query_width}"]
        workers[name] = subprocess.Popen(
            [sys.executable, str(here), "--serve", *options],
            env=dict(os.environ, PYTHONPATH=str(tree), OMP_NUM_THREADS="1"),
            cwd=tree,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    figures: dict[str, Any] = {"machine": processor(), "torch": torch.__version__, "load": os.getloadavg(), "steps": {}}
    for batch, frames in given.sizes:
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(given.rounds):
            for name, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write(json.dumps([batch, frames, runs[name][1]]) + "\n")
                worker.stdin.flush()
                times[name].append(float(worker.stdout.readline()))
        figures["steps"][f"{batch} x {frames}"] = times
        for name, found in times.items():
            ratios = [min(found) / min(times["now"]), statistics.median(b / a for a, b in zip(times["now"], found))]
            print(
                f"{batch:3} x {frames:3}  {name:9} {1e3 * min(found):8.2f} ms a step at least, "
                f"{1e3 * statistics.median(found):8.2f} median, {ratios[0]:.2f} ({ratios[1]:.2f}) of now",
                flush=True,
            )
    for worker in workers.values():
        worker.communicate()
    return figures


def report(figures: dict[str, Any]) -> str:
    """The results as text."""
    sizes = figures["sizes"]
    lines = [
        f"training step, {sizes['batch']} pairs of each domain, {sizes['frames'] // 4} to {sizes['frames']} clips of "
        f"{sizes['video_width']}, hidden {sizes['hidden']}",
        "real frames: " + ", ".join(f"{share:.0%} of batches, {name}" for name, share in figures["kept"].items()),
        f"  {'':32}{'ms':>9}{'spread':>19}{'ratio':>8}",
    ]
    for name, times in figures["seconds"].items():
        spread = f"{1e3 * min(times):.4g} - {1e3 * max(times):.4g}"
        lines.append(f"  {name:32}{1e3 * figures['median'][name]:9.4g}{spread:>19}{figures['ratio'][name]:8.2f}")
    for name, least in figures["goals"].items():
        found = figures["ratio"][name]
        reached = "reached" if found >= least else "not reached"
        lines.append(f"  {found:.2f}x against {name}; at least {least:g}x wanted: {reached}")
    for name, parts in figures["profile"].items():
        total = sum(sum(part.values()) for part in parts.values())
        lines.append(f"\n  {name}: share of the step{'':4}{'forward':>10}{'backward':>10}{'together':>10}")
        for part, spent in sorted(parts.items(), key=lambda item: -sum(item[1].values())):
            shares = (spent["forward"], spent["backward"], sum(spent.values()))
            lines.append(f"    {part:34}" + "".join(f"{share / total:10.1%}" for share in shares))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=256, help="pairs of each domain that a pass goes over")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=128, help="clips of the longest video")
    parser.add_argument("--words", type=int, default=20, help="words of the longest query")
    parser.add_argument("--video-width", type=int, default=256)
    parser.add_argument("--query-width", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--joint", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--ours", action="store_true", help="only our step, at two sizes or at --batch and --frames")
    parser.add_argument("--before", type=Path, help="with --ours, an earlier checkout, built")
    parser.add_argument("--compile", action="store_true", help="with --ours, under torch.compile too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.sizes = SIZES if given.batch == 64 else ((given.batch, given.frames),)
    torch.set_num_threads(1)
    if given.serve:
        serve(given)
        return
    if given.ours:
        figures = ours(given)
        if given.json is not None:
            given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        return
    figures = measure(given)
    print(report(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
