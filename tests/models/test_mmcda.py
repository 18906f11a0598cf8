"""The reference model: padding, gradients, exact decoding, the objective, training, files."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmda.losses import CORALLoss
from mmda.models.mmcda import (
    DEFAULT_WEIGHTS,
    MMCDA,
    ROLES,
    CheckpointError,
    MMCDAConfig,
    MMCDAObjective,
    MomentLogits,
    TrainingConfig,
    build_mmcda,
    decode_spans,
    fit,
    load_model,
    negative_pairs,
    pair_score,
    predict_split,
    save_model,
    selection_score,
    source_score,
    span_scores,
    spread_frames,
)
from mmda.models.mmcda.files import save_file, sealed
from mmda.vmr import ResidentLoader, Simulation, VMRBatch, World, simulate

SMALL = {"hidden": 16, "joint": 8, "localizer_channels": 8, "localizer_layers": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def draw() -> Simulation:
    return simulate(World(videos=48, test_videos=20, video_width=12, query_width=10), seed=3)


def model_for(batch: VMRBatch, seed: int = 0, **sizes: object) -> MMCDA:
    torch.manual_seed(seed)
    config = MMCDAConfig(batch.frames.shape[-1], batch.words.shape[-1], **{**SMALL, **sizes})  # type: ignore[arg-type]
    return build_mmcda(config)


def one_space(batch: VMRBatch) -> VMRBatch:
    """The same pairs with frames and words of one width."""
    return replace(batch, frames=batch.frames[..., : batch.words.shape[-1]])


def padded(batch: VMRBatch, frames: int, words: int, filler: float) -> VMRBatch:
    """The same pairs under more padding, with ``filler`` on every pad."""

    def more(x: Tensor, steps: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, steps))

    frame_mask, word_mask = more(batch.frame_mask, frames), more(batch.word_mask, words)
    hole = torch.tensor(filler)
    return replace(
        batch,
        frames=torch.where(frame_mask.unsqueeze(-1), more(batch.frames, frames), hole),
        frame_mask=frame_mask,
        words=torch.where(word_mask.unsqueeze(-1), more(batch.words, words), hole),
        word_mask=word_mask,
        clip_times=torch.where(frame_mask.unsqueeze(-1), more(batch.clip_times, frames), hole),
    )


@pytest.mark.parametrize("filler", [7.0, math.nan, math.inf])
@pytest.mark.parametrize(("positions", "shared_space"), [(False, False), (True, False), (True, True)])
def test_padding_changes_no_valid_output(draw: Simulation, filler: float, positions: bool, shared_space: bool) -> None:
    batch = draw.source_train.slice(range(6))
    if shared_space:
        batch = one_space(batch)
    model = model_for(batch, positions=positions, shared_space=shared_space, context_layers=2).eval()
    with torch.no_grad():
        plain, wide = model(batch), model(padded(batch, 5, 3, filler))
    t = batch.frames.shape[1]
    keep = batch.frame_mask
    for a, b in (
        (plain.frames[keep], wide.frames[:, :t][keep]),
        (plain.query, wide.query),
        (plain.similarity[keep], wide.similarity[:, :t][keep]),
        *((x[keep], y[:, :t][keep]) for x, y in zip(plain.logits, wide.logits)),
    ):
        assert float((a - b).abs().max()) < 1e-5 * max(1.0, float(a.abs().max()))
    spans, more = model.predict(batch), model.predict(padded(batch, 5, 3, filler))
    torch.testing.assert_close(spans.windows, more.windows)


def test_padding_changes_no_loss_and_no_gradient(draw: Simulation) -> None:
    source, target = draw.source_train.slice(range(8)), draw.target_train.slice(range(8))
    objective = MMCDAObjective()
    gradients = []
    for a, b in ((source, target), (padded(source, 4, 2, math.nan), padded(target, 4, 2, math.nan))):
        model = model_for(source)
        result = objective(model(a), a, model(b), b.without_moments())
        result.total.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_every_parameter_gets_a_gradient(draw: Simulation) -> None:
    source, target = draw.source_train.slice(range(16)), draw.target_train.slice(range(16)).without_moments()
    model = model_for(source, context_layers=1)
    weights = {**DEFAULT_WEIGHTS, "pseudo_moment": 0.1}
    result = MMCDAObjective(weights=weights)(model(source), source, model(target), target)
    assert set(result.terms) == {role for roles in ROLES.values() for role in roles}
    result.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # a softmax over words does not depend on the pooling's last bias; all other parameters change
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("role", sorted(DEFAULT_WEIGHTS))
def test_each_role_alone_is_the_total_and_reaches_the_encoders(draw: Simulation, role: str) -> None:
    source, target = draw.source_train.slice(range(12)), draw.target_train.slice(range(12)).without_moments()
    model = model_for(source)
    result = MMCDAObjective(weights={role: 0.25})(model(source), source, model(target), target)
    assert set(result.terms) == {role}
    torch.testing.assert_close(result.total, 0.25 * result.terms[role])
    result.total.backward()
    encoders = [*model.video_encoder.parameters(), *model.query_encoder.parameters()]
    assert sum(float(p.grad.abs().sum()) for p in encoders if p.grad is not None) > 0


def test_the_ramp_scales_target_terms_only(draw: Simulation) -> None:
    source, target = draw.source_train.slice(range(8)), draw.target_train.slice(range(8)).without_moments()
    model = model_for(source)
    objective = MMCDAObjective()
    outputs = model(source), source, model(target), target
    off, on = objective(*outputs, strength=0.0), objective(*outputs, strength=1.0)
    assert off.terms.keys() == on.terms.keys()
    alone = MMCDAObjective(weights={r: DEFAULT_WEIGHTS[r] for r in ("moment", "frame_query", "cross_modal_source")})
    torch.testing.assert_close(off.total, alone(model(source), source).total)
    assert on.total.item() != pytest.approx(off.total.item())


def test_target_windows_are_never_read(draw: Simulation) -> None:
    """With other windows, or none, the objective is the same."""
    source, target = draw.source_train.slice(range(8)), draw.target_train.slice(range(8))
    assert target.windows is not None
    model, objective = model_for(source), MMCDAObjective(weights={**DEFAULT_WEIGHTS, "pseudo_moment": 1.0})
    moved = replace(target, windows=target.windows + 1e6)
    values = {
        objective(model(source), source, model(t), t).total.item() for t in (target, moved, target.without_moments())
    }
    assert len(values) == 1


def test_alignment_is_swapped_by_passing_a_module(draw: Simulation) -> None:
    source, target = draw.source_train.slice(range(8)), draw.target_train.slice(range(8))
    model = model_for(source)
    coral = CORALLoss()
    result = MMCDAObjective(weights={"domain_query": 1.0}, query_discrepancy=coral)(
        model(source), source, model(target), target
    )
    torch.testing.assert_close(result.total, coral(model(source).query, model(target).query))


def test_objective_errors(draw: Simulation) -> None:
    batch = draw.source_train.slice(range(4))
    message = r"MMCDAObjective: `weights` must name roles among .*'moment'.*, got \['momnt'\]"
    with pytest.raises(ValueError, match=message):
        MMCDAObjective(weights={"momnt": 1.0})
    model = model_for(batch)
    with pytest.raises(ValueError, match="`source_batch` must have windows"):
        MMCDAObjective()(model(batch), batch.without_moments())
    with pytest.raises(ValueError, match="`target` must be given"):
        MMCDAObjective()(model(batch), batch)


def test_negatives_leave_out_shared_videos_and_texts(draw: Simulation) -> None:
    batch = replace(
        draw.source_train.slice(range(4)),
        video_index=torch.tensor([0, 0, 1, 2]),
        text_index=torch.tensor([0, 1, 2, 0]),
    )
    expected = [[0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]]
    assert negative_pairs(batch).int().tolist() == expected


@pytest.mark.parametrize("count", [4, 6, 40, 1000])
def test_spread_frames_are_valid_different_and_cover_the_video(count: int) -> None:
    lengths = torch.tensor([10, 3, 1])
    mask = torch.arange(10) < lengths.unsqueeze(1)
    x = torch.where(mask, torch.arange(10.0).expand(3, 10), torch.nan).unsqueeze(-1)
    frames, kept = spread_frames(x, mask, count)
    for row, length in enumerate(lengths.tolist()):
        chosen = frames[row, kept[row], 0].tolist()
        assert len(set(chosen)) == len(chosen) == min(length, max(1, count // 3), 10)
        assert all(0 <= c < length for c in chosen)
        if len(chosen) > 1:  # no gap is larger than the even spacing rounded up
            gaps = np.diff([-1, *chosen, length])
            assert max(gaps) <= math.ceil(length / len(chosen)) + 1


def stands_out(s: np.ndarray, i: int, j: int) -> float:
    """Mean inside a span of w of the t clips over the standard error of such a mean."""
    w = j - i + 1
    error = math.sqrt((s.var() + 1e-6) / w * (1 - min(w / len(s), 0.98)))
    return float((s[i : j + 1].mean() - s.mean()) / error)


def brute_force(
    logits: MomentLogits, similarity: Tensor, mask: Tensor, clips: Tensor, n: int, mix: float, threshold: float
) -> list[list[tuple[float, float]]]:
    """Every span of every row scored by the formula in float64 loops, then greedy suppression."""
    answers = []
    for b in range(mask.shape[0]):
        t = int(mask[b].sum())
        s = similarity[b, :t].double().numpy()

        def log_softmax(z: np.ndarray) -> np.ndarray:
            return z - z.max() - np.log(np.exp(z - z.max()).sum())

        start = log_softmax(logits.start[b, :t].double().numpy())
        end = log_softmax(logits.end[b, :t].double().numpy())
        scored = sorted(
            (
                (start[i] + end[j] + mix * stands_out(s, i, j), float(clips[b, i, 0]), float(clips[b, j, 1]))
                for i, j in itertools.combinations_with_replacement(range(t), 2)
            ),
            reverse=True,
        )
        best: list[tuple[float, float]] = []
        for _, low, high in scored:
            overlaps = [
                max(0.0, min(high, h) - max(low, lo)) / (max(high, h) - min(low, lo))
                if min(high, h) > max(low, lo)
                else 0.0
                for lo, h in best
            ]
            if all(o <= threshold for o in overlaps):
                best.append((low, high))
            if len(best) == n:
                break
        answers.append(best)
    return answers


@pytest.mark.parametrize(("n", "mix", "threshold"), [(1, 0.0, 0.5), (5, 1.0, 0.5), (4, 0.3, 0.0), (6, 2.0, 1.0)])
def test_decoding_is_exact(n: int, mix: float, threshold: float) -> None:
    generator = torch.Generator().manual_seed(n)
    mask = torch.arange(9) < torch.tensor([9, 5, 1]).unsqueeze(1)
    logits = MomentLogits(*(2 * torch.randn(3, 9, generator=generator) for _ in range(3)))
    similarity = torch.randn(3, 9, generator=generator)
    low = 2.0 * torch.arange(9).expand(3, 9)
    clips = torch.stack([low, low + 2], -1)
    spans = decode_spans(logits, similarity, mask, clips, n=n, mix=mix, nms_threshold=threshold)
    expected = brute_force(logits, similarity, mask, clips, n, mix, threshold)
    for row, answer in enumerate(expected):
        assert spans.windows[row, spans.mask[row]].tolist() == [list(pair) for pair in answer]
        scores = spans.scores[row, spans.mask[row]]
        assert (scores.diff() <= 0).all()


def test_span_scores_rule_out_inverted_and_padded_spans() -> None:
    mask = torch.tensor([[True, True, False]])
    zeros = torch.zeros(1, 3)
    scores = span_scores(MomentLogits(zeros, zeros, zeros), zeros, mask, mix=1.0)
    assert torch.isfinite(scores[0]).tolist() == [[True, True, False], [False, True, False], [False, False, False]]


def loaders(draw: Simulation, seed: int = 0) -> tuple[ResidentLoader, ResidentLoader]:
    return (
        ResidentLoader(draw.source_train, 16, seed=seed, drop_last=True),
        ResidentLoader(draw.target_train, 16, seed=seed + 1, labels=False, drop_last=True),
    )


def test_training_keeps_the_best_checkpoint(draw: Simulation) -> None:
    model = model_for(draw.source_train)
    scores = iter([0.3, 0.9, 0.1])
    states = []

    def validate(m: MMCDA) -> float:
        assert not m.training
        states.append({k: v.clone() for k, v in m.state_dict().items()})
        return next(scores)

    config = TrainingConfig(steps=6, evaluations=3, warmup=1)
    progress = fit(model, MMCDAObjective(), *loaders(draw), config=config, validate=validate)
    assert (progress.best_step, progress.best_score, progress.step) == (config.milestones()[1], 0.9, 6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, states[1][name])
    assert not model.training


def test_the_running_mean_is_weighed_and_left_behind(draw: Simulation) -> None:
    """Against the recursion on the weights that the optimiser left after each step."""
    model = model_for(draw.source_train)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    weighed: list[dict[str, Tensor]] = []

    def follow(step: int) -> None:
        share = 1 - min(0.6, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = expected[name] + share * (value.double() - expected[name])

    def validate(m: MMCDA) -> float:
        assert not m.training
        weighed.append({name: value.clone() for name, value in m.state_dict().items()})
        return float(len(weighed))

    config = TrainingConfig(steps=12, evaluations=2, warmup=1, average=0.6)
    fit(model, MMCDAObjective(), *loaders(draw), config=config, validate=validate, on_step=follow)
    assert len(weighed) == 2
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(value, weighed[1][name])
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_shared_space_starts_at_the_plain_cosine(draw: Simulation) -> None:
    batch = one_space(draw.source_train.slice(range(6)))
    model = model_for(batch, shared_space=True).eval()
    frames = torch.nn.functional.normalize(batch.frames, dim=-1)
    words = torch.where(batch.word_mask.unsqueeze(-1), batch.words, torch.zeros(()))
    query = torch.nn.functional.normalize(words.sum(1), dim=-1)
    cosine = torch.einsum("btd,bd->bt", frames, query)
    keep = batch.frame_mask
    torch.testing.assert_close(model(batch).similarity[keep] * model.temperature, cosine[keep])
    with pytest.raises(ValueError, match=r"`query_width` must equal `video_width` \(12\) in a shared space, got 10"):
        model_for(draw.source_train, shared_space=True)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_run_is_the_run(draw: Simulation, tmp_path: Path, average: float) -> None:
    """Stopped at a milestone and resumed: bitwise the weights of the uninterrupted run, dropout included."""
    config = TrainingConfig(steps=8, evaluations=2, warmup=1, average=average)

    class Stop(Exception):
        pass

    def train(resume: Path | None, stop: int | None) -> MMCDA:
        model = model_for(draw.source_train, dropout=0.3)

        def on_step(step: int) -> None:
            if step == stop:
                raise Stop

        with contextlib.suppress(Stop):
            fit(model, MMCDAObjective(), *loaders(draw), config=config, resume=resume, on_step=on_step)
        return model

    whole = train(None, None)
    train(tmp_path / "run.pt", config.milestones()[0] + 1)
    resumed = train(tmp_path / "run.pt", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_resume_refuses_another_run(draw: Simulation, tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, evaluations=1, warmup=1)
    path = tmp_path / "run.pt"
    fit(model_for(draw.source_train), MMCDAObjective(), *loaders(draw), config=config, resume=path)
    other = replace(config, steps=4)
    with pytest.raises(CheckpointError, match=r"run\.pt: the run must have the training config"):
        fit(model_for(draw.source_train), MMCDAObjective(), *loaders(draw), config=other, resume=path)


def test_resume_refuses_other_weights(draw: Simulation, tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, evaluations=1, warmup=1)
    path = tmp_path / "run.pt"
    fit(model_for(draw.source_train), MMCDAObjective(), *loaders(draw), config=config, resume=path)
    other = MMCDAObjective(weights={"moment": 1.0})
    with pytest.raises(CheckpointError, match=r"run\.pt: the run must have the training weights"):
        fit(model_for(draw.source_train), other, *loaders(draw), config=config, resume=path)


def damaged_runs() -> list[Callable[[dict[str, Any]], object]]:
    """Each case damages one part of a run's file."""
    return [
        lambda run: run["state"].update(surprise=1),
        lambda run: run["state"].update(step=99),
        lambda run: run.pop("random"),
        lambda run: run.update(random={"cpu": torch.zeros(3)}),
        lambda run: run["mean"].popitem(),
        lambda run: run["best"].popitem(),
        lambda run: run["optimizer"].update(param_groups=[]),
        lambda run: run.update(objective={"unknown": torch.zeros(1)}),
    ]


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """A file with these contents and a valid digest."""
    torch.save(content, path)
    path.write_bytes(sealed(path.read_bytes()))


