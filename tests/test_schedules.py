"""Ramps against closed forms, limits and symmetries."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmda.schedules import cosine_decay, dann_ramp, linear_ramp

PROGRESS = st.floats(-2, 3)


@settings(max_examples=40, deadline=None)
@given(PROGRESS, st.floats(0.1, 30))
def test_dann_ramp_is_a_hyperbolic_tangent(progress: float, gamma: float) -> None:
    """2 / (1 + exp(-x)) - 1 = tanh(x / 2)."""
    clipped = min(max(progress, 0.0), 1.0)
    assert dann_ramp(progress, gamma=gamma) == pytest.approx(math.tanh(gamma * clipped / 2), rel=1e-12, abs=1e-15)


def test_dann_ramp_of_the_paper() -> None:
    """gamma = 10: from exactly 0 to short of 1, half way up at log(3) / 10."""
    assert dann_ramp(0.0) == 0
    assert dann_ramp(math.log(3) / 10) == pytest.approx(0.5)
    assert 0.9999 < dann_ramp(1.0) < 1
    assert dann_ramp(5.0) == dann_ramp(1.0)
    assert dann_ramp(-1.0) == 0


@settings(max_examples=40, deadline=None)
@given(PROGRESS, st.floats(0, 1), st.floats(0.01, 1))
def test_linear_ramp_is_the_line_clipped(progress: float, start: float, length: float) -> None:
    end = start + length
    line = (progress - start) / (end - start)
    assert linear_ramp(progress, start=start, end=end) == pytest.approx(min(max(line, 0.0), 1.0), abs=1e-12)


def test_linear_ramp_of_no_length_is_a_step() -> None:
    assert [linear_ramp(p, start=0.5, end=0.5) for p in (0.4999, 0.5, 0.5001)] == [0, 1, 1]


@settings(max_examples=40, deadline=None)
@given(PROGRESS, st.floats(0, 1))
def test_cosine_decay_is_symmetric_about_its_middle(progress: float, floor: float) -> None:
    """v(p) + v(1 - p) = 1 + floor, and v = floor + (1 - floor) cos^2(pi p / 2)."""
    value = cosine_decay(progress, floor=floor)
    assert value + cosine_decay(1 - progress, floor=floor) == pytest.approx(1 + floor)
    clipped = min(max(progress, 0.0), 1.0)
    assert value == pytest.approx(floor + (1 - floor) * math.cos(math.pi * clipped / 2) ** 2, abs=1e-12)


@pytest.mark.parametrize(("ramp", "sign"), [(dann_ramp, 1), (linear_ramp, 1), (cosine_decay, -1)])
def test_ramps_are_monotone_and_stay_in_the_unit_interval(ramp, sign) -> None:
    values = [ramp(k / 50) for k in range(-10, 61)]
    assert all(sign * (b - a) >= 0 for a, b in itertools.pairwise(values))
    assert all(0 <= v <= 1 for v in values)
    assert sorted({values[0], values[-1]}) == pytest.approx([0, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: dann_ramp(0.5, gamma=0), "dann_ramp: `gamma` must be a finite number > 0, got 0"),
        (lambda: linear_ramp(0.5, start=0.8, end=0.2), "linear_ramp: `end` must be a finite number >= 0.8, got 0.2"),
        (lambda: linear_ramp(0.5, start=math.nan), "linear_ramp: `start` must be a finite number, got nan"),
        (lambda: cosine_decay(0.5, floor=1.5), "cosine_decay: `floor` must be a finite number >= 0 and <= 1, got 1.5"),
    ],
)
def test_errors(make, text) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_dann_ramp_reaches_one_by_rounding_alone() -> None:
    assert dann_ramp(1.0, gamma=36.0) < 1.0 == dann_ramp(1.0, gamma=37.0)
