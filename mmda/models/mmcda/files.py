"""Files that are whole or absent, and that say what they are."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mmda._core.files import write_file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the rule.

    Example:
        >>> try:
        ...     load_file(Path("nowhere.pt"), "mmcda model")
        ... except CheckpointError as error:
        ...     print(error)
        nowhere.pt: the checkpoint must exist, got no such file
    """


#: Who writes each kind of file.
WRITERS = {"mmcda model": "save_model", "mmcda run": "fit(resume=...)"}


def encoded(content: object) -> bytes | None:
    """The bytes of a file that gives this content back without running code; ``None`` where there is none."""
    whole = io.BytesIO()
    try:
        torch.save(content, whole)
        whole.seek(0)
        torch.load(whole, map_location="cpu", weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return whole.getvalue()


def save_file(path: str | Path, kind: str, content: dict[str, Any]) -> None:
    """Write beside the target, flush, then rename: a reader never meets half a file, or one that it must refuse."""
    path = Path(path)
    whole = encoded({"kind": kind, **content})
    if whole is None:
        bad = [name for name, value in content.items() if encoded(value) is None]
        raise TypeError(f"{path}: the checkpoint must hold tensors and plain values, got others in {', '.join(bad)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, whole)


def load_file(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a file of :func:`save_file`; tensors and plain values only, no code is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the checkpoint must exist, got no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{path}: the checkpoint must be a readable file, got {error.strerror}") from error
    except (
        *(RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError),
        *(pickle.UnpicklingError, zipfile.BadZipFile),
    ) as error:  # PyTorch's own text speaks of running the file's code
        rule = f"be a file of {WRITERS[kind]}, whole and of this version"
        came = "another kind of file or a damaged one"
        raise CheckpointError(f"{path}: the checkpoint must {rule}, got {came}") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise CheckpointError(f"{path}: the checkpoint must be a file of {WRITERS[kind]}, got another kind of file")
    return content
