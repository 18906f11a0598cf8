"""How each exported loss is computed a second time, in float64 loops from its formula, at every setting it has.

An entry of :data:`REFERENCES` belongs to a case of :func:`tests.contract.cases.discover` that is a loss, and says

- ``value``: the same number from :mod:`tests.reference`, given the inputs ``p`` of the call as NumPy arrays and the
  settings ``s``, both by name;
- ``moves``: other values of the settings, at each of which the two must agree and an ignored setting must show;
- ``excused``: settings that cannot change the value, and why.

A setting is an argument of the constructor (of the call, where the case is a function), or an optional input of the
call beside weights and masks of rows, which the grid tests by repeating and dropping rows.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import mmda.losses
from mmda.kernels import Gaussian
from mmda.losses import MMDLoss
from tests.contract.cases import CLASSES, SIZES, Case, Problem, random_map
from tests.reference import (
    adversarial,
    block_mmd,
    central_moment,
    class_conditional,
    contrastive,
    contrastive_domain,
    coral,
    energy,
    entropies,
    feature_norm,
    higher_order_moment,
    hsic,
    joint_mmd,
    joint_transport,
    many_domains,
    mmd,
    polynomial_mmd,
    predictions,
    pseudo_labels,
    random_features,
    redundancy,
    retrieval,
    sinkhorn,
    sliced_wasserstein,
    spectral_penalty,
    supervised_contrastive,
    wasserstein_critic,
)

Array = NDArray[np.float64]
Value = Callable[[SimpleNamespace, SimpleNamespace], float]


@dataclasses.dataclass(frozen=True)
class Move:
    """One setting at another value, under other settings where it only counts under them."""

    setting: str
    value: Any
    under: Mapping[str, Any]
    sizes: Mapping[str, int]

    @property
    def moved(self) -> dict[str, Any]:
        return {**self.under, self.setting: self.value}

    @property
    def ignored(self) -> dict[str, Any]:
        """What a loss that does not read the setting computes."""
        return dict(self.under)

    def __str__(self) -> str:
        shown = (f"{k}={'...' if isinstance(v, Tensor | nn.Module) else repr(v)}" for k, v in self.moved.items())
        return ", ".join(shown)


def move(setting: str, value: Any, *, sizes: Mapping[str, int] | None = None, **under: Any) -> Move:
    return Move(setting, value, under, sizes or {})


@dataclasses.dataclass(frozen=True)
class Reference:
    value: Value
    moves: tuple[Move, ...] = ()
    excused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: What every call is made with: arguments without a default, and the sample of a randomised loss.
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rtol: float = 1e-9


# What a case has, and how it is computed.


def constructor(case: Case) -> dict[str, inspect.Parameter]:
    owner = getattr(mmda.losses, case.module)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not inspect.isclass(owner):
        return {}
    return {name: p for name, p in inspect.signature(owner).parameters.items() if p.kind not in kinds}


def settings_of(case: Case) -> dict[str, inspect.Parameter]:
    """Everything that an entry answers for, the sample of a randomised loss apart."""
    call = {
        name: p
        for name, p in case.signature.parameters.items()
        if p.default is not inspect.Parameter.empty and name not in case.roles and name != "generator"
    }
    return {**constructor(case), **call}


def ours(case: Case, problem: Problem, settings: Mapping[str, Any]) -> dict[str, float]:
    """The module's value at these settings, and its function's where that takes the same arguments."""
    built = constructor(case)
    arguments = {**problem.values, **{k: v for k, v in settings.items() if k not in built}}
    options = {k: v for k, v in settings.items() if k in built}
    owner = getattr(mmda.losses, case.module)
    call = owner(**options).double() if inspect.isclass(owner) else owner
    found = {case.module: call(**arguments).item()}
    function = case.function
    if function is not None and {*arguments, *options} <= {*inspect.signature(function).parameters}:
        found[function.__name__] = function(**arguments, **options).item()
    return found


def theirs(case: Case, entry: Reference, problem: Problem, settings: Mapping[str, Any]) -> float:
    """The reference's value at these settings, the defaults of the others read off the signature."""
    known = {name: p.default for name, p in settings_of(case).items()}
    everything = pytree.tree_map(to_numpy, {**known, **settings, **problem.values})
    kept = everything.get("candidate_mask")
    if kept is not None:  # padding is no candidate: take it out
        everything["positive"] = everything["positive"][kept]
        for name in ("positive_mask", "positive_weight", "negative_mask"):
            if everything.get(name) is not None:
                everything[name] = everything[name][:, kept]
    return float(entry.value(SimpleNamespace(**everything), SimpleNamespace(**everything)))


