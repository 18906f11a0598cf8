"""Checks before reading a file: that it is a regular file, and that its arrays are within a size limit."""

from __future__ import annotations

from pathlib import Path

from mmda._core.files import MAX_BYTES as MAX_BYTES
from mmda.vmr.reports import VMRDataError


def check_regular(file: Path, id: str | None = None) -> None:
    """Check that the path is a regular file, because reading a pipe or a device may block.

    Raises:
        VMRDataError: if it is not, with what it is.
    """
    if file.is_file():
        return
    came = "a folder" if file.is_dir() else "a pipe, socket or device" if file.exists() else "no such file"
    raise VMRDataError(file, id, "be a file", came)


def check_size(file: Path, id: str | None, needed: int, max_bytes: int) -> None:
    """Check that an array of ``needed`` bytes is within the limit or no larger than its file.

    Raises:
        VMRDataError: if not, with both sizes and the option.
    """
    if needed > max(max_bytes, file.stat().st_size):
        rule = f"take at most {size_text(max_bytes)} in memory (`max_bytes` raises the limit)"
        raise VMRDataError(file, id, rule, f"{size_text(needed)} from a file of {size_text(file.stat().st_size)}")


def size_text(count: int) -> str:
    """Bytes as a short text.

    Example:
        >>> size_text(1 << 30), size_text(1500)
        ('1.0 GiB', '1.5 KiB')
    """
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