@pytest.mark.parametrize("at", range(8))
def test_a_refused_resume_changes_nothing(draw: Simulation, tmp_path: Path, at: int) -> None:
    config = TrainingConfig(steps=2, evaluations=1, warmup=1, average=0.5)
    path = tmp_path / "run.pt"
    fit(model_for(draw.source_train), MMCDAObjective(), *loaders(draw), config=config, resume=path)
    content = torch.load(path, weights_only=True)
    damaged_runs()[at](content)
    write_sealed(path, content)
    model, objective = model_for(draw.source_train, seed=5), MMCDAObjective()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    rule = r"run\.pt: the run must be undamaged and of the same model and objective, got another or a damaged one"
    with pytest.raises(CheckpointError, match=rule):
        fit(model, objective, *loaders(draw), config=config, resume=path)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_numpy_score_and_a_text_path_can_be_resumed(draw: Simulation, tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, evaluations=1, warmup=1)
    path = str(tmp_path / "run.pt")
    for _ in range(2):
        model, objective = model_for(draw.source_train), MMCDAObjective()
        both = loaders(draw)
        progress = fit(model, objective, *both, config=config, validate=lambda _: np.float64(0.5), resume=path)  # type: ignore[arg-type,return-value]
        assert type(progress.best_score) is float
        assert progress.step == 2


