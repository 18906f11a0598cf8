"""The settings that a result depends on, and their comparison with those of a stored result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmda.models.mmcda.closed_form import attended_rows, fit_joint_maps
from mmda.models.mmcda.config import MMCDAConfig
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.linear_head import FrameAgreement, NeighbourScaling, QueryFeedback
from mmda.models.mmcda.localizer import decode_spans
from mmda.models.mmcda.stacking import pair_scores, stacked_weights
from mmda.models.mmcda.voting import vote_spans

#: The parts of the recipe whose default arguments change a result.
RECIPE: tuple[Callable[..., Any], ...] = (
    attended_rows,
    fit_joint_maps,
    pair_scores,
    stacked_weights,
    NeighbourScaling,
    QueryFeedback,
    FrameAgreement,
    vote_spans,
    decode_spans,
)


def recipe_defaults() -> dict[str, dict[str, Any]]:
    """The default arguments of every part of the recipe, so that a stored result tells when one has changed.

    Returns:
        The numbers, texts and sequences by the name of the part and of the argument.

    Example:
        >>> recipe_defaults()["fit_joint_maps"]["rounds"]
        4
    """
    return {
        part.__name__: {
            name: each.default
            for name, each in inspect.signature(part).parameters.items()
            if isinstance(each.default, (bool, int, float, str, tuple))
        }
        for part in RECIPE
    }


def model_settings(given: dict[str, Any]) -> dict[str, Any]:
    """All fields of :class:`mmda.models.mmcda.MMCDAConfig` but the widths: those ``given``, else the defaults.

    Example:
        >>> model_settings({"joint": 32})["joint"], model_settings({})["members"]
        (32, 4)
    """
    widths = ("video_width", "query_width")
    return {each.name: given.get(each.name, each.default) for each in fields(MMCDAConfig) if each.name not in widths}


def check_settings(path: Path, content: Any, settings: dict[str, Any]) -> None:
    """Raise if the file at ``path`` was made with other settings."""
    rule = f"--resume: {path} must be of the settings asked for"
    kept = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(kept, dict):
        raise UnusableError(f"{rule}, got a file that does not name its own")
    if "recipe" not in kept:
        raise UnusableError(f"{rule}, got a file of an earlier version, without the defaults of its recipe")
    there, asked = flat_settings(kept), flat_settings(settings)
    names = [name for name in {**asked, **there} if there.get(name) != asked.get(name)]
    if names:
        differ = "; ".join(f"{name} {there.get(name)!r}, not {asked.get(name)!r}" for name in names)
        raise UnusableError(f"{rule}, got {differ}")


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
