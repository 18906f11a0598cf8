"""Targets for moments in seconds, and the localization loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmda.losses import MomentLocalizationLoss, MomentTargets, moment_localization_loss, moment_targets
from tests.losses._videos import FILLERS, repeated
from tests.reference import retrieval as reference

LENGTHS = (5, 2, 7, 1)
Window = tuple[float, float]


def grid(length: int, clip: float = 2.0) -> list[Window]:
    return [(clip * t, clip * (t + 1)) for t in range(length)]


def padded_targets(
    windows: list[list[Window]], clips: list[list[Window]], filler: float = 0.0, extra: int = 0
) -> tuple[MomentTargets, Tensor]:
    """The targets and the frame mask; padding of windows and clips holds the filler."""
    w, t = max(map(len, windows)) + extra, max(map(len, clips)) + extra
    window_times, clip_times = (torch.full((len(clips), size, 2), filler, dtype=torch.float64) for size in (w, t))
    window_mask, frame_mask = (torch.zeros(len(clips), size, dtype=torch.bool) for size in (w, t))
    for row, (own, times) in enumerate(zip(windows, clips)):
        if own:
            window_times[row, : len(own)] = torch.tensor(own, dtype=torch.float64)
        clip_times[row, : len(times)] = torch.tensor(times, dtype=torch.float64)
        window_mask[row, : len(own)], frame_mask[row, : len(times)] = True, True
    return moment_targets(window_times, window_mask, clip_times, frame_mask), frame_mask


def targets_of(window: Window, clips: list[Window]) -> tuple[list[int], list[int], list[int]]:
    """Clips with start mass, with end mass, inside."""
    targets, _ = padded_targets([[window]], [clips])
    start, end, inside = (field[0].nonzero().flatten().tolist() for field in targets)
    return start, end, inside


# Targets.


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    filler=st.sampled_from(FILLERS),
)
def test_targets_against_loops_whatever_padding_holds(lengths, seed, filler) -> None:
    """Up to three windows a row, shorter and longer than clips, beyond the video too; clips of uneven length."""
    rng = np.random.default_rng(seed)
    clips, windows = [], []
    for length in lengths:
        edges = np.concatenate([[0], np.cumsum(rng.uniform(0.5, 3, size=length))])
        clips.append(list(zip(edges[:-1].tolist(), edges[1:].tolist())))
        starts = rng.uniform(0, 1.2 * edges[-1], size=rng.integers(0, 4))
        windows.append([(a, a + rng.uniform(0.01, edges[-1])) for a in starts.tolist()])
    targets, _ = padded_targets(windows, clips, filler, extra=1)
    for row, length in enumerate(lengths):
        if windows[row]:
            start, end, inside = reference.targets(windows[row], clips[row])
            assert targets.start[row, :length].tolist() == pytest.approx(start)
            assert targets.end[row, :length].tolist() == pytest.approx(end)
            assert targets.inside[row, :length].tolist() == inside
            mass = 1 if any(start) else 0  # every window may lie past the clips
            assert targets.start[row].sum().item() == pytest.approx(mass)
            assert targets.end[row].sum().item() == pytest.approx(mass)
        else:
            assert not any(field[row].any() for field in targets)
        assert not any(field[row, length:].any() for field in targets)


def test_moments_on_a_grid() -> None:
    clips = grid(5)  # centres 1, 3, 5, 7, 9
    assert targets_of((2.0, 6.0), clips) == ([1], [2], [1, 2])
    assert targets_of((0.0, 10.0), clips) == ([0], [4], [0, 1, 2, 3, 4])
    assert targets_of((3.0, 5.0), clips) == ([1], [1], [1])  # [3, 5) holds the centre 3, not 5
    assert targets_of((2.9, 5.1), clips) == ([1], [2], [1, 2])


def test_a_moment_shorter_than_a_clip_owns_the_clip_it_is_in() -> None:
    clips = grid(5)
    assert targets_of((4.1, 4.6), clips) == ([2], [2], [2])
    assert targets_of((5.5, 5.9), clips) == ([2], [2], [2])
    assert targets_of((7.2, 7.2), clips) == ([3], [3], [3])  # no length at all
    assert targets_of((0.0, 0.0), clips) == ([0], [0], [0])
    assert targets_of((30.0, 31.0), clips) == ([], [], [])  # beyond the clips: no target


def test_several_windows_share_the_mass() -> None:
    targets, _ = padded_targets([[(0.0, 4.0), (2.0, 8.0), (2.2, 2.4)]], [grid(5)])
    assert targets.start[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0, 0])
    assert targets.end[0].tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3, 0])
    assert targets.inside[0].tolist() == [True, True, True, True, False]


def test_a_video_without_a_clip_has_no_targets() -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    targets = moment_targets(torch.tensor([[[0.0, 1.0]]]), one, torch.zeros(1, 3, 2), torch.zeros(1, 3).bool())
    assert not any(field.any() for field in targets)


@pytest.mark.parametrize(
    ("windows", "window_mask", "clips", "frame_mask", "text"),
    [
        ((2, 2), (2, 1), (2, 3, 2), (2, 3), r"`windows` must have shape \(batch, windows, 2\), got \(2, 2\)"),
        ((2, 1, 2), (2, 1), (2, 3), (2, 3), r"`clip_times` must have shape \(batch, clips, 2\), got \(2, 3\)"),
        ((2, 1, 2), (2, 2), (2, 3, 2), (2, 3), r"`window_mask` must have shape \(2, 1\), got \(2, 2\)"),
        ((2, 1, 2), (2, 1), (2, 3, 2), (2, 4), r"`frame_mask` must have shape \(2, 3\), got \(2, 4\)"),
        (
            (1, 1, 2),
            (1, 1),
            (2, 3, 2),
            (2, 3),
            r"`windows` must have as many rows as `clip_times` \(2\), got \(1, 1, 2\)",
        ),
        ((2, 1, 3), (2, 1), (2, 3, 2), (2, 3), r"`windows` must have shape \(batch, windows, 2\), got \(2, 1, 3\)"),
        ((2, 1, 2), (2, 1), (2, 3, 1), (2, 3), r"`clip_times` must have shape \(batch, clips, 2\), got \(2, 3, 1\)"),
    ],
)
def test_errors_of_targets(windows, window_mask, clips, frame_mask, text) -> None:
    masks = (torch.ones(shape, dtype=torch.bool) for shape in (window_mask, frame_mask))
    with pytest.raises(ValueError, match="moment_targets: " + text):
        moment_targets(torch.zeros(windows), next(masks), torch.zeros(clips), next(masks))


# The loss.


class Problem:
    """Logits and targets of rows of different lengths; row 1 has no moment."""

    def __init__(self, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> None:
        rng = np.random.default_rng(seed)
        self.logits = [[3 * rng.normal(size=length) for length in lengths] for _ in range(3)]
        self.clips = [grid(length) for length in lengths]
        self.windows: list[list[Window]] = [
            [] if row == 1 else [(a, a + rng.uniform(0.1, 6)) for a in rng.uniform(0, 2 * length, size=1 + row % 2)]
            for row, length in enumerate(lengths)
        ]

    def expected(self, index: list[int]) -> float:
        wanted = [
            reference.targets(own, clips) if own else ([0.0], [0.0], [False])
            for own, clips in zip(self.windows, self.clips)
        ]
        return reference.localization(*([side[i] for i in index] for side in self.logits), [wanted[i] for i in index])

    def padded(self, filler: float = 0.0) -> tuple[list[Tensor], MomentTargets, Tensor]:
        targets, mask = padded_targets(self.windows, self.clips, extra=1)
        sides = []
        for side in self.logits:
            out = torch.full(mask.shape, filler, dtype=torch.float64)
            out[mask] = torch.from_numpy(np.concatenate(side))
            sides.append(out)
        return sides, targets, mask


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), filler=st.sampled_from(FILLERS))
def test_against_loops_whatever_padding_holds(seed, filler) -> None:
    problem = Problem(seed)
    sides, targets, mask = problem.padded(filler)
    leaves = [side.requires_grad_() for side in sides]
    spoiled = MomentTargets(*(torch.where(mask, field.double(), filler) for field in targets))
    for fields in (targets, spoiled):
        value = moment_localization_loss(*leaves, fields, frame_mask=mask)
        assert value.item() == pytest.approx(problem.expected([0, 2, 3]), rel=1e-9)
        for gradient in torch.autograd.grad(value, leaves):
            assert gradient.isfinite().all()
            assert gradient[mask].abs().max() > 0
            assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))
            assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))


def test_cross_entropies_of_the_framework() -> None:
    """One clip for start and end each: torch's own cross-entropy with an index, and its binary one."""
    logits = [torch.from_numpy(np.random.default_rng(s).normal(size=(3, 6))) for s in range(3)]
    first, last = torch.tensor([0, 2, 1]), torch.tensor([3, 2, 5])
    steps = torch.arange(6)
    inside = (steps >= first[:, None]) & (steps <= last[:, None])
    targets = MomentTargets(torch.eye(6).double()[first], torch.eye(6).double()[last], inside)
    losses = torch.nn.functional
    expected = losses.cross_entropy(logits[0], first) + losses.cross_entropy(logits[1], last)
    expected = expected + losses.binary_cross_entropy_with_logits(logits[2], inside.double())
    torch.testing.assert_close(moment_localization_loss(*logits, targets), expected)


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(lambda c: c[0] + c[2] + c[3]))
def test_weights_are_counts(counts) -> None:
    """The weight of a row without a moment does not matter."""
    problem = Problem()
    sides, targets, mask = problem.padded()
    value = moment_localization_loss(*sides, targets, frame_mask=mask, weight=torch.tensor(counts))
    assert value.item() == pytest.approx(problem.expected(repeated(counts)), rel=1e-9)


