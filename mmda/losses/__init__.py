"""Losses: one file per loss, each with a function and a thin module around it.

Discrepancies compare two unpaired samples, ``loss(source, target)``; pair losses take matching rows,
``loss(anchor, positive)``. Both take masks and weights where the formula allows it, compute in float32 or wider and
return one scalar.
"""

from typing import Any

from mmda import kernels, layers
from mmda._core.hints import hint_calls, hint_functions, hint_settings, unknown_name
from mmda.layers.multilinear import RandomMultilinearMap, multilinear_map
from mmda.losses._protocols import Discrepancy, PairLoss
from mmda.losses.adversarial import (
    DomainAdversarialLoss,
    MultiDomainAdversarialLoss,
    domain_adversarial_loss,
    multi_domain_adversarial_loss,
)
from mmda.losses.alignment_uniformity import AlignmentUniformityLoss, alignment_uniformity_loss
from mmda.losses.approximate_mmd import BlockMMDLoss, RandomFeatureMMDLoss, block_mmd_loss, random_feature_mmd_loss
from mmda.losses.attended_contrast import AttendedContrastiveLoss, attended_contrastive_loss
from mmda.losses.central_moment import CentralMomentDiscrepancyLoss, central_moment_discrepancy_loss
from mmda.losses.class_conditional import LocalMMDLoss, local_mmd_loss
from mmda.losses.class_confusion import MinimumClassConfusionLoss, minimum_class_confusion_loss
from mmda.losses.classifier_discrepancy import ClassifierDiscrepancyLoss, classifier_discrepancy_loss
from mmda.losses.conditional_adversarial import ConditionalAdversarialLoss, conditional_adversarial_loss
from mmda.losses.contrastive_domain import ContrastiveDomainDiscrepancyLoss, contrastive_domain_discrepancy_loss
from mmda.losses.coral import CORALLoss, coral_loss
from mmda.losses.cross_correlation import CrossCorrelationLoss, cross_correlation_loss
from mmda.losses.disparity import MarginDisparityLoss, margin_disparity_loss
from mmda.losses.energy import EnergyDistanceLoss, energy_distance_loss
from mmda.losses.entropy import EntropyLoss, InformationMaximisationLoss, entropy_loss, information_maximisation_loss
from mmda.losses.feature_norm import AdaptiveFeatureNormLoss, adaptive_feature_norm_loss
from mmda.losses.frame_query import FrameQueryLoss, frame_query_loss
from mmda.losses.frechet import FrechetDistanceLoss, frechet_distance_loss
from mmda.losses.higher_order_moment import HigherOrderMomentLoss, higher_order_moment_loss
from mmda.losses.hsic import HSICLoss, hsic_loss
from mmda.losses.info_nce import InfoNCELoss, info_nce_loss
from mmda.losses.joint_mmd import JointMMDLoss, joint_mmd_loss
from mmda.losses.joint_transport import JointTransportLoss, joint_transport_loss
from mmda.losses.kernel_alignment import KernelAlignmentLoss, kernel_alignment_loss
from mmda.losses.many_domains import MultiDomainLoss, multi_domain_loss
from mmda.losses.mmd import MMDLoss, mmd_loss
from mmda.losses.moment_localization import (
    MomentLocalizationLoss,
    MomentTargets,
    moment_localization_loss,
    moment_targets,
)
from mmda.losses.multiple_instance import MultipleInstanceLoss, multiple_instance_loss
from mmda.losses.nt_xent import NTXentLoss, nt_xent_loss
from mmda.losses.nuclear_norm import BatchNuclearNormLoss, batch_nuclear_norm_loss
from mmda.losses.open_set import OpenSetLoss, open_set_loss
from mmda.losses.pair_masks import domain_negative_mask, duplicate_mask, identity_numbers
from mmda.losses.polynomial_mmd import PolynomialMMDLoss, polynomial_mmd_loss
from mmda.losses.prototypes import PrototypeContrastiveLoss, prototype_contrastive_loss
from mmda.losses.pseudo_labels import (
    PseudoLabels,
    balanced_pseudo_labels,
    centroid_pseudo_labels,
    neighbour_pseudo_labels,
)
from mmda.losses.row_weights import kernel_mean_matching, known_class_weight, partial_class_weight, partial_row_weight
from mmda.losses.self_training import SelfTrainingLoss, self_training_loss
from mmda.losses.sigmoid_contrastive import SigmoidContrastiveLoss, sigmoid_contrastive_loss
from mmda.losses.similarity_entropy import SimilarityEntropyLoss, similarity_entropy_loss
from mmda.losses.sinkhorn import SinkhornDivergenceLoss, sinkhorn_divergence_loss
from mmda.losses.sliced_wasserstein import SlicedWassersteinLoss, sliced_wasserstein_loss
from mmda.losses.soft_positives import text_similarity_weight
from mmda.losses.span_entropy import SpanEntropyLoss, span_entropy_loss
from mmda.losses.spectral_penalty import BatchSpectralPenaltyLoss, batch_spectral_penalty_loss
from mmda.losses.supervised_contrastive import SupervisedContrastiveLoss, supervised_contrastive_loss
from mmda.losses.triplet import TripletRankingLoss, triplet_ranking_loss
from mmda.losses.variance_covariance import VarianceCovarianceLoss, variance_covariance_loss
from mmda.losses.virtual_adversarial import (
    VirtualAdversarialLoss,
    virtual_adversarial_loss,
    virtual_adversarial_perturbation,
)
from mmda.losses.wasserstein_critic import WassersteinCriticLoss, gradient_penalty

