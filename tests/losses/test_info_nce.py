"""InfoNCE, one-way and symmetric, with several, soft and false pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmda.layers import LearnableTemperature
from mmda.losses import (
    InfoNCELoss,
    domain_negative_mask,
    duplicate_mask,
    identity_numbers,
    info_nce_loss,
    sigmoid_contrastive_loss,
    triplet_ranking_loss,
)
from tests.losses._samples import reference_sample, unequal_sample
from tests.reference.contrastive import cosines, info_nce

TAU = 0.3


def pairs(n: int = 6, d: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    return unequal_sample(n=n, m=n, d=d, seed=seed)


def oracle(x: Tensor, y: Tensor, q: Tensor | None = None, negative: Tensor | None = None, **kwargs: object) -> float:
    s = cosines(x.detach().numpy(), y.detach().numpy()) / TAU
    return info_nce(
        s, None if q is None else q.double().numpy(), None if negative is None else negative.numpy(), **kwargs
    )


def random_masks(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((n, m)) < 0.3), torch.from_numpy(rng.random((n, m)) < 0.6)


def test_reference_values() -> None:
    x, y = reference_sample()
    assert info_nce_loss(x, y, symmetric=False).item() == pytest.approx(9.85107187, abs=5e-9)
    assert info_nce_loss(x, y).item() == pytest.approx(10.23535578, abs=5e-9)


@pytest.mark.parametrize("symmetric", [False, True])
def test_against_loops(symmetric: bool) -> None:
    x, y = pairs()
    value = info_nce_loss(x, y, temperature=TAU, symmetric=symmetric)
    assert value.item() == pytest.approx(oracle(x, y, symmetric=symmetric), rel=1e-12)


def test_cross_entropy_with_labels_is_the_same_number() -> None:
    """torch's own cross-entropy of the logits, each row's class being its own index (CLIP's published form)."""
    x, y = pairs()
    logits = nn.functional.normalize(x) @ nn.functional.normalize(y).T / TAU
    labels = torch.arange(6)
    expected = (nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(info_nce_loss(x, y, temperature=TAU), expected)


@pytest.mark.parametrize("several", ["mean", "sum"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8)])
def test_masks_and_soft_positives_against_loops(several: str, symmetric: bool, sizes: tuple[int, int]) -> None:
    x, y = unequal_sample(n=sizes[0], m=sizes[1], d=4)
    positive, negative = random_masks(*sizes)
    positive[0] = False  # an anchor without a positive
    soft = torch.rand(sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    settings = {"temperature": TAU, "several": several, "symmetric": symmetric}
    for given, q in (
        ({"positive_mask": positive}, positive),
        ({"positive_weight": soft}, soft),
        ({"positive_weight": soft, "positive_mask": positive}, soft * positive),
    ):
        value = info_nce_loss(x, y, negative_mask=negative, **given, **settings)
        expected = oracle(x, y, q, negative, several=several, symmetric=symmetric)
        assert value.item() == pytest.approx(expected, rel=1e-12)


def test_negative_mask_leaves_the_positive_in() -> None:
    x, y = pairs()
    _, negative = random_masks(6, 6)
    negative.fill_diagonal_(False)
    assert info_nce_loss(x, y, temperature=TAU, negative_mask=negative).item() == pytest.approx(
        oracle(x, y, negative=negative, symmetric=True), rel=1e-12
    )
    nothing = torch.zeros(6, 6, dtype=torch.bool)
    assert info_nce_loss(x, y, negative_mask=nothing).item() == pytest.approx(0, abs=1e-14)


def test_explicit_diagonal_is_the_default() -> None:
    x, y = pairs()
    eye = torch.eye(6, dtype=torch.bool)
    expected = info_nce_loss(x, y, temperature=TAU)
    for given in ({"positive_mask": eye}, {"positive_weight": 0.3 * eye}, {"negative_mask": ~eye}):
        torch.testing.assert_close(info_nce_loss(x, y, temperature=TAU, **given), expected)


def test_mean_asks_for_all_positives_and_sum_for_any() -> None:
    anchor = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    both = torch.tensor([[True, True, False]])
    one = {"temperature": 0.01, "positive_mask": both, "symmetric": False}
    assert info_nce_loss(anchor, candidates, several="sum", **one).item() == pytest.approx(0, abs=1e-6)
    assert info_nce_loss(anchor, candidates, several="mean", **one).item() == pytest.approx(100)  # (0 + 200) / 2


@pytest.mark.parametrize("temperature", [0.07, 0.005])
def test_gradient_of_the_hardest_pairs_does_not_vanish(temperature: float) -> None:
    """The positive opposite to its anchor, a negative on top of it: p = exp(-2 / tau) underflows at 0.005."""
    x = torch.eye(4)[:2].requires_grad_()
    y = torch.stack([-x.detach()[0], x.detach()[0]]).requires_grad_()
    value = info_nce_loss(x, y, temperature=temperature, symmetric=False, normalize=False)
    value.backward()
    # anchor 0 loses 2 / tau; anchor 1 is orthogonal to both candidates and loses log 2
    assert value.item() == pytest.approx((2 / temperature + math.log(2)) / 2, rel=1e-6)
    # d/dx_0 = (y_1 - y_0) / (2 tau) exactly, as p_0 -> 0 and p_1 -> 1
    assert x.grad[0, 0].item() == pytest.approx(1 / temperature, rel=1e-5)


def test_weights_are_counts() -> None:
    """A repeated pair is a row of its own, and a negative for its copy."""
    x, y = pairs()
    count = torch.tensor([1, 2, 0, 3, 1, 1])
    again = {"anchor": x.repeat_interleave(count, 0), "positive": y.repeat_interleave(count, 0)}
    torch.testing.assert_close(
        info_nce_loss(x, y, temperature=TAU, weight=count), info_nce_loss(**again, temperature=TAU)
    )
    _, negative = random_masks(6, 6)
    repeated = negative.repeat_interleave(count, 0).repeat_interleave(count, 1)
    torch.testing.assert_close(
        info_nce_loss(x, y, temperature=TAU, weight=count, negative_mask=negative),
        info_nce_loss(**again, temperature=TAU, negative_mask=repeated),
    )


@pytest.mark.parametrize("several", ["mean", "sum"])
def test_weights_are_counts_with_several_positives(several: str) -> None:
    x, y = pairs()
    count = torch.tensor([1, 2, 0, 3, 1, 1])
    positive, negative = random_masks(6, 6)
    again = {
        name: mask.repeat_interleave(count, 0).repeat_interleave(count, 1)
        for name, mask in (("positive_mask", positive), ("negative_mask", negative))
    }
    settings = {"temperature": TAU, "several": several}
    torch.testing.assert_close(
        info_nce_loss(x, y, weight=count, positive_mask=positive, negative_mask=negative, **settings),
        info_nce_loss(x.repeat_interleave(count, 0), y.repeat_interleave(count, 0), **again, **settings),
    )


@pytest.mark.parametrize("hole", [math.nan, math.inf])
@pytest.mark.parametrize("explicit", [False, True])
def test_masked_pairs_are_absent(hole: float, explicit: bool) -> None:
    x, y = pairs()
    keep = torch.tensor([True, False, True, True, False, True])
    expected = info_nce_loss(x[keep], y[keep], temperature=TAU)
    x[~keep], y[~keep] = hole, hole
    x.requires_grad_()
    y.requires_grad_()
    given = {"positive_weight": torch.eye(6).where(keep & keep.unsqueeze(1), torch.nan)} if explicit else {}
    value = info_nce_loss(x, y, temperature=TAU, mask=keep, **given)
    value.backward()
    torch.testing.assert_close(value, expected)
    for grad in (x.grad, y.grad):
        assert torch.equal(grad[~keep], torch.zeros(2, 4, dtype=torch.float64))
        assert grad[keep].abs().sum() > 0


def test_candidate_mask_leaves_candidates_out() -> None:
    x, y = unequal_sample(n=4, m=7, d=4)
    positive, _ = random_masks(4, 7)
    keep = torch.tensor([True, True, False, True, False, True, True])
    expected = info_nce_loss(x, y[keep], temperature=TAU, positive_mask=positive[:, keep])
    y[~keep] = math.nan
    torch.testing.assert_close(
        info_nce_loss(x, y, temperature=TAU, positive_mask=positive, candidate_mask=keep), expected
    )


def test_candidate_mask_takes_the_positive_of_an_anchor_away() -> None:
    """The anchor of a removed candidate has no positive, but is still a candidate in the other direction."""
    x, y = pairs(n=4)
    keep = torch.tensor([True, True, False, True])
    way_there = oracle(x[keep], y[keep])
    eye = torch.eye(4, dtype=torch.bool)[:, keep]
    way_back = oracle(y[keep], x, eye.T)
    value = info_nce_loss(x, y, temperature=TAU, candidate_mask=keep)
    assert value.item() == pytest.approx((way_there + way_back) / 2, rel=1e-12)


def test_nothing_left_gives_a_connected_zero() -> None:
    x, y = (rows.requires_grad_() for rows in pairs())
    value = info_nce_loss(x, y, mask=torch.zeros(6, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(y.grad, torch.zeros_like(y))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_scale_of_the_rows_does_not_matter(scale: float) -> None:
    """In float32 the square of 1e30 overflows and that of 1e-30 vanishes."""
    x, y = (rows.float() for rows in pairs())
    torch.testing.assert_close(info_nce_loss(x * scale, y), info_nce_loss(x, y))


def test_rows_of_zeros_are_finite() -> None:
    x, y = (rows.requires_grad_() for rows in pairs())
    value = info_nce_loss(x * torch.tensor([0.0, 1, 1, 1, 1, 1]).double().unsqueeze(1), y)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_derivatives() -> None:
    x, y = (rows.requires_grad_() for rows in pairs(n=4, d=3))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    positive, negative = random_masks(4, 4)
    weight = torch.rand(4, dtype=torch.float64) + 0.5
    soft = torch.rand(4, 4, dtype=torch.float64)

    def plain(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return info_nce_loss(a, b, temperature=t)

    def masked(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return info_nce_loss(
            a, b, temperature=t, weight=weight, positive_mask=positive, positive_weight=soft, negative_mask=negative
        )

    def any_of_them(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return info_nce_loss(a, b, temperature=t, positive_mask=positive, negative_mask=negative, several="sum")

    for function in (plain, masked, any_of_them):
        assert torch.autograd.gradcheck(function, (x, y, temperature))
        assert torch.autograd.gradgradcheck(function, (x, y, temperature))


def test_a_learned_temperature_is_a_parameter_of_the_loss() -> None:
    module = InfoNCELoss(temperature=LearnableTemperature(0.07))
    assert len(list(module.parameters())) == 1
    x, y = (rows.float() for rows in pairs())
    value = module(x, y)
    torch.testing.assert_close(value, info_nce_loss(x, y, temperature=0.07))
    value.backward()
    assert all(p.grad.abs() > 0 for p in module.parameters())


def test_a_tensor_temperature_is_a_buffer_and_compiles_once() -> None:
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    module = InfoNCELoss(temperature=torch.tensor(0.5))
    assert set(module.state_dict()) == {"temperature"}
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    x, y = pairs()
    for temperature in (0.5, 0.1, 0.02):
        module.temperature.fill_(temperature)
        torch.testing.assert_close(compiled(x, y), info_nce_loss(x, y, temperature=temperature), rtol=1e-6, atol=1e-6)
    assert graphs == 1


def test_domains_as_negatives() -> None:
    """Within domains: each batch alone, weighted by size. Across: only rows of the other domain are negatives."""
    x, y = pairs()
    domain = torch.tensor([0, 0, 1, 1, 1, 1])
    within = info_nce_loss(x, y, temperature=TAU, negative_mask=domain_negative_mask(domain, domain))
    parts = [info_nce_loss(x[domain == k], y[domain == k], temperature=TAU) for k in (0, 1)]
    torch.testing.assert_close(within, (2 * parts[0] + 4 * parts[1]) / 6)
    across = domain_negative_mask(domain, domain, "across")
    assert torch.equal(across, ~domain_negative_mask(domain, domain, "within"))
    assert info_nce_loss(x, y, temperature=TAU, negative_mask=across).item() == pytest.approx(
        oracle(x, y, negative=across, symmetric=True), rel=1e-12
    )
    assert domain_negative_mask(domain, domain[:2], "all").all()


def test_duplicates_as_no_negatives() -> None:
    """Two videos with the same caption: with each other's rows left out of the negatives the loss is zero."""
    x = torch.eye(3)
    captions = torch.tensor([7, 7, 9])
    same = duplicate_mask(captions)
    rows = torch.eye(3)[[0, 0, 2]]
    assert info_nce_loss(rows, rows, temperature=0.01).item() > 0.4
    assert info_nce_loss(rows, rows, temperature=0.01, negative_mask=~same).item() < 1e-6
    assert info_nce_loss(x, x, temperature=0.01, positive_mask=same, several="sum").item() < 1e-6


def test_errors() -> None:
    x, y = unequal_sample(n=4, m=7, d=4)
    with pytest.raises(ValueError, match="info_nce_loss: `positive_mask` must be given if `anchor` has 4 rows and"):
        info_nce_loss(x, y)
    with pytest.raises(ValueError, match=r"info_nce_loss: `negative_mask` must have shape \(4, 4\), got \(4, 7\)"):
        info_nce_loss(x, y[:4], negative_mask=torch.ones(4, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`temperature` must be a finite number > 0, got 0\.0"):
        info_nce_loss(x, x, temperature=0.0)
    with pytest.raises(ValueError, match=r"InfoNCELoss: `temperature` must have shape \(\), got \(2,\)"):
        InfoNCELoss(temperature=torch.ones(2))
    with pytest.raises(ValueError, match="`several` must be one of 'mean', 'sum', got 'max'"):
        InfoNCELoss(several="max")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`mask` must be a bool tensor \(True = keep\), got torch\.float32"):
        info_nce_loss(x, x, mask=torch.ones(4))


@pytest.mark.parametrize("loss", [info_nce_loss, sigmoid_contrastive_loss, triplet_ranking_loss])
def test_a_mask_of_anchors_alone_is_refused_where_candidates_are_other_rows(loss: Callable[..., Tensor]) -> None:
    """Padded candidates would silently be negatives; the caller must pass a mask that says that none is padding."""
    x, y = unequal_sample(n=4, m=7, d=4)
    keep, positive = torch.tensor([True, True, False, True]), torch.eye(4, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"{loss.__name__}: `candidate_mask` must be given with `mask` if"):
        loss(x, y, mask=keep, positive_mask=positive)
    found = loss(x, y, mask=keep, positive_mask=positive, candidate_mask=torch.ones(7, dtype=torch.bool))
    torch.testing.assert_close(found, loss(x[keep], y, positive_mask=positive[keep]))


def test_texts_are_numbered() -> None:
    batches = [["a dog", "a cat", "a dog"], ["a bird", "a cat"]]
    assert [identity_numbers(batch).tolist() for batch in batches] == [[0, 1, 0], [0, 1]]
    known: dict[Hashable, int] = {}
    together = [identity_numbers(batch, known) for batch in batches]
    assert [numbers.tolist() for numbers in together] == [[0, 1, 0], [2, 1]]
    assert known == {"a dog": 0, "a cat": 1, "a bird": 2}
    assert torch.equal(duplicate_mask(together[0], together[1]), duplicate_mask(*batches[:2]))
    with pytest.raises(TypeError, match="identity_numbers: `ids` must be a sequence of ids, got str"):
        identity_numbers("a dog")
    with pytest.raises(TypeError, match="identity_numbers: `ids` must hold texts or other values"):
        identity_numbers([torch.tensor(1)])


def test_copies_among_other_rows() -> None:
    """Identities of the candidates may be given separately, as tensors or as texts."""
    bank = torch.tensor([8, 7, 7, 1])
    wanted = torch.tensor([[False, True, True, False], [True, False, False, False]])
    assert torch.equal(duplicate_mask(torch.tensor([7, 8]), bank), wanted)
    assert torch.equal(duplicate_mask(["seven", "eight"], ("eight", "seven", "seven", "one")), wanted)
    assert torch.equal(duplicate_mask(["a", "b", "a"]), duplicate_mask(torch.tensor([0, 1, 0])))
    with pytest.raises(TypeError, match="`candidate_ids` must be a tensor where `ids` is one"):
        duplicate_mask(bank, ["eight"])
    with pytest.raises(TypeError, match="`ids` must be a sequence of ids, got str"):
        duplicate_mask("eight")
    with pytest.raises(TypeError, match="`ids` must hold texts or other values, or be one tensor, got Tensor"):
        duplicate_mask([torch.tensor(7), torch.tensor(7)])
    with pytest.raises(ValueError, match=r"`candidate_ids` must have shape \(samples,\), got \(2, 2\)"):
        duplicate_mask(bank, bank.view(2, 2))
