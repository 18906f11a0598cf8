"""Names of videos and queries."""

from __future__ import annotations

_VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")


def video_id(name: str) -> str:
    """A video's name without a file suffix: ``s13-d21.avi`` is ``s13-d21``; dots elsewhere stay."""
    for suffix in _VIDEO_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
