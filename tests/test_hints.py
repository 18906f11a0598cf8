"""Names from papers and other libraries raise errors that name the equivalent here."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import sys
from typing import Any

import pytest
import torch
from torch import nn

import mmda
from mmda import kernels, layers, losses
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
        (kernels, "RBFKernel", "; it is called mmda.kernels.Gaussian here"),
        (layers, "GRL", "; it is called mmda.layers.GradientReversal here"),
        (layers, "Gaussian", "; it is mmda.kernels.Gaussian"),
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
        (
            lambda: kernels.Gaussian(sigma=1.0),
            "Gaussian: `sigma` is not a setting (the bandwidth belongs to the kernel",
        ),
        (lambda: kernels.Laplacian(gamma=1.0), "Laplacian: `gamma` is not a setting (exp(-gamma d^2) is Gaussian("),
        (lambda: layers.GradientReversal(alpha=1.0), "GradientReversal: `alpha` is not a setting"),
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


X, Y = torch.zeros(4, 3), torch.ones(4, 3)
ADVERSARY = losses.DomainAdversarialLoss(DomainDiscriminator(3))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: ADVERSARY(X, Y, strength=0.5),
            "DomainAdversarialLoss: `strength` is not an argument (it is a setting of the module, given where it is "
            "built); takes source, target, source_weight=",
        ),
        (lambda: losses.MMDLoss()(X, Y, alpha=1.0), "MMDLoss: `alpha` is not an argument (multiply the loss by"),
        (lambda: losses.MMDLoss()(X, Y, reduction="mean"), "`reduction` is not an argument (losses return one scalar"),
        (lambda: losses.MMDLoss()(X, Y, "rbf"), "MMDLoss: takes source, target, source_weight="),
        (lambda: losses.MMDLoss()(X), "MMDLoss: missing 1 required positional argument: 'target'; takes source"),
        (lambda: losses.mmd_loss(X, Y, "rbf"), "mmd_loss: takes source, target, kernel=, estimator="),
        (lambda: losses.mmd_loss(X, Y, kernel_mul=2.0), "mmd_loss: `kernel_mul` is not an argument (bandwidths belong"),
        (lambda: losses.mmd_loss(X, Y, weight=X), "`weight` is not an argument (each side has its own: source_weight="),
        (lambda: losses.info_nce_loss(X, Y, 0.1), "got Tensor, Tensor, 0.1"),
        (lambda: losses.info_nce_loss(X, Y, tau=0.1), "info_nce_loss: `tau` is not an argument (it is called temp"),
    ],
)
def test_arguments_of_a_call_are_told(call: Any, told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_error_inside_a_call_is_left_as_it_is() -> None:
    def discrepancy(source: torch.Tensor, target: torch.Tensor, **others: Any) -> torch.Tensor:
        return source.sum(wrong=1)  # type: ignore[call-overload, no-any-return]

    for call in (
        losses.MultiDomainLoss(discrepancy, domains=2),
        lambda *a: losses.multi_domain_loss(*a, discrepancy=discrepancy, domains=2),
    ):
        with pytest.raises(TypeError, match=r"^sum\(\)"):
            call(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]))


def test_functions_stay_what_they_are() -> None:
    assert pickle.loads(pickle.dumps(losses.mmd_loss)) is losses.mmd_loss
    assert losses.mmd_loss.__globals__ is vars(sys.modules["mmda.losses.mmd"])
    assert list(inspect.signature(losses.mmd_loss).parameters)[:3] == ["source", "target", "kernel"]
    torch.testing.assert_close(
        torch.compile(losses.mmd_loss, backend="eager", fullgraph=True)(X, Y), losses.mmd_loss(X, Y)
    )


@pytest.mark.parametrize("last", [torch.sigmoid, lambda z: z.softmax(1)])
def test_probabilities_are_refused_where_the_graph_shows_them(last: Any) -> None:
    z = torch.zeros(4, 3, requires_grad=True)
    for loss in (losses.entropy_loss, losses.minimum_class_confusion_loss, losses.batch_nuclear_norm_loss):
        with pytest.raises(ValueError, match=r"`logits` must be logits, .* got the output of a (sigmoid|softmax)"):
            loss(last(z))
        loss(z.log_softmax(1))

    class Discriminator(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(super().forward(x))

    with pytest.raises(ValueError, match=r"`discriminator` must return logits, .* got the output of a sigmoid"):
        losses.DomainAdversarialLoss(Discriminator(3, 1))(X, Y)
    with pytest.raises(ValueError, match="`source_logits` must be logits"):
        losses.domain_adversarial_loss(torch.sigmoid(z[:, 0]), z[:, 1])


def test_of_a_loss_parts_may_be_positional_and_settings_are_by_name() -> None:
    parts = {"discriminator", "critic", "discrepancy"}
    for name in losses.__all__:
        cls = getattr(losses, name)
        if name.endswith("Loss") and not getattr(cls, "_is_protocol", False):
            given = [p for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert {p.name for p in given} <= parts, name
            assert all(p.default is p.empty for p in given), name
