"""Centred kernel alignment: invariances, both paths, and the float64 reference."""

from __future__ import annotations

import pytest
import torch

from mmda.losses import kernel_alignment_loss
from tests.reference.kernel_alignment import kernel_alignment

GENERATOR = torch.Generator().manual_seed(4)


@pytest.mark.parametrize(("n", "d", "e"), [(12, 3, 5), (6, 9, 4), (2, 3, 3)])
def test_against_gram_matrices(n: int, d: int, e: int) -> None:
    """More rows than features, and fewer."""
    x, z = (torch.randn(n, k, dtype=torch.float64, generator=GENERATOR) for k in (d, e))
    assert kernel_alignment_loss(x, z).item() == pytest.approx(kernel_alignment(x.numpy(), z.numpy()), abs=1e-12)


def test_rotations_offsets_and_scales_do_not_matter() -> None:
    x, z = (torch.randn(10, 4, dtype=torch.float64, generator=GENERATOR) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR))[0]
    torch.testing.assert_close(kernel_alignment_loss(1e30 * x @ turn + 1e30, z), kernel_alignment_loss(x, z))
    assert kernel_alignment_loss(x, -2 * x @ turn + 7).item() == pytest.approx(0, abs=1e-12)


def test_a_constant_side_and_no_pair() -> None:
    x = torch.randn(5, 2, generator=GENERATOR).requires_grad_()
    value = kernel_alignment_loss(x, torch.ones(5, 3))
    assert value.item() == 1
    assert torch.autograd.grad(value, x)[0].abs().max() == 0
    assert kernel_alignment_loss(x, x, mask=torch.zeros(5, dtype=torch.bool)).item() == 0