def test_absent_rows_may_hold_anything() -> None:
    problem = Problem()
    sides, targets, mask = problem.padded()
    expected = moment_localization_loss(
        *(s[:1] for s in sides), MomentTargets(*(f[:1] for f in targets)), frame_mask=mask[:1]
    )
    for side in sides:
        side[1:] = math.nan
        side.requires_grad_()
    mask[3] = False
    weight = torch.tensor([2.0, 1.0, 0.0, 1.0])
    value = moment_localization_loss(*sides, targets, frame_mask=mask, weight=weight)
    torch.testing.assert_close(value, expected)
    for gradient in torch.autograd.grad(value, sides):
        assert gradient[0].abs().max() > 0
        assert torch.equal(gradient[1:], torch.zeros_like(gradient[1:]))


def test_no_moment_gives_a_connected_zero() -> None:
    sides = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    nothing = MomentTargets(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    value = moment_localization_loss(*sides, nothing)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, sides):
        assert torch.equal(gradient, torch.zeros(2, 3))


def test_extreme_logits_stay_exact() -> None:
    """The loss of a certain, right answer is 0, that of a certain, wrong one its margin, without a logarithm of 0."""
    start, inside = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    targets = MomentTargets(start, start, inside)
    right = 1e4 * torch.tensor([[1.0, -1.0]])
    assert moment_localization_loss(right, right, right, targets).item() == 0
    assert moment_localization_loss(-right, -right, -right, targets).item() == pytest.approx(2e4 + 2e4 + 1e4)


