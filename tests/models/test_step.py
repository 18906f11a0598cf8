"""What a training step computes once and shares, and what it skips: the numbers are those of the parts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmda.layers import FrameQueryAttention
from mmda.losses import AttendedContrastiveLoss, CORALLoss, FrameQueryLoss, MultipleInstanceLoss
from mmda.models.mmcda import (
    DEFAULT_WEIGHTS,
    MMCDAObjective,
    Term,
    TrainingConfig,
    View,
    fit,
    negative_pairs,
)
from mmda.models.mmcda.encoders import Projection
from mmda.models.mmcda.parallel import Step
from mmda.models.mmcda.terms import FrameQueryTerm, JointDistributionTerm, PairTerm
from mmda.vmr import ResidentLoader, Simulation, World, simulate
from tests.models.test_mmcda import model_for, padded


@pytest.fixture(scope="module")
def draw() -> Simulation:
    return simulate(World(videos=24, test_videos=4, video_width=12, query_width=10), seed=3)


def test_the_first_norm_is_folded_into_the_linear_map() -> None:
    torch.manual_seed(0)
    project = Projection(5, 4).double()
    with torch.no_grad():
        for parameter in project.parameters():
            parameter.normal_()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    plain = x
    for part in project:
        plain = part(plain)
    torch.testing.assert_close(project(x), plain, rtol=1e-12, atol=1e-12)
    slope, inputs = torch.randn_like(plain), [x, *project.parameters()]
    for ours, theirs in zip(torch.autograd.grad(project(x), inputs, slope), torch.autograd.grad(plain, inputs, slope)):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_terms_under_autocast_compute_in_full_precision(draw: Simulation, precision: str) -> None:
    """The model runs in half precision; what the losses share between them does not."""
    batch = padded(draw.source_train.slice(range(12)), 3, 2, math.nan)
    model, negatives = model_for(batch), negative_pairs(batch)
    attention = FrameQueryAttention(temperature=0.1, detach_weights=True)
    with torch.autocast("cpu", dtype=getattr(torch, precision), enabled=precision != "float32"):
        out = model(batch)
        view, labels = View(out, batch), View(out, batch).labels
        found = [
            term(view)
            for term in (
                PairTerm(AttendedContrastiveLoss()),
                PairTerm(AttendedContrastiveLoss(), known_moment=True),
                FrameQueryTerm(FrameQueryLoss()),
                JointDistributionTerm(CORALLoss()),
            )
        ]
        torch.autograd.grad(sum(found), out.joint_frames, retain_graph=True)
    rows, queries, mask = out.joint_frames.float(), out.joint_query.float(), out.frame_mask
    contrast = partial(AttendedContrastiveLoss(), rows, queries, negative_mask=negatives)
    expected = [
        contrast(frame_mask=mask),
        contrast(frame_mask=mask & labels.inside),
        FrameQueryLoss()(rows, queries, labels.inside, frame_mask=mask),
        CORALLoss()(attention(rows, queries, frame_mask=mask)[0], queries),
    ]
    for ours, theirs in zip(found, expected):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_terms_on_shared_similarities_equal_the_losses(draw: Simulation) -> None:
    batch = padded(draw.source_train.slice(range(12)), 3, 2, math.nan)
    out = model_for(batch)(batch)
    view, labels = View(out, batch), View(out, batch).labels
    frames, queries, mask, inside = out.joint_frames, out.joint_query, out.frame_mask, labels.inside
    contrast, instances, listwise = AttendedContrastiveLoss(), MultipleInstanceLoss(in_video=0.5), FrameQueryLoss()
    negatives = negative_pairs(batch)
    attention = FrameQueryAttention(temperature=0.1, detach_weights=True)
    pooled, _ = attention(frames, queries, frame_mask=mask)
    pairs = [
        (PairTerm(contrast), contrast(frames, queries, frame_mask=mask, negative_mask=negatives)),
        (
            PairTerm(contrast, known_moment=True),
            contrast(frames, queries, frame_mask=mask & inside, negative_mask=negatives),
        ),
        (PairTerm(instances), instances(frames, queries, frame_mask=mask, negative_mask=negatives)),
        (FrameQueryTerm(listwise), listwise(frames, queries, inside, frame_mask=mask)),
        (JointDistributionTerm(CORALLoss()), CORALLoss()(pooled, queries)),
    ]
    for term, value in pairs:
        torch.testing.assert_close(term(view), value, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(
            torch.autograd.grad(term(view), [frames, queries], retain_graph=True),
            torch.autograd.grad(value, [frames, queries], retain_graph=True),
        ):
            along = (theirs * frames if theirs.ndim == 3 else theirs * queries).sum(-1, keepdim=True)
            tangent = ours - (ours * (frames if ours.ndim == 3 else queries)).sum(-1, keepdim=True) * (
                frames if ours.ndim == 3 else queries
            )
            assert along.abs().max() < 1e-4  # the gradient of a loss that normalises is orthogonal to its rows
            torch.testing.assert_close(tangent, theirs, rtol=1e-3, atol=1e-5)


def test_an_own_loss_on_pairs_is_called_as_it_is_written(draw: Simulation) -> None:
    class Own(AttendedContrastiveLoss):
        def forward(self, frames: Tensor, queries: Tensor, **masks: Any) -> Tensor:  # type: ignore[override]
            return 0 * frames.sum() + 7

    batch = draw.source_train.slice(range(4))
    assert PairTerm(Own())(View(model_for(batch)(batch), batch)).item() == 7


def test_target_logits_are_only_computed_where_a_term_reads_them(draw: Simulation) -> None:
    source, target = draw.source_train.slice(range(6)), draw.target_train.slice(range(6))
    model = model_for(source)
    without, called = Step(model, MMCDAObjective(), joined=False), []
    reading = Term("own", "target", 1.0, lambda view: view.output.logits.start.mean())
    handle = model.localizer.register_forward_hook(lambda *_: called.append(1))
    without(source, target, 1.0)
    assert len(called) == 1
    Step(model, MMCDAObjective(weights={**DEFAULT_WEIGHTS, "pseudo_moment": 1.0}), joined=False)(source, target, 1.0)
    assert len(called) == 3
    assert torch.isfinite(Step(model, MMCDAObjective(terms=[reading]), joined=False)(source, target, 1.0))
    handle.remove()
    blind = Term("own", "target", 1.0, lambda view: view.output.logits.start.mean(), logits=False)
    assert torch.isnan(Step(model, MMCDAObjective(terms=[blind]), joined=False)(source, target, 1.0))


def test_a_compiled_step_trains_to_the_same_weights(draw: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda step, dynamic: graph(step))  # symbolic lengths take a minute to trace
    sides = [
        ResidentLoader(replace(split, frames=split.frames.double(), words=split.words.double()), 8)
        for split in (draw.source_train, draw.target_train)
    ]
    roles = ("moment", "frame_query", "domain_query", "cross_modal", "frame_query_target")
    trained = []
    for compiled in (False, True):
        model = model_for(draw.source_train, localizer_layers=1).double()
        config = TrainingConfig(steps=1, evaluations=1, compile=compiled)
        progress = fit(model, MMCDAObjective(weights=dict.fromkeys(roles, 1.0)), *sides, config=config)
        trained.append({**model.state_dict(), **progress.log[-1]["terms"]})
    for name, value in trained[0].items():
        torch.testing.assert_close(torch.as_tensor(trained[1][name]), torch.as_tensor(value), rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"`config\.compile` must be False with `parallel`"):
        fit(model, MMCDAObjective(), *sides, config=config, parallel="ddp")