def test_a_validation_on_the_training_loader_changes_no_order(draw: Simulation) -> None:
    config = TrainingConfig(steps=8, evaluations=4, warmup=1)
    weights = {"moment": 1.0}
    kept = []
    for looks in (False, True):
        model, loader = model_for(draw.source_train), ResidentLoader(draw.source_train, 16, drop_last=True)

        scores = iter([1.0, 2.0, 3.0, 4.0])  # the last weights are kept

        def validate(_: MMCDA) -> float:
            if looks:  # noqa: B023
                list(loader)  # noqa: B023
            return next(scores)  # noqa: B023

        fit(model, MMCDAObjective(weights=weights), loader, config=config, validate=validate)
        kept.append(model.state_dict())
    assert len(loader) < config.steps / 2  # several passes, with validations between them
    for name, value in kept[0].items():
        assert torch.equal(value, kept[1][name]), name


def test_training_names_an_empty_loader_and_a_score_that_is_no_number(draw: Simulation) -> None:
    model, objective = model_for(draw.source_train), MMCDAObjective(weights={"moment": 1.0})
    empty = ResidentLoader(draw.source_train, 1000, drop_last=True)
    with pytest.raises(ValueError, match="fit: `source` must give at least one batch"):
        fit(model, objective, empty, config=TrainingConfig(steps=2))
    config = TrainingConfig(steps=2, evaluations=1)
    with pytest.raises(ValueError, match="fit: `validate` must return a finite score, got nan at step 2"):
        fit(model, objective, loaders(draw)[0], config=config, validate=lambda _: math.nan)


