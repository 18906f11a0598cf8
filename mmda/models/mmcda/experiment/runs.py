"""One job from data to result: the recipe of a row, its evaluation, and its files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmda.metrics import PRESETS, Preset
from mmda.models.mmcda.build import build_mmcda
from mmda.models.mmcda.closed_form import Pooling, start_linear
from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.experiment.domains import Domain, Draws, Problem
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import Job, finished
from mmda.models.mmcda.experiment.results import Result, Scores, as_scores, write_lines, write_record
from mmda.models.mmcda.experiment.rows import alignment_of
from mmda.models.mmcda.localizer import Spans
from mmda.models.mmcda.logs import JSONLines, StepFacts, TensorBoardLog, several
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.objective import MMCDAObjective
from mmda.models.mmcda.parallel import Ranks, whole
from mmda.models.mmcda.saving import Progress, save_model
from mmda.models.mmcda.selection import selection_score
from mmda.models.mmcda.training import fit, predict_split
from mmda.validators import span_constancy
from mmda.vmr import ResidentLoader, ResidentSplit, VMRBatch, VMRQuery
from mmda.vmr.blind import constant_rows, constant_spans, prior_spans, random_spans, whole_video, zero_shot_spans
from mmda.vmr.evaluation import Evaluation, evaluate_windows

#: Called after each step with its number.
OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Trained:
    """What a recipe returns.

    Args:
        model: the model at the selected checkpoint, in ``eval()`` mode.
        config: config of the model.
        progress: returned by :func:`mmda.models.mmcda.fit`.
    """

    model: MMCDA
    config: MMCDAConfig
    progress: Progress


Pairs = TypeVar("Pairs", ResidentSplit, VMRBatch)

#: A recipe, called with a job, its data, and a callback for each step.
Recipe = Callable[[Job, Draws, "OnStep | None"], Trained]


@dataclass(frozen=True)
class Batches:
    """The batches of a job: labelled batches and target pairs to train on, and held-out ones to select a checkpoint.

    Args:
        source: labelled batches.
        target: the target's pairs, without moments.
        source_val: held-out labelled batches.
        target_val: held-out pairs of the target.
    """

    source: ResidentLoader
    target: ResidentLoader
    source_val: ResidentLoader
    target_val: ResidentLoader

    @property
    def widths(self) -> tuple[int, int]:
        """Feature widths of frames and words."""
        split = self.source.split
        return split.frames.shape[-1], split.words.shape[-1]


def batches_of(job: Job, source: Domain, target: Domain) -> Batches:
    """The loaders of a job: the labelled batches, and the target's pairs, shuffled among videos for the control.

    Args:
        job: row, seed and batch sizes.
        source: the labelled domain.
        target: the other one.

    Returns:
        The loaders; those of the target's pairs contain no moments.

    Example:
        >>> from mmda.models.mmcda.experiment import Plan, plan_jobs
        >>> problem, data = Problem("small", world="language", videos=40), Draws()
        >>> job = plan_jobs(problem, Plan(rows=("full: ",), smoke=True), data)[0]
        >>> batches_of(job, *data.load(problem, 0)).widths
        (32, 24)
    """
    labelled = target if job.row.train_on == "target" else source
    ranks = _ranks(job)
    train, pairs = joined(map(labelled.opened, job.splits)), joined(target.pairs[split] for split in job.splits)
    if job.row.train_on == "both":
        train = joined([train, joined(map(target.opened, job.splits))])
    if job.row.shuffled:
        pairs = shuffled(pairs, job.seed)
    a, b = min(job.batch_size, len(train)), min(job.target_batch_size, len(pairs))
    return Batches(
        source=ResidentLoader(train, a, seed=job.seed, drop_last=True, rank=ranks.rank, ranks=ranks.size),
        target=ResidentLoader(
            pairs, b, seed=job.seed + 1, labels=False, drop_last=True, rank=ranks.rank, ranks=ranks.size
        ),
        source_val=ResidentLoader(labelled.opened("val"), 128, shuffle=False),
        target_val=ResidentLoader(target.pairs["val"], 128, shuffle=False, labels=False),
    )


def _ranks(job: Job) -> Ranks:
    """The processes that train this job."""
    return Ranks(together=job.parallel is not None, device=torch.device(job.device))


def joined(splits: Iterable[ResidentSplit]) -> ResidentSplit:
    """Splits concatenated; either all or none of them with moments."""
    return reduce(ResidentSplit.join, splits)


def shuffled(split: Pairs, seed: int) -> Pairs:
    """Every video gets queries of other videos; it keeps none of its own, unless it has more than half of all
    queries."""
    generator = torch.Generator().manual_seed(seed)
    videos, index, counts = torch.unique(split.video_index, return_inverse=True, return_counts=True)
    place = torch.randperm(len(videos), generator=generator)[index]  # the videos in random order
    rows = torch.randperm(len(split), generator=generator)
    ranked = rows[place[rows].argsort(stable=True)]
    order = torch.empty_like(ranked)
    order[ranked] = ranked.roll(
        -int(counts.max())
    )  # rows of one video are adjacent, so rolling by the largest group gives another video
    return replace(
        split, words=split.words[order], word_mask=split.word_mask[order], text_index=split.text_index[order]
    )


def pooling_of(modules: Sequence[str]) -> Pooling:
    """Frame pooling of a pair in a linear form.

    (ii) without (iii) uses the mean of all frames; (iii) without (ii) the best frames, as in multiple-instance
    learning; both together all frames, weighted by their similarity to the query.
    """
    if "specific" not in modules and "cross_modal" in modules:
        return "mean"
    return "top" if "cross_modal" not in modules and "specific" in modules else "attention"


def start_model(model: MMCDA, job: Job, data: Draws) -> None:
    """Initialise a linear form in closed form from the data that the row may use; towers keep their random weights.

    Moments are those of the row's labelled domains. (i) gives the source's features the target's mean and covariance.
    (ii) and (iii) add the target's pairs: see :func:`pooling_of`.
    """
    if job.form != "linear":
        return
    source, target = data.load(job.problem, job.seed)
    known = joined(map((target if job.row.train_on == "target" else source).opened, job.splits))
    if job.row.train_on == "both":
        known = joined([known, joined(map(target.opened, job.splits))])
    pairs = joined(target.pairs[split] for split in job.splits)
    if job.row.shuffled:
        pairs = shuffled(pairs, job.seed)
    device = torch.device(job.device)
    start_linear(
        model.to("cpu"),
        known,
        pairs if job.row.uses_pairs else None,
        domain=pairs if "domain" in job.row.modules else None,
        pooling=pooling_of(job.row.modules),
        fitted=data.fitted(job.problem, job.seed, job.splits, job.row.train_on, job.row.shuffled),
    )
    model.to(device)


def train_row(job: Job, data: Draws, on_step: OnStep | None = None) -> Trained:
    """The recipe of a row: builds the model and its terms and trains it. Boundaries of the target are not read.

    Args:
        job: row, seed and settings.
        data: loads and caches the domains.
        on_step: called after each step with its number.

    Returns:
        The model at the checkpoint selected on held-out source moments and target pairs.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from mmda.models.mmcda.experiment import Plan, plan_jobs
        >>> problem = Problem("small", world="language", videos=40)
        >>> with TemporaryDirectory() as folder:
        ...     job = plan_jobs(problem, Plan(rows=("source-only",), smoke=True, output=Path(folder)))[0]
        ...     train_row(job, Draws()).progress.step
        4
    """
    source, target = data.load(job.problem, job.seed)
    batches = batches_of(job, source, target)
    torch.manual_seed(job.seed)
    config = job.config(*batches.widths)
    model = build_mmcda(config).to(job.device)
    start_model(model, job, data)
    if not job.weights:  # nothing to train after the closed form
        return Trained(model.eval(), config, Progress())
    objective = MMCDAObjective(
        weights=job.weights,
        video_discrepancy=alignment_of(job.alignment, config.hidden),
        query_discrepancy=alignment_of(job.alignment, config.hidden),
        temperature=config.temperature,
    ).to(job.device)
    held_out = batches.target_val if objective.needs_target else None
    progress = fit(
        model,
        objective,
        batches.source,
        batches.target,
        config=job.training,
        validate=None if job.train_on_val else lambda m: selection_score(m, batches.source_val, held_out),
        on_step=on_step,
        log=_log(job) if _ranks(job).rank == 0 else None,
        log_steps=job.log_steps or 1,
        resume=job.run_path,
        save_steps=job.save_steps,
        save_seconds=job.save_seconds,
        device=job.device,
        parallel=job.parallel,
    )
    if job.parallel == "fsdp":  # gather the full parameters
        state = whole(model.state_dict())
        model = build_mmcda(config).to(job.device).eval()
        model.load_state_dict(state)
    return Trained(model, config, progress)


def _log(job: Job) -> Callable[[StepFacts], None] | None:
    """The callback that writes the training log of a job, if any."""
    if job.log_steps is None:
        return None
    logs: list[Callable[[StepFacts], None]] = [JSONLines(job.log_path)]
    if job.tensorboard:
        try:
            logs.append(TensorBoardLog(job.log_path.with_suffix("")))
        except ImportError as error:
            raise UnusableError(f"--tensorboard: the package must be installed, got {error}") from error
    return several(logs)


def run_job(
    job: Job, data: Draws, on_step: OnStep | None = None, *, recipe: Recipe = train_row, test: bool = True
) -> Result:
    """Train one row with one seed, evaluate it on the target's test split, and write model, answers and scores.

    Args:
        job: row, seed and settings.
        data: loads and caches the domains.
        on_step: called after each step with its number.
        recipe: function that trains.
        test: score the model; otherwise the result has no scores and no answers are written.

    Returns:
        The result, also written to ``job.folder``; with ``job.resume`` a finished one is read from there.

    Raises:
        UnusableError: ``job.resume`` finds results of other settings.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from mmda.models.mmcda.experiment import Plan, plan_jobs
        >>> with TemporaryDirectory() as folder:
        ...     plan = Plan(rows=("source-only",), smoke=True, output=Path(folder))
        ...     result = run_job(plan_jobs(Problem("small", world="language", videos=40), plan)[0], Draws())
        >>> result["row"], sorted(result["metrics"])[:2]
        ('source-only', ['R@1, IoU=0.3', 'R@1, IoU=0.5'])
    """
    ranks = _ranks(job)
    done = ranks.first(lambda: finished(job))
    if done is not None:
        return done
    began = time.perf_counter()
    run_settings = job.run_path.with_suffix(".json")

    def begin() -> None:
        if not job.resume:
            _forget(job.run_path, run_settings, job.log_path)
        write_record(run_settings, {"settings": job.settings})

    ranks.first(begin)
    trained = recipe(job, data, on_step)
    facts = {"problem": job.problem.name, "row": job.row.name, "seed": job.seed, "settings": job.settings}
    ranks.first(lambda: save_model(job.model_path, trained.model, trained.config, **facts))
    scores, constancy = _tested(job, data, trained.model) if test else (Scores(metrics={}, values={}, videos=[]), 0.0)
    result: Result = {
        "problem": job.problem.name,
        "row": job.row.name,
        "seed": job.seed,
        **scores,
        "constancy": constancy,
        "log": trained.progress.log,
        "chosen_step": trained.progress.best_step,
        "seconds": time.perf_counter() - began,
        "model": str(job.model_path),
        "settings": job.settings,
    }

    def end() -> None:
        if test:
            write_record(job.result_path, result)
        _forget(job.run_path, run_settings)

    ranks.first(end)
    return result


def _forget(*paths: Path) -> None:
    """Remove the files of a run that is finished or not resumed."""
    for path in paths:
        path.unlink(missing_ok=True)


def _tested(job: Job, data: Draws, model: MMCDA) -> tuple[Scores, float]:
    """Scores on the target's test split and the fraction of equal relative spans; writes the answers."""
    target = data.load(job.problem, job.seed)[1]
    test = target.opened("test")
    asked, ranks = ResidentLoader(test, 128, shuffle=False, labels=False), _ranks(job)
    spans = _predicted(model, asked, ranks, nms_threshold=suppression(PRESETS[job.preset]))
    evaluation = evaluated(spans.windows, target, job.preset, job.iou, mask=spans.mask, name=job.row.name)
    path = job.folder / "predictions" / f"{job.stem}.jsonl"
    ranks.first(lambda: write_lines(path, answers(spans, target, test, evaluation)))
    relative = spans.windows[:, 0] / test.duration.unsqueeze(1)
    return as_scores(evaluation), float(span_constancy(relative)) if len(relative) > 1 else 0.0


