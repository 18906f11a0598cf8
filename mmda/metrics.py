"""Temporal grounding metrics: IoU of spans, batched non-maximum suppression, Recall@n at an IoU, mean IoU.

A span is ``(start, end)`` on any time axis, usually in seconds; all spans of a call share one unit. All functions are
batched over queries, run on any device, and compute in the dtype of the input, at least float32: pass float64 if ties
at a threshold have to be decided as in float64 code.

Public evaluators define a hit differently. A :class:`Preset` describes one convention, whose fields
:func:`select_spans` and :func:`recall_at_iou` accept; the named presets are

===========================  =======  =========  ====================================================  =====  ========
value                        hit      union      NMS before R@n                                        clip   rounding
===========================  =======  =========  ====================================================  =====  ========
:data:`DEFAULT`              ``>=``   true       none                                                  yes    none
:data:`MOMENT_DETR`          ``>=``   hull       none                                                  no     none
:data:`MOMENT_DETR_ROUNDED`  ``>=``   hull       none                                                  yes    2 s
:data:`TWO_D_TAN`            ``>``    hull       .45 Charades-STA, .5 ActivityNet Captions, .4 TACoS   no     none
:data:`VSLNET`               ``>=``   hull       none                                                  no     none
:data:`MMN`                  ``>=``   hull       .5 Charades-STA, .5 ActivityNet Captions, .4 TACoS    no     none
:data:`FRAMES`               ``>=``   inclusive  none                                                  no     none
:data:`EGO4D_NLQ`            ``>``    hull       none                                                       no     none
===========================  =======  =========  ====================================================  =====  ========

The hull of two spans equals their union if they overlap, and otherwise the IoU is 0: for spans with start <= end both
conventions agree up to rounding. Results differ by ``>`` versus ``>=`` (ties are common on a grid of clips), by
rounding, by the suppression threshold, and by whether predictions are clipped to the video before scoring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from mmda._core.checks import (
    check_choice,
    check_count,
    check_floating,
    check_mask,
    check_number,
    check_sequence,
    check_tensor,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.masking import safe_divide, working_dtype

Union = Literal["true", "hull", "inclusive"]
_UNIONS = ("true", "hull", "inclusive")
# Elements per (queries, spans) tile, so that the half dozen work arrays of the suppression fit in the cache.
_TILE = 1 << 17


def _check_spans(caller: str, argument: str, value: Tensor, axes: str = "(..., 2)", ndim: int | None = None) -> None:
    check_floating(caller, argument, value)
    if value.ndim == 0 or value.shape[-1] != 2 or (ndim is not None and value.ndim != ndim):
        fail(caller, argument, f"have shape {axes}", shape_text(value))


def temporal_iou(a: Tensor, b: Tensor, *, union: Union = "true") -> Tensor:
    r"""Intersection over union of spans, elementwise over broadcast axes; 1 for equal spans, 0 for disjoint.

    .. math::
        \mathrm{IoU} = \frac{I}{U}, \qquad I = \max(0, \min(e_a, e_b) - \max(s_a, s_b))

    with U given by ``union``: ``"true"`` :math:`(e_a - s_a) + (e_b - s_b) - I`, ``"hull"`` :math:`\max(e_a, e_b) -
    \min(s_a, s_b)`, and ``"inclusive"``, for spans of whole frames whose last frame belongs to the span, the hull plus
    one under an intersection (before the max with 0) plus one. 0/0 is 0, a span with end < start overlaps nothing, and
    NaN gives NaN.

    Args:
        a: spans, start and end on the last axis.
        b: spans, broadcast against ``a``.
        union: how the denominator is measured.

    Shape:
        ``a`` (..., 2), ``b`` (..., 2), result: the broadcast of the leading axes.

    Returns:
        A tensor in [0, 1], float32 or float64; differentiable, with gradient 0 where the value is 0/0.

    Raises:
        TypeError: an input is not a floating-point tensor.
        ValueError: the last axis is not 2, or ``union`` is not one of the three.

    Example:
        >>> import torch
        >>> spans = torch.tensor([[0.0, 4.0], [2.0, 6.0], [8.0, 9.0], [3.0, 3.0]])
        >>> temporal_iou(spans[:, None], spans[None, :2])
        tensor([[1.0000, 0.3333],
                [0.3333, 1.0000],
                [0.0000, 0.0000],
                [0.0000, 0.0000]])
    """
    _check_spans("temporal_iou", "a", a)
    _check_spans("temporal_iou", "b", b)
    check_choice("temporal_iou", "union", union, _UNIONS)
    return _iou(a, b, union)


def _iou(a: Tensor, b: Tensor, union: Union) -> Tensor:
    dtype = working_dtype(a, b)
    start_a, end_a = a.to(dtype).unbind(-1)
    start_b, end_b = b.to(dtype).unbind(-1)
    inter = torch.minimum(end_a, end_b) - torch.maximum(start_a, start_b)
    if union == "true":
        inter = inter.clamp(min=0)
        return safe_divide(inter, (end_a - start_a) + (end_b - start_b) - inter)
    hull = torch.maximum(end_a, end_b) - torch.minimum(start_a, start_b)
    if union == "inclusive":
        return safe_divide((inter + 1).clamp(min=0), hull + 1)
    return safe_divide(inter.clamp(min=0), hull)


@torch.no_grad()
def temporal_nms(
    spans: Tensor,
    scores: Tensor,
    *,
    threshold: float,
    top_n: int,
    mask: Tensor | None = None,
    union: Union = "true",
) -> tuple[Tensor, Tensor]:
    r"""Indices of the n best spans of every query after greedy non-maximum suppression, best first.

    Repeated n times: take the best remaining span, drop every span whose IoU with it is **greater than** ``threshold``.
    ``threshold=1`` drops only the span itself, which gives the plain n best.

    Args:
        spans: candidate spans of each query.
        scores: their scores, any real numbers; NaN ranks last.
        threshold: IoU above which the lower-scored span is dropped, in [0, 1].
        top_n: n, how many spans to keep.
        mask: True where a candidate exists; padding may hold anything.
        union: the denominator of the IoU, see :func:`temporal_iou`.

    Shape:
        ``spans`` (b, k, 2), ``scores`` (b, k), ``mask`` (b, k); both results (b, n), also where n > k.

    Returns:
        ``(indices, keep)``: int64 positions on the candidate axis, and a bool mask that is False, with index 0, if a
            query has fewer spans. Ties are taken in order of position.

    Raises:
        TypeError: spans or scores are not floating-point tensors.
        ValueError: shapes differ, or a number is out of range.

    Notes:
        O(b k n) time without sorting: n passes over the scores, each an argmax and one vectorised comparison, in tiles
        of queries that fit in the cache, so the work memory does not grow with b. No host synchronisation.

        Compares the quotient, not ``inter > threshold * union``, because rounding then preserves ties: 9/20 is not
        above 0.45 in any dtype, while 0.45 * u is often rounded.

    Example:
        >>> import torch
        >>> spans = torch.tensor([[[0.0, 4.0], [1.0, 4.0], [6.0, 9.0]]])
        >>> indices, keep = temporal_nms(spans, torch.tensor([[0.5, 0.9, 0.1]]), threshold=0.5, top_n=3)
        >>> indices.tolist(), keep.tolist()
        ([[1, 2, 0]], [[True, True, False]])
    """
    caller = "temporal_nms"
    _check_spans(caller, "spans", spans, "(batch, spans, 2)", 3)
    check_floating(caller, "scores", scores)
    if scores.shape != spans.shape[:2]:
        fail(caller, "scores", f"have shape {tuple(spans.shape[:2])}", shape_text(scores))
    check_number(caller, "threshold", threshold, at_least=0, at_most=1)
    check_count(caller, "top_n", top_n)
    check_choice(caller, "union", union, _UNIONS)
    if mask is not None:
        check_mask(caller, "mask", mask, scores.shape, device=scores.device)
    batch, count = scores.shape
    indices = torch.zeros((batch, top_n), dtype=torch.int64, device=spans.device)
    keep = torch.zeros((batch, top_n), dtype=torch.bool, device=spans.device)
    if count == 0:
        return indices, keep
    rows = batch if spans.device.type != "cpu" else max(1, _TILE // count)
    for low in range(0, batch, max(1, rows)):
        part = slice(low, low + rows)
        _suppress(
            spans[part],
            scores[part],
            None if mask is None else mask[part],
            float(threshold),
            union,
            indices[part],
            keep[part],
        )
    return indices, keep


def _suppress(
    spans: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    threshold: float,
    union: Union,
    indices: Tensor,
    keep: Tensor,
) -> None:
    """Greedy suppression of one tile; writes ``indices`` and ``keep``. Dropped candidates have score -inf.

    Uses arithmetic instead of bool masks, which are five times slower on a CPU: ``copysign(inf, threshold - iou)`` is
    -inf for a span to drop and +inf for one to keep. The intersection may be negative, since such a quotient is below
    any threshold. A union of 0 becomes the smallest positive number, so that 0/0 is 0.
    """
    dead = float("-inf")
    dtype = working_dtype(spans)
    start = spans[..., 0].to(dtype).contiguous()
    end = spans[..., 1].to(dtype).contiguous()
    length = end - start
    lowest = torch.finfo(working_dtype(scores)).min
    left = scores.to(working_dtype(scores)).nan_to_num(nan=lowest, posinf=float("inf"), neginf=lowest)
    if mask is not None:
        left = left.masked_fill_(~mask, dead)
    inter, other = torch.empty_like(start), torch.empty_like(start)
    infinity = torch.full((), float("inf"), dtype=dtype, device=spans.device)
    tiny = torch.finfo(dtype).tiny
    extra = 1 if union == "inclusive" else 0
    for turn in range(min(indices.shape[1], left.shape[1])):
        index = _first_maximum(left)
        indices[:, turn : turn + 1] = index
        keep[:, turn : turn + 1] = left.gather(1, index) > dead
        if turn + 1 == indices.shape[1]:
            return
        s, e = start.gather(1, index), end.gather(1, index)
        torch.minimum(end, e, out=inter).sub_(torch.maximum(start, s, out=other))
        if union == "true":
            torch.add(length, e - s, out=other).sub_(inter.clamp_(min=0))
        else:
            torch.maximum(end, e, out=other).sub_(torch.minimum(start, s))
        if extra:
            inter.add_(extra)
            other.add_(extra)
        iou = inter.div_(other.clamp_(min=tiny))
        torch.copysign(infinity, torch.sub(threshold, iou, out=other), out=other)
        left = torch.minimum(left, other.to(left.dtype), out=left)
        left.scatter_(1, index, dead)


def _first_maximum(x: Tensor) -> Tensor:
    """(rows, 1) index of each row's first maximum; numpy's argmax is four times as fast as torch's on a CPU."""
    if x.device.type == "cpu":
        return torch.from_numpy(x.numpy().argmax(axis=1)).unsqueeze(1)
    return x.argmax(dim=1, keepdim=True)