def test_pseudo_moments_weigh_by_confidence(draw: Simulation) -> None:
    """Flat start and end logits: every span has probability 1 / T^2, and the term shrinks with it."""
    source, target = draw.source_train.slice(range(4)), draw.target_train.slice(range(4)).without_moments()
    model = model_for(source).eval()
    out = model(target)
    flat = out._replace(logits=MomentLogits(*(torch.zeros_like(z) for z in out.logits)))
    sharp_start = torch.where(torch.arange(out.similarity.shape[1]) == 2, 50.0, 0.0).expand_as(out.similarity)
    sharp = out._replace(logits=MomentLogits(sharp_start, sharp_start, torch.zeros_like(sharp_start)))
    objective = MMCDAObjective(weights={"pseudo_moment": 1.0})
    lengths = target.frame_mask.sum(1).double()
    value = objective(model(source), source, flat, target).total.item()
    plain = 2 * lengths.log() + math.log(2)  # cross-entropies of flat logits
    expected = (lengths**-2).mean() * (plain * lengths**-2).sum() / (lengths**-2).sum()
    assert value == pytest.approx(float(expected), rel=1e-5)
    # certain of the third clip: confidence 1, cross-entropies 0, and the flat inside logits' log 2 is left
    assert objective(model(source), source, sharp, target).total.item() == pytest.approx(math.log(2), rel=1e-5)


