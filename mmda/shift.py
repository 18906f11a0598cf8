"""Measures of the shift between two domains' features, by modality or layer, before and after adaptation.

From code, :func:`shift_report`; from a shell::

    python -m mmda.shift source.npy target.npy
    python -m mmda.shift source.npz target.npz --after adapted_source.npz adapted_target.npz --plot shift.png

A ``.npy`` file holds one array (samples, features), a ``.npz`` file one named array per modality or layer. Exit code 0:
success. Exit code 2: bad input, with one line on standard error that names file and rule; no partial files are left.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmda._core.checks import (
    check_count,
    check_features,
    check_same_width,
    check_tensor,
    check_values,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.components import check_kernel
from mmda._core.files import MAX_BYTES, open_file, write_file
from mmda.kernels import Gaussian, Kernel
from mmda.losses import coral_loss, energy_distance_loss
from mmda.plots import GREY, on_any_ground
from mmda.two_sample import permutation_test

Samples = Tensor | NDArray[Any]

#: Default seed of the rows, permutations and folds.
_SEED = 0x73686966

#: Penalty of the ridge classifier, for standardised features divided by the square root of their number.
_PENALTY = 1.0

#: Scores (of labels -1 and 1) up to this size are ties, zero up to rounding. The system is scaled to a condition number
#: of at most the number of rows plus one, so a few thousand rows give errors of 1e-12.
_TIE = 1e-9


@dataclass(frozen=True)
class Shift:
    """Measures of the shift between one pair of samples.

    Args:
        source_rows: number of source rows used.
        target_rows: number of target rows used.
        features: number of features.
        squared_mmd: unbiased squared maximum mean discrepancy (:func:`mmda.losses.mmd_loss`).
        p_value: p-value of ``squared_mmd`` by :func:`mmda.two_sample.permutation_test`.
        energy_distance: :func:`mmda.losses.energy_distance_loss`, in the features' unit.
        mean_shift: distance of the means, in the features' unit.
        relative_mean_shift: ``mean_shift`` over the square root of the mean of both samples' total variances.
        scale_ratio: square root of the ratio of total variances, target over source; 1 for equal scales, NaN for a
            constant source.
        coral: :func:`mmda.losses.coral_loss`.
        classifier_error: cross-validated balanced error of a linear domain classifier; 0.5 if it cannot separate the
            domains.
        proxy_a_distance: 2 (1 - 2 classifier_error): 2 for perfectly separable domains, about 0 (or slightly negative
            by chance) for inseparable ones.
    """

    source_rows: int
    target_rows: int
    features: int
    squared_mmd: float
    p_value: float
    energy_distance: float
    mean_shift: float
    relative_mean_shift: float
    scale_ratio: float
    coral: float
    classifier_error: float
    proxy_a_distance: float

    def to_dict(self) -> dict[str, int | float | None]:
        """Plain values for JSON; an undefined ratio is None."""
        return {name: value if math.isfinite(value) else None for name, value in dataclasses.asdict(self).items()}


#: Table columns: heading, attribute, format.
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("MMD^2", "squared_mmd", ".4f"),
    ("p", "p_value", ".3f"),
    ("energy", "energy_distance", ".4g"),
    ("mean", "mean_shift", ".4g"),
    ("mean/sd", "relative_mean_shift", ".3f"),
    ("scale", "scale_ratio", ".3f"),
    ("CORAL", "coral", ".3g"),
    ("error", "classifier_error", ".3f"),
    ("A-dist", "proxy_a_distance", ".3f"),
)

#: Plot panels: title, attribute, value without a shift.
_PANELS: tuple[tuple[str, str, float], ...] = (
    ("squared MMD", "squared_mmd", 0.0),
    ("mean shift / spread", "relative_mean_shift", 0.0),
    ("scale ratio", "scale_ratio", 1.0),
    ("proxy A-distance", "proxy_a_distance", 0.0),
)


@dataclass(frozen=True)
class ShiftReport:
    """Shifts by name, before and optionally after adaptation; ``str(report)`` is a table.

    Args:
        before: a :class:`Shift` per modality or layer.
        after: the same names after adaptation, or None.

    Example:
        >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        >>> report = shift_report({"video": (x[:30], x[30:] + 2)}, after={"video": (x[:30], x[30:])})
        >>> report.after["video"].squared_mmd < report.before["video"].squared_mmd
        True
    """

    before: Mapping[str, Shift]
    after: Mapping[str, Shift] | None = None

    def _rows(self) -> list[tuple[str, Shift]]:
        if self.after is None:
            return list(self.before.items())
        pairs = [
            ((f"{name} before", shift), (f"{name} after", self.after[name])) for name, shift in self.before.items()
        ]
        return [row for pair in pairs for row in pair]

    def __str__(self) -> str:
        table = [["", "rows", *(heading for heading, _, _ in _COLUMNS)]]
        for name, shift in self._rows():
            values = [format(getattr(shift, attribute), form) for _, attribute, form in _COLUMNS]
            table.append([name, f"{shift.source_rows}+{shift.target_rows}", *values])
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = []
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, dict[str, dict[str, int | float | None]] | None]:
        """Plain values for JSON: ``{"before": {name: {...}}, "after": {...} or None}``."""
        after = None if self.after is None else {name: shift.to_dict() for name, shift in self.after.items()}
        return {"before": {name: shift.to_dict() for name, shift in self.before.items()}, "after": after}

    def plot(self, path: str | Path) -> None:
        """Save a bar plot by name, before and after adaptation; the file extension determines the format.

        Args:
            path: such as ``shift.png`` or ``shift.pdf``.

        Raises:
            ImportError: matplotlib is missing (``pip install "torch-mmda[plots]"``).
            ValueError: matplotlib cannot write this format.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(
                'plots need matplotlib, which is not installed: pip install "torch-mmda[plots]"'
            ) from None
        names = list(self.before)
        series = [("before" if self.after is not None else "", self.before, "#4c72b0")]
        if self.after is not None:
            series.append(("after", self.after, "#dd8452"))
        figure = Figure(figsize=(3 * len(_PANELS), 1.2 + 0.35 * len(series) * len(names)), layout="constrained")
        height = 0.8 / len(series)
        for axes, (title, attribute, neutral) in zip(figure.subplots(1, len(_PANELS), sharey=True), _PANELS):
            for k, (label, shifts, colour) in enumerate(series):
                places = [i + (k - (len(series) - 1) / 2) * height for i in range(len(names))]
                values = [getattr(shifts[name], attribute) for name in names]
                axes.barh(places, [v - neutral for v in values], height, left=neutral, label=label, color=colour)
            on_any_ground(axes)
            axes.axvline(neutral, color=GREY, linewidth=0.8)
            axes.set_title(title, fontsize=10)
            axes.set_yticks(range(len(names)), names)
        figure.axes[0].invert_yaxis()
        if self.after is not None:
            figure.axes[-1].legend(fontsize=8, labelcolor=GREY, frameon=False)
        drawn = io.BytesIO()
        figure.savefig(drawn, format=Path(path).suffix.removeprefix(".").lower() or "png", dpi=150)
        write_file(path, drawn.getvalue())


