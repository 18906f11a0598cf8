"""Several domains, compared with the discrepancies of selected rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from mmda.kernels import Gaussian, Laplacian
from mmda.losses import EnergyDistanceLoss, MMDLoss, MultiDomainLoss, energy_distance_loss, mmd_loss, multi_domain_loss
from tests.losses._samples import unequal_sample

INDEX = torch.tensor([0, 2, 2, 0, 1, 0, 2, 1, 0])
DISCREPANCIES = {
    "mmd": MMDLoss(),
    "unbiased mmd": MMDLoss(kernel=Gaussian(1.0), estimator="unbiased"),
    "energy": EnergyDistanceLoss(),
}


def _by_hand(rows: dict[int, Tensor], scheme: str, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if scheme == "pairwise":
        values = [loss(rows[a], rows[b]) for a, b in combinations(sorted(rows), 2)]
    elif scheme == "one_vs_rest":
        values = [loss(rows[a], torch.cat([rows[b] for b in rows if b != a])) for a in rows]
    else:  # here every domain repeats a whole number of times up to the size of the largest
        largest = max(map(len, rows.values()))
        mixture = torch.cat([r.repeat_interleave(largest // len(r), 0) for r in rows.values()])
        values = [loss(rows[a], mixture) for a in rows]
    return torch.stack(values).mean()


@pytest.mark.parametrize("name", DISCREPANCIES)
@pytest.mark.parametrize("scheme", ["pairwise", "one_vs_rest", "to_mean"])
@pytest.mark.parametrize("domains", [3, 5])
def test_equals_the_rows_picked_by_hand(name: str, scheme: str, domains: int) -> None:
    features, _ = unequal_sample()
    index = torch.tensor([0, 2, 2, 0, 4, 0, 2, 4, 0]) if domains == 5 else INDEX
    if scheme == "to_mean":  # sizes that divide the largest, and a row in no domain
        index = index.clone()
        index[1] = -1
    rows = {k: features[index == k] for k in range(domains) if (index == k).any()}
    loss = DISCREPANCIES[name]
    value = multi_domain_loss(features, index, discrepancy=loss, domains=domains, scheme=scheme)  # type: ignore[arg-type]
    torch.testing.assert_close(value, _by_hand(rows, scheme, loss), rtol=1e-8, atol=1e-12)


def test_two_domains_are_the_discrepancy_itself() -> None:
    x, y = unequal_sample()
    features, index = torch.cat([x, y]), torch.tensor([0] * 9 + [1] * 6)
    for scheme in ("pairwise", "one_vs_rest"):
        value = MultiDomainLoss(energy_distance_loss, domains=2, scheme=scheme)(features, index)  # type: ignore[arg-type]
        torch.testing.assert_close(value, energy_distance_loss(x, y))


@pytest.mark.parametrize("scheme", ["pairwise", "one_vs_rest", "to_mean"])
@pytest.mark.parametrize("only", [0, -1])
def test_one_domain_or_none_is_a_connected_zero(scheme: str, only: int) -> None:
    features = unequal_sample()[0].requires_grad_()
    index = torch.full((9,), only)
    value = multi_domain_loss(features, index, discrepancy=MMDLoss(), domains=3, scheme=scheme)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value, features)
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert torch.all(gradient.abs() < 1e-15)


def test_a_discrepancy_that_divides_by_its_weights_is_never_given_none() -> None:
    def between_means(
        source: Tensor, target: Tensor, *, source_weight: Tensor, target_weight: Tensor, **_: object
    ) -> Tensor:
        gap = source_weight @ source / source_weight.sum() - target_weight @ target / target_weight.sum()
        return gap.square().sum()

    features = unequal_sample()[0].requires_grad_()
    value = multi_domain_loss(features, INDEX, discrepancy=between_means, domains=6)  # type: ignore[arg-type]
    value.backward()
    assert features.grad is not None
    assert torch.all(torch.isfinite(features.grad))
    assert torch.all(features.grad.abs().sum(1) > 0)


@pytest.mark.parametrize("scheme", ["pairwise", "one_vs_rest", "to_mean"])
def test_sequences_masks_and_weights(scheme: str) -> None:
    frames = unequal_sample(24, 1, 2)[0].reshape(6, 4, 2)
    mask = torch.arange(4) < torch.tensor([[4], [2], [3], [1], [4], [2]])
    domain = torch.tensor([0, 1, 2, 1, 0, 2])
    weight = torch.arange(24.0).reshape(6, 4).double() % 3
    options = {"discrepancy": EnergyDistanceLoss(), "domains": 3, "scheme": scheme}
    padded = frames.masked_fill(~mask[..., None], torch.nan)
    value = multi_domain_loss(padded, domain, mask=mask, weight=weight, **options)  # type: ignore[arg-type]
    expected = multi_domain_loss(
        frames[mask],
        domain[:, None].expand(6, 4)[mask],
        weight=weight[mask],
        **options,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(value, expected)


FIXED = {
    "biased": MMDLoss(kernel=Gaussian(1.5)),
    "unbiased": MMDLoss(kernel=Laplacian(torch.tensor(1.5)), estimator="unbiased"),
    "energy": EnergyDistanceLoss(exponent=1.5, estimator="unbiased"),
}


def _several(size: int = 30) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Five domains, one with a single row and one absent; padding and rows of no domain hold arbitrary values."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(size, 3, dtype=torch.float64, generator=generator)
    index = torch.tensor([0, 1, 2, 4, 1, 0, -1, 2, 1, 1] * (size // 10))
    index[index == 4] = -1
    index[3] = 4
    mask = torch.arange(size) % 7 != 5
    weight = (torch.arange(size) % 4).double()
    weight[3] = 1
    features = features.masked_fill((~mask | (index < 0))[:, None], torch.nan)
    return features, index, weight, mask


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("scheme", ["pairwise", "one_vs_rest", "to_mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_sum_over_all_pairs_is_the_mean_of_the_comparisons(name: str, scheme: str, weighted: bool) -> None:
    """One bandwidth for all: one sum, which a hook on the discrepancy turns into a call for each comparison."""
    features, index, weight, mask = _several()
    options = {"domains": 5, "scheme": scheme, "mask": mask, "weight": weight if weighted else None}
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    found = []
    for hooked in (False, True):
        loss = FIXED[name]
        handle = loss.register_forward_pre_hook(count) if hooked else None
        rows = features.clone().requires_grad_()
        value = multi_domain_loss(rows, index, discrepancy=loss, **options)  # type: ignore[arg-type]
        found.append((value.detach(), torch.autograd.grad(value, rows)[0]))
        if handle is None:
            assert calls == 0
        else:
            handle.remove()
    assert calls == (6 if scheme == "pairwise" else 4)
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_one_sum_in_half_of_the_digits_far_from_the_origin() -> None:
    features, index, *_ = _several(60)
    features = features.nan_to_num(0.0) + 1000.0
    loss = FIXED["biased"]
    expected = multi_domain_loss(features, index, discrepancy=loss, domains=5)
    rows = features.float()
    exact = multi_domain_loss(rows.double(), index, discrepancy=loss, domains=5)
    value = multi_domain_loss(rows, index, discrepancy=loss, domains=5)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("scheme", ["pairwise", "one_vs_rest", "to_mean"])
def test_rows_that_are_chosen_and_weights_that_choose_agree(scheme: str) -> None:
    """Each comparison uses its own rows, or, under a transform that hides values, all rows with weights."""
    features, index, weight, mask = _several()
    features = features.nan_to_num(0.5)

    def value(rows: Tensor) -> Tensor:
        return multi_domain_loss(
            rows,
            index,
            discrepancy=MMDLoss(kernel=Gaussian("mean")),
            domains=5,
            scheme=scheme,  # type: ignore[arg-type]
            weight=weight,
            mask=mask,
        )

    rows = features.clone().requires_grad_()
    eager = value(rows)
    slope, transformed = torch.func.grad_and_value(value)(features)
    torch.testing.assert_close(transformed, eager.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(slope, torch.autograd.grad(eager, rows)[0], rtol=1e-9, atol=1e-14)


def test_a_discrepancy_without_weights_serves_where_every_row_counts_once() -> None:
    features, index = unequal_sample()[0], torch.tensor([0, 1, 2] * 3)
    loss = MMDLoss(kernel=Gaussian(1.0), estimator="linear")
    value = multi_domain_loss(features, index, discrepancy=loss, domains=3)
    rows = {k: features[index == k] for k in range(3)}
    torch.testing.assert_close(value, _by_hand(rows, "pairwise", loss))


def test_a_weight_keeps_its_slope() -> None:
    features, index, weight, mask = _several()
    slopes = []
    for loss in (
        MMDLoss(kernel=Gaussian(1.5)),
        lambda x, y, **options: mmd_loss(x, y, kernel=Gaussian(1.5), **options),
    ):
        counts = weight.clone().requires_grad_()
        rows = features.nan_to_num(0.5)
        value = multi_domain_loss(rows, index, discrepancy=loss, domains=5, weight=counts, mask=mask)  # type: ignore[arg-type]
        slopes.append(torch.autograd.grad(value, counts)[0])
    torch.testing.assert_close(slopes[0], slopes[1])
    assert slopes[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": 1}, "`domains` must be an integer >= 2, got 1"),
        ({"scheme": "all"}, "`scheme` must be one of 'pairwise', 'one_vs_rest', 'to_mean', got 'all'"),
        ({"discrepancy": 3}, "`discrepancy` must be callable, got int"),
        ({"domain_index": INDEX.double()}, "`domain_index` must hold integers, got torch.float64"),
        ({"domain_index": INDEX[:4]}, r"`domain_index` must have shape \(9,\), got \(4,\)"),
        ({"weight": torch.ones(4)}, r"`weight` must have shape \(9,\), got \(4,\)"),
        ({"mask": torch.ones(9)}, "`mask` must be a bool tensor"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    arguments = {"domain_index": INDEX, "discrepancy": MMDLoss(), "domains": 3, **change}
    with pytest.raises((ValueError, TypeError), match="multi_domain_loss: " + message):
        multi_domain_loss(unequal_sample()[0], **arguments)  # type: ignore[arg-type]


def test_the_discrepancy_is_a_submodule() -> None:
    loss = MultiDomainLoss(MMDLoss(), domains=3, scheme="to_mean")
    assert "discrepancy" in dict(loss.named_children())
    assert "MMDLoss" in repr(loss)
    assert "domains=3, scheme='to_mean'" in repr(loss)
