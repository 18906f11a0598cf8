"""Arguments of a wrong type (tensor, kernel, callable, preset, number) raise errors that name the called function."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mmda import (
    distributed,
    kernels,
    layers,
    linear,
    losses,
    metrics,
    migration,
    objectives,
    schedules,
    shift,
    validators,
)
from mmda.kernels import Energy, Gaussian
from mmda.losses import MMDLoss
from mmda.models.mmcda import MMCDAObjective
from mmda.two_sample import optimised_power_test, permutation_test, select_bandwidth, wild_bootstrap_test
from mmda.vmr.check import main

X = torch.arange(24.0).reshape(8, 3).sin()
Y = X.cos()
PAIR = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
INDEX = torch.tensor([0, 1] * 4)
SPANS, SCORES = torch.zeros(2, 3, 2), torch.zeros(2, 3)
ROW = [[1.0, 2.0]]
LABELS = {"source_labels": INDEX, "target_probabilities": INDEX, "classes": 2}
A_KERNEL = r"must be a kernel such as Gaussian\(\), got "


#: Each wrong object with the message, as (call, message); a TypeError.
TYPES: list[tuple[Callable[[], Any], str]] = [
    # no name
    (lambda: MMDLoss(estimator=np.array(["biased", "linear"])), "MMDLoss: `estimator` must be one of .*, got ndarray"),
    (lambda: losses.mmd_loss(X, Y, estimator=torch.zeros(2)), "mmd_loss: `estimator` must be one of .*, got Tensor"),
    # no tensor
    (lambda: losses.mmd_loss(ROW, Y), "mmd_loss: `source` must be a torch.Tensor, got list"),
    (lambda: losses.mmd_loss(X, ROW), "mmd_loss: `target` must be a torch.Tensor, got list"),
    (lambda: losses.info_nce_loss(ROW, Y), "info_nce_loss: `anchor` must be a torch.Tensor, got list"),
    (lambda: losses.entropy_loss(None), "entropy_loss: `logits` must be a torch.Tensor, got NoneType"),
    (
        lambda: losses.classifier_discrepancy_loss(ROW, Y),
        "classifier_discrepancy_loss: `first_logits` must be a torch.Tensor, got list",
    ),
    (lambda: losses.hsic_loss(ROW, Y), "hsic_loss: `anchor` must be a torch.Tensor, got list"),
    (
        lambda: losses.multi_domain_loss(ROW, INDEX, discrepancy=MMDLoss(), domains=2, mask=INDEX > 0),
        "multi_domain_loss: `features` must be a torch.Tensor, got list",
    ),
    (lambda: validators.entropy_score(ROW), "entropy_score: `logits` must be a torch.Tensor, got list"),
    (lambda: validators.mmd_score(ROW, Y), "mmd_score: `source` must be a torch.Tensor, got list"),
    (
        lambda: validators.information_maximisation_score(ROW),
        "information_maximisation_score: `logits` must be a torch.Tensor, got list",
    ),
    (lambda: metrics.recall_at_iou(ROW, SPANS), "recall_at_iou: `predictions` must be a torch.Tensor, got list"),
    (lambda: metrics.recall_at_iou(SPANS, ROW), "recall_at_iou: `windows` must be a torch.Tensor, got list"),
    (lambda: metrics.mean_iou(ROW, SPANS), "mean_iou: `predictions` must be a torch.Tensor, got list"),
    (lambda: layers.AttentionPool(3)(ROW), "AttentionPool: `x` must be a torch.Tensor, got list"),
    (lambda: layers.adapt_batch_norm(3, []), "adapt_batch_norm: `model` must be a torch.nn.Module, got int"),
    # no kernel
    (lambda: losses.mmd_loss(X, Y, kernel="gaussian"), "mmd_loss: `kernel` " + A_KERNEL + "str"),
    (lambda: losses.mmd_loss(X, Y, kernel=None), "mmd_loss: `kernel` " + A_KERNEL + "NoneType"),
    (lambda: losses.mmd_loss(X, Y, kernel=Gaussian), "mmd_loss: `kernel` " + A_KERNEL + "the class Gaussian"),
    (lambda: MMDLoss(kernel=Gaussian), "MMDLoss: `kernel` " + A_KERNEL + "the class Gaussian"),
    (lambda: losses.block_mmd_loss(X, Y, kernel=2.0), "block_mmd_loss: `kernel` " + A_KERNEL),
    (lambda: losses.BlockMMDLoss(kernel=2.0), "BlockMMDLoss: `kernel` " + A_KERNEL),
    (lambda: losses.joint_mmd_loss([X], [Y], kernel=2.0), "joint_mmd_loss: `kernel` " + A_KERNEL),
    (lambda: losses.JointMMDLoss(kernel=[Gaussian]), r"JointMMDLoss: `kernel\[0\]` " + A_KERNEL),
    (lambda: losses.JointMMDLoss(kernel=2.0), "JointMMDLoss: `kernel` " + A_KERNEL),
    (lambda: losses.hsic_loss(X, Y, kernel="x"), "hsic_loss: `kernel` " + A_KERNEL),
    (lambda: losses.HSICLoss(positive_kernel="x"), "HSICLoss: `positive_kernel` " + A_KERNEL),
    (lambda: losses.local_mmd_loss(X, Y, kernel="x", **LABELS), "local_mmd_loss: `kernel` " + A_KERNEL),
    (lambda: losses.LocalMMDLoss(kernel="x"), "LocalMMDLoss: `kernel` " + A_KERNEL),
    (
        lambda: losses.ContrastiveDomainDiscrepancyLoss(kernel="x"),
        "ContrastiveDomainDiscrepancyLoss: `kernel` " + A_KERNEL,
    ),
    (lambda: validators.mmd_score(X, Y, kernel="x"), "mmd_score: `kernel` " + A_KERNEL),
    (lambda: permutation_test(X, Y, kernel="x"), "permutation_test: `kernel` " + A_KERNEL),
    (lambda: wild_bootstrap_test(X, Y, kernel="x"), "wild_bootstrap_test: `kernel` " + A_KERNEL),
    (lambda: select_bandwidth(X, Y, kernel="x"), "select_bandwidth: `kernel` " + A_KERNEL),
    (lambda: shift.shift_report({"v": (X, Y)}, kernel="x"), "shift_report: `kernel` " + A_KERNEL),
    # no callable, no module
    (
        lambda: MMCDAObjective(video_discrepancy="mmd"),
        "MMCDAObjective: `video_discrepancy` must be callable, got str",
    ),
    (
        lambda: MMCDAObjective(joint_discrepancy=MMDLoss),
        "MMCDAObjective: `joint_discrepancy` must be callable and an instance, got the class MMDLoss",
    ),
    (lambda: MMCDAObjective(frames="a"), "MMCDAObjective: `frames` must be an integer >= 1, got str"),
    (
        lambda: losses.multi_domain_loss(X, INDEX, discrepancy=MMDLoss, domains=2),
        "multi_domain_loss: `discrepancy` must be callable and an instance, got the class MMDLoss",
    ),
    (
        lambda: distributed.DistributedLoss(MMDLoss),
        "DistributedLoss: `loss` must be callable and an instance, got the class MMDLoss",
    ),
    (
        lambda: distributed.DistributedLoss(MMDLoss(), shared="negative_mask"),
        "DistributedLoss: `shared` must be a sequence of names, got str",
    ),
    *(
        (lambda make=make: make(None), f"{make.__name__}: `discriminator` must be a torch.nn.Module, got NoneType")
        for make in (
            losses.DomainAdversarialLoss,
            losses.MultiDomainAdversarialLoss,
            losses.ConditionalAdversarialLoss,
        )
    ),
    # no preset, no sequence, no mapping, no number
    (
        lambda: metrics.select_spans(SPANS, SCORES, preset=metrics.MMN),
        r"select_spans: `preset` must be a Preset \(for MMN and TWO_D_TAN, the one of a data set\), got mappingproxy",
    ),
    (
        lambda: metrics.select_spans(SPANS, SCORES, preset="vslnet"),
        "select_spans: `preset` must be a Preset .*, got str",
    ),
    (lambda: metrics.recall_at_iou(SPANS, SPANS, n=1), "recall_at_iou: `n` must be a sequence of counts, got int"),
    (lambda: metrics.recall_at_iou(SPANS, SPANS, iou=0.5), "recall_at_iou: `iou` must be a sequence of thresholds"),
    (
        lambda: losses.moment_localization_loss(X, X, X, (X, X, X)),
        "moment_localization_loss: `targets` must be MomentTargets, got tuple",
    ),
    (lambda: Gaussian(scales=1.0), "Gaussian: `scales` must be a sequence of factors, got float"),
    (
        lambda: layers.DomainDiscriminator(4, hidden=32),
        "DomainDiscriminator: `hidden` must be a sequence of widths, got int",
    ),
    (lambda: objectives.weighted_sum({"a": 1.0}), r"weighted_sum: `terms\['a'\]` must be a torch.Tensor, got float"),
    (lambda: objectives.weighted_sum([X.sum()]), "weighted_sum: `terms` must be a mapping .*, got list"),
    (lambda: objectives.weighted_sum({"a": X.sum()}, [1.0]), "weighted_sum: `weights` must be a mapping .*, got list"),
    (lambda: schedules.linear_ramp("a"), "linear_ramp: `progress` must be a finite number, got str"),
    (lambda: schedules.dann_ramp("a"), "dann_ramp: `progress` must be a finite number, got str"),
    (lambda: schedules.cosine_decay("a"), "cosine_decay: `progress` must be a finite number, got str"),
    (lambda: shift.shift_report({"x": X}), r"shift_report: `before\['x'\]` must be a pair \(source, target\), got Ten"),
    (lambda: shift.shift_report([X, Y]), "shift_report: `before` must be a mapping of names to pairs .*, got list"),
    (
        lambda: shift.shift_report(X, Y),
        r'shift_report: `before` must be .*, such as \{"features": \(source, target\)\}, got Tensor',
    ),
    (
        lambda: validators.pair_retrieval_recall(X, Y, duplicates=["a dog"] * 8),
        r"pair_retrieval_recall: `duplicates` must be a torch.Tensor \(of texts: `mmda.losses.identity_.*`\), got list",
    ),
    (
        lambda: layers.MemoryBank(4, 3).push(X, ["a dog"] * 8),
        r"MemoryBank.push: `identities` must be a torch.Tensor \(of texts: `mmda.losses.identity_.*`\), got list",
    ),
]

NONE = torch.zeros(8, dtype=torch.bool)

#: The same for what has the right type and a wrong value; a ValueError.
VALUES: list[tuple[Callable[[], Any], str]] = [
    (lambda: MMCDAObjective(frames=0), "MMCDAObjective: `frames` must be an integer >= 1, got 0"),
    (
        lambda: distributed.DistributedLoss(MMDLoss(), shared=["sorce_mask"]),
        r"DistributedLoss: `shared` must name arguments of the loss \(source, .*\), got \['sorce_mask'\]",
    ),
    (
        lambda: select_bandwidth(X, Y, kernel=Energy()),
        r"select_bandwidth: `kernel` must have a bandwidth, got Energy\(",
    ),
    (lambda: optimised_power_test(X, Y, kernel=Energy()), "optimised_power_test: `kernel` must have a bandwidth"),
    (lambda: validators.entropy_score(X, mask=NONE), "entropy_score: `logits` must keep at least 1 row"),
    (
        lambda: validators.information_maximisation_score(X, mask=NONE),
        "information_maximisation_score: `logits` must keep at least 1 row",
    ),
    *(
        (
            lambda name=name, mask=mask: validators.mmd_score(
                X, Y, estimator="unbiased", **{"source_mask": ~NONE, "target_mask": ~NONE, name + "_mask": mask}
            ),
            f"mmd_score: `{name}` must keep at least 2 rows",
        )
        for name in ("source", "target")
        for mask in (NONE, torch.arange(8) == 3)
    ),
    (lambda: validators.entropy_score(X[:, :1]), "entropy_score: `logits` must have at least 2 classes, got 1"),
    (
        lambda: kernels.median_bandwidth(X, torch.ones(5)),
        r"median_bandwidth: `weight` must have shape \(8,\), got \(5,\)",
    ),
    (lambda: kernels.mean_bandwidth(X, torch.ones(5)), r"mean_bandwidth: `weight` must have shape \(8,\), got \(5,\)"),
    (
        lambda: objectives.weighted_sum({"a": X.sum()}, {"a": math.nan}),
        r"weighted_sum: `weights\['a'\]` must be a finite number, got nan",
    ),
    (lambda: schedules.linear_ramp(math.nan), "linear_ramp: `progress` must be a finite number, got nan"),
    (lambda: schedules.dann_ramp(math.nan), "dann_ramp: `progress` must be a finite number, got nan"),
    (lambda: shift.shift_report({"x": (X,)}), r"shift_report: `before\['x'\]` must be a pair .*, got 1 samples"),
    (
        lambda: migration.pytorch_adapt_mmd(kernel_scales=()),
        "pytorch_adapt_mmd: `kernel_scales` must hold at least one",
    ),
    (lambda: migration.tllib_mmd(alphas=()), "tllib_mmd: `alphas` must hold at least one factor, got none"),
    (lambda: migration.skada_dan(sigmas=[]), "skada_dan: `sigmas` must hold at least one distance, got none"),
    (
        lambda: losses.higher_order_moment_loss(X, Y, indices=torch.tensor([[0, 1, -1]])),
        "higher_order_moment_loss: `indices` must name features from 0 to 2, got -1",
    ),
    (
        lambda: losses.higher_order_moment_loss(X, Y, indices=torch.tensor([[0, 1, 3]])),
        "higher_order_moment_loss: `indices` must name features from 0 to 2, got 3",
    ),
    (
        lambda: losses.margin_disparity_loss(X, X, X[:, :2], X[:, :2]),
        r"margin_disparity_loss: `target_logits` must have as many classes as `source_logits` \(3\), got 2",
    ),
]


@pytest.mark.parametrize(("call", "text"), TYPES, ids=[text for _, text in TYPES])
def test_wrong_types(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(TypeError, match="^" + text):
        call()


@pytest.mark.parametrize(("call", "text"), VALUES, ids=[f"{i} {text}" for i, (_, text) in enumerate(VALUES)])
def test_wrong_values(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match="^" + text):
        call()


def test_numbers_of_numpy_are_numbers() -> None:
    assert layers.AttentionPool(np.int64(3))(torch.zeros(2, 4, 3)).shape == (2, 3)  # type: ignore[arg-type]
    terms, weights = {"a": torch.tensor(2.0)}, {"a": np.float32(0.5)}
    assert objectives.weighted_sum(terms, weights).total.item() == 1.0  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an integer >= 1, got Tensor"):
        layers.AttentionPool(torch.tensor(3))  # type: ignore[arg-type]


def test_selected_rows_score_as_the_rows_alone() -> None:
    mask = torch.tensor([True, False] * 4)
    kept = validators.mmd_score(X, Y, source_mask=mask, target_mask=~mask)
    torch.testing.assert_close(kept, validators.mmd_score(X[mask], Y[~mask]))


@pytest.mark.parametrize(("option", "text"), [("--show", "argument --show: must be an integer >= 0, got -1")])
def test_a_negative_count_on_the_command_line(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--annotations", "none.json", option, "-1"])
    assert stopped.value.code == 2
    assert text in capsys.readouterr().err


def test_shift_and_migration_are_loaded_when_asked_for() -> None:
    code = (
        "import sys, mmda\n"
        "before = {'mmda.shift', 'mmda.migration'} & set(sys.modules)\n"
        "print(len(before), callable(mmda.shift.shift_report), callable(mmda.migration.skada_dan))\n"
        "print('shift' in dir(mmda))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "True", "True"]


# Discriminators with one logit per row, and excluded classes


def test_conditional_adversary_takes_one_logit_a_row_as_a_column() -> None:
    a, b = X[:, 0], Y[:5, 0]
    flat = losses.conditional_adversarial_loss(a, b, X, Y[:5], source_weight=X[:, 1].abs())
    column = losses.conditional_adversarial_loss(a[:, None], b[:, None], X, Y[:5], source_weight=X[:, 1].abs())
    assert torch.equal(flat, column)
    # with one time step the last axis belongs to the rows, not the logits
    steps = losses.conditional_adversarial_loss(a[:, None], b[:, None], X[:, None], Y[:5, None])
    assert torch.equal(steps, losses.conditional_adversarial_loss(a, b, X, Y[:5]))


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.0, 1.0])])
@pytest.mark.parametrize("loss", [losses.entropy_loss, losses.information_maximisation_loss])
def test_a_class_that_is_ruled_out_changes_nothing(
    loss: Callable[..., torch.Tensor], weight: torch.Tensor | None
) -> None:
    """Minus infinity in a whole column gives the loss over the other classes; in some rows, the limit of low logits."""
    logits = X[:4].clone().requires_grad_()
    value = loss(logits, weight=weight)
    (slope,) = torch.autograd.grad(value, logits)
    more = torch.cat([X[:4], torch.full((4, 1), -torch.inf)], 1).requires_grad_()
    wider = loss(more, weight=weight)
    (wider_slope,) = torch.autograd.grad(wider, more)
    torch.testing.assert_close(wider, value)
    torch.testing.assert_close(wider_slope, torch.cat([slope, torch.zeros(4, 1)], 1))
    some = X[:4].clone()
    some[0, 1] = some[1, 2] = -torch.inf
    some.requires_grad_()
    near = some.detach().clamp(min=-200).requires_grad_()
    (at,), (by,) = (torch.autograd.grad(loss(x, weight=weight), x) for x in (some, near))
    torch.testing.assert_close(loss(some, weight=weight), loss(near, weight=weight))
    torch.testing.assert_close(at, by)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of PyTorch call it deprecated
        return torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.quint8)


META = torch.ones(8, device="meta")
FAR_OFF: list[tuple[Callable[[], Any], str]] = [
    (lambda: losses.mmd_loss(X, Y, source_weight=META), "`source_weight` must be on the device of the features"),
    (lambda: losses.coral_loss(X, Y, target_mask=META.bool()), "`target_mask` must be on the device of the features"),
    (lambda: losses.entropy_loss(X, mask=META.bool()), "`mask` must be on the device of the features"),
    (lambda: losses.info_nce_loss(X, Y, weight=META), "`weight` must be on the device of the features"),
    (lambda: losses.hsic_loss(X, Y, mask=META.bool()), "`mask` must be on the device of the features"),
    (
        lambda: losses.local_mmd_loss(X, Y, **{**LABELS, "source_labels": META.long()}),
        "`source_labels` must be on the device of the features",
    ),
    (lambda: losses.supervised_contrastive_loss(X, META.long()), "`labels` must be on the device of the features"),
    (
        lambda: losses.local_mmd_loss(X, Y, source_labels=INDEX, target_probabilities=torch.ones(8, 0)),
        "`target_probabilities` must have at least one column",
    ),
    (lambda: kernels.mean_bandwidth(X, META), "`weight` must be on the device of the features"),
    (lambda: validators.pair_retrieval_recall(X, Y, mask=META.bool()), "`mask` must be on the device of the features"),
    (lambda: permutation_test(X.to("meta"), Y), "`source` must hold values, got a tensor on the meta device"),
    (lambda: validators.density_ratio(X, Y.to("meta"), X), "`target` must"),
    (lambda: metrics.mean_iou(SPANS, SPANS, prediction_mask=META.bool()), "`prediction_mask` must have shape"),
    (lambda: layers.DomainSpecificBatchNorm1d(3, 2)(X, quantised()), "`domain` must not be quantized"),
    (lambda: layers.DomainSpecificBatchNorm1d(3, 2)(X, META.long()), "`domain` must be on the device of `x`"),
    (lambda: shift.shift_report({"a": (X.to_mkldnn(), Y)}), "a: `source` must be a dense tensor"),
    (lambda: shift.shift_report({"a": (X, Y.to("meta"))}), "a: `target` must hold values"),
    (lambda: linear.Whitening().fit(X.to("meta")), "`x` must hold values"),
    (lambda: linear.CCA(2).fit(X, Y.to("meta")), "`y` must be on the device of `x`"),
    (lambda: linear.CCA(2).fit(X, torch.tensor(1.0)), "`y` must have an axis of features"),
    (lambda: losses.mmd_loss(X, Y, source_weight=quantised()), "`source_weight` must not be quantized"),
    (lambda: losses.entropy_loss(X, weight=quantised()), "`weight` must not be quantized"),
    (
        lambda: metrics.recall_at_iou(SPANS, SPANS, window_mask=torch.ones(2, 3).to_sparse()),
        "`window_mask` must be a dense tensor",
    ),
]


@pytest.mark.parametrize(("call", "message"), FAR_OFF, ids=[message for _, message in FAR_OFF])
def test_a_tensor_on_no_or_another_device_or_quantised_is_refused_by_name(
    call: Callable[[], Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^[A-Za-z0-9_.]+: {message}"):
        call()


def test_8_bit_floats_are_tested_in_float64() -> None:
    rows = X.to(torch.float8_e4m3fn)
    assert permutation_test(rows, Y).statistic == permutation_test(rows.double(), Y).statistic


#: Modules with weights or buffers of their own, and how they are called with inputs like ``x``.
WITH_WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "DomainDiscriminator": lambda x: layers.DomainDiscriminator(3)(x),
    "AttentionPool": lambda x: layers.AttentionPool(3)(x.unsqueeze(0)),
    "RandomMultilinearMap": lambda x: losses.RandomMultilinearMap(3, 3, 4)(x, x),
    "DomainSpecificBatchNorm1d": lambda x: layers.DomainSpecificBatchNorm1d(3, domains=2)(x, 0),
    "DomainAdversarialLoss": lambda x: losses.DomainAdversarialLoss(layers.DomainDiscriminator(3))(x, x),
    "WassersteinCriticLoss": lambda x: losses.WassersteinCriticLoss(layers.DomainDiscriminator(3))(x, x),
    "CCA": lambda x: linear.CCA(2).fit(X, Y).map_x(x),
    "Procrustes": lambda x: linear.Procrustes().fit(X, Y)(x),
}


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_inputs_on_another_device_than_the_weights(name: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+: `\w+` must be on the device of the module \(cpu\), got meta$"):
        WITH_WEIGHTS[name](X.to("meta"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_computed_or_refused_by_name(dtype: torch.dtype) -> None:
    x, y = X.to(dtype), Y.to(dtype)
    for fitted, wide in ((linear.CCA(2).fit(x, Y), linear.CCA(2).fit(x.float(), Y)),):
        torch.testing.assert_close(fitted.x_map, wide.x_map)
    torch.testing.assert_close(
        linear.Procrustes().fit(X, y).matrix, linear.Procrustes().fit(X, y.float()).matrix, rtol=1e-12, atol=1e-12
    )
    for call in (lambda: losses.RandomMultilinearMap(3, 3, 4)(x, X), lambda: losses.multilinear_map(X, x)):
        with pytest.raises(
            TypeError, match=r"ultilinear\w+: `\w+` must have at least 16 bits a number, got torch.float8"
        ):
            call()


def test_a_discriminator_takes_the_dtype_of_its_weights() -> None:
    discriminator = layers.DomainDiscriminator(3)
    for dtype in (torch.float64, torch.bfloat16, torch.float8_e5m2):
        text = rf"DomainDiscriminator: `x` must have the dtype of the module \(torch.float32\), got {dtype}"
        with pytest.raises(TypeError, match=text):
            discriminator(X.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(X.bfloat16()).dtype == torch.bfloat16