def shift_report(
    before: Mapping[str, tuple[Samples, Samples]],
    after: Mapping[str, tuple[Samples, Samples]] | None = None,
    *,
    kernel: Kernel = Gaussian(),
    permutations: int = 500,
    folds: int = 5,
    max_rows: int = 2000,
    generator: torch.Generator | None = None,
) -> ShiftReport:
    """Discrepancies, moments and separability of pairs of samples, by name; smaller numbers mean closer domains.

    Args:
        before: ``{"video": (source, target), ...}``: the features of both domains per modality or layer.
        after: the same names with features of the adapted model.
        kernel: kernel of the MMD; its bandwidth is set for each pair.
        permutations: number of permutations; the smallest possible p-value is 1 / (1 + permutations).
        folds: folds of the classifier's cross-validation.
        max_rows: larger samples are randomly subsampled to this size.
        generator: CPU generator of rows, permutations and folds. Without one they are the same in every call.

    Shape:
        Each ``source`` (n, d), ``target`` (m, d); d may differ between names.

    Returns:
        A report that can be printed as a table, converted for JSON, and plotted.

    Raises:
        ValueError: no pair, wrong shapes or widths, fewer rows than folds, values that are not finite, different names
            before and after.
        TypeError: features that are not real numbers.

    Notes:
        The p-value assumes independent rows: pass one row per video (its pooled frames), not its frames. The classifier
        is ridge regression on domain labels -1 and 1, on standardised features, with equal weight per domain and a
        penalty of one for features scaled to unit length; folds are stratified. Measures in the features' unit (energy,
        mean, CORAL) can be compared before and after only if adaptation keeps the scale. O(r^2 (d + permutations)) time
        for r = 2 ``max_rows``, 8 r^2 bytes a few times over.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> source, target = torch.randn(50, 3, generator=generator), 2 * torch.randn(40, 3, generator=generator)
        >>> shift = shift_report({"video": (source, target)}).before["video"]
        >>> shift.p_value < 0.05, 1.5 < shift.scale_ratio < 2.5
        (True, True)

    References:
        Gretton et al., JMLR 13 (2012), for MMD and its test; Székely & Rizzo (2013), for the energy distance; Sun &
        Saenko (2016), for CORAL; Ben-David et al., "A theory of learning from different domains", Machine Learning 79
        (2010), for the proxy A-distance.
    """
    caller = "shift_report"
    for name, count, least in (("permutations", permutations, 1), ("folds", folds, 2), ("max_rows", max_rows, 2)):
        check_count(caller, name, count, at_least=least)
    check_kernel(caller, "kernel", kernel)
    _check_pairs(caller, "before", before)
    if after is not None:
        _check_pairs(caller, "after", after)
    if not before:
        fail(caller, "before", "hold at least one pair of samples", "none")
    if after is not None and set(after) != set(before):
        fail(caller, "after", f"have the names of `before` ({', '.join(sorted(before))})", ", ".join(sorted(after)))
    draws = torch.Generator().manual_seed(_SEED) if generator is None else generator

    def measured(pairs: Mapping[str, tuple[Samples, Samples]]) -> dict[str, Shift]:
        return {name: _measure(name, *pairs[name], kernel, permutations, folds, max_rows, draws) for name in before}

    return ShiftReport(measured(before), None if after is None else measured(after))


