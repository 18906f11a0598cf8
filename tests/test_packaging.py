"""The distributions contain what they need and nothing else, and can be built without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from mmda._engine import native

ROOT = Path(__file__).resolve().parent.parent


def tracked() -> list[str]:
    """The repository's files that exist in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).exists())


def build(kind: str, source: Path, out: Path) -> Path:
    """One distribution, built as by a build frontend, with the installed packages and no compiler."""
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env={**os.environ, "CC": "/bin/false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


def test_distributions(tmp_path: Path) -> None:
    """The source distribution is the repository; the wheel built from it is the package, and works."""
    files = tracked()
    for name in files:
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    with tarfile.open(build("sdist", tmp_path / "clone", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("torch_mmda-*")
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in held if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert held - made == {*files}, "MANIFEST.in names what the source distribution holds"

    wheel = build("wheel", unpacked, tmp_path / "wheel")
    assert wheel.name.split("-")[2:4] == ["cp310", "abi3"]
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        beside = {name.rpartition(".dist-info/")[2] for name in archive.namelist()} - held
        archive.extractall(tmp_path / "installed")
    wanted = {name for name in files if name.startswith("mmda/") and not name.endswith((".c", ".h"))}
    assert held == wanted, "package-data in pyproject.toml names what the wheel holds beside modules"
    assert beside == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    shown = subprocess.run(
        [sys.executable, "-c", "import mmda.losses; print(mmda.__file__, mmda.instruction_set())"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == [str(tmp_path / "installed" / "mmda" / "__init__.py"), "None"]


@pytest.mark.skipif(native._sweeps is None, reason="the loops were not compiled here")
@pytest.mark.skipif(os.name == "nt", reason="the name says nothing there")
def test_one_build_serves_every_python() -> None:
    assert native._sweeps.__file__.endswith("_sweeps.abi3.so"), "python -m pip install -e . compiles it anew"
