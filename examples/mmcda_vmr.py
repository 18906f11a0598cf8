"""Cross-domain video moment retrieval: train on one domain, fail on another, and win part of it back with MMCDA.

    python examples/mmcda_vmr.py                          two simulated worlds, under three minutes on two cores
    python examples/mmcda_vmr.py --world noisy --ablation --seeds 5
    python examples/mmcda_vmr.py --source DATA/charades --target DATA/tacos --epochs 25
    python examples/mmcda_vmr.py --predict "the concept07-a of" --video target-test-3

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
import io
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, reduce
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
from mmda.models.mmcda import (
    DEFAULT_WEIGHTS,
    ROLES,
    CheckpointError,
    MMCDAConfig,
    MMCDAObjective,
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
    VMRBatch,
    VMRDataError,
    VMRDataset,
    VMRQuery,
    collate,
    encode_sentence,
    open_features,
    read_annotations,
    read_splits,
    simulate,
)
from mmda.vmr.blind import constant_rows, constant_spans, prior_spans, random_spans, whole_video, zero_shot_spans
from mmda.vmr.evaluation import (
    Evaluation,
    Interval,
    bootstrap_interval,
    evaluate_windows,
    pad_spans,
    paired_test,
    recovered_gap,
    seed_interval,
)

ALIGNMENTS = ("mmd", "coral", "energy", "sliced", "adversarial")
HEADLINE, MIOU = "R@1, IoU=0.5", "mIoU"
SHOWN = ("R@1, IoU=0.3", HEADLINE, "R@1, IoU=0.7", MIOU)


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
    Row("source-only", ("supervised",)),
    Row("(i) domain alignment", ("supervised", "domain")),
    Row("(ii) cross-modal alignment", ("supervised", "cross_modal")),
    Row("(iii) specific alignment", ("supervised", "specific")),
    Row("full: (i) + (ii) + (iii)", EVERY),
    Row("target-supervised", LABELS, train_on="target"),
)
REAL_ROWS = (*ROWS[:1], Row("source-only + source terms", LABELS), *ROWS[1:])
ABLATION = (
    *REAL_ROWS[:6],
    Row("full without (i)", ("supervised", "cross_modal", "specific")),
    Row("full without (ii)", ("supervised", "domain", "specific")),
    Row("full without (iii)", ("supervised", "domain", "cross_modal")),
    Row("full, target pairs shuffled", EVERY, shuffled=True),
    *ROWS[5:],
    Row("source + target supervised", LABELS, train_on="both"),
)
FULL, SOURCE_ONLY, CEILING = ROWS[4].name, ROWS[0].name, ROWS[5].name


def chosen_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows of these names, or whose names begin so, in the table's order."""
    chosen = set()
    for name in names:
        found = [row for row in ABLATION if row.name == name] or [row for row in ABLATION if row.name.startswith(name)]
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


# ---------------------------------------------------------------------------------------------------------- data


SPLITS = ("train", "val", "test")
NOTES = (".jsonl", ".json", ".txt", ".csv")
BESIDE_NOTES = re.compile(r"Charades_v1|gsub_|valid_videos|.*durations")  # published with the annotations


@dataclass(frozen=True)
class Place:
    """Where a domain's data lies."""

    path: str
    video: tuple[str, ...] = ()
    query: str | None = None
    splits: str | None = None
    max_clips: int | None = None

    @property
    def name(self) -> str:
        """What the data set is called: the folder, or the file without its suffix."""
        path = Path(os.path.abspath(self.path))
        return path.stem if path.is_file() else path.name

    def absolute(self) -> Place:
        """The same place, named so that it is found from any folder."""

        def whole(path: str | None) -> str | None:
            return None if path is None else os.path.abspath(path)

        video = tuple(os.path.abspath(path) for path in self.video)
        path, query, splits = os.path.abspath(self.path), whole(self.query), whole(self.splits)
        return Place(path, video, query, splits, self.max_clips)


