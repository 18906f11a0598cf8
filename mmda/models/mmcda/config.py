"""Config of the reference model, used only by :mod:`mmda.models.mmcda.build`."""

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
    members: int = 3
    residual: int = 0
    neighbours: float = 0.25
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
        check_number("MMCDAConfig", "agreement", self.agreement, at_least=0)
        if self.form == "linear" and self.shared_space:
            fail("MMCDAConfig", "shared_space", "be False for a linear form, whose maps start there", True)
        check_count("MMCDAConfig", "context_layers", self.context_layers, at_least=0)
        check_choice("MMCDAConfig", "context", self.context, ("conv", "none"))
        check_number("MMCDAConfig", "temperature", self.temperature, above=0)
        check_number("MMCDAConfig", "dropout", self.dropout, at_least=0, below=1)
