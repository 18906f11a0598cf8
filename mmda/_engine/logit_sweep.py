"""Contrastive losses computed exactly, one tile of logits at a time: O(n d) memory in addition to masks.

The losses are InfoNCE in one or both directions (:mod:`mmda._engine.info_nce_sweep`: each exponential is used for its
row and its column), NT-Xent (:mod:`mmda._engine.nt_xent_sweep`: one list of rows, by symmetry only the tiles above the
diagonal) and the sigmoid loss (:mod:`mmda._engine.sigmoid_sweep`). Each computes its value and the gradients for the
normalised rows. This module drops rows of weight 0 beforehand and propagates the gradients through temperature and
normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.transforms import ORDINARY, dispatch_mode_is_active
from mmda._core.unit_rows import divided_rows
from mmda._engine.logit_pairs import Contrast, Pairs, without_padding
from mmda._engine.scaffold import Gradients, Needed, Sweep


class Rows:
    """Rows as compared: as given, or scaled to length one."""

    def __init__(self, given: Tensor, unit: bool) -> None:
        self.unit = unit
        self.rows, self.inverse = divided_rows(given) if unit else (given, given[:0])

    def gradient(self, h: Tensor, scale: Tensor | float, tempered: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients for ``scale`` and for the given rows (in place of h), from those for the compared rows over
        ``scale``."""
        bare = isinstance(scale, float) and scale == 1
        if not (self.unit or tempered):
            return None, h if bare else h.mul_(scale)
        along = torch.linalg.vecdot(h, self.rows)
        slope = along.sum(dtype=torch.float64) if tempered else None
        if not self.unit:
            return slope, h if bare else h.mul_(scale)
        h.addcmul_(self.rows, along.unsqueeze(1), value=-1)
        return slope, h.mul_(self.inverse if bare else self.inverse * scale)


class Made(NamedTuple):
    """A loss and its gradients for the compared rows, divided by ``factor``.

    If both views form one list, ``x`` and ``y`` are the same object, and so are the gradients.
    """

    value: Tensor
    x: Rows
    y: Rows
    hx: Tensor | None
    hy: Tensor | None
    factor: Tensor | float
    of_bias: Tensor | None = None


class Problem(NamedTuple):
    """Input of a loss: pairs without rows of weight 0; the first ``paired`` anchors and candidates belong together.

    ``scale`` is one over the temperature; ``wanted``: whether gradients for anchors and candidates are needed.
    """

    pairs: Pairs
    how: Contrast
    scale: Tensor | float
    paired: int
    wanted: tuple[bool, bool]


def contrastive(sweep: ContrastiveSweep, pairs: Pairs, how: Contrast, temperature: float | Tensor) -> Tensor:
    """Compute one of the losses, in tiles if possible.

    Args:
        sweep: the loss.
        pairs: rows, weights and masks. Weights that require a gradient use the dense formula.
        how: settings.
        temperature: divisor of the similarities.
    """
    compiling = torch.compiler.is_compiling()
    if compiling and not isinstance(temperature, Tensor):
        temperature = pairs.a.new_full((), temperature)  # a Python number would be a constant of the graph
    if isinstance(temperature, Tensor):
        pairs = pairs._replace(temperature=temperature.to(pairs.a.dtype))
    else:
        how = how._replace(tau=temperature)
    return sweep(pairs, how)


