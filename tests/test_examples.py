"""The examples run, print help, and show what their docstrings say."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: the other files are imported by one of these
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_in_its_smoke_form(example: Path, tmp_path: Path) -> None:
    strict = [] if example.stem.startswith("lightning") else ["-W", "error"]  # importing Lightning raises warnings
    done = subprocess.run(
        [sys.executable, *strict, str(example), "--smoke"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_explains_itself(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(example), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(example), run_name="__main__")
    assert ended.value.code in (None, 0)
    shown = capsys.readouterr().out
    assert "--smoke" in shown
    documented = str(runpy.run_path(str(example))["__doc__"])
    assert " ".join(documented.split()[:5]) in " ".join(shown.split())


def test_mmd_wins_back_target_accuracy() -> None:
    train = runpy.run_path(str(ROOT / "examples" / "mmd_in_your_loop.py"))["train"]
    alone, adapted = (train(weight, steps=200, seed=0) for weight in (0.0, 1.0))
    assert alone < 0.85
    assert adapted > alone + 0.1


def test_each_alignment_beats_source_only() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "swap_alignment.py"))
    scores = {}
    for name, (build, weight) in example["ALIGNMENTS"].items():
        example["torch"].manual_seed(0)
        scores[name] = example["train"](build(), weight=weight, steps=200, seed=0)
    alone = scores.pop("none")
    assert min(scores.values()) > alone + 0.05, (alone, scores)


def test_a_moment_is_found_in_a_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV decodes the video")
    example = runpy.run_path(str(ROOT / "examples" / "find_moment.py"))
    path = str(tmp_path / "shots.mp4")
    example["write_video"](path, [("blue", 6), ("red", 5), ("green", 7)])
    for sentence, moment in (("a red ball", (6, 11)), ("the BLUE sky", (0, 6)), ("green", (11, 18))):
        start, end, _ = example["find"](path, sentence, example["colours"]())[0]
        assert (start, end) == moment


def test_a_sentence_that_names_no_colour_is_told_what_it_may_name() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "find_moment.py"))
    _, sentence = example["colours"]()
    with pytest.raises(SystemExit, match="must name one of black, white, red"):
        sentence("a dog runs")
    assert sentence("a gray and white cat").nonzero().flatten().tolist() == [1, 10]


def test_torchmetrics_sum_batches_to_what_the_functions_say_of_all() -> None:
    pytest.importorskip("torchmetrics")
    import torch

    from mmda.metrics import mean_iou, recall_at_iou

    example = runpy.run_path(str(ROOT / "examples" / "torchmetrics_recall.py"))
    spans, windows = (torch.rand(39, k, 2).sort(-1).values for k in (5, 2))
    metrics = example["MetricCollection"]({"r": example["MomentRecall"](n=5, iou=0.3), "m": example["MomentIoU"]()})
    for part in (slice(0, 32), slice(32, 39)):
        metrics.update(spans[part], windows[part])
    found = metrics.compute()
    assert found["r"].item() == pytest.approx(recall_at_iou(spans, windows, n=(5,), iou=(0.3,)).rates.item())
    assert found["m"].item() == pytest.approx(float(mean_iou(spans[:, :1], windows)))
    metrics.reset()
    metrics.update(spans[:1], spans[:1, :1])
    assert metrics.compute()["r"].item() == 1
