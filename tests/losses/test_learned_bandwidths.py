"""A module whose kernel has a tensor as bandwidth owns that tensor."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmda.kernels import Gaussian, Kernel, Laplacian
from mmda.losses import (
    BlockMMDLoss,
    ContrastiveDomainDiscrepancyLoss,
    HSICLoss,
    JointMMDLoss,
    LocalMMDLoss,
    MMDLoss,
    RandomFeatureMMDLoss,
)

X, Y = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 2

Make = Callable[[Kernel], nn.Module]
MODULES: dict[str, Make] = {
    "BlockMMDLoss": lambda kernel: BlockMMDLoss(kernel=kernel),
    "ContrastiveDomainDiscrepancyLoss": lambda kernel: ContrastiveDomainDiscrepancyLoss(kernel=kernel, classes=2),
    "HSICLoss": lambda kernel: HSICLoss(kernel=kernel),
    "HSICLoss(positive_kernel=...)": lambda kernel: HSICLoss(kernel=Gaussian(2.0), positive_kernel=kernel),
    "JointMMDLoss": lambda kernel: JointMMDLoss(kernel=kernel),
    "JointMMDLoss(several)": lambda kernel: JointMMDLoss(kernel=(Laplacian(2.0), kernel)),
    "LocalMMDLoss": lambda kernel: LocalMMDLoss(kernel=kernel, classes=2),
    "MMDLoss": lambda kernel: MMDLoss(kernel=kernel),
    "RandomFeatureMMDLoss": lambda kernel: RandomFeatureMMDLoss(kernel=kernel, draws="fixed"),  # type: ignore[arg-type]
}


def arguments(module: nn.Module) -> tuple[tuple[object, ...], dict[str, object]]:
    if isinstance(module, JointMMDLoss):
        return ((X, X.square()), (Y, Y.square())), {}
    if isinstance(module, (ContrastiveDomainDiscrepancyLoss, LocalMMDLoss)):
        return (X, Y), {"source_labels": LABELS, "target_probabilities": LABELS}
    return (X, Y), {}


def call(module: nn.Module) -> Tensor:
    args, kwargs = arguments(module)
    return module(*args, **kwargs)


@pytest.fixture(params=MODULES)
def make(request: pytest.FixtureRequest) -> Make:
    return MODULES[request.param]


def test_a_parameter_is_trained_with_the_module(make: Make) -> None:
    module = make(Gaussian(nn.Parameter(torch.tensor(1.5))))
    (parameter,) = module.parameters()
    assert len(module.state_dict()) == 1
    call(module).backward()
    assert parameter.grad is not None
    assert parameter.grad != 0
    before = call(module).item()
    with torch.no_grad():
        parameter.fill_(0.7)
    assert call(module).item() == pytest.approx(call(make(Gaussian(0.7))).item(), rel=1e-5)
    assert call(module).item() != before


@pytest.mark.parametrize("learned", [True, False], ids=["parameter", "buffer"])
def test_the_tensor_follows_the_module(make: Make, learned: bool) -> None:
    """Conversion, copies, pickles, and a state loaded after each of them reach the kernel."""

    def fresh(number: float) -> nn.Module:
        tensor = torch.tensor(number)
        return make(Gaussian(nn.Parameter(tensor) if learned else tensor))

    module, state = fresh(1.5), fresh(0.7).state_dict()
    assert len(list(module.buffers())) == (not learned)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    copies = [copy.deepcopy(module), copy.deepcopy(module).double(), torch.load(stream, weights_only=False), module]
    expected = {number: call(make(Gaussian(number))).item() for number in (1.5, 0.7)}
    for other in copies:
        assert call(other).item() == pytest.approx(expected[1.5], rel=1e-5)
        other.load_state_dict(state)
        assert call(other).item() == pytest.approx(expected[0.7], rel=1e-5)
    assert next(iter(copies[1].state_dict().values())).dtype == torch.float64
    given = {name: torch.tensor(1.5) for name in state}
    called = torch.func.functional_call(module, given, *arguments(module))
    assert called.item() == pytest.approx(expected[1.5], rel=1e-5)


def test_compiled_with_a_learned_bandwidth() -> None:
    module = MMDLoss(kernel=Gaussian(nn.Parameter(torch.tensor(1.5))))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert compiled(X, Y).item() == pytest.approx(module(X, Y).item(), rel=1e-6)


def test_a_number_is_no_state() -> None:
    assert not MMDLoss(kernel=Gaussian(2.0)).state_dict()
    assert not MMDLoss().state_dict()


KERNEL_LOSSES = [
    lambda kernel: BlockMMDLoss(kernel=kernel),
    lambda kernel: ContrastiveDomainDiscrepancyLoss(kernel=kernel),
    lambda kernel: HSICLoss(kernel=kernel),
    lambda kernel: HSICLoss(positive_kernel=kernel),
    lambda kernel: JointMMDLoss(kernel=kernel),
    lambda kernel: JointMMDLoss(kernel=(Gaussian(), kernel)),
    lambda kernel: LocalMMDLoss(kernel=kernel),
    lambda kernel: MMDLoss(kernel=kernel),
    lambda kernel: RandomFeatureMMDLoss(kernel=kernel, draws="fixed"),
]


@pytest.mark.parametrize("make", KERNEL_LOSSES, ids=lambda make: type(make(Gaussian())).__name__)
def test_the_repr_shows_the_bandwidth_that_is_used(make) -> None:
    module = make(Gaussian(torch.tensor(2.0))).double()
    module.load_state_dict({name: torch.tensor(7.0) for name in module.state_dict()})
    assert "bandwidth=tensor(7., dtype=torch.float64)" in repr(module)