@dataclass(frozen=True)
class Problem:
    """What is trained on: a simulated world, or two places on disk."""

    name: str
    world: str | None = None
    videos: int | None = None
    source: Place | None = None
    target: Place | None = None


@dataclass(frozen=True)
class Domain:
    """One domain in memory: the pairs of each split, every query's text and video by name, and what is to be told.

    No moment is among them: ``opened`` reads those of one split, and leaves out its queries without any.
    """

    pairs: dict[str, VMRBatch]
    opened: Callable[[str], VMRBatch]
    texts: dict[str, str]
    videos: dict[str, str]
    told: tuple[str, ...] = ()


def load(problem: Problem, seed: int) -> tuple[Domain, Domain]:
    """Source and target. A simulated world is a new draw for each seed; real data stays the same."""
    return load_draw(problem, 0 if problem.world is None else seed)


@lru_cache(maxsize=2)
def load_draw(problem: Problem, seed: int) -> tuple[Domain, Domain]:
    """:func:`load`, each draw once."""
    if problem.world is not None:
        world = WORLDS[problem.world]
        if problem.videos is not None:
            world = replace(world, videos=problem.videos, test_videos=max(20, problem.videos // 4))
        draw = simulate(world, seed=seed)
        names = {qid: qid for qid in draw.texts}

        def of(**splits: VMRBatch) -> Domain:
            pairs = {split: batch.without_moments() for split, batch in splits.items()}
            return Domain(pairs, splits.__getitem__, draw.texts, names)

        source = of(train=draw.source_train, val=draw.source_val)
        return source, of(train=draw.target_train, val=draw.target_val, test=draw.target_test)
    assert problem.source is not None
    assert problem.target is not None
    source, target = read_domain(problem.source, ("train", "val")), read_domain(problem.target, SPLITS)
    for what in ("frames", "words"):
        a, b = (getattr(domain.pairs["train"], what).shape[-1] for domain in (source, target))
        if a != b:
            raise VMRDataError(problem.target.path, None, f"have {what} of one width in both domains", f"{a} and {b}")
    return source, target


def read_domain(place: Place, names: Sequence[str]) -> Domain:
    """Annotations and features of one domain, checked, split by video, padded once; no moment is looked at."""
    files = annotation_files(place)
    data = read_datasets(place, files)
    told: list[str] = []
    if "" in data:
        data = split_by_video(place, data[""], told)
        files = dict.fromkeys(data, files[""])
    else:
        files = {"val": files["train"], **files}
        if "val" not in data:
            vids = in_order(data["train"].vids)
            held = max(1, len(vids) // 10)
            told.append(f"{place.path}: no file for val, {held} videos of train are held out as such")
            train = data["train"]
            data |= {"val": train.select(vids[:held]), "train": train.select(vids[held:])}
    pairs = {name: collate([data[name][i] for i in range(len(data[name]))]) for name in names}

    @cache
    def opened(split: str) -> VMRBatch:
        moments = {query.qid: query.windows for query in read_annotations(files[split])}
        rows = [i for i, qid in enumerate(pairs[split].qids) if moments.get(qid)]
        if not rows:
            raise VMRDataError(files[split], split, "hold a query with a moment in this split", "unlabelled ones only")
        batch = pairs[split] if len(rows) == len(pairs[split]) else pairs[split].slice(rows)
        windows, mask = pad_spans([moments[qid] for qid in batch.qids])
        return replace(batch, windows=windows.float(), window_mask=mask)

    queries = [query for part in data.values() for query in part.queries]
    texts, videos = ({query.qid: getattr(query, name) for query in queries} for name in ("text", "vid"))
    return Domain(pairs, opened, texts, videos, tuple(told))


def split_by_video(place: Place, data: VMRDataset, told: list[str]) -> dict[str, VMRDataset]:
    """The splits that --splits lists, else 70 / 10 / 20 by video."""
    if place.splits is not None:
        every = read_splits(place.splits)
        splits = every[splits_name(place, list(every))]
        listed = {vid for vids in splits.values() for vid in vids}
        unknown, spare = len(listed.difference(data.vids)), len(set(data.vids) - listed)
        if unknown:
            told.append(f"{place.splits}: of {len(listed)} videos listed for {place.name}, {unknown} are unknown there")
        if spare:
            told.append(f"{place.splits}: of {len(data.vids)} videos of {place.name}, {spare} are in no split")
    else:
        vids = in_order(data.vids)
        a, b = int(0.7 * len(vids)), int(0.8 * len(vids))
        splits = {"train": tuple(vids[:a]), "val": tuple(vids[a:b]), "test": tuple(vids[b:])}
    for name in SPLITS:
        if not set(splits.get(name, ())) & set(data.vids):
            raise VMRDataError(place.splits or place.path, name, "hold at least one query in this split", "none")
    return {name: data.select(splits[name]) for name in SPLITS}


def splits_name(place: Place, known: list[str]) -> str:
    """Which of the data sets of --splits this one is: of the same name, else the one whose name begins so, or it."""
    found = [name for name in known if name == place.name]
    found = found or [name for name in known if name.startswith(place.name) or place.name.startswith(name)]
    if len(found) != 1:
        rule = f"name the data set {place.name!r}, or one alone that begins so"
        raise VMRDataError(place.splits or "", None, rule, ", ".join(found or known) or "none")
    return found[0]


def in_order(vids: Sequence[str]) -> list[str]:
    """Videos in an order that depends on nothing but their names."""
    return sorted(vids, key=hash_text)


def hash_text(text: str) -> int:
    """A hash that does not change from run to run."""
    value = 0
    for byte in text.encode():
        value = (value * 1_000_003 + byte) % (1 << 61)
    return (value * 0x9E3779B97F4A7C15) % (1 << 61)


def annotation_files(place: Place) -> dict[str, Path]:
    """The one file of annotations, under no name, or the published files of train, val and test under theirs."""
    path = Path(place.path)
    if not path.is_dir():
        file = path if path.is_file() else Path(f"{path}.jsonl")
        if not file.exists():
            raise VMRDataError(file, None, "exist as annotations", "no such file or folder")
        return {"": file}
    found = [p for p in sorted(path.iterdir()) if p.suffix in NOTES and not BESIDE_NOTES.match(p.name)]
    if len(found) == 1:
        return {"": found[0]}
    words = [[word for word in SPLITS if word in re.split(r"[._-]", file.name)] for file in found]
    files = {word[0]: file for word, file in zip(words, found) if len(word) == 1}
    if not (len(files) == len(found) > 1 and {"train", "test"} <= set(files)):
        rule = "hold one file of annotations, or one each with `train`, `test` and perhaps `val` in its name"
        came = ", ".join(file.name for file in found) or "none"
        raise VMRDataError(path, None, f"{rule} (or name a file instead of the folder)", came)
    if place.splits is not None:
        raise VMRDataError(path, None, "be one file of annotations for --splits", ", ".join(map(str, files.values())))
    return files


def read_datasets(place: Place, files: dict[str, Path]) -> dict[str, VMRDataset]:
    """Annotations, their moments closed, with features: `video*` and `query*` in the folder or PREFIX_*.npz."""
    path = Path(place.path)
    notes = {split: read_annotations(file, closed=True) for split, file in files.items()}
    video, query = place.video, place.query
    if path.is_dir():
        beside = [p for p in sorted(path.iterdir()) if p.suffix not in NOTES]
        video = video or tuple(str(p) for p in beside if p.name.startswith("video"))
        queries = [str(p) for p in beside if p.name.startswith("query")]
        if query is None and len(queries) > 1:
            rule = "hold query features once (or --source-query, --target-query must name them)"
            raise VMRDataError(path, None, rule, ", ".join(queries))
        query = query or next(iter(queries), None)
    else:
        prefix = path.with_suffix("") if path.is_file() else path
        video = video or (f"{prefix}_video.npz",)
        query = query or f"{prefix}_query.npz"
        missing = [name for name in (*video, query) if path.is_file() and not Path(name).exists()]
        if missing:
            rule = "come with features (--source-video and --source-query, or --target-..., name them)"
            raise VMRDataError(path, None, rule, f"no {missing[0]}")
    if not video or query is None:
        missing_kind = "video" if not video else "query"
        rule = f"hold `{missing_kind}` features, or --source-{missing_kind}, --target-{missing_kind} name them"
        raise VMRDataError(path, None, rule, "none")
    frames = open_features(video if len(video) > 1 else video[0])
    words = open_features(query, kind="query", ids=[qid for each in notes.values() for qid in each.order])
    return {split: VMRDataset(each, frames, words, max_clips=place.max_clips) for split, each in notes.items()}


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
    device: str
    folder: Path
    resume: bool

    @property
    def stem(self) -> str:
        """File name of everything this job writes."""
        return file_stem(f"{self.problem.name} {self.row.name} {self.seed}")

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
        done: dict[str, Any] = read_json(result_path)
        check_settings(result_path, done, job.settings)
        return done
    begun = job.folder / "runs" / f"{job.stem}.pt"
    if begun.exists():
        beside = begun.with_suffix(".json")
        check_settings(begun, read_json(beside) if beside.exists() else None, job.settings)
    return None


def shuffled(batch: VMRBatch, seed: int) -> VMRBatch:
    """Every video gets the query of another."""
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))
    return replace(batch, words=batch.words[order], word_mask=batch.word_mask[order])


def joined(splits: Iterable[VMRBatch]) -> VMRBatch:
    """Splits as one, padded to a common size; all with their moments, or all without."""
    first, *others = splits
    return reduce(joined_two, others, first)


def joined_two(a: VMRBatch, b: VMRBatch) -> VMRBatch:
    """Two splits as one."""

    def widen(x: torch.Tensor, size: int) -> torch.Tensor:
        spare = [0] * (2 * (x.ndim - 1))
        spare[-1] = size - x.shape[1]
        return torch.nn.functional.pad(x, spare)

    parts: dict[str, Any] = {}
    for name in ("frames", "frame_mask", "words", "word_mask", "clip_times", "windows", "window_mask"):
        x, y = getattr(a, name), getattr(b, name)
        if x is None or y is None:
            parts[name] = None
            continue
        size = max(x.shape[1], y.shape[1])
        parts[name] = torch.cat([widen(x, size), widen(y, size)])
    return VMRBatch(
        **parts,
        duration=torch.cat([a.duration, b.duration]),
        video_index=torch.cat([a.video_index, b.video_index + int(a.video_index.max()) + 1]),
        text_index=torch.cat([a.text_index, b.text_index + int(a.text_index.max()) + 1]),
        qids=a.qids + b.qids,
    )


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

    def opened(name: str) -> Evaluation:
        spans, _ = predict_split(model, asked)
        return evaluate_windows(
            spans.windows,
            test.windows,  # type: ignore[arg-type]
            window_mask=test.window_mask,
            videos=[target.videos[qid] for qid in test.qids],
            duration=test.duration,
            prediction_mask=spans.mask,
            name=name,
        )

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
    evaluation = opened(job.row.name)
    spans, _ = predict_split(model, asked, n=1)
    relative = spans.windows[:, 0] / test.duration.unsqueeze(1)
    result = {
        "problem": job.problem.name,
        "row": job.row.name,
        "seed": job.seed,
        "metrics": evaluation.as_dict(),
        "values": {metric: evaluation.values(metric).tolist() for metric in SHOWN},
        "videos": [str(video) for video in evaluation.videos],
        "constancy": float(span_constancy(relative)) if len(relative) > 1 else 0.0,
        "log": progress.log,
        "chosen_step": progress.best_step,
        "seconds": time.perf_counter() - began,
        "model": str(model_path),
        "settings": job.settings,
    }
    write(result_path, json.dumps(result).encode())
    return result


def blind_rows(problem: Problem, seed: int) -> list[Evaluation]:
    """Rows that see neither video nor query, and where frames and queries share a space the plain cosine."""
    source, target = load(problem, seed)
    test = target.opened("test")
    assert test.windows is not None
    assert test.window_mask is not None
    videos = [target.videos[qid] for qid in test.qids]
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
        name, keep = "zero-shot cosine", test.frame_mask
        sentence = (test.words * test.word_mask.unsqueeze(-1)).sum(1)
        rows[name], masks[name] = zero_shot_spans(test.frames, sentence, test.clip_times, frame_mask=keep, n=5)
    return [
        evaluate_windows(
            spans,
            test.windows,
            window_mask=test.window_mask,
            videos=videos,
            duration=test.duration,
            prediction_mask=masks.get(name),
            name=name,
        )
        for name, spans in rows.items()
    ]


def as_queries(domain: Domain, split: VMRBatch) -> list[Any]:
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


# ------------------------------------------------------------------------------------------------------ the table


def summarise(results: Sequence[dict[str, Any]], metric: str, one_test: bool) -> dict[str, Interval]:
    """Mean over seeds, with the t-interval over seeds, and by video where all have ``one_test`` split."""
    values = [r["metrics"][metric] for r in results]
    summary = {"seeds": seed_interval(values)}
    if metric in results[0]["values"] and one_test:
        mean = torch.tensor([r["values"][metric] for r in results], dtype=torch.float64).mean(0).numpy()
        summary["videos"] = bootstrap_interval(mean, groups=results[0]["videos"])
    return summary


def table(problem: Problem, blind: list[list[Evaluation]], results: list[dict[str, Any]], seeds: int) -> dict[str, Any]:
    """The rows as plain values, ready for text, JSON and plot."""
    rows: list[dict[str, Any]] = []
    one_test = problem.world is None or seeds == 1  # each seed of a world draws videos of its own
    for same in zip(*blind):
        as_results = [
            {
                "metrics": e.as_dict(),
                "values": {m: e.values(m).tolist() for m in SHOWN},
                "videos": [str(v) for v in e.videos],
            }
            for e in same
        ]
        rows.append({"row": same[0].name, "kind": "blind", **pack(as_results, one_test)})
    names = list(dict.fromkeys(r["row"] for r in results))
    for name in names:
        mine = [r for r in results if r["row"] == name]
        packed = pack(mine, one_test)
        packed["seconds"] = sum(r["seconds"] for r in mine) / len(mine)
        packed["constancy"] = max(r["constancy"] for r in mine)
        rows.append({"row": name, "kind": "trained", **packed})
    by_name = {row["row"]: row["mean"] for row in rows}
    if SOURCE_ONLY in by_name and CEILING in by_name:  # where the ceiling is no higher, there is no gap
        for row in rows:
            if row["kind"] == "trained":
                row["recovered"] = {}
                for m in (HEADLINE, MIOU):
                    low, high = by_name[SOURCE_ONLY][m], by_name[CEILING][m]
                    row["recovered"][m] = recovered_gap(row["mean"][m], low, high) if high - low > 0.02 else None
    compared = compare(results, one_test) if FULL in names else {}
    return {"problem": problem.name, "seeds": seeds, "rows": rows, "compared": compared}


def compare(results: Sequence[dict[str, Any]], one_test: bool) -> dict[str, str]:
    """The full model less source-only, and less itself without a module: query by query, or else seed by seed."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        rows.setdefault(result["row"], []).append(result)
    found = {}
    for name in rows:
        if name != SOURCE_ONLY and not name.startswith("full without"):
            continue
        pair = (rows[FULL], rows[name])
        for metric in (HEADLINE, MIOU):
            if one_test:
                means = [torch.tensor([r["values"][metric] for r in row]).mean(0).numpy() for row in pair]
                text = f"{paired_test(*means, groups=rows[FULL][0]['videos'])} by video"
            else:
                gains = seed_interval([a["metrics"][metric] - b["metrics"][metric] for a, b in zip(*pair)])
                text = f"{gains} over seeds"
            found[f"{FULL} less {name}, {metric}"] = text
    return found


def pack(results: Sequence[dict[str, Any]], one_test: bool) -> dict[str, Any]:
    """Means and intervals of one row."""
    summaries = {metric: summarise(results, metric, one_test) for metric in results[0]["metrics"]}
    return {
        "mean": {metric: summary["seeds"].mean for metric, summary in summaries.items()},
        "interval": {
            metric: {over: [interval.low, interval.high] for over, interval in summary.items()}
            for metric, summary in summaries.items()
        },
    }


def shown(row: dict[str, Any], metric: str) -> str:
    """``37.1 ±2.0``: the half-width is the larger of the intervals over seeds and by video."""
    halves = [(high - low) / 2 for low, high in row["interval"][metric].values() if high == high]
    text = f"{100 * row['mean'][metric]:.1f}"
    return text + (f" ±{100 * max(halves):.1f}" if halves else "")


def as_text(tables: list[dict[str, Any]]) -> str:
    """All tables as text."""
    lines = []
    for each in tables:
        seeds = f"{each['seeds']} seed" + ("s" if each["seeds"] > 1 else "")
        lines += [f"{each['problem']}: mean over {seeds}", ""]
        lines.append(f"{'':28}" + "".join(f"{m.replace('IoU=', ''):>12}" for m in SHOWN) + f"{'gap won':>9}")
        for row in each["rows"]:
            gap = row.get("recovered", {}).get(HEADLINE)
            tail = f"{100 * gap:8.0f}%" if gap is not None else ""
            lines.append((f"{row['row']:28}" + "".join(f"{shown(row, m):>12}" for m in SHOWN) + tail).rstrip())
        lines.append("± half-width of the 95 % interval, over seeds or by video, the wider; gap won back at R@1, 0.5")
        lines += [f"{what}: {text}" for what, text in each.get("compared", {}).items()]
        blind = [row["mean"] for row in each["rows"] if row["kind"] == "blind"]
        for row in each["rows"]:
            for metric in (HEADLINE, MIOU):
                if row["kind"] == "trained" and row["mean"][metric] <= max(mean[metric] for mean in blind):
                    lines.append(f"note: {row['row']} does not beat the best blind row at {metric}")
            if row.get("constancy", 0) > 0.5:
                lines.append(f"alarm: over half of the spans of {row['row']} lie at the same place")
        lines.append("")
    return "\n".join(lines)


def plot(tables: list[dict[str, Any]], path: Path) -> None:
    """A bar a row, one panel a problem, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"blind": "#b8bec7", "trained": "#3b6fb6"}
    height = 0.8 + 0.33 * max(len(t["rows"]) for t in tables)
    size = (6.2 * len(tables), height)
    figure, axes = plt.subplots(1, len(tables), figsize=size, squeeze=False, layout="constrained")
    for axis, each in zip(axes[0], tables):
        rows = each["rows"][::-1]
        means = [100 * r["mean"][HEADLINE] for r in rows]
        halves = [
            100 * max(((h - lo) / 2 for lo, h in r["interval"][HEADLINE].values() if h == h), default=0.0) for r in rows
        ]
        tints = ["#e08a2e" if r["row"] == FULL else colours[r["kind"]] for r in rows]
        axis.barh(range(len(rows)), means, xerr=halves, color=tints, error_kw={"elinewidth": 1, "capsize": 2})
        axis.set_yticks(range(len(rows)), [r["row"] for r in rows])
        for at, (mean, half) in enumerate(zip(means, halves)):
            axis.text(min(mean + half, 99) + 1, at, f"{mean:.1f}", va="center", fontsize=8)
        axis.set_xlim(0, 108)
        axis.set_xlabel(f"{HEADLINE} on the target's test videos, per cent")
        axis.set_title(each["problem"], fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    plt.close(figure)
    write(path, drawn.getvalue())


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)  # as any result, not as a private temporary file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
        torch.zeros(1, device=name)
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
    known: list[Path] = [folder / f"{file_stem(f'{problem.name} {FULL} 0')}.pt" for problem in problems_of(options)]
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