def _predicted(model: MMCDA, loader: ResidentLoader, ranks: Ranks, *, nms_threshold: float) -> Spans:
    """The predicted spans of every row; each batch is run on one of the ranks."""
    if ranks.size == 1:
        return predict_split(model, loader, nms_threshold=nms_threshold)[0]
    own = {
        at: predict_split(model, [batch], nms_threshold=nms_threshold)[0]
        for at, batch in enumerate(loader)
        if at % ranks.size == ranks.rank
    }
    found = {at: spans for share in ranks.every(own) for at, spans in share.items()}
    return Spans(*(torch.cat([found[at][i] for at in range(len(loader))]) for i in range(3)))


def suppression(preset: Preset) -> float:
    """NMS threshold for decoding."""
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
    """Evaluation of spans against the moments of the target's test split."""
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


def answers(spans: Spans, target: Domain, test: ResidentSplit, evaluation: Evaluation) -> Iterator[Mapping[str, Any]]:
    """Each query's spans, best first, their scores, and the best IoU of the first."""
    for i, qid in enumerate(test.qids):
        keep = spans.mask[i]
        yield {
            "qid": target.numbers.get(qid, qid),
            "vid": target.videos[qid],
            "query": target.texts[qid],
            "spans": spans.windows[i][keep].tolist(),
            "scores": spans.scores[i][keep].tolist(),
            "iou": float(evaluation.ious[i]),
        }


def blind_rows(problem: Problem, seed: int, preset: str, iou: Sequence[float], data: Draws) -> list[Evaluation]:
    """Rows that use neither video nor query, and the cosine similarity if frames and queries share a space.

    Args:
        problem: the two domains.
        seed: seed of the random spans.
        preset: the evaluation's conventions.
        iou: its thresholds.
        data: loads and caches the domains.

    Returns:
        One evaluation per row.

    Example:
        >>> rows = blind_rows(Problem("small", world="language", videos=40), 0, "default", (0.5,), Draws())
        >>> [row.name for row in rows]
        ['random span', 'sampled source prior', 'best constant of the source', 'whole video']
    """
    source, target = data.load(problem, seed)
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


def as_queries(domain: Domain, split: ResidentSplit) -> list[VMRQuery]:
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
