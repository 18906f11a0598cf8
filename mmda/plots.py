"""Plots of results: similarity curves, domain scatter plots, training curves, table rows, p-values.

Every function draws into the given axes, or into a new figure, and returns the axes. matplotlib is imported when a
function is called (``pip install "torch-mmda[plots]"``); its global state is not changed. New figures have a
transparent background and grey text, readable on light and dark pages. Given axes keep their style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmda._core.checks import check_features, check_number, check_same_width, check_tensor, fail, fail_type, shape_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_domains", "plot_p_values", "plot_rows", "plot_similarity", "plot_training"]

#: Source, target, prediction: distinguishable for colour-blind readers, readable on white and on black.
SOURCE, TARGET, PREDICTION = "#3b7dd8", "#e07b39", "#2a9d62"
GREY = "#767676"


def plot_similarity(
    times: Tensor,
    similarity: Tensor,
    *,
    truth: Sequence[Sequence[float]] = (),
    prediction: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the similarity of a video's clips to a query over time, with true and predicted moments.

    Args:
        times: start and end of each clip, in seconds.
        similarity: one number per clip.
        truth: true moments ``[[start, end], ...]`` in seconds, drawn as bands.
        prediction: a moment ``(start, end)`` in seconds, drawn as a bar below the curve.
        ax: axes to draw into; a new figure by default.

    Shape:
        ``times`` (t, 2), ``similarity`` (t,).

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: wrong shapes, a moment that is not a pair of numbers.

    Example:
        >>> edges = torch.arange(6.0)
        >>> times = torch.stack([edges[:-1], edges[1:]], 1)
        >>> ax = plot_similarity(times, torch.tensor([0.1, 0.2, 0.9, 0.8, 0.1]), truth=[[2, 4]], prediction=(2, 5))
        >>> ax.get_xlabel()
        'time, s'
    """
    caller = "plot_similarity"
    check_tensor(caller, "times", times)
    check_tensor(caller, "similarity", similarity)
    if times.ndim != 2 or times.shape[1] != 2 or 0 in times.shape:
        fail(caller, "times", "have shape (clips, 2)", shape_text(times))
    if similarity.shape != times.shape[:1]:
        fail(caller, "similarity", f"have shape ({times.shape[0]},), one number per clip", shape_text(similarity))
    bands = [_moment(caller, "truth", moment) for moment in truth]
    bar = None if prediction is None else _moment(caller, "prediction", prediction)
    axes = _axes(ax, (6.4, 2.4))
    clips, heights = times.detach().double().cpu(), similarity.detach().double().cpu()
    edges = [*clips[:, 0].tolist(), float(clips[-1, 1])]
    axes.stairs(heights.tolist(), edges, baseline=None, color=SOURCE, linewidth=1.6, label="similarity")
    for k, (start, end) in enumerate(bands):
        axes.axvspan(start, end, color=TARGET, alpha=0.25, linewidth=0, label=None if k else "true moment")
    if bar is not None:
        low, high = float(heights.min()), float(heights.max())
        below = low - 0.12 * ((high - low) or 1.0)
        axes.plot(bar, (below, below), color=PREDICTION, linewidth=5, solid_capstyle="butt", label="predicted moment")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("time, s")
    axes.set_ylabel("similarity")
    axes.legend(
        fontsize=8,
        frameon=False,
        labelcolor=axes.xaxis.label.get_color(),
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
    )
    return axes


