"""The table end to end: its rows, intervals, comparisons, text and plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmda.models.mmcda import DEFAULT_WEIGHTS
from mmda.models.mmcda.experiment import ABLATION, Table, UnusableError, as_text, make_table, plot_tables, runs
from mmda.models.mmcda.experiment.closed_rows import CCA_SHUFFLED, SEES_LABELS, UNSUPERVISED
from mmda.models.mmcda.experiment.rows import CEILING, FULL, SOURCE_ONLY
from mmda.models.mmcda.experiment.tables import HEADLINE, MIOU
from tests.experiment._folders import SHOWN, folders, job_files, run, run_folders


def test_table_has_every_row_with_intervals(finished: Path) -> None:
    content = json.loads((finished / "table.json").read_text())
    rows = {row["row"]: row for row in content["tables"][0]["rows"]}
    blind = ["random span", "sampled source prior", "best constant of the source", "whole video"]
    untrained = [*UNSUPERVISED, CCA_SHUFFLED, *SEES_LABELS]
    assert list(rows) == blind + untrained + [row.name for row in ABLATION]
    for row in rows.values():
        for metric in SHOWN:
            low, high = row["interval"][metric]["seeds"]
            assert low <= row["mean"][metric] <= high
    text = (finished / "table.txt").read_text()
    assert all(name in text for name in rows)
    assert (finished / "table.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished.rglob("*.part*"))


def test_every_term_is_logged_raw_weighted_and_with_its_gradient(finished: Path) -> None:
    runs = json.loads((finished / "table.json").read_text())["runs"]
    full = next(run for run in runs if run["row"] == FULL)
    for entry in full["log"]:
        assert set(entry["terms"]) == set(entry["weights"]) == set(entry["gradient_norms"]) == set(DEFAULT_WEIGHTS)
        assert all(norm > 0 for norm in entry["gradient_norms"].values())


def test_rows_of_worlds_are_compared_seed_by_seed(finished: Path) -> None:
    """Each seed simulates other videos under the same names: seeds have no video in common."""
    table = json.loads((finished / "table.json").read_text())
    (each,) = table["tables"]
    assert all(set(row["interval"][MIOU]) == {"seeds"} for row in each["rows"])
    without = [row.name for row in ABLATION if row.name.startswith("full without")]
    against = [*UNSUPERVISED, SOURCE_ONLY, "source-only + source terms", *without]
    assert list(each["compared"]) == [
        f"{FULL} less {name}, {metric}" for name in against for metric in (HEADLINE, MIOU)
    ]
    runs = {(run["row"], run["seed"]): run["metrics"][MIOU] for run in table["runs"]}
    gain = sum(runs[FULL, seed] - runs[without[1], seed] for seed in range(2)) / 2
    text = each["compared"][f"{FULL} less {without[1]}, {MIOU}"]
    assert text.startswith(f"{100 * gain:.1f} [")
    assert text.endswith("] over seeds")


def test_means_and_intervals_are_those_of_the_runs(finished: Path) -> None:
    content = json.loads((finished / "table.json").read_text())
    for row in content["tables"][0]["rows"]:
        values = [run["metrics"]["mIoU"] for run in content["runs"] if run["row"] == row["row"]]
        if values:
            assert row["mean"]["mIoU"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize("alignment", ["coral", "energy", "sliced", "adversarial"])
def test_the_alignment_is_swapped(alignment: str, tmp_path: Path) -> None:
    assert run(["--smoke", "--alignment", alignment, "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "table.json").read_text())["alignment"] == alignment
    assert (
        (tmp_path / "table.txt")
        .read_text()
        .startswith(f"world language: mean over 1 seed, (i) aligns with {alignment}")
    )
    assert all(name.endswith(f"-0-{alignment}.json") for name in job_files(tmp_path))  # beside those of another


def test_rows_are_chosen_by_the_beginning_of_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--smoke", "--rows", "full: ", "source-only", "--output", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert [run["row"] for run in runs] == [SOURCE_ONLY, FULL]  # the exact name wins
    assert run(["--smoke", "--rows", "fulll", "--output", str(tmp_path)]) == 2
    assert run(["--smoke", "--rows", "", "--output", str(tmp_path)]) == 2
    assert "--rows 'fulll': must be a row, or the beginning of one, of 'source-only'" in capsys.readouterr().err


def test_a_target_batch_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def record(*loaders: Any, **_: Any) -> None:
        seen.append([loader.batch_size for loader in loaders[2:]])
        raise UnusableError("enough")

    monkeypatch.setattr(runs, "fit", record)
    command = ["--smoke", "--batch-size", "8", "--output", str(tmp_path)]
    assert run([*command, "--target-batch-size", "12"]) == 2
    assert run(command) == 2
    assert seen == [[8, 12], [8, 8]]


def test_the_share_of_hidden_features_reaches_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def record(model: torch.nn.Module, *_: Any, **__: Any) -> None:
        seen.append({module.p for module in model.modules() if hasattr(module, "p")})
        raise UnusableError("enough")

    monkeypatch.setattr(runs, "fit", record)
    command = ["--smoke", "--output", str(tmp_path)]
    assert run([*command, "--dropout", "0.25"]) == 2
    assert run(command) == 2
    assert seen == [{0.25}, {0.0}]


def test_a_preset_and_thresholds_change_the_table_alone(tmp_path: Path) -> None:
    folders(tmp_path)
    assert run_folders(tmp_path, "--preset", "2d_tan:tacos", "--iou", "0.1") == 0
    text = (tmp_path / "out" / "table.txt").read_text()
    assert text.splitlines()[0] == "set to set: mean over 1 seed, evaluated as 2d_tan:tacos"
    header = "R@1, 0.1 R@1, 0.3 R@1, 0.5 R@1, 0.7 R@5, 0.5 mIoU gap won"
    assert " ".join(text.splitlines()[2].split()) == header
    for row in json.loads((tmp_path / "out" / "table.json").read_text())["tables"][0]["rows"]:
        assert row["mean"]["R@1, IoU=0.1"] >= row["mean"]["R@1, IoU=0.3"]
        assert row["mean"]["R@5, IoU=0.5"] >= row["mean"][HEADLINE]


def test_a_world_named_twice_is_trained_once(tmp_path: Path) -> None:
    twice = ["--world", "language", "--world", "language", "--rows", "source-only", "--smoke"]
    assert run([*twice, "--output", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "table.json").read_text())["tables"]) == 1


def test_validation_videos_of_a_world_can_be_trained_on(tmp_path: Path) -> None:
    assert run(["--smoke", "--rows", "full: ", "--train-on-val", "--output", str(tmp_path)]) == 0


def results(row: str, hits: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Results of a row, a list of hits a seed, one query a video."""
    return [
        {
            "row": row,
            "seed": seed,
            "metrics": dict.fromkeys(SHOWN, float(np.mean(hit))),
            "values": dict.fromkeys(SHOWN, hit),
            "videos": [str(i) for i in range(len(hit))],
            "seconds": 1.0,
            "constancy": 0.0,
        }
        for seed, hit in enumerate(hits)
    ]


