"""The Office-Caltech10 benchmark: every row trains in the same way, and target labels do not choose the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import office


def problem() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 10
    centres = 3 * torch.randn(10, 140, generator=generator)
    x, y = (centres[labels] + torch.randn(80, 140, generator=generator) for _ in range(2))
    return *office.pooled_directions(x, y + 0.5), labels  # type: ignore[return-value]


def test_rows_train_and_share_what_they_begin_with() -> None:
    x, y, labels = problem()
    assert x.shape == (80, office.WIDTH)
    alone, _ = office.train(x, labels, y, row="source-only", weight=0.0, steps=60, seed=0)
    for row in office.ROWS:
        off, _ = office.train(x, labels, y, row=row, weight=0.0, steps=60, seed=0)
        torch.testing.assert_close(off, alone, rtol=1e-4, atol=1e-4)
        on, score = office.train(x, labels, y, row=row, weight=1.0, steps=60, seed=0)
        assert on.shape == (80, 10)
        assert score > 0
        assert torch.equal(on, alone) == (office.ROWS[row] is None)


def test_unsure_rows_have_no_share() -> None:
    found = office.shares_of_the_sure(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.125, 0.875]]))
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.1], [0.0, 0.0], [0.125, 0.875]]))


def test_the_weight_is_that_of_the_highest_score_at_seed_0() -> None:
    def run(row: str, weight: float, seed: int, accuracy: float, score: float) -> office.Run:
        return office.Run("surf", "amazon", "dslr", row, weight, seed, accuracy, score, 1.0)

    runs = [run("no gate", 0.1, 0, 0.9, 1.0), run("no gate", 0.3, 0, 0.2, 2.0), run("no gate", 0.3, 1, 0.4, 0.0)]
    assert [r.accuracy for r in office.chosen(runs, "surf", "amazon", "dslr", "no gate")] == [0.2, 0.4]
    runs += [run(row, 0.0, seed, 0.5, 1.0) for row in office.ROWS if row != "no gate" for seed in (0, 1)]
    lines = office.table(runs, "surf")
    assert lines[0][:3] == ["amazon to dslr", "50.0", "30.0 (0.3)"]
    assert lines[1][2] == "-20.0"
    assert lines[2][2] == "1"
