"""Contrastive domain discrepancy against the paper's sums over indicators, and its parts."""

from __future__ import annotations

import pytest
import torch

from mmda.kernels import Gaussian
from mmda.losses import ContrastiveDomainDiscrepancyLoss, contrastive_domain_discrepancy_loss, local_mmd_loss, mmd_loss
from tests.losses._samples import unequal_sample
from tests.reference.contrastive_domain import contrastive_domain_discrepancy

KERNEL = Gaussian(1.5, scales=(1.0,))
X_LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 1, 2, 2])
Y_LABELS = torch.tensor([1, 0, 2, 1, 0, 0])


@pytest.mark.parametrize(
    ("x_labels", "y_labels"),
    [
        (X_LABELS, Y_LABELS),
        (X_LABELS, torch.tensor([1, 0, 0, 1, 0, 0])),  # class 2 missing in the target
        (torch.tensor([0, 1, 0, 1, 1, 0, 1, 1, 1]), torch.tensor([3, 0, 2, 2, 0, 0])),  # classes of one side only
        (torch.tensor([0, -1, 0, 2, -1, 0, 1, 2, 2]), Y_LABELS),  # rows of no class
        (torch.zeros(9, dtype=torch.long), torch.ones(6, dtype=torch.long)),  # no class in common
        (torch.zeros(9, dtype=torch.long), torch.zeros(6, dtype=torch.long)),  # no pair of different classes
    ],
)
def test_equals_the_sums_over_indicators(x_labels: torch.Tensor, y_labels: torch.Tensor) -> None:
    x, y = unequal_sample()
    expected = contrastive_domain_discrepancy(x.numpy(), y.numpy(), x_labels.numpy(), y_labels.numpy(), 1.5)
    value = contrastive_domain_discrepancy_loss(
        x, y, source_labels=x_labels, target_probabilities=y_labels, classes=4, kernel=KERNEL
    )
    assert value.item() == pytest.approx(expected, abs=1e-13)


def test_intra_part_is_the_local_mmd() -> None:
    x, y = unequal_sample()
    labels = {"source_labels": X_LABELS, "target_probabilities": Y_LABELS, "classes": 3}
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    inter = torch.stack([mmd_loss(x[X_LABELS.eq(a)], y[Y_LABELS.eq(b)], kernel=KERNEL) for a, b in pairs]).mean()
    value = contrastive_domain_discrepancy_loss(x, y, **labels, kernel=KERNEL)
    torch.testing.assert_close(value, local_mmd_loss(x, y, **labels, kernel=KERNEL) - inter, rtol=1e-12, atol=1e-14)


def test_one_hot_probabilities_are_labels() -> None:
    x, y = unequal_sample()
    hard = contrastive_domain_discrepancy_loss(x, y, source_labels=X_LABELS, target_probabilities=Y_LABELS, classes=3)
    one_hot = torch.nn.functional.one_hot(Y_LABELS, 3).double()
    soft = contrastive_domain_discrepancy_loss(x, y, source_labels=X_LABELS, target_probabilities=one_hot)
    torch.testing.assert_close(hard, soft)


def test_a_step_downhill_joins_classes_and_parts_others() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    x = torch.randn(40, 2, generator=generator) + 2 * labels[:, None]
    y = (torch.randn(40, 2, generator=generator) + 2 * labels[:, None] + 1).requires_grad_()
    options = {"source_labels": labels, "target_probabilities": labels, "classes": 2, "kernel": Gaussian(2.0)}

    def parts(rows: torch.Tensor) -> tuple[float, float]:
        intra = local_mmd_loss(x, rows, **options).item()  # type: ignore[arg-type]
        return intra, contrastive_domain_discrepancy_loss(x, rows, **options).item()  # type: ignore[arg-type]

    (gradient,) = torch.autograd.grad(contrastive_domain_discrepancy_loss(x, y, **options), y)  # type: ignore[arg-type]
    before, after = parts(y.detach()), parts(y.detach() - 5 * gradient)
    assert after[0] < before[0]
    assert after[1] < before[1] < 0


def test_no_label_at_all_is_a_connected_zero() -> None:
    x, y = unequal_sample()
    x.requires_grad_()
    nowhere = {"source_labels": torch.full((9,), -1), "target_probabilities": torch.full((6,), -1)}
    value = contrastive_domain_discrepancy_loss(x, y, **nowhere, classes=3)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert torch.all(x.grad == 0)


def test_errors_name_the_caller() -> None:
    x, y = unequal_sample()
    with pytest.raises(ValueError, match="contrastive_domain_discrepancy_loss: `classes` must be given if"):
        contrastive_domain_discrepancy_loss(x, y, source_labels=X_LABELS, target_probabilities=Y_LABELS)
    with pytest.raises(ValueError, match="ContrastiveDomainDiscrepancyLoss: `classes` must be an integer >= 1, got 0"):
        ContrastiveDomainDiscrepancyLoss(classes=0)


def test_module_is_the_function() -> None:
    x, y = unequal_sample()
    labels = {"source_labels": X_LABELS, "target_probabilities": Y_LABELS}
    value = ContrastiveDomainDiscrepancyLoss(kernel=KERNEL, classes=3)(x, y, **labels)
    assert value == contrastive_domain_discrepancy_loss(x, y, **labels, kernel=KERNEL, classes=3)
