"""Losses over two processes: value and gradients, after the averaging of data-parallel training, of the one batch."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mmda.distributed import DistributedLoss, gather_rows
from mmda.layers import DomainDiscriminator, LearnableTemperature
from mmda.losses import (
    CORALLoss,
    DomainAdversarialLoss,
    InfoNCELoss,
    JointMMDLoss,
    MMDLoss,
    NTXentLoss,
    SigmoidContrastiveLoss,
    duplicate_mask,
)

WORLD = 2
WIDTH = 5


class Step(nn.Module):
    """A network in front of a loss: what is wrapped for data-parallel training."""

    def __init__(self, make: Callable[[], nn.Module], *, distributed: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh())
        loss = make()
        self.loss = DistributedLoss(loss) if distributed else loss
        self.double()

    def forward(self, first: Tensor, second: Tensor, keywords: dict[str, Tensor]) -> Tensor:
        left, right = self.encoder(first), self.encoder(second)
        if isinstance(getattr(self.loss, "loss", self.loss), JointMMDLoss):
            return self.loss([left, left.square()], (right, right.square()), **keywords)
        return self.loss(left, right, **keywords)


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "mmd": MMDLoss,
    "mmd weights and masks": lambda: MMDLoss(estimator="unbiased"),
    "coral": lambda: CORALLoss(match_mean=True),
    "joint mmd": JointMMDLoss,
    "adversarial": lambda: DomainAdversarialLoss(DomainDiscriminator(4, hidden=[6]), strength=0.7),
    "info nce": lambda: InfoNCELoss(temperature=LearnableTemperature(0.2)),
    "nt-xent duplicates": lambda: NTXentLoss(temperature=0.3),
    "sigmoid": lambda: SigmoidContrastiveLoss(temperature=0.5, bias=-1.0),
}
PAIRED = ("info nce", "nt-xent duplicates", "sigmoid")


def inputs(name: str, rank: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """One rank's batch: the ranks have unequally many rows, and unequally long sequences."""
    generator = torch.Generator().manual_seed(100 + rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if name == "mmd weights and masks":
        videos, frames = ((3, 4), (2, 6))[rank]
        lengths = torch.randint(1, frames + 1, (videos, 1), generator=generator)
        mask = torch.arange(frames) < lengths
        first = torch.where(mask.unsqueeze(2), normal(videos, frames, WIDTH), torch.full((), 1e3).double())
        second = normal(7 - rank, WIDTH) + 0.5
        weight = torch.rand(7 - rank, generator=generator, dtype=torch.float64) + 0.5
        return first, second, {"source_mask": mask, "target_weight": weight}
    n, m = ((6, 3), (2, 7))[rank]
    if name in PAIRED:
        m = n
    first, second = normal(n, WIDTH), normal(m, WIDTH) + 0.5
    return first, second, {}


def ids(rank: int) -> Tensor:
    return torch.tensor([[0, 1, 2, 3, 4, 5], [1, 6]][rank])


def gathered(name: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The batch of both ranks, by hand."""
    parts = [inputs(name, rank) for rank in range(WORLD)]
    if name == "mmd weights and masks":
        longest = max(part[0].shape[1] for part in parts)
        first, mask = [], []
        for x, _, keywords in parts:
            short = longest - x.shape[1]
            first.append(torch.cat([x, x.new_zeros(x.shape[0], short, WIDTH)], 1))
            rows = keywords["source_mask"]
            mask.append(torch.cat([rows, rows.new_zeros(rows.shape[0], short)], 1))
        weight = torch.cat([part[2]["target_weight"] for part in parts])
        keywords = {"source_mask": torch.cat(mask), "target_weight": weight}
        return torch.cat(first), torch.cat([part[1] for part in parts]), keywords
    first, second = (torch.cat([part[i] for part in parts]) for i in range(2))
    return first, second, duplicates(name, torch.cat([ids(0), ids(1)]))


def duplicates(name: str, identities: Tensor) -> dict[str, Tensor]:
    return {"positive_mask": duplicate_mask(identities)} if name == "nt-xent duplicates" else {}


def trained(step: nn.Module, batch: tuple[Tensor, Tensor, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The loss and the gradient of every parameter."""
    loss = step(*batch)
    loss.backward()
    gradients = {
        name.removeprefix("module."): p.grad.clone() for name, p in step.named_parameters() if p.grad is not None
    }
    return {"": loss.detach(), **gradients}


def worker(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(minutes=5),
    )
    found: dict[str, Any] = {}
    for name, make in LOSSES.items():
        batch = inputs(name, rank)
        if name in PAIRED:
            batch[2].update(duplicates(name, gather_rows(ids(rank))))
        found[name] = trained(nn.parallel.DistributedDataParallel(Step(make)), batch)
    alone = nn.parallel.DistributedDataParallel(Step(MMDLoss, distributed=False))
    found["each rank alone"] = trained(alone, inputs("mmd", rank))
    found["gather"] = gathers(rank)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def gathers(rank: int) -> dict[str, Any]:
    """What gather_rows does with other types, no rows, wrong shapes, and twice backward."""
    x = torch.arange(3.0 + rank, dtype=torch.float64) + 10 * rank
    found: dict[str, Any] = {
        "bool": gather_rows(torch.tensor([rank == 0])),
        "integers": gather_rows(torch.full((rank, 2), 7)),  # rank 0 has none
        "half": gather_rows(torch.full((1, 2), 0.5, dtype=torch.bfloat16)),
        "strided": gather_rows(torch.arange(6.0).reshape(2, 3).T),
        "padded": gather_rows(torch.ones(1, 1 + rank), pad=True),
    }
    x.requires_grad_()
    (first,) = torch.autograd.grad(((1 + rank) * gather_rows(x) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * (2 + rank)).sum(), x)
    found["x"], found["first"], found["second"] = x.detach(), first.detach(), second
    half = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    gather_rows(half).sum().backward()
    found["half gradient"] = half.grad
    errors = []
    for wrong in (torch.ones(2, 1 + rank), torch.ones([2] * (1 + rank))):
        try:
            gather_rows(wrong)
        except ValueError as error:
            errors.append(str(error))
    try:  # one rank alone asks for padding: all of them raise
        gather_rows(torch.ones(2, 1 + rank), pad=rank == 0)
    except ValueError as error:
        errors.append(str(error))
    found["errors"] = errors
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, in one run."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_of_the_gathered_batch(name: str, ranks: list[dict[str, Any]]) -> None:
    expected = trained(Step(LOSSES[name], distributed=False), gathered(name))
    assert len(expected) >= 3
    for found in ranks:
        assert {key.replace("loss.loss.", "loss.") for key in found[name]} == set(expected)
        for key, value in found[name].items():
            wanted = expected[key.replace("loss.loss.", "loss.")]
            assert wanted.abs().max() > 0
            torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)


def test_each_rank_alone_is_another_number(ranks: list[dict[str, Any]]) -> None:
    """What the gathering is for: the ranks' own losses, averaged, are far from the batch's."""
    expected = trained(Step(MMDLoss, distributed=False), gathered("mmd"))
    mean = sum(found["each rank alone"][""] for found in ranks) / WORLD
    assert abs(mean / expected[""] - 1) > 0.1
    assert (ranks[0]["each rank alone"]["encoder.0.weight"] / expected["encoder.0.weight"] - 1).abs().max() > 0.1


def test_gathered_values(ranks: list[dict[str, Any]]) -> None:
    for found in (rank["gather"] for rank in ranks):
        assert found["bool"].tolist() == [True, False]
        assert found["integers"].tolist() == [[7, 7]]
        assert found["half"].dtype == torch.bfloat16
        assert found["half"].tolist() == [[0.5, 0.5]] * 2
        assert found["strided"].tolist() == [[0, 3], [1, 4], [2, 5]] * 2
        assert found["padded"].tolist() == [[1, 0], [1, 1]]
        assert found["half gradient"].tolist() == [WORLD]


def test_gathered_gradients_of_first_and_second_order(ranks: list[dict[str, Any]]) -> None:
    """Rank q computes (1 + q) sum X^3: rank r receives (1 + 2) 3 x_r^2, and of that times (2 + r) (2 + r) 18 x_r."""
    for rank, found in enumerate(rank["gather"] for rank in ranks):
        torch.testing.assert_close(found["first"], 9 * found["x"].square())
        torch.testing.assert_close(found["second"], (2 + rank) * 18 * found["x"])


def test_every_rank_raises(ranks: list[dict[str, Any]]) -> None:
    for found in (rank["gather"] for rank in ranks):
        axes, number, pad = found["errors"]
        assert axes == ("gather_rows: `x` must have the same axes behind the first on every rank, got (2, 1), (2, 2)")
        assert number == "gather_rows: `x` must have as many axes on every rank, got (2,), (2, 2)"
        assert pad == axes


def test_one_process_is_the_loss_itself() -> None:
    first, second, keywords = gathered("mmd weights and masks")
    loss = MMDLoss(estimator="unbiased")
    assert torch.equal(DistributedLoss(loss)(first, second, **keywords), loss(first, second, **keywords))
    assert gather_rows(first) is first


def test_errors() -> None:
    with pytest.raises(ValueError, match="gather_rows: `x` must have from 1 to 8 axes, rows first, got "):
        gather_rows(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"gather_rows: `x` must be a torch.Tensor, got list"):
        gather_rows([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="DistributedLoss: `loss` must be callable, got int"):
        DistributedLoss(3)  # type: ignore[arg-type]
