"""The table of a problem: means and intervals of its rows, and comparisons, as values, text and plot."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch

from mmda.models.mmcda.experiment.closed_rows import SEES_LABELS, UNSUPERVISED
from mmda.models.mmcda.experiment.results import Result, Scores, as_scores, write
from mmda.models.mmcda.experiment.rows import CEILING, CONTROL, FULL, SOURCE_ONLY
from mmda.vmr.evaluation import (
    Evaluation,
    Interval,
    PairedTest,
    bootstrap_interval,
    paired_test,
    recovered_gap,
    seed_interval,
)

HEADLINE, MIOU = "R@1, IoU=0.5", "mIoU"


class TableRow(TypedDict, total=False):
    """A row of the table: means, and intervals over ``"seeds"`` or ``"videos"``.

    An interval is ``None`` if there is only one seed. Only trained rows have the last three entries.
    """

    row: str
    kind: str
    mean: dict[str, float]
    interval: dict[str, dict[str, list[float] | None]]
    seconds: float
    constancy: float
    recovered: dict[str, float | None]


class Table(TypedDict):
    """The table of one problem, as plain values."""

    problem: str
    seeds: int
    alignment: str
    preset: str
    iou: list[float]
    rows: list[TableRow]
    compared: dict[str, str]
    no_gap: dict[str, str]


def columns(iou: Sequence[float]) -> tuple[str, ...]:
    """Metrics of the text table: recall of the first span at each threshold, of five spans at 0.5, and the mean IoU."""
    return (*(f"R@1, IoU={m:g}" for m in iou), "R@5, IoU=0.5", MIOU)


def make_table(
    problem: str,
    blind: Sequence[Sequence[Evaluation]],
    results: Sequence[Result],
    *,
    one_test: bool,
    alignment: str = "mmd",
    preset: str = "default",
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    closed: Sequence[Sequence[Evaluation]] = (),
) -> Table:
    """The rows of a problem as plain values, ready for :func:`as_text`, JSON and :func:`plot_tables`.

    Args:
        problem: name of the problem.
        blind: for each seed, the rows that use neither video nor query.
        results: results of the trained rows.
        one_test: all seeds share one test split, so that intervals by video can be computed.
        alignment: discrepancy of (i).
        preset: evaluation conventions.
        iou: IoU thresholds to show.
        closed: for each seed, the rows of :func:`untrained_rows`.

    Returns:
        Means with intervals, the fraction of the gap recovered, and the gain of the full model over other rows.

    Example:
        >>> from mmda.models.mmcda.experiment import Draws, Plan, Problem, plan_jobs, run_job
        >>> from tempfile import TemporaryDirectory
        >>> problem = Problem("small", world="language", videos=8)
        >>> with TemporaryDirectory() as folder:
        ...     plan = Plan(rows=("source-only",), smoke=True, output=Path(folder))
        ...     results = [run_job(job, Draws()) for job in plan_jobs(problem, plan)]
        >>> [row["row"] for row in make_table("small", [], results, one_test=True)["rows"]]
        ['source-only']
    """
    rows: list[TableRow] = []
    for same in zip(*blind):
        rows.append(_row(same[0].name, "blind", [as_scores(each) for each in same], one_test))
    untrained: dict[str, list[Scores]] = {}
    for same in zip(*closed):
        name, scores = same[0].name, [as_scores(each) for each in same]
        if name in UNSUPERVISED:
            untrained[name] = scores
        rows.append(_row(name, "labels" if name in SEES_LABELS else "closed form", scores, one_test))
    by_row: dict[str, list[Result]] = {}
    for result in results:
        by_row.setdefault(result["row"], []).append(result)
    trained: dict[str, TableRow] = {}
    for name, mine in by_row.items():
        trained[name] = _row(name, "trained", mine, one_test)
        trained[name]["seconds"] = sum(r["seconds"] for r in mine) / len(mine)
        trained[name]["constancy"] = max(r["constancy"] for r in mine)
    gap: dict[str, str] = {}
    if SOURCE_ONLY in by_row and CEILING in by_row:
        low, high = (trained[name]["mean"] for name in (SOURCE_ONLY, CEILING))
        for metric in (HEADLINE, MIOU):
            gains = differences(by_row[CEILING], by_row[SOURCE_ONLY], metric, one_test)
            there = all(
                gain.low > 0 for gain in gains.values()
            )  # otherwise the gap may be zero, and a fraction of it noise
            if not there:
                gap[metric] = _told(gains)
            for row in trained.values():
                share = recovered_gap(row["mean"][metric], low[metric], high[metric]) if there else None
                row.setdefault("recovered", {})[metric] = share
    return {
        "problem": problem,
        "seeds": len(blind) or len({result["seed"] for result in results}),
        "alignment": alignment,
        "preset": preset,
        "iou": list(iou),
        "rows": [*rows, *trained.values()],
        "compared": compare(by_row, one_test, untrained) if FULL in by_row else {},
        "no_gap": gap,
    }


def summarise(results: Sequence[Scores], metric: str, one_test: bool) -> dict[str, Interval]:
    """Mean over seeds, with the t-interval over seeds, and one over videos if all seeds share ``one_test`` split."""
    values = [r["metrics"][metric] for r in results]
    summary = {"seeds": seed_interval(values)}
    if metric in results[0]["values"] and one_test:
        mean = torch.tensor([r["values"][metric] for r in results], dtype=torch.float64).mean(0).numpy()
        summary["videos"] = bootstrap_interval(mean, groups=results[0]["videos"])
    return summary


def compare(
    rows: Mapping[str, Sequence[Result]], one_test: bool, untrained: Mapping[str, Sequence[Scores]]
) -> dict[str, str]:
    """Differences of the full model to closed forms, source-only, its control, and itself without each module."""
    others = [name for name in rows if name in (SOURCE_ONLY, CONTROL) or name.startswith("full without")]
    full = sorted(rows[FULL], key=lambda r: r["seed"])
    told = {
        f"{FULL} less {name}, {metric}": _told(_paired(full, scores, metric, one_test))
        for name, scores in untrained.items()
        if len(scores) == len(full)
        for metric in (HEADLINE, MIOU)
    }
    return told | {
        f"{FULL} less {name}, {metric}": _told(differences(rows[FULL], rows[name], metric, one_test))
        for name in others
        for metric in (HEADLINE, MIOU)
    }


def differences(
    a: Sequence[Result], b: Sequence[Result], metric: str, one_test: bool
) -> dict[str, Interval | PairedTest]:
    """Difference of two rows: paired by query if all seeds share the test split, and by seed if there are several.

    The first interval is over the choice of videos, the second over the choice of seeds.
    """
    first, second = (sorted(row, key=lambda r: r["seed"]) for row in (a, b))
    return _paired(first, second, metric, one_test)


def _paired(a: Sequence[Scores], b: Sequence[Scores], metric: str, one_test: bool) -> dict[str, Interval | PairedTest]:
    """Row a minus row b, both in the order of their seeds."""
    found: dict[str, Interval | PairedTest] = {}
    if one_test:
        means = [torch.tensor([r["values"][metric] for r in row]).mean(0).numpy() for row in (a, b)]
        found["by video"] = paired_test(*means, groups=a[0]["videos"])
    if len(a) > 1:
        found["over seeds"] = seed_interval([x["metrics"][metric] - y["metrics"][metric] for x, y in zip(a, b)])
    return found


def _told(found: dict[str, Interval | PairedTest]) -> str:
    """Intervals as text, with what they are over."""
    return "; ".join(f"{interval} {over}" for over, interval in found.items())


def _row(name: str, kind: str, results: Sequence[Scores], one_test: bool) -> TableRow:
    """Means and intervals of one row."""
    summaries = {metric: summarise(results, metric, one_test) for metric in results[0]["metrics"]}
    return {
        "row": name,
        "kind": kind,
        "mean": {metric: summary["seeds"].mean for metric, summary in summaries.items()},
        "interval": {
            metric: {over: _ends(interval) for over, interval in summary.items()}
            for metric, summary in summaries.items()
        },
    }


def _ends(interval: Interval) -> list[float] | None:
    """Low and high; ``None`` with one seed, which gives no interval."""
    ends = [interval.low, interval.high]
    return ends if all(map(math.isfinite, ends)) else None


def half_widths(row: TableRow, metric: str) -> list[float]:
    """Half-widths of the row's intervals."""
    return [(ends[1] - ends[0]) / 2 for ends in row["interval"][metric].values() if ends is not None]


