"""The axes contain the given values (no image is compared)."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmda import plots

pytest.importorskip("matplotlib")
TIMES = torch.tensor([[0.0, 2.0], [2.0, 4.0], [4.0, 5.0]])


def test_the_curve_steps_at_the_clips_edges() -> None:
    ax = plots.plot_similarity(TIMES, torch.tensor([0.2, 0.9, 0.4]), truth=[(1, 3), (4, 5)], prediction=(2, 5))
    curve, *bands = ax.patches
    data = curve.get_data()
    assert data.edges.tolist() == [0, 2, 4, 5]
    np.testing.assert_allclose(data.values, [0.2, 0.9, 0.4], rtol=1e-6)
    assert [(band.get_x(), band.get_x() + band.get_width()) for band in bands] == [(1, 3), (4, 5)]
    (bar,) = ax.lines
    assert list(bar.get_xdata()) == [2, 5]
    assert max(bar.get_ydata()) < 0.2  # below the curve
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "similarity",
        "true moment",
        "predicted moment",
    ]


def test_the_map_keeps_the_distances_of_two_dimensional_samples() -> None:
    """With two features the projection is a rotation, which preserves the distances between rows."""
    x, y = torch.randn(7, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64) + 3
    ax = plots.plot_domains(x, y)
    drawn = torch.cat([torch.as_tensor(np.asarray(c.get_offsets())) for c in ax.collections])
    rows = torch.cat([x, y])
    torch.testing.assert_close(torch.cdist(drawn, drawn), torch.cdist(rows, rows))


def test_the_map_draws_every_class_once_a_domain() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    ax = plots.plot_domains(torch.randn(6, 4), torch.randn(4, 4), source_labels=labels, target_labels=labels[:4])
    assert [len(c.get_offsets()) for c in ax.collections] == [2, 2, 2, 2, 1, 1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["source", "target"]


def test_one_feature_is_drawn_along_one_axis() -> None:
    ax = plots.plot_domains(torch.randn(6, 1), torch.randn(4, 1))
    assert all(np.asarray(c.get_offsets())[:, 1].tolist() == [0] * len(c.get_offsets()) for c in ax.collections)


@pytest.mark.parametrize(("values", "scale"), [([1.0, 0.1], "log"), ([1.0, -0.1], "linear"), ([0.0, 1.0], "linear")])
def test_the_scale_is_logarithmic_where_it_can_be(values: list[float], scale: str) -> None:
    ax = plots.plot_training({"a": [math.nan, *values], "b": [1.0]})
    assert ax.get_yscale() == scale
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2, 3], [1]]


def test_rows_stand_in_their_order_with_their_intervals() -> None:
    ax = plots.plot_rows({"first": (3.0,), "second": (5.0, 4.0, 7.0)}, reference=4.5)
    assert [bar.get_width() for bar in ax.patches] == [3, 5]
    interval, line = ax.lines
    assert list(interval.get_xdata()) == [4, 7]
    assert list(line.get_xdata()) == [4.5, 4.5]
    low, high = ax.get_ylim()
    assert low > high  # the first row is on top


def test_the_band_holds_the_curve_of_uniform_p_values_and_not_of_small_ones() -> None:
    n = 100
    ax = plots.plot_p_values([(k + 0.5) / n for k in range(n)])
    half = math.sqrt(math.log(2 / 0.05) / (2 * n))
    band = ax.collections[0].get_paths()[0].vertices
    at_half = band[np.isclose(band[:, 0], 0.5)][:, 1]
    assert (at_half.min(), at_half.max()) == pytest.approx((0.5 - half, 0.5 + half))
    curve = ax.lines[1]
    assert np.abs(np.asarray(curve.get_ydata()) - np.asarray(curve.get_xdata())).max() <= 0.0101


def test_they_draw_where_they_are_told() -> None:
    from matplotlib.figure import Figure

    own = Figure().subplots()
    assert plots.plot_rows({"a": (1.0,)}, ax=own) is own


def luminance(colour: Any) -> float:
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def test_a_figure_of_its_own_is_read_on_white_and_on_black_and_given_axes_keep_their_style() -> None:
    from matplotlib.figure import Figure

    ax = plots.plot_training({"a": [1.0, 2.0]})
    assert ax.figure.patch.get_alpha() == 0
    for ink in (ax.xaxis.label.get_color(), ax.get_legend().get_texts()[0].get_color()):
        assert min(1.05 / (luminance(ink) + 0.05), (luminance(ink) + 0.05) / 0.05) > 4
    own = Figure().subplots()
    plots.plot_training({"a": [1.0, 2.0]}, ax=own)
    assert own.figure.patch.get_alpha() is None
    assert luminance(own.xaxis.label.get_color()) == luminance(own.get_legend().get_texts()[0].get_color()) == 0


CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: plots.plot_similarity(TIMES[:, :1], torch.ones(3)), r"`times` must have shape \(clips, 2\), got \(3, 1\)"),
    (lambda: plots.plot_similarity(TIMES, torch.ones(2)), r"`similarity` must have shape \(3,\)"),
    (lambda: plots.plot_similarity(TIMES, torch.ones(3), truth=[(3, 1)]), r"`truth` must be a moment .* got \[3, 1\]"),
    (lambda: plots.plot_domains(torch.ones(3, 2), torch.ones(3, 4)), "`target` must"),
    (lambda: plots.plot_domains(torch.ones(3, 2), torch.ones(3, 2), source_labels=torch.ones(2)), "`source_labels`"),
    (lambda: plots.plot_training({}), "`curves` must hold at least one curve"),
    (lambda: plots.plot_training({"a": [1, 2]}, steps=[1]), "`steps` must be as many as the longest curve"),
    (lambda: plots.plot_rows({"a": (1.0, 2.0)}), "2 numbers"),
    (lambda: plots.plot_rows({"a": (1.0, 2.0, 3.0)}), "low <= value <= high"),
    (lambda: plots.plot_p_values([]), "at least one p-value"),
    (lambda: plots.plot_p_values([0.5, 1.5]), r"`p_values` must lie in \[0, 1\]"),
]


@pytest.mark.parametrize(("call", "text"), CALLS)
def test_bad_input_says_what(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("call", [lambda: plots.plot_training([1.0]), lambda: plots.plot_rows([1.0])])
def test_what_is_no_mapping_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="mapping"):
        call()


def test_without_matplotlib_the_error_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('none here')\n", encoding="utf-8")
    code = "\n".join(
        ("import sys", f"sys.path.insert(0, {str(tmp_path)!r})", "from mmda.plots import *", "plot_rows({'a': (1.0,)})")
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert 'pip install "torch-mmda[plots]"' in run.stderr
