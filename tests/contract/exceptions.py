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
ADVERSARIAL = ("DomainAdversarialLoss", "MultiDomainAdversarialLoss")
NETWORKS = ("DomainDiscriminator",)

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
        ),
        "the linear estimator pairs neighbouring rows, so a row cannot be left out or counted twice",
        ValueError,
        "`estimator` must be 'biased' or 'unbiased' with weights or masks",
    ),
    Excuse(LINEAR, ("order",), "the linear estimator pairs neighbouring rows"),
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
        ("DomainAdversarialLoss",),
        ("symmetric",),
        "the discriminator has learned which domain is which; a fresh one learns the other order as well",
    ),
    Excuse(
        ("DomainAdversarialLoss",),
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
        NETWORKS,
        ("cpu_autocast", "cuda_autocast"),
        "a network follows autocast, as torch.nn.Linear does; the losses switch it off inside",
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
        ("gradcheck",),
        "the weights of certainty carry no gradient, as in the authors' code, and a finite difference moves them",
        Exception,
        "Jacobian mismatch",
    ),
)


def excuse_for(case: Case, condition: str) -> Excuse | None:
    return next((excuse for excuse in EXCUSES if excuse.covers(case, condition)), None)
