"""The conditions of the grid: plain functions ``check_<condition>(case)`` that raise when the promise is broken.

Both the contract tests and the mutation tests call them. A condition knows from the call's signature whether it
speaks of this case at all; where it does and cannot hold, its entry in :mod:`tests.contract.entries` says why.

Identities are checked in float64 (tolerance 1e-9), where nothing but a mistake separates the two sides.
One module a family.
"""

from __future__ import annotations

from tests.contract.conditions import contents, derivatives, errors, graphs, laws, objects, precision, purity, weights
from tests.contract.conditions._shared import DOUBLE, REGISTER, Condition

#: In the order of the page.
FAMILIES = (contents, precision, weights, derivatives, graphs, objects, purity, laws, errors)

CONDITIONS: dict[str, Condition] = {
    name: found for family in FAMILIES for name, found in REGISTER.items() if found.check.__module__ == family.__name__
}

__all__ = ["CONDITIONS", "DOUBLE", "FAMILIES", "Condition"]
