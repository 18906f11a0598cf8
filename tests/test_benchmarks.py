"""The benchmarks run at toy size. Their timings are not checked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ring
from benchmarks.__main__ import Row, measure, table

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("kind", "who"),
    [("mmd", ("ours", "dense formula")), ("clip", ("ours", "open_clip's form", "products alone"))],
)
@pytest.mark.parametrize("rounds", [0, 1])
def test_a_row_of_the_table(kind: str, who: tuple[str, ...], rounds: int) -> None:
    result = measure(Row(kind, 16, 8, who, rounds, goal=(who[1], 1.0), memory_goal=100), "cpu", 1)
    entries = result["contestants"]
    assert [name for name, entry in entries.items() if "error" in entry] == []
    for entry in entries.values():
        assert len(entry["rounds"]) == 1
        assert all(entry["rounds"][0][clock] >= 0 for clock in ("cpu", "user", "wall"))
    for name in set(who) - {"products alone"}:  # all compute the same number
        assert math.isclose(entries[name]["value"], entries["ours"]["value"], rel_tol=1e-4, abs_tol=1e-6)
    shown = table(result, "wall")
    assert all(name in shown for name in who)
    assert f"against {who[1]}" in shown


def test_a_contestant_that_fails_is_shown_as_such() -> None:
    result = measure(Row("clip", 16, 8, ("ours", "nobody"), 1), "cpu", 1)
    assert "could not run: KeyError" in table(result, "cpu")
    assert len(result["contestants"]["ours"]["rounds"]) == 1


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_row_of_the_conditions(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    _run("benchmarks.conditions", "--only=gradient reversal", "--rounds=1", "--seconds=0.01", f"--json={out}")
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"].values()
    assert 0 < row["now"]["least_ms"][0] <= row["now"]["ours_ms"]


def test_memory_beside_the_dense_formulas() -> None:
    """The script itself compares the values of both."""
    lines = _run("benchmarks.memory", "--most=256").splitlines()
    assert [(" ours " in line, " dense " in line) for line in lines] == [(True, False), (False, True)] * 3


def test_our_step_beside_another_checkout(tmp_path: Path) -> None:
    sizes = ["--pairs=6", "--batch=3", "--frames=8", "--words=4", "--video-width=8", "--query-width=6", "--hidden=8"]
    out = tmp_path / "step.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", "--ours", f"--before={ROOT}", *sizes, "--rounds=2", f"--json={out}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))["steps"]
    assert list(found) == ["3 x 8"]
    assert list(found["3 x 8"]) == ["now", "before"]
    assert all(len(times) == 2 and min(times) > 0 for times in found["3 x 8"].values())
    assert "  3 x   8  before" in done.stdout


def test_the_training_step(tmp_path: Path) -> None:
    sizes = {"pairs": 6, "batch": 3, "frames": 8, "words": 4}
    sizes |= {"video-width": 8, "query-width": 6, "hidden": 8, "joint": 4}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", *options, "--rounds", "1", "--json", str(tmp_path / "step.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    kinds = ["ours", "nn.GRU, packed", "nn.GRU, padded"]
    others = ["ours, random order", "nn.GRU, packed, lengths alike", "nn.GRU, padded, lengths alike"]
    assert list(figures["seconds"]) == kinds + others
    assert all(len(times) == 1 and times[0] > 0 for times in figures["seconds"].values())
    assert figures["kept"]["lengths alike"] >= figures["kept"]["random order"]
    for parts in figures["profile"].values():
        for name in (
            "projection of frames",
            "context of frames",
            "query encoder",
            "heads",
            "localizer",
            "loss: cross_modal",
        ):
            assert min(parts[name].values()) > 0, name
        assert parts["optimiser"]["backward"] == 0
        whole = sum(sum(part.values()) for part in parts.values())
        assert sum(parts["everything else"].values()) < 0.5 * whole  # the parts are found
    assert "at least 2.2x wanted" in done.stdout


def test_rows_that_pass_by_are_counted_as_they_travel() -> None:
    """The formulas for the ring's traffic match its schedule, and the committed table matches the formulas."""
    content = json.loads(ring.RESULTS.read_text(encoding="utf-8"))["formula"]
    rows, width = content["rows a rank and side"], content["width"]
    for row in content["by world size"]:
        named = {"loss": row["loss"], "ranks": row["ranks"]}
        assert row == {**named, **ring.formula(row["loss"], row["ranks"], rows, width)}
    for loss in ring.LOSSES:
        for ranks in (1, 2, 9, 32):
            found = ring.simulated(loss, ranks, rows, width)
            assert found["ring_sent"] == ring.formula(loss, ranks, rows, width)["ring_sent"]
            assert ranks == 1 or found["ring_held"] == ring.formula(loss, ranks, rows, width)["ring_held"]