def to_numpy(leaf: Any) -> Any:
    return leaf.detach().numpy() if isinstance(leaf, Tensor) else leaf


# Pieces of the entries below.


class Discriminator(nn.Module):
    """tanh(w . x) for rows of any width, with a w that NumPy makes again; nothing to train."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.tanh(rows @ torch.from_numpy(direction(rows.shape[1])).to(rows.dtype))


class DomainLogits(nn.Module):
    """A linear map to the logits of three domains."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ torch.from_numpy(directions(rows.shape[1])).to(rows.dtype)


def direction(width: int) -> Array:
    return np.asarray(np.cos(1.0 + np.arange(width)))


def directions(width: int) -> Array:
    return np.asarray(np.cos(1.0 + np.arange(3 * width)).reshape(width, 3))


def told(rows: Array) -> Array:
    return np.asarray(np.tanh(rows @ direction(rows.shape[1])))


def similarity(kernel: Gaussian, x: Array, y: Array) -> mmd.Similarity:
    return mmd.gaussian(width(kernel, x, y), kernel.scales)


def width(kernel: Gaussian, x: Array, y: Array) -> float:
    return mmd.median_distance(x, y) if kernel.bandwidth == "median" else float(kernel.bandwidth)


def over_scales(kernel: Gaussian, x: Array, y: Array, value: Callable[[float], float]) -> float:
    """For what is linear in the kernel: the mean over its single Gaussians."""
    return float(np.mean([value(width(kernel, x, y) * s**0.5) for s in kernel.scales]))


def gram(kernel: Gaussian, rows: Array) -> Array:
    sigma = width(kernel, rows[:0], rows)
    return np.asarray(np.mean([hsic.gram(rows, sigma * s**0.5) for s in kernel.scales], axis=0))


def shares(labels: NDArray[np.int64]) -> Array:
    return np.asarray(np.eye(CLASSES)[labels])


def scaled(p: SimpleNamespace, s: SimpleNamespace) -> Array:
    """Similarities over temperature."""
    alike = contrastive.cosines(p.anchor, p.positive) if s.normalize else p.anchor @ p.positive.T
    return np.asarray(alike / s.temperature)


# Masks of pairs, that leave each row a positive and a negative.
ROWS = torch.arange(SIZES["b"])
NEGATIVE = (ROWS[:, None] + 2 * ROWS) % 3 != 1
POSITIVE = (ROWS[:, None] - ROWS).abs() % 5 == 0
ALIKE = (ROWS[:, None] - ROWS) % 3 == 0
SOFT = torch.where(POSITIVE, 0.25 + (ROWS[:, None] + 2.0 * ROWS) / 10, 0.0).double()
# More candidates than anchors, and the last of them padding.
CANDIDATES = torch.sin(1.0 + torch.arange(8 * SIZES["d"], dtype=torch.float64)).reshape(8, SIZES["d"])
WANTED = (ROWS[:, None] + torch.arange(8)) % 4 == 0
KEPT = torch.arange(8) < 6
MIXING = torch.linspace(0.05, 0.9, 7, dtype=torch.float64)

