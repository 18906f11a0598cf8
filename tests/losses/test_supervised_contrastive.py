"""Supervised contrastive loss against a loop, and against NT-Xent where the labels are the views."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmda._engine.logits_at_once import MOST
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


@pytest.mark.parametrize("watched", [False, True])
def test_tiles_give_the_formula_in_little_memory(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches: value and gradient, with weights of 0 to 3, and no logit matrix larger than a tile.

    The watched case uses PyTorch's operations instead of the compiled loops.
    """
    monkeypatch.setattr("mmda._engine.nt_xent_sweep.BLOCK", 64)
    monkeypatch.setattr("mmda._engine.logits_at_once.MOST", dict.fromkeys(MOST, 0))
    monkeypatch.setattr("mmda._engine.logit_tiles.KEEP_BYTES", 0)
    n, generator = 300, torch.Generator().manual_seed(3)
    z = torch.randn(n, 5, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(-1, 40, (n,), generator=generator)
    for weight in (None, torch.randint(0, 4, (n,), generator=generator)):
        with Watch() if watched else nullcontext() as watch:
            found = supervised_contrastive_loss(z, labels, weight=weight)
            slope = torch.autograd.grad(found, z)[0]
        assert watch is None or watch.largest <= 64 * 64
        with monkeypatch.context() as patch:
            patch.setattr("mmda._engine.scaffold.is_plain", lambda *_: False)
            wanted = supervised_contrastive_loss(z, labels, weight=weight)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, torch.autograd.grad(wanted, z)[0], rtol=1e-9, atol=1e-14)


class Watch(TorchDispatchMode):
    """The number of entries of the largest matrix of numbers that is made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.ndim == 2 and out.is_floating_point():
            self.largest = max(self.largest, out.numel())
        return out


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
