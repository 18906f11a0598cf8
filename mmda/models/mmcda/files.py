"""Checkpoints: whole or absent, verified to the last bit when read, and of the kind they say."""

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

#: A zip archive may end in a comment. It holds the digest of all that stands before it.
_LABEL = b"mmda sha256 "
_COMMENT = len(_LABEL) + 64


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


def sealed(archive: bytes) -> bytes:
    """The archive with its digest as comment; ``torch.load`` and ``unzip`` read it as before."""
    body = archive[:-2] + _COMMENT.to_bytes(2, "little")  # the last field is the length of the comment
    return body + _LABEL + digest(body).encode()


def _is_whole(stream: BinaryIO) -> bool:
    """Whether every bit is as it was written; leaves the stream at its beginning."""
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
    """Write a checkpoint with its kind and digest, whole or not at all."""
    path = Path(path)
    whole = encoded({"kind": kind, **content})
    if whole is None:
        bad = [name for name, value in content.items() if encoded(value) is None]
        raise TypeError(f"{path}: the checkpoint must hold tensors and plain values, got others in {', '.join(bad)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, sealed(whole))


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[BinaryIO]:
    """The file, verified, at its beginning; what goes wrong with it is a :class:`CheckpointError`."""
    rule = f"be a file of {WRITERS[kind]}, whole and of this version, got another kind of file or a damaged one"
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
    ) as error:  # PyTorch's own text speaks of running the file's code
        raise CheckpointError(f"{path}: the checkpoint must {rule}") from error


def check_file(path: str | Path, kind: str) -> None:
    """Raise :class:`CheckpointError` where any bit of the file was changed."""
    with _opened(path, kind):
        pass


def load_file(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a file of :func:`save_file`; tensors and plain values only, no code is run."""
    with _opened(path, kind) as stream:
        content = torch.load(stream, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise CheckpointError(f"{path}: the checkpoint must be a file of {WRITERS[kind]}, got another kind of file")
    for name, came in not_finite(content):
        raise CheckpointError(f"{path}: the checkpoint must hold finite numbers, got {came} in `{name}`")
    return content


def not_finite(content: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Where tensors hold NaN or infinity, with what came."""
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
    """Numbers, strings, ``None``, and lists and mappings of them: values that ``==`` compares."""
    if isinstance(content, Mapping):
        return all(isinstance(key, (str, int)) and is_plain(value) for key, value in content.items())
    if isinstance(content, (list, tuple)):
        return all(map(is_plain, content))
    return (
        content is None
        or isinstance(content, (str, bool, int))
        or (isinstance(content, float) and not math.isnan(content))
    )