@dataclass(frozen=True)
class Preset:
    """The convention of one evaluator; :func:`dataclasses.replace` changes individual fields.

    Args:
        name: name in tables and messages.
        strict: a hit needs IoU > m rather than IoU >= m.
        union: denominator of the IoU, see :func:`temporal_iou`.
        nms_threshold: suppression before Recall@n; ``None`` for none.
        nms_union: denominator of the IoU in the suppression. Some evaluators use another formula there, whose rounding
            decides ties on a grid.
        clip: cut predictions to [0, duration] first, where durations are known. Public evaluators do not clip.
        round_to: round predicted boundaries to multiples of this clip length (half to even), in seconds;
            ``None`` for none.
        tolerance: an IoU this close to m counts as m. Without it 0.3 T / T is below 0.3 for some T, and the unit of
            time changes results (by 0.3 points if whole-video moments are common). 0 compares exactly.

    Example:
        >>> from dataclasses import replace
        >>> replace(VSLNET, name="strict", strict=True)  # doctest: +NORMALIZE_WHITESPACE
        Preset(name='strict', strict=True, union='hull', nms_threshold=None, nms_union='true', clip=False,
               round_to=None, tolerance=0.0)
    """

    name: str
    strict: bool = False
    union: Union = "true"
    nms_threshold: float | None = None
    nms_union: Union = "true"
    clip: bool = True
    round_to: float | None = None
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.strict, bool):
            fail_type("Preset", "strict", "be a bool", self.strict)
        if not isinstance(self.clip, bool):
            fail_type("Preset", "clip", "be a bool", self.clip)
        check_choice("Preset", "union", self.union, _UNIONS)
        check_choice("Preset", "nms_union", self.nms_union, _UNIONS)
        if self.nms_threshold is not None:
            check_number("Preset", "nms_threshold", self.nms_threshold, at_least=0, at_most=1)
        if self.round_to is not None:
            check_number("Preset", "round_to", self.round_to, above=0)
        check_number("Preset", "tolerance", self.tolerance, at_least=0)


