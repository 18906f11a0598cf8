"""The benchmark of many transfers: every row trains in the same way, and target labels do not choose the weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import adaptation
from benchmarks.adaptation_rows import PEERS, ROWS, Row


def problem() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 4
    centres = 2 * torch.randn(4, 48, generator=generator)
    x, y = (centres[labels] + torch.randn(80, 48, generator=generator) for _ in range(2))
    return x, labels, y + 0.3


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_train_and_share_what_they_begin_with(row: Row) -> None:
    x, labels, y = problem()

    def logits(of: Row, weight: float) -> Tensor:
        return adaptation.train(x, labels, y, row=of, weight=weight, steps=6, seed=0, batch=16)

    alone, on = logits(ROWS[0], 0.0), logits(row, row.weights[-1])
    assert on.shape == (80, 4)
    assert on.isfinite().all()
    assert torch.equal(on, alone) == (row is ROWS[0])
    if row.build is not None and row.name not in (
        "two classifiers",
        "Wasserstein critic",
    ):  # these also train on the source
        torch.testing.assert_close(logits(row, 0.0), alone, rtol=1e-4, atol=1e-4)


def test_peers_that_are_not_installed_are_left_out() -> None:
    assert not Row("no such (peer)", needs="no_such_package").available
    for row in PEERS:
        assert row.name.endswith(f"({row.needs.replace('_', '-')})")  # type: ignore[union-attr]
        assert row.name.rpartition(" (")[0] in {own.name for own in ROWS}


def run(row: str, weight: float, seed: int, accuracy: float, score: float = 0.0, at: int = 0) -> adaptation.Run:
    return adaptation.Run(*adaptation.TRANSFERS[at], row, weight, seed, accuracy, score, 1.0)


def test_the_score_chooses_and_labels_are_the_oracles() -> None:
    runs = [run("MMD", 1.0, 0, 0.9, 1.0), run("MMD", 3.0, 0, 0.2, 2.0), run("MMD", 3.0, 1, 0.4)]
    assert [r.accuracy for r in adaptation.chosen(runs)] == [0.2, 0.4]
    assert [r.accuracy for r in adaptation.chosen(runs, oracle=True)] == [0.9]
    assert adaptation.chosen(runs[2:]) == []


def test_tables_say_gains_seed_by_seed() -> None:
    runs = []
    for at in range(len(adaptation.TRANSFERS)):
        runs += [run("source-only", 1.0, seed, 0.5 + 0.1 * seed, at=at) for seed in (0, 1)]
        runs += [run("MMD", 1.0, 0, 0.7, 0.0, at), run("MMD", 3.0, 0, 0.53, 1.0, at), run("MMD", 3.0, 1, 0.63, at=at)]
    header, alone, mmd = adaptation.summary(runs)
    assert len(header) == len(alone) == len(mmd)
    assert mmd[:1] + mmd[5:9] == ["MMD", "+3.0 ± 0.0", "12 / 0", "+3.0", "+20.0"]
    # A transfer without one of the rows is left out.
    part = [r for r in runs if r.cell != (*adaptation.TRANSFERS[3], "MMD")]
    assert adaptation.summary(part)[2][6] == "11 / 0"
    first, second = adaptation.transfers(runs)[1:]
    assert first[:2] == ["source-only", "55.0"]
    assert second[:2] == ["MMD", "+3.0 ± 0.0"]


def test_peers_stand_beside_ours_on_the_same_transfers() -> None:
    runs = []
    for at in (0, 1):
        runs += [run("source-only", 1.0, 0, 0.5, at=at), run("CORAL", 10.0, 0, 0.6, at=at)]
        runs += [run("CORAL (skada)", 10.0, 0, 0.55 + 0.02 * at, at=at)]
    # The other library has no run on this transfer.
    runs += [run("source-only", 1.0, 0, 0.5, at=2), run("CORAL", 10.0, 0, 0.9, at=2)]
    (line,) = adaptation.beside(runs)[1:]
    assert line == ["CORAL (skada)", "2", "+6.0 ± 12.7", "+10.0 ± 0.0", "1.00", "1.00"]
    assert adaptation.beside(runs[:2])[1:] == []


def test_pages_are_written_without_training(tmp_path: Path) -> None:
    found = run("source-only", 1.0, 0, 0.5)
    columns = list(adaptation.Run.__dataclass_fields__)
    content = {"steps": 100, "columns": columns, "runs": [[getattr(found, name) for name in columns]]}
    results = tmp_path / "adaptation.json"
    results.write_text(json.dumps(content), encoding="utf-8")
    assert adaptation.main(["--results", str(results), "--page", str(tmp_path)]) == 0
    with (tmp_path / "adaptation.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file))[0] == "adapter"
    with pytest.raises(SystemExit):
        adaptation.main(["--results", str(results), "--steps", "7", "--page", str(tmp_path)])


def test_without_data_it_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert adaptation.main(["--data", str(tmp_path), "--results", str(tmp_path / "none.json")]) == 0
    assert "skipped" in capsys.readouterr().err
