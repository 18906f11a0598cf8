"""The public names and signatures are stored in a file, so that every change of them shows in a review.

After a change that is meant::

    python -m tests.test_api_surface

writes ``tests/api_surface.json`` anew; the difference belongs in the same commit, and in the changelog.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType

SURFACE = Path(__file__).with_name("api_surface.json")


def public_modules() -> list[str]:
    """Every module of the package without a leading underscore in its path that declares ``__all__``.

    The one-file-a-loss modules are private places: their names are public as ``mmda.losses.X``; so are the validators.
    """
    import mmda

    names = ["mmda"]
    for found in pkgutil.walk_packages(mmda.__path__, "mmda."):
        parts = found.name.split(".")
        if any(part.startswith("_") for part in parts):
            continue
        if parts[1] in ("losses", "layers", "validators") and len(parts) > 2:
            continue
        names.append(found.name)
    return [name for name in names if hasattr(importlib.import_module(name), "__all__")]


def signature_text(item: object) -> str:
    try:
        text = str(inspect.signature(item))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("'", "")


def describe(item: object) -> str | dict[str, str]:
    """One line for a function or a value; the constructor and public methods for a class."""
    if inspect.isclass(item):
        entry = {"": f"class{signature_text(item)}"}
        # Methods inherited from a private base class count as the class's own.
        bases = [c for c in item.__mro__ if c is item or re.fullmatch(r"mmda\..*\._\w+", c.__module__)]
        members = {name: member for base in reversed(bases) for name, member in vars(base).items()}
        for name, member in sorted(members.items()):
            if name.startswith("_") or name == "extra_repr":
                continue
            if isinstance(member, (classmethod, staticmethod)):
                member = member.__func__
            if inspect.isfunction(member):
                entry[name] = signature_text(member)
            elif isinstance(member, property):
                entry[name] = "property"
        return entry
    if inspect.isfunction(item):
        return f"def{signature_text(item)}"
    if isinstance(item, ModuleType):
        return "module"
    return f"value: {type(item).__name__}"


def surface() -> dict[str, dict[str, str | dict[str, str]]]:
    found = {}
    for name in public_modules():
        module = importlib.import_module(name)
        entries = {export: describe(getattr(module, export)) for export in sorted(module.__all__)}
        if name == "mmda":
            entries["__version__"] = "value: str"
        found[name] = entries
    return found


def text() -> str:
    return json.dumps(surface(), indent=1, sort_keys=True) + "\n"


def flat(tree: dict[str, dict[str, str | dict[str, str]]]) -> dict[str, str]:
    lines = {}
    for module, entries in tree.items():
        for name, entry in entries.items():
            for member, line in ({"": entry} if isinstance(entry, str) else entry).items():
                lines[".".join(filter(None, (module, name, member)))] = line
    return lines


def test_the_public_surface_is_the_reviewed_one() -> None:
    now, then = flat(surface()), flat(json.loads(SURFACE.read_text(encoding="utf-8")))
    changes = [f"removed: {name}" for name in sorted(then.keys() - now.keys())]
    changes += [f"added: {name} {now[name]}" for name in sorted(now.keys() - then.keys())]
    changes += [
        f"changed: {name}\n    was {then[name]}\n    is  {now[name]}"
        for name in sorted(now.keys() & then.keys())
        if now[name] != then[name]
    ]
    assert not changes, "\n".join([*changes, "if this is meant: python -m tests.test_api_surface"])


def test_exports_are_sorted_and_exist() -> None:
    for name in public_modules():
        module = importlib.import_module(name)
        ordered = sorted(module.__all__, key=lambda export: (not export.isupper(), not export[0].isupper(), export))
        assert list(module.__all__) == ordered, (
            f"{name}.__all__ is not sorted (constants, classes, functions): ruff check --fix mmda"
        )
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, export) for export in module.__all__)


def test_one_public_path_a_name() -> None:
    """A class or function is exported once (the top level exports namespaces only)."""
    seen: dict[int, str] = {}
    for name in public_modules():
        module = importlib.import_module(name)
        for export in module.__all__:
            item = getattr(module, export)
            if isinstance(item, ModuleType) or not (inspect.isclass(item) or inspect.isfunction(item)):
                continue
            path = f"{name}.{export}"
            package = next((p for p in (seen.get(id(item)),) if p is not None), None)
            nested = package is not None and (path.startswith(package.rpartition(".")[0] + "."))
            assert package is None or nested, f"{package} and {path} are one thing under two names"
            seen.setdefault(id(item), path)


if __name__ == "__main__":
    import sys

    if __package__ == "tests":  # the module under its own name, not __main__, so that a repr would not differ
        SURFACE.write_text(text(), encoding="utf-8")
        sys.stdout.write(f"wrote {SURFACE}\n")
