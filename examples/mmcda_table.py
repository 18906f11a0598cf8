"""The table of ``mmcda_vmr.py``: means and intervals of its rows, comparisons, and the same as text and plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmda._core.files import write_file
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
SOURCE_ONLY, CONTROL, CEILING = "source-only", "source-only + source terms", "target-supervised"
FULL = "full: (i) + (ii) + (iii)"


def columns(iou: Sequence[float]) -> tuple[str, ...]:
    """What the text shows: recall of the first span at each threshold, of five spans at 0.5, and the mean IoU."""
    return (*(f"R@1, IoU={m:g}" for m in iou), "R@5, IoU=0.5", MIOU)


def summarise(results: Sequence[dict[str, Any]], metric: str, one_test: bool) -> dict[str, Interval]:
    """Mean over seeds, with the t-interval over seeds, and by video where all have ``one_test`` split."""
    values = [r["metrics"][metric] for r in results]
    summary = {"seeds": seed_interval(values)}
    if metric in results[0]["values"] and one_test:
        mean = torch.tensor([r["values"][metric] for r in results], dtype=torch.float64).mean(0).numpy()
        summary["videos"] = bootstrap_interval(mean, groups=results[0]["videos"])
    return summary


def table(
    problem: str,
    blind: Sequence[Sequence[Evaluation]],
    results: Sequence[dict[str, Any]],
    *,
    one_test: bool,
    **facts: Any,
) -> dict[str, Any]:
    """The rows as plain values, ready for text, JSON and plot; ``one_test``: all seeds share their test split."""
    rows: list[dict[str, Any]] = []
    for same in zip(*blind):
        rows.append({"row": same[0].name, "kind": "blind", **pack([as_result(each) for each in same], one_test)})
    by_row: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_row.setdefault(result["row"], []).append(result)
    for name, mine in by_row.items():
        packed = pack(mine, one_test)
        packed["seconds"] = sum(r["seconds"] for r in mine) / len(mine)
        packed["constancy"] = max(r["constancy"] for r in mine)
        rows.append({"row": name, "kind": "trained", **packed})
    gap: dict[str, str] = {}
    if SOURCE_ONLY in by_row and CEILING in by_row:
        trained = [row for row in rows if row["kind"] == "trained"]
        low, high = (next(row["mean"] for row in trained if row["row"] == name) for name in (SOURCE_ONLY, CEILING))
        for metric in (HEADLINE, MIOU):
            gains = differences(by_row[CEILING], by_row[SOURCE_ONLY], metric, one_test)
            there = all(gain.low > 0 for gain in gains.values())  # else it may be none, and a share of it is noise
            if not there:
                gap[metric] = told(gains)
            for row in trained:
                share = recovered_gap(row["mean"][metric], low[metric], high[metric]) if there else None
                row.setdefault("recovered", {})[metric] = share
    compared = compare(by_row, one_test) if FULL in by_row else {}
    return {"problem": problem, "seeds": len(blind), **facts, "rows": rows, "compared": compared, "no_gap": gap}


def as_result(evaluation: Evaluation) -> dict[str, Any]:
    """What a row's job keeps of its evaluation."""
    return {
        "metrics": evaluation.as_dict(),
        "values": {metric: evaluation.values(metric).tolist() for metric in evaluation.metrics},
        "videos": [str(video) for video in evaluation.videos],
    }


def compare(rows: dict[str, list[dict[str, Any]]], one_test: bool) -> dict[str, str]:
    """The full model less source-only, less its fair control, and less itself without a module."""
    others = [name for name in rows if name in (SOURCE_ONLY, CONTROL) or name.startswith("full without")]
    return {
        f"{FULL} less {name}, {metric}": told(differences(rows[FULL], rows[name], metric, one_test))
        for name in others
        for metric in (HEADLINE, MIOU)
    }


def differences(
    a: list[dict[str, Any]], b: list[dict[str, Any]], metric: str, one_test: bool
) -> dict[str, Interval | PairedTest]:
    """One row less another: query by query where all seeds share the test split, seed by seed where there are several.

    The first says how other videos might have decided, the second how other seeds might have.
    """
    a, b = (sorted(row, key=lambda r: int(r["seed"])) for row in (a, b))
    found: dict[str, Interval | PairedTest] = {}
    if one_test:
        means = [torch.tensor([r["values"][metric] for r in row]).mean(0).numpy() for row in (a, b)]
        found["by video"] = paired_test(*means, groups=a[0]["videos"])
    if len(a) > 1:
        found["over seeds"] = seed_interval([x["metrics"][metric] - y["metrics"][metric] for x, y in zip(a, b)])
    return found


def told(found: dict[str, Interval | PairedTest]) -> str:
    """Intervals and what they are over."""
    return "; ".join(f"{interval} {over}" for over, interval in found.items())


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


def as_text(tables: Sequence[dict[str, Any]]) -> str:
    """All tables as text."""
    lines = []
    for each in tables:
        seeds = f"{each['seeds']} seed" + ("s" if each["seeds"] > 1 else "")
        alignment = "" if each.get("alignment", "mmd") == "mmd" else f", (i) aligns with {each['alignment']}"
        preset = "" if each.get("preset", "default") == "default" else f", evaluated as {each['preset']}"
        lines += [f"{each['problem']}: mean over {seeds}{alignment}{preset}", ""]
        metrics = columns(each.get("iou", (0.3, 0.5, 0.7)))
        lines.append(f"{'':28}" + "".join(f"{m.replace('IoU=', ''):>12}" for m in metrics) + f"{'gap won':>9}")
        for row in each["rows"]:
            tail = ""
            if "recovered" in row:
                gap = row["recovered"][HEADLINE]
                tail = f"{'-':>9}" if gap is None else f"{100 * gap:8.0f}%"
            lines.append((f"{row['row']:28}" + "".join(f"{shown(row, m):>12}" for m in metrics) + tail).rstrip())
        lines.append("± half-width of the 95 % interval, over seeds or by video, the wider; gap won back at R@1, 0.5")
        lines += [f"{what}: {text}" for what, text in each.get("compared", {}).items()]
        if HEADLINE in each.get("no_gap", {}):
            why = f"the interval of {CEILING} less {SOURCE_ONLY} must lie above 0, got {each['no_gap'][HEADLINE]}"
            lines.append(f"note: no share of the gap: {why}")
        blind = [row["mean"] for row in each["rows"] if row["kind"] == "blind"]
        for row in each["rows"]:
            for metric in (HEADLINE, MIOU):
                if row["kind"] == "trained" and row["mean"][metric] <= max(mean[metric] for mean in blind):
                    lines.append(f"note: {row['row']} does not beat the best blind row at {metric}")
            if row.get("constancy", 0) > 0.5:
                lines.append(f"alarm: over half of the spans of {row['row']} lie at the same place")
        lines.append("")
    return "\n".join(lines)


def plot(tables: Sequence[dict[str, Any]], path: Path) -> None:
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
        # two seeds can have an interval of several hundred points: a whisker ends where shares do
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


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