def test_a_loss_that_is_not_finite_names_step_and_terms(draw: Simulation) -> None:
    broken = replace(draw.source_train, frames=draw.source_train.frames * math.nan)
    loader = ResidentLoader(broken, 16)
    with pytest.raises(FloatingPointError, match=r"not finite at step 1: \{'moment': nan\}"):
        fit(model_for(broken), MMCDAObjective(weights={"moment": 1.0}), loader, config=TrainingConfig(steps=2))


def test_target_is_required_where_a_term_reads_it(draw: Simulation) -> None:
    with pytest.raises(ValueError, match="fit: `target` must be given for this objective, got none"):
        fit(model_for(draw.source_train), MMCDAObjective(), loaders(draw)[0], config=TrainingConfig(steps=2))


def test_model_files_round_trip_and_refuse_damage(draw: Simulation, tmp_path: Path) -> None:
    batch = draw.target_test.slice(range(3))
    config = MMCDAConfig(batch.frames.shape[-1], batch.words.shape[-1], **SMALL)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = build_mmcda(config).eval()
    path = tmp_path / "folder" / "model.pt"
    save_model(path, model, config, seed=4)
    again, facts = load_model(path)
    assert facts == {"seed": 4}
    torch.testing.assert_close(again(batch).similarity, model(batch).similarity)
    assert list(path.parent.iterdir()) == [path]
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"model\.pt: the checkpoint must be an undamaged file of save_model"):
            load_model(path)
    with pytest.raises(CheckpointError, match=r"none\.pt: the checkpoint must exist"):
        load_model(tmp_path / "none.pt")
    write_sealed(path, {"kind": "something else"})
    with pytest.raises(CheckpointError, match="must be a file of save_model, got another kind of file"):
        load_model(path)