def _check_pairs(caller: str, argument: str, pairs: object) -> None:
    """Require a mapping of names to (source, target)."""
    if not isinstance(pairs, Mapping):
        rule = 'be a mapping of names to pairs (source, target), such as {"features": (source, target)}'
        fail_type(caller, argument, rule, pairs)
    for name, pair in pairs.items():
        if not isinstance(pair, (tuple, list)):
            fail_type(caller, f"{argument}[{name!r}]", "be a pair (source, target)", pair)
        if len(pair) != 2:
            fail(caller, f"{argument}[{name!r}]", "be a pair (source, target)", f"{len(pair)} samples")


@torch.no_grad()
def _measure(
    name: str,
    source: Samples,
    target: Samples,
    kernel: Kernel,
    permutations: int,
    folds: int,
    max_rows: int,
    generator: torch.Generator,
) -> Shift:
    caller = f"shift_report: {name}"
    x = _rows(caller, "source", source, max_rows, generator)
    y = _rows(caller, "target", target, max_rows, generator).to(x.device)
    check_same_width(caller, "source", x, "target", y)
    for side, rows in (("source", x), ("target", y)):
        if rows.shape[0] < folds:
            fail(caller, side, f"have at least {folds} rows, one per fold", shape_text(rows))
    test = permutation_test(x, y, kernel=kernel, permutations=permutations, generator=generator)
    x_variance, y_variance = float(x.var(0).sum()), float(y.var(0).sum())
    mean_shift = float((x.mean(0) - y.mean(0)).norm())
    spread = math.sqrt((x_variance + y_variance) / 2)
    error = _domain_error(x, y, folds, generator)
    return Shift(
        source_rows=x.shape[0],
        target_rows=y.shape[0],
        features=x.shape[1],
        squared_mmd=test.statistic,
        p_value=test.p_value,
        energy_distance=float(energy_distance_loss(x, y)),
        mean_shift=mean_shift,
        relative_mean_shift=mean_shift / spread if spread > 0 else math.nan,
        scale_ratio=math.sqrt(y_variance / x_variance) if x_variance > 0 else math.nan,
        coral=float(coral_loss(x, y)),
        classifier_error=error,
        proxy_a_distance=2 * (1 - 2 * error),
    )


