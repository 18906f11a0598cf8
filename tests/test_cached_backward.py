"""A step in chunks gives the loss and gradients of the whole batch, for every kind of loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmda.layers import DomainDiscriminator, LearnableTemperature
from mmda.losses import CORALLoss, DomainAdversarialLoss, InfoNCELoss, LocalMMDLoss, MMDLoss
from mmda.objectives import cached_backward

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "mmd": lambda: MMDLoss(estimator="unbiased"),
    "coral": CORALLoss,
    "adversarial": lambda: DomainAdversarialLoss(DomainDiscriminator(4, hidden=[5]), strength=0.7),
    "info nce": lambda: InfoNCELoss(temperature=LearnableTemperature(0.2)),
}


def setting(name: str) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4)).double()
    loss = LOSSES[name]().double()
    m = 11 if name == "info nce" else 7
    return encoder, loss, torch.randn(11, 3).double(), torch.randn(m, 3).double() + 0.5


def gradients(*modules: nn.Module) -> list[Tensor]:
    return [p.grad for module in modules for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [4, 100])
def test_equals_the_whole_batch(name: str, chunk: int) -> None:
    encoder, loss, x, y = setting(name)
    encoder.eval()
    expected = loss(encoder(x), encoder(y))
    expected.backward()
    wanted = [g.clone() for g in gradients(encoder, loss)]
    assert len(wanted) >= 4
    encoder.zero_grad()
    loss.zero_grad()
    value = cached_backward(loss, encoder, x, y, chunk=chunk)
    torch.testing.assert_close(value, expected.detach())
    for found, gradient in zip(gradients(encoder, loss), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-13)


def test_dropout_draws_alike_in_both_passes_and_the_state_moves_once() -> None:
    encoder, loss, x, y = setting("mmd")
    torch.manual_seed(5)
    drawn = loss(torch.cat([encoder(part) for part in x.split(4)]), torch.cat([encoder(part) for part in y.split(4)]))
    drawn.backward()
    state = torch.get_rng_state()
    wanted = [g.clone() for g in gradients(encoder)]
    encoder.zero_grad()
    torch.manual_seed(5)
    value = cached_backward(loss, encoder, x, y, chunk=4)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(value, drawn.detach())
    for found, gradient in zip(gradients(encoder), wanted, strict=True):
        torch.testing.assert_close(found, gradient)


def test_two_encoders_structured_inputs_and_keywords() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.linear(x) * scale.unsqueeze(1)

    torch.manual_seed(1)
    first, second = Masked(), nn.Linear(2, 4)
    x, scale, y = torch.randn(9, 3), torch.rand(9), torch.randn(6, 2)
    keywords = {"source_labels": torch.arange(9) % 3, "target_probabilities": torch.rand(6, 3).softmax(1)}
    LocalMMDLoss()(first(x, scale), second(y), **keywords).backward()
    wanted = [g.clone() for g in gradients(first, second)]
    for inputs in ((x, scale), {"x": x, "scale": scale}):
        first.zero_grad()
        second.zero_grad()
        cached_backward(LocalMMDLoss(), (first, second), inputs, y, chunk=4, **keywords)
        for found, gradient in zip(gradients(first, second), wanted, strict=True):
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)


def test_running_statistics_move_once_and_gradients_add_up() -> None:
    torch.manual_seed(2)
    encoder, twin = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    twin.load_state_dict(encoder.state_dict())
    x, y = torch.randn(8, 3), torch.randn(8, 3)
    for part in (*x.split(4), *y.split(4)):
        twin(part)
    cached_backward(MMDLoss(), encoder, x, y, chunk=4)
    for (name, found), expected in zip(encoder.named_buffers(), twin.buffers()):
        torch.testing.assert_close(found, expected, msg=name)
    once = [g.clone() for g in gradients(encoder)]
    cached_backward(MMDLoss(), encoder, x, y, chunk=4)
    for found, gradient in zip(gradients(encoder), once, strict=True):
        torch.testing.assert_close(found, 2 * gradient)


def test_errors() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"cached_backward: `inputs` must hold at least one input, got none"):
        cached_backward(MMDLoss(), nn.Linear(3, 2), chunk=2)
    with pytest.raises(ValueError, match=r"`encoders` must be one, or one per input \(1\), got 2"):
        cached_backward(MMDLoss(), [nn.Linear(3, 2)] * 2, x, chunk=2)
    with pytest.raises(ValueError, match=r"`encoders` must return one row per input row"):
        cached_backward(MMDLoss(), lambda rows: rows.sum(), x, x, chunk=2)
    with pytest.raises(ValueError, match=r"`loss` must return a scalar tensor"):
        cached_backward(lambda a, b: a + b, nn.Linear(3, 2), x, x, chunk=2)