def shown(row: TableRow, metric: str) -> str:
    """``37.1 ±2.0``: the half-width is the larger of the intervals over seeds and by video."""
    halves = half_widths(row, metric)
    text = f"{100 * row['mean'][metric]:.1f}"
    return text + (f" ±{100 * max(halves):.1f}" if halves else "")


def as_text(tables: Sequence[Table]) -> str:
    """All tables as text.

    Args:
        tables: tables of :func:`make_table`.

    Returns:
        For each table a heading, one line per row, comparisons and notes.

    Example:
        >>> mean = {metric: 0.5 for metric in columns((0.5,))}
        >>> row = TableRow(row="whole video", kind="blind", mean=mean, interval={metric: {} for metric in mean})
        >>> facts = {"alignment": "mmd", "preset": "default", "iou": [0.5], "compared": {}, "no_gap": {}}
        >>> print(as_text([Table(problem="a to b", seeds=1, rows=[row], **facts)]).splitlines()[3])
        whole video                         50.0        50.0        50.0
    """
    lines = []
    for each in tables:
        seeds = f"{each['seeds']} seed" + ("s" if each["seeds"] > 1 else "")
        alignment = "" if each["alignment"] == "mmd" else f", (i) aligns with {each['alignment']}"
        preset = "" if each["preset"] == "default" else f", evaluated as {each['preset']}"
        lines += [f"{each['problem']}: mean over {seeds}{alignment}{preset}", ""]
        metrics = columns(each["iou"])
        lines.append(f"{'':28}" + "".join(f"{m.replace('IoU=', ''):>12}" for m in metrics) + f"{'gap won':>9}")
        for row in each["rows"]:
            tail = ""
            if "recovered" in row:
                gap = row["recovered"][HEADLINE]
                tail = f"{'-':>9}" if gap is None else f"{100 * gap:8.0f}%"
            lines.append((f"{row['row']:28}" + "".join(f"{shown(row, m):>12}" for m in metrics) + tail).rstrip())
        lines.append("± half-width of the 95 % interval, over seeds or by video, the wider; gap won back at R@1, 0.5")
        lines += [f"{what}: {text}" for what, text in each["compared"].items()]
        lines += notes_of(each)
        lines.append("")
    return "\n".join(lines)


