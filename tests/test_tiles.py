"""The tiled paths equal the dense formulas in value and all derivatives.

The dense formulas are held to independent references in the tests of the losses; here they are the oracle, in float64,
for tiles small enough that several are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import hessian, jvp, vmap

import mmda._engine.logit_tiles as contrastive_tiles
from mmda._engine import native
from mmda._engine.info_nce_formula import INFO_NCE
from mmda._engine.kernel_sums import pair_means
from mmda._engine.kernel_sweep import SWEEP as KERNEL_SWEEP
from mmda._engine.kernel_sweep import KernelSum, Samples, can_stream, pair_sum
from mmda._engine.kernel_tiles import _doublings
from mmda._engine.logit_pairs import Contrast, Pairs
from mmda._engine.scaffold import edges as cut
from mmda.kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic
from mmda.losses import MMDLoss, contrastive_domain_discrepancy_loss, energy_distance_loss, local_mmd_loss, mmd_loss
from mmda.losses.energy import _NegativePower
from tests.logits import SWEEPS, contrastive


@pytest.fixture(autouse=True, params=["compiled", "operations"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs every test with the compiled loops and with PyTorch's operations."""
    if request.param == "operations":
        monkeypatch.setattr(native, "_sweeps", None)
    elif native._sweeps is None:
        pytest.skip("the loops were not compiled here")


KERNELS = (
    Gaussian(),
    Gaussian(2.0, scales=(1.0,)),
    Gaussian(1.5, scales=(0.3, 1.0, 2.2, 4.4)),
    Gaussian(1.5, scales=(1.0, 1.0, 2.0)),
    Laplacian("mean"),
    Laplacian(1.5, scales=(0.7, 1.0)),
    RationalQuadratic(),
    RationalQuadratic(2.0, alpha=0.7),
    Energy(),
)
FIXED = Gaussian(2.0)
KINDS = ("info_nce", "symmetric", "nt_xent", "sigmoid")


def samples(n: int, m: int, d: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = 1.3 * torch.randn(m, d, generator=generator, dtype=torch.float64) + 0.4
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def dense_mmd(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool, weights: Any = (None, None)) -> Tensor:
    means = pair_means(x, y, *weights, kernel=kernel, unbiased=unbiased)
    return means.within_x + means.within_y - 2 * means.across


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, inputs)]


def dense(kind: str, a: Tensor, b: Tensor, bias: Tensor | None, tau: Any = 1.0, unit: bool = False) -> Tensor:
    learned = isinstance(tau, Tensor)
    how = Contrast(kind, "mean", unit, 1.0 if learned else tau)
    return SWEEPS[kind].dense(Pairs(a, b, tau if learned else None, bias), how)


