"""Losses on two processes: after data-parallel averaging, value and gradients are those of the whole batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mmda._engine import ring
from mmda.distributed import DistributedLoss, gather_rows
from mmda.kernels import Gaussian, Laplacian
from mmda.layers import DomainDiscriminator, LearnableTemperature
from mmda.losses import (
    CORALLoss,
    DomainAdversarialLoss,
    InfoNCELoss,
    JointMMDLoss,
    MMDLoss,
    NTXentLoss,
    SigmoidContrastiveLoss,
    SlicedWassersteinLoss,
    duplicate_mask,
    mmd_loss,
)
from tests.processes import join

WORLD = 2
WIDTH = 5


class Step(nn.Module):
    """A network followed by a loss, as wrapped for data-parallel training."""

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
    """One rank's batch. Ranks have different numbers of rows and different sequence lengths."""
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
    """The batch of both ranks, concatenated."""
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
    torch.set_num_threads(1)
    join(rank, WORLD, folder)
    found: dict[str, Any] = {}
    for name, make in LOSSES.items():
        batch = inputs(name, rank)
        if name in PAIRED:
            batch[2].update(duplicates(name, gather_rows(ids(rank))))
        found[name] = trained(nn.parallel.DistributedDataParallel(Step(make)), batch)
    alone = nn.parallel.DistributedDataParallel(Step(MMDLoss, distributed=False))
    found["each rank alone"] = trained(alone, inputs("mmd", rank))
    found["gather"] = gathers(rank)
    found["sharded"] = sharded()
    found["disagreements"] = {name: refused(name, rank) for name in DISAGREEMENTS}
    found["many tensors"] = many_tensors(rank)
    found["ring"] = {name: passed_by(name, rank, passing=True) for name in RINGS}
    found["gathered"] = {name: passed_by(name, rank, passing=False) for name in RINGS}
    found["unpaired"] = unpaired(rank)
    found["no ring"] = no_ring()
    found["draws"] = drawn(rank)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


class Contrast(nn.Module):
    """A network and a loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(WIDTH, 4)
        self.loss = InfoNCELoss(temperature=LearnableTemperature(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.encoder(x), x[:, :4])


def sharded() -> dict[str, Tensor]:
    """One step of a model with all parameters sharded at the root; both ranks have the same rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    step = fully_shard(Contrast(), mesh=init_device_mesh("cpu", (WORLD,)))
    loss = step(torch.randn(6, WIDTH, generator=seeded(1)))
    loss.backward()
    return {"": loss.detach(), **{name: p.grad.full_tensor() for name, p in step.named_parameters()}}


def drawn(rank: int) -> dict[str, Any]:
    """Ranks with different random states: two steps of a loss that draws numbers, one of a loss that does not."""
    torch.manual_seed(50 + rank)
    loss = DistributedLoss(SlicedWassersteinLoss(n_projections=3))
    first, second, _ = inputs("coral", rank)
    values = [loss(first, second).item() for _ in range(2)]
    state = torch.get_rng_state()
    fixed = [DistributedLoss(SlicedWassersteinLoss(draws="fixed"))(first, second).item(), loss.eval()(first, second)]
    return {"fresh": values, "fixed": fixed[0], "unmoved": torch.equal(torch.get_rng_state(), state)}


