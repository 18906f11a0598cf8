"""Worker processes: signals, failures, and one end for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.experiment._folders import (
    job_files,
)

SCRIPT = [sys.executable, "-m", "mmda", "table"]
MANY_JOBS = ["--smoke", "--epochs", "20", "--ablation", "--seeds", "4", "--workers", "2"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_ends_every_job(tmp_path: Path) -> None:
    """Ctrl-C, which the whole process group gets, ends workers and the jobs still waiting, without a trace."""
    # A shell starts what runs in its background with the signal ignored, and programs hand that on.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*SCRIPT, *MANY_JOBS, "--output", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not job_files(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.05)
            before = job_files(tmp_path)
            assert before
            os.killpg(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=60)  # of nearly fifty jobs: only one that hangs takes so long
        finally:
            signal.signal(signal.SIGINT, ours)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("interrupted; --resume keeps")
    assert len(job_files(tmp_path) - before) <= 4  # what was in its last moments


def test_a_failing_job_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "world-language-source-only-0.json").mkdir(parents=True)  # its result cannot be written
    command = [*SCRIPT, *MANY_JOBS, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "source-only-0.json" in done.stderr
    assert len(job_files(tmp_path)) < 10
