"""Where a condition of the grid cannot hold, and why: the only place that excuses a case from one.

An entry names cases (a pattern of :mod:`fnmatch`, or several), the conditions, and the reason that the docs print.
With ``raises`` the suite asserts this error and its text; without, it asserts that the condition really fails, so an
entry that has become needless fails the suite.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

from tests.contract.cases import Case


@dataclasses.dataclass(frozen=True)
class Excuse:
    cases: tuple[str, ...]
    conditions: tuple[str, ...]
    reason: str
    raises: type[Exception] | None = None
    match: str = ""

    def covers(self, case: Case, condition: str) -> bool:
        return condition in self.conditions and any(fnmatchcase(case.name, escape(p)) for p in self.cases)


def escape(pattern: str) -> str:
    return pattern.replace("[", "[[]")


UNBIASED = ("MMDLoss(estimator='unbiased')",)
LINEAR = ("MMDLoss(estimator='linear')",)
ADVERSARIAL = ("DomainAdversarialLoss", "ConditionalAdversarialLoss*", "MultiDomainAdversarialLoss")
CLASS_CONDITIONAL = ("LocalMMDLoss", "ContrastiveDomainDiscrepancyLoss")
BATCH_NORM = tuple(f"DomainSpecificBatchNorm{n}d" for n in (1, 2, 3))
NETWORKS = ("DomainDiscriminator",)
#: Losses whose slope on a weight of exactly 0 is not the one-sided one.
LEAVES_OUT = (
    "AlignmentUniformityLoss",
    "AttendedContrastiveLoss",
    "BatchNuclearNormLoss",
    "FrameQueryLoss",
    "InfoNCELoss*",
    "InformationMaximisationLoss",
    "JointTransportLoss",
    "MinimumClassConfusionLoss",
    "MomentLocalizationLoss",
    "MultipleInstanceLoss",
    "NTXentLoss",
    "SigmoidContrastiveLoss",
    "SimilarityEntropyLoss",
    "SinkhornDivergenceLoss",
    "SupervisedContrastiveLoss",
    "TripletRankingLoss",
)

EXCUSES: tuple[Excuse, ...] = (
    Excuse(
        UNBIASED,
        ("one_row",),
        "the U-statistic has no pair to average over",
        ValueError,
        "`source` must have at least 2 samples for estimator='unbiased'",
    ),
    Excuse(
        LINEAR,
        ("one_row",),
        "the linear estimator has no pair to average over",
        ValueError,
        "`source` must have at least 2 samples for estimator='linear'",
    ),
    Excuse(
        LINEAR,
        ("unequal_batches",),
        "the linear estimator pairs the rows of source and target",
        ValueError,
        "`target` must have the shape of `source`",
    ),
    Excuse(
        LINEAR,
        (
            "masked_is_unpadded",
            "inert_padding",
            "batch_time",
            "all_masked",
            "weight_one",
            "weight_two",
            "weight_zero",
            "weight_zero_nan",
        ),
        "the linear estimator pairs neighbouring rows, so a row cannot be left out or counted twice",
        ValueError,
        "`estimator` must be 'biased' or 'unbiased' with weights or masks",
    ),
    Excuse(
        ("BlockMMDLoss", "RandomFeatureMMDLoss"),
        ("one_row",),
        "an unbiased estimator has no pair to average over",
        ValueError,
        "`source` must have at least 2 samples",
    ),
    Excuse(
        ("BlockMMDLoss",),
        ("masked_is_unpadded", "inert_padding", "batch_time", "all_masked"),
        "leaving a row out moves the rows after it into other blocks",
        AssertionError,
        "takes no mask",
    ),
    Excuse(
        ("BlockMMDLoss",),
        ("weight_one", "weight_two", "weight_zero", "weight_zero_nan", "slope_at_weight_zero"),
        "counting a row twice moves the rows after it into other blocks",
        AssertionError,
        "takes no weight",
    ),
    Excuse(
        LINEAR,
        ("slope_at_weight_zero",),
        "the linear estimator takes no weights",
        ValueError,
        "`estimator` must be 'biased' or 'unbiased' with weights or masks",
    ),
    Excuse(
        LEAVES_OUT,
        ("slope_at_weight_zero",),
        "a row of weight 0 is left out before the sums are made, and what its weight would add is not seen",
        AssertionError,
        "slope on `(source_)?weight` at 0",
    ),
    Excuse(LINEAR, ("order",), "the linear estimator pairs neighbouring rows"),
    Excuse(
        ("BlockMMDLoss", "RandomFeatureMMDLoss"),
        ("one_row",),
        "the U-statistic has no pair to average over",
        ValueError,
        "`source` must have at least 2 samples",
    ),
    Excuse(
        ("BlockMMDLoss",),
        ("masked_is_unpadded", "inert_padding", "all_masked", "weight_one", "weight_two", "weight_zero"),
        "an estimate over blocks of neighbouring rows takes no masks and no weights",
        AssertionError,
        "takes no (mask|weight)",
    ),
    Excuse(
        ("CORALLoss*",),
        ("one_row",),
        "a covariance with 1 / (n - 1) needs two rows",
        ValueError,
        "`source` must have at least 2 samples",
    ),
    Excuse(
        ADVERSARIAL,
        ("module_is_function",),
        "the function takes logits, the module asks its discriminator for them",
        AssertionError,
        "discriminator",
    ),
    Excuse(
        ("InfoNCELoss(temperature=LearnableTemperature())",),
        ("module_is_function",),
        "the module asks its learnable temperature for the number that the function takes",
        TypeError,
        "`temperature` must be a finite number",
    ),
    Excuse(
        CLASS_CONDITIONAL,
        ("symmetric",),
        "the source brings labels and the target probabilities: the sides take different arguments",
        AssertionError,
        "do not take the same arguments",
    ),
    Excuse(
        ("HigherOrderMomentLoss",),
        ("translation",),
        "moments about the origin, as in the paper, see where the origin is",
    ),
    Excuse(
        ("BatchSpectralPenaltyLoss", "PolynomialMMDLoss"),
        ("translation",),
        "singular values and inner products of the rows as they are, as in the paper, see where the origin is",
    ),
    Excuse(
        ("PolynomialMMDLoss",),
        ("one_row",),
        "the U-statistic has no pair to average over",
        ValueError,
        "`source` must have at least 2 samples for estimator='unbiased'",
    ),
    Excuse(
        ("JointTransportLoss",),
        ("symmetric",),
        "the source brings labels and the target predictions",
    ),
    Excuse(
        ("SimilarityEntropyLoss",),
        ("symmetric",),
        "each anchor chooses among the candidates, and not the other way round",
    ),
    Excuse(
        ("WassersteinCriticLoss",),
        ("symmetric",),
        "the critic has learned which domain is which; a fresh one learns the other order as well",
    ),
    Excuse(
        ("WassersteinCriticLoss",),
        ("translation",),
        "the critic is a network on the features as they are",
    ),
    Excuse(
        ("WassersteinCriticLoss",),
        ("export",),
        "the slopes of the critic are taken inside, which torch.export does not trace; torch.compile does",
    ),
    Excuse(
        ("WassersteinCriticLoss",),
        ("module_is_function",),
        "the loss asks its critic at points of its own; gradient_penalty is the function inside",
        AssertionError,
        "no exported function belongs to WassersteinCriticLoss",
    ),
    Excuse(
        ("WassersteinCriticLoss",),
        ("order", "weight_two"),
        "points between the domains pair their rows in turn",
    ),
    Excuse(
        ("CrossCorrelationLoss",),
        ("scale",),
        "the variances' eps, that of the paper's batch normalisation, has the features' scale",
    ),
    Excuse(
        ("VarianceCovarianceLoss",),
        ("scale",),
        "asks for a standard deviation of the margin",
    ),
    Excuse(
        ("PrototypeContrastiveLoss",),
        ("translation",),
        "compares directions of prototypes from the origin",
    ),
    Excuse(
        ADVERSARIAL[:2],
        ("symmetric",),
        "the discriminator has learned which domain is which; a fresh one learns the other order as well",
    ),
    Excuse(
        ADVERSARIAL[:2],
        ("translation",),
        "the discriminator is a network on the features as they are",
    ),
    Excuse(
        NETWORKS,
        ("bfloat16", "float16"),
        "a network runs in the dtype of its parameters, as torch.nn.Linear does; the losses cast for it",
        RuntimeError,
        "same dtype",
    ),
    Excuse(
        (*NETWORKS, "RandomMultilinearMap"),
        ("cpu_autocast", "cuda_autocast"),
        "a matrix product of a network follows autocast, as torch.nn.Linear does; the losses switch it off inside",
        AssertionError,
        "came back as torch.(bfloat16|float16)",
    ),
    Excuse(
        NETWORKS,
        ("repr",),
        "the layers inside are printed instead of the widths that made them",
        AssertionError,
        "repr hides `domains`",
    ),
    Excuse(
        ("DomainSpecificBatchNorm1d*",),
        ("one_row",),
        "one row has no variance to normalise by in training",
        ValueError,
        "`x` must hold more than one value a channel in training",
    ),
    Excuse(
        BATCH_NORM,
        ("state_unchanged",),
        "running statistics are state that training updates, as in torch.nn.BatchNorm1d",
        AssertionError,
        "`running_mean` changed",
    ),
    Excuse(
        BATCH_NORM,
        ("func_grad", "vmap", "jvp"),
        "running statistics cannot be updated under a function transform, as in torch.nn.BatchNorm1d; "
        "track_running_stats=False and evaluation can",
        RuntimeError,
        "in-place operation|inplace arithmetic",
    ),
    Excuse(
        ("AdaptiveFeatureNormLoss",),
        ("repr",),
        "prints the step or the radius, whichever the variant uses",
        AssertionError,
        "repr hides `radius`",
    ),
    Excuse(
        ("MarginDisparityLoss",),
        ("reaches_inputs",),
        "the classifier's logits enter by their arg max, which has no gradient; the adversary's logits get theirs",
        AssertionError,
        "no gradient reaches `source_logits`",
    ),
    Excuse(
        ("MinimumClassConfusionLoss",),
        ("gradcheck", "gradgradcheck"),
        "the weights of certainty carry no gradient, as in the authors' code, and a finite difference moves them",
        Exception,
        "Jacobian mismatch",
    ),
)


def excuse_for(case: Case, condition: str) -> Excuse | None:
    return next((excuse for excuse in EXCUSES if excuse.covers(case, condition)), None)