def test_a_gap_is_told_where_there_is_one() -> None:
    def made(high: Sequence[Sequence[float]]) -> dict[str, Any]:
        low = [[0.0, 1.0] * 20] * 2
        rows = [*results(SOURCE_ONLY, low), *results(FULL, [[1.0, 0.0] + [1.0] * 38] * 2)]
        rows += results("source-only + source terms", low)
        table: dict[str, Any] = make_table("p", [], rows + results(CEILING, high), one_test=True)
        return table

    clear = made([[1.0] * 40, [1.0] * 39 + [0.0]])
    assert clear["no_gap"] == {}
    by_name = {row["row"]: row["recovered"][HEADLINE] for row in clear["rows"]}
    assert by_name[SOURCE_ONLY] == 0
    assert by_name[FULL] == pytest.approx((0.975 - 0.5) / (0.9875 - 0.5))
    noisy = made([[1.0] + [0.0, 1.0] * 19 + [1.0], [0.0, 1.0] * 20])  # seeds disagree whether there is any
    assert all(row["recovered"] == {HEADLINE: None, MIOU: None} for row in noisy["rows"])
    text = as_text([{**noisy, "seeds": 2, "rows": [{**noisy["rows"][0], "kind": "blind"}, *noisy["rows"]]}])
    note = "note: no share of the gap: the interval of target-supervised less source-only must lie above 0, got +1.2 ["
    assert sum(line.startswith(note) for line in text.splitlines()) == 1
    told = noisy["compared"]
    assert list(told)[2] == f"{FULL} less source-only + source terms, {HEADLINE}"
    first = told[f"{FULL} less {SOURCE_ONLY}, {HEADLINE}"]
    assert first.startswith("+47.5 [")
    assert "by video; 47.5 [47.5, 47.5] over seeds" in first


def test_the_plot_has_no_label_on_a_whisker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    rows = [*results(SOURCE_ONLY, [[0.1] * 4, [0.3] * 4]), *results(FULL, [[0.2] * 4, [0.25] * 4])]
    plot_tables([make_table("p", [], rows, one_test=True)], tmp_path / "plot.png")
    (axis,) = figures[0].axes
    assert axis.get_xlim()[1] <= 115
    ends = [path.vertices[:, 0].max() for line in axis.collections for path in line.get_paths()]
    for text, end in zip(axis.texts, ends):
        assert text.get_position()[0] > end


FACTS: Any = {"alignment": "mmd", "preset": "default", "iou": [0.3, 0.5, 0.7], "compared": {}, "no_gap": {}}


def test_a_note_for_each_metric_where_a_blind_row_is_better() -> None:
    def row(name: str, kind: str, headline: float, miou: float) -> dict[str, Any]:
        mean = dict.fromkeys(SHOWN, 0.5) | {HEADLINE: headline, MIOU: miou}
        return {"row": name, "kind": kind, "mean": mean, "interval": {metric: {} for metric in mean}}

    rows = [row("x", "blind", 0.2, 0.3), row("y", "blind", 0.1, 0.4), row("z", "trained", 0.3, 0.35)]
    rows += [row("low", "trained", 0.1, 0.1), row("high", "trained", 0.9, 0.9)]
    text = as_text([Table(problem="p", seeds=1, rows=rows, **FACTS)])
    notes = [line for line in text.splitlines() if line.startswith("note: ")]
    told = "does not beat the best blind row at"
    expected = [("z", "mIoU"), ("low", "R@1, IoU=0.5"), ("low", "mIoU")]
    assert notes == [f"note: {name} {told} {metric}" for name, metric in expected]
