"""`mmda train` under torchrun: after one process is killed, all are restarted and resume, and the model is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from mmda.cli.train import main
from mmda.models.mmcda import load_model

OPTIONS = ["--world", "language", "--smoke", "--batch-size", "15", "--target-batch-size", "9", "--save-steps", "1"]

#: Rank 1 is killed after its second step, only the first time that it runs.
SCRIPT = """
import functools, os, signal, sys
from mmda.cli.train import main
from mmda.models.mmcda.experiment import pool

def here(jobs, run, progress, *, together, kept=pool._here):
    def dying(job, data, on_step):
        def after(step):
            if step == 2 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            on_step(step)
        return run(job, data, after)
    return kept(jobs, dying, progress, together=together)

pool._here = here
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that kills")
def test_a_killed_process_is_started_again_and_the_run_goes_on(tmp_path: Path) -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    output = tmp_path / "two"
    done = subprocess.run(
        [*launch, str(script), *OPTIONS, "--log-steps", "1", "--timeout", "60", "--output", str(output)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "error" in line]
    assert "error: rank 0: torchrun: every process must live and answer within 60 s, got one that is" in done.stderr
    assert "start again with --resume, or with torchrun --max-restarts" in done.stderr
    assert sorted(path.name for path in (output / "models").iterdir()) == ["world-language-full-i-ii-iii-0.pt"]
    assert not (output / ".running").exists()
    assert not list((output / "runs").iterdir())
    log = (output / "logs" / "world-language-full-i-ii-iii-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4, 5]
    assert main([*OPTIONS, "--output", str(tmp_path / "one")]) == 0
    name = "models/world-language-full-i-ii-iii-0.pt"
    two, one = (dict(load_model(tmp_path / run / name)[0].named_parameters()) for run in ("two", "one"))
    for each, value in one.items():
        # the first two entries of this bias precede a softmax: no loss depends on them, so they change only by rounding
        kept = slice(2, None) if each == "localizer.leave.bias" else ...
        apart = (two[each] - value).detach()[kept]
        assert float(apart.norm()) <= 1e-5 * float(value.detach()[kept].norm()), each
    answers = [
        (tmp_path / name / "predictions" / "world-language-full-i-ii-iii-0.jsonl").read_text().count("\n")
        for name in ("one", "two")
    ]
    assert answers[0] == answers[1] > 0
