"""Supervised contrastive loss against a loop, and against NT-Xent where the labels are the views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda.losses import nt_xent_loss, supervised_contrastive_loss
from tests.reference import supervised_contrastive as reference

RNG = np.random.default_rng(31)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_paper(normalize: bool, temperature: float) -> None:
    z, labels = RNG.standard_normal((9, 3)), [0, 1, 0, 2, 1, 0, -1, -1, 3]
    value = supervised_contrastive_loss(
        torch.from_numpy(z), torch.tensor(labels), temperature=temperature, normalize=normalize
    )
    assert value.item() == pytest.approx(reference.supervised_contrastive(z, labels, temperature, normalize), rel=1e-12)


def test_two_views_with_a_label_a_pair_are_nt_xent() -> None:
    a, b = torch.from_numpy(RNG.standard_normal((2, 6, 4)))
    labels = torch.arange(6).repeat(2)
    torch.testing.assert_close(
        supervised_contrastive_loss(torch.cat([a, b]), labels, temperature=0.3), nt_xent_loss(a, b, temperature=0.3)
    )


def test_a_repeated_row_is_a_weight_of_two() -> None:
    z, labels = torch.from_numpy(RNG.standard_normal((5, 3))), torch.tensor([0, 1, 0, 1, 2])
    repeated = supervised_contrastive_loss(torch.cat([z, z[4:]]), torch.cat([labels, labels[4:]]))
    torch.testing.assert_close(supervised_contrastive_loss(z, labels, weight=torch.tensor([1.0, 1, 1, 1, 2])), repeated)


def test_no_two_of_a_kind_give_zero_with_a_graph() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    value = supervised_contrastive_loss(z, torch.arange(4))
    value.backward()
    assert value.item() == 0
    assert (z.grad == 0).all()


def test_errors() -> None:
    z = torch.zeros(4, 3)
    with pytest.raises(TypeError, match="`labels` must be an integer tensor, got torch"):
        supervised_contrastive_loss(z, torch.zeros(4))
    with pytest.raises(ValueError, match=r"supervised_contrastive_loss: `labels` must have shape \(4,\), got \(3,\)"):
        supervised_contrastive_loss(z, torch.arange(3))
