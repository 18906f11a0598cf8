"""Worker processes: signals, failures, and termination."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mmda.models.mmcda.experiment.signals import stop_on_signals
from mmda.models.mmcda.files import load_file
from tests.experiment._folders import job_files, refused, run

SCRIPT = [sys.executable, "-m", "mmda", "table"]
MANY_JOBS = ["--smoke", "--epochs", "20", "--ablation", "--seeds", "4", "--workers", "2"]


pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")


@contextmanager
def started(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A table in training, in a process group of its own."""
    # A shell starts background jobs with the signal ignored, and child processes inherit that.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*SCRIPT, *(options or MANY_JOBS), "--output", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            signal.signal(signal.SIGINT, ours)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(what: Callable[[], object], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_of(pid: int) -> list[int]:
    """The worker processes: the children without the resource tracker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(state[1]) == pid and state[0] != "Z" and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupt_ends_every_job(tmp_path: Path) -> None:
    """Ctrl-C, sent to the whole process group, ends workers and pending jobs without a traceback."""
    with started(tmp_path) as process:
        wait_for(lambda: job_files(tmp_path))
        before = job_files(tmp_path)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=240)  # a longer time means that it hangs
    assert process.returncode == 130
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("interrupted; --resume keeps")
    assert len(job_files(tmp_path) - before) <= 4  # what was still exiting


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_workers_end_with_their_parent_by_whatever_death(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with started(tmp_path) as process:
        wait_for(lambda: job_files(tmp_path))
        workers = workers_of(process.pid)
        assert len(workers) == 2
        capsys.readouterr()
        assert run(["--smoke", "--rows", "source-only", "--output", str(tmp_path)]) == 2  # the folder is in use
        rule = "the folder must not be in use by another run (--output names another folder), got process"
        assert f"{tmp_path}: {rule} {process.pid} on " in capsys.readouterr().err
        process.kill()
        process.wait(timeout=30)
        wait_for(lambda: not any(map(alive, workers)), 30)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    time.sleep(0.5)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written
    (tmp_path / "runs" / ".half.pt.1-2.part").write_bytes(b"what a killed write leaves")
    assert run(["--smoke", "--rows", "source-only", "--output", str(tmp_path)]) == 0  # the lock is free
    assert not list(tmp_path.glob("**/.*"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        wait_for(lambda: job_files(tmp_path))
        workers = workers_of(process.pid)
        os.kill(workers[0], signal.SIGKILL)
        _, told = process.communicate(timeout=240)
        assert not any(map(alive, workers))
    assert process.returncode == 2
    rule = "error: --workers 2: a worker process must live until its job is done, got one that was killed"
    assert told.splitlines()[-1].startswith(rule)


@pytest.mark.parametrize(("workers", "rows"), [("1", ["source-only"]), ("2", ["source-only", "full: "])])
def test_a_run_that_was_terminated_goes_on_to_the_same_numbers(tmp_path: Path, workers: str, rows: list[str]) -> None:
    """On SIGTERM the step is finished and saved; --resume gives the table of an uninterrupted run."""
    options = ["--smoke", "--rows", *rows, "--epochs", "30", "--workers", workers]
    with started(tmp_path / "a", *options, "--save-steps", "5") as process:
        wait_for(lambda: list((tmp_path / "a" / "runs").glob("*.pt")))
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=240)
    assert process.returncode == 143
    assert "Traceback" not in told
    begun = list((tmp_path / "a" / "runs").glob("*.pt"))
    assert begun
    assert len(job_files(tmp_path / "a")) < len(rows)
    steps = [load_file(path, "mmcda run")["state"]["step"] for path in begun]
    assert all(0 < step < 60 for step in steps)
    here = [*options[:-1], "1", "--output"]  # in one process: the same numbers, faster
    assert run([*here, str(tmp_path / "a"), "--resume"]) == 0
    assert run([*here, str(tmp_path / "b")]) == 0
    tables = [json.loads((tmp_path / name / "table.json").read_text())["runs"] for name in "ab"]
    metrics = [[(each["row"], each["metrics"], each["log"]) for each in table] for table in tables]
    assert metrics[0] == metrics[1]


def test_a_launcher_of_many_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    line = refused(capsys, "--smoke", "--output", str(tmp_path))
    assert "must be started once, without torchrun; --workers trains several rows at a time, got rank 1 of 4" in line


def test_a_failing_job_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "world-language-source-only-0.json").mkdir(parents=True)  # its result cannot be written
    command = [*SCRIPT, *MANY_JOBS, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode != 0
    assert "source-only-0.json" in done.stderr
    assert len(job_files(tmp_path)) < 10


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that are closed")
def test_a_closed_terminal_asks_to_stop_unless_it_is_ignored() -> None:
    """A signal that ``nohup`` ignores stays ignored."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