#: The default of this library: continuous time, true union, ``>=``, clipped to the video, no rounding, no suppression.
DEFAULT = Preset("default")
#: moment_detr's evaluator (QVHighlights, ``standalone_eval``): ``>=``, hull, unclipped predictions.
MOMENT_DETR = Preset("moment_detr", union="hull", nms_union="hull", clip=False, tolerance=0.0)
#: The same after that project's post-processing: predictions clipped to the video and rounded to its 2 s clips.
MOMENT_DETR_ROUNDED = replace(MOMENT_DETR, name="moment_detr_rounded", clip=True, round_to=2.0)
#: VSLNet: ``>=``, hull, a single decoded span without suppression.
VSLNET = Preset("vslnet", union="hull", clip=False, tolerance=0.0)
#: Whole frames, the last one included: (inter + 1) / (union + 1), ``>=``.
FRAMES = Preset("frames", union="inclusive", clip=False)


#: Ego4D's natural language queries: strict ``>``, hull, no suppression; unusable ground truth counts as a miss there,
#: see ``no_moment`` of :func:`mmda.vmr.evaluation.evaluate`.
EGO4D_NLQ = Preset("ego4d_nlq", strict=True, union="hull", clip=False, tolerance=0.0)


def _by_data_set(preset: Preset, charades: float, activitynet: float, tacos: float) -> Mapping[str, Preset]:
    thresholds = {"charades_sta": charades, "activitynet_captions": activitynet, "tacos": tacos}
    return MappingProxyType(
        {key: replace(preset, name=f"{preset.name}:{key}", nms_threshold=t) for key, t in thresholds.items()}
    )


