"""Every exported name has a docstring of the project's form, working examples, and an entry in the API pages."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.test_api_surface import public_modules

ROOT = Path(__file__).resolve().parent.parent
API_PAGES = ROOT / "docs" / "api"

#: The sections of a docstring, in order.
SECTIONS = ("Args", "Attributes", "Shape", "Returns", "Yields", "Raises", "Warns", "Notes", "Example", "References")


def exported() -> list[tuple[str, object]]:
    seen: dict[int, tuple[str, object]] = {}
    for module in public_modules():
        for name in importlib.import_module(module).__all__:
            item = getattr(importlib.import_module(module), name)
            if inspect.isclass(item) or inspect.isfunction(item):
                seen.setdefault(id(item), (f"{module}.{name}", item))
    return sorted(seen.values(), key=lambda entry: entry[0])


EXPORTED = exported()
FUNCTIONS = [(path, item) for path, item in EXPORTED if inspect.isfunction(item)]
CLASSES = [(path, item) for path, item in EXPORTED if inspect.isclass(item)]


def ids(entry: object) -> str | None:
    return entry if isinstance(entry, str) else ""


def parametrize(entries: list[tuple[str, object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("item", [pytest.param(item, id=path) for path, item in entries])


def docstring(item: object) -> str:
    text = item.__doc__
    assert text, f"{item} has no docstring"
    return inspect.cleandoc(text)


def sections(item: object) -> dict[str, str]:
    """Section titles and their texts, in the order of the docstring."""
    found: dict[str, str] = {}
    current = None
    for line in docstring(item).splitlines():
        heading = re.fullmatch(r"([A-Z][a-z]+):", line)
        if heading and heading[1] in SECTIONS:
            current = heading[1]
            found[current] = ""
        elif current is not None:
            found[current] += line + "\n"
    return found


def entries(text: str) -> set[str]:
    """The names that a section's entries begin with: ``name: ...`` or ``a, b: ...`` at its own indent."""
    names: set[str] = set()
    for line in text.splitlines():
        found = re.match(r"^ {4}([*`\w][\w*`, ]*?):(?:\s|$)", line)
        if found:
            names |= {name.strip("*` ") for name in found[1].split(",")}
    return names


@parametrize(EXPORTED)
def test_opens_with_one_line(item: object) -> None:
    lines = docstring(item).splitlines()
    assert lines[0].rstrip().endswith((".", "?")), f"the first line is no sentence: {lines[0]!r}"
    assert len(lines) == 1 or lines[1] == "", "the summary is one line, then a blank one"


@parametrize(EXPORTED)
def test_sections_keep_their_order(item: object) -> None:
    order = [SECTIONS.index(name) for name in sections(item)]
    assert order == sorted(order), f"sections in the order {list(sections(item))}"


@parametrize(FUNCTIONS)
def test_functions_document_every_parameter(item: object) -> None:
    parameters = inspect.signature(item).parameters  # type: ignore[arg-type]
    if parameters:
        assert entries(sections(item).get("Args", "")) == set(parameters)


@parametrize(FUNCTIONS)
def test_functions_say_what_returns_what_raises_and_show_it(item: object) -> None:
    there = sections(item)
    missing = [name for name in ("Returns", "Example") if name not in there]
    source = inspect.getsource(item)  # type: ignore[arg-type]
    if re.search(r"\b(check_\w+|fail(_type)?)\(|\braise ", source):
        missing += [] if "Raises" in there else ["Raises"]
    assert not missing, f"missing: {missing}"
    assert ">>>" in there["Example"]


@parametrize(CLASSES)
def test_classes_document_their_constructor(item: object) -> None:
    own = vars(item).get("__init__")
    if own is None or not inspect.isfunction(own) or getattr(item, "_is_protocol", False):
        return
    if not inspect.getsource(item).strip():  # type: ignore[arg-type]
        return
    parameters = set(list(inspect.signature(own).parameters)[1:])
    there = sections(item)
    named = entries(there.get("Args", "")) | entries(there.get("Attributes", ""))
    assert parameters <= named, f"undocumented: {sorted(parameters - named)}"


@parametrize([(path, item) for path, item in CLASSES if issubclass(item, torch.nn.Module)])  # type: ignore[arg-type]
def test_modules_show_an_example(item: object) -> None:
    assert ">>>" in sections(item).get("Example", "")


def modules_of_the_package() -> list[str]:
    return sorted({inspect.getmodule(item).__name__ for _, item in EXPORTED})  # type: ignore[union-attr]


@pytest.mark.parametrize("name", modules_of_the_package())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``>>>`` line of the module's docstrings prints what is written below it; no names are shared."""
    monkeypatch.chdir(tmp_path)  # files written by an example must not be visible to other runs
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        torch.manual_seed(0)
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def api_text() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(API_PAGES.glob("*.rst")))


@pytest.mark.skipif(not API_PAGES.is_dir(), reason="no docs/api in this checkout")
@parametrize(EXPORTED)
def test_has_a_place_in_the_api_pages(item: object) -> None:
    """By name, through an ``automodule`` of the module that defines it, or, a loss's module, on its function's page."""
    name, module = item.__name__, item.__module__  # type: ignore[attr-defined]
    text = api_text()
    if isinstance(item, type) and issubclass(item, torch.nn.Module):
        shared = [n for n in re.findall(r"^   (\w+)$", text, re.MULTILINE) if n.replace("_", "") == name.lower()]
        name = shared[0] if shared else name
    whole = re.search(rf"automodule:: {re.escape(module)}\s*$", text, re.MULTILINE)
    assert whole or re.search(rf"\b{re.escape(name)}\b", text), (
        f"no page under docs/api mentions {name}: add it to the autosummary list of its family"
    )


def test_namespaces_are_documented() -> None:
    for name in public_modules():
        module: ModuleType = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
