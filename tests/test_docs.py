"""What the documentation shows runs as shown, and nothing public is left out of it."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import anomgen
from anomgen.quality import quality_report
from anomgen.statistic import STATISTICS
from tests.toys import FAMILIES

REPO = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path for path in (REPO / "anomgen").rglob("*.py") if ">>>" in path.read_text(encoding="utf-8"))

EXERCISE = """
import sys
import numpy as np
import anomgen
from anomgen import families

detector = families.get("independent")(max_epochs=30, random_state=0)
X = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 10.0]
scores = detector.fit(X).score_samples(X)
exact = -0.5 * (X[:, 0] ** 2 + (X[:, 1] / 10) ** 2) - np.log(2 * np.pi * 10)
assert np.abs(scores - exact).mean() < 0.2, np.abs(scores - exact).mean()
assert detector.sample(7).shape == (7, 2)
detector.save("saved")
assert np.array_equal(anomgen.load("saved").score_samples(X), scores)
assert not np.array_equal(detector.set_params(narrowest=3.0).fit(X).score_samples(X), scores)
"""


def run_python(code: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:anomgen", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPO / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_worked_example_of_contributing_is_a_family(tmp_path: Path) -> None:
    name = re.search(r"saved as `anomgen/(families/\w+\.py)`", (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert name is not None
    shutil.copytree(REPO / "anomgen", tmp_path / "anomgen", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "anomgen" / name[1]).write_text(python_blocks("CONTRIBUTING.md")[0], encoding="utf-8")
    run_python(EXERCISE, tmp_path, PYTHONPATH=str(tmp_path))


def test_getting_started_runs(template_db: Path, tmp_path: Path) -> None:
    shutil.copyfile(template_db, tmp_path / "mlflow.db")
    run_python("\n".join(python_blocks("docs/getting-started.md")), tmp_path)
    assert (tmp_path / "model" / "SHA256SUMS").is_file()


def test_the_page_on_mlflow_runs(template_db: Path, tmp_path: Path) -> None:
    shutil.copyfile(template_db, tmp_path / "mlflow.db")
    run_python("\n".join(python_blocks("docs/mlflow.md")), tmp_path)
    assert (tmp_path / "scores" / "_SUCCESS").is_file()


def test_the_tour_of_the_families_runs(tmp_path: Path) -> None:
    run_python("\n".join(python_blocks("docs/families.md")), tmp_path)


def test_the_guide_to_decisions_runs(tmp_path: Path) -> None:
    run_python("\n".join(python_blocks("docs/calibration.md")), tmp_path)


def test_the_guide_to_drift_runs(tmp_path: Path) -> None:
    run_python("\n".join(python_blocks("docs/drift.md")), tmp_path)


def test_the_guide_to_more_rows_runs(tmp_path: Path) -> None:
    run_python("\n".join(python_blocks("docs/augmentation.md")), tmp_path)
    assert (tmp_path / "synthetic" / "_SUCCESS").is_file()
    assert len(list((tmp_path / "synthetic" / "plots").glob("*.png"))) == 4


def test_the_guide_to_more_rows_names_every_measure(numbers: np.ndarray) -> None:
    page = (REPO / "docs" / "augmentation.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (`.*?`) \| .*\?", page.split("## Evidence")[1], re.MULTILINE)
    named = {name for line in lines for name in re.findall(r"`(\w+)`", line)}
    scores = {"train": numbers[:100, 0], "held_out": numbers[100:200, 0]}
    report = quality_report(numbers[300:], numbers[100:200], train=numbers[:100], target="x0", scores=scores)
    beside = {"transfer_synthetic", "transfer_real", "closest_nearer_half", "copies_held_out"}
    assert named == report.metrics().keys() - beside


def test_the_tour_of_images_runs(tmp_path: Path) -> None:
    run_python("\n".join(python_blocks("docs/images.md")), tmp_path)
    assert len(list((tmp_path / "maps").glob("*.png"))) == 5


def test_the_tour_of_images_names_every_statistic() -> None:
    page = (REPO / "docs" / "images.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `\"(\w+)\"`", page, re.MULTILINE)) == set(STATISTICS) - {"energy", "discriminator"}


def test_the_tour_names_every_family() -> None:
    page = (REPO / "docs" / "families.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+Detector)`", page, re.MULTILINE)) == set(FAMILIES)


def test_every_public_name_is_in_the_reference() -> None:
    reference = (REPO / "docs" / "api.rst").read_text(encoding="utf-8")
    for name in set(anomgen._homes):
        entry = rf"^\.\. auto\w+:: (anomgen\.)?{name}$"
        assert re.search(entry, reference, re.MULTILINE), f"{name} is not in docs/api.rst"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_examples_in_docstrings_run(path: Path) -> None:
    name = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
    failed, tried = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert not failed
