"""One optimiser step: batches, terms, gradients, and its results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmda.models.mmcda.config import TrainingConfig
from mmda.models.mmcda.logs import Clock, StepFacts, step_facts
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.parallel import Ranks, Wrapped, local, whole
from mmda.models.mmcda.saving import Run
from mmda.schedules import cosine_decay, dann_ramp
from mmda.vmr.batch import VMRBatch


@dataclass
class Made:
    """Results of a step: terms of every batch, norms, and number of pairs."""

    rate: float
    strength: float
    found: list[dict[str, Tensor]] = field(default_factory=list)
    qids: list[str] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    norm: float = math.nan

    def terms(self) -> dict[str, float]:
        """The mean of each term over the batches of the step."""
        return {role: sum(each[role].item() for each in self.found) / len(self.found) for role in self.found[0]}

    def facts(self, run: Run, clock: Clock) -> StepFacts:
        """For the log."""
        weights = run.must["weights"]
        return step_facts(
            step=run.state.step,
            terms=self.terms(),
            weights=weights,
            gradient_norm=self.norm,
            gradient_norms=self.norms,
            rate=self.rate,
            strength=self.strength,
            objective=run.parts["objective"],
            pairs=len(self.qids) * run.ranks.size,
            clock=clock,
            device=run.device,
        )


def make_step(
    run: Run,
    call: Wrapped,
    config: TrainingConfig,
    batches: Iterator[tuple[VMRBatch, VMRBatch | None]],
    clock: Clock,
    *,
    norms: bool,
) -> Made:
    """One optimiser step on ``config.accumulate`` batches; optionally gradient norms by role, of the last batch."""
    model, _, optimizer, mean = run.parts.values()
    state, scaler = run.state, run.scaler
    done = state.step / config.steps
    rate = config.learning_rate * cosine_decay(done, floor=0.02) * min(1, (state.step + 1) / config.warmup)
    made = Made(rate, dann_ramp(done, gamma=config.gamma))
    for group in optimizer.param_groups:
        group["lr"] = rate
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    clock.begin()
    for at in range(config.accumulate):
        last = at + 1 == config.accumulate
        with clock.data():
            source_batch, target_batch = next(batches)
            source_batch = source_batch.to(run.device)
            target_batch = None if target_batch is None else target_batch.without_moments().to(run.device)
        made.qids += [*source_batch.qids, *(() if target_batch is None else target_batch.qids)]
        with nullcontext() if last else call.unsynchronised():
            with _precision(config, run.device):
                total = call(source_batch, target_batch, made.strength)
            made.found.append(call.step.terms)
            if norms and last:
                made.norms = _gradient_norms(call.step.terms, parameters, run.ranks)
            total = total if config.accumulate == 1 else total / config.accumulate
            torch.autograd.backward(total if scaler is None else scaler.scale(total))
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm, foreach=bool(optimizer.defaults["fused"]))
    made.norm = float(whole(norm))
    if not math.isfinite(made.norm) and not (scaler is not None and _overflow(made.found, scaler)):
        optimizer.zero_grad(set_to_none=True)
        qids = [qid for share in run.ranks.every(made.qids) for qid in share]
        raise FloatingPointError(_not_finite(state.step + 1, made.found, qids))
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    call.step.terms = {}
    state.step += 1
    if mean is not model:
        _move_towards(mean, model, 1 - min(config.average, (1 + state.step) / (10 + state.step)))
    clock.end()
    return made


def _overflow(found: Sequence[Mapping[str, Tensor]], scaler: torch.amp.GradScaler) -> bool:
    """Whether only the loss scale made a gradient infinite: the terms are finite, and the scale can be halved."""
    finite = all(bool(torch.isfinite(term)) for terms in found for term in terms.values())
    return finite and scaler.get_scale() >= 1


def _precision(config: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Autocast if requested. Losses compute in float32 inside it too."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def _not_finite(step: int, found: Sequence[dict[str, Tensor]], qids: Sequence[str]) -> str:
    """Error message of a non-finite step: the non-finite terms, all terms, and the queries."""
    values = {role: [float(terms[role].detach()) for terms in found] for role in found[0]}
    bad = [role for role, numbers in values.items() if not all(map(math.isfinite, numbers))]
    which = f"term {', '.join(bad)}" if bad else "their gradient, and no term"
    shown = {role: numbers[0] if len(numbers) == 1 else numbers for role, numbers in values.items()}
    return f"fit: loss or gradient not finite at step {step}: {shown}; at fault: {which}; queries {', '.join(qids)}"


@torch.no_grad()
def _move_towards(mean: MMCDA, model: MMCDA, share: float) -> None:
    """Update the moving average ``mean`` towards ``model`` by ``share``; buffers are copied."""
    torch._foreach_lerp_([local(p) for p in mean.parameters()], [local(p) for p in model.parameters()], share)
    for kept, now in zip(mean.buffers(), model.buffers()):
        kept.copy_(now)


def _gradient_norms(terms: Mapping[str, Tensor], parameters: Sequence[Tensor], ranks: Ranks) -> dict[str, float]:
    norms = {}
    for role, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms[role] = sum(float(g.square().sum()) for g in ranks.averaged(gradients) if g is not None) ** 0.5
    return norms