def sentence_features(problem: Problem, target: Domain, sentence: str) -> torch.Tensor:
    """Features of a sentence the query features hold; without its encoder no other sentence has any."""
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
    data.add_argument("--source", help="folder or prefix of the labelled domain")
    data.add_argument("--target", help="folder or prefix of the other domain")
    for side in ("source", "target"):
        help_text = "frame features elsewhere; repeat to join several"
        data.add_argument(f"--{side}-video", action="append", default=[], metavar="PATH", help=help_text)
        data.add_argument(f"--{side}-query", metavar="PATH", help="query features elsewhere")
    data.add_argument("--splits", metavar="JSON", help="splits by video; default: 70 / 10 / 20")
    data.add_argument("--max-clips", type=int, default=32, help="average-pool longer videos to so many")
    training = parser.add_argument_group("training")
    training.add_argument("--ablation", action="store_true", help="every row: also each module left out, controls")
    help_text = "train these rows only: names, or their beginnings"
    training.add_argument("--rows", nargs="+", metavar="NAME", help=help_text)
    training.add_argument("--seeds", type=int, help="number of seeds (default: 1 simulated, 3 real)")
    training.add_argument("--alignment", choices=ALIGNMENTS, default="mmd", help="what (i) aligns with")
    training.add_argument("--epochs", type=int, help="passes over the source (default: 10 simulated, 12 real)")
    training.add_argument("--batch-size", type=int, default=32, help="source queries a step")
    help_text = "target queries a step, of which each is a negative of the others (default: as many)"
    training.add_argument("--target-batch-size", type=int, help=help_text)
    help_text = "train on the validation videos too; no checkpoint is chosen then, the last weights are kept"
    training.add_argument("--train-on-val", action="store_true", help=help_text)
    help_text = "frames and words come from one encoder: start from their plain similarity"
    training.add_argument("--shared-space", action="store_true", help=help_text)
    training.add_argument("--diagnose", action="store_true", help="log each term's gradient norm (JSON)")
    training.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    training.add_argument("--workers", type=int, help="processes (default: one a core, at most 8; 1 on a GPU)")
    help_text = "keep the finished rows in --output; a row is gone on with in its middle if it began with --resume too"
    training.add_argument("--resume", action="store_true", help=help_text)
    training.add_argument("--smoke", action="store_true", help="seconds, not minutes: is everything wired?")
    training.add_argument("--output", type=Path, default=Path("outputs/mmcda_vmr"), help="folder for all results")
    asking = parser.add_argument_group("asking a trained model")
    asking.add_argument("--predict", metavar="SENTENCE", help="print the best moments of --video for a sentence")
    asking.add_argument("--video", metavar="ID", help="a video of the target")
    asking.add_argument("--checkpoint", type=Path, help="default: the full model of the first seed in --output")
    asking.add_argument("--top", type=int, default=5, help="how many moments")
    options = parser.parse_args(arguments)
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    if options.source is not None and options.world:
        parser.error("--world and --source exclude each other")
    if options.source is None:
        for name in ("splits", "source_video", "source_query", "target_video", "target_query"):
            if getattr(options, name):
                parser.error(f"--{name.replace('_', '-')} needs --source and --target")
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
        worlds = options.world or (["language"] if options.smoke else ["default", "language"])
        return [Problem(f"world {name}", world=name, videos=80 if options.smoke else None) for name in worlds]
    places = [
        Place(
            getattr(options, side),
            tuple(getattr(options, f"{side}_video")),
            getattr(options, f"{side}_query"),
            options.splits,
            options.max_clips,
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
        blind = [blind_rows(problem, seed) for seed in range(seeds)]
        tables.append(table(problem, blind, [r for r in results if r["problem"] == problem.name], seeds))
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
    except KeyboardInterrupt:
        print("interrupted; --resume keeps the finished rows, and begun ones if it was given already", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(cli())
