"""The digits benchmark: it trains every row in the same way and does not use target labels."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import digits
from mmda import losses
from tests.contract.entries import ENTRIES

#: Losses that need other inputs than two unpaired samples and a classifier, and losses not measured yet.
NOT_HERE = {name: entry.no_digits for name, entry in ENTRIES.items() if entry.no_digits}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small versions of both files: random images, sorted labels."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "uda" / "digits"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, size in (("mnist", 28), ("usps", 16)):
        images = draw.integers(0, 256, (80, size, size), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", imgs=images, labs=np.arange(80) % 10)
    return root


@pytest.fixture(scope="module")
def domains(data: Path) -> tuple[digits.Domain, digits.Domain]:
    source, target = (data / "uda" / "digits" / f"{name}.npz" for name in ("mnist", "usps"))
    return digits.load(source, test=20, seed=0), digits.load(target, test=20, seed=1)


def test_images_are_brought_to_one_size_and_split_once(domains: tuple[digits.Domain, digits.Domain]) -> None:
    for domain in domains:
        assert domain.images.shape == (60, 1, 16, 16)
        assert domain.test_images.shape == (20, 1, 16, 16)
        assert 0 <= domain.images.min() <= domain.images.max() <= 1
        labels = torch.cat([domain.labels, domain.test_labels])
        assert labels.bincount().tolist() == [8] * 10
    assert domains[0].labels.tolist() != domains[1].labels.tolist()


@pytest.mark.parametrize("adapter", digits.ADAPTERS, ids=lambda adapter: adapter.name)
def test_every_row_trains(adapter: digits.Adapter, domains: tuple[digits.Domain, digits.Domain]) -> None:
    found = digits.train(adapter, adapter.weights[-1], *domains, steps=2, seed=0, batch=16)
    assert 0 <= found["accuracy"] <= 1
    assert 0 <= found["score"] <= math.log(10)


def gaps(modules: list[str], source: str, reasons: Mapping[str, str]) -> list[str]:
    """Losses that have neither a row nor an exception, or both, each with its remedy."""
    rows = {name for name in modules if f"losses.{name}(" in source}
    found = [
        f"{name} is no row of the digits: add an adapter to ADAPTERS in benchmarks/digits.py and run "
        "python -m benchmarks.digits --resume, then --page; or say why not in `no_digits` of its entry in "
        "tests/contract/entries"
        for name in sorted({*modules} - rows - {*reasons})
    ]
    return found + [
        f"{name} is {'a row of the digits' if name in rows else 'no exported loss'}: "
        "take `no_digits` out of its entry in tests/contract/entries"
        for name in sorted({*reasons} & rows | {*reasons} - {*modules})
    ]


def test_every_loss_that_fits_is_a_row() -> None:
    modules = [name for name in losses.__all__ if name.endswith("Loss") and name != "PairLoss"]
    found = gaps(modules, inspect.getsource(digits), NOT_HERE)
    assert not found, "\n".join(found)


def test_a_loss_without_a_row_is_told_what_to_do() -> None:
    new, twice, gone = gaps(["NewLoss", "MMDLoss"], "losses.MMDLoss()", {"MMDLoss": "", "OldLoss": ""})
    assert new.startswith("NewLoss is no row of the digits: add an adapter to ADAPTERS in benchmarks/digits.py")
    assert twice == "MMDLoss is a row of the digits: take `no_digits` out of its entry in tests/contract/entries"
    assert gone == "OldLoss is no exported loss: take `no_digits` out of its entry in tests/contract/entries"


def test_target_labels_change_no_adapter(domains: tuple[digits.Domain, digits.Domain]) -> None:
    source, target = domains
    wrong = dataclasses.replace(target, labels=(target.labels + 1) % 10)
    for adapter in digits.ADAPTERS:
        if adapter.name in ("MMD", "local MMD", "domain-specific batch norm", "target-supervised"):
            right, shuffled = (
                digits.train(adapter, 1.0, source, side, steps=3, seed=0, batch=16)["score"] for side in (target, wrong)
            )
            assert (right == shuffled) == (adapter.labels_of == "source"), adapter.name


def test_adapters_share_network_and_batches(domains: tuple[digits.Domain, digits.Domain]) -> None:
    alone = digits.train(digits.ADAPTERS[0], 1.0, *domains, steps=3, seed=0, batch=16)
    for adapter in digits.ADAPTERS:
        if adapter.name in ("MMD", "adversary", "nuclear norm"):
            off = digits.train(adapter, 0.0, *domains, steps=3, seed=0, batch=16)
            assert off["score"] == pytest.approx(alone["score"], rel=1e-4), adapter.name


def run(adapter: str, weight: float, seed: int, accuracy: float, score: float = 0.0) -> digits.Run:
    return digits.Run("MNIST to USPS", adapter, weight, seed, accuracy, score, 1.0)


def test_the_weight_is_chosen_by_score_at_seed_0() -> None:
    runs = [run("MMD", 0.3, 0, 0.9, 1.0), run("MMD", 1.0, 0, 0.5, 2.0), run("MMD", 0.3, 1, 0.9, 3.0)]
    assert digits.choose(runs, "MNIST to USPS", "MMD") == 1.0


def test_the_grid_goes_on_beyond_a_best_edge() -> None:
    assert [digits.rung(0.3, up) for up in (True, False)] == [1.0, 0.1]
    assert [digits.rung(0.01, up) for up in (True, False)] == [0.03, 0.003]
    mmd = next(adapter for adapter in digits.ADAPTERS if adapter.name == "MMD")
    middle = [run("MMD", 0.3, 0, 0.5, 1.0), run("MMD", 1.0, 0, 0.5, 3.0), run("MMD", 3.0, 0, 0.5, 2.0)]
    edge = [*middle[:2], run("MMD", 3.0, 0, 0.5, 4.0)]
    for runs, following in ((middle, ("USPS to MNIST", 0.3)), (edge, ("MNIST to USPS", 10.0))):
        found = digits.plan([mmd], 1, runs)
        assert found is not None
        assert (found[0], found[2]) == following
    ladder = [run("MMD", weight, 0, 0.5, weight) for weight in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)]
    found = digits.plan([mmd], 1, ladder)
    assert found is not None
    assert found[0] == "USPS to MNIST"  # seven values were tried, which is enough


def test_gains_are_paired_and_intervals_are_students() -> None:
    alone, adapted = (0.5, 0.6, 0.4), (0.7, 0.85, 0.6)
    runs = [run("source-only", 1.0, seed, value) for seed, value in enumerate(alone)]
    runs += [run("MMD", 0.3, seed, value) for seed, value in enumerate(adapted)]
    row = digits.table(runs, "MNIST to USPS")[1]
    assert row.accuracy == pytest.approx(100 * np.mean(adapted))
    gains = 100 * (np.array(adapted) - alone)
    low, high = stats.t.interval(0.95, 2, loc=gains.mean(), scale=stats.sem(gains))
    assert (row.gain - row.gain_half_width, row.gain + row.gain_half_width) == pytest.approx((low, high), rel=1e-4)


def test_the_command_resumes_and_draws(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "digits.json"
    command = ["--data", str(data), "--results", str(results), "--steps", "2", "--seeds", "2", "--test", "20"]
    assert digits.main([*command, "--only", "source-only"]) == 0
    assert digits.main([*command, "--only", "source-only", "MMD", "--resume"]) == 0
    runs = [digits.Run(**entry) for entry in json.loads(results.read_text(encoding="utf-8"))["runs"]]
    assert len(runs) == len({each.key for each in runs})
    for direction in digits.DIRECTIONS:
        mine = [each for each in runs if each.direction == direction]
        assert sorted(each.seed for each in mine if each.adapter == "source-only") == [0, 1]
        tried = sorted(each.weight for each in mine if (each.adapter, each.seed) == ("MMD", 0))
        assert {0.3, 1.0, 3.0} <= set(tried)
        best = digits.choose(runs, direction, "MMD")
        assert len(tried) == digits.TRIED or best not in (tried[0], tried[-1])
        assert [each.weight for each in mine if (each.adapter, each.seed) == ("MMD", 1)] == [best]
    assert "MMD" in capsys.readouterr().out
    digits.plot(runs, tmp_path / "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 0


def test_the_page_shows_the_recorded_runs() -> None:
    runs = [digits.Run(**entry) for entry in json.loads(digits.RESULTS.read_text(encoding="utf-8"))["runs"]]
    page = digits.PAGE.read_text(encoding="utf-8")
    shown = page.split(digits.MARKS[0])[1].split(digits.MARKS[1])[0].strip()
    assert shown == digits.as_page(runs).strip(), "python -m benchmarks.digits --page"
    recorded, known = {run.adapter for run in runs}, {adapter.name for adapter in digits.ADAPTERS}
    assert not known - recorded, f"python -m benchmarks.digits --resume, then --page: {sorted(known - recorded)}"
    assert not recorded - known, (
        f"take their runs out of {digits.RESULTS.name}, then --page: {sorted(recorded - known)}"
    )


def test_absent_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert digits.main(["--data", str(tmp_path), "--results", str(tmp_path / "digits.json")]) == 0
    assert "mnist.npz" in capsys.readouterr().err
    assert not (tmp_path / "digits.json").exists()
