"""The report: one file with the numbers of the JSON and the answers of the run; names are escaped."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from mmda.cli.train import main as train
from mmda.models.mmcda import load_model
from mmda.models.mmcda.experiment import Draws, Plan, open_checkpoint, plan_jobs
from mmda.models.mmcda.experiment.markup import curve, page, panel, table
from mmda.models.mmcda.experiment.report import Example, examples_of, table_report, training_report
from mmda.models.mmcda.experiment.rows import FULL
from mmda.models.mmcda.experiment.tables import columns, shown
from tests.experiment._folders import change_moments, folder_options, folders, run, run_folders

_EMPTY = {"meta", "rect", "path"}


class _Whole(HTMLParser):
    """Every tag is closed in its turn; text and attributes are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(content: bytes) -> _Whole:
    parser = _Whole()
    parser.feed(content.decode())
    parser.close()
    assert parser.open == []
    return parser


def test_the_report_needs_nothing_beside_it(finished: Path) -> None:
    content = (finished / "report.html").read_bytes()
    seen = read(content)
    assert not {"src", "href", "onload"} & {name for name, _ in seen.attributes}
    assert not re.search(rb"https?:|url\(|@import|<script|<link", content)
    assert b"prefers-color-scheme:dark" in content
    assert len(content) < 200_000


def test_its_numbers_are_those_of_the_json(finished: Path) -> None:
    text = " ".join(read((finished / "report.html").read_bytes()).text)
    content = json.loads((finished / "table.json").read_text())
    (each,) = content["tables"]
    for row in each["rows"]:
        assert " ".join((row["row"], *(shown(row, metric) for metric in columns(each["iou"])))) in text
    assert all(f"{what}: {told}" in text for what, told in each["compared"].items())
    assert all(f"{name} {value}" in text for name, value in content["environment"].items())
    full = next(r for r in content["runs"] if r["row"] == FULL and r["seed"] == 0)
    for role in full["log"][0]["terms"]:
        for what in ("terms", "gradient_norms"):
            first, last = (full["log"][at][what][role] for at in (0, -1))
            assert f"{role} {first:.3g} at step" in text
            assert f"{last:.3g} at step {full['log'][-1]['step']}" in text


def test_examples_are_answers_of_the_run_with_the_curve_they_were_read_from(tmp_path: Path) -> None:
    folders(tmp_path)
    assert run_folders(tmp_path) == 0
    (path,) = (tmp_path / "out" / "models").glob("*full*.pt")
    problem = open_checkpoint(path).problem
    data = Draws()
    job = plan_jobs(problem, Plan(rows=("full: ",), smoke=True, output=tmp_path / "out"), data)[0]
    target = data.load(problem, 0)[1]
    found = examples_of(job, target)
    lines = (tmp_path / "out" / "predictions" / f"{job.stem}.jsonl").read_text().splitlines()
    told = {row["query"]: row for row in map(json.loads, lines)}
    assert len(found) == min(3, sum(r["iou"] >= 0.5 for r in told.values())) + min(
        3, sum(r["iou"] < 0.5 for r in told.values())
    )
    model, _ = load_model(job.model_path)
    test = target.opened("test")
    page_text = (tmp_path / "out" / "report.html").read_text()
    for example in found:
        row = told[example.query]
        assert (example.answer, example.iou, example.vid) == (tuple(row["spans"][0]), row["iou"], row["vid"])
        (i,) = [i for i, qid in enumerate(test.qids) if target.texts[qid] == example.query]
        alone = test.slice([i])
        mask = alone.frame_mask[0]
        profile = model.profile(model(alone))[0][mask]
        torch.testing.assert_close(torch.tensor(example.profile), profile.detach(), rtol=1e-4, atol=1e-5)
        assert model.predict(alone).windows[0, 0].tolist() == pytest.approx(example.answer)
        assert len(example.edges) == int(mask.sum()) + 1
        assert f"IoU {example.iou:.2f}; {example.vid}" in page_text


def test_names_cannot_break_out(finished: Path) -> None:
    evil = '</b><script>alert("1")</script>\'&'
    content = json.loads((finished / "table.json").read_text())
    content["tables"][0]["problem"] = evil
    results = [{**r, "problem": evil} for r in content["runs"]]
    example = Example(evil, evil, (0.0, 2.0, 4.0), (0.1, 0.3), ((1.0, 3.0),), (0.0, 2.0), 0.25)
    whole = table_report(content["tables"], {**content, "arguments": [evil]}, results, {evil: [example]})
    alone = training_report(results[0] | {"settings": {evil: evil}}, {evil: evil}, [example])
    for made in (whole, alone):
        assert b"<script" not in made
        seen = read(made)
        assert sum(evil in text for text in seen.text) > 3
        assert any(evil in unescape(value) for name, value in seen.attributes if name == "aria-label")


def test_train_writes_one_too_and_says_where_nothing_was_scored(tmp_path: Path) -> None:
    folders(tmp_path)
    change_moments(tmp_path / "b" / "set", lambda row: [], [f"v{i}" for i in range(24)])
    assert train([*folder_options(tmp_path), "--smoke", "--output", str(tmp_path / "out")]) == 0
    (report,) = (tmp_path / "out" / "reports").iterdir()
    text = " ".join(read(report.read_bytes()).text)
    assert "Not scored" in text
    assert "Example answers" not in text


def test_without_matplotlib_the_table_has_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    finder = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else finder(name))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["--smoke", "--rows", "source-only", "--output", str(tmp_path)]) == 0
    assert not (tmp_path / "table.png").exists()
    assert b"<svg" in read_bytes(tmp_path / "report.html")


def read_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    read(content)
    return content


def test_the_curve_stands_where_its_numbers_are() -> None:
    drawn = curve([0, 1, 3, 4], [0.0, 1.0, 0.5], label="a", truth=[(1, 3)], answer=(3, 9))
    assert "M0.0,82.0V82.0H250.0V6.0H750.0V44.0H1000.0" in drawn
    assert '<rect x="250.0" y="0" width="500.0"' in drawn
    assert '<rect x="750.0" y="90" width="250.0"' in drawn  # ends with the video
    flat = curve([0, 1], [0.5], label="a")
    assert "nan" not in flat


def test_panels_leave_gaps_where_nothing_finite_is() -> None:
    drawn = panel("a", [1, 2, 3, 4], [1.0, float("nan"), 3.0, 2.0])
    assert 'd="M0.0,92.0M666.7,8.0L1000.0,50.0"' in drawn
    assert "nan" not in panel("a", [1.0], [float("nan")]).split("figcaption")[0].split("<path")[1]


def test_a_page_is_whole() -> None:
    read(page("t", [table(("", "x"), [("a", "1"), ("b", "2")], caption="c", strong="b")]))
