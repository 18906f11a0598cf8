"""Training on a GPU: as on a processor, in every precision, and it goes on after a stop."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmda.models.mmcda import (
    MMCDA,
    MMCDAConfig,
    MMCDAObjective,
    TrainingConfig,
    TrainingStopped,
    build_mmcda,
    fit,
    predict_split,
)
from mmda.vmr import ResidentLoader, Simulation, World, simulate

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = "cuda"
CONFIG = TrainingConfig(steps=8, evaluations=2, warmup=2, average=0.5)


@pytest.fixture(scope="module")
def draw() -> Simulation:
    return simulate(World(videos=24, test_videos=4, video_width=12, query_width=10), seed=3)


def train(
    draw: Simulation, device: str, config: TrainingConfig, *, dropout: float = 0.0, seed: int = 0, **more: Any
) -> MMCDA:
    """``seed``: of the device's random numbers."""
    torch.manual_seed(0)
    sizes = MMCDAConfig(12, 10, hidden=8, joint=4, localizer_channels=4, localizer_layers=1, dropout=dropout)
    model = build_mmcda(sizes).to(device)
    source = ResidentLoader(draw.source_train, 8, drop_last=True)
    target = ResidentLoader(draw.target_train, 8, seed=1, labels=False, drop_last=True)
    if device == DEVICE:
        torch.cuda.manual_seed(seed)
    fit(model, MMCDAObjective().to(device), source, target, config=config, device=device, **more)
    return model


def weights(model: MMCDA) -> Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


def difference(a: MMCDA, b: MMCDA) -> float:
    return float((weights(a) - weights(b)).norm() / weights(a).norm())


def test_the_same_as_on_a_processor(draw: Simulation) -> None:
    host, device = (train(draw, place, CONFIG) for place in ("cpu", DEVICE))
    short = train(draw, DEVICE, replace(CONFIG, steps=6))
    assert difference(host, device) < 0.1 * difference(host, short)
    found = [
        predict_split(model.eval(), ResidentLoader(draw.target_test, 8, shuffle=False, labels=False))[0]
        for model in (copy.deepcopy(host), host.to(DEVICE))
    ]
    torch.testing.assert_close(found[1].scores, found[0].scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near(draw: Simulation, precision: str) -> None:
    single = train(draw, DEVICE, CONFIG)
    half = train(draw, DEVICE, replace(CONFIG, precision=precision))
    assert 0 < difference(single, half) < 0.1


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_it_goes_on_after_a_stop(draw: Simulation, tmp_path: Path, precision: str) -> None:
    """With dropout: the device's random numbers go on too."""
    config = replace(CONFIG, precision=precision)
    whole = train(draw, DEVICE, config, dropout=0.2)

    def stop(step: int) -> None:
        if step == 5:
            raise TrainingStopped

    with pytest.raises(TrainingStopped):
        train(draw, DEVICE, config, dropout=0.2, resume=tmp_path / "run.pt", on_step=stop)
    again = train(draw, DEVICE, config, dropout=0.2, resume=tmp_path / "run.pt")
    other = train(draw, DEVICE, config, dropout=0.2, seed=1)
    assert difference(whole, again) < 0.1 * difference(whole, other)  # sums on a GPU have no fixed order