SINGLE = Gaussian(1.5, scales=(1.0,))
SEVERAL = Gaussian(0.8, scales=(0.5, 2.0))
EQUAL = {"n": 6, "m": 6}

NO_VALUE = "factor of the features' gradient; the value does not know it"
GIVEN = "counts for drawn directions alone, and the call brings them"
SPEED = "how the sums are cut up, not what they are"
WIDTH = "the number of classes, which the call shows already; a class without a row adds nothing"
SOLVED = "steps of a solver that has converged on these rows"


# Values longer than a line.


def higher_moment(p: SimpleNamespace, s: SimpleNamespace) -> float:
    if s.indices is not None:
        return higher_order_moment.sampled(p.source, p.target, s.indices)
    return higher_order_moment.higher_order_moment(p.source, p.target, s.order)


def conditional_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    classes = p.source_class_logits, p.target_class_logits
    if s.random_map is None:
        rows = [adversarial.outer(x, g) for x, g in zip((p.source, p.target), classes)]
    else:
        maps = [
            to_numpy(m).astype(np.float64) for m in (s.random_map.feature_projection, s.random_map.class_projection)
        ]
        rows = [adversarial.random_outer(x, g, *maps) for x, g in zip((p.source, p.target), classes)]
    return conditional_logits(told(rows[0]), told(rows[1]), *classes, s.entropy_weighting)


def conditional_logits(a: Array, b: Array, a_classes: Array, b_classes: Array, weighting: bool) -> float:
    return adversarial.conditional(a, b, a_classes, b_classes) if weighting else adversarial.binary(a, b)


def joint_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    kernels = s.kernel if isinstance(s.kernel, list | tuple) else [s.kernel] * len(p.source)
    sigmas = [float(k.bandwidth) for k in kernels]
    if s.estimator == "linear":
        return joint_mmd.linear(p.source, p.target, sigmas)
    return joint_mmd.joint_mmd(p.source, p.target, sigmas, unbiased=s.estimator == "unbiased")


def hsic_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    other = s.kernel if s.positive_kernel is None else s.positive_kernel
    return float(getattr(hsic, s.estimator)(gram(s.kernel, p.anchor), gram(other, p.positive)))


def mmd_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    return float(getattr(mmd, s.estimator)(similarity(s.kernel, p.source, p.target), p.source, p.target))


def many_domains_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    between = mmd.gaussian(1.5)
    return many_domains.many_domains(
        p.features, p.domain_index.tolist(), s.scheme, lambda a, b: mmd.biased(between, a, b)
    )


def multiple_instance_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    scores = retrieval.best_scores(p.frames, p.queries, s.temperature, str(s.top))
    margin = retrieval.in_video_margin(p.frames, p.queries, s.temperature, str(s.top)) if s.in_video else 0.0
    return retrieval.pair_contrast(scores, negatives(p, s)) + s.in_video * margin


def attended_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    looks = retrieval.attention(p.frames, p.queries, s.attention_temperature)
    return retrieval.pair_contrast(
        retrieval.attended_scores(p.frames, p.queries, looks, s.temperature), negatives(p, s)
    )


def negatives(p: SimpleNamespace, s: SimpleNamespace) -> NDArray[np.bool_]:
    return np.ones((len(p.queries),) * 2, dtype=bool) if s.negative_mask is None else s.negative_mask


def frame_query_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    moments = [np.flatnonzero(row).tolist() for row in p.moment_mask]
    return retrieval.frame_query(p.frames, p.queries, moments, s.temperature)


def localization_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    return retrieval.localization(p.start_logits, p.end_logits, p.inside_logits, list(zip(*p.targets)))


def info_nce_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    wanted = s.positive_weight if s.positive_mask is None else s.positive_mask.astype(float)
    return contrastive.info_nce(scaled(p, s), wanted, s.negative_mask, several=s.several, symmetric=s.symmetric)


