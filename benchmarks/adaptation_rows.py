"""The rows of ``benchmarks.adaptation``: a term added to the source's cross-entropy, or a map of the features."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.digits import Batch, Term, by_class, discrepancy, joint, norms, of_predictions, prototypes
from mmda import losses
from mmda.layers import DomainDiscriminator, GradientReversal
from mmda.linear import CORALMap, SubspaceAlignment, Whitening

HIDDEN = 64

#: Maps the features of both domains before training.
Move = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: its term, built for each run from the number of classes, with candidate weights; or a map."""

    name: str
    build: Callable[[int], Term] | None = None
    weights: tuple[float, ...] = (1.0,)
    move: Move | None = None
    needs: str | None = None  # package of another library

    @property
    def available(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


class Adversary(nn.Module):
    """A discriminator or critic with the full learning rate; the strength scales the gradient reversal."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.loss.set_strength(strength)  # type: ignore[operator]
        logits: tuple[Tensor, ...] = ()
        if isinstance(self.loss, losses.ConditionalAdversarialLoss):
            logits = (batch.source_logits, batch.target_logits)
        value: Tensor = self.loss(batch.source, batch.target, *logits)
        return value


class SecondClassifier(nn.Module):
    """A classifier after a gradient reversal, for margin disparity or classifier discrepancy."""

    def __init__(self, classes: int, *, margin: bool) -> None:
        super().__init__()
        self.reversal = GradientReversal()
        hidden = nn.Sequential(nn.Linear(HIDDEN, 64), nn.ReLU(), nn.Linear(64, classes))
        self.second, self.margin = hidden if margin else nn.Linear(HIDDEN, classes), margin

    def forward(self, batch: Batch, strength: float) -> Tensor:
        self.reversal.set_strength(strength)
        target = self.reversal(batch.target)
        if self.margin:
            mine, other = self.second(self.reversal(batch.source)), self.second(target)
            value: Tensor = losses.margin_disparity_loss(batch.source_logits, mine, batch.target_logits, other)
            return value
        differ = losses.classifier_discrepancy_loss(batch.classifier(target), self.second(target))
        return F.cross_entropy(self.second(batch.source), batch.labels) - differ


def plain(classes: int) -> Term:
    return Adversary(losses.DomainAdversarialLoss(DomainDiscriminator(HIDDEN, hidden=[64])))


def conditional(classes: int) -> Term:
    return Adversary(losses.ConditionalAdversarialLoss(DomainDiscriminator(HIDDEN * classes, hidden=[64])))


def critic(classes: int) -> Term:
    net = nn.Sequential(nn.Linear(HIDDEN, 64), nn.ReLU(), nn.Linear(64, 1))
    return Adversary(losses.WassersteinCriticLoss(net, penalty=10.0))


def feature_weight(batch: Batch) -> float:
    """One over the mean squared distance of features, so that features and labels have similar weight in the cost."""
    return 1 / torch.cdist(batch.source.detach(), batch.target.detach()).square().mean().clamp(min=1e-6).item()


def transport(batch: Batch, strength: float) -> Tensor:
    """Joint transport of features and labels."""
    value = losses.joint_transport_loss(
        batch.source,
        batch.target,
        batch.labels,
        batch.target_logits,
        feature_weight=feature_weight(batch),
        regularisation=0.1,
        iterations=10,
    )
    return strength * value


def smooth(batch: Batch, strength: float) -> Tensor:
    """Virtual adversarial training: predictions invariant to small perturbations of the features."""
    move = losses.virtual_adversarial_perturbation(batch.classifier, batch.target.detach(), logits=batch.target_logits)
    return strength * losses.virtual_adversarial_loss(batch.target_logits, batch.classifier(batch.target + move))


def self_training(batch: Batch, strength: float) -> Tensor:
    """Cross-entropy with pseudo-labels of the target, weighted by confidence."""
    sure, labels = batch.pseudo.max(1)
    return strength * losses.self_training_loss(batch.target_logits, labels, confidence=sure)


def of_any(build: Callable[[], Term]) -> Callable[[int], Term]:
    """A term that does not need the number of classes."""
    return lambda classes: build()


def means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each domain standardised to mean 0 and variance 1."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6), (y - y.mean(0)) / y.std(0).clamp(min=1e-6)


def whitening(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each domain whitened to mean 0 and covariance I."""
    return Whitening(ridge=0.1).fit(x)(x), Whitening(ridge=0.1).fit(y)(y)


def recoloured(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The source with the mean and the covariance of the target."""
    return CORALMap(ridge=0.1).fit(x, y)(x), y


def subspace(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The source's principal directions rotated onto the target's."""
    maps = SubspaceAlignment(40).fit(x, y)
    return maps.map_source(x), maps.map_target(y)


LOW, MIDDLE, HIGH = (0.1, 0.3, 1.0), (0.3, 1.0, 3.0), (1.0, 3.0, 10.0)
ROWS = (
    Row("source-only"),
    Row("standardised by domain", move=means),
    Row("whitened by domain", move=whitening),
    Row("CORAL map", move=recoloured),
    Row("subspace alignment", move=subspace),
    Row("MMD", of_any(discrepancy(losses.MMDLoss())), HIGH),
    Row("MMD, unbiased", of_any(discrepancy(losses.MMDLoss(estimator="unbiased"))), HIGH),
    Row("MMD, polynomial kernel", of_any(discrepancy(losses.PolynomialMMDLoss())), LOW),
    Row("joint MMD", of_any(joint(losses.JointMMDLoss())), HIGH),
    Row("local MMD", of_any(by_class(losses.LocalMMDLoss())), HIGH),
    Row("contrastive domain", of_any(by_class(losses.ContrastiveDomainDiscrepancyLoss())), MIDDLE),
    Row("CORAL", of_any(discrepancy(losses.CORALLoss())), (10.0, 100.0, 1000.0)),
    Row("central moments", of_any(discrepancy(losses.CentralMomentDiscrepancyLoss(), of=torch.sigmoid)), MIDDLE),
    Row(
        "third moments", of_any(discrepancy(losses.HigherOrderMomentLoss(order=3), of=torch.tanh)), (10.0, 30.0, 100.0)
    ),
    Row("energy distance", of_any(discrepancy(losses.EnergyDistanceLoss())), MIDDLE),
    Row("sliced Wasserstein", of_any(discrepancy(losses.SlicedWassersteinLoss())), MIDDLE),
    Row(
        "Sinkhorn",
        of_any(discrepancy(losses.SinkhornDivergenceLoss(regularisation=10.0, iterations=5))),
        (0.01, 0.03, 0.1),
    ),
    Row("joint transport", lambda classes: transport, LOW),
    Row("adversary", plain, LOW),
    Row("conditional adversary", conditional, LOW),
    Row("Wasserstein critic", critic, (0.03, 0.1, 0.3)),
    Row("margin disparity", lambda classes: SecondClassifier(classes, margin=True), (0.03, 0.1, 0.3)),
    Row("two classifiers", lambda classes: SecondClassifier(classes, margin=False), LOW),
    Row("spectral penalty", of_any(discrepancy(losses.BatchSpectralPenaltyLoss())), (1e-5, 1e-4, 1e-3)),
    Row("feature norm, stepwise", of_any(norms(losses.AdaptiveFeatureNormLoss())), (0.001, 0.003, 0.01)),
    Row("class confusion", of_any(of_predictions(losses.MinimumClassConfusionLoss())), MIDDLE),
    Row("nuclear norm", of_any(of_predictions(losses.BatchNuclearNormLoss())), MIDDLE),
    Row("entropy", of_any(of_predictions(losses.EntropyLoss())), (0.03, 0.1, 0.3)),
    Row("information maximisation", of_any(of_predictions(losses.InformationMaximisationLoss())), MIDDLE),
    Row("self-training", lambda classes: self_training, LOW),
    Row("virtual adversarial", lambda classes: smooth, LOW),
    Row("prototypes", of_any(prototypes(losses.PrototypeContrastiveLoss())), LOW),
    Row("prototypes, no gate", of_any(prototypes(losses.PrototypeContrastiveLoss(confidence=0.0))), LOW),
)


# Losses of the same names in other libraries, called as in their documentation


def skada(name: str, needs: Callable[[Any], Callable[[Batch], Tensor]], weights: tuple[float, ...]) -> Row:
    """A row of ``skada.deep.losses``."""

    def build(classes: int) -> Term:
        from skada.deep import losses as theirs

        value = needs(theirs)
        return lambda batch, strength: strength * value(batch)

    return Row(f"{name} (skada)", build, weights, needs="skada")


def pytorch_adapt(name: str, needs: Callable[[Any], Callable[[Batch], Tensor]], weights: tuple[float, ...]) -> Row:
    """A row of ``pytorch_adapt.layers``."""

    def build(classes: int) -> Term:
        from pytorch_adapt import layers

        value = needs(layers)
        return lambda batch, strength: strength * value(batch)

    return Row(f"{name} (pytorch-adapt)", build, weights, needs="pytorch_adapt")


def features(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda batch: loss(batch.source, batch.target)


def answers(loss: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda batch: loss(batch.target_logits)


def sides(loss: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda batch: loss(batch.source) + loss(batch.target)


def theirs_mmd(layers: Any) -> Callable[[Batch], Tensor]:
    from pytorch_adapt.layers.utils import get_kernel_scales

    return features(
        layers.MMDLoss(kernel_scales=get_kernel_scales(low=-3, high=3, num_kernels=10), mmd_type="quadratic")
    )


def theirs_transport(deep: Any) -> Callable[[Batch], Tensor]:
    def value(batch: Batch) -> Tensor:
        found: Tensor = deep.deepjdot_loss(
            batch.labels, batch.target_logits, batch.source, batch.target, feature_weight(batch), 1.0
        )
        return found

    return value


def theirs_information(layers: Any) -> Callable[[Batch], Tensor]:
    entropy, diversity = layers.EntropyLoss(), layers.DiversityLoss()
    return answers(lambda logits: entropy(logits) + diversity(logits))


PEERS = (
    skada("MMD", lambda deep: features(deep.dan_loss), HIGH),
    pytorch_adapt("MMD", theirs_mmd, HIGH),
    skada("CORAL", lambda deep: features(deep.deepcoral_loss), (10.0, 100.0, 1000.0)),
    pytorch_adapt("CORAL", lambda layers: features(layers.CORALLoss()), (10.0, 100.0, 1000.0)),
    pytorch_adapt("sliced Wasserstein", lambda layers: features(layers.SlicedWasserstein(m=128)), MIDDLE),
    skada("joint transport", theirs_transport, LOW),
    pytorch_adapt("spectral penalty", lambda layers: sides(layers.BatchSpectralLoss()), (1e-5, 1e-4, 1e-3)),
    pytorch_adapt("feature norm, stepwise", lambda layers: sides(layers.AdaptiveFeatureNorm()), (0.001, 0.003, 0.01)),
    skada("class confusion", lambda deep: answers(deep.mcc_loss), MIDDLE),
    pytorch_adapt("class confusion", lambda layers: answers(layers.MCCLoss()), MIDDLE),
    pytorch_adapt("nuclear norm", lambda layers: answers(layers.BNMLoss()), MIDDLE),
    pytorch_adapt("entropy", lambda layers: answers(layers.EntropyLoss()), (0.03, 0.1, 0.3)),
    pytorch_adapt("information maximisation", theirs_information, MIDDLE),
)
