"""The frame of a contrastive loss that is computed one tile of logits at a time: exact, in memory O(n d) beside masks.

The losses are InfoNCE in one direction or both (:mod:`mmda._engine.info_nce_sweep`: each tile's exponential serves its
rows and its columns), NT-Xent (:mod:`mmda._engine.nt_xent_sweep`: one list, the tiles above the diagonal serve both
sides) and the sigmoid loss (:mod:`mmda._engine.sigmoid_sweep`). Each makes its value and the slopes by the rows as they
were compared; what they share is here: rows that count 0 are left out before anything is computed, and the slopes go
back through the division by the temperature and by the rows' lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._engine import native
from mmda._engine.logit_pairs import Contrast, Pairs, without_padding
from mmda._engine.logit_tiles import Rows
from mmda._engine.scaffold import Gradients, Needed, Sweep


class Made(NamedTuple):
    """A loss, and its slopes by the rows that were compared over ``factor``.

    In one list of both sides ``x`` and ``y`` are the same, and the slopes too.
    """

    value: Tensor
    x: Rows
    y: Rows
    hx: Tensor | None
    hy: Tensor | None
    factor: Tensor | float
    of_bias: Tensor | None = None


class Problem(NamedTuple):
    """What a loss is made from: pairs of rows that count, of which the first ``paired`` on both sides belong together.

    ``scale`` is one over the temperature; ``wanted`` says of which side the slopes are.
    """

    pairs: Pairs
    how: Contrast
    scale: Tensor | float
    paired: int
    wanted: tuple[bool, bool]


def contrastive(sweep: Sweep[Pairs, Contrast], pairs: Pairs, how: Contrast, temperature: float | Tensor) -> Tensor:
    """One of the losses, by tiles where they can serve.

    Args:
        sweep: which.
        pairs: rows, counts and masks. Those that carry a gradient take the dense formula.
        how: what is asked.
        temperature: what the similarities are divided by.
    """
    compiling = torch.compiler.is_compiling()
    if compiling and not isinstance(temperature, Tensor):
        temperature = pairs.a.new_full((), temperature)  # a number would be a constant of the graph
    if isinstance(temperature, Tensor):
        pairs = pairs._replace(temperature=temperature.to(pairs.a.dtype))
    else:
        how = how._replace(tau=temperature)
    return sweep(pairs, how)


def sweep_of(
    name: str, make: Callable[[Problem], Made], dense: Callable[[Pairs, Contrast], Tensor]
) -> Sweep[Pairs, Contrast]:
    """The sweep of a loss."""

    def run(pairs: Pairs, how: Contrast, needed: Needed) -> tuple[Tensor, Gradients]:
        whole, wanted = pairs, any(needed)
        pairs, places, paired = _present(pairs)
        a, b, temperature = pairs[:3]
        if a.shape[0] == 0 or (b.shape[0] == 0 and whole.b.shape[0] > 0):
            return a.new_zeros(()), [None if t is None else torch.zeros_like(t) for t in whole[:4]] if wanted else ()
        scale: Tensor | float
        scale = 1 / how.tau if temperature is None else temperature.to(a).reciprocal()
        if native.serves(a, b):
            scale = float(scale)
        # The slope by the temperature comes from those by the rows of a.
        made = make(Problem(pairs, how, scale, paired, (needed[0] or needed[2], needed[1])))
        value = made.value.to(a.dtype)
        if not wanted:
            return value, ()
        ga = gb = slope = None
        joined = made.x is made.y
        if made.hx is not None:
            slope, ga = made.x.gradient(made.hx, made.factor, needed[2])
        if slope is not None and temperature is not None:
            # In one list every similarity is there twice.
            slope = (slope * (made.factor * scale)).mul_(-0.5 if joined else -1.0).to(temperature)
        if joined and ga is not None:
            ga, gb = ga.split([a.shape[0], b.shape[0]])  # type: ignore[no-untyped-call]
        elif made.hy is not None:
            gb = made.y.gradient(made.hy, made.factor, False)[1]
        ga, gb = (None if g is None else _spread(g, place, t) for g, place, t in zip((ga, gb), places, whole[:2]))
        of_bias = None if made.of_bias is None or pairs.bias is None else made.of_bias.to(pairs.bias.dtype)
        return value, (ga, gb, slope, of_bias)

    return Sweep(f"contrastive_{name}", Pairs, Contrast, slopes=4, run=run, dense=dense)


def _present(pairs: Pairs) -> tuple[Pairs, tuple[Tensor | None, Tensor | None], int]:
    """The pairs without the rows that count 0; where the rows stood (None: there); how many belong together.

    The latter come first. Nothing is left out where masks of pairs would have to be copied, and on an accelerator,
    which would have to wait: there zeros take the place of rows that count 0, and their logits are minus infinity.
    """
    a, b, _, _, a_count, b_count = pairs[:6]
    paired = a.shape[0] if pairs.own else 0
    if a_count is None and b_count is None:
        return pairs, (None, None), paired
    if a.device.type != "cpu":
        return without_padding(pairs), (None, None), paired
    same = a_count is b_count
    here = [None if count is None else count > 0 for count in (a_count, b_count)[: 1 if same else 2]]
    if all(some is None or bool(some.all()) for some in here):
        return _without_ones(pairs), (None, None), paired
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


def _without_ones(pairs: Pairs) -> Pairs:
    """The pairs without counts that are all 1."""
    a_count, b_count = pairs.a_count, pairs.b_count
    if a_count is not None and bool((a_count == 1).all()):
        pairs = pairs._replace(a_count=None, b_count=None if b_count is a_count else b_count)
    if b_count is not None and b_count is not a_count and bool((b_count == 1).all()):
        pairs = pairs._replace(b_count=None)
    return pairs


def _spread(gradient: Tensor, places: Tensor | None, like: Tensor) -> Tensor:
    """The gradient of all rows from that of those which count."""
    return gradient if places is None else torch.zeros_like(like).index_copy_(0, places, gradient)
