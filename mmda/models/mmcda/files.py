"""Files that are whole or absent, and that say what they are."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mmda._files import write_file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the rule.

    Example:
        >>> try:
        ...     load_file(Path("nowhere.pt"), "mmcda model")
        ... except CheckpointError as error:
        ...     print(error)
        nowhere.pt: the checkpoint must exist, got no such file
    """


def save_file(path: Path, kind: str, content: dict[str, Any]) -> None:
    """Write beside the target, flush, then rename: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()
    torch.save({"kind": kind, **content}, whole)
    write_file(path, whole.getvalue())


def load_file(path: Path, kind: str) -> dict[str, Any]:
    """Read a file of :func:`save_file`; tensors and plain values only, no code is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the checkpoint must exist, got no such file") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: the checkpoint must be a whole {kind} file, got {first}") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise CheckpointError(f"{path}: the checkpoint must be a {kind} file, got another kind of file")
    return content
