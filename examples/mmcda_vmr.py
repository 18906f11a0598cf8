"""Cross-domain video moment retrieval: train on one domain, fail on another, and win part of it back with MMCDA.

    python examples/mmcda_vmr.py                          two simulated worlds, under three minutes on two cores
    python examples/mmcda_vmr.py --world noisy --ablation --seeds 5
    python examples/mmcda_vmr.py --source DATA/charades --target DATA/tacos --epochs 25
    python examples/mmcda_vmr.py --predict "the concept07-a of" --video target-test-3
    python examples/mmcda_vmr.py --predict-all QUERIES.jsonl --target-video VIDEO --target-query QUERY

On real data, --source and --target each name a folder that holds annotations (any layout that
`python -m mmda.vmr check` reads) beside `video` and `query` features, or the common prefix of three files
PREFIX.jsonl, PREFIX_video.npz and PREFIX_query.npz, or a file of annotations, with --source-video and so on for its
features. Published files of train, val and test are the splits; one file alone is split by video. Frames of both
domains must have one width, queries too.

The target's boundaries are closed: training and the choice of a checkpoint never look at them, so that nothing in them
changes a weight. Those of the test split are opened by the evaluation (and others by the rows that say "supervised").
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmda.kernels import Gaussian
from mmda.layers import DomainDiscriminator
from mmda.losses import (
    CORALLoss,
    Discrepancy,
    DomainAdversarialLoss,
    EnergyDistanceLoss,
    MMDLoss,
    SlicedWassersteinLoss,
)
from mmda.metrics import PRESETS, Preset
from mmda.models.mmcda import (
    DEFAULT_WEIGHTS,
    ROLES,
    CheckpointError,
    MMCDAConfig,
    MMCDAObjective,
    Spans,
    TrainingConfig,
    build_mmcda,
    fit,
    load_model,
    predict_split,
    save_model,
    selection_score,
)
from mmda.validators import span_constancy
from mmda.vmr import (
    WORLDS,
    ClosedMomentsError,
    ResidentLoader,
    ResidentSplit,
    VMRDataError,
    VMRQuery,
    encode_sentence,
    read_glove,
    tokenize,
)
from mmda.vmr.blind import constant_rows, constant_spans, prior_spans, random_spans, whole_video, zero_shot_spans
from mmda.vmr.evaluation import Evaluation, evaluate_windows

sys.path.insert(0, str(Path(__file__).resolve().parent))  # wherever it is started or loaded from
from mmcda_data import MAX_CLIPS, SPLITS, Domain, Place, Problem, annotation_files, load, read_datasets
from mmcda_table import CEILING, CONTROL, FULL, HEADLINE, SOURCE_ONLY, as_result, as_text, plot, table, write

ALIGNMENTS = ("mmd", "coral", "energy", "sliced", "adversarial")
IOU = (0.3, 0.5, 0.7)


class UnusableError(ValueError):
    """Something the user asked for cannot be done; the message says what, and which rule."""


# ---------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """One trained row of the table: which modules are on, and what stands in for the source."""

    name: str
    modules: tuple[str, ...]
    train_on: str = "source"  # "source", "target" or "both"
    shuffled: bool = False  # target videos carry other videos' queries


def roles(row: Row, pair_weight: float) -> dict[str, float]:
    """Weights of the roles that are on; (ii) and (iii) bring their own term on the source along.

    ``pair_weight`` is that of the terms which learn from the target's pairs.
    """
    on = [role for module in row.modules for role in ROLES[module]]
    on += ["cross_modal_source"] if "cross_modal" in row.modules else []
    on += ["frame_query"] if "specific" in row.modules else []
    pairs = (*ROLES["cross_modal"], *ROLES["specific"])
    return {role: pair_weight if role in pairs else DEFAULT_WEIGHTS[role] for role in on}


LABELS = ("supervised", "source")
EVERY = ("supervised", "domain", "cross_modal", "specific")
ROWS = (
    Row(SOURCE_ONLY, ("supervised",)),
    Row("(i) domain alignment", ("supervised", "domain")),
    Row("(ii) cross-modal alignment", ("supervised", "cross_modal")),
    Row("(iii) specific alignment", ("supervised", "specific")),
    Row(FULL, EVERY),
    Row(CEILING, LABELS, train_on="target"),
)
REAL_ROWS = (*ROWS[:1], Row(CONTROL, LABELS), *ROWS[1:])
ABLATION = (
    *REAL_ROWS[:6],
    Row("full without (i)", ("supervised", "cross_modal", "specific")),
    Row("full without (ii)", ("supervised", "domain", "specific")),
    Row("full without (iii)", ("supervised", "domain", "cross_modal")),
    Row("full, target pairs shuffled", EVERY, shuffled=True),
    *ROWS[5:],
    Row("source + target supervised", LABELS, train_on="both"),
)


def chosen_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows of these names, or whose names begin so, in the table's order."""
    chosen = set()
    for name in names:
        found = [row for row in ABLATION if row.name == name] or [
            row for row in ABLATION if name and row.name.startswith(name)
        ]
        if not found:
            known = ", ".join(repr(row.name) for row in ABLATION)
            raise UnusableError(f"--rows {name!r}: must be a row, or the beginning of one, of {known}")
        chosen |= {row.name for row in found}
    return tuple(row for row in ABLATION if row.name in chosen)