def test_model_files_hold_only_what_can_be_read_again(draw: Simulation, tmp_path: Path) -> None:
    batch = draw.target_test
    config = MMCDAConfig(batch.frames.shape[-1], batch.words.shape[-1], **SMALL)  # type: ignore[arg-type]
    model = build_mmcda(config)
    path = tmp_path / "model.pt"
    rule = r"save_model: `folder` must be a plain value \(number, string, list, mapping\) or a tensor, got "
    with pytest.raises(TypeError, match=rule + "PosixPath|WindowsPath"):
        save_model(path, model, config, seed=1, folder=tmp_path)
    with pytest.raises(TypeError, match=rule + "function"):
        save_model(path, model, config, folder=lambda: 0)
    with pytest.raises(
        TypeError, match=r"save_model: `config\.dropout` must be a plain number, bool or string, got float64"
    ):
        save_model(path, model, replace(config, dropout=np.float64(0.0)))
    with pytest.raises(TypeError, match=r"model\.pt: the checkpoint must hold .*, got others in model"):
        save_file(path, "mmcda model", {"model": {"here": tmp_path}, "seed": 1})
    drawn = torch.get_rng_state()
    came = r"save_model: `config` must be that of the model, got "
    with pytest.raises(ValueError, match=came + r"`\S+` of shape \(20,.*\) for \(16,"):
        save_model(path, model, replace(config, hidden=20))
    with pytest.raises(ValueError, match=came + r"`temperature` 0\.5 for a model with 0\.1"):
        save_model(path, model, replace(config, temperature=0.5))
    assert list(tmp_path.iterdir()) == []
    save_model(str(path), model, config, sizes=[1, 2.0], names={"a": None}, row=torch.ones(2))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert load_model(str(path))[1]["names"] == {"a": None}


