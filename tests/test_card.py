"""The card beside synthetic rows: what it says is what is there, and data set libraries can read its header."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from anomgen.augment.card import Facts, write_card
from anomgen.augment.draw import COPY
from anomgen.augment.plots import Samples, column_shapes, contact_sheet
from anomgen.augment.wording import size_category
from anomgen.data import make_payments


def facts(**changed: Any) -> Facts:
    told: dict[str, Any] = {
        "kind": "tabular",
        "rows": 2_000,
        "tried": 2_100,
        "refused": {"band 0.01:0.05": 80, "range amount=0:": 17, COPY: 3},
        "copies": {"checked": True, "found": 3, "allowed": 0.0},
        "family": "FlowDetector",
        "model_digest": "a" * 64,
        "data_digest": "b" * 64,
        "data": "data/train-*",
        "recipe": {
            "seed": 3,
            "band": {"low": 0.01, "high": 0.05, "floor": -60.0, "ceiling": None},
            "constraints": [{"constraint": "range", "column": "amount", "low": 0, "high": None}],
            "near": None,
            "condition": None,
        },
        "versions": {"anomgen": "0.1.0"},
    }
    return {**told, **changed}  # type: ignore[typeddict-item]


def read(card: Path) -> tuple[Any, str]:
    """The header as it is parsed, and the text."""
    _, header, text = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), text


def test_a_folder_gets_a_card_and_the_same_for_programs(tmp_path: Path) -> None:
    card, told = write_card(tmp_path, facts())
    assert (card, told) == (tmp_path / "README.md", tmp_path / "report.json")
    header, text = read(card)
    assert header == {
        "license": "other",
        "tags": ["synthetic", "anomgen", "tabular"],
        "size_categories": ["1K<n<10K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    }
    for part in ("# 2,000 synthetic rows", "FlowDetector", "a" * 64, "b" * 64, "| seed | 3 |", "2,100, of which 2,000"):
        assert part in text
    assert "100: `band 0.01:0.05` 80, `range amount=0:` 17, `copy of a training row` 3" in text
    assert "`amount` at least 0" in text
    assert json.loads(told.read_text()) == {"facts": facts(), "report": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "report.json"]


def test_a_file_gets_its_card_beside_it(tmp_path: Path) -> None:
    written = write_card(tmp_path / "rows.npz", facts(data="rows.npz"))
    assert [path.name for path in written] == ["rows.card.md", "rows.card.json"]
    assert "configs" not in read(written[0])[0]


def test_what_was_not_done_is_said(tmp_path: Path) -> None:
    _, text = read(write_card(tmp_path, facts(copies={"checked": False}))[0])
    assert "Not checked: the training rows were not given" in text
    assert "Not measured: no held-out rows were given" in text
    assert "was not measured" in text.split("## Limits")[1]
    assert "licence is not known" in text
    known = read(write_card(tmp_path, facts(license="mit"))[0])
    assert known[0]["license"] == "mit"
    assert "licence is not known" not in known[1]


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"band": {"low": 0.0, "high": 0.5}}, "within a band of scores"),
        ({"condition": {"class": 1}}, "under one condition"),
        (
            {"near": {"rows": 5, "sha256": "c" * 64, "strength": 0.3, "method": "step", "means": "a step"}},
            "near given ones",
        ),
        ({"kind": "local", "strength": 0.3}, "not examples of real anomalies"),
        ({"constraints": [{"constraint": "levels", "column": "c", "levels": ["x"]}]}, "within the constraints"),
        ({"constraints": [{"constraint": "sum", "total": "t", "parts": ["a"], "solve": "a"}]}, "`a` is computed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_the_limits_follow_from_the_recipe(tmp_path: Path, recipe: dict[str, Any], sentence: str) -> None:
    with_it = read(write_card(tmp_path, facts(recipe={"seed": 0, **recipe}))[0])[1]
    without = read(write_card(tmp_path, facts(recipe={"seed": 0}))[0])[1]
    assert sentence in with_it.split("## Limits")[1]
    assert sentence not in without


@pytest.mark.parametrize(
    ("rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_sizes_have_the_names_that_hubs_know(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_cells_of_tables_are_masked(tmp_path: Path) -> None:
    where = {"constraint": "where", "predicate": "a | b", "name": "where a | b"}
    _, text = read(write_card(tmp_path, facts(recipe={"seed": 0, "constraints": [where]}))[0])
    assert r"a \| b" in text


# ---------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def samples() -> Samples:
    rows = make_payments(600, seed=0)[0][["balance", "hour", "device", "opened"]]
    scores = np.random.default_rng(0).normal(size=(3, 300))
    return Samples(
        {"held_out": rows[:300], "synthetic": rows[300:]},
        dict(zip(("train", "held_out", "synthetic"), scores, strict=True)),
    )


def test_pictures_are_drawn_and_shown(tmp_path: Path, samples: Samples) -> None:
    card, _, *pictures = write_card(tmp_path, facts(), samples=samples)
    assert [path.name for path in pictures] == ["columns.png", "scores.png"]
    assert re.findall(r"!\[.+\]\((.+)\)", card.read_text(encoding="utf-8")) == ["plots/columns.png", "plots/scores.png"]
    for path in pictures:
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    first = [path.read_bytes() for path in pictures]
    write_card(tmp_path, facts(), samples=samples)
    assert [path.read_bytes() for path in pictures] == first
    assert len(write_card(tmp_path / "x", facts(), samples=samples, plots=False)) == 2


def test_every_column_is_shown_once_and_the_least_alike_first(samples: Samples) -> None:
    names = list(samples.rows["held_out"])
    alike = dict(zip(names, np.linspace(1.0, 0.5, len(names)), strict=True))
    figure = column_shapes(samples.rows, alike)
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert [title.split()[0] for title in titles] == names[::-1]
    wide = {name: pd.DataFrame(np.random.default_rng(0).normal(size=(50, 30))) for name in samples.rows}
    figure = column_shapes(wide)
    assert sum(axis.get_visible() for axis in figure.axes) == 24
    assert any("24 least alike of 30" in text.get_text() for text in figure.texts)


@pytest.mark.parametrize("days", [0.1, 9, 90, 900, 4000])
def test_an_axis_of_dates_has_two_marks_at_least(days: float) -> None:
    dates = pd.DataFrame({"day": pd.Timestamp("2012-12-30") + pd.to_timedelta(np.linspace(0, days, 50), unit="D")})
    axis = column_shapes({"held_out": dates, "synthetic": dates}).axes[0]
    low, high = axis.get_xlim()
    assert sum(low <= mark <= high for mark in axis.get_xticks()) >= 2


def test_a_contact_sheet_has_real_images_beside_synthetic_ones() -> None:
    images = np.random.default_rng(0).integers(0, 255, size=(5, 3, 6, 4), dtype=np.uint8)
    real, synthetic = contact_sheet({"held_out": images, "synthetic": images[:2]}).axes
    assert (real.get_title(), synthetic.get_title()) == ("real, held out", "synthetic")
    shown = np.asarray(real.images[0].get_array())
    assert np.array_equal(shown[:6, 5:9], images[1].transpose(1, 2, 0))
