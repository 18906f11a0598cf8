"""Configs of the reference model, used only by :mod:`mmda.models.mmcda.build`, and of its training."""

from __future__ import annotations

from dataclasses import dataclass

from mmda._core.checks import check_choice, check_count, check_number, fail


@dataclass(frozen=True)
class MMCDAConfig:
    """Sizes and options of the reference model; the defaults suit a laptop.

    There are two forms. ``"towers"``: encoders, two-layer heads and a localizer, all trained from scratch.
    ``"linear"``: unchanged features, linear heads set in closed form by :func:`mmda.models.mmcda.start_linear`, a
    learned correction initialised at zero, and spans decoded by voting; ``hidden``, the context and the localizer are
    not used.

    Args:
        video_width: number of input frame features.
        query_width: number of input word features.
        hidden: width of the encoders.
        joint: width of the joint space.
        context: temporal context of frames: ``"conv"`` or ``"none"``.
        context_layers: layers of the context.
        localizer_channels: width of the localizer.
        localizer_layers: layers of the localizer; the receptive field doubles with every layer.
        positions: add the position of each clip to the localizer's input. Off by default, because it learns the
            location bias of the source, which no alignment removes.
        shared_space: frames and words are features of one encoder with a common space. The joint space is then that
            space (``joint`` is not used), and the heads learn a correction initialised at zero.
        temperature: temperature of the similarity, the localizer's input.
        dropout: dropout of the encoders and the localizer, or of the residual network of a linear form.
        form: ``"towers"`` or ``"linear"``.
        members: number of linear maps, each with its own joint unit sphere.
        residual: hidden width of the residual network in a linear head; 0 disables it.
        neighbours: strength of :class:`mmda.models.mmcda.NeighbourScaling` in a linear form.
        feedback: strength of :class:`mmda.models.mmcda.QueryFeedback` in a linear form; 0 disables it.
        agreement: width in clips of :class:`mmda.models.mmcda.FrameAgreement` in a linear form; 0 disables it.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1), an unknown context or form, a linear form in a shared
            space, widths that differ in a shared space.
    """

    video_width: int
    query_width: int
    hidden: int = 96
    joint: int = 96
    context: str = "conv"
    context_layers: int = 1
    localizer_channels: int = 48
    localizer_layers: int = 3
    positions: bool = False
    shared_space: bool = False
    temperature: float = 0.1
    dropout: float = 0.1
    form: str = "towers"
    members: int = 4
    residual: int = 0
    neighbours: float = 0.25
    feedback: float = 1.0
    agreement: float = 4.0

    def __post_init__(self) -> None:
        for name in ("video_width", "query_width", "hidden", "joint", "localizer_channels", "localizer_layers"):
            check_count("MMCDAConfig", name, getattr(self, name))
        if self.shared_space and self.query_width != self.video_width:
            rule = f"equal `video_width` ({self.video_width}) in a shared space"
            fail("MMCDAConfig", "query_width", rule, self.query_width)
        check_choice("MMCDAConfig", "form", self.form, ("towers", "linear"))
        check_count("MMCDAConfig", "members", self.members)
        check_count("MMCDAConfig", "residual", self.residual, at_least=0)
        check_number("MMCDAConfig", "neighbours", self.neighbours, at_least=0)
        check_number("MMCDAConfig", "feedback", self.feedback, at_least=0)
        check_number("MMCDAConfig", "agreement", self.agreement, at_least=0)
        if self.form == "linear" and self.shared_space:
            fail("MMCDAConfig", "shared_space", "be False for a linear form, whose maps start there", True)
        check_count("MMCDAConfig", "context_layers", self.context_layers, at_least=0)
        check_choice("MMCDAConfig", "context", self.context, ("conv", "none"))
        check_number("MMCDAConfig", "temperature", self.temperature, above=0)
        check_number("MMCDAConfig", "dropout", self.dropout, at_least=0, below=1)


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run.

    Args:
        steps: optimiser steps.
        learning_rate: peak learning rate of AdamW, with a linear warm-up and a cosine decay.
        weight_decay: weight decay of AdamW.
        warmup: steps of the linear warm-up.
        clip_norm: maximum gradient norm.
        gamma: steepness of the ramp of the target's terms, :func:`mmda.schedules.dann_ramp`.
        average: decay of the exponential moving average of the weights, in [0, 1); 0 turns it off. If on, the averaged
            weights are evaluated, selected and returned. At step k the decay is at most (1 + k) / (10 + k), so that the
            first steps are forgotten quickly.
        evaluations: number of candidate checkpoints, spread over the second half of the run.
        gradient_norms: also log each term's gradient norm at every evaluation (one more backward pass per term).
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` to run the model under autocast; losses stay in
            float32. ``"float16"`` scales the loss (``torch.amp.GradScaler``), on CUDA or the CPU: a step whose scaled
            gradient overflows is skipped and the scale is halved.
        accumulate: number of batches per step, whose gradients are averaged; contrastive terms and discrepancies only
            see one batch at a time.
        compile: compile model and objective together by ``torch.compile``, which needs a C++ compiler on a CPU. The
            first step takes minutes; try whether later ones gain by it.

    Raises:
        ValueError: a value out of range.
    """

    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warmup: int = 20
    clip_norm: float = 5.0
    gamma: float = 10.0
    average: float = 0.0
    evaluations: int = 4
    gradient_norms: bool = False
    precision: str = "float32"
    accumulate: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "warmup", "evaluations", "accumulate"):
            check_count("TrainingConfig", name, getattr(self, name))
        for name in ("learning_rate", "clip_norm", "gamma"):
            check_number("TrainingConfig", name, getattr(self, name), above=0)
        check_number("TrainingConfig", "weight_decay", self.weight_decay, at_least=0)
        check_choice("TrainingConfig", "precision", self.precision, ("float32", "bfloat16", "float16"))
        check_number("TrainingConfig", "average", self.average, at_least=0, below=1)

    def milestones(self) -> tuple[int, ...]:
        """Steps after which a checkpoint is evaluated: evenly spaced over the second half, including the last step."""
        half = self.steps // 2
        return tuple(
            sorted({self.steps - (self.steps - half) * k // self.evaluations for k in range(self.evaluations)})
        )