def sinkhorn_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    a, b = (np.full(len(rows), 1 / len(rows)) for rows in (p.source, p.target))
    across, *own = (
        sinkhorn.costs(x, y, 2 if s.cost == "squared" else 1)
        for x, y in ((p.source, p.target), (p.source, p.source), (p.target, p.target))
    )
    selves = [sinkhorn.of_itself(cost, share, s.regularisation) for cost, share in zip(own, (a, b))]
    return sinkhorn.entropic(across, a, b, s.regularisation) - sum(selves) / 2


def prototype_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    a, b = (
        (shares(labels) if labels.ndim == 1 else sure(labels, s.confidence))
        for labels in (s.source_assignment, s.target_assignment)
    )
    value = contrastive.prototype(p.target, b, p.source, a, s.temperature, normalize=s.normalize)
    if s.symmetric:
        value += contrastive.prototype(p.source, a, p.target, b, s.temperature, normalize=s.normalize)
        value /= 2
    return value


def sure(soft: Array, confidence: float) -> Array:
    if confidence == 0:
        return soft
    return np.array([np.eye(len(row))[int(row.argmax())] * (row.max() >= confidence) for row in soft])


def transport_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    return joint_transport.joint_transport(
        p.source,
        p.target,
        p.source_labels.tolist(),
        p.target_logits,
        s.feature_weight,
        s.label_weight,
        s.regularisation,
    )


def random_feature_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    sigma = width(s.kernel, p.source, p.target)
    return mmd.unbiased(random_features.similarity(p.projections, sigma, s.kernel.scales), p.source, p.target)


SOFT_TARGET = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.85, 0.05], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6], [0.05, 0.9, 0.05], [0.6, 0.3, 0.1],
     [0.0, 0.1, 0.9]],
    dtype=torch.float64,
)  # fmt: skip

