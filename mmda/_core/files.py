"""Atomic writes, checksums, and reading of regular files only."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


#: Limit in bytes on an unpacked array of a compressed file, unless the file itself is as large.
MAX_BYTES = 1 << 30


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Add ``path`` to any ``OSError`` raised inside; errors of a full disk have no file name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_file(path: str | Path, content: bytes) -> None:
    """Write atomically: to a temporary file in the same folder, flushed and renamed. A failure keeps the old file.

    Through a symbolic link the file that it points to is written. Errors are ``OSError`` and name ``path``; a path to a
    device or pipe is an error.
    """
    with named(path):
        target = _written_to(Path(path))
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            _write_whole(temporary, content)
            os.replace(temporary, target)
            _flush_folder(target.parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def _written_to(path: Path) -> Path:
    """Resolve symbolic links, which a rename would replace, and reject devices and pipes."""
    with suppress(FileNotFoundError):
        _check_regular(path, os.stat(path).st_mode)
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _write_whole(path: Path, content: bytes) -> None:
    """Write a new file and flush it to disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, content: bytes) -> None:
    """Write to an open file until all is written."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _flush_folder(folder: Path) -> None:
    """Flush a rename to disk, if the system supports it."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; raise ``OSError`` for pipes and devices, which may block or never end."""
    _check_regular(path, os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    stream = os.fdopen(handle, "rb")
    try:
        _check_regular(path, os.fstat(handle).st_mode)
    except OSError:
        stream.close()
        raise
    return stream


def _check_regular(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device", str(path))


def read_file(path: str | Path) -> bytes:
    """The content of a regular file."""
    with open_file(path) as stream:
        return stream.read()


def text_lines(text: str) -> list[str]:
    """The lines of a text, split only at line feeds, as in JSON lines and CSV.

    ``str.splitlines`` also splits at U+2028, U+0085 and others, which may occur unescaped in JSON strings.

    Example:
        >>> text_lines('{"query": "a\\u2028b"}\\r\\n{}')
        ['{"query": "a\\u2028b"}', '{}']
    """
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def lock(handle: int) -> bool:
    """Take the lock of an open file without waiting; False where another holds it. It ends with the handle."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:  # the error on Windows
        return False
    return True


def digest(content: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


_SEAL = re.compile(rb', "sha256": "([0-9a-f]{64})"}$')


def sealed_json(text: str) -> bytes:
    """A JSON object with the SHA-256 of its own text appended as the last entry."""
    if not text.startswith("{") or not text.endswith("}") or len(text) < 3:
        raise ValueError("sealed_json: `text` must be a JSON object with entries")
    body = text[:-1].encode()
    return body + f', "sha256": "{digest(body)}"}}'.encode()


def unsealed_json(content: bytes) -> bytes | None:
    """The text passed to :func:`sealed_json`; ``None`` if it does not match its digest."""
    seal = _SEAL.search(content)
    if seal is None or digest(content[: seal.start()]).encode() != seal[1]:
        return None
    return content[: seal.start()] + b"}"


def write_lines_file(path: str | Path, content: bytes) -> None:
    """Write a file and its digest to ``PATH.sha256`` (for ``sha256sum -c``)."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.sha256")
    with suppress(FileNotFoundError):
        os.unlink(beside)  # first, since the digest of an earlier file would not match
    write_file(path, content)
    write_file(beside, f"{digest(content)}  {path.name}\n".encode())


def read_lines_file(path: str | Path) -> bytes:
    """The content of a file, checked against ``PATH.sha256`` of :func:`write_lines_file` if there is one.

    Raises ``ValueError`` if the digest differs.
    """
    path = Path(path)
    content = read_file(path)
    try:
        known = read_file(path.with_name(f"{path.name}.sha256"))
    except FileNotFoundError:
        return content
    if known.split()[:1] != [digest(content).encode()]:
        raise ValueError(
            f"{path}: must be the file that {path.name}.sha256 was written for, got another or a damaged one"
        )
    return content
