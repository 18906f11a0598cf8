"""Joint MMD against loops over pairs, its single-layer limit, and equal marginals with different joints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmda._engine import kernel_products
from mmda.kernels import Energy, Gaussian
from mmda.losses import JointMMDLoss, joint_mmd, joint_mmd_loss, mmd_loss
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference import joint_mmd as reference

KERNELS = (Gaussian(1.5, scales=(1.0,)), Gaussian(2.5, scales=(1.0,)))
SIGMAS = (1.5, 2.5)


def _layers(n: int = 8, m: int = 8) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    video, target_video = unequal_sample(n, m, 3)
    query, target_query = unequal_sample(n, m, 5, seed=1)
    return (video, query), (target_video, target_query)


@pytest.mark.parametrize("unbiased", [False, True])
def test_equals_the_loop_over_pairs(unbiased: bool) -> None:
    source, target = _layers(7, 5)
    expected = reference.joint_mmd([s.numpy() for s in source], [t.numpy() for t in target], SIGMAS, unbiased=unbiased)
    value = joint_mmd_loss(source, target, kernel=KERNELS, estimator="unbiased" if unbiased else "biased")
    assert value.item() == pytest.approx(expected, abs=1e-13)


def test_linear_equals_the_loop_over_disjoint_pairs() -> None:
    source, target = _layers(9, 9)
    expected = reference.linear([s.numpy() for s in source], [t.numpy() for t in target], SIGMAS)
    assert joint_mmd_loss(source, target, kernel=KERNELS, estimator="linear").item() == pytest.approx(
        expected, abs=1e-13
    )


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_one_layer_is_the_mmd(estimator: str) -> None:
    x, y = reference_sample()
    joint = joint_mmd_loss([x], [y], estimator=estimator)  # type: ignore[arg-type]
    torch.testing.assert_close(joint, mmd_loss(x, y, estimator=estimator), rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]


def test_gaussian_layers_are_one_gaussian_on_the_concatenation() -> None:
    source, target = _layers(7, 5)
    single = Gaussian(2.0, scales=(1.0,))
    joint = joint_mmd_loss(source, target, kernel=single)
    together = mmd_loss(torch.cat(source, 1), torch.cat(target, 1), kernel=single)
    torch.testing.assert_close(joint, together, rtol=1e-12, atol=1e-14)


def test_sees_a_dependence_that_the_layers_alone_do_not_show() -> None:
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    apart = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    kernel = Gaussian(1.0, scales=(1.0,))
    assert mmd_loss(x, apart, kernel=kernel).item() == pytest.approx(0, abs=1e-15)
    # k is 1 on a match and e = exp(-2) on a mismatch: mean of k on each side (1 + e)^2 / 4 or (1 + e^2) / 2
    e = np.exp(-2)
    expected = (1 + e**2) / 2 + (1 + e) ** 2 / 4 - 2 * (1 + e) ** 2 / 4
    value = joint_mmd_loss((x, x), (x, apart), kernel=kernel)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_masked_frames_of_all_layers_together() -> None:
    source, target = _layers(6, 5)
    keep = torch.tensor([[True, True, False], [True, False, False]])
    padded = tuple(layer.reshape(2, 3, -1).masked_fill(~keep[..., None], torch.nan) for layer in source)
    value = joint_mmd_loss(padded, target, source_mask=keep)
    flat = keep.flatten()
    torch.testing.assert_close(value, joint_mmd_loss([layer[flat] for layer in source], target))


def test_unbiased_counts_repeated_rows() -> None:
    source, target = _layers(6, 5)
    weight = torch.tensor([1.0, 2, 1, 0, 3, 1], dtype=torch.float64)
    repeated = [layer.repeat_interleave(weight.long(), 0) for layer in source]
    for kernel in (Gaussian(1.2), Energy()):
        weighted = joint_mmd_loss(source, target, source_weight=weight, estimator="unbiased", kernel=kernel)
        torch.testing.assert_close(weighted, joint_mmd_loss(repeated, target, estimator="unbiased", kernel=kernel))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source": torch.zeros(3, 2)},
            r"`source` must be a sequence of tensors, one per layer, got Tensor",
        ),
        ({"source": ()}, r"`source` must hold at least one layer, got none"),
        (
            {"source": (torch.zeros(3, 2),)},
            r"`target` must hold as many layers as `source` \(1\), got 2",
        ),
        (
            {"source": (torch.zeros(3, 3), torch.zeros(4, 5))},
            r"`source\[1\]` must have the rows of `source\[0\]` \(3,\), got \(4, 5\)",
        ),
        (
            {"source": (torch.zeros(3, 3), torch.zeros(3, 4))},
            r"`target\[1\]` must have as many features as `source\[1\]` \(4\), got 5",
        ),
        ({"kernel": (Gaussian(),)}, r"`kernel` must be one kernel or one per layer \(2\), got 1"),
        ({"source_weight": torch.ones(3)}, r"`source_weight` must have shape \(8,\), got \(3,\)"),
        (
            {"estimator": "linear", "source_weight": torch.ones(8)},
            r"must be 'biased' or 'unbiased' with weights or masks",
        ),
        ({"estimator": "quick"}, r"`estimator` must be one of 'biased', 'unbiased', 'linear', got 'quick'"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    source, target = _layers()
    arguments = {"source": source, "target": target, **change}
    with pytest.raises((ValueError, TypeError), match="joint_mmd_loss: .*" + message):
        joint_mmd_loss(arguments.pop("source"), arguments.pop("target"), **arguments)  # type: ignore[arg-type]


def test_module_is_the_function() -> None:
    source, target = _layers(7, 5)
    loss = JointMMDLoss(kernel=list(KERNELS), estimator="unbiased")
    assert loss(source, target) == joint_mmd_loss(source, target, kernel=KERNELS, estimator="unbiased")


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kernels", [KERNELS, Gaussian(), Energy()])
@pytest.mark.parametrize("weighted", [False, True])
def test_tiles_equal_the_matrix(
    monkeypatch: pytest.MonkeyPatch, unbiased: bool, kernels: tuple[Gaussian, ...] | Gaussian | Energy, weighted: bool
) -> None:
    source, target = _layers(37, 24)
    rows = [side.requires_grad_() for side in (*source, *target)]
    given = {"source_weight": torch.arange(37).double().remainder(3), "target_mask": torch.arange(24) % 5 > 0}
    monkeypatch.setattr(kernel_products, "BLOCK", 16)
    found = []
    for few in (10**6, 10):
        monkeypatch.setattr(joint_mmd, "FEW", few)
        value = joint_mmd_loss(
            rows[:2],
            rows[2:],
            kernel=kernels,
            estimator="unbiased" if unbiased else "biased",
            **(given if weighted else {}),
        )
        made = torch.autograd.grad(value, rows, retain_graph=True)  # in the pass
        first = torch.autograd.grad(value, rows, create_graph=True)
        found.append([value, *made, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), rows)])
    for dense, tiled in zip(*found):
        torch.testing.assert_close(tiled, dense, rtol=1e-9, atol=1e-12)
