"""What people write first, from papers and other libraries, is answered with what it is called here."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
import torch
from torch import nn

import mmda
from mmda import losses
from mmda._core.hints import OTHER_NAMES
from mmda.layers import DomainDiscriminator


@pytest.mark.parametrize("place", sorted(set(OTHER_NAMES.values())))
def test_every_place_that_is_named_exists(place: str) -> None:
    module, name = f"mmda.{place}".rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("where", "name", "told"),
    [
        (mmda, "MMDLoss", "; it is mmda.losses.MMDLoss"),
        (mmda, "DANNLoss", "; it is called mmda.losses.DomainAdversarialLoss here"),
        (losses, "DANNLoss", "; it is called mmda.losses.DomainAdversarialLoss here"),
        (losses, "DANN", "; it is called mmda.losses.DomainAdversarialLoss here"),
        (losses, "MK_MMD", "; it is called mmda.losses.MMDLoss here"),
        (losses, "LearnableTemperature", "; it is mmda.layers.LearnableTemperature"),
        (losses, "Gaussian", "; it is mmda.kernels.Gaussian"),
        (mmda, "nothing", "has no attribute 'nothing'"),
    ],
)
def test_names_are_told(where: Any, name: str, told: str) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(where, name)
    assert str(error.value).endswith(told)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: losses.MMDLoss("rbf"), "MMDLoss: settings are keyword-only, got 'rbf'; takes kernel=, estimator="),
        (lambda: losses.InfoNCELoss(0.1), "InfoNCELoss: settings are keyword-only, got 0.1; takes temperature="),
        (
            lambda: losses.MMDLoss(kernel_mul=2.0),
            "MMDLoss: `kernel_mul` is not a setting (bandwidths belong to the kernel",
        ),
        (lambda: losses.MMDLoss(reduction="mean"), "`reduction` is not a setting (losses return one scalar"),
        (lambda: losses.CORALLoss(alpha=1.0), "CORALLoss: `alpha` is not a setting"),
        (lambda: losses.InfoNCELoss(tau=0.1), "`tau` is not a setting (it is called temperature); takes temperature="),
        (lambda: losses.MMDLoss(foo=1), "MMDLoss: `foo` is not a setting; takes kernel="),
    ],
)
def test_settings_are_told(build: Any, told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)) as error:
        build()
    assert "\n" not in str(error.value)


def test_other_errors_are_left_as_they_are_and_signatures_too() -> None:
    with pytest.raises(ValueError, match="`estimator` must be one of"):
        losses.MMDLoss(estimator="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`kernel` must"):
        losses.MMDLoss(kernel=losses.MMDLoss)  # type: ignore[arg-type]
    assert list(inspect.signature(losses.MMDLoss).parameters) == ["kernel", "estimator", "block_size"]


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Softmax(1), nn.LogSoftmax(1), nn.LogSigmoid()])
def test_a_discriminator_that_gives_probabilities_is_refused(last: nn.Module) -> None:
    body = nn.Sequential(nn.Linear(4, 2), nn.Sequential(nn.ReLU(), last))
    name = type(last).__name__
    for build in (losses.DomainAdversarialLoss, losses.MultiDomainAdversarialLoss):
        with pytest.raises(ValueError, match=f"must return logits, .* got a module that ends in {name}"):
            build(body)
    losses.DomainAdversarialLoss(nn.Sequential(nn.Sigmoid(), nn.Linear(4, 1)))
    losses.DomainAdversarialLoss(DomainDiscriminator(4))


def test_a_tensor_temperature_is_shown() -> None:
    assert "temperature=0.25" in repr(losses.InfoNCELoss(temperature=torch.tensor(0.25)))
