"""Checkpoints: every flipped bit is detected, and a run killed at any point resumes to the same weights."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmda._core import files
from mmda.models.mmcda import (
    MMCDA,
    CheckpointError,
    MMCDAConfig,
    MMCDAObjective,
    TrainingConfig,
    TrainingStopped,
    build_mmcda,
    fit,
    load_model,
    save_model,
    saving,
)
from mmda.models.mmcda.files import encoded, load_file, save_file, sealed
from mmda.models.mmcda.logs import StepFacts, TensorBoardLog
from mmda.vmr import ResidentLoader, Simulation, World, simulate
from tests.test_files import KilledError, System

CONFIG = MMCDAConfig(12, 10, hidden=8, joint=4, localizer_channels=4, localizer_layers=1, dropout=0.1)


@pytest.fixture(scope="module")
def draw() -> Simulation:
    return simulate(World(videos=24, test_videos=4, video_width=12, query_width=10), seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.manual_seed(0)
    save_model(path, build_mmcda(CONFIG), CONFIG, seed=3)
    return path.read_bytes()


def train(draw: Simulation, resume: Path | None = None, **options: Any) -> MMCDA:
    """Six steps with dropout, an objective without adversary and a running mean of the weights, from a fixed seed."""
    config = options.pop("config", TrainingConfig(steps=6, evaluations=2, warmup=2, average=0.5))
    torch.manual_seed(0)
    model = build_mmcda(CONFIG)
    source = ResidentLoader(options.pop("source", draw.source_train), 8, drop_last=True)
    target = ResidentLoader(draw.target_train, 8, seed=1, labels=False, drop_last=True)
    fit(model, MMCDAObjective(), source, target, config=config, resume=resume, **options)
    return model


def same(a: MMCDA, b: MMCDA) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_every_flipped_bit_is_found(checkpoint: bytes, tmp_path: Path) -> None:
    """Of 600 files with one flipped bit, none is read."""
    path = tmp_path / "model.pt"
    places = random.Random(0).sample(range(8 * len(checkpoint)), 600)
    for place in places:
        damaged = bytearray(checkpoint)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.pt: the checkpoint must be an undamaged file of save_model"):
            load_model(path)
    path.write_bytes(checkpoint)
    assert load_model(path)[1] == {"seed": 3}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_other_bytes_are_read(checkpoint: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Truncated, extended, overwritten and unrelated files."""
    at = data.draw(st.integers(0, len(checkpoint)))
    piece = data.draw(st.binary(max_size=40))
    change: Callable[[], bytes] = data.draw(
        st.sampled_from(
            [
                lambda: checkpoint[:at],
                lambda: checkpoint + piece,
                lambda: checkpoint[:at] + piece + checkpoint[at + len(piece) :],
                lambda: checkpoint[:at] + piece + checkpoint[at:],
                lambda: piece,
                lambda: piece + checkpoint,
                lambda: checkpoint * 2,
            ]
        )
    )
    path = tmp_path / "model.pt"
    path.write_bytes(change())
    if change() == checkpoint:
        load_model(path)
        return
    with pytest.raises(CheckpointError):
        load_model(path)