#: 2D-TAN, by data set: strict ``>``, suppression above .45 / .5 / .4.
TWO_D_TAN = _by_data_set(Preset("2d_tan", strict=True, union="hull", clip=False, tolerance=0.0), 0.45, 0.5, 0.4)
#: MMN, by data set: ``>=``, suppression above .5 / .5 / .4.
MMN = _by_data_set(Preset("mmn", union="hull", nms_union="hull", clip=False, tolerance=0.0), 0.5, 0.5, 0.4)
#: Every preset by its name, for command lines.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        p.name: p
        for p in (
            DEFAULT,
            MOMENT_DETR,
            MOMENT_DETR_ROUNDED,
            VSLNET,
            FRAMES,
            EGO4D_NLQ,
            *TWO_D_TAN.values(),
            *MMN.values(),
        )
    }
)


@torch.no_grad()
def select_spans(
    spans: Tensor,
    scores: Tensor,
    *,
    top_n: int = 5,
    preset: Preset = DEFAULT,
    mask: Tensor | None = None,
    duration: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The n best spans of every query under a preset: optionally clipped, rounded and suppressed.

    Args:
        spans: candidate spans of each query.
        scores: their scores.
        top_n: number of spans to return.
        preset: its ``clip``, ``round_to``, ``nms_threshold`` and ``nms_union`` are used.
        mask: True where a candidate exists.
        duration: length of each query's video; a preset with ``clip`` clips boundaries to it first.

    Shape:
        ``spans`` (b, k, 2), ``scores`` and ``mask`` (b, k), ``duration`` (b,); results (b, n, 2) and (b, n).

    Returns:
        ``(predictions, keep)``: spans best first, zeros where ``keep`` is False because a query has fewer.

    Raises:
        TypeError: an input is not a floating-point tensor, ``preset`` is not a :class:`Preset`.
        ValueError: shapes differ, or ``top_n`` is not a positive integer.

    Example:
        >>> import torch
        >>> spans = torch.tensor([[[0.9, 5.2], [4.0, 19.0]]])
        >>> best, keep = select_spans(spans, torch.tensor([[0.1, 0.2]]), top_n=2, preset=MOMENT_DETR_ROUNDED,
        ...                           duration=torch.tensor([16.0]))
        >>> best.tolist()
        [[[4.0, 16.0], [0.0, 6.0]]]
    """
    caller = "select_spans"
    if not isinstance(preset, Preset):
        fail_type(caller, "preset", "be a Preset (for MMN and TWO_D_TAN, the one of a data set)", preset)
    _check_spans(caller, "spans", spans, "(batch, spans, 2)", 3)
    spans = spans.to(working_dtype(spans))
    if duration is not None:
        check_floating(caller, "duration", duration)
        if duration.shape != spans.shape[:1]:
            fail(caller, "duration", f"have shape {tuple(spans.shape[:1])}", shape_text(duration))
        if preset.clip:
            spans = torch.minimum(spans.clamp(min=0), duration.to(spans.dtype)[:, None, None])
    if preset.round_to is not None:
        spans = torch.round(spans / preset.round_to) * preset.round_to
    threshold = 1.0 if preset.nms_threshold is None else preset.nms_threshold
    indices, keep = temporal_nms(spans, scores, threshold=threshold, top_n=top_n, mask=mask, union=preset.nms_union)
    if spans.shape[1] == 0:
        return spans.new_zeros((*indices.shape, 2)), keep
    chosen = spans.gather(1, indices.unsqueeze(-1).expand(-1, -1, 2))
    return chosen.masked_fill_(~keep.unsqueeze(-1), 0), keep


def best_iou(
    predictions: Tensor,
    windows: Tensor,
    *,
    prediction_mask: Tensor | None = None,
    window_mask: Tensor | None = None,
    union: Union = "true",
) -> Tensor:
    """IoU of each prediction with its best-matching window; 0 without a prediction or a window.

    Args:
        predictions: predicted spans, best first.
        windows: ground-truth moments of each query, one or several.
        prediction_mask: True where a prediction exists.
        window_mask: True where a window exists.
        union: the denominator, see :func:`temporal_iou`.

    Shape:
        ``predictions`` (b, n, 2), ``windows`` (b, w, 2), the masks (b, n) and (b, w); result (b, n).

    Returns:
        A tensor in [0, 1], float32 or float64.

    Raises:
        TypeError: an input is not a floating-point tensor, or a mask is not bool.
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> best_iou(torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[2.0, 6.0], [0.0, 2.0]]]))
        tensor([[0.5000]])
    """
    return _best_iou("best_iou", predictions, windows, prediction_mask, window_mask, union)


def _best_iou(
    caller: str,
    predictions: Tensor,
    windows: Tensor,
    prediction_mask: Tensor | None,
    window_mask: Tensor | None,
    union: Union,
) -> Tensor:
    _check_pairs(caller, predictions, windows, prediction_mask, window_mask, union)
    if predictions.shape[1] == 0 or windows.shape[1] == 0:
        return predictions.new_zeros(predictions.shape[:2], dtype=working_dtype(predictions, windows))
    value = _iou(predictions.unsqueeze(2), windows.unsqueeze(1), union)
    zero = torch.zeros((), dtype=value.dtype, device=value.device)
    if window_mask is not None:
        value = torch.where(window_mask.unsqueeze(1), value, zero)
    value = value.amax(dim=2)
    return value if prediction_mask is None else torch.where(prediction_mask, value, zero)


def _check_thresholds(caller: str, n: Sequence[int], iou: Sequence[float], tolerance: float) -> None:
    check_sequence(caller, "n", n, "count")
    check_sequence(caller, "iou", iou, "threshold")
    for count in n:
        check_count(caller, "n", count)
    for level in iou:
        check_number(caller, "iou", level, above=0, at_most=1)
    check_number(caller, "tolerance", tolerance, at_least=0)


def _check_pairs(
    caller: str,
    predictions: Tensor,
    windows: Tensor,
    prediction_mask: Tensor | None,
    window_mask: Tensor | None,
    union: Union,
) -> None:
    _check_spans(caller, "predictions", predictions, "(batch, predictions, 2)", 3)
    _check_spans(caller, "windows", windows, "(batch, windows, 2)", 3)
    if predictions.shape[0] != windows.shape[0]:
        fail(
            caller,
            "windows",
            f"have as many rows as `predictions` ({predictions.shape[0]})",
            windows.shape[0],
        )
    check_choice(caller, "union", union, _UNIONS)
    _check_masks(caller, predictions, windows, prediction_mask, window_mask)


def _check_masks(
    caller: str,
    predictions: Tensor,
    windows: Tensor,
    prediction_mask: Tensor | None,
    window_mask: Tensor | None,
) -> None:
    if prediction_mask is not None:
        shape = predictions.shape[:2]
        check_mask(caller, "prediction_mask", prediction_mask, shape, device=predictions.device)
    if window_mask is not None:
        check_mask(caller, "window_mask", window_mask, windows.shape[:2], device=windows.device)


@dataclass(frozen=True)
class Recall:
    """Recall@n at IoU thresholds, with the per-query hits.

    Args:
        hits: (b, n, m) bool: whether one of query b's n best predictions reaches the m-th threshold.
        n: the numbers of predictions, in the order of ``hits``' second axis.
        iou: the thresholds, in the order of its third axis.
    """

    hits: Tensor
    n: tuple[int, ...]
    iou: tuple[float, ...]

    @property
    def rates(self) -> Tensor:
        """Fraction of queries hit, (n, m), float64 in [0, 1]."""
        return self.hits.to(torch.float64).mean(dim=0)

    def as_dict(self) -> dict[str, float]:
        """``{"R@1, IoU=0.5": 0.431, ...}``, fractions in [0, 1]."""
        rates = self.rates.tolist()
        return {f"R@{n}, IoU={iou:g}": rates[i][j] for i, n in enumerate(self.n) for j, iou in enumerate(self.iou)}

    def __str__(self) -> str:
        """One line, in per cent."""
        return "  ".join(f"{name} {100 * rate:.1f}" for name, rate in self.as_dict().items())


@torch.no_grad()
def discounted_recall_at_iou(
    predictions: Tensor,
    windows: Tensor,
    duration: Tensor,
    *,
    n: Sequence[int] = (1, 5),
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    strict: bool = False,
    tolerance: float = 1e-9,
    union: Union = "true",
    prediction_mask: Tensor | None = None,
    window_mask: Tensor | None = None,
) -> Tensor:
    r"""Per-query values of dR@n, IoU=m, which discount a hit by the errors of its boundaries; higher is better.

    .. math:: \mathrm{dR@}n, \mathrm{IoU}{=}m = \frac1b \sum_q \max_{i \le n,\, w:\, \mathrm{IoU}(p_{qi}, g_{qw}) \ge m}
        \Big(1 - \frac{|s_{qi} - s_{qw}|}{T_q}\Big) \Big(1 - \frac{|e_{qi} - e_{qw}|}{T_q}\Big)

    with T the video's length; 0 for a query without a hit. Negative factors, from boundary errors above T, are set to
    0.

    Args:
        predictions: predicted spans, best first (:func:`select_spans`).
        windows: ground-truth moments of each query; the best of several counts.
        duration: length of each query's video, above 0.
        n: numbers of predictions.
        iou: thresholds m in (0, 1].
        strict: a hit needs IoU > m.
        tolerance: an IoU this close to m counts as m.
        union: the denominator, see :func:`temporal_iou`.
        prediction_mask: True where a prediction exists.
        window_mask: True where a window exists; a query without any is a miss.

    Shape:
        ``predictions`` (b, k, 2), ``windows`` (b, w, 2), ``duration`` (b,), the masks (b, k) and (b, w); result
        (b, n, m).

    Returns:
        A tensor in [0, 1], float32 or float64; its mean over the queries is the metric.

    Raises:
        TypeError: an input is not a floating-point tensor, or a mask is not bool.
        ValueError: shapes do not fit, or a number is out of range.

    Notes:
        The paper defines the discount of a single prediction; here the hit with the largest product among the n best
        counts. Memory O(b k w).

    Example:
        >>> import torch
        >>> spans, moment = torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[0.0, 5.0]]])
        >>> discounted_recall_at_iou(spans, moment, torch.tensor([10.0]), n=(1,), iou=(0.5, 0.9))
        tensor([[[0.9000, 0.0000]]])

    References:
        Yuan et al., "A Closer Look at Temporal Sentence Grounding in Videos: Datasets and Metrics", HUMA 2021, sec. 4.
    """
    caller = "discounted_recall_at_iou"
    _check_thresholds(caller, n, iou, tolerance)
    _check_pairs(caller, predictions, windows, prediction_mask, window_mask, union)
    check_floating(caller, "duration", duration)
    if duration.shape != predictions.shape[:1]:
        fail(caller, "duration", f"have shape {tuple(predictions.shape[:1])}", shape_text(duration))
    dtype = working_dtype(predictions, windows, duration)
    ranks = min(max(n), predictions.shape[1])
    found, truth = predictions[:, :ranks].to(dtype).unsqueeze(2), windows.to(dtype).unsqueeze(1)
    if ranks == 0 or windows.shape[1] == 0:
        return found.new_zeros((len(found), len(n), len(iou)))
    value = _iou(found, truth, union)
    discount = (1 - (found - truth).abs() / duration.to(dtype)[:, None, None, None]).clamp(min=0).prod(dim=-1)
    real = torch.ones_like(value, dtype=torch.bool)
    if prediction_mask is not None:
        real &= prediction_mask[:, :ranks].unsqueeze(2)
    if window_mask is not None:
        real &= window_mask.unsqueeze(1)
    at = torch.tensor([min(count, ranks) - 1 for count in n], device=value.device)
    levels = []
    for level in iou:
        hit = value > level + tolerance if strict else value >= level - tolerance
        best = torch.where(hit & real, discount, torch.zeros_like(discount)).amax(dim=2)
        levels.append(best.cummax(dim=1).values[:, at])
    return torch.stack(levels, dim=-1)


@torch.no_grad()
def recall_at_iou(
    predictions: Tensor,
    windows: Tensor,
    *,
    n: Sequence[int] = (1, 5),
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    strict: bool = False,
    tolerance: float = 1e-9,
    union: Union = "true",
    prediction_mask: Tensor | None = None,
    window_mask: Tensor | None = None,
) -> Recall:
    r"""Fraction of queries with one of their n best predictions at an IoU of at least m; higher is better.

    .. math:: \mathrm{R@}n, \mathrm{IoU}{=}m
        = \frac1b \sum_q \mathbb 1\Big[\max_{i \le n} \max_w \mathrm{IoU}(p_{qi}, g_{qw}) \ge m\Big]

    Args:
        predictions: predicted spans, best first (:func:`select_spans`).
        windows: ground-truth moments of each query; the best of several counts.
        n: numbers of predictions; a query may have fewer.
        iou: thresholds m in (0, 1].
        strict: a hit needs IoU > m.
        tolerance: an IoU this close to m counts as m (without effect in float32, whose resolution is coarser).
        union: the denominator, see :func:`temporal_iou`.
        prediction_mask: True where a prediction exists.
        window_mask: True where a window exists; a query without any is a miss.

    Shape:
        ``predictions`` (b, k, 2), ``windows`` (b, w, 2), the masks (b, k) and (b, w); ``hits`` (b, n, m).

    Returns:
        A :class:`Recall` with per-query hits and rates.

    Raises:
        TypeError: an input is not a floating-point tensor, or a mask is not bool.
        ValueError: shapes do not fit, or a number is out of range.

    Notes:
        All n are computed at once from a running maximum over the ranks, in tiles of queries.

    Example:
        >>> import torch
        >>> predictions = torch.tensor([[[0.0, 4.0], [5.0, 9.0]], [[0.0, 9.0], [4.0, 8.0]]])
        >>> windows = torch.tensor([[[4.0, 9.0]], [[4.0, 8.0]]])
        >>> print(recall_at_iou(predictions, windows, n=(1, 2), iou=(0.3, 0.7)))
        R@1, IoU=0.3 50.0  R@1, IoU=0.7 0.0  R@2, IoU=0.3 100.0  R@2, IoU=0.7 100.0
    """
    caller = "recall_at_iou"
    _check_thresholds(caller, n, iou, tolerance)
    check_tensor(caller, "predictions", predictions)
    check_tensor(caller, "windows", windows)
    _check_masks(caller, predictions, windows, prediction_mask, window_mask)
    batch, ranks = predictions.shape[0] if predictions.ndim else 0, max(n)
    rows = max(1, _TILE // max(1, ranks * (windows.shape[1] if windows.ndim == 3 else 1)))
    rows = max(1, batch) if predictions.device.type != "cpu" else rows
    parts: list[Tensor] = []
    for low in range(0, max(1, batch), rows):
        part = slice(low, low + rows)
        value = _best_iou(
            caller,
            predictions[part, :ranks] if predictions.ndim == 3 else predictions,
            windows[part] if windows.ndim == 3 and windows.shape[0] == batch else windows,
            None if prediction_mask is None else prediction_mask[part, :ranks],
            None if window_mask is None else window_mask[part],
            union,
        )
        if value.shape[1] == 0:
            parts.append(value.new_zeros((value.shape[0], len(n), len(iou)), dtype=torch.bool))
            continue
        best = value.cummax(dim=1).values
        at = torch.tensor([min(count, best.shape[1]) - 1 for count in n], device=best.device)
        best = best[:, at].unsqueeze(-1)
        # thresholds in the dtype of the IoU, so that 9/20 reaches 0.45 in float32 too
        levels = [level + tolerance if strict else level - tolerance for level in iou]
        level_row = torch.tensor(levels, dtype=best.dtype, device=best.device)
        parts.append(best > level_row if strict else best >= level_row)
    return Recall(torch.cat(parts), tuple(n), tuple(float(level) for level in iou))


def mean_iou(
    predictions: Tensor,
    windows: Tensor,
    *,
    union: Union = "true",
    prediction_mask: Tensor | None = None,
    window_mask: Tensor | None = None,
) -> Tensor:
    r"""Mean over queries of the top prediction's IoU with its best window; higher is better.

    .. math:: \mathrm{mIoU} = \frac1b \sum_q \max_w \mathrm{IoU}(p_{q1}, g_{qw})

    Args:
        predictions: predicted spans, best first; only the first one is used.
        windows: ground-truth moments of each query.
        union: the denominator, see :func:`temporal_iou`.
        prediction_mask: True where a prediction exists; 0 for a query without one.
        window_mask: True where a window exists.

    Shape:
        ``predictions`` (b, n, 2), ``windows`` (b, w, 2), the masks (b, n) and (b, w); result: a scalar.

    Returns:
        A scalar tensor in [0, 1], float32 or float64. Per-query values: :func:`best_iou`.

    Raises:
        TypeError: an input is not a floating-point tensor, or a mask is not bool.
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> mean_iou(torch.tensor([[[0.0, 4.0]], [[0.0, 1.0]]]), torch.tensor([[[0.0, 2.0]], [[1.0, 2.0]]]))
        tensor(0.2500)
    """
    check_tensor("mean_iou", "predictions", predictions)
    check_tensor("mean_iou", "windows", windows)
    _check_masks("mean_iou", predictions, windows, prediction_mask, window_mask)
    value = _best_iou(
        "mean_iou",
        predictions[:, :1] if predictions.ndim == 3 else predictions,
        windows,
        None if prediction_mask is None else prediction_mask[:, :1],
        window_mask,
        union,
    )
    if value.shape[1] == 0:
        return value.new_zeros(())
    return value[:, 0].mean()


__all__ = [
    "DEFAULT",
    "EGO4D_NLQ",
    "FRAMES",
    "MMN",
    "MOMENT_DETR",
    "MOMENT_DETR_ROUNDED",
    "PRESETS",
    "TWO_D_TAN",
    "VSLNET",
    "Preset",
    "Recall",
    "best_iou",
    "discounted_recall_at_iou",
    "mean_iou",
    "recall_at_iou",
    "select_spans",
    "temporal_iou",
    "temporal_nms",
]
