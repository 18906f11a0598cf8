"""One model trained by several processes: the weights of one process, one run file, a common end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from mmda._core import files
from mmda.layers import DomainDiscriminator
from mmda.losses import DomainAdversarialLoss
from mmda.models.mmcda import (
    MMCDAConfig,
    MMCDAObjective,
    Term,
    TrainingConfig,
    TrainingStopped,
    build_mmcda,
    default_terms,
    fit,
)
from mmda.models.mmcda.files import load_file
from mmda.models.mmcda.parallel import whole
from mmda.vmr import ResidentLoader, VMRBatch, World, simulate
from tests.processes import join
from tests.test_files import System

CONFIG = MMCDAConfig(12, 10, hidden=8, joint=4, localizer_channels=4, localizer_layers=1, dropout=0.0)
LONG = TrainingConfig(steps=50, evaluations=2, warmup=2, average=0.5)
SHORT = replace(LONG, steps=6)


def words_of(target: Any) -> Tensor:
    """A term of the user's own, which reads features of the batch and nothing of most of the model."""
    return (target.output.query.mean(1) * target.batch.words.sum((1, 2))).square().mean()


def objective() -> MMCDAObjective:
    adversary = DomainAdversarialLoss(DomainDiscriminator(8, hidden=[4]))
    terms = default_terms(video_discrepancy=adversary)
    return MMCDAObjective(terms=[*terms, Term("own", "target", 0.1, words_of)])


def train(
    rank: int,
    ranks: int,
    config: TrainingConfig,
    *,
    dropout: float = 0.0,
    broken: bool = False,
    own: bool = True,
    **options: Any,
) -> dict[str, Tensor]:
    """Float64 batches of 9 and 7 pairs, which neither two nor four processes share evenly."""
    draw = simulate(World(videos=27, test_videos=4, video_width=12, query_width=10), seed=3)

    def double(batch: VMRBatch) -> VMRBatch:
        frames = batch.frames.double()
        if broken:
            frames[5] = torch.nan
        return replace(batch, frames=frames, words=batch.words.double())

    torch.manual_seed(rank)  # rank 0's weights are used
    model = build_mmcda(replace(CONFIG, dropout=dropout)).double()
    source = ResidentLoader(double(draw.source_train), 9, drop_last=True, rank=rank, ranks=ranks)
    target = ResidentLoader(double(draw.target_train), 7, seed=1, labels=False, drop_last=True, rank=rank, ranks=ranks)
    terms = objective().double() if own else MMCDAObjective()
    parallel = options.pop("parallel", "ddp" if ranks > 1 else None)
    fit(model, terms, source, target, config=config, parallel=parallel, **options)
    return whole({**model.state_dict(), **{f"objective.{k}": v for k, v in terms.state_dict().items()}})


def stop_at(step: int, rank: int) -> Callable[[int], None]:
    """Rank 1 alone is asked to stop."""

    def on_step(now: int) -> None:
        if rank == 1 and now == step:
            raise TrainingStopped(15)

    return on_step


