"""Weighted sums of named terms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmda.objectives import Objective, weighted_sum

ROLES = ("moment", "video", "query", "pairs")


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(ROLES), st.tuples(st.floats(-9, 9), st.none() | st.floats(-2, 2)), min_size=1))
def test_sum_of_weight_times_term(problem: dict[str, tuple[float, float | None]]) -> None:
    """A role without a weight has weight 1. The derivative with respect to a term is its weight."""
    terms = {r: torch.tensor(v, dtype=torch.float64, requires_grad=True) for r, (v, _) in problem.items()}
    weights = {role: weight for role, (_, weight) in problem.items() if weight is not None}
    objective = weighted_sum(terms, weights)
    expected = math.fsum(v * (1.0 if w is None else w) for v, w in problem.values())
    assert objective.total.item() == pytest.approx(expected, abs=1e-12)
    objective.total.backward()
    for role, (_, weight) in problem.items():
        slope = terms[role].grad
        assert (0.0 if slope is None else slope.item()) == pytest.approx(1.0 if weight is None else weight)


def test_terms_are_returned_raw_and_in_order() -> None:
    terms = {"video": torch.tensor(3.0), "moment": torch.tensor(2.0)}
    objective = weighted_sum(terms, {"video": 0.5})
    assert isinstance(objective, Objective)
    assert list(objective.terms) == ["video", "moment"]
    assert objective.terms["video"] is terms["video"]
    assert objective.terms is not terms


def test_weight_zero_leaves_the_term_out_of_the_graph() -> None:
    """Infinite values as well: 0 times infinity would be NaN."""
    off, on = torch.tensor(math.inf, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    objective = weighted_sum({"off": off, "on": on}, {"off": 0.0})
    objective.total.backward()
    assert objective.total.item() == 2
    assert off.grad is None
    assert on.grad is not None
    assert on.grad.item() == 1


def test_all_weights_zero_is_a_connected_zero() -> None:
    term = torch.tensor(2.0, requires_grad=True)
    objective = weighted_sum({"only": term}, {"only": 0.0})
    objective.total.backward()
    assert objective.total.item() == 0
    assert term.grad is not None
    assert term.grad.item() == 0


def test_a_weight_may_be_a_scalar_tensor_whose_value_is_not_read() -> None:
    terms = {"a": torch.tensor(3.0, requires_grad=True), "b": torch.tensor(2.0)}
    for number in (0.0, 1.0, 0.5):
        weight = torch.tensor(number, requires_grad=True)
        total = weighted_sum(terms, {"a": weight}).total
        assert total.item() == 3 * number + 2
        slopes = torch.autograd.grad(total, (weight, terms["a"]))
        assert [slope.item() for slope in slopes] == [3, number]
    compiled = torch.compile(lambda a, w: weighted_sum({"a": a}, {"a": w}).total, backend="eager", fullgraph=True)
    assert compiled(torch.tensor(3.0), torch.tensor(0.5)).item() == 1.5
    meta = weighted_sum({"a": torch.tensor(3.0, device="meta")}, {"a": torch.tensor(0.5, device="meta")})
    assert meta.total.device.type == "meta"
    with pytest.raises(ValueError, match=r"`weights\['a'\]` must be a number or a scalar tensor, got \(2,\)"):
        weighted_sum(terms, {"a": torch.ones(2)})


def test_nothing_left_is_zero_whatever_the_terms_are() -> None:
    term = torch.tensor(math.nan, requires_grad=True)
    total = weighted_sum({"a": term}, {"a": 0.0}).total
    total.backward()
    assert (total.item(), term.grad.item()) == (0, 0)


def test_errors() -> None:
    one = torch.tensor(1.0)
    text = r"weighted_sum: `weights` must name roles among \['moment', 'video'\], got \['query', 'vdeo'\]"
    with pytest.raises(ValueError, match=text):
        weighted_sum({"video": one, "moment": one}, {"vdeo": 1.0, "query": 2.0, "moment": 1.0})
    with pytest.raises(ValueError, match="weighted_sum: `terms` must hold at least one term, got none"):
        weighted_sum({})
    with pytest.raises(ValueError, match=r"weighted_sum: `terms\['video'\]` must be a scalar, got \(2,\)"):
        weighted_sum({"video": torch.ones(2)})