def test_derivatives() -> None:
    sides, targets, mask = Problem(lengths=(3, 2)).padded()
    leaves = tuple(side.requires_grad_() for side in sides)

    def function(*logits: Tensor) -> Tensor:
        return moment_localization_loss(*logits, targets, frame_mask=mask)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype) -> None:
    sides, targets, mask = Problem().padded()
    half = [side.to(dtype) for side in sides]
    value = moment_localization_loss(*half, targets, frame_mask=mask)
    assert value.dtype == torch.float32
    expected = moment_localization_loss(*(side.float() for side in half), targets, frame_mask=mask)
    assert torch.equal(value, expected)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(moment_localization_loss(*half, targets, frame_mask=mask), expected)


@pytest.mark.parametrize(
    ("shapes", "options", "error", "text"),
    [
        (((2, 3, 1), (2, 3), (2, 3), (2, 3)), {}, ValueError, r"`start_logits` must have shape \(batch, clips\), got"),
        (
            ((2, 3), (2, 4), (2, 3), (2, 3)),
            {},
            ValueError,
            r"`end_logits` must have the shape of `start_logits` \(2, 3\)",
        ),
        (((2, 3), (2, 3), (3, 3), (2, 3)), {}, ValueError, r"`inside_logits` must have the shape of `start_logits`"),
        (((2, 3), (2, 3), (2, 3), (2, 4)), {}, ValueError, r"`targets.start` must have the shape of `start_logits`"),
        (((2, 3),) * 4, {"frame_mask": torch.ones(2, 3)}, TypeError, "`frame_mask` must be a bool tensor"),
        (((2, 3),) * 4, {"weight": torch.ones(3)}, ValueError, r"`weight` must have shape \(2,\), got \(3,\)"),
    ],
)
def test_errors(shapes, options, error, text) -> None:
    *logits, target = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(error, match="moment_localization_loss: " + text):
        moment_localization_loss(*logits, MomentTargets(target, target, target.bool()), **options)


def test_module_is_the_function() -> None:
    sides, targets, mask = Problem().padded()
    expected = moment_localization_loss(*sides, targets, frame_mask=mask)
    assert torch.equal(MomentLocalizationLoss()(*sides, targets, frame_mask=mask), expected)


def test_a_moment_outside_the_clips_has_no_target() -> None:
    """15 clips of 0.5 s reach to 7.5 s: (28, 30) has no target, and (7, 30) the last clips, once the mass is shared."""
    edges = torch.arange(16) * 0.5
    clips = torch.stack([edges[:-1], edges[1:]], 1)[None]
    mask = torch.ones(1, 15, dtype=torch.bool)

    def targets(*windows: tuple[float, float], offset: float = 0.0) -> MomentTargets:
        times = torch.tensor([windows])
        return moment_targets(times, torch.ones(1, len(windows), dtype=torch.bool), clips + offset, mask)

    for alone in (targets((28.0, 30.0)), targets((7.5, 9.0)), targets((0.0, 2.0), offset=2.0)):
        assert not alone.inside.any()
        assert float(alone.start.abs().sum() + alone.end.abs().sum()) == 0
    both = targets((28.0, 30.0), (7.0, 30.0))
    assert both.start.nonzero().tolist() == both.end.nonzero().tolist() == [[0, 14]]
    assert float(both.start.sum()) == 1
    zeros = torch.zeros(1, 15, requires_grad=True)
    loss = moment_localization_loss(zeros, zeros, zeros, targets((28.0, 30.0)))
    assert loss.item() == 0
