"""Imports go one way, no loss imports another, and ``import mmda.losses`` loads nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mmda"

#: From the bottom up: a module may import from its own line and from the lines above it in this list.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("_core",),
    ("kernels",),
    ("_engine",),
    ("_math",),
    ("layers",),
    ("losses",),
    (
        "distributed",
        "linear",
        "metrics",
        "migration",
        "objectives",
        "plots",
        "schedules",
        "shift",
        "two_sample",
        "validators",
    ),
    ("vmr",),
    ("models",),
    ("cli", "__main__"),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """``mmda.losses.mmd`` -> ``losses``."""
    return module.split(".")[1] if "." in module else ""


def floor_of(part: str) -> int:
    for height, names in enumerate(FLOORS):
        if part in names:
            return height
    raise AssertionError(f"mmda.{part} stands on no floor: add it to FLOORS in tests/test_architecture.py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that the file imports anywhere, inside functions too, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                place = ROOT / Path(*inner.split("."))
                is_module = place.is_dir() or any(place.with_suffix(end).exists() for end in (".py", ".pyi"))
                yield (inner if is_module else node.module), node.lineno


def lines_read(*modules: str) -> int:
    """Lines of the modules that the first one and the others import, transitively, and of the others."""
    waiting, seen = list(modules), dict[str, int]()
    while waiting:
        path = (ROOT / Path(*(name := waiting.pop()).split("."))).with_suffix(".py")
        if name not in seen and name.startswith("mmda") and path.exists():  # not the packages' __init__
            seen[name] = len(path.read_text(encoding="utf-8").splitlines())
            waiting += [other for other, _ in imports_of(path)]
    return sum(seen.values()) - seen[modules[0]]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    module = name_of(path)
    own = part_of(module)
    if not own:  # the package's __init__ imports the public namespaces
        loaded = {part_of(name) for name, _ in imports_of(path) if name.startswith("mmda.")}
        assert not loaded & {"models", "vmr"}, "import mmda must load neither mmda.models nor mmda.vmr"
        return
    for name, line in imports_of(path):
        if name.split(".")[0] != "mmda":
            assert name.split(".")[0] not in ("tests", "examples", "benchmarks"), f"{path}:{line} imports {name}"
            continue
        part = part_of(name)
        assert part, f"{path}:{line} imports the whole package"
        assert floor_of(part) <= floor_of(own), (
            f"{path}:{line}: {module} may not import {name}: it lies above; what both need belongs in mmda/_math"
        )


@pytest.mark.parametrize("path", sorted((PACKAGE / "losses").glob("*.py")), ids=name_of)
def test_no_loss_imports_another(path: Path) -> None:
    if path.name == "__init__.py":
        return
    for name, line in imports_of(path):
        other = name.removeprefix("mmda.losses.")
        allowed = not name.startswith("mmda.losses") or other.startswith("_")
        assert allowed, f"{path}:{line} imports {name}: shared mathematics belongs in a private module below"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_public_name_never_equals_its_file(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert path.stem not in names


#: Loaded only when a user imports them by name.
ON_DEMAND = ("mmda.models", "mmda.vmr", "mmda.migration", "mmda.shift")


@pytest.mark.parametrize("module", ["mmda", "mmda.losses", "mmda.layers"])
def test_importing_the_losses_is_light_and_silent(module: str) -> None:
    """A fresh interpreter, warnings as errors (torch's own import aside): nothing but itself is loaded.

    Not one further module of another project: neither scipy, h5py and their like nor the parts of torch that
    ``import torch`` leaves out, of which the compiler alone takes longer than all of this package.
    """
    code = (
        "import sys, torch, numpy, einops, warnings\n"
        "before = set(sys.modules)\n"
        "warnings.simplefilter('error')\n"
        f"import {module}\n"
        f"on_demand = {ON_DEMAND!r}\n"
        "new = set(sys.modules) - before\n"
        "own = {m for m in new if m.split('.')[0] == 'mmda'}\n"
        "foreign = {m for m in new - own if m.split('.')[0] not in sys.stdlib_module_names}\n"
        "print(*sorted(foreign | {m for m in own if m.startswith(on_demand)}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:mmda", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.split() == []


def test_what_a_visitor_sees_first_is_public() -> None:
    """Apart from three private folders and the version, everything in the package's folder is public."""
    shown = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    private = {name for name in shown if name.startswith("_") and not name.startswith("__")}
    assert private == {"_core", "_engine", "_math"}, "private modules live in _core, _math or _engine"
    assert len(shown) <= 22, f"{len(shown)} entries: {sorted(shown)}"


if __name__ == "__main__":  # the table in docs/design.rst
    print("coral_loss", lines_read("mmda.losses.coral"))
    print("info_nce_loss", lines_read("mmda.losses.info_nce"))
    print("with its passes", lines_read("mmda.losses.info_nce", "mmda._engine.info_nce_sweep"))