def test_damage_is_told_without_the_text_of_torch(draw: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    write_sealed(path, {"kind": "mmcda model", "folder": tmp_path})  # cannot be loaded with weights_only
    rule, came = "be an undamaged file of save_model of this version", "another kind of file or a damaged one"
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: the checkpoint must {rule}, got {came}"
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert str(caught.value) == f"{tmp_path}: the checkpoint must be a readable file, got Is a directory"
    config = MMCDAConfig(12, 10, **SMALL)  # type: ignore[arg-type]
    save_model(path, build_mmcda(config), config)
    content = torch.load(path, weights_only=True)
    content["model"].popitem()
    write_sealed(path, content)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: the weights must match the config, got a damaged file"


def test_another_width_is_named(draw: Simulation) -> None:
    model, batch = model_for(draw.source_train), draw.source_train.slice(range(2))
    with pytest.raises(ValueError, match=r"VideoEncoder: `frames` must have 12 features, got 11"):
        model(replace(batch, frames=batch.frames[..., :-1]))
    with pytest.raises(ValueError, match=r"QueryEncoder: `words` must have 10 features, got 9"):
        model(replace(batch, words=batch.words[..., :-1]))
    exported = torch.export.export(model.video_encoder.eval(), (batch.frames, batch.frame_mask)).module()
    torch.testing.assert_close(
        exported(batch.frames, batch.frame_mask), model.video_encoder(batch.frames, batch.frame_mask)
    )


def test_scores_need_no_target_boundary_and_count_what_they_say(draw: Simulation) -> None:
    model = model_for(draw.source_train).eval()
    source, closed = ResidentLoader(draw.source_val, 7, shuffle=False), draw.target_val.without_moments()
    target = ResidentLoader(closed, 7, shuffle=False, labels=False)
    value = selection_score(model, source, target)
    assert value == pytest.approx(source_score(model, source) + pair_score(model, target))
    with pytest.raises(ValueError, match="must give windows"):
        source_score(model, target)
    # oracle of the retrieval: one padded batch, loops over videos and queries
    with torch.no_grad():
        out = model(closed)
    hits = 0
    for j in range(len(closed)):
        best = []
        for i in range(len(closed)):
            frames = out.joint_frames[i][closed.frame_mask[i]]
            cosines = sorted((frames @ out.joint_query[j]).tolist(), reverse=True)
            top = cosines[: math.ceil(len(cosines) / 8)]
            best.append(sum(top) / len(top))
        hits += int(max(range(len(closed)), key=best.__getitem__) == j)
    assert pair_score(model, target) == pytest.approx(hits / len(closed))


def test_unlabelled_rows_leave_the_source_score_alone(draw: Simulation) -> None:
    batch = draw.source_val
    model = model_for(batch).eval()
    assert batch.window_mask is not None
    known = torch.arange(len(batch)) % 3 == 0
    partly = replace(batch, window_mask=batch.window_mask & known.unsqueeze(1))
    wanted = source_score(model, [batch.slice(known.nonzero()[:, 0])])
    assert source_score(model, [partly]) == pytest.approx(wanted)
    none = replace(batch, window_mask=torch.zeros_like(batch.window_mask))
    assert source_score(model, [none, partly]) == pytest.approx(wanted)
    with pytest.raises(
        ValueError, match="source_score: `loader` must give at least one row with a window, got none in"
    ):
        source_score(model, [none])


def test_predictions_keep_the_order_of_the_loader(draw: Simulation) -> None:
    model = model_for(draw.source_train).eval()
    spans, names = predict_split(model, ResidentLoader(draw.target_test, 6, shuffle=False, labels=False), n=3)
    assert names == draw.target_test.qids
    one = model.predict(draw.target_test.slice([13]), n=3)
    torch.testing.assert_close(spans.windows[13:14], one.windows)


def test_training_learns_its_own_domain(draw: Simulation) -> None:
    """The smallest simulated data, two frames a second: the localizer must be far better than the whole-video span."""
    easy = simulate(World(videos=160, test_videos=40, concepts=12, topics=3, noise=0.2, video_width=12, query_width=10))
    model = model_for(easy.source_train, joint=16, hidden=32)
    weights = {"moment": 1.0, "frame_query": 1.0}
    before = source_score(model.eval(), ResidentLoader(easy.source_val, 40, shuffle=False))
    fit(
        model,
        MMCDAObjective(weights=weights),
        ResidentLoader(easy.source_train, 32, drop_last=True),
        config=TrainingConfig(steps=160, learning_rate=5e-3),
    )
    after = source_score(model, ResidentLoader(easy.source_val, 40, shuffle=False))
    assert after > 0.5 > before
