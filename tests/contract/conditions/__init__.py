"""The conditions of the grid: functions ``check_<condition>(case)`` that raise if the condition does not hold.

Used by the contract tests and the mutation tests. Whether a condition applies to a case follows from the call's
signature; if it applies but cannot hold, the entry in :mod:`tests.contract.entries` gives the reason.

Identities are checked in float64 (tolerance 1e-9), where rounding is negligible. One module per family.
"""

from __future__ import annotations

from tests.contract.conditions import contents, derivatives, errors, graphs, laws, objects, precision, purity, weights
from tests.contract.conditions._shared import DOUBLE, REGISTER, Condition

#: In the order of the documentation page.
FAMILIES = (contents, precision, weights, derivatives, graphs, objects, purity, laws, errors)

CONDITIONS: dict[str, Condition] = {
    name: found for family in FAMILIES for name, found in REGISTER.items() if found.check.__module__ == family.__name__
}

__all__ = ["CONDITIONS", "DOUBLE", "FAMILIES", "Condition"]