def discrepancy(name: str, width: int) -> Discrepancy:
    """The domain alignment by name. An adversary has parameters of its own; one optimiser trains them too."""
    if name == "coral":
        return CORALLoss()
    if name == "energy":
        return EnergyDistanceLoss()
    if name == "sliced":
        return SlicedWassersteinLoss(n_projections=64)
    if name == "adversarial":
        return DomainAdversarialLoss(DomainDiscriminator(width, hidden=(32,)))
    return MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")


# ------------------------------------------------------------------------------------------------------ one training


@dataclass(frozen=True)
class Job:
    """One row, one seed."""

    problem: Problem
    row: Row
    seed: int
    alignment: str
    training: TrainingConfig
    batch_size: int
    target_batch_size: int
    model: dict[str, Any]
    pair_weight: float
    train_on_val: bool
    preset: str
    iou: tuple[float, ...]
    device: str
    folder: Path
    resume: bool

    @property
    def stem(self) -> str:
        """File name of everything this job writes."""
        return job_stem(self.problem, self.row.name, self.seed, self.alignment)

    @property
    def is_of(self) -> tuple[str, int]:
        """Row and seed."""
        return self.row.name, self.seed

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, as JSON gives it back: with other settings it is another result."""
        outside = ("device", "folder", "resume")
        plain = {name: value for name, value in asdict(self).items() if name not in outside}
        for side in ("source", "target"):
            if plain["problem"][side] is not None:
                plain["problem"][side] = asdict(getattr(self.problem, side).absolute())
        settings: dict[str, Any] = json.loads(json.dumps(plain))
        return settings


def job_stem(problem: Problem, row: str, seed: int, alignment: str) -> str:
    """File name of a job; what aligns is named where it is not the default."""
    return file_stem(f"{problem.name} {row} {seed} {'' if alignment == 'mmd' else alignment}")


def file_stem(text: str) -> str:
    """A file name made of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def check_settings(path: Path, content: Any, settings: dict[str, Any]) -> None:
    """What lies at ``path`` was made with these settings."""
    rule = f"--resume: {path} must be of the settings asked for"
    kept = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(kept, dict):
        raise UnusableError(f"{rule}, got a file that does not name its own")
    there, asked = flat(kept), flat(settings)
    names = [name for name in {**asked, **there} if there.get(name) != asked.get(name)]
    if names:
        differ = "; ".join(f"{name} {there.get(name)!r}, not {asked.get(name)!r}" for name in names)
        raise UnusableError(f"{rule}, got {differ}")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ``None`` where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def finished(job: Job) -> dict[str, Any] | None:
    """The result of a job that need not run again; raises where what is there is of other settings."""
    if not job.resume:
        return None
    result_path = job.folder / "jobs" / f"{job.stem}.json"
    if result_path.exists():
        done: Any = read_json(result_path)
        if not isinstance(done, dict) or "metrics" not in done or (done.get("row"), done.get("seed")) != job.is_of:
            came = "a damaged one: delete it"
            raise UnusableError(f"--resume: {result_path} must be the whole result of this row and seed, got {came}")
        check_settings(result_path, done, job.settings)
        return done
    begun = job.folder / "runs" / f"{job.stem}.pt"
    if begun.exists():
        beside = begun.with_suffix(".json")
        check_settings(begun, read_json(beside) if beside.exists() else None, job.settings)
    return None


def shuffled(split: ResidentSplit, seed: int) -> ResidentSplit:
    """Every video gets the queries of others: none keeps one of its own, unless it has more than half of all."""
    generator = torch.Generator().manual_seed(seed)
    videos, index, counts = torch.unique(split.video_index, return_inverse=True, return_counts=True)
    place = torch.randperm(len(videos), generator=generator)[index]  # the videos in random order
    rows = torch.randperm(len(split), generator=generator)
    ranked = rows[place[rows].argsort(stable=True)]
    order = torch.empty_like(ranked)
    order[ranked] = ranked.roll(-int(counts.max()))  # rows of one video lie together: beyond them are others
    return replace(
        split, words=split.words[order], word_mask=split.word_mask[order], text_index=split.text_index[order]
    )


