"""``mmda/losses/many_domains.py`` in the contract suite."""

from __future__ import annotations

from types import SimpleNamespace

from mmda.losses import MMDLoss, MultiDomainLoss
from tests.contract.entry import Entry, Reference, Variant, move
from tests.contract.pieces import SINGLE
from tests.contract.vocabulary import FIXED
from tests.reference import many_domains, mmd


def many_domains_value(p: SimpleNamespace, s: SimpleNamespace) -> float:
    between = mmd.gaussian(1.5)
    return many_domains.many_domains(
        p.features, p.domain_index.tolist(), s.scheme, lambda a, b: mmd.biased(between, a, b)
    )


ENTRIES = (
    Entry(
        "MultiDomainLoss",
        build=lambda d: MultiDomainLoss(MMDLoss(), domains=3),
        settled=lambda d: MultiDomainLoss(MMDLoss(kernel=FIXED), domains=3),
        variants=(
            Variant(
                "scheme='one_vs_rest'",
                lambda d: MultiDomainLoss(MMDLoss(), domains=3, scheme="one_vs_rest"),
                settled=lambda d: MultiDomainLoss(MMDLoss(kernel=FIXED), domains=3, scheme="one_vs_rest"),
            ),
            Variant(
                "scheme='to_mean'",
                lambda d: MultiDomainLoss(MMDLoss(), domains=3, scheme="to_mean"),
                settled=lambda d: MultiDomainLoss(MMDLoss(kernel=FIXED), domains=3, scheme="to_mean"),
            ),
        ),
        reference=Reference(
            many_domains_value,
            (move("scheme", "one_vs_rest"), move("scheme", "to_mean")),
            excused={"domains": "more domains than occur add nothing, fewer are another batch"},
            given={"discrepancy": MMDLoss(kernel=SINGLE), "domains": 3},
            sizes={"b": 7},
        ),
        no_digits="three domains: with two it is its discrepancy",
    ),
)
