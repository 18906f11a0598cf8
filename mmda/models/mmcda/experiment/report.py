"""HTML report: tables, example answers with their similarity curves, training curves, settings and versions.

The charts are inline SVG rather than matplotlib images: they follow the light or dark colours of the page, scale with
the screen, take a few kilobytes, and need no extra package. :mod:`mmda.plots` is for papers.
"""

from __future__ import annotations

import json
import math
import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmda._core.files import read_lines_file, text_lines
from mmda._core.version import __version__
from mmda._engine.native import instruction_set
from mmda.models.mmcda.experiment.domains import Domain
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import Job
from mmda.models.mmcda.experiment.markup import bars, curve, element, folded, keys, listed, page, panel, settings, table
from mmda.models.mmcda.experiment.results import Result
from mmda.models.mmcda.experiment.rows import FULL
from mmda.models.mmcda.experiment.settings import flat_settings
from mmda.models.mmcda.experiment.tables import HEADLINE, Table, columns, half_widths, notes_of, shown
from mmda.models.mmcda.saving import load_model

#: IoU from which an answer counts as right: the threshold of the table's main metric.
RIGHT = 0.5

#: Example answers of each kind.
EXAMPLES = 3

_COLOURS = {"blind": "blind", "closed form": "closed", "labels": "labels", "trained": "trained"}
_KINDS = {"sees neither video nor query": "blind", "closed form": "closed", "uses the target's moments": "labels"}


@dataclass(frozen=True)
class Example:
    """An answer of a model, with the curve it was decoded from.

    Args:
        query: the sentence.
        vid: the video.
        edges: edges of the video's clips in seconds, one more than clips.
        profile: the value per clip that the spans were decoded from.
        truth: true moments in seconds.
        answer: the model's first span in seconds, if any.
        iou: IoU of the answer with the truth.
    """

    query: str
    vid: str
    edges: tuple[float, ...]
    profile: tuple[float, ...]
    truth: tuple[tuple[float, float], ...]
    answer: tuple[float, float] | None
    iou: float


def environment() -> dict[str, str | int]:
    """Versions, system and number of threads, as plain values."""
    return {
        "mmda": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "instruction set": instruction_set(),
    }


def examples_of(job: Job, target: Domain) -> list[Example]:
    """Up to three right and three wrong answers of a finished job, chosen at random; none if unscored.

    Spans and IoU are read from the job's file of answers; the model is run only for the curves.
    """
    path = job.folder / "predictions" / f"{job.stem}.jsonl"
    if not path.exists() or not job.model_path.exists():
        return []
    try:
        answers = {str(row["qid"]): row for row in map(json.loads, text_lines(read_lines_file(path).decode()))}
    except ValueError as error:  # another digest, or no JSON
        raise UnusableError(f"{error}; delete it and the result in jobs to train the row again") from error
    test = target.opened("test")
    stored = [(i, answers.get(str(target.numbers.get(qid, qid)))) for i, qid in enumerate(test.qids)]
    lot = random.Random(0)
    chosen: list[tuple[int, dict[str, Any]]] = []
    for right in (True, False):
        kind = [(i, row) for i, row in stored if row is not None and (row["iou"] >= RIGHT) == right]
        chosen += sorted(lot.sample(kind, min(EXAMPLES, len(kind))), key=lambda pair: pair[0])
    if not chosen:
        return []
    model, _ = load_model(job.model_path)
    batch = test.slice([i for i, _ in chosen])
    with torch.no_grad():
        profiles = model.profile(model(batch)).double()
    assert batch.windows is not None
    assert batch.window_mask is not None
    found = []
    for k, (_, row) in enumerate(chosen):
        times = batch.clip_times[k][batch.frame_mask[k]].tolist()
        found.append(
            Example(
                query=str(row["query"]),
                vid=str(row["vid"]),
                edges=(*(start for start, _ in times), times[-1][1]),
                profile=tuple(profiles[k][batch.frame_mask[k]].tolist()),
                truth=tuple((float(s), float(e)) for s, e in batch.windows[k][batch.window_mask[k]]),
                answer=tuple(row["spans"][0]) if row["spans"] else None,
                iou=float(row["iou"]),
            )
        )
    return found


def table_report(
    tables: Sequence[Table],
    content: Mapping[str, Any],
    results: Sequence[Result],
    examples: Mapping[str, Sequence[Example]],
) -> bytes:
    """The report of a run of :func:`run_table`.

    Args:
        tables: one table per problem.
        content: content of ``table.json``.
        results: results of all jobs.
        examples: example answers by problem.

    Returns:
        The HTML file.
    """
    parts = []
    for each in tables:
        parts += [element("h2", each["problem"]), *_table_parts(each)]
        run = _shown_run([result for result in results if result["problem"] == each["problem"]])
        parts += _example_parts(examples.get(each["problem"], ()), run) + _training_parts(run)
    run = _shown_run(results)
    facts = {"arguments": " ".join(content["arguments"]), "seconds": f"{content['seconds']:.0f}"}
    parts += _facts_parts(facts, None if run is None else run["settings"], content["environment"])
    return page("MMCDA: " + ", ".join(each["problem"] for each in tables), parts)


def training_report(result: Result, facts: Mapping[str, Any], examples: Sequence[Example]) -> bytes:
    """The report of one trained model: scores if any, answers, training, settings and versions."""
    parts = []
    if result["metrics"]:
        rows = [(metric, f"{100 * value:.1f}") for metric, value in result["metrics"].items()]
        parts += [element("h2", "Scores"), table(("on the target's test split", "per cent"), rows)]
    else:
        parts.append(element("p", "Not scored: the target's test split has no moments."))
    parts += _example_parts(examples, result) + _training_parts(result)
    known = {"model": Path(result["model"]).name, "seconds": f"{result['seconds']:.0f}"}
    parts += _facts_parts(known, result["settings"], facts)
    return page(f"{result['row']}, seed {result['seed']}: {result['problem']}", parts)