def _rows(caller: str, side: str, samples: Samples, max_rows: int, generator: torch.Generator) -> Tensor:
    """At most ``max_rows`` finite float64 rows; only these are read from a memory-mapped array."""
    if not isinstance(samples, (Tensor, np.ndarray)):
        raise TypeError(f"{caller}: `{side}` must be a tensor or a numpy array, got {type(samples).__name__}")
    real = samples.dtype.kind in "fiub" if isinstance(samples, np.ndarray) else not samples.is_complex()
    if not real:
        raise TypeError(f"{caller}: `{side}` must hold real numbers, got {samples.dtype}")
    if isinstance(samples, Tensor):
        check_tensor(caller, side, samples)
        check_values(caller, side, samples)
    if samples.ndim != 2:
        fail(caller, side, "have shape (samples, features)", str(tuple(samples.shape)))
    if samples.shape[0] > max_rows:
        chosen = torch.randperm(samples.shape[0], generator=generator)[:max_rows].sort().values
        samples = samples[chosen.numpy()] if isinstance(samples, np.ndarray) else samples[chosen.to(samples.device)]
    rows = torch.from_numpy(np.array(samples, dtype=np.float64)) if isinstance(samples, np.ndarray) else samples
    rows = rows.detach().double()
    check_features(caller, side, rows)
    if not bool(torch.isfinite(rows).all()):
        fail(caller, side, "be finite", f"{int((~torch.isfinite(rows)).sum())} NaN or infinite values")
    return rows


def _domain_error(x: Tensor, y: Tensor, folds: int, generator: torch.Generator) -> float:
    """Balanced error rate under stratified cross-validation; a tie counts half."""
    x_fold, y_fold = ((torch.randperm(rows.shape[0], generator=generator) % folds).to(rows.device) for rows in (x, y))
    wrong = [0.0, 0.0]
    for fold in range(folds):
        score = _ridge(x[x_fold != fold], y[y_fold != fold], torch.cat([x[x_fold == fold], y[y_fold == fold]]))
        held_out = int((x_fold == fold).sum())
        for side, scores in ((0, score[:held_out]), (1, -score[held_out:])):
            wrong[side] += float((scores > _TIE).sum() + 0.5 * (scores.abs() <= _TIE).sum())
    return (wrong[0] / x.shape[0] + wrong[1] / y.shape[0]) / 2


