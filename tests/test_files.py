"""Files are complete or absent if the process dies, errors name the file, and checksums are verified on reading."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmda._core import files


class KilledError(BaseException):
    """Simulates the death of the process."""


class System:
    """``os`` with one failing call: the process dies there (later calls do nothing), or the call raises."""

    CALLS = ("open", "write", "fsync", "close", "replace", "unlink")

    def __init__(self, at: int, *, after: bool = False, error: OSError | None = None) -> None:
        self.at, self.after, self.error = at, after, error
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.guarded(real, name) if name in self.CALLS else real

    def guarded(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.count += 1
            dead = self.error is None and self.count > self.at
            if dead:
                raise KilledError
            if self.count != self.at:
                return real(*arguments)
            if self.error is not None:
                raise self.error
            if name == "write":  # half of the bytes are on disk
                real(arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)])
            elif self.after:
                real(*arguments)
            raise KilledError

        return call


@pytest.mark.parametrize("old", [None, b"the old content"])
@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_call_leaves_the_old_file_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None, after: bool
) -> None:
    path, new, deaths = tmp_path / "file", b"the new content" * 100, 0
    for at in range(1, 100):
        if old is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(old)
        monkeypatch.setattr(files, "os", System(at, after=after))
        try:
            files.write_file(path, new)
        except KilledError:
            deaths += 1
        else:
            break
        finally:
            monkeypatch.undo()
        found = path.read_bytes() if path.exists() else None
        assert found in (old, new)
    assert deaths >= 5
    assert path.read_bytes() == new


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for at in range(1, 5):  # open, write, fsync, close: later calls do not write
        monkeypatch.setattr(files, "os", System(at, error=OSError(code, os.strerror(code))))
        with pytest.raises(OSError, match=r"file'$") as caught:
            files.write_file(path, b"new")
        monkeypatch.undo()
        assert (caught.value.errno, caught.value.filename) == (code, str(path))
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_of_the_system_itself(tmp_path: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        full.write(b"x")  # what the fake above simulates


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    files.write_file(tmp_path / "ours", b"x")
    (tmp_path / "theirs").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="a pipe, socket or device"):
            files.read_file(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        files.read_file(tmp_path)


def test_a_record_knows_every_bit_of_it() -> None:
    whole = files.sealed_json(json.dumps({"a": [1, 2.5], "b": {"c": "}"}}))
    assert json.loads(whole)["a"] == [1, 2.5]  # valid JSON for other readers as well
    text = files.unsealed_json(whole)
    assert text is not None
    assert json.loads(text) == {"a": [1, 2.5], "b": {"c": "}"}}
    for at in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        assert files.unsealed_json(bytes(damaged)) is None
    for cut in range(len(whole)):
        assert files.unsealed_json(whole[:cut]) is None


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), min_size=1))
def test_any_record_comes_back(content: dict[str, Any]) -> None:
    text = files.unsealed_json(files.sealed_json(json.dumps(content)))
    assert text is not None
    assert json.loads(text) == content


def test_lines_are_verified_where_a_digest_lies_beside(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    files.write_lines_file(path, b'{"qid": 1}\n')
    assert files.read_lines_file(path) == b'{"qid": 1}\n'
    path.write_bytes(b'{"qid": 3}\n')
    with pytest.raises(ValueError, match=r"lines\.jsonl: must be the file that lines\.jsonl\.sha256 was written for"):
        files.read_lines_file(path)
    (tmp_path / "lines.jsonl.sha256").unlink()
    assert files.read_lines_file(path) == b'{"qid": 3}\n'  # a file without a checksum, written by another program
    files.write_lines_file(path, b"new\n")
    assert files.read_lines_file(path) == b"new\n"


@pytest.mark.skipif(os.name == "nt", reason="links and devices")
def test_a_link_stays_one_and_a_device_is_not_replaced(tmp_path: Path) -> None:
    """Renaming a file onto ``/dev/null`` would replace the device."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    for content in (b"new", b"newer"):
        files.write_file(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "file").read_bytes() == content
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in (("pipe", "device"), ("null", "device"), ("loop", "symbolic links"), ("disk", "directory")):
        with pytest.raises(OSError, match=rf"{message}.*{name}'$"):
            files.write_file(tmp_path / name, b"new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "file", "link", "loop", "null", "pipe"]


def test_only_line_feeds_end_a_line() -> None:
    """JSON lines may contain the other characters at which ``str.splitlines`` splits."""
    inside = "a\u2028b\u2029c\x85d\x0be\x0cf"
    assert files.text_lines(f"{inside}\r\n\n{inside}\n") == [inside, "", inside]
    assert files.text_lines("") == []
