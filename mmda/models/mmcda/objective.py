"""The objective of MMCDA on one screen: a list of terms, each of one domain or of both, summed by role."""

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

    with the weights :math:`w_r` of the terms and the strength :math:`\lambda` of the call. The default list is that of
    :func:`default_terms`; replace a term by passing another list, add one by appending it.

    Args:
        terms: the list; else it is built from the other arguments, which :func:`default_terms` documents.
        weights: of the default terms by role; a role that is absent is off.
        video_discrepancy: of the default terms.
        query_discrepancy: of the default terms.
        joint_discrepancy: of the default terms.
        temperature: of the default terms.
        frames: of the default terms.

    Raises:
        ValueError: two terms of one role, terms beside ``weights``; what :func:`default_terms` refuses.
        TypeError: a discrepancy that cannot be called.

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
            fail("MMCDAObjective", "weights", "be left out where `terms` are given, which have their own", weights)
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
            fail("MMCDAObjective", "terms", "have a role each", f"several of {twice}")
        self.terms = tuple(term for term in terms if term.weight > 0)
        #: what the terms are made of: their parameters are trained with the model's
        self.parts = nn.ModuleDict(
            {term.role: term.compute for term in self.terms if isinstance(term.compute, nn.Module)}
        )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term by role."""
        return {term.role: term.weight for term in self.terms}

    @property
    def needs_target(self) -> bool:
        """Whether any term reads the target."""
        return any(term.side != "source" for term in self.terms)

    def forward(
        self,
        source: MMCDAOutput,
        source_batch: VMRBatch,
        target: MMCDAOutput | None = None,
        target_batch: VMRBatch | None = None,
        *,
        strength: float = 1.0,
    ) -> Objective:
        """Total and raw terms. ``strength`` scales the terms that read the target, whose windows no term is shown.

        Raises:
            ValueError: the source carries no moments, or a term needs a target that is missing.
        """
        if source_batch.windows is None or source_batch.window_mask is None:
            fail("MMCDAObjective", "source_batch", "carry windows", "none")
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
