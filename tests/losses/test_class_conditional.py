"""Local MMD against loops over classes and pairs, and its limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda.kernels import Gaussian
from mmda.losses import LocalMMDLoss, contrastive_domain_discrepancy_loss, local_mmd_loss, mmd_loss
from tests.losses._samples import unequal_sample
from tests.reference.class_conditional import local_mmd

KERNEL = Gaussian(1.5, scales=(1.0,))
X_LABELS = torch.tensor([0, 1, 0, 3, 1, 0, 1, 3, 3])
Y_LABELS = torch.tensor([1, 0, 2, 1, 0, 0])


def _one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 4).double()


def test_hard_labels_equal_the_loop_and_skip_classes_of_one_side() -> None:
    x, y = unequal_sample()
    expected = local_mmd(x.numpy(), y.numpy(), _one_hot(X_LABELS).numpy(), _one_hot(Y_LABELS).numpy(), 1.5)
    value = local_mmd_loss(x, y, source_labels=X_LABELS, target_probabilities=Y_LABELS, classes=4, kernel=KERNEL)
    assert value.item() == pytest.approx(expected, abs=1e-13)
    # and that is the mean of the MMDs of classes 0 and 1, the only ones on both sides
    each = [mmd_loss(x[X_LABELS.eq(c)], y[Y_LABELS.eq(c)], kernel=KERNEL) for c in (0, 1)]
    torch.testing.assert_close(value, torch.stack(each).mean(), rtol=1e-12, atol=1e-14)


def test_soft_memberships_equal_the_loop() -> None:
    x, y = unequal_sample()
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(4), len(x)), rng.dirichlet(np.ones(4), len(y))
    value = local_mmd_loss(
        x, y, source_labels=torch.from_numpy(p), target_probabilities=torch.from_numpy(q), kernel=KERNEL
    )
    assert value.item() == pytest.approx(local_mmd(x.numpy(), y.numpy(), p, q, 1.5), abs=1e-13)


def test_one_class_is_the_mmd() -> None:
    x, y = unequal_sample()
    labels = {"source_labels": torch.zeros(len(x), dtype=torch.long), "target_probabilities": torch.ones(len(y), 1)}
    torch.testing.assert_close(local_mmd_loss(x, y, **labels), mmd_loss(x, y), rtol=1e-12, atol=1e-14)


def test_weights_are_counts_inside_the_classes() -> None:
    x, y = unequal_sample()
    weight = torch.tensor([2.0, 1, 1, 1, 0, 1, 3, 1, 1], dtype=torch.float64)
    times = weight.long()
    options = {"target_probabilities": Y_LABELS, "classes": 4}
    weighted = local_mmd_loss(x, y, source_labels=X_LABELS, source_weight=weight, **options)
    repeated = local_mmd_loss(
        x.repeat_interleave(times, 0), y, source_labels=X_LABELS.repeat_interleave(times), **options
    )
    torch.testing.assert_close(weighted, repeated)


def test_padding_may_hold_anything_in_labels_too() -> None:
    x, y = unequal_sample()
    q = torch.softmax(torch.arange(24.0, dtype=torch.float64).reshape(6, 4).cos(), 1)
    keep = torch.tensor([True, True, True, False, True, False])
    y_padded = y.masked_fill(~keep[:, None], torch.inf).requires_grad_()
    q_padded = q.masked_fill(~keep[:, None], torch.nan)
    value = local_mmd_loss(x, y_padded, source_labels=X_LABELS, target_probabilities=q_padded, target_mask=keep)
    expected = local_mmd_loss(x, y[keep], source_labels=X_LABELS, target_probabilities=q[keep])
    torch.testing.assert_close(value, expected)
    value.backward()
    assert y_padded.grad is not None
    assert torch.all(y_padded.grad[~keep] == 0)
    assert torch.all(y_padded.grad[keep].abs().sum(1) > 0)


def test_no_common_class_is_a_connected_zero() -> None:
    x, y = unequal_sample()
    x.requires_grad_()
    ones, outside = torch.ones(len(x), dtype=torch.long), torch.full((len(y),), -1)
    value = local_mmd_loss(x, y, source_labels=ones, target_probabilities=outside, classes=2)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert torch.all(x.grad == 0)


def test_no_gradient_into_the_probabilities() -> None:
    x, y = unequal_sample()
    logits = torch.zeros(len(y), 4, dtype=torch.float64, requires_grad=True)
    value = local_mmd_loss(x.requires_grad_(), y, source_labels=X_LABELS, target_probabilities=logits.softmax(1))
    assert torch.autograd.grad(value, [x, logits], allow_unused=True)[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target_probabilities": Y_LABELS},
            "`classes` must be given if `source_labels` and",
        ),
        (
            {"source_labels": torch.ones(9, 3)},
            r"`target_probabilities` must have 3 columns, one per class, got \(6, 4\)",
        ),
        ({"classes": 5}, r"`target_probabilities` must have 5 columns, one per class, got \(6, 4\)"),
        ({"source_labels": X_LABELS[:4]}, r"`source_labels` must have shape \(9,\) as integer labels, got \(4,\)"),
        ({"source_labels": X_LABELS > 0}, r"`source_labels` must hold integers or probabilities, got torch.bool"),
        ({"target_probabilities": torch.ones(5, 4)}, r"must have shape \(6, 4\) as probabilities, got \(5, 4\)"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    x, y = unequal_sample()
    arguments = {"source_labels": X_LABELS, "target_probabilities": torch.ones(6, 4), **change}
    with pytest.raises((ValueError, TypeError), match="local_mmd_loss: .*" + message):
        local_mmd_loss(x, y, **arguments)  # type: ignore[arg-type]


def test_module_is_the_function() -> None:
    x, y = unequal_sample()
    labels = {"source_labels": X_LABELS, "target_probabilities": Y_LABELS}
    value = LocalMMDLoss(kernel=KERNEL, classes=4)(x, y, **labels)
    assert value == local_mmd_loss(x, y, **labels, kernel=KERNEL, classes=4)


@pytest.mark.parametrize("form", ["-1", "beyond the classes", "shares of zero"])
@pytest.mark.parametrize("heuristic", ["median", "mean"])
@pytest.mark.parametrize("loss", [local_mmd_loss, contrastive_domain_discrepancy_loss])
def test_rows_of_no_class_do_not_move_the_bandwidth(loss: Callable[..., Tensor], heuristic: str, form: str) -> None:
    x, y = unequal_sample()
    labels, others = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 2, 0, 1, 2])
    kernel = Gaussian(heuristic)  # type: ignore[arg-type]
    expected = loss(x, y, source_labels=labels, target_probabilities=others, classes=3, kernel=kernel)
    more = torch.cat([x, 20 * x[:4]])
    nowhere = torch.cat([labels, torch.full((4,), -1 if form == "-1" else 7)])
    given = (nowhere.unsqueeze(1) == torch.arange(3)).double() if form == "shares of zero" else nowhere
    found = loss(more, y, source_labels=given, target_probabilities=others, classes=3, kernel=kernel)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    found = compiled(more, y, source_labels=given, target_probabilities=others, classes=3, kernel=kernel)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
