"""The README's code runs, and its first commands are installation and ``make run``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmda

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

if not README.exists():
    pytest.skip("no README.md in this checkout", allow_module_level=True)


def blocks(*languages: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return [
        body
        for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if language in languages
    ]


@pytest.mark.parametrize("code", blocks("python", "py"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_python_block_runs(code: str, tmp_path: Path) -> None:
    """Each block alone, in a fresh interpreter, outside the checkout, warnings as errors."""
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error::UserWarning", "-W", "error::DeprecationWarning:__main__", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_there_is_python_to_run() -> None:
    assert blocks("python", "py")


def commands() -> list[str]:
    lines = [line for block in blocks("sh", "bash", "shell", "console") for line in block.splitlines()]
    return [line.split("#")[0].strip().removeprefix("$ ") for line in lines if line.split("#")[0].strip()]


def test_the_first_two_commands_are_run_and_test() -> None:
    assert commands()[:2] == ["make run", "make test"]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"make ([a-z][\w-]*)", "\n".join(commands())))
    named |= set(re.findall(r"`make ([a-z][\w-]*)", README.read_text(encoding="utf-8")))
    assert named <= targets, named - targets


def test_links_to_files_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    paths = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_citation_names_this_version() -> None:
    found = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    assert found[1] == mmda.__version__
