"""Checkpoint files: written atomically, verified by a checksum and a kind when read."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mmda._core.files import digest, open_file, write_file


class CheckpointError(ValueError):
    """Raised for an unusable checkpoint; the message names file and rule.

    Example:
        >>> try:
        ...     load_file(Path("nowhere.pt"), "mmcda model")
        ... except CheckpointError as error:
        ...     print(error)
        nowhere.pt: the checkpoint must exist, got no such file
    """


#: The function that writes each kind of file.
WRITERS = {"mmcda model": "save_model", "mmcda run": "fit(resume=...)"}

#: The digest is stored in the comment at the end of the zip archive.
_LABEL = b"mmda sha256 "
_COMMENT = len(_LABEL) + 64


def encoded(content: object) -> bytes | None:
    """Serialise content so that it can be loaded with ``weights_only=True``; ``None`` if it cannot."""
    whole = io.BytesIO()
    try:
        torch.save(content, whole)
        whole.seek(0)
        torch.load(whole, map_location="cpu", weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return whole.getvalue()


def sealed(archive: bytes) -> bytes:
    """Add the digest of an archive as its comment; ``torch.load`` and ``unzip`` can still read it."""
    body = archive[:-2] + _COMMENT.to_bytes(2, "little")  # the last field is the length of the comment
    return body + _LABEL + digest(body).encode()


def _is_whole(stream: BinaryIO) -> bool:
    """Whether the digest matches; rewinds the stream."""
    size = stream.seek(0, io.SEEK_END)
    rest = size - _COMMENT
    stream.seek(0)
    if rest <= 0:
        return False
    found = hashlib.sha256()
    while rest > 0:
        block = stream.read(min(rest, 1 << 20))
        if not block:
            return False
        found.update(block)
        rest -= len(block)
    comment = stream.read(_COMMENT + 1)
    stream.seek(0)
    return comment == _LABEL + found.hexdigest().encode()


def save_file(path: str | Path, kind: str, content: dict[str, Any]) -> None:
    """Write a checkpoint with its kind and digest, atomically."""
    path = Path(path)
    whole = encoded({"kind": kind, **content})
    if whole is None:
        bad = [name for name, value in content.items() if encoded(value) is None]
        raise TypeError(f"{path}: the checkpoint must hold tensors and plain values, got others in {', '.join(bad)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, sealed(whole))


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[BinaryIO]:
    """Open and verify a file; problems raise :class:`CheckpointError`."""
    rule = f"be an undamaged file of {WRITERS[kind]} of this version, got another kind of file or a damaged one"
    try:
        with open_file(path) as stream:
            if not _is_whole(stream):
                raise CheckpointError(f"{path}: the checkpoint must {rule}")
            yield stream
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the checkpoint must exist, got no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint must be a readable file, got {error.strerror}") from error
    except (
        *(RuntimeError, EOFError, TypeError, LookupError, AttributeError, pickle.UnpicklingError, zipfile.BadZipFile),
    ) as error:  # PyTorch's message would suggest running the file's code
        raise CheckpointError(f"{path}: the checkpoint must {rule}") from error


def check_file(path: str | Path, kind: str) -> None:
    """Raise :class:`CheckpointError` if the file is damaged or of another kind."""
    with _opened(path, kind):
        pass


def load_file(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a file of :func:`save_file`: only tensors and plain values, without executing code."""
    with _opened(path, kind) as stream:
        content = torch.load(stream, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise CheckpointError(f"{path}: the checkpoint must be a file of {WRITERS[kind]}, got another kind of file")
    for name, came in not_finite(content):
        raise CheckpointError(f"{path}: the checkpoint must hold finite numbers, got {came} in `{name}`")
    return content


def not_finite(content: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Names of tensors with NaN or infinity, and which of them they contain."""
    if isinstance(content, torch.Tensor):
        if (content.is_floating_point() or content.is_complex()) and not bool(torch.isfinite(content).all()):
            yield name, "NaN" if bool(torch.isnan(content).any()) else "infinity"
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for at, value in enumerate(content):
            yield from not_finite(value, f"{name}[{at}]")


def is_plain(content: object) -> bool:
    """Whether content consists of numbers, strings, ``None``, and lists and mappings of them."""
    if isinstance(content, Mapping):
        return all(isinstance(key, (str, int)) and is_plain(value) for key, value in content.items())
    if isinstance(content, (list, tuple)):
        return all(map(is_plain, content))
    return (
        content is None
        or isinstance(content, (str, bool, int))
        or (isinstance(content, float) and not math.isnan(content))
    )
