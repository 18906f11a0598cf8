"""The rows of a table: the modules in training, and the domain whose moments are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmda.kernels import Gaussian
from mmda.layers import DomainDiscriminator
from mmda.losses import (
    CORALLoss,
    Discrepancy,
    DomainAdversarialLoss,
    EnergyDistanceLoss,
    MMDLoss,
    SlicedWassersteinLoss,
)
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.terms import DEFAULT_WEIGHTS, ROLES

SOURCE_ONLY, CONTROL, CEILING = "source-only", "source-only + source terms", "target-supervised"
FULL = "full: (i) + (ii) + (iii)"
ALIGNMENTS = ("mmd", "coral", "energy", "sliced", "adversarial")


@dataclass(frozen=True)
class Row:
    """One trained row of the table.

    Args:
        name: name in the table.
        modules: keys of :data:`mmda.models.mmcda.ROLES` to train.
        train_on: domain whose moments are used: ``"source"``, ``"target"`` or ``"both"``.
        shuffled: pair the target's videos with queries of other videos (a control).
    """

    name: str
    modules: tuple[str, ...]
    train_on: str = "source"
    shuffled: bool = False

    @property
    def uses_pairs(self) -> bool:
        """Whether the pairing of queries and videos of the target is used."""
        return bool({"cross_modal", "specific"} & set(self.modules))

    def weights(self, pair_weight: float, form: str = "towers") -> dict[str, float]:
        """Weights of the trained roles; (ii) and (iii) add their own term on the source.

        ``pair_weight`` is the weight of the terms on the target's pairs. A linear form has no localizer or encoder: the
        roles that train them are left out, and (i) and the source moments enter through its closed form.
        """
        on = [role for module in self.modules for role in ROLES[module]]
        on += ["cross_modal_source"] if "cross_modal" in self.modules else []
        on += ["frame_query"] if "specific" in self.modules else []
        pairs = (*ROLES["cross_modal"], *ROLES["specific"])
        if form == "linear":
            on = [role for role in on if role in _LINEAR]
        return {role: pair_weight if role in pairs else DEFAULT_WEIGHTS[role] for role in on}


#: Roles that train a linear form.
_LINEAR = ("frame_query", "cross_modal_source", "cross_modal", "frame_query_target")

_LABELS = ("supervised", "source")
_EVERY = ("supervised", "domain", "cross_modal", "specific")

#: The rows on simulated worlds, on real data, and with each module left out.
ROWS = (
    Row(SOURCE_ONLY, ("supervised",)),
    Row("(i) domain alignment", ("supervised", "domain")),
    Row("(ii) cross-modal alignment", ("supervised", "cross_modal")),
    Row("(iii) specific alignment", ("supervised", "specific")),
    Row(FULL, _EVERY),
    Row(CEILING, _LABELS, train_on="target"),
)
REAL_ROWS = (*ROWS[:1], Row(CONTROL, _LABELS), *ROWS[1:])
ABLATION = (
    *REAL_ROWS[:6],
    Row("full without (i)", ("supervised", "cross_modal", "specific")),
    Row("full without (ii)", ("supervised", "domain", "specific")),
    Row("full without (iii)", ("supervised", "domain", "cross_modal")),
    Row("full, target pairs shuffled", _EVERY, shuffled=True),
    *ROWS[5:],
    Row("source + target supervised", _LABELS, train_on="both"),
)

#: Rows that differ from others only by training: the terms on the source.
TRAINED_ONLY = (CONTROL,)


def chosen_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows with these names or prefixes, in the order of the table."""
    chosen = set()
    for name in names:
        found = [row for row in ABLATION if row.name == name] or [
            row for row in ABLATION if name and row.name.startswith(name)
        ]
        if not found:
            known = ", ".join(repr(row.name) for row in ABLATION)
            raise UnusableError(f"--rows {name!r}: must be a row, or the beginning of one, of {known}")
        chosen |= {row.name for row in found}
    return tuple(row for row in ABLATION if row.name in chosen)


def alignment_of(name: str, width: int) -> Discrepancy:
    """The domain alignment by name. The parameters of an adversary are trained by the same optimiser.

    Args:
        name: one of ``ALIGNMENTS``.
        width: number of features to align.

    Returns:
        The module.

    Example:
        >>> alignment_of("coral", 64)
        CORALLoss(match_mean=False)
    """
    if name == "coral":
        return CORALLoss()
    if name == "energy":
        return EnergyDistanceLoss()
    if name == "sliced":
        return SlicedWassersteinLoss(n_projections=64)
    if name == "adversarial":
        return DomainAdversarialLoss(DomainDiscriminator(width, hidden=(32,)))
    return MMDLoss(kernel=Gaussian("mean"), estimator="unbiased")