__all__ = [
    "AdaptiveFeatureNormLoss",
    "AlignmentUniformityLoss",
    "AttendedContrastiveLoss",
    "BatchNuclearNormLoss",
    "BatchSpectralPenaltyLoss",
    "BlockMMDLoss",
    "CORALLoss",
    "CentralMomentDiscrepancyLoss",
    "ClassifierDiscrepancyLoss",
    "ConditionalAdversarialLoss",
    "ContrastiveDomainDiscrepancyLoss",
    "CrossCorrelationLoss",
    "Discrepancy",
    "DomainAdversarialLoss",
    "EnergyDistanceLoss",
    "EntropyLoss",
    "FrameQueryLoss",
    "FrechetDistanceLoss",
    "HSICLoss",
    "HigherOrderMomentLoss",
    "InfoNCELoss",
    "InformationMaximisationLoss",
    "JointMMDLoss",
    "JointTransportLoss",
    "KernelAlignmentLoss",
    "LocalMMDLoss",
    "MMDLoss",
    "MarginDisparityLoss",
    "MinimumClassConfusionLoss",
    "MomentLocalizationLoss",
    "MomentTargets",
    "MultiDomainAdversarialLoss",
    "MultiDomainLoss",
    "MultipleInstanceLoss",
    "NTXentLoss",
    "OpenSetLoss",
    "PairLoss",
    "PolynomialMMDLoss",
    "PrototypeContrastiveLoss",
    "PseudoLabels",
    "RandomFeatureMMDLoss",
    "RandomMultilinearMap",
    "SelfTrainingLoss",
    "SigmoidContrastiveLoss",
    "SimilarityEntropyLoss",
    "SinkhornDivergenceLoss",
    "SlicedWassersteinLoss",
    "SpanEntropyLoss",
    "SupervisedContrastiveLoss",
    "TripletRankingLoss",
    "VarianceCovarianceLoss",
    "VirtualAdversarialLoss",
    "WassersteinCriticLoss",
    "adaptive_feature_norm_loss",
    "alignment_uniformity_loss",
    "attended_contrastive_loss",
    "balanced_pseudo_labels",
    "batch_nuclear_norm_loss",
    "batch_spectral_penalty_loss",
    "block_mmd_loss",
    "central_moment_discrepancy_loss",
    "centroid_pseudo_labels",
    "classifier_discrepancy_loss",
    "conditional_adversarial_loss",
    "contrastive_domain_discrepancy_loss",
    "coral_loss",
    "cross_correlation_loss",
    "domain_adversarial_loss",
    "domain_negative_mask",
    "duplicate_mask",
    "energy_distance_loss",
    "entropy_loss",
    "frame_query_loss",
    "frechet_distance_loss",
    "gradient_penalty",
    "higher_order_moment_loss",
    "hsic_loss",
    "identity_numbers",
    "info_nce_loss",
    "information_maximisation_loss",
    "joint_mmd_loss",
    "joint_transport_loss",
    "kernel_alignment_loss",
    "kernel_mean_matching",
    "known_class_weight",
    "local_mmd_loss",
    "margin_disparity_loss",
    "minimum_class_confusion_loss",
    "mmd_loss",
    "moment_localization_loss",
    "moment_targets",
    "multi_domain_adversarial_loss",
    "multi_domain_loss",
    "multilinear_map",
    "multiple_instance_loss",
    "neighbour_pseudo_labels",
    "nt_xent_loss",
    "open_set_loss",
    "partial_class_weight",
    "partial_row_weight",
    "polynomial_mmd_loss",
    "prototype_contrastive_loss",
    "random_feature_mmd_loss",
    "self_training_loss",
    "sigmoid_contrastive_loss",
    "similarity_entropy_loss",
    "sinkhorn_divergence_loss",
    "sliced_wasserstein_loss",
    "span_entropy_loss",
    "supervised_contrastive_loss",
    "text_similarity_weight",
    "triplet_ranking_loss",
    "variance_covariance_loss",
    "virtual_adversarial_loss",
    "virtual_adversarial_perturbation",
]


def __getattr__(name: str) -> Any:
    raise unknown_name(__name__, name, (layers, kernels))


hint_settings(vars().values())
hint_calls(vars().values())
hint_functions(vars())
