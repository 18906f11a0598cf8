"""What the pages show to run is run: Python here or by ``make docs``, commands down to their options.

``.. testcode::`` runs in ``make docs``. A ``.. code-block:: python`` runs in a test: here, or in the one of its page.
Commands that take hours are not run; the module, the target and every option that they name exist.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist

import tests.reference
from mmda.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

if not (DOCS / "index.rst").exists():
    pytest.skip("no documentation in this checkout", allow_module_level=True)

MADE = {"_build", "auto_gallery", "generated"}
PAGES = [p for p in sorted(DOCS.rglob("*.rst")) if not MADE & set(p.parts)]
#: Blocks of Python that no ``testcode`` holds, by page, and the test that runs them.
RUN = {
    "contributing": ["test_the_entry_of_a_new_loss"],
    "guide/distributed": ["test_one_process_of_a_group"],
    "guide/precision": ["test_a_step_is_compiled_whole"],
    "tutorials/own_videos": ["tests/test_own_videos.py"] * 2,
    "tutorials/processes": ["tests/test_tutorial_processes.py"],
}
OURS = ("benchmarks", "docs", "examples", "mmda", "tests")
#: Programs of other packages or of the shell, whose options are theirs.
OTHERS = {".venv/bin/ruff", "export", "pip", "python", "source", "srun", "torchrun"}


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def blocks(page: str, kind: str) -> list[str]:
    text = (DOCS / f"{page}.rst").read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. {kind}\n(?:   :.*\n)*\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [re.sub("^   ", "", each, flags=re.MULTILINE) for each in found]


def run(code: str, names: dict[str, Any], page: str) -> dict[str, Any]:
    exec(compile(code, f"{page}.rst", "exec"), names)
    return names


def test_every_block_of_python_has_a_test() -> None:
    found = {name_of(page): len(blocks(name_of(page), "code-block:: python")) for page in PAGES}
    assert {name: count for name, count in found.items() if count} == {name: len(runs) for name, runs in RUN.items()}
    here = set(globals())
    assert all(name in here or (ROOT / name).exists() for runs in RUN.values() for name in runs)


def test_the_entry_of_a_new_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = ModuleType("tests.reference.mean_gap")
    definition = next(code for code in blocks("contributing", "testcode::") if "def mean_gap(x: np" in code)
    reference.__dict__.update(run(definition, {}, "contributing"))
    monkeypatch.setitem(sys.modules, reference.__name__, reference)
    monkeypatch.setattr(tests.reference, "mean_gap", reference, raising=False)
    (entry,) = run(blocks("contributing", "code-block:: python")[0], {}, "contributing")["ENTRIES"]
    given = type("Inputs", (), {"source": torch.ones(4, 3).numpy(), "target": torch.full((5, 3), 3.0).numpy()})
    assert math.isclose(entry.reference.value(given, None), 12.0)


def test_one_process_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the page, but over gloo and with files in place of addresses."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    join = functools.partial(dist.init_process_group, init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    monkeypatch.setattr(dist, "init_process_group", lambda backend: join({"nccl": "gloo"}[backend]))
    names = run(blocks("guide/distributed", "testcode::")[0], {"device": "cpu"}, "guide/distributed")
    try:
        run(blocks("guide/distributed", "code-block:: python")[0], names, "guide/distributed")
        names["step"](torch.randn(32, 16), torch.randn(24, 16), torch.randn(32, 8)).backward()
        assert all(p.grad is not None for p in names["step"].parameters())
    finally:
        dist.destroy_process_group()


def test_a_step_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the page, with a backend that needs no compiler; one graph, and the value of the uncompiled step."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    names = run(blocks("guide/precision", "testcode::")[0], {}, "guide/precision")
    run(blocks("guide/precision", "code-block:: python")[0], names, "guide/precision")
    s, t = torch.randn(32, names["encoder"].in_features), torch.randn(24, names["encoder"].in_features)
    torch.testing.assert_close(names["step"](s, t), names["mmd"](names["encoder"](s), names["encoder"](t)))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command in the pages and the README: where, and its words."""
    told = [(name_of(p), code) for p in PAGES for code in blocks(name_of(p), "code-block:: (?:sh|bash)")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told += [("README", code) for code in re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)]
    for place, code in told:
        for line in re.sub(r"\\\n", " ", code).splitlines():
            for part in line.split(" && "):
                if (words := shlex.split(part, comments=True)) and "=$(" not in part:
                    yield place, words
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").split())
        for line in re.findall(r"``((?:python |mmda |make )[^`]+)``", text):
            yield name_of(page), line.split()


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return capsys.readouterr().out


def test_commands_are_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    helps = {command: help_of(command, capsys) for command in COMMANDS}
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    seen = 0
    for place, words in commands():
        where, seen = f"{place}: {' '.join(words)}", seen + 1
        if "-m" in words:  # under a launcher too
            words = words[words.index("-m") + 1 :]
            words = words if words[0] == "mmda" else ["python", *words]
        program, *rest = words
        options = [word.split("=")[0] for word in rest if word.startswith("--")]
        if program == "mmda":
            known = helps.get(rest[0], "--version --help") if rest else ""
        elif program == "make":
            assert rest[0] in targets, where
            continue
        elif program == "python" and (rest[0].split(".")[0] in OURS or rest[0].endswith(".py")):
            file = ROOT / rest[0] if rest[0].endswith(".py") else ROOT / Path(*rest[0].split("."))
            found = [f for f in (file, file.with_suffix(".py"), file / "__main__.py") if f.is_file()]
            assert found, where
            known = found[0].read_text(encoding="utf-8")
            known += (ROOT / "mmda/vmr/check.py").read_text("utf-8") if rest[0] == "mmda.vmr" else ""
            known += "".join(helps.values()) if "mmcda_vmr" in rest[0] else "--help"
        else:
            assert program in OTHERS, where
            continue
        assert all(re.search(rf"(?<![\w-]){option}(?![\w-])", known) for option in options), where
    assert seen > 60


def test_figures_have_a_command() -> None:
    """A page with pictures, stored results or a table of numbers names what makes them, or the page that does."""
    made = {place for place, words in commands() if words[0] in ("mmda", "make", "python") and "pip" not in words}
    bare = []
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), name_of(page)
        pictures = re.search(r"^ *\.\. (?:image|figure)::", text, re.MULTILINE)
        stored = re.search(r":file:|literalinclude:: .*results/", text)
        number = r"^ +(?:[-*] )?- *[-+]?\d[\d.,]*(?: \(.*\))?$"
        linked = {(page.parent / f"{link}.rst").resolve() for link in re.findall(r":doc:`(?:[^`]*<)?([^`>]+)>?`", text)}
        told = name in made or (not pictures and {DOCS / f"{each}.rst" for each in made} & linked)
        if (pictures or stored or re.search(number, text, re.MULTILINE)) and not told:
            bare.append(name)
    assert not bare