def told(action: Callable[[], object]) -> str:
    try:
        action()
    except (FloatingPointError, OSError, TrainingStopped, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def worker(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    join(rank, ranks, folder)
    found: dict[str, Any] = {"long": train(rank, ranks, LONG)}
    if ranks == 2:
        path = Path(folder, "run.pt")
        found["fsdp"] = train(rank, ranks, SHORT, own=False, parallel="fsdp", resume=Path(folder, "fsdp.pt"))
        short = {"own": False, "resume": path, "dropout": 0.3}
        whole_run = train(rank, ranks, SHORT, own=False, dropout=0.3)
        found["stopped"] = told(lambda: train(rank, ranks, SHORT, **short, on_step=stop_at(3, rank)))
        found["resumed"] = train(rank, ranks, SHORT, **short)
        found["equal"] = all(torch.equal(value, found["resumed"][name]) for name, value in whole_run.items())
        for_one = {"own": False, "resume": Path(folder, "for one.pt")}
        told(lambda: train(rank, ranks, SHORT, **for_one, on_step=stop_at(3, rank)))
        found["not finite"] = told(lambda: train(rank, ranks, SHORT, broken=True, resume=Path(folder, "nan.pt")))
        files.os = System(1, error=OSError(28, "No space left on device")) if rank == 0 else os  # type: ignore
        found["full"] = told(lambda: train(rank, ranks, SHORT, resume=Path(folder, "full.pt"), save_steps=1))
        found["share"] = told(lambda: train(0, 1, SHORT, parallel="ddp"))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """The results of two and of four processes, and the folder of the run with two."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    results = {}
    for ranks in (2, 4):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        mp.spawn(worker, args=(ranks, str(folder)), nprocs=ranks)
        results[ranks] = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
        for result in results[ranks]:
            result["folder"] = folder
    return results


#: Its first two precede a softmax over frames: no loss depends on them, so their gradient is rounding, which
#: Adam makes a step of.
FREE = "localizer.leave.bias"


def check_equal(came: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(came) == set(wanted)
    for name, value in wanted.items():
        kept = slice(2, None) if name == FREE else ...
        torch.testing.assert_close(
            came[name][kept], value[kept], rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_weights_after_50_steps_are_those_of_one_process(found: dict[int, list[dict[str, Any]]]) -> None:
    """Uneven shares, an adversary that the first step does not train, a term on features, a running mean."""
    alone = train(0, 1, LONG)
    for results in found.values():
        for result in results:
            check_equal(result["long"], alone)


def test_sharded_parameters_train_to_the_same_weights(found: dict[int, list[dict[str, Any]]], tmp_path: Path) -> None:
    """The run can be read by one process, with complete weights."""
    alone = train(0, 1, SHORT, own=False)
    for result in found[2]:
        check_equal(result["fsdp"], alone)
    kept = load_file(found[2][0]["folder"] / "fsdp.pt", "mmcda run")
    check_equal(kept["best"], {name: value for name, value in alone.items() if not name.startswith("objective.")})


def test_ranks_stop_together_and_go_on_to_the_same_bits(found: dict[int, list[dict[str, Any]]]) -> None:
    """Dropout differs between the ranks, and its random states are saved."""
    for result in found[2]:
        assert result["stopped"] == "TrainingStopped: 15"
        assert result["equal"]
    kept = load_file(found[2][0]["folder"] / "run.pt", "mmcda run")
    assert not torch.equal(kept["random"]["cpu"], kept["random_of_others"][0]["cpu"])


def test_one_process_goes_on_with_the_run_of_two(found: dict[int, list[dict[str, Any]]]) -> None:
    check_equal(
        train(0, 1, SHORT, own=False, resume=found[2][0]["folder"] / "for one.pt"), train(0, 1, SHORT, own=False)
    )


def test_all_ranks_fail_alike(found: dict[int, list[dict[str, Any]]]) -> None:
    first, second = found[2]
    assert first["not finite"] == second["not finite"]
    assert first["not finite"].startswith("FloatingPointError: fit: loss or gradient not finite at step ")
    assert "at fault: term moment" in first["not finite"]
    assert "source-train-5" in first["not finite"]
    assert (first["folder"] / "nan.failed.pt").exists()
    for rank, result in enumerate(found[2]):
        assert result["full"].startswith("OSError: [Errno 28] No space left on device")
        wanted = f"give rank {rank} of 2 its part (`rank=`, `ranks=` of the loader), got one for rank 0 of 1"
        assert wanted in result["share"]


def test_a_share_of_every_batch() -> None:
    """The shares of any number of ranks make up the batch; a batch with too few rows is refused."""
    split = simulate(World(videos=11, test_videos=1), seed=0).source_train
    one = [batch.qids for batch in ResidentLoader(split, 4)]
    shares = [list(ResidentLoader(split, 4, rank=rank, ranks=3)) for rank in range(3)]
    assert [sum((share[at].qids for share in shares), ()) for at in range(len(one))] == one
    with pytest.raises(
        ValueError, match=r"ResidentLoader: `batch_size` must give each of 4 ranks a pair of every batch"
    ):
        ResidentLoader(split, 4, rank=0, ranks=4)  # 11 = 4 + 4 + 3
    with pytest.raises(ValueError, match=r"`rank` must be below `ranks` \(2\), got 2"):
        ResidentLoader(split, 4, rank=2, ranks=2)