def _shown_run(results: Sequence[Result]) -> Result | None:
    """The run whose examples and curves are shown: the full model with the first seed, else the last."""
    full = [result for result in results if result["row"] == FULL]
    return min(full, key=lambda r: r["seed"]) if full else results[-1] if results else None


def _table_parts(each: Table) -> list[str]:
    metrics = columns(each["iou"])
    has_gap = any("recovered" in row for row in each["rows"])
    lines, drawn = [], []
    for row in each["rows"]:
        share = row.get("recovered", {}).get(HEADLINE)
        gap = (
            [] if not has_gap else ["" if "recovered" not in row else "-" if share is None else f"{100 * share:.0f} %"]
        )
        lines.append((row["row"], *(shown(row, metric) for metric in metrics), *gap))
        mean, half = row["mean"][HEADLINE], max(half_widths(row, HEADLINE), default=math.nan)
        ends = (mean - half, mean + half) if math.isfinite(half) else None
        colour = "full" if row["row"] == FULL else _COLOURS[row["kind"]]
        drawn.append((row["row"], colour, mean, ends, shown(row, HEADLINE)))
    seeds = f"{each['seeds']} seed" + ("s" if each["seeds"] > 1 else "")
    caption = (
        f"Per cent, mean over {seeds}; (i) aligns with {each['alignment']}; evaluated as {each['preset']}. "
        "± half-width of the 95 % interval, over seeds or by video, the wider."
    )
    head = ("", *metrics, *(("gap won back",) if has_gap else ()))
    kinds = {row["kind"] for row in each["rows"]}
    legend = {name: colour for name, colour in _KINDS.items() if any(_COLOURS[kind] == colour for kind in kinds)}
    if "trained" in kinds:
        legend |= {"trained": "trained", "full model": "full"}
    return [
        element("h3", f"{HEADLINE} on the target's test videos"),
        bars(drawn),
        keys(legend),
        element("h3", "All figures"),
        table(head, lines, caption=caption, strong=FULL),
        *([element("h3", "Compared")] if each["compared"] else []),
        listed([f"{what}: {text}" for what, text in each["compared"].items()]),
        *([element("h3", "To be noted")] if notes_of(each) else []),
        listed([line.removeprefix("note: ") for line in notes_of(each)]),
    ]


def _example_parts(examples: Sequence[Example], result: Result | None) -> list[str]:
    if not examples or result is None:
        return []
    of = f"{result['row']}, seed {result['seed']}"
    parts = [
        element("h3", "Example answers"),
        element(
            "p",
            f"Drawn by lot among the right answers (IoU of at least {RIGHT:g}) and among the others, of {of}. "
            "The curve is what the spans are read from: the similarity of each clip to the query.",
        ),
        keys({"similarity": "trained", "true moment": "truth", "answer": "answer"}),
    ]
    for title, right in (("Right", True), ("Wrong", False)):
        kind = [example for example in examples if (example.iou >= RIGHT) == right]
        parts += [element("h4", title)] if kind else []
        for example in kind:
            truth = ", ".join(map(_moment, example.truth))
            answer = "none" if example.answer is None else _moment(example.answer)
            summary = f"answer {answer}, truth {truth}, IoU {example.iou:.2f}; {example.vid}"
            drawing = curve(
                example.edges,
                example.profile,
                label=f"similarity over time to {example.query!r}; {summary}",
                truth=example.truth,
                answer=example.answer,
            )
            parts.append(f"<figure>{element('b', example.query)}{drawing}{element('figcaption', summary)}</figure>")
    return parts


def _moment(moment: tuple[float, float]) -> str:
    return f"{moment[0]:.1f} s to {moment[1]:.1f} s"


def _training_parts(result: Result | None) -> list[str]:
    if result is None:
        return []
    title = element("h3", f"Training of {result['row']}, seed {result['seed']}")
    log = result["log"]
    if not log:
        return [title, element("p", "Nothing was trained on top of the closed form.")]
    steps = [float(entry["step"]) for entry in log]
    groups: list[tuple[str, dict[str, list[float]]]] = [
        ("Terms, before their weights", _by_role(log, "terms")),
        ("Gradient norms, before their weights", _by_role(log, "gradient_norms")),
    ]
    parts = [title, element("p", f"The checkpoint of step {result['chosen_step']} was taken.")]
    parts.append(
        f'<div class="panels">{panel("score of the checkpoint", steps, [_number(e["score"]) for e in log])}</div>'
    )
    for name, curves in groups:
        if curves:
            drawn = "".join(panel(role, steps, values) for role, values in curves.items())
            parts += [element("h4", name), f'<div class="panels">{drawn}</div>']
    if not groups[1][1]:
        parts.append(element("p", "Gradient norms were not logged: --diagnose does.", "soft"))
    return parts


def _by_role(log: Sequence[Mapping[str, Any]], what: str) -> dict[str, list[float]]:
    roles = dict.fromkeys(role for entry in log for role in entry[what])
    return {role: [_number(entry[what].get(role)) for entry in log] for role in roles}


def _number(value: float | None) -> float:
    """The value, or NaN for ``None``, which represents NaN in JSON."""
    return math.nan if value is None else float(value)


def _facts_parts(facts: Mapping[str, Any], asked: Mapping[str, Any] | None, versions: Mapping[str, Any]) -> list[str]:
    parts = [element("h2", "How this was made"), settings(facts, "The run")]
    if asked is not None:
        parts.append(folded("Every setting", settings(flat_settings(dict(asked)), "Settings")))
    return [*parts, settings(versions, "Versions and environment")]