def test_torch_reads_the_file_too(checkpoint: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(checkpoint)
    assert torch.load(path, weights_only=True)["kind"] == "mmcda model"


@pytest.mark.parametrize(("value", "named"), [(math.nan, "NaN"), (math.inf, "infinity")])
def test_weights_that_are_not_finite_are_refused(checkpoint: bytes, tmp_path: Path, value: float, named: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(checkpoint)
    content = torch.load(path, weights_only=True)
    name = next(iter(content["model"]))
    content["model"][name].view(-1)[0] = value
    whole = encoded(content)
    assert whole is not None
    path.write_bytes(sealed(whole))
    with pytest.raises(CheckpointError, match=rf"must hold finite numbers, got {named} in `model\.{name}`"):
        load_model(path)
    path.write_bytes(checkpoint)
    model, _ = load_model(path)
    next(model.parameters()).data.view(-1)[0] = value
    with pytest.raises(ValueError, match=f"save_model: `model` must hold finite weights, got {named} in"):
        save_model(path, model, CONFIG)
    assert path.read_bytes() == checkpoint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_a_model_of_an_earlier_config_predicts_as_it_did(draw: Simulation, tmp_path: Path) -> None:
    """A linear model that was saved before similarities could be evened out or fed back does not do so when read."""
    config = MMCDAConfig(12, 10, joint=4, form="linear", agreement=0.0, feedback=0.0)
    torch.manual_seed(0)
    model = build_mmcda(config).eval()
    save_model(tmp_path / "model.pt", model, config)
    content = load_file(tmp_path / "model.pt", "mmcda model")
    for later in ("agreement", "feedback"):
        del content["config"][later]
    save_file(tmp_path / "earlier.pt", "mmcda model", content)
    read, _ = load_model(tmp_path / "earlier.pt")
    batch = draw.target_val
    assert read.agreement is None
    assert read.feedback is None
    torch.testing.assert_close(read.profile(read(batch)), model.profile(model(batch)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["agreement", "feedback", "neighbours"])
def test_a_config_that_means_another_profile_is_refused(tmp_path: Path, name: str) -> None:
    config = MMCDAConfig(12, 10, joint=4, form="linear")
    with pytest.raises(ValueError, match=f"save_model: `config` must be that of the model, got `{name}"):
        save_model(tmp_path / "model.pt", build_mmcda(config), replace(config, **{name: 2.0}))


def test_pipes_and_devices_are_no_checkpoints(draw: Simulation, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    for name in ("pipe.pt", "zero.pt"):
        rule = rf"{name}: the checkpoint must be a readable file, got a pipe, socket or device"
        with pytest.raises(CheckpointError, match=rule):
            load_model(tmp_path / name)
        with pytest.raises(CheckpointError, match=rule):
            train(draw, tmp_path / name)


@pytest.mark.parametrize("name", ["config", "weights", "loaders"])
def test_a_tensor_among_plain_settings_is_told(draw: Simulation, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.pt"
    train(draw, path)
    content = load_file(path, "mmcda run")
    key = next(iter(content[name]))
    content[name] = {**content[name], key: torch.zeros(2)}
    whole = encoded(content)
    assert whole is not None
    path.write_bytes(sealed(whole))
    with pytest.raises(CheckpointError, match=rf"run\.pt: the run must hold its training {name} in plain values"):
        train(draw, path)


def test_other_loaders_are_refused(draw: Simulation, tmp_path: Path) -> None:
    train(draw, tmp_path / "run.pt")
    fewer = draw.source_train.slice(range(16))
    with pytest.raises(CheckpointError, match="the run must have the training loaders"):
        train(draw, tmp_path / "run.pt", source=fewer)


def test_other_code_is_a_warning(draw: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(draw, path)
    content = load_file(path, "mmcda run")
    content["code"]["torch"] = "1.0"
    whole = encoded(content)
    assert whole is not None
    path.write_bytes(sealed(whole))
    with pytest.warns(UserWarning, match=r"started with .*'torch': '1\.0'.*results may differ"):
        train(draw, path)


@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_call_of_a_save_changes_no_result(
    draw: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """A process killed at the k-th system call of its saves and started again ends with the same weights."""
    config = TrainingConfig(steps=2, evaluations=1, warmup=1)
    whole, deaths = train(draw, config=config), 0
    for at in range(1, 100):
        path = tmp_path / f"{at}.pt"
        monkeypatch.setattr(files, "os", System(at, after=after))
        try:
            train(draw, path, config=config, save_steps=1)
        except KilledError:
            deaths += 1
        else:
            break
        finally:
            monkeypatch.undo()
        assert same(train(draw, path, config=config), whole), at
    assert deaths >= 12  # two saves of open, write, fsync, close, replace, and three for the folder


def test_a_full_disk_keeps_the_run_that_was_there(
    draw: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    full = System(12, error=OSError(28, "No space left on device"))
    monkeypatch.setattr(files, "os", full)
    with pytest.raises(OSError, match=r"No space left on device: .*run\.pt"):
        train(draw, path, save_steps=1)
    monkeypatch.undo()
    assert load_file(path, "mmcda run")["state"]["step"] == 1
    assert same(train(draw, path), train(draw))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"save_steps": 2, "save_seconds": None}, [2, 4, 5, 6]),
        ({"save_seconds": 0.0}, [1, 2, 3, 4, 5, 6]),
        ({"save_seconds": None}, [5, 6]),
    ],
)
def test_a_run_is_saved_by_steps_and_by_time(
    draw: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], steps: list[int]
) -> None:
    """Beside the evaluations, after steps 5 and 6."""
    saved: list[int] = []
    write = saving.save_file

    def record(path: Path, kind: str, content: dict[str, Any]) -> None:
        saved.append(content["state"]["step"])
        write(path, kind, content)

    monkeypatch.setattr(saving, "save_file", record)
    train(draw, tmp_path / "run.pt", **options)
    assert saved == steps


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(draw: Simulation, tmp_path: Path, stop: int) -> None:
    def on_step(step: int) -> None:
        if step == stop:
            raise TrainingStopped(15)

    with pytest.raises(TrainingStopped):
        train(draw, tmp_path / "run.pt", on_step=on_step)
    assert load_file(tmp_path / "run.pt", "mmcda run")["state"]["step"] == stop
    torch.rand(5)  # whatever random numbers the process drew in between
    assert same(train(draw, tmp_path / "run.pt"), train(draw))


def test_a_step_that_is_not_finite_is_told_and_kept(draw: Simulation, tmp_path: Path) -> None:
    """The error names term and queries; the saved state before the step repeats the step."""
    frames = draw.source_train.frames.clone()
    frames[5] = math.nan
    broken = replace(draw.source_train, frames=frames)
    told = []
    for path in (tmp_path / "run.pt", tmp_path / "again.pt"):
        with pytest.raises(FloatingPointError, match=r"not finite at step \d: .*at fault: term .*moment") as caught:
            train(draw, path, source=broken)
        told.append(str(caught.value))
        assert draw.source_train.qids[5] in told[-1]
        assert not list(tmp_path.glob(".*"))
        failed = tmp_path / f"{path.stem}.failed.pt"
        assert told[-1].endswith(str(failed))
        failed.rename(tmp_path / "again.pt")
    assert told[0].partition("; the state")[0] == told[1].partition("; the state")[0]


def test_accumulated_batches_are_one_batch(draw: Simulation) -> None:
    """For a mean over rows two accumulated batches of 8 equal a batch of 16, up to rounding."""
    source = draw.source_train.slice(range(16))
    weights = []
    for size, accumulate in ((16, 1), (8, 2)):
        torch.manual_seed(0)
        model = build_mmcda(replace(CONFIG, dropout=0.0)).double()
        double = replace(source, frames=source.frames.double(), words=source.words.double())
        loader = ResidentLoader(double, size, shuffle=False)
        config = TrainingConfig(steps=3, evaluations=1, warmup=1, accumulate=accumulate)
        fit(model, MMCDAObjective(weights={"moment": 1.0}), loader, config=config)
        weights.append(copy.deepcopy(model.state_dict()))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-6, atol=1e-9)


def test_an_accumulating_run_is_resumed_between_its_batches(draw: Simulation, tmp_path: Path) -> None:
    config = TrainingConfig(steps=4, evaluations=1, warmup=1, accumulate=2)

    def on_step(step: int) -> None:
        if step == 3:  # in the middle of a pass: three batches a pass, six used
            raise TrainingStopped

    with pytest.raises(TrainingStopped):
        train(draw, tmp_path / "run.pt", config=config, on_step=on_step)
    assert same(train(draw, tmp_path / "run.pt", config=config), train(draw, config=config))


def test_bfloat16_trains_near_float32(draw: Simulation) -> None:
    models = [
        train(draw, config=TrainingConfig(steps=6, evaluations=1, warmup=2, precision=precision))
        for precision in ("float32", "bfloat16")
    ]
    a, b = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert b.dtype == torch.float32
    assert 0 < float((a - b).norm() / a.norm()) < 0.05
    with pytest.raises(ValueError, match="TrainingConfig: `precision` must be one of 'float32', 'bfloat16', 'float16'"):
        TrainingConfig(precision="float8")


def test_float16_scales_its_loss_and_goes_on_with_the_same_scale(draw: Simulation, tmp_path: Path) -> None:
    """The first loss scale overflows: such steps are skipped and the scale halved until none does."""
    config = TrainingConfig(steps=12, evaluations=2, warmup=2, precision="float16")
    norms: list[float] = []

    def log(facts: StepFacts) -> None:
        norms.append(facts["gradient_norm"])

    whole = train(draw, tmp_path / "whole.pt", config=config, log=log, log_steps=1)
    left_out = sum(not math.isfinite(norm) for norm in norms)
    fits = 1 + max(
        step for step, norm in enumerate(norms) if not math.isfinite(norm)
    )  # steps after which none overflows
    assert 1 <= left_out <= fits <= 4
    assert load_file(tmp_path / "whole.pt", "mmcda run")["scaler"]["scale"] == 2.0 ** (16 - left_out)
    plain = train(draw, config=replace(config, precision="float32"))
    a, b = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (plain, whole))
    assert b.dtype == torch.float32
    assert 0 < float((a - b).norm() / a.norm()) < 0.1

    def on_step(step: int) -> None:
        if step == fits:
            raise TrainingStopped

    with pytest.raises(TrainingStopped):
        train(draw, tmp_path / "run.pt", config=config, on_step=on_step)
    assert same(train(draw, tmp_path / "run.pt", config=config), whole)


def test_tensorboard_has_every_number_of_a_step(tmp_path: Path) -> None:
    """Run if the package is installed; no extra requires it."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path)
    log({"step": 1, "loss": 1.5, "terms": {"moment": 2.0}})
    log({"step": 2, "loss": 1.25, "terms": {"moment": 1.0}})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 1.5), (2, 1.25)]
    assert [(one.step, one.value) for one in events.Scalars("terms/moment")] == [(1, 2.0), (2, 1.0)]