def _ridge(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Scores of a ridge regression on -1 (source) and 1 (target), with equal weight per domain."""
    n, m = x.shape[0], y.shape[0]
    rows = torch.cat([x, y])
    share = torch.cat([x.new_full((n,), 0.5 / n), x.new_full((m,), 0.5 / m)])
    centre = share @ rows
    deviation = (share @ (rows - centre).square()).sqrt()
    # A feature that varies only by rounding is treated as constant.
    constant = deviation <= 1e-12 * (1 + centre.abs())
    unit = torch.where(constant, math.inf, deviation * math.sqrt(rows.shape[1]))
    rows, points = (rows - centre) / unit, (at - centre) / unit
    root = (share * (n + m)).sqrt().unsqueeze(1)
    design = rows * root
    label = torch.cat([x.new_full((n,), -1.0), x.new_ones(m)]).unsqueeze(1) * root
    if rows.shape[1] <= rows.shape[0]:
        normal = design.T @ design
        normal.diagonal().add_(_PENALTY)
        slopes = torch.linalg.solve(normal, design.T @ label)
    else:
        normal = design @ design.T
        normal.diagonal().add_(_PENALTY)
        slopes = design.T @ torch.linalg.solve(normal, label)
    # The weighted means of rows and labels are zero, so the intercept is zero.
    scores: Tensor = points @ slopes
    return scores.squeeze(1)


# Command line


def _load(path: str, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of a .npy (unnamed) or .npz file; rejects pickles and archives that are too large when unpacked."""
    if Path(path).suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{path}: the file must end in .npy or .npz")
    try:
        with open_file(path) as stream:  # rejects pipes and devices
            if path.lower().endswith(".npy"):
                return {"": np.load(path, allow_pickle=False, mmap_mode="r")}
            with np.load(stream, allow_pickle=False) as loaded:
                _check_unpacked(path, loaded, max_bytes)
                arrays = {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise ValueError(f"{path}: the file must exist, got no such file") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        pickled = any(word in str(error) for word in ("pickle", "Python objects"))
        reason = "pickled objects or a foreign file" if pickled else f"a damaged file ({_one_line(error)})"
        raise ValueError(f"{path}: the file must hold plain numpy arrays, got {reason}") from error
    if not arrays:
        raise ValueError(f"{path}: the file must hold at least one array, got none")
    return arrays


def _check_unpacked(path: str, loaded: Any, max_bytes: int) -> None:
    most, own = max(info.file_size for info in loaded.zip.infolist()) if loaded.files else 0, os.path.getsize(path)
    if most > max(max_bytes, own):
        rule = f"hold arrays of at most {max_bytes} bytes in memory (--max-bytes raises the limit)"
        raise ValueError(f"{path}: the file must {rule}, got {most} from a file of {own}")


def _load_pairs(source: str, target: str, max_bytes: int) -> dict[str, tuple[Samples, Samples]]:
    first, second = _load(source, max_bytes), _load(target, max_bytes)
    if len(first) == len(second) == 1:
        name = next(iter(first)) or next(iter(second)) or "features"
        first, second = {name: next(iter(first.values()))}, {name: next(iter(second.values()))}
    if set(first) != set(second):
        raise ValueError(
            f"{target}: the arrays must have the names of {source} ({_names(first)}), got {_names(second)}"
        )
    for path, arrays in ((source, first), (target, second)):
        for name, array in arrays.items():
            where = f"{path}: `{name}`"
            if array.dtype.kind not in "fiub":
                raise ValueError(f"{where} must hold real numbers, got {array.dtype}")
            if array.ndim != 2 or 0 in array.shape:
                raise ValueError(f"{where} must have shape (samples, features), got {array.shape}")
            if array.dtype.kind == "f" and not all(map(_finite, np.array_split(array, 1 + array.size // 2**24))):
                raise ValueError(f"{where} must hold finite numbers, got NaN or infinity")
    for name in first:
        if first[name].shape[1] != second[name].shape[1]:
            widths = f"({first[name].shape[1]}), got {second[name].shape[1]}"
            raise ValueError(f"{target}: `{name}` must have as many features as {source} {widths}")
    return {name: (first[name], second[name]) for name in first}


def _finite(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all())


def _names(arrays: Mapping[str, object]) -> str:
    return ", ".join(name or "one without a name" for name in sorted(arrays))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Measure the shift between two domains' features: discrepancies, moments, separability.",
        epilog="exit code 0: success; 2: bad input, described in one line",
    )
    parser.add_argument("source", help="source features: .npy (samples, features), or .npz with one array per layer")
    parser.add_argument("target", help="target features, with the same names")
    parser.add_argument("--after", nargs=2, metavar=("SOURCE", "TARGET"), help="features of the adapted model")
    parser.add_argument("--text", metavar="PATH", help="write the table to this file (it is always printed)")
    parser.add_argument("--json", metavar="PATH", help="write JSON to this file; - prints it instead of the table")
    parser.add_argument("--plot", metavar="PATH", help="save a bar plot as .png, .pdf or .svg (needs matplotlib)")
    parser.add_argument(
        "--permutations", type=int, default=500, metavar="N", help="permutations of the test (default 500)"
    )
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="folds of the classifier (default 5)")
    parser.add_argument("--max-rows", type=int, default=2000, metavar="N", help="rows per sample (default 2000)")
    parser.add_argument(
        "--max-bytes", type=int, default=MAX_BYTES, metavar="N", help="size limit of an array in an .npz file"
    )
    parser.add_argument("--seed", type=int, help="seed of rows, permutations and folds (default: a fixed one)")
    return parser


def _run(options: argparse.Namespace) -> None:
    inputs = [options.source, options.target, *(options.after or ())]
    written = [path for path in (options.text, options.json, options.plot) if path not in (None, "-")]
    for path in written:
        if any(os.path.realpath(path) == os.path.realpath(other) for other in inputs):
            raise ValueError(f"{path}: the report must not replace its input")
        if not Path(path).parent.is_dir():
            raise ValueError(f"{path}: the folder must exist, got no {Path(path).parent}")
    generator = torch.Generator().manual_seed(_SEED if options.seed is None else options.seed)
    report = shift_report(
        _load_pairs(options.source, options.target, options.max_bytes),
        _load_pairs(options.after[0], options.after[1], options.max_bytes) if options.after else None,
        permutations=options.permutations,
        folds=options.folds,
        max_rows=options.max_rows,
        generator=generator,
    )
    values = json.dumps(report.to_dict(), indent=1, allow_nan=False)
    if options.plot:
        report.plot(options.plot)
    if options.text:
        write_file(options.text, f"{report}\n".encode())
    if options.json not in (None, "-"):
        write_file(options.json, f"{values}\n".encode())
    print(values if options.json == "-" else report)


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m mmda.shift") -> int:
    """Run the command line; returns the exit code."""
    options = _parser(program).parse_args(arguments)
    try:
        _run(options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


__all__ = ["Shift", "ShiftReport", "shift_report"]

if __name__ == "__main__":
    raise SystemExit(main())
