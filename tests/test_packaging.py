"""What is shipped, and what the make targets do and say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import anomgen

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPO)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names} == {"anomgen", f"anomgen-{anomgen.__version__}.dist-info"}
    sources = {path.relative_to(REPO).as_posix() for path in (REPO / "anomgen").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert "anomgen/py.typed" in names


def test_the_wheel_carries_the_cards(wheel: zipfile.ZipFile) -> None:
    cards = {path.name for path in (REPO / "datasets").glob("*.toml")}
    assert "breast_cancer.toml" in cards
    assert {name.split("/")[-1] for name in wheel.namelist() if name.startswith("anomgen/cards/")} == cards


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"anomgen-{anomgen.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "anomgen = anomgen.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_data_sets_hold_no_python() -> None:
    """An importable ``datasets`` would shadow another well-known package for whoever works in this folder."""
    assert not list((REPO / "datasets").rglob("*.py"))


def test_constraints_pin_a_version_inside_every_range() -> None:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    asked = [
        *PROJECT["dependencies"],
        *(entry for extra in PROJECT["optional-dependencies"].values() for entry in extra),
    ]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(Version(pins[requirement.name])), f"{requirement} against {pins}"
    assert set(pins) == {Requirement(entry).name for entry in asked}


def test_one_version_everywhere() -> None:
    changelog = re.search(r"^## \[(\d\S*)\]", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = re.search(r"^version: (\S+)", (REPO / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert changelog is not None
    assert citation is not None
    assert changelog[1] == citation[1] == anomgen.__version__


def make(folder: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Makefile in an empty folder with a stand-in for Python, given as the lines of a shell script."""
    shutil.copy(REPO / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        if not (folder / name).exists():
            (folder / name).touch()
    stand_in = folder / "python-here"
    stand_in.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
    stand_in.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", f"PYTHON={stand_in}", *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


def test_make_names_the_missing_system_package(tmp_path: Path) -> None:
    done = make(tmp_path, f'[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && exit 1\nexec {sys.executable} "$@"', "demo")
    assert done.returncode != 0
    assert "sudo apt-get install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_names_the_python_that_is_too_old(tmp_path: Path) -> None:
    done = make(tmp_path, '[ "$1" = -V ] && echo "Python 3.9.2"\nexit 1', "test")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.2" in done.stderr


def test_make_installs_once_and_again_when_the_versions_change(tmp_path: Path) -> None:
    installs = tmp_path / "installs"
    python = f"""
if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/bin/pip; fi
if [ "$2" = pip ]; then echo "$@" >> {installs}; fi"""
    for _ in range(2):
        done = make(tmp_path, python, "test", "demo")
        assert done.returncode == 0, done.stderr
    assert installs.read_text(encoding="utf-8").count("-c constraints.txt -e .[test]") == 1
    assert installs.read_text(encoding="utf-8").count("\n") == 1
    later = (tmp_path / ".venv" / ".installed").stat().st_mtime + 1
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert make(tmp_path, python, "demo").returncode == 0
    assert installs.read_text(encoding="utf-8").count("\n") == 2
