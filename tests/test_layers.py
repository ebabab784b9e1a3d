"""The shape of the package: who may import whom, what an import costs, and what every public name owes its reader."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import anomgen

ROOT = Path(anomgen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = {
    "runtime": 0,
    "nn": 0,
    "generative": 0,
    "encode": 0,
    "persist": 0,
    "statistic": 1,
    "train": 1,
    "calibrate": 1,
    "drift": 1,
    "explain": 1,
    "data": 1,
    "jobs": 1,
    "detector": 2,
    "quality": 2,
    "families": 3,
    "diagnosis": 4,
    "tracking": 4,
    "batch": 4,
    "augment": 4,
    "__init__": 5,
    "cli": 6,
}

# Packages that only these modules may name.
ONLY_IN = {"mlflow": {"tracking"}, "cyclopts": {"cli"}, "ray": {"batch"}, "imblearn": {"augment"}}
# Public names that need one of these.
WITH_EXTRA = {"GenerativeOverSampler"}
# Modules that must work without these packages.
WITHOUT = {"encode": {"torch", "sklearn"}, "persist": {"sklearn"}, "calibrate": {"torch", "sklearn"}}


def module_of(path: Path) -> str:
    """The top-level module a file belongs to: ``encode/table.py`` is part of ``encode``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in a file, deferred and type-only ones included; names made absolute."""
    package = ["anomgen", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def ours(name: str) -> str | None:
    """The top-level module of the package that an import reaches, or None for another package."""
    parts = name.split(".")
    if parts[0] != "anomgen":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"


def test_every_module_has_a_layer() -> None:
    assert {module_of(path) for path in FILES} <= set(LAYERS), "a new module: give it a layer here and in the design"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    here = module_of(path)
    for line, name in imports(path):
        there = ours(name)
        if there in (None, here):
            continue
        below = LAYERS[there] < LAYERS[here] or LAYERS[there] == LAYERS[here] == 0
        assert below, f"{path}:{line} imports {name}: {here} is layer {LAYERS[here]}, {there} is {LAYERS[there]}"


def test_the_lowest_layer_has_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if LAYERS.get(module_of(path)) == 0:
            reached = {ours(name) for _, name in imports(path)} - {None, module_of(path)}
            graph.setdefault(module_of(path), set()).update(str(name) for name in reached)
    assert tuple(TopologicalSorter(graph).static_order())


def test_families_do_not_know_each_other() -> None:
    folder = ROOT / "families"
    of = {path: path.relative_to(folder).parts[0].removesuffix(".py") for path in folder.rglob("*.py")}
    for path, family in of.items():
        others = {f"anomgen.families.{other}" for other in of.values()} - {f"anomgen.families.{family}"}
        for line, name in imports(path) if family != "__init__" else ():
            assert not any(f"{name}.".startswith(f"{other}.") for other in others), f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_stay_where_they_belong(path: Path) -> None:
    here = module_of(path)
    for line, name in imports(path):
        package = name.split(".")[0]
        assert here in ONLY_IN.get(package, {here}), f"{path}:{line}: only {ONLY_IN[package]} may name {package}"
        assert package not in WITHOUT.get(here, ()), f"{path}:{line}: {here} must work without {package}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_short_and_silent(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines: split it into a package"
    if module_of(path) != "cli":
        prints = [
            node.lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert not prints, f"{path} prints on lines {prints}; only the command line prints"


def test_import_is_cheap() -> None:
    code = "import sys, anomgen; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "sklearn", "mlflow", "pandas", "numpy", "scipy", "pyarrow", "cyclopts", "rich"} & set(loaded)


@pytest.mark.parametrize("name", sorted({*anomgen.__all__, *anomgen._homes}))
def test_public_names_resolve_and_are_documented(name: str) -> None:
    value = getattr(anomgen, name)
    assert name in dir(anomgen)
    if name != "__version__":
        assert value.__doc__, f"anomgen.{name} has no docstring"
        assert value.__name__.split(".")[-1] == name


def test_lazy_names_are_the_public_names() -> None:
    typed = {
        (name, home)
        for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for name, home in [(statement.names[0].name, statement.module)]
    }
    assert typed == set(anomgen._homes.items())
    assert set(anomgen.__all__) == {*anomgen._homes, "__version__"} - WITH_EXTRA


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Flow'"):
        _ = anomgen.Flow