def joined(splits: Iterable[ResidentSplit]) -> ResidentSplit:
    """Splits as one; all with their moments, or all without."""
    return reduce(ResidentSplit.join, splits)


STEPS: Any = None  # steps done by all workers, for the progress bar


def worker(steps: Any) -> None:
    """Set up a process that trains: one thread, and the counter."""
    global STEPS
    STEPS = steps
    torch.set_num_threads(1)


def run(job: Job) -> dict[str, Any]:
    """Train one row with one seed, choose its checkpoint without target boundaries, open the test split once."""
    result_path = job.folder / "jobs" / f"{job.stem}.json"
    model_path = job.folder / "models" / f"{job.stem}.pt"
    total = job.training.steps
    done = finished(job)
    if done is not None:
        if STEPS is not None:
            with STEPS.get_lock():
                STEPS.value += total
        return done
    began = time.perf_counter()
    source, target = load(job.problem, job.seed)
    torch.manual_seed(job.seed)
    labelled = {"source": source, "target": target}.get(job.row.train_on, source)
    splits = SPLITS[:2] if job.train_on_val else SPLITS[:1]
    train, pairs = joined(map(labelled.opened, splits)), joined(target.pairs[split] for split in splits)
    if job.row.train_on == "both":
        train = joined([train, joined(map(target.opened, splits))])
    if job.row.shuffled:
        pairs = shuffled(pairs, job.seed)
    config = MMCDAConfig(video_width=train.frames.shape[-1], query_width=train.words.shape[-1], **job.model)
    model = build_mmcda(config).to(job.device)
    objective = MMCDAObjective(
        weights=roles(job.row, job.pair_weight),
        video_discrepancy=discrepancy(job.alignment, config.hidden),
        query_discrepancy=discrepancy(job.alignment, config.hidden),
        temperature=config.temperature,
    ).to(job.device)
    source_val = ResidentLoader(labelled.opened("val"), 128, shuffle=False)
    held_out = ResidentLoader(target.pairs["val"], 128, shuffle=False, labels=False)
    target_val = held_out if objective.needs_target else None
    test = target.opened("test")
    asked = ResidentLoader(test, 128, shuffle=False, labels=False)

    def count(_: int) -> None:
        if STEPS is not None:
            with STEPS.get_lock():
                STEPS.value += 1

    run_path = job.folder / "runs" / f"{job.stem}.pt"
    if job.resume:
        write(run_path.with_suffix(".json"), json.dumps({"settings": job.settings}).encode())
    progress = fit(
        model,
        objective,
        ResidentLoader(train, min(job.batch_size, len(train)), seed=job.seed, drop_last=True),
        ResidentLoader(pairs, min(job.target_batch_size, len(pairs)), seed=job.seed + 1, labels=False, drop_last=True),
        config=job.training,
        validate=None if job.train_on_val else lambda m: selection_score(m, source_val, target_val),
        on_step=count,
        resume=run_path if job.resume else None,
        device=job.device,
    )
    facts = {"problem": job.problem.name, "row": job.row.name, "seed": job.seed, "settings": job.settings}
    save_model(model_path, model, config, **facts)
    spans, _ = predict_split(model, asked, nms_threshold=suppression(PRESETS[job.preset]))
    evaluation = evaluated(spans.windows, target, job.preset, job.iou, mask=spans.mask, name=job.row.name)
    write_lines(job.folder / "predictions" / f"{job.stem}.jsonl", answers(spans, target, test, evaluation))
    relative = spans.windows[:, 0] / test.duration.unsqueeze(1)
    result = {
        "problem": job.problem.name,
        "row": job.row.name,
        "seed": job.seed,
        **as_result(evaluation),
        "constancy": float(span_constancy(relative)) if len(relative) > 1 else 0.0,
        "log": progress.log,
        "chosen_step": progress.best_step,
        "seconds": time.perf_counter() - began,
        "model": str(model_path),
        "settings": job.settings,
    }
    write(result_path, json.dumps(result).encode())
    return result


def suppression(preset: Preset) -> float:
    """Spans that overlap more than this with a better one are not decoded."""
    return 0.5 if preset.nms_threshold is None else preset.nms_threshold


