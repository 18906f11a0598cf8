"""The shift report: numbers against definitions, the classifier against scikit-learn, and the command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmda import shift
from mmda.kernels import Gaussian
from mmda.losses import coral_loss, energy_distance_loss, mmd_loss
from mmda.shift import ShiftReport, shift_report
from tests.reference.two_sample import exact_p_value

RNG = np.random.default_rng(23)
SOURCE = RNG.standard_normal((60, 4))
TARGET = 2 * RNG.standard_normal((50, 4)) + np.array([3.0, 0, 0, 0])
FAST: dict[str, Any] = {"permutations": 19}


def test_numbers_are_their_definitions() -> None:
    found = shift_report({"video": (SOURCE, torch.from_numpy(TARGET))}, **FAST).before["video"]
    x, y = torch.from_numpy(SOURCE), torch.from_numpy(TARGET)
    assert (found.source_rows, found.target_rows, found.features) == (60, 50, 4)
    assert found.squared_mmd == pytest.approx(mmd_loss(x, y, estimator="unbiased").item(), rel=1e-9)
    assert found.p_value == 1 / 20
    assert found.energy_distance == pytest.approx(energy_distance_loss(x, y).item(), rel=1e-9)
    assert found.coral == pytest.approx(coral_loss(x, y).item(), rel=1e-9)
    means = SOURCE.mean(0), TARGET.mean(0)
    variances = [float(np.trace(np.cov(rows.T))) for rows in (SOURCE, TARGET)]
    assert found.mean_shift == pytest.approx(math.dist(*means), rel=1e-12)
    assert found.relative_mean_shift == pytest.approx(math.dist(*means) / math.sqrt(sum(variances) / 2), rel=1e-12)
    assert found.scale_ratio == pytest.approx(math.sqrt(variances[1] / variances[0]), rel=1e-12)
    assert found.proxy_a_distance == pytest.approx(2 * (1 - 2 * found.classifier_error))


def test_separability_of_clouds_with_a_known_error() -> None:
    """For means 2 a apart and unit variance, the best linear classifier has error Phi(-a)."""
    x, y = RNG.standard_normal((2000, 3)), RNG.standard_normal((1000, 3)) + np.array([2.0, 0, 0])
    found = shift_report({"v": (x, y)}, permutations=1, max_rows=2000).before["v"]
    assert found.classifier_error == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)), abs=0.025)


def test_scores_that_only_rounding_takes_from_zero_are_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on equal parts of both kinds in both domains; tested on one of each and two of the second kind."""
    first, second = [0.1, 0.2], [0.3, 0.7]
    x = torch.tensor([first, second] + [first] * 4 + [second] * 4, dtype=torch.float64)
    y = torch.tensor([second, second] + [second] * 4 + [first] * 4, dtype=torch.float64)
    scores = shift._ridge(x[2:], y[2:], torch.cat([x[:2], y[:2]]))
    assert 0 < scores.abs().max() < 1e-14
    fold = torch.tensor([0, 0] + [1] * 8)
    monkeypatch.setattr(torch, "randperm", lambda n, **_: fold)
    monkeypatch.setattr(shift, "_ridge", lambda *_: scores)
    # only fold 0 is evaluated; each of its rows adds half an error
    x_mistakes = y_mistakes = 2 * 0.5
    assert shift._domain_error(x, y, 1, torch.Generator()) == (x_mistakes / 10 + y_mistakes / 10) / 2


def test_p_value_of_rows_that_repeat_is_the_enumeration() -> None:
    values = np.array([[0.0], [1.0]])
    gram = np.exp(-0.5 * np.square(values - values.T))
    x, y = (np.repeat(values, counts, axis=0) for counts in ([991, 9], [4, 1]))
    expected = exact_p_value([991, 9], [4, 1], gram, unbiased=True)
    found = shift_report({"v": (x, y)}, kernel=Gaussian(1.0, scales=(1.0,)), permutations=2000).before["v"].p_value
    assert found == pytest.approx(expected, abs=4.5 * math.sqrt(expected / 2000) + 1e-3)