def gathers(rank: int) -> dict[str, Any]:
    """gather_rows with other dtypes, no rows, wrong shapes, and a second backward pass."""
    x = torch.arange(3.0 + rank, dtype=torch.float64) + 10 * rank
    found: dict[str, Any] = {
        "bool": gather_rows(torch.tensor([rank == 0])),
        "integers": gather_rows(torch.full((rank, 2), 7)),  # rank 0 has no rows
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
    try:  # only one rank asks for padding: all ranks raise
        gather_rows(torch.ones(2, 1 + rank), pad=rank == 0)
    except ValueError as error:
        errors.append(str(error))
    for x in (torch.ones(2, dtype=(torch.float32, torch.float64)[rank]), torch.ones(2, requires_grad=rank == 1)):
        try:
            gather_rows(x)
        except ValueError as error:
            errors.append(str(error))
    found["errors"] = errors
    return found


def mean_of(*tensors: Tensor, scale: float = 1.0, generator: torch.Generator | None = None, **others: Any) -> Tensor:
    return scale * torch.cat([x.flatten() for x in tensors]).mean()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


#: Two different calls, one for each rank (loss, inputs, keywords), and the error that every rank raises.
X, Y, W = torch.zeros(3, 2), torch.ones(4, 2), torch.ones(3)
DISAGREEMENTS: dict[str, tuple[Callable[[int], tuple[Any, ...]], str]] = {
    "names": (
        lambda rank: (MMDLoss(), (X, X), {("source_weight", "target_weight")[rank]: W}),
        "`source_weight` must be given on every rank or on none, got none on ranks [1]",
    ),
    "a mask missing": (
        lambda rank: (CORALLoss(), (X, Y), {"source_mask": W > 0} if rank else {}),
        "`source_mask` must be given on every rank or on none, got none on ranks [0]",
    ),
    "dtypes": (
        lambda rank: (CORALLoss(), (X, (Y, Y.double())[rank]), {}),
        "`target` must be the same on every rank, got float32 of 2 axes on rank 0, float64 of 2 axes on rank 1",
    ),
    "axes": (
        lambda rank: (mean_of, (X, (Y, Y[0])[rank]), {}),
        "`input 1` must be the same on every rank, got float32 of 2 axes on rank 0, float32 of 1 axes on rank 1",
    ),
    "widths": (
        lambda rank: (CORALLoss(), (X, Y[:, : 1 + rank]), {}),
        "`target` must have the same axes after the first on every rank, got (4, 1), (4, 2)",
    ),
    "too many axes": (
        lambda rank: (mean_of, (X.reshape(3, 2, *(1,) * 7),), {}),
        "`input 0` must have at most 8 axes, rows first, got (3, 2, 1, 1, 1, 1, 1, 1, 1)",
    ),
    "numbers": (
        lambda rank: (mean_of, (X,), {"scale": 1.0 + rank}),
        "`scale` must be the same on every rank, got 1.0 on rank 0, 2.0 on rank 1",
    ),
    "scalar tensors": (
        lambda rank: (mean_of, (X,), {"scale": torch.tensor(1.0 + rank)}),
        "`scale` must be the same on every rank, got float32 1.0 on rank 0, float32 2.0 on rank 1",
    ),
    "none and a number": (
        lambda rank: (mean_of, (X,), {"scale": (None, 2)[rank]}),
        "`scale` must be the same on every rank, got None on rank 0, 2 on rank 1",
    ),
    "generators": (
        lambda rank: (mean_of, (X,), {"generator": seeded(rank)}),
        "`generator` must be the same on every rank",
    ),
    "entries": (
        lambda rank: (JointMMDLoss(), ([X] * (1 + rank), [X] * 2), {}),
        "`source` must be the same on every rank, got 1 entries on rank 0, 2 entries on rank 1",
    ),
    "shared shapes": (
        lambda rank: (NTXentLoss(), (X, X), {"positive_mask": torch.eye(6 + rank) > 0}),
        "`positive_mask` must be the same on every rank, got bool (6, 6) on rank 0, bool (7, 7) on rank 1",
    ),
    "losses": (
        lambda rank: ((MMDLoss(), CORALLoss())[rank], (X, X), {}),
        "`loss` must be the same on every rank, got MMDLoss(",
    ),
    "settings": (
        lambda rank: (CORALLoss(match_mean=rank == 0), (X, X), {}),
        "`loss` must be the same on every rank, got CORALLoss(match_mean=True) on rank 0, CORALLoss(match_mean=False)",
    ),
    "functions": (
        lambda rank: ((mean_of, mmd_loss)[rank], (X, X), {}),
        "`loss` must be the same on every rank, got mean_of on rank 0, mmd_loss on rank 1",
    ),
    "partial settings": (
        lambda rank: (functools.partial(mean_of, scale=rank), (X,), {}),
        "`loss` must be the same on every rank, got mean_of with scale=0 on rank 0, mean_of with scale=1 on rank 1",
    ),
    "gradients": (
        lambda rank: (CORALLoss(), (X, Y.clone().requires_grad_(rank == 0)), {}),
        "`target` must be the same on every rank, got float32 of 2 axes, with a gradient on rank 0, float32 of",
    ),
}


def temperature() -> LearnableTemperature:
    return LearnableTemperature(0.3).double()


RINGS: dict[str, Callable[[], nn.Module]] = {
    "mmd biased": lambda: MMDLoss(kernel=Gaussian("mean")),
    "mmd unbiased": lambda: MMDLoss(kernel=Laplacian(1.5), estimator="unbiased"),
    "mmd masked": lambda: MMDLoss(kernel=Gaussian("mean")),
    "mmd weights": lambda: MMDLoss(kernel=Gaussian("mean")),
    "mmd unbiased weights": lambda: MMDLoss(kernel=Gaussian("mean"), estimator="unbiased"),
    "mmd unbiased, total weight below one": lambda: MMDLoss(kernel=Gaussian("mean"), estimator="unbiased"),
    "mmd no row on one": lambda: MMDLoss(kernel=Gaussian("mean")),
    "info nce": lambda: InfoNCELoss(temperature=temperature()),
    "info nce no row on one": lambda: InfoNCELoss(temperature=temperature()),
    "info nce weights": lambda: InfoNCELoss(temperature=temperature()),
    "info nce one way, mask and weights": lambda: InfoNCELoss(temperature=temperature(), symmetric=False),
    "info nce one way": lambda: InfoNCELoss(temperature=temperature(), symmetric=False, normalize=False),
    "sigmoid": lambda: SigmoidContrastiveLoss(
        temperature=temperature(), bias=nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
    ),
}


def passed_by(name: str, rank: int, *, passing: bool) -> list[Tensor]:
    """Value and gradients of rows and parameters in tiles of three rows; each rank scales the value differently."""
    ring.TILE = 3
    first, second, _ = inputs("mmd" if "mmd" in name else "info nce", rank)
    loss = DistributedLoss(RINGS[name](), ring=passing)
    if "no row on one" in name and rank == 1:
        first, second = first[:0], second[:0]
    leaves = [first.requires_grad_(), second.requires_grad_(), *loss.parameters()]
    value = loss(first, second, **masks_and_weights(name, rank, len(first), len(second)))
    return [value.detach(), *torch.autograd.grad(value * (1 + rank), leaves)]


def masks_and_weights(name: str, rank: int, n: int, m: int) -> dict[str, Tensor]:
    """Arguments of a ring, unlike on the ranks; a weight of 0 leaves a row out."""
    keep, weight = torch.arange(n) != rank, (torch.arange(n) % 3 + 0.25 * rank).double()
    other = torch.linspace(0.1, 2, m, dtype=torch.float64)
    if "mmd" in name and "weight" in name:
        return {"source_weight": 0.01 * weight if "below" in name else weight, "target_weight": other}
    masks = {"source_mask": keep} if name == "mmd masked" else {"mask": keep} if "mask" in name else {}
    return {**masks, **({"weight": weight} if "weights" in name else {})}


def unpaired(rank: int) -> list[str]:
    """A rank with unpaired rows, and ranks without rows."""
    told = []
    for count in (3 + rank, 0):
        try:
            DistributedLoss(InfoNCELoss(), ring=True)(torch.ones(count, WIDTH), torch.ones(3 * (count > 0), WIDTH))
        except ValueError as error:
            told.append(str(error))
    return told


def no_ring() -> list[str]:
    """Arguments that a ring does not take."""
    x, weight, told = torch.ones(3, WIDTH), torch.ones(3), []
    for loss, given in (
        (SigmoidContrastiveLoss(), {"weight": weight}),
        (InfoNCELoss(), {"negative_mask": torch.ones(6, 6, dtype=torch.bool)}),
        (MMDLoss(kernel=Gaussian("mean")), {"source_weight": weight.requires_grad_()}),
    ):
        try:
            DistributedLoss(loss, ring=True)(x, x, **given)
        except ValueError as error:
            told.append(str(error))
    return told


def refused(name: str, rank: int) -> str:
    loss, args, keywords = DISAGREEMENTS[name][0](rank)
    try:
        value = DistributedLoss(loss)(*args, **keywords)
    except ValueError as error:
        return str(error)
    return f"no error, {value.item()}"


def many_tensors(rank: int) -> float:
    """More shapes than fit in the first exchange; a memory address in a loss's repr does not count as a difference."""

    class Mean(nn.Module):
        def forward(self, *tensors: Tensor, **others: Any) -> Tensor:
            return mean_of(*tensors)

        def extra_repr(self) -> str:
            return f"{object.__repr__(object())} cuda:{rank}"

    return DistributedLoss(Mean())(*(torch.full((1 + rank, 1, 1, 1), float(i)) for i in range(100))).item()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of both processes, from one run."""
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
    """Why rows are gathered: the average of the ranks' own losses is far from the loss of the batch."""
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
        axes, number, pad, dtype, gradient = found["errors"]
        assert axes == ("gather_rows: `x` must have the same axes after the first on every rank, got (2, 1), (2, 2)")
        assert number == "gather_rows: `x` must have as many axes on every rank, got (2,), (2, 2)"
        assert pad == axes
        assert dtype == "gather_rows: `x` must have one dtype on every rank, got torch.float32, torch.float64"
        assert gradient == "gather_rows: `x` must need a gradient on every rank or on none, got one on ranks [1]"


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_ranks_that_disagree_raise_alike(name: str, ranks: list[dict[str, Any]]) -> None:
    first, second = (found["disagreements"][name] for found in ranks)
    assert first == second
    assert first.startswith(f"DistributedLoss: {DISAGREEMENTS[name][1]}"), first


def test_a_sharded_root_holds_the_temperature(ranks: list[dict[str, Any]]) -> None:
    step = Contrast()
    loss = step(torch.randn(6, WIDTH, generator=seeded(1)))
    loss.backward()
    expected = {"": loss.detach(), **{name: p.grad for name, p in step.named_parameters()}}
    assert expected["loss.temperature.raw"].abs() > 0
    for found in ranks:
        torch.testing.assert_close(found["sharded"], expected)


def test_ranks_draw_alike(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["draws"] for found in ranks)
    assert first == second
    assert first["unmoved"]
    assert first["fresh"][0] != first["fresh"][1]
    whole = gathered("coral")
    assert first["fixed"] == pytest.approx(SlicedWassersteinLoss(draws="fixed")(*whole[:2]).item(), rel=1e-12)


@pytest.mark.parametrize("name", RINGS)
def test_rows_that_pass_by_give_the_gathered_value_and_gradients(name: str, ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert len(found["ring"][name]) == len(found["gathered"][name])
        for came, wanted in zip(found["ring"][name], found["gathered"][name]):
            assert not wanted.numel() or (wanted.abs().max() > 0) == ("below" not in name)
            torch.testing.assert_close(came, wanted, rtol=1e-10, atol=1e-10)


def test_every_rank_refuses_rows_that_are_not_paired(ranks: list[dict[str, Any]]) -> None:
    rule = "DistributedLoss: `inputs` must have as many rows on both sides of each rank, got [[3, 3], [4, 3]]"
    assert [found["unpaired"] for found in ranks] == [
        [rule, "DistributedLoss: `inputs` must have a row on one of the ranks, got none"]
    ] * 2


def test_what_no_ring_can_do_is_refused(ranks: list[dict[str, Any]]) -> None:
    told = [
        "DistributedLoss: `inputs` must be only anchor, positive for a ring, got weight",
        "DistributedLoss: `inputs` must be only anchor, mask, positive, weight for a ring, got negative_mask",
        "DistributedLoss: `source_weight` must have no gradient for a ring, got one that requires it",
    ]
    assert [found["no ring"] for found in ranks] == [told] * 2
    with pytest.raises(ValueError, match="`loss` must be an MMDLoss, InfoNCELoss or SigmoidContrastiveLoss for a ring"):
        DistributedLoss(CORALLoss(), ring=True)
    with pytest.raises(ValueError, match="have the estimator 'biased' or 'unbiased' for a ring, got 'linear'"):
        DistributedLoss(MMDLoss(estimator="linear"), ring=True)


def test_many_tensors(ranks: list[dict[str, Any]]) -> None:
    assert [found["many tensors"] for found in ranks] == [49.5, 49.5]


def test_strength_of_a_wrapped_adversary() -> None:
    adversary = DomainAdversarialLoss(DomainDiscriminator(2, hidden=[3]))
    DistributedLoss(adversary).set_strength(0.25)
    assert adversary.reversal.strength.item() == 0.25
    with pytest.raises(TypeError, match=r"DistributedLoss.set_strength: `loss` must have a strength, .*CORALLoss"):
        DistributedLoss(CORALLoss()).set_strength(0.5)


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
