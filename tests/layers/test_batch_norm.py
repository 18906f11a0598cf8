"""Domain-specific batch normalisation against torch's and a loop; re-estimation against pooled moments."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmda.layers import (
    DomainSpecificBatchNorm1d,
    DomainSpecificBatchNorm2d,
    DomainSpecificBatchNorm3d,
    adapt_batch_norm,
)
from tests.reference import batch_norm as reference

SHAPES = {
    "vectors": (DomainSpecificBatchNorm1d, nn.BatchNorm1d, (8, 3)),
    "series": (DomainSpecificBatchNorm1d, nn.BatchNorm1d, (8, 3, 5)),
    "images": (DomainSpecificBatchNorm2d, nn.BatchNorm2d, (8, 3, 4, 2)),
    "clips": (DomainSpecificBatchNorm3d, nn.BatchNorm3d, (8, 3, 2, 4, 2)),
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


def _pair(shape: str, **options: object) -> tuple[nn.Module, list[nn.Module], Tensor]:
    """A layer for three domains, three plain layers with its parameters, and an input."""
    specific, plain, size = SHAPES[shape]
    generator = torch.Generator().manual_seed(3)
    layer = specific(3, 3, dtype=torch.float64, **options)
    plains = [plain(3, dtype=torch.float64, **options) for _ in range(3)]
    if layer.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.rand(3, 3, generator=generator) + 0.5)
            layer.bias.copy_(torch.randn(3, 3, generator=generator))
            for k, other in enumerate(plains):
                other.weight.copy_(layer.weight[k])
                other.bias.copy_(layer.bias[k])
    return layer, plains, torch.randn(size, generator=generator, dtype=torch.float64) * 2 + 1


@each_shape
@pytest.mark.parametrize("indexed", ["int", "tensor"])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3, "eps": 0.1}],
    ids=str,
)
def test_equals_one_plain_layer_a_domain(shape: str, indexed: str, options: dict[str, object]) -> None:
    layer, plains, x = _pair(shape, **options)
    for round_, domain in enumerate((1, 2, 1)):
        batch = x + round_
        index = domain if indexed == "int" else torch.full((8,), domain)
        torch.testing.assert_close(layer(batch, index), plains[domain](batch))
    for plain in (layer, *plains):
        plain.eval()
    for domain in range(3):
        index = domain if indexed == "int" else torch.full((8,), domain)
        torch.testing.assert_close(layer(x, index), plains[domain](x))
        if layer.track_running_stats:
            torch.testing.assert_close(layer.running_mean[domain], plains[domain].running_mean)
            torch.testing.assert_close(layer.running_var[domain], plains[domain].running_var)
            assert layer.num_batches_tracked[domain] == plains[domain].num_batches_tracked


@each_shape
def test_a_mixed_batch_equals_its_domains_apart(shape: str) -> None:
    layer, plains, x = _pair(shape)
    domain = torch.tensor([2, 0, 0, 2, 2, 0, 2, 0])  # domain 1 is absent
    x.requires_grad_()
    mixed = layer(x, domain)
    for k in (0, 2):
        apart = plains[k](x[domain == k])
        torch.testing.assert_close(mixed[domain == k], apart)
        torch.testing.assert_close(layer.running_var[k], plains[k].running_var)
        (expected,) = torch.autograd.grad(apart.square().sum() + apart.sum(), x, retain_graph=True)
        part = mixed[domain == k]
        (gradient,) = torch.autograd.grad(part.square().sum() + part.sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, expected)
    assert layer.num_batches_tracked.tolist() == [1, 0, 1]
    assert (layer.running_mean[1] == 0).all()
    assert (layer.running_var[1] == 1).all()


@pytest.mark.parametrize("pad", [float("nan"), float("inf"), 99.0])
def test_padding_is_inert(pad: float) -> None:
    layer, _, x = _pair("series")
    rng = np.random.default_rng(0)
    mask = rng.random((8, 5)) < 0.7
    domain = [0, 1, 2, 0, 1, 2, 0, 1]
    expected = reference.normalise(
        x.numpy(), domain, mask, layer.weight.detach().numpy(), layer.bias.detach().numpy(), layer.eps
    )
    kept = torch.from_numpy(mask)
    padded = torch.where(kept.unsqueeze(1), x, pad).requires_grad_()
    out = layer(padded, torch.tensor(domain), mask=kept)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    out.square().sum().backward()
    assert torch.isfinite(padded.grad).all()
    assert (padded.grad.transpose(1, 2)[~kept] == 0).all()
    for k in range(3):
        values = reference.values_of(x.numpy(), domain, mask, k, 1)
        mean, variance = reference.moments(values)
        assert layer.running_mean[k, 1].item() == pytest.approx(0.1 * mean, rel=1e-10)
        unbiased = variance * len(values) / (len(values) - 1)
        assert layer.running_var[k, 1].item() == pytest.approx(0.9 + 0.1 * unbiased, rel=1e-10)
    layer.eval()
    alone = layer(padded[:1], 0, mask=kept[:1])
    torch.testing.assert_close(alone[:, :, kept[0]], layer(x[:1], 0)[:, :, kept[0]])
    assert (alone[:, :, ~kept[0]] == 0).all()


def test_nothing_kept_comes_out_as_zeros_with_a_graph() -> None:
    layer, _, x = _pair("series")
    x.requires_grad_()
    layer(x, 0, mask=torch.zeros(8, 5, dtype=torch.bool)).sum().backward()
    assert (x.grad == 0).all()
    assert (layer.running_mean == 0).all()
    assert torch.isfinite(layer.running_var).all()


def test_a_single_value_of_a_domain_comes_out_as_its_bias_and_is_not_tracked() -> None:
    layer, _, x = _pair("vectors")
    out = layer(x, torch.tensor([0, 1, 1, 1, 1, 1, 1, 1]))
    torch.testing.assert_close(out[0], layer.bias[0])
    assert layer.num_batches_tracked.tolist() == [0, 1, 0]
    assert (layer.running_mean[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("indexed", ["int", "tensor"])
def test_half_precision_is_normalised_in_float32(dtype: torch.dtype, indexed: str) -> None:
    layer = DomainSpecificBatchNorm1d(3, 2)
    x = (torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) + 3).to(dtype)
    index: int | Tensor = 1 if indexed == "int" else torch.ones(16, dtype=torch.long)
    expected = copy.deepcopy(layer)(x.float(), index).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, index)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(layer.running_mean[1], 0.1 * x.float().mean(0))


def test_a_common_offset_of_1e4_costs_few_digits() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) + 1e4
    index = torch.arange(64) % 2
    layer = DomainSpecificBatchNorm1d(3, 2)
    exact = copy.deepcopy(layer).double()(x.double(), index)
    torch.testing.assert_close(layer(x, index).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("indexed", ["int", "tensor"])
@pytest.mark.parametrize("training", [True, False])
def test_one_graph_under_compile_and_its_buffers_move(indexed: str, training: bool) -> None:
    layer, _, x = _pair("series")
    layer.train(training)
    eager = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for k in (0, 2):
        index = k if indexed == "int" else torch.full((8,), k)
        torch.testing.assert_close(compiled(x, index), eager(x, index))
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, eager.get_buffer(name))


def test_derivatives() -> None:
    layer, _, x = _pair("vectors")
    domain = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])
    mask = torch.tensor([True] * 6 + [False, True])
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: layer(a, domain, mask=mask), x)
    assert torch.autograd.gradgradcheck(lambda a: layer(a, domain, mask=mask), x)


@pytest.mark.parametrize("affine", [True, False])
def test_derivatives_without_a_mask(affine: bool) -> None:
    """Of rows, factors and offsets; a domain of one row and an absent one among them."""
    layer = DomainSpecificBatchNorm1d(2, 4, affine=affine).double()
    domain = torch.tensor([0, 1, 0, 2, 1, 0, 1])
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    tables = [torch.rand(4, 2, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2 * affine)]

    def value(a: Tensor, *tables: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(("weight", "bias"), tables)), (a, domain))

    assert torch.autograd.gradcheck(value, (x, *tables))
    assert torch.autograd.gradgradcheck(value, (x, *tables))


def test_exports_with_the_index_as_input() -> None:
    layer, _, x = _pair("series")
    layer.eval()
    domain = torch.arange(8) % 3
    program = torch.export.export(layer, (x, domain))
    torch.testing.assert_close(program.module()(x, domain), layer(x, domain))


def test_copies_pickles_and_loads() -> None:
    layer, _, x = _pair("series")
    layer(x, 1)
    fresh = DomainSpecificBatchNorm1d(3, 3, dtype=torch.float64)
    fresh.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        twin.eval()
        torch.testing.assert_close(twin(x, 1), copy.deepcopy(layer).eval()(x, 1))
    assert DomainSpecificBatchNorm2d(3, 2, device="meta")(torch.zeros(2, 3, 4, 4, device="meta"), 1).shape == (
        2,
        3,
        4,
        4,
    )
    assert repr(fresh) == (
        "DomainSpecificBatchNorm1d("
        "features=3, domains=3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    )


def test_errors_name_the_rule() -> None:
    layer = DomainSpecificBatchNorm1d(3, 2)
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"DomainSpecificBatchNorm1d: `domain` must be in 0 .. 1, got 2"):
        layer(x, 2)
    with pytest.raises(TypeError, match=r"`domain` must be an int or an integer tensor, got torch.float32"):
        layer(x, torch.zeros(4))
    for index in (-1, 2):  # no index of a tensor is read on the host, and none wraps around
        for training in (False, True):
            with pytest.raises((IndexError, RuntimeError), match=r"out of bounds|out of range"):
                layer.train(training)(torch.zeros(4, 3), torch.tensor([0, 1, 1, index]))
    with pytest.raises(TypeError, match=r"`domain` must be an int or an integer tensor, got bool"):
        layer(x, True)
    with pytest.raises(ValueError, match=r"`domain` must have one index per row \(4,\), got \(3,\)"):
        layer(x, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`x` must have 3 channels on axis 1, got \(4, 2\)"):
        layer(torch.zeros(4, 2), 0)
    with pytest.raises(ValueError, match=r"`x` must have shape \(samples, channels, height, width\), got \(4, 3\)"):
        DomainSpecificBatchNorm2d(3, 2)(x, 0)
    with pytest.raises(ValueError, match=r"`x` must hold more than one value per channel in training, got \(1, 3\)"):
        layer(x[:1], 0)
    with pytest.raises(ValueError, match=r"`momentum` must be a finite number >= 0 and <= 1, got 2"):
        DomainSpecificBatchNorm1d(3, 2, momentum=2)
    with pytest.raises(IndexError):
        layer(x, torch.tensor([0, 0, 0, 2]))


# Re-estimation


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5), nn.BatchNorm1d(5)
    ).double()


def _batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 * torch.randn(n, 4, generator=generator, dtype=torch.float64) + 2 for n in (7, 2, 12)]


@pytest.mark.parametrize("layerwise", [False, True])
def test_the_first_layer_holds_the_pooled_moments_whatever_the_batch_sizes(layerwise: bool) -> None:
    net, batches = _net(), _batches()
    assert adapt_batch_norm(net, batches, layerwise=layerwise) == 2
    seen = net[0](torch.cat(batches)).detach()
    torch.testing.assert_close(net[1].running_mean, seen.mean(0))
    torch.testing.assert_close(net[1].running_var, seen.var(0, correction=1))
    assert net[1].num_batches_tracked == 3


def test_layerwise_every_layer_holds_the_moments_of_its_input_in_the_adapted_model() -> None:
    net, batches = _net(), _batches()
    adapt_batch_norm(net, batches, layerwise=True)
    seen = net.eval()[:5](torch.cat(batches)).detach()
    torch.testing.assert_close(net[5].running_mean, seen.mean(0))
    torch.testing.assert_close(net[5].running_var, seen.var(0, correction=1))


def test_one_pass_on_one_batch_equals_training_with_momentum_one() -> None:
    net, batch = _net(), _batches()[2]
    other = copy.deepcopy(net)
    other[3].p = 0.0  # dropout is off while statistics are re-estimated
    for layer in (other[1], other[5]):
        layer.momentum = 1.0
    other.train()(batch)
    adapt_batch_norm(net, [batch])
    for index in (1, 5):
        torch.testing.assert_close(net[index].running_mean, other[index].running_mean)
        torch.testing.assert_close(net[index].running_var, other[index].running_var)


def test_modes_weights_and_the_random_state_are_left_alone() -> None:
    net = _net()
    net[5].eval()
    weights = {name: p.clone() for name, p in net.named_parameters()}
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    adapt_batch_norm(net, ({"input": b} for b in _batches()), forward=lambda model, batch: model(batch["input"]))
    assert [m.training for m in net.modules()] == modes
    assert net[1].track_running_stats
    assert not net[1]._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in net.named_parameters():
        assert torch.equal(p, weights[name])


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_failing_pass_writes_nothing(layerwise: bool) -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    batches = [*_batches(), torch.zeros(2, 9, dtype=torch.float64)]
    with pytest.raises(RuntimeError):
        adapt_batch_norm(net, batches, layerwise=layerwise)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert net.training


@pytest.mark.parametrize("specific", [False, True])
def test_a_batch_of_one_row_counts_layer_by_layer_and_is_refused_with_its_cure_otherwise(specific: bool) -> None:
    layer = DomainSpecificBatchNorm1d(4, 1, dtype=torch.float64) if specific else nn.BatchNorm1d(4).double()
    rows = torch.cat(_batches())
    batches = [(part, 0) if specific else (part,) for part in (rows[:-1], rows[-1:])]
    with pytest.raises(ValueError, match=r"adapt_batch_norm: `batches` must .* layerwise=False .*, got \(1, 4\)"):
        adapt_batch_norm(layer, batches)
    adapt_batch_norm(layer, batches, layerwise=True)
    torch.testing.assert_close(layer.running_mean.reshape(-1), rows.mean(0))
    torch.testing.assert_close(layer.running_var.reshape(-1), rows.var(0, correction=1))


def test_domain_specific_layers_are_re_estimated_for_the_domains_named() -> None:
    layer = DomainSpecificBatchNorm1d(4, 3, dtype=torch.float64)
    batches = _batches()
    domains = [torch.arange(b.shape[0]) % 2 * 2 for b in batches]  # 0 and 2
    assert adapt_batch_norm(layer, list(zip(batches, domains))) == 1
    x, domain = torch.cat(batches), torch.cat(domains)
    for k in (0, 2):
        torch.testing.assert_close(layer.running_mean[k], x[domain == k].mean(0))
        torch.testing.assert_close(layer.running_var[k], x[domain == k].var(0, correction=1))
    assert (layer.running_mean[1] == 0).all()


def test_it_undoes_a_shift_and_scale_of_the_input_that_a_trained_net_does_not_know() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(600, 4, generator=generator)
    labels = (x[:, 0] + x[:, 1] > 0).long()
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimiser.step()
    net.eval()
    shifted = x * torch.tensor([3.0, 0.3, 1.0, 1.0]) + torch.tensor([4.0, -2.0, 0.0, 1.0])

    def accuracy(inputs: Tensor) -> float:
        return (net(inputs).argmax(1) == labels).float().mean().item()

    source, lost = accuracy(x), accuracy(shifted)
    adapt_batch_norm(net, shifted.split(50))
    assert lost < 0.75 < source
    assert accuracy(shifted) > source - 0.01


def test_what_cannot_be_re_estimated_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`model` must hold a batch normalisation with running statistics, got Linear"
    ):
        adapt_batch_norm(nn.Linear(2, 2), [torch.zeros(2, 2)])
    with pytest.raises(ValueError, match=r"`batches` must hold at least one batch, got 0"):
        adapt_batch_norm(_net(), [])
    with pytest.raises(
        ValueError, match=r"`batches` must be readable more than once with layerwise=True, got generator"
    ):
        adapt_batch_norm(_net(), (b for b in _batches()), layerwise=True)


def test_a_domain_may_be_an_integer_of_numpy() -> None:
    layer, _, x = _pair("vectors")
    torch.testing.assert_close(layer(x, np.int64(1)), layer(x, 1))
    with pytest.raises(ValueError, match=r"`domain` must be in 0 .. 2, got 3"):
        layer(x, np.uint8(3))
