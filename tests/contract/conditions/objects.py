"""Objects: copying, saving and printing modules, and their functions."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.contract.cases import Case
from tests.contract.conditions._shared import condition, constructor, is_function, is_loss, outputs, problems_dressed

#: Heading of this family's column in the overview.
HEAD = "obj"


def _assert_equal_results(case: Case, module: Callable[..., Any]) -> None:
    problem = case.draw()
    for one, other in zip(outputs(case.call(problem, module)), outputs(case.call(problem)), strict=True):
        assert torch.equal(one, other)


@condition("Objects", "deepcopy")
def check_deepcopy(case: Case) -> None:
    """A deep copy computes the same and shares no parameters."""
    module = case.make()
    twin = copy.deepcopy(module)
    _assert_equal_results(case, twin)
    assert not {id(p) for p in module.parameters()} & {id(p) for p in twin.parameters()}


@condition("Objects", "pickle")
def check_pickle(case: Case) -> None:
    """After a ``pickle`` round trip the module computes and prints the same."""
    module = case.make()
    back = pickle.loads(pickle.dumps(module))
    _assert_equal_results(case, back)
    assert repr(back) == repr(module)


@condition("Objects", "state_dict")
def check_state_dict(case: Case) -> None:
    """``state_dict`` can be saved and loaded with ``weights_only``, and restores a module with other parameters."""
    module, other = case.make(), case.make()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    _assert_equal_results(case, other)


@condition("Objects", "meta device")
def check_meta(case: Case) -> None:
    """On the meta device, which has no values, shape and dtype are correct."""
    problem = problems_dressed(case, torch.float32)[-1]
    expected = outputs(case.call(problem))
    found = outputs(case.call(problem.map(lambda name, leaf: leaf.to("meta")), case.make().to("meta")))
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "meta"
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


@condition("Objects", "module = function", applies=lambda case: is_loss(case) and not is_function(case))
def check_module_is_function(case: Case) -> None:
    """Module and function agree: same value, and the same arguments over constructor and call."""
    function = case.function
    assert function is not None, f"no exported function belongs to {case.module}"
    module = case.make()
    own = constructor(module)
    call = case.signature.parameters
    wanted = inspect.signature(function).parameters
    assert {*own, *call} == {*wanted}, f"{sorted({*own, *call} ^ {*wanted})} differ"
    positional = [n for n, p in wanted.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == [n for n, p in call.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    for name in {*own} & {*wanted}:
        if name == "draws":  # a module has a training mode, a function does not
            assert (own[name].default, wanted[name].default) == ("fresh", "fixed")
            continue
        assert own[name].default is wanted[name].default or own[name].default == wanted[name].default, name
    settings = {name: getattr(module, name) for name in own if name not in call}
    problem = case.draw()
    args, kwargs = case.arguments(problem)
    assert torch.equal(function(*args, **kwargs, **settings), case.value(problem, module))


@condition("Objects", "repr")
def check_repr(case: Case) -> None:
    """``repr`` shows the class and every setting of the module."""
    module = case.make()
    text = repr(module)
    assert text.startswith(type(module).__name__ + "(")
    for name in constructor(module):
        held = getattr(module, name, None)
        assert held is None or isinstance(held, nn.Module) or f"{name}=" in text or f"({name})" in text, (
            f"repr hides `{name}`: {text}"
        )