def plot_domains(
    source: Tensor,
    target: Tensor,
    *,
    source_labels: Tensor | None = None,
    target_labels: Tensor | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot both domains' features on the two principal directions of the pooled sample, one marker per class.

    Args:
        source: source features.
        target: target features.
        source_labels: integers, one per row; rows of one class share a marker.
        target_labels: the same for the target.
        ax: axes to draw into; a new figure by default.

    Shape:
        ``source`` (n, d), ``target`` (m, d), labels (n,) and (m,). With d = 1 the second axis is zero.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: wrong shapes or widths.

    Notes:
        Two samples that overlap in these two directions may differ in others; :func:`mmda.two_sample.permutation_test`
        uses all of them.

    Example:
        >>> ax = plot_domains(torch.randn(20, 5), torch.randn(30, 5) + 1)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['source', 'target']
    """
    caller = "plot_domains"
    check_features(caller, "source", source)
    check_features(caller, "target", target)
    check_same_width(caller, "source", source, "target", target)
    for name, labels, rows in (("source_labels", source_labels, source), ("target_labels", target_labels, target)):
        if labels is not None and labels.shape != rows.shape[:1]:
            fail(caller, name, f"have shape ({rows.shape[0]},)", shape_text(labels))
    axes = _axes(ax, (4.4, 4.0))
    pooled = torch.cat([source.detach().double().cpu(), target.detach().double().cpu()])
    pooled = pooled - pooled.mean(0)
    directions = torch.linalg.svd(pooled, full_matrices=False).Vh[:2]
    flat = pooled @ directions.T
    flat = torch.cat([flat, flat.new_zeros(flat.shape[0], 2 - flat.shape[1])], 1)
    n = source.shape[0]
    for name, places, labels, colour in (
        ("source", flat[:n], source_labels, SOURCE),
        ("target", flat[n:], target_labels, TARGET),
    ):
        groups = [torch.ones(places.shape[0], dtype=torch.bool)]
        if labels is not None:
            groups = [labels.cpu() == value for value in torch.unique(labels).cpu()]
        for k, kept in enumerate(groups):
            x, y = places[kept].T.tolist()
            label = name if k == 0 else None
            axes.scatter(x, y, s=14, alpha=0.7, color=colour, marker="os^Dvp*Xhd"[k % 10], label=label, linewidth=0)
    axes.set_xlabel("first direction")
    axes.set_ylabel("second direction")
    _legend(axes)
    return axes


def plot_training(
    curves: Mapping[str, Sequence[float]],
    *,
    steps: Sequence[float] | None = None,
    logarithmic: bool = True,
    ylabel: str = "value",
    ax: Axes | None = None,
) -> Axes:
    """Plot named curves over steps: terms of an objective, their gradient norms, a score.

    Args:
        curves: lists of numbers by name, possibly of different lengths. NaN leaves a gap.
        steps: positions of the numbers, 1, 2, 3, ... by default.
        logarithmic: use a logarithmic vertical axis if all finite numbers are positive.
        ylabel: label of the vertical axis.
        ax: axes to draw into; a new figure by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: ``curves`` is not a mapping.
        ValueError: no curve, more numbers than steps.

    Example:
        >>> ax = plot_training({"labels": [1.0, 0.5, 0.25], "domain": [0.3, 0.2, 0.1]})
        >>> ax.get_yscale()
        'log'
    """
    caller = "plot_training"
    if not isinstance(curves, Mapping):
        fail_type(caller, "curves", "be a mapping of names to numbers", curves)
    if not curves:
        fail(caller, "curves", "hold at least one curve", "none")
    longest = max(len(values) for values in curves.values())
    places = list(range(1, longest + 1)) if steps is None else list(steps)
    if longest > len(places):
        fail(caller, "steps", f"be as many as the longest curve ({longest})", len(places))
    axes = _axes(ax, (6.4, 3.0))
    for name, values in curves.items():
        axes.plot(places[: len(values)], list(values), label=name, linewidth=1.6)
    finite = [v for values in curves.values() for v in values if math.isfinite(v)]
    if logarithmic and finite and min(finite) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.legend(
        fontsize=8,
        frameon=False,
        labelcolor=axes.xaxis.label.get_color(),
        ncols=min(len(curves), 3),
        loc="lower left",
        bbox_to_anchor=(0, 1),
    )
    return axes


def plot_rows(
    rows: Mapping[str, Sequence[float]],
    *,
    reference: float | None = None,
    xlabel: str = "R@1, IoU=0.5",
    ax: Axes | None = None,
) -> Axes:
    """Plot rows of a table as horizontal bars with intervals, the first on top.

    Args:
        rows: ``{"full": (value,)}`` or ``{"full": (value, low, high)}`` with an interval.
        reference: a reference value, drawn as a line through all bars.
        xlabel: label of the horizontal axis.
        ax: axes to draw into; a new figure by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: ``rows`` is not a mapping.
        ValueError: no row, a row with neither one nor three numbers, an interval that does not contain its value.

    Example:
        >>> ax = plot_rows({"source only": (37.4, 35.0, 39.9), "full": (46.1, 43.8, 48.3)}, reference=44.5)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['source only', 'full']
    """
    caller = "plot_rows"
    if not isinstance(rows, Mapping):
        fail_type(caller, "rows", "be a mapping of names to (value,) or (value, low, high)", rows)
    if not rows:
        fail(caller, "rows", "hold at least one row", "none")
    for name, numbers in rows.items():
        if len(numbers) not in (1, 3):
            fail(caller, f"rows[{name!r}]", "be (value,) or (value, low, high)", f"{len(numbers)} numbers")
        if len(numbers) == 3 and not numbers[1] <= numbers[0] <= numbers[2]:
            fail(caller, f"rows[{name!r}]", "have low <= value <= high", tuple(numbers))
    axes = _axes(ax, (6.4, 0.8 + 0.34 * len(rows)))
    names = list(rows)
    axes.barh(names, [rows[name][0] for name in names], color=SOURCE, height=0.7)
    for k, name in enumerate(names):
        if len(rows[name]) == 3:
            axes.plot(rows[name][1:], (k, k), color=GREY, linewidth=2.2, solid_capstyle="butt")
    if reference is not None:
        check_number(caller, "reference", reference)
        axes.axvline(reference, color=TARGET, linewidth=1.4, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    return axes


def plot_p_values(p_values: Sequence[float], *, level: float = 0.95, ax: Axes | None = None) -> Axes:
    """Plot the empirical distribution of p-values with the diagonal expected under the null hypothesis.

    Args:
        p_values: p-values of repeated tests, in [0, 1].
        level: probability under the null that the whole curve stays inside the band.
        ax: axes to draw into; a new figure by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no p-value, one outside [0, 1], a level outside (0, 1).

    Notes:
        The band is that of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (Annals of Probability 18, 1990):
        half its width is :math:`\\sqrt{\\log(2 / (1 - \\text{level})) / (2 n)}` for n p-values.

    Example:
        >>> ax = plot_p_values([0.1, 0.4, 0.6, 0.9])
        >>> ax.get_xlabel()
        'p-value'
    """
    caller = "plot_p_values"
    check_number(caller, "level", level, above=0.0, below=1.0)
    values = sorted(float(p) for p in p_values)
    if not values:
        fail(caller, "p_values", "hold at least one p-value", "none")
    if not (values[0] >= 0 and values[-1] <= 1):
        fail(caller, "p_values", "lie in [0, 1]", [values[0], values[-1]])
    axes = _axes(ax, (3.8, 3.6))
    n = len(values)
    half = math.sqrt(math.log(2 / (1 - level)) / (2 * n))
    grid = [k / 200 for k in range(201)]
    axes.fill_between(
        grid,
        [max(0.0, p - half) for p in grid],
        [min(1.0, p + half) for p in grid],
        color=GREY,
        alpha=0.25,
        linewidth=0,
        label=f"{level:.0%} band under the null",
    )
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=1)
    axes.step([0.0, *values, 1.0], [0.0, *((k + 1) / n for k in range(n)), 1.0], where="post", color=SOURCE)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("p-value")
    axes.set_ylabel("fraction of tests")
    _legend(axes, loc="lower right")
    return axes


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """``ax``, or the axes of a new figure outside pyplot's global state."""
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('plots need matplotlib, which is not installed: pip install "torch-mmda[plots]"') from None
    axes: Axes = Figure(figsize=size, layout="constrained").subplots()
    on_any_ground(axes)
    return axes


def _legend(axes: Axes, **places: Any) -> None:
    axes.legend(fontsize=8, frameon=False, labelcolor=axes.xaxis.label.get_color(), **places)


def on_any_ground(axes: Axes) -> None:
    """Transparent background, with text and lines in a grey readable on white and black (contrast 4.5 and 4.6 to 1)."""
    if axes.figure is not None:
        axes.figure.patch.set_alpha(0)
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=GREY)
    axes.spines[:].set_color(GREY)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(GREY)


def _moment(caller: str, argument: str, moment: Sequence[float]) -> tuple[float, float]:
    if len(moment) != 2 or not float(moment[0]) <= float(moment[1]):
        fail(caller, argument, "be a moment (start, end) with start <= end", list(moment))
    return float(moment[0]), float(moment[1])
