"""The objective of MMCDA: a weighted sum of terms on one or both domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmda._core.checks import fail
from mmda.losses import Discrepancy
from mmda.models.mmcda.model import MMCDAOutput
from mmda.models.mmcda.terms import Term, View, default_terms
from mmda.objectives import Objective, weighted_sum
from mmda.vmr.batch import VMRBatch


class MMCDAObjective(nn.Module):
    r"""Weighted sum of the terms of a source and a target batch.

    .. math:: L = \sum_{r \in \text{source}} w_r L_r + \lambda \sum_{r \in \text{target, both}} w_r L_r

    with the weights :math:`w_r` of the terms and the strength :math:`\lambda` passed in the call. The default list is
    :func:`default_terms`; pass another list to replace or add terms.

    Args:
        terms: the terms; by default built from the other arguments, which are documented in :func:`default_terms`.
        weights: weights of the default terms by role; missing roles are off.
        video_discrepancy: passed to :func:`default_terms`.
        query_discrepancy: passed to :func:`default_terms`.
        joint_discrepancy: passed to :func:`default_terms`.
        temperature: passed to :func:`default_terms`.
        frames: passed to :func:`default_terms`.

    Raises:
        ValueError: two terms of the same role, both ``terms`` and ``weights``; as in :func:`default_terms`.
        TypeError: a discrepancy that is not callable.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, Term, build_mmcda, default_terms
        >>> from mmda.vmr import World, simulate
        >>> draw = simulate(World(videos=8, test_videos=1))
        >>> source, target = draw.source_train, draw.target_train.without_moments()
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8))
        >>> own = Term("size", "target", 0.1, lambda target: target.output.frames.square().mean())
        >>> objective = MMCDAObjective(terms=[*default_terms({"moment": 1.0, "domain_query": 0.5}), own])
        >>> sorted(objective(model(source), source, model(target), target).terms)
        ['domain_query', 'moment', 'size']
    """

    def __init__(
        self,
        *,
        terms: Sequence[Term] | None = None,
        weights: Mapping[str, float] | None = None,
        video_discrepancy: Discrepancy | None = None,
        query_discrepancy: Discrepancy | None = None,
        joint_discrepancy: Discrepancy | None = None,
        temperature: float = 0.1,
        frames: int = 256,
    ) -> None:
        super().__init__()
        if terms is not None and weights is not None:
            fail("MMCDAObjective", "weights", "be left out if `terms` are given, which have their own", weights)
        if terms is None:
            terms = default_terms(
                weights,
                video_discrepancy=video_discrepancy,
                query_discrepancy=query_discrepancy,
                joint_discrepancy=joint_discrepancy,
                temperature=temperature,
                frames=frames,
            )
        roles = [term.role for term in terms]
        if len(set(roles)) < len(roles):
            twice = sorted({role for role in roles if roles.count(role) > 1})
            fail("MMCDAObjective", "terms", "have different roles", f"several of {twice}")
        self.terms = tuple(term for term in terms if term.weight > 0)
        #: modules of the terms, whose parameters are trained with the model's
        self.parts = nn.ModuleDict(
            {term.role: term.compute for term in self.terms if isinstance(term.compute, nn.Module)}
        )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term by role."""
        return {term.role: term.weight for term in self.terms}

    @property
    def needs_target(self) -> bool:
        """Whether any term uses the target."""
        return any(term.side != "source" for term in self.terms)

    @property
    def needs_target_logits(self) -> bool:
        """Whether any term uses the localizer's logits of the target."""
        return any(term.side != "source" and term.logits for term in self.terms)

    def forward(
        self,
        source: MMCDAOutput,
        source_batch: VMRBatch,
        target: MMCDAOutput | None = None,
        target_batch: VMRBatch | None = None,
        *,
        strength: float = 1.0,
    ) -> Objective:
        """Total and unweighted terms. ``strength`` scales the terms that use the target; its windows are hidden from
        them.

        Raises:
            ValueError: the source has no moments, or a term needs a missing target.
        """
        if source_batch.windows is None or source_batch.window_mask is None:
            fail("MMCDAObjective", "source_batch", "have windows", "none")
        reading = sorted(term.role for term in self.terms if term.side != "source")
        if reading and (target is None or target_batch is None):
            fail("MMCDAObjective", "target", f"be given for {reading}", "none")
        views: dict[str, tuple[View, ...]] = {"source": (View(source, source_batch),)}
        if target is not None and target_batch is not None:
            views["target"] = (View(target, target_batch.without_moments()),)
            views["both"] = views["source"] + views["target"]
        values: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for term in self.terms:
            values[term.role] = term.compute(*views[term.side])
            weights[term.role] = term.weight * (1.0 if term.side == "source" else strength)
        return weighted_sum(values, weights)

    if TYPE_CHECKING:
        __call__ = forward