REFERENCES: dict[str, Reference] = {
    "AdaptiveFeatureNormLoss": Reference(
        lambda p, s: (
            feature_norm.hard(p.features, s.radius)
            if s.variant == "hard"
            else feature_norm.stepwise(p.features, s.reference_norm, s.step)
        ),
        (
            move("variant", "hard"),
            move("step", 0.3),
            move("radius", 2.0, variant="hard"),
            move("reference_norm", torch.linspace(0.2, 3.0, SIZES["b"], dtype=torch.float64)),
        ),
    ),
    "AlignmentUniformityLoss": Reference(
        lambda p, s: redundancy.alignment_uniformity(p.anchor, p.positive, s.uniformity, s.sharpness),
        (move("uniformity", 0.3), move("sharpness", 0.7)),
    ),
    "AttendedContrastiveLoss": Reference(
        attended_value,
        (move("temperature", 0.3), move("attention_temperature", 0.4), move("negative_mask", NEGATIVE)),
    ),
    "BatchNuclearNormLoss": Reference(
        lambda p, s: -predictions.smooth_nuclear_norm(p.logits, s.smoothing), (move("smoothing", 0.2),)
    ),
    "BatchSpectralPenaltyLoss": Reference(
        lambda p, s: spectral_penalty.spectral_penalty(p.source, p.target, s.singular_values),
        (move("singular_values", 2),),
    ),
    "BlockMMDLoss": Reference(
        lambda p, s: block_mmd.block_mmd(similarity(s.kernel, p.source, p.target), p.source, p.target, s.block_rows),
        (move("kernel", SINGLE), move("kernel", SEVERAL), move("block_rows", 2)),
    ),
    "CORALLoss": Reference(
        lambda p, s: coral.coral(p.source, p.target) + (coral.mean_gap(p.source, p.target) if s.match_mean else 0.0),
        (move("match_mean", True),),
    ),
    "CentralMomentDiscrepancyLoss": Reference(
        lambda p, s: central_moment.central_moment_discrepancy(p.source, p.target, s.orders, *s.interval),
        (move("orders", 3), move("interval", (-1.0, 2.0))),
    ),
    "ClassifierDiscrepancyLoss": Reference(
        lambda p, s: predictions.classifier_discrepancy(p.first_logits, p.second_logits)
    ),
    "ConditionalAdversarialLoss": Reference(
        conditional_value,
        (move("entropy_weighting", False), move("random_map", random_map(SIZES["d"]))),
        excused={"strength": NO_VALUE},
        given={"discriminator": Discriminator()},
    ),
    "ContrastiveDomainDiscrepancyLoss": Reference(
        lambda p, s: over_scales(
            s.kernel,
            p.source,
            p.target,
            lambda sigma: contrastive_domain.soft(
                p.source, p.target, shares(p.source_labels), p.target_probabilities, sigma
            ),
        ),
        (move("kernel", SINGLE), move("kernel", SEVERAL)),
        excused={"classes": WIDTH},
    ),
    "CrossCorrelationLoss": Reference(
        lambda p, s: redundancy.cross_correlation(p.anchor, p.positive, s.redundancy, s.eps),
        (move("redundancy", 0.4), move("eps", 0.1)),
    ),
    "DomainAdversarialLoss": Reference(
        lambda p, s: adversarial.binary(told(p.source), told(p.target)),
        excused={"strength": NO_VALUE},
        given={"discriminator": Discriminator()},
    ),
    "EnergyDistanceLoss": Reference(
        lambda p, s: energy.energy_distance(p.source, p.target, s.exponent, unbiased=s.estimator == "unbiased"),
        (move("exponent", 1.5), move("estimator", "unbiased")),
    ),
    "EntropyLoss": Reference(lambda p, s: predictions.mean_entropy(p.logits)),
    "FrameQueryLoss": Reference(frame_query_value, (move("temperature", 0.3),)),
    "HSICLoss": Reference(
        hsic_value,
        (
            move("kernel", SINGLE),
            move("kernel", SEVERAL, positive_kernel=SINGLE),
            move("positive_kernel", SEVERAL),
            move("estimator", "unbiased"),
        ),
    ),
    "HigherOrderMomentLoss": Reference(
        higher_moment,
        (
            move("order", 2),
            move("order", 4),
            move("indices", torch.tensor([[0, 1, 2], [2, 2, 2], [1, 0, 1], [0, 0, 2]])),
        ),
        excused={
            "samples": "how many entries are drawn by chance; `indices` names them, and tests/losses counts the draws",
            "draws": "which entries are drawn; `indices` names them",
        },
    ),
    "InfoNCELoss": Reference(
        info_nce_value,
        (
            move("temperature", 0.3),
            move("symmetric", False),
            move("normalize", False),
            move("several", "sum", positive_mask=POSITIVE),
            move("positive_mask", POSITIVE),
            move("positive_weight", SOFT),
            move("negative_mask", NEGATIVE),
            move("candidate_mask", KEPT, positive=CANDIDATES, positive_mask=WANTED),
        ),
    ),
    "InformationMaximisationLoss": Reference(lambda p, s: -predictions.mutual_information(p.logits)),
    "JointMMDLoss": Reference(
        joint_value,
        (
            move("kernel", Gaussian(0.7, scales=(1.0,))),
            move("kernel", [SINGLE, Gaussian(2.5, scales=(1.0,))]),
            move("estimator", "unbiased"),
            move("estimator", "linear", sizes=EQUAL),
        ),
        given={"kernel": SINGLE},
    ),
    "JointTransportLoss": Reference(
        transport_value,
        (move("feature_weight", 0.3), move("label_weight", 2.0), move("regularisation", 0.5)),
        excused={"iterations": SOLVED},
        rtol=1e-8,
    ),
    "LocalMMDLoss": Reference(
        lambda p, s: over_scales(
            s.kernel,
            p.source,
            p.target,
            lambda sigma: class_conditional.local_mmd(
                p.source, p.target, shares(p.source_labels), p.target_probabilities, sigma
            ),
        ),
        (move("kernel", SINGLE), move("kernel", SEVERAL)),
        excused={"classes": WIDTH},
    ),
    "MMDLoss": Reference(
        mmd_value,
        (
            move("kernel", SINGLE),
            move("kernel", SEVERAL),
            move("estimator", "unbiased"),
            move("estimator", "linear", sizes=EQUAL),
        ),
        excused={"block_size": SPEED},
    ),
    "MarginDisparityLoss": Reference(
        lambda p, s: (
            -predictions.margin_disparity(
                p.source_logits, p.source_adversary_logits, p.target_logits, p.target_adversary_logits, s.margin
            )
        ),
        (move("margin", 1.5),),
    ),
    "MinimumClassConfusionLoss": Reference(
        lambda p, s: predictions.class_confusion(p.logits, s.temperature), (move("temperature", 1.0),)
    ),
    "MomentLocalizationLoss": Reference(localization_value),
    "MultiDomainAdversarialLoss": Reference(
        lambda p, s: adversarial.categorical(p.features @ directions(p.features.shape[1]), p.domain_index.tolist()),
        excused={"strength": NO_VALUE},
        given={"discriminator": DomainLogits()},
    ),
    "MultiDomainLoss": Reference(
        many_domains_value,
        (move("scheme", "one_vs_rest"), move("scheme", "to_mean")),
        excused={"domains": "more domains than occur add nothing, fewer are another batch"},
        given={"discrepancy": MMDLoss(kernel=SINGLE), "domains": 3},
        sizes={"b": 7},
    ),
    "MultipleInstanceLoss": Reference(
        multiple_instance_value,
        (
            move("temperature", 0.3),
            move("top", 0.5),
            move("in_video", 0.7),
            move("negative_mask", NEGATIVE),
        ),
    ),
    "NTXentLoss": Reference(
        lambda p, s: contrastive.nt_xent(
            p.anchor, p.positive, s.temperature, s.positive_mask, s.negative_mask, normalize=s.normalize
        ),
        (
            move("temperature", 0.2),
            move("normalize", False),
            move("positive_mask", ALIKE),
            move("negative_mask", (ROWS[:, None] + ROWS) % 3 != 1),
        ),
    ),
    "OpenSetLoss": Reference(lambda p, s: pseudo_labels.open_set(p.logits, s.boundary), (move("boundary", 0.2),)),
    "PolynomialMMDLoss": Reference(
        lambda p, s: polynomial_mmd.polynomial_mmd(
            p.source,
            p.target,
            s.degree,
            1 / p.source.shape[1] if s.scale is None else s.scale,
            s.offset,
            s.estimator == "unbiased",
        ),
        (move("degree", 2), move("scale", 0.9), move("offset", 0.2), move("estimator", "biased")),
    ),
    "PrototypeContrastiveLoss": Reference(
        prototype_value,
        (
            move("temperature", 0.4),
            move("symmetric", False),
            move("normalize", False),
            move("confidence", 0.4, target_assignment=SOFT_TARGET),
            move("confidence", 0.0, target_assignment=SOFT_TARGET),
        ),
        excused={"classes": WIDTH},
        given={"classes": CLASSES},
    ),
    "RandomFeatureMMDLoss": Reference(
        random_feature_value,
        (move("kernel", SINGLE), move("kernel", SEVERAL)),
        excused={"n_features": GIVEN, "draws": GIVEN},
    ),
    "SelfTrainingLoss": Reference(
        lambda p, s: pseudo_labels.self_training(
            p.logits, p.labels.tolist(), [1.0] * len(p.logits) if s.confidence is None else s.confidence, s.smoothing
        ),
        (move("smoothing", 0.3), move("confidence", torch.linspace(0.1, 0.9, SIZES["b"], dtype=torch.float64))),
    ),
    "SigmoidContrastiveLoss": Reference(
        lambda p, s: contrastive.sigmoid(scaled(p, s), s.bias, s.positive_mask, s.negative_mask),
        (
            move("temperature", 0.3),
            move("bias", -2.0),
            move("normalize", False),
            move("positive_mask", POSITIVE),
            move("negative_mask", NEGATIVE),
            move("candidate_mask", KEPT, positive=CANDIDATES, positive_mask=WANTED),
        ),
    ),
    "SimilarityEntropyLoss": Reference(
        lambda p, s: entropies.similarity_entropy(p.anchor, p.positive, s.temperature, s.normalize),
        (
            move("temperature", 0.4),
            move("normalize", False),
            move("candidate_mask", KEPT, positive=CANDIDATES),
        ),
    ),
    "SinkhornDivergenceLoss": Reference(
        sinkhorn_value,
        (move("regularisation", 0.4), move("cost", "distance")),
        excused={"iterations": SOLVED},
        rtol=1e-8,
    ),
    "SlicedWassersteinLoss": Reference(
        lambda p, s: sliced_wasserstein.sliced_wasserstein(p.source, p.target, p.projections, s.order),
        (move("order", 1),),
        excused={"n_projections": GIVEN, "draws": GIVEN},
    ),
    "SpanEntropyLoss": Reference(
        lambda p, s: entropies.span_entropy(
            p.start_logits, p.end_logits, [p.start_logits.shape[1]] * len(p.start_logits), s.normalised
        ),
        (move("normalised", False),),
    ),
    "SupervisedContrastiveLoss": Reference(
        lambda p, s: supervised_contrastive.supervised_contrastive(
            p.features, p.labels.tolist(), s.temperature, s.normalize
        ),
        (move("temperature", 0.3), move("normalize", False)),
    ),
    "TripletRankingLoss": Reference(
        lambda p, s: contrastive.triplet(
            contrastive.cosines(p.anchor, p.positive) if s.normalize else p.anchor @ p.positive.T,
            s.margin,
            s.negatives,
            s.positive_mask,
            s.negative_mask,
            symmetric=s.symmetric,
        ),
        (
            move("margin", 0.6),
            move("negatives", "semi_hard"),
            move("negatives", "all"),
            move("symmetric", False),
            move("normalize", False),
            move("positive_mask", POSITIVE),
            move("negative_mask", NEGATIVE),
            move("candidate_mask", KEPT, positive=CANDIDATES, positive_mask=WANTED),
        ),
    ),
    "VarianceCovarianceLoss": Reference(
        lambda p, s: redundancy.variance_covariance(
            p.anchor, p.positive, s.invariance, s.variance, s.covariance, s.margin, s.eps
        ),
        (
            move("invariance", 3.0),
            move("variance", 4.0, margin=2.0),
            move("covariance", 5.0),
            move("margin", 2.0),
            move("eps", 0.3, margin=2.0),
        ),
    ),
    "VirtualAdversarialLoss": Reference(lambda p, s: entropies.divergence(p.logits, p.perturbed_logits)),
    "WassersteinCriticLoss": Reference(
        lambda p, s: wasserstein_critic.wasserstein_critic(
            p.source, p.target, direction(p.source.shape[1]), s.mixing, s.penalty
        ),
        (move("penalty", 2.0), move("mixing", 1 - MIXING)),
        excused={"strength": NO_VALUE},
        given={"critic": Discriminator(), "mixing": MIXING},
    ),
    "conditional_adversarial_loss": Reference(
        lambda p, s: conditional_logits(
            p.source_logits, p.target_logits, p.source_class_logits, p.target_class_logits, s.entropy_weighting
        ),
        (move("entropy_weighting", False),),
    ),
    "domain_adversarial_loss": Reference(lambda p, s: adversarial.binary(p.source_logits, p.target_logits)),
    "multi_domain_adversarial_loss": Reference(lambda p, s: adversarial.categorical(p.logits, p.domain_index.tolist())),
}