@pytest.mark.parametrize("width", [3, 400])
def test_separability_is_none_without_a_shift_and_full_with_a_large_one(width: int) -> None:
    """Also with more features than rows; the mean over seeds, without a shift."""
    errors = []
    for seed in range(10):
        rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((100, width)))
        errors.append(shift._domain_error(rows[:60], rows[60:], 5, torch.Generator().manual_seed(seed)))
    assert np.mean(errors) == pytest.approx(0.5, abs=0.06)
    assert shift._domain_error(rows[:60], rows[60:] + 10, 5, torch.Generator()) == 0
    flat = torch.ones(20, width, dtype=torch.float64)
    assert shift._domain_error(flat, flat, 5, torch.Generator()) == 0.5


@pytest.mark.parametrize("width", [3, 60])
def test_ridge_is_the_minimum_of_its_objective(width: int) -> None:
    """Both ways to solve give coefficients at which the weighted, penalised squares have gradient zero."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) * 3 + 1 for n in (20, 8))
    score = shift._ridge(x, y, torch.eye(width, dtype=torch.float64)) - shift._ridge(
        x, y, torch.zeros(1, width).double()
    )
    rows = torch.cat([x, y])
    share = torch.tensor([0.5 / 20] * 20 + [0.5 / 8] * 8, dtype=torch.float64)
    centre = share @ rows
    scale = (share @ (rows - centre) ** 2).sqrt() * math.sqrt(width)
    z = (rows - centre) / scale
    slopes = (score * scale).requires_grad_()
    label = torch.cat([-torch.ones(20), torch.ones(8)]).double()
    objective = 28 * (share * (z @ slopes - label) ** 2).sum() + slopes.square().sum()
    (gradient,) = torch.autograd.grad(objective, slopes)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


def test_before_and_after_in_text_and_values() -> None:
    pairs = {"video": (SOURCE, TARGET), "query": (SOURCE[:, :2], SOURCE[:30, :2])}
    report = shift_report(pairs, {"query": pairs["query"], "video": (SOURCE, SOURCE[::-1].copy())}, **FAST)
    lines = str(report).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["video before", "video after", "query before", "query after"]
    assert len({len(line) for line in lines}) == 1
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert report.after is not None
    assert values["after"]["video"]["squared_mmd"] == report.after["video"].squared_mmd < 0
    assert shift_report(pairs, **FAST).to_dict()["after"] is None


def test_constant_features_are_defined() -> None:
    found = shift_report({"v": (np.ones((10, 2)), np.zeros((10, 2)))}, **FAST).before["v"]
    assert math.isnan(found.scale_ratio)
    assert found.to_dict()["scale_ratio"] is None
    same = shift_report({"v": (np.ones((10, 2)), np.ones((10, 2)))}, **FAST).before["v"]
    assert same.squared_mmd == same.mean_shift == same.proxy_a_distance == 0
    assert same.p_value == 1


def test_rows_and_draws_come_from_the_generator() -> None:
    state = torch.get_rng_state()
    pairs = {"v": (SOURCE, TARGET)}
    first, second = (shift_report(pairs, max_rows=20, **FAST) for _ in range(2))
    assert first == second
    other = shift_report(pairs, max_rows=20, generator=torch.Generator().manual_seed(1), **FAST)
    assert other != first
    assert (first.before["v"].source_rows, first.before["v"].target_rows) == (20, 20)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("before", "options", "text"),
    [
        ({}, {}, "shift_report: `before` must hold at least one pair of samples, got none"),
        (
            {"v": (SOURCE[0], TARGET)},
            {},
            r"shift_report: v: `source` must have shape \(samples, features\), got \(4,\)",
        ),
        ({"v": (SOURCE, TARGET[:, :3])}, {}, r"v: `target` must have as many features as `source` \(4\), got 3"),
        ({"v": (SOURCE, TARGET[:3])}, {}, r"v: `target` must have at least 5 rows, one per fold, got \(3, 4\)"),
        ({"v": (SOURCE, np.full((9, 4), np.nan))}, {}, "v: `target` must be finite, got 36 NaN or infinite values"),
        ({"v": (SOURCE, TARGET)}, {"after": {"w": (SOURCE, TARGET)}}, r"`after` must have the names of `before` \(v\)"),
        ({"v": (SOURCE, TARGET)}, {"folds": 1}, "shift_report: `folds` must be an integer >= 2, got 1"),
    ],
)
def test_errors(before: dict[str, Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        shift_report(before, **options)


# Command line


def saved(folder: Path, name: str, **arrays: NDArray[Any]) -> str:
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, arrays["features"])
    else:
        np.savez(path, **arrays)
    return str(path)


def test_two_files_in_a_fresh_process(tmp_path: Path) -> None:
    """The command as documented; half precision in one file, and no warning."""
    first = saved(tmp_path, "a.npy", features=SOURCE.astype(np.float16))
    second = saved(tmp_path, "b.npz", features=TARGET)
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "mmda.shift", first, second, "--permutations", "19"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[:2] == ["features", "60+50"]


def test_every_form_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    first = saved(tmp_path, "a.npz", video=SOURCE, query=SOURCE[:, :2])
    second = saved(tmp_path, "b.npz", query=TARGET[:, :2], video=TARGET)
    out = [str(tmp_path / name) for name in ("report.txt", "report.json", "report.png")]
    arguments = [first, second, "--after", first, first, "--permutations", "19"]
    assert shift.main([*arguments, "--text", out[0], "--json", out[1], "--plot", out[2]]) == 0
    printed = capsys.readouterr().out
    assert Path(out[0]).read_text(encoding="utf-8") == printed
    assert {line.split()[0] for line in printed.splitlines()[1:]} == {"video", "query"}
    values = json.loads(Path(out[1]).read_text(encoding="utf-8"))
    assert values["before"]["video"]["relative_mean_shift"] > 0.5 > values["after"]["video"]["relative_mean_shift"]
    assert Path(out[2]).read_bytes().startswith(b"\x89PNG")
    assert shift.main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == values
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "report.json", "report.png", "report.txt"]


def test_the_limit_of_an_array_can_be_raised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        np.savez_compressed(tmp_path / f"{name}.npz", rows=np.eye(100))  # 80,128 bytes of some hundred
    arguments = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--permutations", "9", "--max-bytes"]
    assert shift.main([*arguments, "80000"]) == 2
    assert "hold arrays of at most 80000 bytes in memory (--max-bytes raises the limit)" in capsys.readouterr().err
    assert shift.main([*arguments, "90000"]) == 0


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = saved(tmp_path, "good.npy", features=SOURCE)
    two = saved(tmp_path, "two.npz", video=SOURCE, query=SOURCE)
    flat = saved(tmp_path, "flat.npy", features=SOURCE[0])
    nan = saved(tmp_path, "nan.npy", features=np.where(SOURCE > 2, np.nan, SOURCE))
    narrow = saved(tmp_path, "narrow.npy", features=TARGET[:, :3])
    words = saved(tmp_path, "words.npy", features=np.array([["a", "b"]]))
    pickled, cut, text = (str(tmp_path / name) for name in ("pickled.npy", "cut.npz", "features.txt"))
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    Path(cut).write_bytes(Path(two).read_bytes()[:-40])
    Path(text).write_text("1 2", encoding="utf-8")
    there = sorted(tmp_path.iterdir())
    for arguments, wanted in (
        ([good, str(tmp_path / "absent.npy")], "absent.npy: the file must exist, got no such file"),
        ([good, flat], "flat.npy: `features` must have shape (samples, features), got (4,)"),
        ([nan, good], "nan.npy: `features` must hold finite numbers, got NaN or infinity"),
        ([good, narrow], f"narrow.npy: `features` must have as many features as {good} (4), got 3"),
        ([good, words], "words.npy: `features` must hold real numbers, got <U1"),
        ([good, pickled], "pickled.npy: the file must hold plain numpy arrays, got pickled objects or a foreign file"),
        ([two, cut], "cut.npz: the file must hold plain numpy arrays, got "),
        ([good, text], "features.txt: the file must end in .npy or .npz"),
        ([good, two], f"two.npz: the arrays must have the names of {good} (one without a name), got query, video"),
        ([good, good, "--permutations", "0"], "shift_report: `permutations` must be an integer >= 1, got 0"),
        ([good, good, "--json", good], "good.npy: the report must not replace its input"),
        ([good, good, "--text", str(tmp_path / "no" / "t")], "t: the folder must exist, got no "),
        ([good, good, "--permutations", "1", "--plot", str(tmp_path / "p.odd")], "'odd' is not supported"),
    ):
        assert shift.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert wanted in captured.err
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == there


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.txt"
    target.write_text("old", encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        shift.write_file(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.txt"]
    assert target.read_text(encoding="utf-8") == "old"


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib, which is not installed: pip install"):
        ShiftReport({}).plot("x.png")