class ContrastiveSweep(Sweep[Pairs, Contrast]):
    """A loss with its dense formula, and the faster tiled implementation that :mod:`mmda._engine` registers."""

    #: The loss and its gradients for the compared rows; the same numbers as those of the dense formula.
    make: Callable[[Problem], Made]

    def __init__(self, name: str, dense: Callable[[Pairs, Contrast], Tensor]) -> None:
        super().__init__(f"contrastive_{name}", Pairs, Contrast, slopes=4, run=self._made, dense=dense)

    def _made(self, pairs: Pairs, how: Contrast, needed: Needed) -> tuple[Tensor, Gradients]:
        whole, wanted = pairs, any(needed)
        pairs, places, paired = _present(pairs)
        a, b, temperature = pairs[:3]
        if a.shape[0] == 0 or (b.shape[0] == 0 and whole.b.shape[0] > 0):
            return a.new_zeros(()), [None if t is None else torch.zeros_like(t) for t in whole[:4]] if wanted else ()
        scale: Tensor | float
        scale = 1 / how.tau if temperature is None else temperature.to(a).reciprocal()
        if a.device.type == "cpu" and type(a) in ORDINARY and not dispatch_mode_is_active():
            scale = float(scale)
        # The gradient for the temperature is computed from that for the anchors.
        made = self.make(Problem(pairs, how, scale, paired, (needed[0] or needed[2], needed[1])))
        value = made.value.to(a.dtype)
        if not wanted:
            return value, ()
        ga = gb = slope = None
        joined = made.x is made.y
        if made.hx is not None:
            slope, ga = made.x.gradient(made.hx, made.factor, needed[2])
        if slope is not None and temperature is not None:
            # In one list every similarity occurs twice.
            slope = (slope * (made.factor * scale)).mul_(-0.5 if joined else -1.0).to(temperature)
        if joined and ga is not None:
            ga, gb = ga.split([a.shape[0], b.shape[0]])  # type: ignore[no-untyped-call]
        elif made.hy is not None:
            gb = made.y.gradient(made.hy, made.factor, False)[1]
        ga, gb = (None if g is None else _spread(g, place, t) for g, place, t in zip((ga, gb), places, whole[:2]))
        of_bias = None if made.of_bias is None or pairs.bias is None else made.of_bias.to(pairs.bias.dtype)
        return value, (ga, gb, slope, of_bias)


def _present(pairs: Pairs) -> tuple[Pairs, tuple[Tensor | None, Tensor | None], int]:
    """The pairs without rows of weight 0; the original indices of the rows (None: unchanged); the number of paired
    rows.

    Paired rows come first. Rows of weight 0 stay, zeroed and with logits of minus infinity, if pair masks would have to
    be copied, and on accelerators, where dropping them would synchronise.
    """
    a, b, _, _, a_count, b_count = pairs[:6]
    paired = a.shape[0] if pairs.own else 0
    if a_count is None and b_count is None:
        return pairs, (None, None), paired
    if a.device.type != "cpu":
        return without_padding(pairs), (None, None), paired
    same = a_count is b_count
    each = (a_count, b_count)[: 1 if same else 2]
    least, most = _bounds(each)
    if least == most == 1:
        return pairs._replace(a_count=None, b_count=None), (None, None), paired
    if least > 0:
        return _without_ones(pairs), (None, None), paired
    here = [None if count is None else count > 0 for count in each]
    if any(mask is not None for mask in pairs[6:]):
        return _without_ones(without_padding(pairs)), (None, None), paired
    if same:
        assert here[0] is not None
        assert a_count is not None
        place = here[0].nonzero().squeeze(1)
        places, count = [place, place], a_count[place]
        a_count, b_count = count, count
    else:
        first, second = (a.new_ones(a.shape[0], dtype=torch.bool) if some is None else some for some in here)
        whole = (first & second).nonzero().squeeze(1)
        places = [
            torch.cat((whole, (some & ~other).nonzero().squeeze(1)))
            for some, other in ((first, second), (second, first))
        ]
        a_count, b_count = (None if c is None else c[k] for c, k in zip((a_count, b_count), places))
        place = whole
    pairs = pairs._replace(a=a[places[0]], b=b[places[1]], a_count=a_count, b_count=b_count)
    return _without_ones(pairs), (places[0], places[1]), place.shape[0]


def _bounds(counts: Sequence[Tensor | None]) -> tuple[float, float]:
    """The least and the largest weight; NaN if there is one."""
    given = [count for count in counts if count is not None]
    least, most = (given[0] if len(given) == 1 else torch.cat(given)).aminmax()
    return float(least), float(most)


def _without_ones(pairs: Pairs) -> Pairs:
    """The pairs without weights that are all 1."""
    a_count, b_count = pairs.a_count, pairs.b_count
    if a_count is not None and bool((a_count == 1).all()):
        pairs = pairs._replace(a_count=None, b_count=None if b_count is a_count else b_count)
    if b_count is not None and b_count is not a_count and bool((b_count == 1).all()):
        pairs = pairs._replace(b_count=None)
    return pairs


def _spread(gradient: Tensor, places: Tensor | None, like: Tensor) -> Tensor:
    """Scatter the gradient of the kept rows to all rows."""
    return gradient if places is None else torch.zeros_like(like).index_copy_(0, places, gradient)
