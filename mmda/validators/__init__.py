"""Model selection without target labels: each function returns one score of a checkpoint, from its outputs.

Names indicate the direction. A ``*_score``, ``*_density``, ``*_accuracy`` or ``*_recall`` is better when **higher**; a
``*_risk``, ``*_loss``, ``*_entropy`` or ``*_constancy`` when **lower**.

==========================================  ============  ====================================================
function                                    better when   needs
==========================================  ============  ====================================================
:func:`soft_neighbourhood_density`          higher        target predictions (or features)
:func:`entropy_score`                       higher        target logits
:func:`information_maximisation_score`      higher        target logits
:func:`nuclear_norm_score`                  higher        target logits
:func:`matrix_norm_score`                   higher        target logits
:func:`mixed_sample_accuracy`               higher        the classifier and target samples
:func:`round_trip_accuracy`                 higher        features of both domains, source labels
:func:`mmd_score`                           higher        features of both domains
:func:`importance_weighted_risk`            lower         losses on held-out source rows, their density ratios
:func:`deep_embedded_validation_risk`       lower         features of both domains, losses on held-out source rows
:func:`pair_retrieval_recall`               higher        features of held-out target pairs
:func:`held_out_pair_loss`                  lower         features of held-out target pairs
:func:`span_entropy`                        lower         start and end logits on the target
:func:`span_constancy`                      lower         decoded spans on the target: detects collapse only
==========================================  ============  ====================================================

:func:`density_ratio` is not a score: it estimates the weights for :func:`importance_weighted_risk`.

None of them is reliable everywhere: a model can be confidently wrong, and a collapsed model is confident. Compare two
scores of different kinds, and also check :func:`span_constancy`. Results have no gradient, and no target labels are
used.
"""

from __future__ import annotations

from mmda.validators.classifiers import (
    entropy_score,
    information_maximisation_score,
    matrix_norm_score,
    mixed_sample_accuracy,
    nuclear_norm_score,
    soft_neighbourhood_density,
)
from mmda.validators.domains import (
    deep_embedded_validation_risk,
    density_ratio,
    importance_weighted_risk,
    mmd_score,
    round_trip_accuracy,
)
from mmda.validators.grounding import span_constancy, span_entropy
from mmda.validators.retrieval import held_out_pair_loss, pair_retrieval_recall

__all__ = [
    "deep_embedded_validation_risk",
    "density_ratio",
    "entropy_score",
    "held_out_pair_loss",
    "importance_weighted_risk",
    "information_maximisation_score",
    "matrix_norm_score",
    "mixed_sample_accuracy",
    "mmd_score",
    "nuclear_norm_score",
    "pair_retrieval_recall",
    "round_trip_accuracy",
    "soft_neighbourhood_density",
    "span_constancy",
    "span_entropy",
]
