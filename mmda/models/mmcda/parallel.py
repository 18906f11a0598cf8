"""Training on several processes: every process computes the objective of the joint batch.

Every process runs the model on its part of each batch. The outputs are gathered with their gradient
(:class:`mmda.distributed.DistributedLoss`), so every process computes the terms of the whole batch, and the gradients
averaged by ``DistributedDataParallel`` or ``fully_shard`` are those of training on one process.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmda._core.checks import fail
from mmda.distributed import DistributedLoss
from mmda.models.mmcda.model import MMCDA, MMCDAOutput
from mmda.models.mmcda.objective import MMCDAObjective
from mmda.objectives import Objective
from mmda.vmr.batch import VMRBatch

T = TypeVar("T")

#: Whether each process has the whole model or a shard.
Parallel = Literal["ddp", "fsdp"]
PARALLEL = ("ddp", "fsdp")


class Ranks:
    """The processes that train together; a single process needs no communication."""

    def __init__(self, *, together: bool, device: torch.device) -> None:
        together = together and dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.device = device

    def most(self, *numbers: int) -> list[int]:
        """The maximum of each number over processes."""
        if self.size == 1:
            return list(numbers)
        received = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX)
        return [int(number) for number in received.tolist()]

    def every(self, value: T) -> list[T]:
        """The values of all processes in rank order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def averaged(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The mean of each tensor over ranks; ``None`` must be ``None`` on all ranks."""
        if self.size > 1:
            for tensor in tensors:
                if tensor is not None:
                    dist.all_reduce(tensor)
                    tensor /= self.size
        return list(tensors)

    def first(self, action: Callable[[], T]) -> T:
        """Run an action on rank 0 and return its result, or raise its exception, on every process."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = action()
            except Exception as error:
                outcome[1] = portable(error)
                dist.broadcast_object_list(outcome)
                raise
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return cast(T, outcome[0])


def portable(error: BaseException) -> BaseException:
    """The exception, or a ``RuntimeError`` with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Facts(NamedTuple):
    """The tensors of a batch that terms use, with its features on request."""

    clip_times: Tensor
    duration: Tensor
    video_index: Tensor
    text_index: Tensor
    windows: Tensor | None
    window_mask: Tensor | None
    features: tuple[Tensor, Tensor, Tensor] | None


def _facts(batch: VMRBatch, features: bool) -> _Facts:
    return _Facts(
        batch.clip_times,
        batch.duration,
        batch.video_index,
        batch.text_index,
        batch.windows,
        batch.window_mask,
        (batch.frames, batch.words, batch.word_mask) if features else None,
    )


def _batch(facts: _Facts, frame_mask: Tensor) -> VMRBatch:
    """The joint batch, with row numbers as ids."""
    none = facts.duration.new_zeros((*frame_mask.shape, 0))
    frames, words, word_mask = facts.features or (none, none[:, :0], frame_mask[:, :0])
    return VMRBatch(
        frames=frames,
        frame_mask=frame_mask,
        words=words,
        word_mask=word_mask,
        clip_times=facts.clip_times,
        duration=facts.duration,
        windows=facts.windows,
        window_mask=facts.window_mask,
        video_index=facts.video_index,
        text_index=facts.text_index,
        qids=tuple(map(str, range(len(facts.duration)))),
    )


class _Joined(nn.Module):
    """The objective of gathered outputs and facts."""

    draws = "fresh"  # terms may draw random numbers, the same on all ranks

    def __init__(self, objective: MMCDAObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(
        self,
        source: MMCDAOutput,
        source_facts: _Facts,
        target: MMCDAOutput | None,
        target_facts: _Facts | None,
        *,
        strength: float,
        **masks: Tensor,
    ) -> Objective:
        joined = None if target is None or target_facts is None else _batch(target_facts, target.frame_mask)
        result: Objective = self.objective(
            source, _batch(source_facts, source.frame_mask), target, joined, strength=strength
        )
        return result


class Step(nn.Module):
    """Model and objective in one module that returns the total of a step; the unweighted terms are in ``terms``."""

    def __init__(self, model: MMCDA, objective: MMCDAObjective, *, joined: bool) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.gathered = DistributedLoss(_Joined(objective)) if joined else None
        #: custom terms may use more of the batch, and may not use all parameters in every step
        self.own = not all(type(term.compute).__module__.startswith("mmda.") for term in objective.terms)
        self.terms: dict[str, Tensor] = {}

    def forward(self, source_batch: VMRBatch, target_batch: VMRBatch | None, strength: float) -> Tensor:
        """The weighted sum of the terms."""
        source = self.model(source_batch)
        localize = self.objective.needs_target_logits
        target = None if target_batch is None else self.model(target_batch, localize=localize)
        if self.gathered is None:
            result = self.objective(source, source_batch, target, target_batch, strength=strength)
        else:
            result = self._joined(source, source_batch, target, target_batch, strength)
        self.terms = result.terms
        total: Tensor = result.total
        return total

    def _joined(
        self,
        source: MMCDAOutput,
        source_batch: VMRBatch,
        target: MMCDAOutput | None,
        target_batch: VMRBatch | None,
        strength: float,
    ) -> Objective:
        """The objective of the joint batch; axes with masks may differ in length between ranks."""
        assert self.gathered is not None
        masks = {}
        for side, batch in (("source", source_batch), ("target", target_batch)):
            if batch is not None:
                masks[f"{side}_frame_mask"] = batch.frame_mask
                if batch.window_mask is not None:
                    masks[f"{side}_window_mask"] = batch.window_mask
                if self.own:
                    masks[f"{side}_word_mask"] = batch.word_mask
        result = self.gathered(
            source,
            _facts(source_batch, self.own),
            target,
            None if target_batch is None else _facts(target_batch, self.own),
            strength=strength,
            **masks,
        )
        return cast(Objective, result)


def shard(module: nn.Module) -> None:
    """Shard the parameters over all ranks, separately for each child module."""
    from torch.distributed.fsdp import fully_shard

    for child in module.children():
        if any(True for _ in child.parameters()):
            fully_shard(child)
    if any(True for _ in module.parameters()):
        fully_shard(module)


def copied_from_first(module: nn.Module, ranks: Ranks) -> None:
    """Copy parameters and buffers of rank 0 to every rank."""
    if ranks.size > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def spread_seeds(ranks: Ranks) -> None:
    """Give ranks different dropout seeds: rank 0 keeps its state, the others derive theirs from rank 0 and their
    rank."""
    if ranks.size > 1:
        seed = ranks.first(lambda: int(torch.randint(2**62, ())))
        if ranks.rank > 0:
            torch.manual_seed((seed + ranks.rank * 0x9E3779B97F4A7C15) % 2**63)


class Wrapped:
    """A callable step, plain, compiled, or with gradient averaging over ranks."""

    def __init__(self, step: Step, parallel: Parallel | None, ranks: Ranks, *, compiled: bool = False) -> None:
        self.step, self.module = step, cast(nn.Module, step)
        if compiled:  # for any length of videos and queries at once
            self.module = cast(nn.Module, torch.compile(step, dynamic=True))
        self.waiting = parallel == "ddp" and ranks.size > 1  # wrapped at the first call

    def __call__(self, source_batch: VMRBatch, target_batch: VMRBatch | None, strength: float) -> Tensor:
        if self.waiting:
            self._wrap(source_batch, target_batch, strength)
        total: Tensor = self.module(source_batch, target_batch, strength)
        return total

    def _wrap(self, source_batch: VMRBatch, target_batch: VMRBatch | None, strength: float) -> None:
        """Determine once which parameters a step uses, because DDP's search for unused ones in every step is slow."""
        devices = [source_batch.frames.device] if source_batch.frames.is_cuda else []
        with torch.random.fork_rng(devices):
            total = self.step(source_batch, target_batch, strength)
        every = {p for p in self.step.parameters() if p.requires_grad}
        settings: dict[str, Any] = {"find_unused_parameters": self.step.own or not every <= _read_by(total)}
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        settings["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
        self.module = nn.parallel.DistributedDataParallel(self.step, **settings)
        self.waiting = False

    def unsynchronised(self) -> AbstractContextManager[object]:
        """Context in which gradients are accumulated locally and averaged later."""
        if isinstance(self.module, nn.parallel.DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()


def _read_by(total: Tensor) -> set[Tensor]:
    """The leaf tensors that a value depends on."""
    found, seen, todo = set(), set(), [total.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [inner for inner, _ in node.next_functions]
    return found


@contextmanager
def quiet(ranks: Ranks) -> Iterator[None]:
    """Suppress an irrelevant FSDP warning: the model does not modify module outputs in place."""
    if ranks.size == 1:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        yield


def check_share(name: str, loader: object, ranks: Ranks) -> None:
    """Check that a loader gives this rank its part of each batch."""
    came = (getattr(loader, "rank", 0), getattr(loader, "ranks", 1))
    if came != (ranks.rank, ranks.size):
        rule = f"give rank {ranks.rank} of {ranks.size} its part (`rank=`, `ranks=` of the loader)"
        fail("fit", name, rule, f"one for rank {came[0]} of {came[1]}")


def whole(state: Any) -> Any:
    """A state with all sharded tensors gathered; a collective call."""
    if isinstance(state, Tensor):
        return state.full_tensor() if hasattr(state, "full_tensor") else state
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, (list, tuple)) else state


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a possibly sharded tensor."""
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def cloned(state: Any) -> Any:
    """A copy of a state that later steps do not change."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: cloned(value) for key, value in state.items()}
    return [cloned(value) for value in state] if isinstance(state, (list, tuple)) else state


def _shard(value: Any, like: Any) -> Any:
    """``value`` sharded like ``like``."""
    if not isinstance(value, Tensor) or not hasattr(like, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    if value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def load_whole(part: Any, state: Mapping[str, Any]) -> None:
    """Load a state of :func:`whole` into a module or an optimiser, sharded or not."""
    if isinstance(part, nn.Module):
        now = part.state_dict()
        part.load_state_dict({name: _shard(value, now.get(name)) for name, value in state.items()})
        return
    if isinstance(part, torch.optim.Optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        kept = {
            i: {
                name: _shard(value, parameters[i]) if isinstance(value, Tensor) else value for name, value in of.items()
            }
            for i, of in state["state"].items()
        }
        state = {**state, "state": kept}
    part.load_state_dict(dict(state))
