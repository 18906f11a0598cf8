"""Kernels and configs are plain values: files that contain them load with ``weights_only=True``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmda import kernels
from mmda.models.mmcda import MMCDAConfig, TrainingConfig


@pytest.mark.parametrize(
    "value",
    [
        kernels.Gaussian(),
        kernels.Gaussian(torch.tensor(2.0), scales=(0.5, 1.0)),
        kernels.Laplacian(3.0),
        kernels.RationalQuadratic(),
        kernels.Energy(),
        MMCDAConfig(video_width=4, query_width=3),
        TrainingConfig(steps=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_are_read_again_without_running_code(value: object, tmp_path: Path) -> None:
    torch.save({"hyper_parameters": {"value": value}}, tmp_path / "checkpoint.pt")
    again = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["hyper_parameters"]["value"]
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    assert vars(again) == vars(value)
