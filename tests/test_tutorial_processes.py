"""The tutorial on several processes: its commands run, and two processes print the same line as one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorials" / "processes.rst"

if not PAGE.exists():
    pytest.skip("no documentation in this checkout", allow_module_level=True)


def block(language: str) -> str:
    found = re.search(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found
    return re.sub("^   ", "", found[1], flags=re.MULTILINE)


def test_two_processes_train_the_network_of_one(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(block("python"), encoding="utf-8")
    lines = []
    for command in block("sh").strip().splitlines():
        program, *arguments = shlex.split(command)
        assert program == "torchrun"
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.strip())
    one, two = lines
    assert re.fullmatch(r"MMD 0\.\d{4}, norm of the weights \d\.\d{4}", one)
    assert two == one