def assert_same(found: Tensor, wanted: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("block_size", [None, 8, 64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_value_and_gradient(kernel: Kernel, estimator: Any, weighted: bool, block_size: int | None) -> None:
    x, y = samples(19, 34)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randint(0, 3, (k,), generator=generator).double() if weighted else None for k in (19, 34)]
    found = mmd_loss(
        x,
        y,
        kernel=kernel,
        estimator=estimator,
        block_size=block_size,
        source_weight=weights[0],
        target_weight=weights[1],
    )
    wanted = dense_mmd(x, y, kernel, unbiased=estimator == "unbiased", weights=weights)
    assert_same(found, wanted, 1e-12)
    for ours, dense_one in zip(gradients(found, x, y), gradients(wanted, x, y)):
        assert_same(ours, dense_one, 1e-13)


def coefficients(form: str, n: int, m: int) -> tuple[tuple[Tensor, Tensor] | tuple[None, None], Tensor]:
    """Coefficients C of each form, as two factors and as a matrix."""
    generator = torch.Generator().manual_seed(3)
    group = torch.tensor([0] * n + [1] * m)
    if form == "blocks":
        table = torch.tensor([[1 / n**2, -1 / (n * m)], [-1 / (n * m), 1 / m**2]], dtype=torch.float64)
        return (None, None), table[group][:, group]
    q = {"weights": 1, "classes": 3}[form]
    right = torch.rand(n + m, q, generator=generator, dtype=torch.float64)
    right[1] = 0  # a row of weight 0
    tables = torch.rand(2, 2, q, q, generator=generator, dtype=torch.float64)
    tables = tables + tables.permute(1, 0, 3, 2)  # the matrix of both samples is symmetric
    tables[0, 1] *= -1
    tables[1, 0] *= -1
    left = torch.stack([torch.cat([right[i] @ tables[group[i], g] for g in range(2)]) for i in range(n + m)])
    matrix = torch.stack(
        [torch.stack([right[i] @ tables[group[i], group[j]] @ right[j] for j in range(n + m)]) for i in range(n + m)]
    )
    return (left, right[:, 0] if q == 1 else right), matrix


@pytest.mark.parametrize("block_size", [None, 5, 16])
@pytest.mark.parametrize("form", ["blocks", "weights", "classes"])
@pytest.mark.parametrize("kernel", [k for k in KERNELS if not isinstance(getattr(k, "bandwidth", 0), str)], ids=repr)
def test_every_form_of_coefficients(kernel: Kernel, form: str, block_size: int | None) -> None:
    """Against the sum over all pairs: unequal sizes, a repeated row, a row in both samples, a gradient for one side."""
    x, y = samples(13, 22, d=3)
    with torch.no_grad():
        x[7], y[20], y[3] = x[2], y[5], x[2]
    c, matrix = coefficients(form, 13, 22)
    assert_same(matrix, matrix.T, 1e-15)
    bandwidth, plus = kernel.settle(x), torch.tensor(0.25, dtype=torch.float64)

    def oracle() -> Tensor:
        z = torch.cat([x, y])
        gram = kernel.evaluate((z.unsqueeze(1) - z).square().sum(2), bandwidth)
        own = kernel.at_zero * (1 / 13 + 1 / 22) if form == "blocks" else 0.0
        return (matrix * gram * (1 - torch.eye(35, dtype=torch.float64))).sum() + own + 0.25

    wanted, slopes = oracle().detach(), gradients(oracle(), x, y)
    for centre in (None, x.new_tensor([0.3, -0.1, 0.2])):

        def by_tiles(x: Tensor, y: Tensor, centre: Tensor | None = centre) -> Tensor:
            return pair_sum(Samples(x, y, *c, bandwidth, centre, plus), kernel, block_size=block_size)

        found = by_tiles(x, y)
        assert_same(found, wanted)
        for ours, one in zip(gradients(found, x, y), slopes):
            assert_same(ours, one)
        assert_same(gradients(by_tiles(x, y.detach()), x)[0], slopes[0])
        assert_same(gradients(by_tiles(x.detach(), y), y)[0], slopes[1])
        assert_same(by_tiles(x.detach(), y.detach()), wanted)
        first = torch.autograd.grad(by_tiles(x, y), y, create_graph=True)[0]
        twice = torch.autograd.grad(oracle(), y, create_graph=True)[0]
        assert_same(first, twice)
        for ours, one in zip(gradients(first.square().sum(), x, y), gradients(twice.square().sum(), x, y)):
            assert_same(ours, one)


@pytest.mark.parametrize("n", [(11, 17), (190, 141)])
@pytest.mark.parametrize("loss", [local_mmd_loss, contrastive_domain_discrepancy_loss])
def test_classes_by_tiles_equal_the_dense_formula(
    loss: Callable[..., Tensor], n: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = samples(*n, d=3)
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(-1, 3, n[:1], generator=generator)  # -1 and 3 are in one sample only
    memberships = torch.rand(n[1], 4, generator=generator, dtype=torch.float64).softmax(1)
    weight = torch.randint(0, 3, n[:1], generator=generator).double()
    mask = torch.rand(n[1], generator=generator) > 0.2
    for targets in (memberships, memberships.argmax(1)):
        for kernel in (FIXED, Laplacian("mean"), Energy()):
            options: Any = {"source_labels": labels, "target_probabilities": targets, "classes": 4, "kernel": kernel}
            options |= {"source_weight": weight, "target_mask": mask}
            found = loss(x, y, **options)
            assert "PairSum" in type(found.grad_fn).__name__
            with monkeypatch.context() as patch:
                patch.setattr("mmda._math.class_weights.can_stream", lambda *_: False)
                wanted = loss(x, y, **options)
            assert_same(found, wanted)
            for ours, one in zip(gradients(found, x, y), gradients(wanted, x, y)):
                assert_same(ours, one)
    learned = weight.clone().requires_grad_()
    options["source_weight"] = learned
    assert gradients(loss(x, y, **options), learned)[0].abs().sum() > 0


def test_pairs_far_apart_cost_no_digits() -> None:
    """Kernel values between two distant clusters underflow to zero; the MMD is that of the clusters alone."""
    x, y = samples(300, 200, d=3, dtype=torch.float32)
    value = mmd_loss(x, y + 200, kernel=Gaussian(1.0, scales=(1.0,)))
    alone = [(torch.cdist(t, t) ** 2 / -2).exp().mean() for t in (x.detach().double(), (y.detach() + 200).double())]
    # distances are differences of squares of 2e4, 2e-3 each, and errors of both signs
    assert value.item() == pytest.approx(sum(t.item() for t in alone), rel=1e-4)
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


def test_without_grad_mode_no_gradient_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    pass_of_pairs = KERNEL_SWEEP.run
    monkeypatch.setattr(KERNEL_SWEEP, "run", lambda *a: asked.append(a[2]) or pass_of_pairs(*a))
    x, y = samples(9, 14)
    with torch.no_grad():
        mmd_loss(x, y, kernel=FIXED)
    mmd_loss(x, y.detach(), kernel=FIXED)
    assert asked == [[False, False], [True, False]]
    wanted = []
    run = INFO_NCE.run
    monkeypatch.setattr(INFO_NCE, "run", lambda *a: wanted.append(a[2]) or run(*a))
    a, b, bias = pairs()
    with torch.no_grad():
        contrastive("info_nce", a, b, bias, block_size=3)
    contrastive("info_nce", a, b.detach(), bias, block_size=3)
    assert wanted == [[False] * 4, [True, False, False, True]]


def test_the_sizes_that_change_the_path() -> None:
    for n, m in ((1, 1), (100, 156), (100, 157), (513, 40)):
        x, y = samples(n, m)
        found, wanted = mmd_loss(x, y, kernel=FIXED), dense_mmd(x, y, FIXED, unbiased=False)
        assert_same(found, wanted, 1e-12)
        for ours, dense_one in zip(gradients(found, x, y), gradients(wanted, x, y)):
            assert_same(ours, dense_one, 1e-13)


def test_duplicates_give_no_slope_and_no_nan() -> None:
    x = torch.ones(8, 2, dtype=torch.float64, requires_grad=True)
    for kernel in (Laplacian(1.0), Energy(), FIXED):
        for block_size in (None, 3):
            value = mmd_loss(x, x.detach().clone(), kernel=kernel, block_size=block_size)
            assert_same(value, torch.zeros_like(value))
            assert_same(gradients(value, x)[0], torch.zeros_like(x))


def test_one_side_alone_may_need_a_gradient() -> None:
    x, y = samples(9, 14)
    for block_size in (None, 4):
        both = gradients(mmd_loss(x, y, kernel=FIXED, block_size=block_size), x, y)
        assert_same(gradients(mmd_loss(x, y.detach(), kernel=FIXED, block_size=block_size), x)[0], both[0])
        assert_same(gradients(mmd_loss(x.detach(), y, kernel=FIXED, block_size=block_size), y)[0], both[1])
        assert not mmd_loss(x.detach(), y.detach(), kernel=FIXED, block_size=block_size).requires_grad


def test_float32_far_from_the_origin() -> None:
    x, y = samples(300, 280, d=8)
    exact = mmd_loss(x, y, kernel=FIXED)
    wanted = gradients(exact, x, y)
    a, b = ((t.detach() + 1000).float().requires_grad_() for t in (x, y))
    found = mmd_loss(a, b, kernel=FIXED)
    # only the rounding of the inputs is lost, 3e-5 each
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)
    for ours, one in zip(gradients(found, a, b), wanted):
        assert (ours.double() - one).norm() < 1e-4 * one.norm()


class Mine(Gaussian):
    """A user's kernel, without a formula."""

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return 1 / (1 + squared / bandwidth)


class Learned(torch.nn.Module):
    """A kernel with a parameter in addition to the bandwidth."""

    at_zero = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def settle(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        return rows.new_ones(())

    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return torch.exp(-self.rate * squared)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", [Mine(2.0), _NegativePower(1.5), _NegativePower(0.3)], ids=repr)
def test_kernels_of_ones_own_go_by_tiles(kernel: Kernel, weighted: bool, block_size: int | None) -> None:
    x, y = samples(19, 34, d=3)
    with torch.no_grad():
        x[7], y[20], y[3] = x[2], y[5], x[2]
    weights = torch.arange(19).double() % 3 if weighted else None, None
    assert can_stream(kernel, (x, y), ())
    found = mmd_loss(x, y, kernel=kernel, source_weight=weights[0], block_size=block_size)
    assert "PairSum" in type(found.grad_fn).__name__ or weighted
    wanted = dense_mmd(x, y, kernel, unbiased=False, weights=weights)
    assert_same(found, wanted, 1e-12)
    for ours, one in zip(gradients(found, x, y), gradients(wanted, x, y)):
        assert_same(ours, one, 1e-12)


def test_kernels_that_learn_take_the_dense_formula() -> None:
    x, y = samples(5, 6)
    kernel = Learned()
    assert not can_stream(kernel, (x, y), ())
    (slope,) = gradients(mmd_loss(x, y, kernel=kernel), kernel.rate)
    (wanted,) = gradients(dense_mmd(x, y, kernel, unbiased=False), kernel.rate)
    assert slope.abs() > 0
    assert_same(slope, wanted)
    with torch.no_grad():
        assert can_stream(kernel, (x, y), ())


def test_bandwidth_and_weights_that_learn() -> None:
    x, y = samples(5, 6)
    bandwidth = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def loss(bandwidth: Tensor, weight: Tensor) -> Tensor:
        return mmd_loss(x, y, kernel=Gaussian(bandwidth), source_weight=weight, block_size=2)

    assert torch.autograd.gradcheck(loss, (bandwidth, weight))


@pytest.mark.parametrize("kind", [Gaussian, Laplacian, RationalQuadratic])
def test_a_bandwidth_learns_in_tiles(kind: type[Gaussian], monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, first and second derivative for bandwidth and rows, without a matrix of all pairs."""
    x, y = samples(5, 6)
    x.requires_grad_()
    bandwidth = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 0, 2, 1, 1], dtype=torch.float64)

    def loss(bandwidth: Tensor, x: Tensor) -> Tensor:
        return mmd_loss(x, y, kernel=kind(bandwidth), source_weight=weight, block_size=2)

    assert torch.equal(loss(bandwidth, x), mmd_loss(x, y, kernel=kind(1.5), source_weight=weight, block_size=2))
    assert torch.autograd.gradcheck(loss, (bandwidth, x))
    assert torch.autograd.gradgradcheck(loss, (bandwidth, x))
    monkeypatch.setattr("mmda._engine.kernel_sums.pair_means", None)  # the dense formula
    assert torch.autograd.grad(loss(bandwidth, x), bandwidth)[0] != 0


def tiled_mmd(x: Tensor, y: Tensor) -> Tensor:
    return mmd_loss(x, y, kernel=FIXED, block_size=4)


def tiled_contrastive(kind: str) -> Callable[..., Tensor]:
    return lambda a, b, bias: contrastive(kind, a, b, bias, block_size=3)


def pairs(n: int = 5, d: int = 3, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
    return (scale * a).requires_grad_(), b.requires_grad_(), torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)


CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "mmd": (tiled_mmd, samples(5, 7)),
    **{kind: (tiled_contrastive(kind), pairs()) for kind in KINDS},
}


def dense_of(name: str) -> Callable[..., Tensor]:
    if name == "mmd":
        return lambda x, y: dense_mmd(x, y, FIXED, unbiased=False)
    return lambda a, b, bias: dense(name, a, b, bias)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_by_finite_differences(name: str) -> None:
    loss, inputs = CASES[name]
    assert torch.autograd.gradcheck(loss, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, inputs, check_batched_grad=True)


# PyTorch makes some of its forward derivatives with torch.jit.script, which it has deprecated
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_function_transforms(name: str) -> None:
    loss, inputs = CASES[name]
    other = dense_of(name)
    plain = tuple(t.detach() for t in inputs)
    assert_same(hessian(loss)(*plain), hessian(other)(*plain))
    assert_same(jvp(loss, plain, plain)[1], jvp(other, plain, plain)[1])
    many = tuple(torch.stack([t, 2 * t]) for t in plain)
    one_by_one = torch.stack([other(*(t[k] for t in many)) for k in range(2)])
    assert_same(vmap(loss)(*many), one_by_one)
    for vectorize in (False, True):
        second = torch.autograd.functional.hessian(loss, plain, vectorize=vectorize)[0][0]
        assert_same(second, hessian(other)(*plain))
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(plain[0], plain[0]), *plain[1:])
        tangent = forward_ad.unpack_dual(dual).tangent
    assert_same(tangent, jvp(lambda a: other(a, *plain[1:]), plain[:1], plain[:1])[1])


@pytest.mark.parametrize("name", CASES)
def test_compiled_as_one_operator(name: str) -> None:
    loss, inputs = CASES[name]
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        compiled = torch.compile(loss, fullgraph=True, backend=backend)
        value = compiled(*inputs)
        assert_same(value, loss(*inputs))
        for found, wanted in zip(gradients(value, *inputs), gradients(loss(*inputs), *inputs)):
            assert_same(found, wanted)
    # A second derivative of a compiled graph is correct or raises an error; it is never zero.
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    first = torch.autograd.grad(compiled(*inputs), inputs[0], create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), inputs[0])[0]
    first = torch.autograd.grad(dense_of(name)(*inputs), inputs[0], create_graph=True)[0]
    assert_same(second, torch.autograd.grad(first.square().sum(), inputs[0])[0])


DEPENDENT: dict[str, Callable[[Tensor], Tensor]] = {
    "a function": lambda z: 2 * z.tanh() + z @ torch.ones(3, 3, dtype=z.dtype),
    "the same": lambda z: z,
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("second", DEPENDENT)
@pytest.mark.parametrize("name", CASES)
def test_gradient_with_a_graph_where_one_side_depends_on_the_other(name: str, second: str, compiled: bool) -> None:
    """Each path from an input to the loss contributes once to the gradient, for any way to compute it."""
    z, tau = pairs()[0], torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def loss(z: Tensor, tau: Tensor) -> Tensor:
        other = DEPENDENT[second](z)
        if name == "mmd":
            weight = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)
            return mmd_loss(z, other, source_weight=weight, kernel=FIXED, block_size=4) * tau
        return contrastive(name, z, other, tau.log(), temperature=tau, block_size=3)

    torch._dynamo.reset()
    call = torch.compile(loss, fullgraph=True, backend="eager") if compiled else loss
    plain = torch.autograd.grad(loss(z, tau), (z, tau))
    graph = torch.autograd.grad(call(z, tau), (z, tau), create_graph=True)
    for found, wanted in zip(graph, plain):
        assert_same(found, wanted)
    if not compiled:
        assert torch.autograd.gradgradcheck(loss, (z, tau))


@pytest.mark.parametrize("name", CASES)
def test_autocast_leaves_the_gradient_with_a_graph_alone(name: str) -> None:
    loss = CASES[name][0]
    inputs = [t.detach().float().requires_grad_() for t in CASES[name][1]]
    plain = torch.autograd.grad(loss(*inputs), inputs[0])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        graph = torch.autograd.grad(loss(*inputs), inputs[0], create_graph=True)[0]
    assert_same(graph, plain, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_features_made_in_inference_mode(name: str) -> None:
    loss, (first, *others) = CASES[name]
    with torch.inference_mode():
        frozen = [t.detach() * 1 for t in others]
    found = torch.autograd.grad(loss(first, *frozen), first)[0]
    assert_same(found, torch.autograd.grad(loss(first, *others), first)[0])
    with torch.inference_mode():
        assert_same(loss(first, *frozen), loss(first, *others))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_keeps_the_digits_of_a_small_loss(kind: str, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Well separated pairs: the loss is zero up to rounding, which must not make it negative."""
    if not keep:
        monkeypatch.setattr(contrastive_tiles, "KEEP_BYTES", 0)
    generator = torch.Generator().manual_seed(3)
    rows = torch.linalg.qr(torch.randn(96, 64, generator=generator))[0].T  # orthonormal
    bias = torch.tensor(-500.0 if kind == "sigmoid" else 0.0)
    for temperature in (0.001, 0.01, 0.07):
        a, b, tau = (t.clone().requires_grad_() for t in (rows, rows, torch.tensor(temperature)))
        found = contrastive(kind, a, b, bias, temperature=tau, block_size=24)
        exact = [t.detach().double().requires_grad_() for t in (a, b, tau)]
        wanted = dense(kind, *exact[:2], bias.double(), exact[2])
        assert found >= 0
        torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=2e-6)  # the rounding of a logit of 14
        # the derivative for the temperature, scaled to that for its reciprocal
        for one, other, unit in zip(gradients(found, a, b, tau), gradients(wanted, *exact), (1, 1, temperature**2)):
            torch.testing.assert_close(one.double() * unit, other * unit, rtol=1e-4, atol=1e-7)


def test_operators_keep_their_promises() -> None:
    x, y = samples(5, 7)
    u = torch.cat([torch.full((5, 1), 0.2), torch.full((7, 1), -1 / 7)]).double()
    centre, bandwidth = x.detach().mean(0), torch.tensor(2.0, dtype=torch.float64)
    plus = torch.tensor(0.5, dtype=torch.float64)
    for block in (4, 64):
        how = KernelSum("gaussian", [0.5, 0.25], 1.0, "biased", block)
        for left, right in ((u.tile(2), u), (u.tile(2), u[:, 0]), (None, None)):
            for one, other in ((x, y), (x.detach().T.contiguous().T.requires_grad_(), y)):
                inputs = Samples(one, other, left, right, bandwidth, centre, plus)
                torch.library.opcheck(KERNEL_SWEEP.operator, (*inputs, *how, [True, True]))
    tau = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    for kind in KINDS:
        for unit in (True, False):
            a, b, bias = pairs()
            turned = (t.detach().T.contiguous().T.requires_grad_() for t in (a, b))
            settings = (*[None] * 5, kind, "mean", unit, 1.0, 3)
            for rows, others, needed in (
                ((a, b), (tau, bias), [True] * 4),
                (turned, (tau, bias), [True] * 4),
                ((a, b.detach()), (None, None), [True, False, False, False]),
            ):
                torch.library.opcheck(SWEEPS[kind].operator, (*rows, *others, *settings, needed))


def test_gradients_that_nobody_asked_for_come_from_the_formula() -> None:
    """An operator traced without gradients gets inputs that require them: the gradient is correct, not zero."""
    a, b, bias = pairs()
    settings = (*[None] * 5, "symmetric", "mean", True, 0.5, 3)
    value = INFO_NCE.operator(a, b, None, bias, *settings, [False] * 4)[0]
    wanted = gradients(dense("symmetric", a, b, None, 0.5, True), a, b)
    for found, one in zip(gradients(value, a, b), wanted):
        assert_same(found, one)


def test_export_holds_one_node() -> None:
    x, y = (t.detach() for t in samples(5, 7))
    exported = torch.export.export(MMDLoss(kernel=FIXED, block_size=4), (x, y))
    assert_same(exported.module()(x, y), tiled_mmd(x, y))
    assert sum("pair_sum" in str(node.target) for node in exported.graph.nodes) == 1


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("kind", KINDS)
def test_contrastive(kind: str, scale: float, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not keep:
        monkeypatch.setattr(contrastive_tiles, "KEEP_BYTES", 0)
    # logits that need no shift, and logits whose exponential would overflow
    a, b, bias = pairs(23, 4, scale=scale)
    wanted = dense(kind, a, b, bias)
    slopes = gradients(wanted, a, b, bias)
    for block_size in (7, 64):  # in tiles, and in one matrix where the loss allows it
        found = contrastive(kind, a, b, bias, block_size=block_size)
        assert_same(found, wanted, 1e-12)
        for ours, one in zip(gradients(found, a, b, bias), slopes):
            assert_same(ours, one)
        assert_same(contrastive(kind, a.detach(), b.detach(), bias.detach(), block_size=block_size), wanted)


@pytest.mark.parametrize("low", [0.05, 0.9])  # rows as given: with a shift, and within the bound
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_directions_and_temperature(kind: str, unit: bool, low: float) -> None:
    """Rows of very different lengths, a zero row, and a learnable temperature."""
    a, b, bias = pairs(23, 4)
    with torch.no_grad():
        a[3] = 0
        if unit:
            a[5] *= 1e-200
            b[7] *= 1e200
    tau = torch.tensor(low, dtype=torch.float64, requires_grad=True)
    inputs = (a, b, bias, tau)
    wanted = dense(kind, a, b, bias, tau, unit)
    slopes = gradients(wanted, *inputs)
    for block_size in (7, 64):
        found = contrastive(kind, a, b, bias, temperature=tau, unit=unit, block_size=block_size)
        assert_same(found, wanted, 1e-12)
        for ours, one in zip(gradients(found, *inputs), slopes):
            size = one.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(one.dtype).tiny)
            assert_same(ours / size, one / size)
        fixed = contrastive(kind, a, b, bias, temperature=low, unit=unit, block_size=block_size)
        assert_same(fixed, wanted, 1e-12)
        assert_same(gradients(fixed, b)[0][0], slopes[1][0])
        found = contrastive(kind, a, b, bias, temperature=tau, unit=unit, block_size=block_size)
        curvature = []
        for value in (found, dense(kind, a, b, bias, tau, unit)):
            curvature += gradients(torch.autograd.grad(value, tau, create_graph=True)[0], tau)
        assert_same(*curvature)


def test_the_space_of_the_last_sweep() -> None:
    """The reused work space is large enough, of the right dtype, and not an inference tensor."""
    others = [t.detach().float() for t in pairs()[:2]]
    for rows, block in ((pairs()[:2], 2), (others, 2), (others, 4), (pairs()[:2], 4), (pairs()[:2], 2)):
        wanted = dense("symmetric", *rows, None)
        with torch.inference_mode():
            assert_same(contrastive("symmetric", *rows, block_size=block), wanted, 1e-5)
        assert_same(contrastive("symmetric", *rows, block_size=block), wanted, 1e-5)
        assert len(contrastive_tiles._spare) == 1
        assert contrastive_tiles._spare[0].dtype == rows[0].dtype
    many = [torch.randn(256, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(8)]

    def loss(rows: Tensor) -> Tensor:
        return torch.stack([contrastive("symmetric", rows, rows.flip(1), block_size=60) for _ in range(8)])

    with ThreadPoolExecutor(4) as pool:
        for found, rows in zip(pool.map(loss, many), many):
            assert_same(found, dense("symmetric", rows, rows.flip(1), None).expand(8), 1e-12)


class _OwnFormula(Gaussian):
    def evaluate(self, squared: Tensor, bandwidth: Tensor) -> Tensor:
        return torch.exp(-squared / (2 * bandwidth**2))


def test_own_kernel_keeps_the_digits_of_near_pairs() -> None:
    """Tight groups far apart: float32 products cannot resolve the distances within a group."""
    generator = torch.Generator().manual_seed(0)
    groups = 30 * torch.randn(8, 16, generator=generator)
    x, y = (groups.repeat(k, 1) + 0.01 * torch.randn(8 * k, 16, generator=generator) for k in (40, 35))
    found = []
    for dtype in (torch.float32, torch.float64):
        rows = x.to(dtype).requires_grad_()
        value = mmd_loss(rows, y.to(dtype), kernel=_OwnFormula(0.05), block_size=100)
        found.append((value.detach().double(), torch.autograd.grad(value, rows)[0].double()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    assert (found[0][1] - found[1][1]).norm() < 1e-5 * found[1][1].norm()


def test_block_size_is_checked() -> None:
    x, y = samples(5, 7)
    with pytest.raises(ValueError, match="mmd_loss: `block_size` must be an integer >= 1, got 0"):
        mmd_loss(x, y, block_size=0)


def test_no_matrix_of_pairs_is_made() -> None:
    """A batch with a 4096 x 4096 matrix of pairs allocates no tensor near that size."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
            return out

    x, y = samples(2048, 2048, d=4, dtype=torch.float32)
    with Watch():
        mmd_loss(x, y, kernel=FIXED).backward()
        labels = torch.arange(2048) % 5
        local_mmd_loss(x, y, kernel=FIXED, source_labels=labels, target_probabilities=labels, classes=5).backward()
        mmd_loss(x, y, kernel=Mine(2.0)).backward()
        energy_distance_loss(x, y, exponent=0.5).backward()
    assert largest <= 4 * 512 * 512


def test_edges_and_doublings() -> None:
    for start, stop, block in ((0, 10, 4), (3, 3, 5), (5, 6, 1), (0, 1024, 512)):
        edges = cut(start, stop, block)
        assert [i for a, b in edges for i in range(a, b)] == list(range(start, stop))
        assert all(0 < b - a <= block for a, b in edges)
    for rates in ([1, 2, 4, 8, 16], [0.5, 2**0.5, 1, 3], [1, 4, 4], [1, 1000]):
        rebuilt = [start * 2**k for start, counts in _doublings(rates) for k, c in enumerate(counts) for _ in range(c)]
        assert sorted(rebuilt) == pytest.approx(sorted(rates))