def evaluated(
    spans: torch.Tensor,
    target: Domain,
    preset: str,
    iou: Sequence[float],
    *,
    mask: torch.Tensor | None = None,
    name: str,
) -> Evaluation:
    """Spans against the moments of the target's test split."""
    test = target.opened("test")
    assert test.windows is not None
    return evaluate_windows(
        spans,
        test.windows,
        window_mask=test.window_mask,
        videos=[target.videos[qid] for qid in test.qids],
        duration=test.duration,
        prediction_mask=mask,
        preset=PRESETS[preset],
        iou=iou,
        name=name,
    )


def answers(spans: Spans, target: Domain, test: ResidentSplit, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Each query's spans, best first, their scores, and the best IoU of the first."""
    for i, qid in enumerate(test.qids):
        keep = spans.mask[i]
        yield {
            "qid": qid,
            "vid": target.videos[qid],
            "query": target.texts[qid],
            "spans": spans.windows[i][keep].tolist(),
            "scores": spans.scores[i][keep].tolist(),
            "iou": float(evaluation.ious[i]),
        }


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON, a line each."""
    write(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())


def blind_rows(problem: Problem, seed: int, preset: str, iou: Sequence[float]) -> list[Evaluation]:
    """Rows that see neither video nor query, and where frames and queries share a space the plain cosine."""
    source, target = load(problem, seed)
    test = target.opened("test")
    queries, known = as_queries(target, test), as_queries(source, source.opened("train"))
    generator = torch.Generator().manual_seed(seed)
    rows = {
        "random span": random_spans(queries, generator=generator),
        "sampled source prior": prior_spans(known, queries, generator=generator),
        "best constant of the source": constant_rows(constant_spans(known, n=5), queries),
        "whole video": whole_video(queries),
    }
    masks: dict[str, torch.Tensor] = {}
    if test.frames.shape[-1] == test.words.shape[-1] and problem.world is None:
        name, asked = "zero-shot cosine", test.slice(range(len(test)))
        sentence = (asked.words * asked.word_mask.unsqueeze(-1)).sum(1)
        rows[name], masks[name] = zero_shot_spans(
            asked.frames, sentence, asked.clip_times, frame_mask=asked.frame_mask, n=5
        )
    return [evaluated(spans, target, preset, iou, mask=masks.get(name), name=name) for name, spans in rows.items()]


def as_queries(domain: Domain, split: ResidentSplit) -> list[Any]:
    """A labelled split as annotated queries."""
    assert split.windows is not None
    assert split.window_mask is not None
    return [
        VMRQuery(
            qid,
            domain.videos[qid],
            domain.texts[qid],
            float(split.duration[i]),
            tuple((float(s), float(e)) for s, e in split.windows[i][split.window_mask[i]]),
        )
        for i, qid in enumerate(split.qids)
    ]


# ---------------------------------------------------------------------------------------------------------- running


def check_writable(folder: Path) -> None:
    """The output folder can be made and written to: found out before hours of training, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnusableError(f"{folder}: the output folder must be writable, got {error.strerror}") from error


def check_device(name: str) -> None:
    """The device exists here."""
    try:
        torch.zeros(1, device=name).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UnusableError(f"--device {name}: the device must exist on this machine, got {first}") from error


class Counter:
    """The shared counter's interface for a single process: it moves the bar itself."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def get_lock(self) -> nullcontext[None]:
        return nullcontext()

    @property
    def value(self) -> int:
        return int(self.bar.n)

    @value.setter
    def value(self, steps: int) -> None:
        self.bar.update(steps - self.bar.n)


def train_here(jobs: list[Job], bar: Any) -> list[dict[str, Any]]:
    """Run the jobs one after the other in this process."""
    results = []
    with bar:
        worker(Counter(bar))
        for job in jobs:
            results.append(run(job))
            bar.set_postfix_str(f"{job.row.name} {100 * results[-1]['metrics'][HEADLINE]:.1f}")
    return results


def train_all(jobs: list[Job], workers: int) -> list[dict[str, Any]]:
    """Run the jobs in worker processes; the bar counts optimiser steps of all of them."""
    total = sum(job.training.steps for job in jobs)
    bar_style: dict[str, Any] = {"unit": "step", "desc": f"{len(jobs)} runs", "dynamic_ncols": True}
    bar_style["mininterval"] = 0.2 if sys.stderr.isatty() else 20.0  # a log file wants few lines
    if workers == 1:
        return train_here(jobs, tqdm(total=total, **bar_style))
    context = multiprocessing.get_context("spawn")
    steps = context.Value("q", 0)
    results: dict[int, dict[str, Any]] = {}
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, worker, (steps,))
    with tqdm(total=total, **bar_style) as bar:
        try:
            with deferred_interrupt():
                waiting = {pool.submit(run, job): at for at, job in enumerate(jobs)}
            while waiting:
                ended, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                if steps.value > bar.n:
                    bar.update(steps.value - bar.n)
                for future in ended:
                    at = waiting.pop(future)
                    results[at] = future.result()
                    score = 100 * results[at]["metrics"][HEADLINE]
                    bar.set_postfix_str(f"{jobs[at].row.name} {score:.1f}")
            bar.update(steps.value - bar.n)
            pool.shutdown()
        except BaseException as error:  # whatever ends this ends the others: nobody waits for jobs that nobody wants
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                rule = "a worker process must live until its job is done"
                came = "one that was killed (by the system, out of memory? then fewer --workers)"
                raise UnusableError(f"--workers {workers}: {rule}, got {came}") from error
            raise
    return [results[at] for at in range(len(jobs))]


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Ctrl-C waits, and processes started meanwhile never see it: the one that started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_checkpoint(options: argparse.Namespace) -> Path:
    """The full model of the first seed; where no problem is named, of the only other one that is there."""
    folder = options.output / "models"
    known: list[Path] = [folder / f"{job_stem(each, FULL, 0, options.alignment)}.pt" for each in problems_of(options)]
    there = [path for path in known if path.exists()]
    if not there and not (options.world or options.source):
        there = sorted(folder.glob(f"*-{file_stem(f'{FULL} 0')}.pt"))
        if len(there) > 1:
            names = ", ".join(path.name for path in there)
            raise UnusableError(f"{folder}: must hold one full model, or --checkpoint must name it, got {names}")
    return (there or known)[0]


def problem_of(path: Path, facts: dict[str, Any], options: argparse.Namespace) -> Problem:
    """What the checkpoint was trained on; it must be what the options name, if they name something."""
    name = facts.get("problem")
    try:
        kept = dict(facts["settings"]["problem"])
        for side in ("source", "target"):
            if kept[side] is not None:
                kept[side] = Place(**{**kept[side], "video": tuple(kept[side]["video"])})
        trained = Problem(**kept)
    except (LookupError, TypeError, ValueError):
        trained = None
    if options.world or options.source:
        asked = [problem for problem in problems_of(options) if problem.name == name]
        if not asked:
            names = " or ".join(repr(problem.name) for problem in problems_of(options))
            raise UnusableError(f"{path}: the checkpoint must be of {names}, got {name!r}")
        if asked[0].world is None:  # the data may have been moved
            return asked[0]
    if trained is None:
        rule = "name what it was trained on"
        raise UnusableError(f"{path}: the checkpoint must {rule} (write it anew with this example), got {name!r} only")
    return trained


def predict(options: argparse.Namespace) -> None:
    """The n best moments of one sentence in one video, by a trained checkpoint."""
    path = options.checkpoint or default_checkpoint(options)
    model, facts = load_model(path)
    problem = problem_of(path, facts, options)
    seed = int(facts.get("seed", 0))
    _, target = load(problem, seed)
    for split in reversed(target.pairs.values()):
        rows = [i for i, qid in enumerate(split.qids) if target.videos[qid] == options.video]
        if rows:
            break
    else:
        example = target.videos[target.pairs["test"].qids[0]]
        raise VMRDataError(problem.name, options.video, "be a video of the target", f"try {example!r}")
    batch = split.slice(rows[:1])
    if problem.world is not None:
        try:
            words = encode_sentence(WORLDS[problem.world], options.predict, seed=seed).unsqueeze(0)
        except ValueError as error:
            raise UnusableError(f"--predict: {error}") from error
    else:
        words = sentence_features(problem, target, options.predict)
    mask = torch.ones(words.shape[:2], dtype=torch.bool)
    spans = model.predict(replace(batch, words=words, word_mask=mask), n=options.top)
    print(f"{options.video} ({float(batch.duration[0]):.1f} s): {options.predict!r}")
    best = float(spans.scores[0, 0])
    for (start, end), score, kept in zip(spans.windows[0].tolist(), spans.scores[0].tolist(), spans.mask[0].tolist()):
        if kept:
            share = 100 * math.exp(score - best)
            print(f"  {start:7.1f} s - {end:7.1f} s   score {score:7.2f}   {share:5.1f} % of the best")


def predict_all(options: argparse.Namespace) -> None:
    """The n best moments of every query of some annotations, labelled or not, as JSON lines."""
    path = options.checkpoint or default_checkpoint(options)
    model, facts = load_model(path)
    problem = problem_of(path, facts, options)
    max_clips = options.max_clips or (problem.target.max_clips if problem.target else MAX_CLIPS)
    glove = options.glove or (problem.target.glove if problem.target else None)
    video = tuple(options.target_video)
    place = Place(options.predict_all, video, options.target_query, None, max_clips, options.drop, glove)
    rows: list[dict[str, Any]] = []
    for data in read_datasets(place, annotation_files(place)).values():
        print(data.report)
        pairs = ResidentSplit.from_dataset(data)
        try:
            spans, qids = predict_split(model, ResidentLoader(pairs, 128, shuffle=False, labels=False), n=options.top)
        except ValueError as error:  # of another width
            raise UnusableError(
                f"{place.path}: features must be as those {path} was trained on, got {error}"
            ) from error
        found = {
            qid: [[*span, score] for span, score, keep in zip(*each) if keep]
            for qid, each in zip(qids, zip(spans.windows.tolist(), spans.scores.tolist(), spans.mask.tolist()))
        }
        rows += [
            {"qid": q.qid, "query": q.text, "vid": q.vid, "pred_relevant_windows": found[q.qid]} for q in data.queries
        ]
    file = options.output / "predictions" / f"{file_stem(place.name)}-by-{path.stem}.jsonl"
    write_lines(file, rows)
    print(f"{len(rows)} queries answered by {path}: {file}")


def sentence_features(problem: Problem, target: Domain, sentence: str) -> torch.Tensor:
    """Features of a sentence: by its words, or those that the query features hold; no other has any then."""
    assert problem.target is not None
    if problem.target.glove is not None:
        vectors = read_glove(problem.target.glove, tokenize(sentence))
        return torch.from_numpy(vectors.encode(sentence)).unsqueeze(0)
    plain = " ".join(sentence.lower().split())
    for split in reversed(target.pairs.values()):
        for i, qid in enumerate(split.qids):
            if " ".join(target.texts[qid].lower().split()) == plain:
                return split.words[i : i + 1][:, split.word_mask[i]]
    rule = "hold the sentence: others than the target's queries have no features"
    raise VMRDataError(problem.name, None, rule, repr(sentence))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    worlds = f"simulated world, may be repeated: {', '.join(WORLDS)} (default: default and language)"
    data.add_argument("--world", action="append", choices=list(WORLDS), metavar="NAME", help=worlds)
    data.add_argument("--source", metavar="PATH", help="folder, file or prefix of the labelled domain")
    data.add_argument("--target", metavar="PATH", help="folder, file or prefix of the other domain")
    for side in ("source", "target"):
        help_text = "frame features elsewhere; repeat to join several"
        data.add_argument(f"--{side}-video", action="append", default=[], metavar="PATH", help=help_text)
        data.add_argument(f"--{side}-query", metavar="PATH", help="query features elsewhere")
    help_text = "word vectors, a word and its numbers a line, in place of query features"
    data.add_argument("--glove", metavar="FILE", help=help_text)
    help_text = "splits by video (default: files of train, val and test where there are some, else 70 / 10 / 20)"
    data.add_argument("--splits", metavar="JSON", help=help_text)
    help_text = f"average-pool longer videos to so many (default: {MAX_CLIPS})"
    data.add_argument("--max-clips", type=int, metavar="N", help=help_text)
    help_text = "leave out videos and queries without usable features, and say which (default: an error)"
    data.add_argument("--drop", action="store_true", help=help_text)
    training = parser.add_argument_group("training")
    training.add_argument("--ablation", action="store_true", help="every row: also each module left out, controls")
    help_text = "train these rows only: names, or their beginnings"
    training.add_argument("--rows", nargs="+", metavar="NAME", help=help_text)
    training.add_argument("--seeds", type=int, help="number of seeds (default: 1 simulated, 3 real)")
    training.add_argument("--alignment", choices=ALIGNMENTS, default="mmd", help="what (i) aligns with (default: mmd)")
    training.add_argument("--epochs", type=int, help="passes over the source (default: 10 simulated, 12 real)")
    training.add_argument("--batch-size", type=int, default=32, help="source queries a step (default: 32)")
    help_text = "target queries a step, of which each is a negative of the others (default: as many)"
    training.add_argument("--target-batch-size", type=int, help=help_text)
    help_text = "train on the validation videos too; no checkpoint is chosen then, the last weights are kept"
    training.add_argument("--train-on-val", action="store_true", help=help_text)
    help_text = "frames and words come from one encoder: start from their plain similarity"
    training.add_argument("--shared-space", action="store_true", help=help_text)
    help_text = "share of features hidden while training, in [0, 1) (default: 0 simulated, 0.3 real)"
    training.add_argument("--dropout", type=float, metavar="SHARE", help=help_text)
    training.add_argument("--diagnose", action="store_true", help="log each term's gradient norm (JSON)")
    training.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    training.add_argument("--workers", type=int, help="processes (default: one a core, at most 8; 1 on a GPU)")
    help_text = "keep the finished rows in --output; a row is gone on with in its middle if it began with --resume too"
    training.add_argument("--resume", action="store_true", help=help_text)
    training.add_argument("--smoke", action="store_true", help="seconds, not minutes: is everything wired?")
    folder = Path("outputs/mmcda_vmr")
    training.add_argument("--output", type=Path, default=folder, help=f"folder for all results (default: {folder})")
    evaluation = parser.add_argument_group("evaluation")
    help_text = f"the conventions of a published evaluator: {', '.join(PRESETS)} (default: default)"
    evaluation.add_argument("--preset", choices=list(PRESETS), default="default", metavar="NAME", help=help_text)
    help_text = "IoU thresholds beside 0.3, 0.5 and 0.7, as 0.1 for short moments"
    evaluation.add_argument("--iou", type=float, nargs="+", default=[], metavar="M", help=help_text)
    asking = parser.add_argument_group("asking a trained model")
    asking.add_argument("--predict", metavar="SENTENCE", help="print the best moments of --video for a sentence")
    help_text = "answer every query of a file, folder or prefix of annotations, with features as for --target"
    asking.add_argument("--predict-all", metavar="PATH", help=f"{help_text}; written to --output/predictions")
    asking.add_argument("--video", metavar="ID", help="a video of the target")
    asking.add_argument("--checkpoint", type=Path, help="default: the full model of the first seed in --output")
    asking.add_argument("--top", type=int, default=5, help="how many moments (default: 5)")
    options = parser.parse_args(arguments)
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    if options.source is not None and options.world:
        parser.error("--world and --source exclude each other")
    if options.source is None:
        told = ("target_video", "target_query", "glove", "drop") if options.predict_all else ()
        for name in ("splits", "source_video", "source_query", "target_video", "target_query", "glove", "drop"):
            if getattr(options, name) and name not in told:
                parser.error(f"--{name.replace('_', '-')} needs --source and --target")
    if any(not 0 < threshold <= 1 for threshold in options.iou):
        parser.error(f"--iou must be in (0, 1], got {', '.join(map(str, options.iou))}")
    if options.predict is not None and options.predict_all is not None:
        parser.error("--predict and --predict-all exclude each other")
    if options.dropout is not None and not 0 <= options.dropout < 1:
        parser.error(f"--dropout must lie in [0, 1), got {options.dropout}")
    if options.smoke and options.workers is None:
        options.workers = 1
    if options.predict is not None and options.video is None:
        parser.error("--predict needs --video")
    for name in ("seeds", "epochs", "batch_size", "target_batch_size", "workers", "max_clips", "top"):
        value = getattr(options, name)
        least = 2 if name.endswith("batch_size") else 1  # a batch of one has no negatives and no spread
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    return options


def problems_of(options: argparse.Namespace) -> list[Problem]:
    """What to train on."""
    if options.source is None:
        worlds = list(dict.fromkeys(options.world or [])) or (
            ["language"] if options.smoke else ["default", "language"]
        )
        return [Problem(f"world {name}", world=name, videos=80 if options.smoke else None) for name in worlds]
    places = [
        Place(
            getattr(options, side),
            tuple(getattr(options, f"{side}_video")),
            getattr(options, f"{side}_query"),
            options.splits,
            options.max_clips or MAX_CLIPS,
            options.drop,
            options.glove,
        )
        for side in ("source", "target")
    ]
    name = f"{places[0].name} to {places[1].name}"
    return [Problem(name, source=places[0], target=places[1])]


def tell(problem: Problem) -> None:
    """What reading the data left out or found, before hours are spent on it."""
    source, target = load(problem, 0)
    for domain, splits in ((source, ("train", "val")), (target, ("test",))):
        lines = list(domain.told)
        for split in splits:
            unlabelled = len(domain.pairs[split]) - len(domain.opened(split))
            if unlabelled:
                side = "source" if domain is source else "target"
                lines.append(f"{problem.name}: {unlabelled} unlabelled queries left out of the {side}'s {split} split")
        print("".join(f"{line}\n" for line in lines), end="")


def trainable(rows: Sequence[Row], target: Domain) -> tuple[Row, ...]:
    """The rows that the data has labels for."""
    try:
        for split in SPLITS[:2] if any(row.train_on != "source" for row in rows) else ():
            target.opened(split)
    except VMRDataError as error:
        print(f"no rows with the target's labels: {error}")
        return tuple(row for row in rows if row.train_on == "source")
    return tuple(rows)


def jobs_of(options: argparse.Namespace, problem: Problem, seeds: int) -> list[Job]:
    """Rows times seeds; every row of a problem takes the same number of steps."""
    real = problem.world is None
    source, target = load(problem, 0)
    pairs = source.pairs["train"]
    widths = pairs.frames.shape[-1], pairs.words.shape[-1]
    if options.shared_space and widths[0] != widths[1]:
        came = f"{widths[0]} and {widths[1]} in {problem.name}"
        raise UnusableError(f"--shared-space: frames and words must have one width, got {came}")
    epochs = options.epochs or (1 if options.smoke else 12 if real else 10)
    rows_a_pass = sum(len(source.opened(split)) for split in (SPLITS[:2] if options.train_on_val else SPLITS[:1]))
    steps = max(4, epochs * max(1, rows_a_pass // options.batch_size))
    training = TrainingConfig(
        steps=steps,
        learning_rate=1e-3 if real else 3e-3,
        weight_decay=0.1 if real else 0.01,
        average=0.99 if real else 0.0,
        gradient_norms=options.diagnose,
        evaluations=2 if options.smoke else 4,
    )
    model = {**(REAL if real else SMALL), "shared_space": options.shared_space}
    if options.dropout is not None:
        model["dropout"] = options.dropout
    rows = chosen_rows(options.rows) if options.rows else ABLATION if options.ablation else REAL_ROWS if real else ROWS
    if not options.rows:
        rows = trainable(rows, target)
    return [
        Job(
            problem,
            row,
            seed,
            options.alignment,
            training,
            options.batch_size,
            options.target_batch_size or options.batch_size,
            model,
            1.0 if real else 0.5,
            options.train_on_val,
            options.preset,
            tuple(sorted({*IOU, *options.iou})),
            options.device,
            options.output,
            options.resume,
        )
        for seed in range(seeds)
        for row in rows
    ]


#: For some thousand real queries. Real moments have habits that both domains share: the localizer sees positions.
REAL = {"hidden": 64, "joint": 64, "localizer_channels": 32, "dropout": 0.3, "positions": True}

#: Enough for the simulated worlds.
SMALL = {
    "hidden": 64,
    "joint": 32,
    "context_layers": 0,
    "localizer_channels": 24,
    "localizer_layers": 2,
    "dropout": 0.0,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every row, print the table, write text, JSON and plot."""
    options = parse(arguments)
    if options.predict is not None:
        predict(options)
        return
    if options.predict_all is not None:
        predict_all(options)
        return
    began = time.perf_counter()
    problems = problems_of(options)
    seeds = options.seeds or (3 if options.source and not options.smoke else 1)
    check_writable(options.output)
    check_device(options.device)
    for problem in problems:
        tell(problem)
    jobs = [job for problem in problems for job in jobs_of(options, problem, seeds)]
    for job in jobs:
        finished(job)  # before anything is trained: all that --resume would take over is of these settings
    workers = options.workers or (1 if options.device != "cpu" else max(1, min(8, os.cpu_count() or 1, len(jobs))))
    results = train_all(jobs, workers)
    tables = []
    for problem in problems:
        blind = [blind_rows(problem, seed, options.preset, jobs[0].iou) for seed in range(seeds)]
        mine = [result for result in results if result["problem"] == problem.name]
        one_test = problem.world is None or seeds == 1  # each seed of a world draws videos of its own
        shown = {"alignment": options.alignment, "preset": options.preset, "iou": jobs[0].iou}
        tables.append(table(problem.name, blind, mine, one_test=one_test, **shown))
    text = as_text(tables)
    print(f"\n{text}")
    facts = {
        "arguments": sys.argv[1:] if arguments is None else list(arguments),
        "seconds": time.perf_counter() - began,
        "torch": torch.__version__,
        "alignment": options.alignment,
        "training": asdict(jobs[0].training),
    }
    runs = [{k: v for k, v in r.items() if k not in ("values", "videos")} for r in results]
    write(options.output / "table.txt", text.encode())
    content = json.dumps({**facts, "tables": tables, "runs": runs}, indent=1)
    write(options.output / "table.json", content.encode())
    plot(tables, options.output / "table.png")
    print(f"{time.perf_counter() - began:.0f} s; text, JSON, plot and models are in {options.output}/")


def cli(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the command: 2 and one clear line for what the user can mend; a bug shows its trace."""
    try:
        main(arguments)
    except (VMRDataError, CheckpointError, ClosedMomentsError, UnusableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume keeps the finished rows, and begun ones if it was given already", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(cli())
