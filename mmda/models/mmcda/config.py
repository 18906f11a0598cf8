"""Sizes and choices of the reference model; they stop at :mod:`mmda.models.mmcda.build`."""

from __future__ import annotations

from dataclasses import dataclass

from mmda._core.checks import check_choice, check_count, check_number, fail


@dataclass(frozen=True)
class MMCDAConfig:
    """Sizes of the reference model. Laptop-sized by default.

    Two forms. ``"towers"``: encoders, two-layer heads and a localizer, all learned from scratch. ``"linear"``: the
    features as they are, linear heads that :func:`mmda.models.mmcda.start_linear` fixes in closed form, a learned
    correction that starts at zero, and spans by vote; ``hidden``, the context and the localizer are not used.

    Args:
        video_width: frame features that come in.
        query_width: word features that come in.
        hidden: width of the encoders.
        joint: width of the joint space.
        context: how frames see their neighbours: ``"conv"`` or ``"none"``.
        context_layers: depth of that context.
        localizer_channels: width of the localizer.
        localizer_layers: its depth; the reach doubles with every layer.
        positions: tell the localizer where in the video a clip lies. Off by default: it learns the source's
            location habits, which no alignment removes.
        shared_space: frames and words come from one encoder and can be compared as they are. The joint space is then
            that space (``joint`` is not used), and the heads learn a correction that starts at zero.
        temperature: of the similarity that the localizer sees.
        dropout: in the encoders and the localizer, or in the residual net of a linear form.
        form: ``"towers"`` or ``"linear"``.
        members: linear maps that stand side by side, each with its own joint sphere.
        residual: hidden width of the net in a linear head; 0 leaves it out.
        neighbours: strength of :class:`mmda.models.mmcda.NeighbourScaling` in a linear form.
        agreement: width in clips of :class:`mmda.models.mmcda.FrameAgreement` in a linear form; 0 leaves it out.

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
