"""Parsing of text, JSON and CSV files, with one-line errors that name file, id and rule."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from mmda.vmr.annotations.queries import Window
from mmda.vmr.disk import check_regular
from mmda.vmr.reports import VMRDataError


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """Open a regular file of UTF-8 text, with or without a byte-order mark; errors name the file."""
    if file.exists():
        check_regular(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except FileNotFoundError:
        raise VMRDataError(file, None, "exist", "no such file") from None
    except UnicodeDecodeError as error:
        raise VMRDataError(file, None, "be UTF-8 text", error) from None
    except csv.Error as error:
        raise VMRDataError(file, None, "be rows of comma-separated values", error) from None


def load_json(file: Path) -> Any:
    """The content of a JSON file without repeated outermost keys."""
    with open_text(file) as stream:
        return parse_json(stream.read(), file)


class _Twice(dict[str, Any]):
    """A JSON object with a repeated key, which raises only when it is used."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def parse_json(text: str, file: Path, id: str | None = None) -> Any:
    """The value of a JSON text without repeated outermost keys."""

    def unite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        united = dict(pairs)
        return united if len(united) == len(pairs) else _Twice(pairs)

    try:
        # int() rejects thousands of digits; as a float such a number is infinite, which the readers report
        value = json.loads(text, object_pairs_hook=unite, parse_int=lambda d: int(d) if len(d) < 300 else float(d))
    except json.JSONDecodeError as error:
        raise VMRDataError(file, id, "be valid JSON", error) from None
    except RecursionError:
        raise VMRDataError(file, id, "be valid JSON", "brackets nested too deep") from None
    return once(file, id, value)


def once(file: Path, id: str | None, value: Any) -> Any:
    if isinstance(value, _Twice):
        raise VMRDataError(file, id, f"have the key `{value.key}` once", "it twice")
    return value


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_name(file: Path, id: str | None, name: str, value: object) -> str:
    """A video or query id: text, or an integer converted to text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise VMRDataError(file, id, f"have a name as `{name}`", shown(value))
    return str(value)


def as_text(file: Path, id: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise VMRDataError(file, id, f"have text as `{name}`", shown(value))
    return value


def as_mapping(file: Path, id: str | None, rule: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise VMRDataError(file, id, rule, type(value).__name__)
    return cast("dict[str, Any]", once(file, id, value))


def table_rows(file: Path, stream: TextIO, *columns: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, checked to have these columns."""
    reader = csv.DictReader(stream)
    if not set(columns) <= set(reader.fieldnames or ()):
        raise VMRDataError(file, None, f"have the columns {', '.join(columns)}", ", ".join(reader.fieldnames or ()))
    try:
        for row in reader:
            missing = [column for column in columns if row.get(column) is None]
            if missing:
                rule = f"have the columns {', '.join(columns)}"
                raise VMRDataError(file, f"line {reader.line_num}", rule, f"no {', '.join(missing)}")
            yield row
    except csv.Error as error:
        rule = "be a row of comma-separated values"
        raise VMRDataError(file, f"line {reader.line_num + 1}", rule, error) from None


def as_number(file: Path, id: str, name: str, value: object) -> float:
    if isinstance(value, bool):
        raise VMRDataError(file, id, f"have a number as `{name}`", value)
    try:
        return float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise VMRDataError(file, id, f"have a number as `{name}`", shown(value)) from None


def as_windows(file: Path, id: str, name: str, value: object) -> tuple[Window, ...]:
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise VMRDataError(file, id, f"have a list of [start, end] as `{name}`", shown(value))
    return tuple((as_number(file, id, name, start), as_number(file, id, name, end)) for start, end in value)
