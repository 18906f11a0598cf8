"""Normalisation of video and query ids from annotations, feature files and duration lists."""

from __future__ import annotations

import re
import unicodedata

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm")
_QUERY = re.compile(r"(?:.*?[._-])??qid(.+)")


def video_id(name: str) -> str:
    """A video id without a file suffix: ``s13-d21.avi`` becomes ``s13-d21``; other dots stay.

    Unicode is normalised to NFC, since Linux and macOS may write the same name as NFC and NFD.
    """
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    for suffix in VIDEO_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def query_id(stem: str) -> str:
    """The query id in a file's stem: the part after ``qid`` at its start or after a separator, otherwise all of it.

    Example:
        >>> query_id("qid5263"), query_id("qids30-d52_0"), query_id("text_qid7"), query_id("AO8RW_test_1")
        ('5263', 's30-d52_0', '7', 'AO8RW_test_1')
    """
    match = _QUERY.fullmatch(stem)
    return video_id(match.group(1) if match else stem)
