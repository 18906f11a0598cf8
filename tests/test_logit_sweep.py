"""The tiled logit losses with weights and pair masks equal the dense formulas and loops from the papers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import mmda._engine.logit_tiles as tiles
from mmda._engine import native
from mmda._engine.logit_pairs import Contrast, Pairs
from mmda._engine.logits_at_once import MOST
from mmda.losses import info_nce_loss, nt_xent_loss, sigmoid_contrastive_loss, triplet_ranking_loss
from tests.logits import SWEEPS, contrastive
from tests.reference.contrastive import cosines, info_nce, nt_xent, sigmoid


@pytest.fixture(autouse=True, params=["compiled", "operations"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs every test with the compiled loops and with PyTorch's operations."""
    if request.param == "operations":
        monkeypatch.setattr(native, "_sweeps", None)
    elif native._sweeps is None:
        pytest.skip("the loops were not compiled here")


def rows(n: int, m: int, seed: int = 0, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    y[: min(n, m)] += x[: min(n, m)]
    return x, y


def counts(form: str, n: int, seed: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(seed)
    if form == "none":
        return None
    if form == "mask":
        return (torch.rand(n, generator=generator) < 0.7).double()
    if form == "ones":
        return torch.ones(n, dtype=torch.float64)
    whole = torch.randint(0, 4, (n,), generator=generator).double()
    return whole if form == "counts" else whole * 0.4


def pair_masks(form: str, n: int, m: int, seed: int = 5) -> dict[str, Tensor]:
    """Letters: p positive mask, w positive weight, n negative mask, s masks from labels, which are symmetric."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    if "s" in form:
        labels = torch.randint(0, 4, (max(n, m),), generator=generator)
        groups = torch.randint(0, 3, (max(n, m),), generator=generator)
        positive = labels[:n, None] == labels[:m]
        negative = groups[:n, None] != groups[:m]
    else:
        positive = torch.rand(n, m, generator=generator) < 0.3
        positive[0] = False  # a row without a positive
        negative = torch.rand(n, m, generator=generator) < 0.6
    if "p" in form:
        found["positive_mask"] = positive
    if "w" in form:
        found["positive_weight"] = torch.rand(n, m, generator=generator, dtype=torch.float64) * (negative | positive)
    if "n" in form:
        found["negative_mask"] = negative
    return found


def assert_equal_to_the_formula(kind: str, x: Tensor, y: Tensor, tau: float, unit: bool, **known: Any) -> None:
    several, block = known.pop("several", "mean"), known.pop("block_size", 3)
    bias = torch.tensor(-0.7, dtype=torch.float64) if kind == "sigmoid" else None
    inputs = [t.clone().requires_grad_() for t in (x, y, torch.tensor(tau, dtype=torch.float64))]
    inputs += [] if bias is None else [bias.clone().requires_grad_()]
    a, b, temperature, *others = inputs
    shift = others[0] if others else None
    found = contrastive(
        kind, a, b, shift, temperature=temperature, unit=unit, several=several, block_size=block, **known
    )
    wanted = SWEEPS[kind].dense(Pairs(a, b, temperature, shift, **known), Contrast(kind, several, unit))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    slopes = torch.autograd.grad(wanted, inputs, allow_unused=True)
    for one, other, given in zip(torch.autograd.grad(found, inputs, allow_unused=True), slopes, inputs):
        other = torch.zeros_like(given) if other is None else other
        size = tau**2 if given is temperature else tau  # the sizes of gradients
        torch.testing.assert_close(one * size, other * size, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        alone = contrastive(kind, a, b, shift, temperature=tau, unit=unit, several=several, block_size=block, **known)
    torch.testing.assert_close(alone, wanted, rtol=1e-11, atol=1e-12)


COUNTS = (("none", "same"), ("mask", "same"), ("counts", "same"), ("ones", "mask"), ("fractions", "counts"))
KINDS = ("info_nce", "symmetric", "nt_xent", "sigmoid")
#: Directions, temperature, tiles kept; the temperatures give logits that need no shift and logits far beyond.
SETTINGS = itertools.cycle(((True, 0.5, True), (False, 0.004, True), (False, 0.7, False), (True, 0.001, False)))


@pytest.mark.parametrize("form", ["", "n", "sn", "p", "pn", "sp", "spn", "w", "wn", "pw", "pwn"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination(kind: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of both inputs, pair masks, equal and unequal sizes, small and large logits, tiles stored or
    recomputed."""
    if "w" in form and kind not in ("info_nce", "symmetric"):
        pytest.skip("no weights of positives here")
    sizes = [(8, 8)] + ([(7, 11), (9, 4)] if "p" in form or "w" in form else [])
    several = ("mean", "sum") if kind in ("info_nce", "symmetric") and set(form) & set("pw") else ("mean",)
    for (n, m), (one, other), few in itertools.product(sizes, COUNTS, several):
        if kind == "nt_xent" and (n != m or other != "same"):
            continue
        x, y = rows(n, m)
        a_count = counts(one, n, 1)
        b_count = (a_count if n == m else None) if other == "same" else counts(other, m, 2)
        for side, count in ((x, a_count), (y, b_count)):
            if count is not None:
                side[count == 0] = 0
        known: dict[str, Any] = {"a_count": a_count, "b_count": b_count, **pair_masks(form, n, m)}
        if "w" in form and one == "mask":  # values in rows of weight 0 are ignored
            known["positive_weight"][a_count == 0] = torch.nan
        unit, tau, keep = next(SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(tiles, "KEEP_BYTES", 2**26 if keep else 0)
            assert_equal_to_the_formula(kind, x, y, tau, unit, several=few, **known)
        assert_equal_to_the_formula(kind, x, y, tau, unit, several=few, block_size=0, **known)  # all logits at once


def drawn(n: int = 9) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    x, y = rows(n, n)
    weight = torch.randint(0, 4, (n,), generator=torch.Generator().manual_seed(3))
    return x, y, {"weight": weight, **pair_masks("spn", n, n)}


def repeated(x: Tensor, y: Tensor, known: dict[str, Tensor]) -> tuple[Any, Any, dict[str, Any]]:
    """The same problem without weights: rows, and rows and columns of masks, are repeated."""
    count = known["weight"]
    masks = {
        name: known[name].repeat_interleave(count, 0).repeat_interleave(count, 1).numpy()
        for name in ("positive_mask", "negative_mask")
    }
    return x.repeat_interleave(count, 0).numpy(), y.repeat_interleave(count, 0).numpy(), masks


@pytest.mark.parametrize("by_tiles", [True, False])
def test_the_papers_loops(by_tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses themselves, by tiles and at once, against float64 loops over repeated rows."""
    if by_tiles:
        monkeypatch.setattr("mmda._engine.logits_at_once.MOST", dict.fromkeys(MOST, 0))
    x, y, known = drawn()
    a, b, masks = repeated(x, y, known)
    s = cosines(a, b) / 0.3
    positive, negative = masks["positive_mask"], masks["negative_mask"]
    for several, symmetric in itertools.product(("mean", "sum"), (False, True)):
        found = info_nce_loss(x, y, temperature=0.3, several=several, symmetric=symmetric, **known)
        wanted = info_nce(s, positive.astype(float), negative, several=several, symmetric=symmetric)
        assert found.item() == pytest.approx(wanted, rel=1e-12)
    found = sigmoid_contrastive_loss(x, y, temperature=0.3, bias=-2.0, **known)
    assert found.item() == pytest.approx(sigmoid(s, -2.0, positive, negative), rel=1e-12)
    found = nt_xent_loss(x, y, temperature=0.3, **known)
    assert found.item() == pytest.approx(nt_xent(a, b, 0.3, positive=positive, negative=negative), rel=1e-12)


@pytest.mark.parametrize("by_tiles", [True, False])
def test_a_mask_is_the_loss_of_the_rows_it_keeps(by_tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any values in padding; with all rows masked, a zero connected to the graph."""
    if by_tiles:
        monkeypatch.setattr("mmda._engine.logits_at_once.MOST", dict.fromkeys(MOST, 0))
    keep = torch.rand(40, generator=torch.Generator().manual_seed(4)) < 0.6
    for loss in (info_nce_loss, nt_xent_loss, sigmoid_contrastive_loss):
        x, y = rows(40, 40)
        wanted = loss(x[keep], y[keep])
        x[~keep], y[~keep] = torch.nan, torch.inf
        for given in (x, y):
            given.requires_grad_()
        found = loss(x, y, mask=keep)
        torch.testing.assert_close(found, wanted)
        for slope in torch.autograd.grad(found, (x, y)):
            assert slope.isfinite().all()
            assert (slope[~keep] == 0).all()
            assert (slope[keep] != 0).any()
        nothing = loss(x, y, mask=torch.zeros_like(keep))
        assert nothing == 0
        assert all((slope == 0).all() for slope in torch.autograd.grad(nothing, (x, y)))


def test_compiled_graphs_hold_one_operator() -> None:
    x, y, known = drawn()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = [t.requires_grad_() for t in (x, y)] + [tau]
    for loss in (info_nce_loss, nt_xent_loss, sigmoid_contrastive_loss):
        operators = []

        def backend(graph: torch.fx.GraphModule, _: Any, operators: list[Any] = operators) -> Any:
            operators.extend(node for node in graph.graph.nodes if "contrastive" in str(node.target))
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(loss, backend=backend, fullgraph=True)
        found, wanted = compiled(x, y, temperature=tau, **known), loss(x, y, temperature=tau, **known)
        torch.testing.assert_close(found, wanted)
        slopes = torch.autograd.grad(wanted, inputs)
        for one, other in zip(torch.autograd.grad(found, inputs), slopes):
            torch.testing.assert_close(one, other)
        assert len(operators) == 1


def test_operators_with_masks_keep_their_promises() -> None:
    x, y, known = drawn()
    count = known["weight"].double()
    others = (count, count, known["positive_mask"], None, known["negative_mask"])
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    a, b = x.requires_grad_(), y.requires_grad_()
    for kind in ("symmetric", "nt_xent", "sigmoid"):
        torch.library.opcheck(
            SWEEPS[kind].operator, (a, b, tau, None, *others, kind, "mean", True, 1.0, 4, [True] * 3 + [False])
        )


def test_second_derivatives_and_learned_counts() -> None:
    """Derivatives that the sweep does not compute come from the dense formula."""
    x, y = (t.requires_grad_() for t in rows(5, 5, d=2))
    weight = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    masks = pair_masks("pn", 5, 5)

    def learned(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return contrastive("symmetric", x, y, a_count=weight, b_count=weight, block_size=2, **masks)

    def fixed(x: Tensor, y: Tensor) -> Tensor:
        return learned(x, y, weight.detach())

    assert torch.autograd.gradcheck(learned, (x, y, weight))
    assert torch.autograd.gradgradcheck(fixed, (x, y))


def test_no_matrix_of_pairs_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are read tile by tile, without temporaries of the size of the matrix."""
    monkeypatch.setattr(tiles, "KEEP_BYTES", 0)
    monkeypatch.setattr("mmda._engine.logit_loops.CPU_BLOCK", 256)
    monkeypatch.setattr("mmda._engine.nt_xent_sweep.BLOCK", 256)
    monkeypatch.setattr("mmda._engine.sigmoid_sweep.SMALL_BLOCK", 256)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                    largest = max(largest, tensor.numel())
            return out

    n = 1024
    x, y = (t.float().requires_grad_() for t in rows(n, n))
    labels = torch.arange(n) // 2
    same = labels.unsqueeze(1) == labels
    weight = torch.arange(n) % 3
    other = ~same
    given = {same.untyped_storage().data_ptr(), other.untyped_storage().data_ptr()}
    for loss in (info_nce_loss, sigmoid_contrastive_loss, nt_xent_loss):
        for known in ({"positive_mask": same}, {"negative_mask": other, "weight": weight}):
            with Watch():
                loss(x, y, **known).backward()
    assert largest <= n * n // 16


@pytest.mark.parametrize("how", ["by itself", "dynamic", "marked"])
@pytest.mark.parametrize(
    "loss", [info_nce_loss, nt_xent_loss, sigmoid_contrastive_loss, triplet_ranking_loss], ids=lambda f: f.__name__
)
def test_batches_of_every_size_need_few_graphs(loss: Any, how: str) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=True if how == "dynamic" else None)
    for n in (5, 8, 13, 32, 64, 100, 255, 256, 257, 300, 512, 600):
        x, y = (t.float() for t in rows(n, n))
        groups = torch.arange(n) % 5
        known = {"mask": torch.arange(n) % 3 > 0, "negative_mask": groups.unsqueeze(1) != groups}
        for tensor in (x, y, *known.values()) if how == "marked" else ():
            torch._dynamo.mark_dynamic(tensor, [0, 1] if tensor.shape == (n, n) else 0)
        torch.testing.assert_close(compiled(x, y, **known), loss(x, y, **known), rtol=1e-5, atol=1e-6)
    assert len(graphs) <= 2