def notes_of(table: Table) -> list[str]:
    """Notes below the table, one line each."""
    lines = []
    if HEADLINE in table["no_gap"]:
        why = f"the interval of {CEILING} less {SOURCE_ONLY} must lie above 0, got {table['no_gap'][HEADLINE]}"
        lines.append(f"note: no share of the gap: {why}")
    for row in table["rows"]:
        lines += _beaten_by(row, table["rows"])
        if row.get("constancy", 0) > 0.5:
            lines.append(f"alarm: over half of the spans of {row['row']} lie at the same place")
    return lines


def _beaten_by(row: TableRow, rows: Sequence[TableRow]) -> list[str]:
    """A note for each kind of untrained row with a best score that a trained row does not exceed."""
    kinds = {
        "blind": [other["mean"] for other in rows if other["kind"] == "blind"],
        "closed-form": [other["mean"] for other in rows if other["row"] in UNSUPERVISED and row["row"] == FULL],
    }
    return [
        f"note: {row['row']} does not beat the best {kind} row at {metric}"
        for metric in (HEADLINE, MIOU)
        for kind, means in kinds.items()
        if row["kind"] == "trained" and means and row["mean"][metric] <= max(mean[metric] for mean in means)
    ]


def plot_tables(tables: Sequence[Table], path: Path) -> None:
    """Bar chart with one bar per row and one panel per problem, with intervals (needs matplotlib).

    Args:
        tables: tables of :func:`make_table`.
        path: a .png file to write.

    Returns:
        ``None``; the file is written atomically.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> row = TableRow(row="whole video", kind="blind", mean={HEADLINE: 0.5}, interval={HEADLINE: {}})
        >>> facts = {"alignment": "mmd", "preset": "default", "iou": [0.5], "compared": {}, "no_gap": {}}
        >>> with TemporaryDirectory() as folder:
        ...     plot_tables([Table(problem="a to b", seeds=1, rows=[row], **facts)], Path(folder, "table.png"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['table.png']
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"blind": "#b8bec7", "trained": "#3b6fb6", "closed form": "#7fa98b", "labels": "#d9d3c3"}
    height = 0.8 + 0.33 * max(len(t["rows"]) for t in tables)
    size = (6.2 * len(tables), height)
    figure, axes = plt.subplots(1, len(tables), figsize=size, squeeze=False, layout="constrained")
    for axis, each in zip(axes[0], tables):
        rows = each["rows"][::-1]
        means = [100 * r["mean"][HEADLINE] for r in rows]
        halves = [100 * max(half_widths(r, HEADLINE), default=0.0) for r in rows]
        # an interval over two seeds can be several hundred points wide: clip whiskers to [0, 1]
        whiskers = [[min(m, h) for m, h in zip(means, halves)], [min(100 - m, h) for m, h in zip(means, halves)]]
        ends = [mean + right for mean, right in zip(means, whiskers[1])]
        tints = ["#e08a2e" if r["row"] == FULL else colours[r["kind"]] for r in rows]
        axis.barh(range(len(rows)), means, xerr=whiskers, color=tints, error_kw={"elinewidth": 1, "capsize": 2})
        axis.set_yticks(range(len(rows)), [r["row"] for r in rows])
        width = max(1.0, *ends)
        for at, (mean, end) in enumerate(zip(means, ends)):
            axis.text(end + 0.02 * width, at, f"{mean:.1f}", va="center", fontsize=8)
        axis.set_xlim(0, 1.14 * width)  # room for the last label
        axis.set_xlabel(f"{HEADLINE} on the target's test videos, per cent")
        axis.set_title(each["problem"], fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    plt.close(figure)
    write(path, drawn.getvalue())
