"""What a scoring job decides and tells beside the scores: p-values, selections, reasons, bad rows, drift, events."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomgen import AutoregressiveDetector, MixtureDetector, batch
from anomgen.explain import top_contributors

COLUMNS = list("abc")


def rows_of(n: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3)) + shift, columns=COLUMNS)


def results(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)


@pytest.fixture(scope="module")
def detector() -> MixtureDetector:
    fitted = MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows_of(2000, 0))
    return fitted.calibrate(rows_of(500, 1))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """700 rows in two files, 20 of them far out."""
    frame = rows_of(700, 2)
    frame.loc[:19] += 7.0
    frame[:400].to_parquet(tmp_path / "one.parquet", row_group_size=90)
    frame[400:].to_csv(tmp_path / "two.csv", index=False)
    return [tmp_path / "one.parquet", tmp_path / "two.csv"]


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """2,000 rows of which 20 cannot be scored."""
    frame = rows_of(2000, 3).assign(id=np.arange(2000))
    frame.loc[99::100, "b"] = np.inf
    frame.to_csv(tmp_path / "spoilt.csv", index=False)
    return tmp_path / "spoilt.csv"


# ---------------------------------------------------------------------- p-values and selections


def test_a_calibrated_detector_tells_p_values(detector: MixtureDetector, files: list[Path], tmp_path: Path) -> None:
    batch.score_files(detector, files, tmp_path / "out")
    found = results(tmp_path / "out")
    rows = rows_of(700, 2)
    rows[:20] += 7.0
    assert list(found.columns) == ["row", "source", "score", "p_value", "is_anomaly"]
    np.testing.assert_array_equal(found["p_value"], detector.p_values(rows))
    np.testing.assert_array_equal(found["is_anomaly"], detector.predict(rows) < 0)


@pytest.mark.parametrize("fdr", [0.1, 0.3])
def test_the_selection_is_that_of_all_rows_at_once(
    detector: MixtureDetector, files: list[Path], tmp_path: Path, fdr: float
) -> None:
    summary = batch.score_files(detector, files, tmp_path / "out", fdr=fdr, part_rows=150)
    found = results(tmp_path / "out")
    rows = rows_of(700, 2)
    rows[:20] += 7.0
    np.testing.assert_array_equal(found["selected"], detector.select(rows, fdr))
    assert found["selected"][:20].all()
    assert summary.selected == found["selected"].sum() >= 20
    assert summary.p_cutoff == found["p_value"][found["selected"]].max()
    lines = [json.loads(line) for line in (tmp_path / "out" / "_manifest.ndjson").read_text().splitlines()]
    cutoff = next(line["cutoff"] for line in lines if "cutoff" in line)
    assert (cutoff["fdr"], cutoff["calibration_rows"], cutoff["rows"]) == (fdr, 500, 700)
    assert cutoff["selected"] == summary.selected


def test_p_values_across_folds(files: list[Path], tmp_path: Path) -> None:
    rows = rows_of(200, 0)
    detector = MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows).calibrate(rows, folds=3)
    batch.score_files(detector, files, tmp_path / "out", fdr=0.2)
    new = rows_of(700, 2)
    new[:20] += 7.0
    np.testing.assert_array_equal(results(tmp_path / "out")["p_value"], detector.p_values(new))
    np.testing.assert_array_equal(results(tmp_path / "out")["selected"], detector.select(new, 0.2))


def test_too_few_calibration_rows_are_told(files: list[Path], tmp_path: Path) -> None:
    detector = MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows_of(500, 0))
    with pytest.warns(UserWarning, match="calibrated on 20 rows"):
        detector.calibrate(rows_of(20, 1))
    with pytest.warns(UserWarning, match="calibration rows are enough for") as told:
        summary = batch.score_files(detector, files, tmp_path / "out", fdr=0.01)
    assert Path(told[0].filename) == Path(__file__)
    assert (summary.selected, summary.p_cutoff) == (0, 0.0)
    assert not results(tmp_path / "out")["selected"].any()


def test_nothing_is_selected_without_calibration(files: list[Path], tmp_path: Path) -> None:
    plain = MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows_of(200, 0))
    with pytest.raises(ValueError, match=r"not calibrated: call detector\.calibrate\(X_normal\)"):
        batch.score_files(plain, files, tmp_path / "out", fdr=0.1)
    assert not (tmp_path / "out").exists()
    summary = batch.score_files(plain, files, tmp_path / "out")
    assert (summary.selected, summary.p_cutoff) == (None, None)
    assert "p_value" not in results(tmp_path / "out")


# ---------------------------------------------------------------------- reasons


def test_the_columns_that_make_a_row_odd(files: list[Path], tmp_path: Path) -> None:
    detector = AutoregressiveDetector(max_epochs=2, contamination=0.1, random_state=0).fit(rows_of(300, 0))
    batch.score_files(detector, files, tmp_path / "out", explain=2, chunk_rows=150)
    rows = rows_of(700, 2)
    rows[:20] += 7.0
    found = results(tmp_path / "out")["top_features"]
    assert [list(names) for names in found] == top_contributors(detector.contributions(rows), 2)


def test_who_cannot_tell_reasons_says_so(detector: MixtureDetector, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="explain=1: MixtureDetector cannot tell columns apart"):
        batch.score_files(detector, files, tmp_path / "out", explain=1)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- bad rows


@pytest.mark.parametrize("on_bad_row", ["quarantine", "skip"])
def test_bad_rows_are_left_out_and_counted(
    detector: MixtureDetector, spoilt: Path, tmp_path: Path, on_bad_row: Any
) -> None:
    summary = batch.score_files(
        detector, spoilt, tmp_path / "out", keep=["id"], on_bad_row=on_bad_row, part_rows=450, chunk_rows=130
    )
    bad = np.arange(99, 2000, 100)
    good = np.delete(np.arange(2000), bad)
    found = results(tmp_path / "out")
    np.testing.assert_array_equal(found["row"], good)
    np.testing.assert_array_equal(found["id"], good)
    np.testing.assert_array_equal(found["score"], detector.score_samples(pd.read_csv(spoilt)[COLUMNS].iloc[good]))
    assert (summary.rows, summary.bad, summary.seen, summary.files[0].bad) == (1980, 20, 2000, 20)
    quarantine = tmp_path / "out" / batch.QUARANTINE
    assert quarantine.exists() == (on_bad_row == "quarantine")
    if quarantine.exists():
        listed = results(quarantine)
        np.testing.assert_array_equal(listed["row"], bad)
        assert set(listed["column"]) == {"b"}
        assert set(listed["source"]) == {str(spoilt)}
        assert sorted(path.name for path in quarantine.iterdir()) == [f"spoilt-{k:05d}.parquet" for k in range(5)]
    assert len(pd.read_parquet(tmp_path / "out")) == 1980, "the folder is read as the scores alone"


def test_too_many_bad_rows_end_the_job(detector: MixtureDetector, spoilt: Path, tmp_path: Path) -> None:
    job: dict[str, Any] = {"on_bad_row": "quarantine", "part_rows": 400, "workers": 1, "chunk_rows": 400}
    with pytest.raises(batch.TooManyBadRows, match=r"12 of 1,200 rows .* max_bad_fraction=0\.009; see .*_quarantine"):
        batch.score_files(detector, spoilt, tmp_path / "out", max_bad_fraction=0.009, **job)
    assert [path.name for path in sorted((tmp_path / "out").glob("*.parquet"))] == [
        f"spoilt-{k:05d}.parquet" for k in range(3)
    ], "what was scored stays"
    summary = batch.score_files(detector, spoilt, tmp_path / "out", max_bad_fraction=0.01, **job)
    assert (summary.resumed, summary.parts) == (3, 5)


def test_short_jobs_are_judged_at_their_end(detector: MixtureDetector, tmp_path: Path) -> None:
    frame = rows_of(40, 0)
    frame.loc[:9, "a"] = np.inf
    frame.to_parquet(tmp_path / "rows.parquet")
    job: dict[str, Any] = {"on_bad_row": "skip", "part_rows": 10}
    with pytest.raises(batch.TooManyBadRows, match=r"10 of 40 rows .*'quarantine' lists them"):
        batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out", max_bad_fraction=0.2, **job)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 4
    assert batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out", **job).rows == 30


def test_a_job_without_a_good_row(detector: MixtureDetector, tmp_path: Path) -> None:
    rows_of(5, 0).assign(a=np.inf).to_parquet(tmp_path / "rows.parquet")
    summary = batch.score_files(
        detector, tmp_path / "rows.parquet", tmp_path / "out", on_bad_row="skip", max_bad_fraction=1.0, fdr=0.1
    )
    assert (summary.rows, summary.bad, summary.quantiles, summary.selected) == (0, 5, {}, 0)
    assert list(results(tmp_path / "out").columns) == ["row", "source", "score", "p_value", "is_anomaly", "selected"]


# ---------------------------------------------------------------------- drift, events, options


def test_drift_is_that_of_all_rows_at_once(detector: MixtureDetector, files: list[Path], tmp_path: Path) -> None:
    summary = batch.score_files(detector, files, tmp_path / "out", part_rows=99, chunk_rows=50)
    rows = rows_of(700, 2)
    rows[:20] += 7.0
    assert summary.drift == detector.drift(rows).to_dict()
    assert not summary.drifted


def test_a_job_says_whether_rows_have_drifted(detector: MixtureDetector, tmp_path: Path) -> None:
    rows_of(500, 0, shift=2.0).to_parquet(tmp_path / "rows.parquet")
    for limit, drifted in ((None, False), (0.2, True), (50.0, False)):
        summary = batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out", fail_on_drift=limit)
        assert summary.drifted is drifted
        assert (tmp_path / "out" / "_SUCCESS").exists()
    del detector.__dict__["reference_"]
    with pytest.raises(ValueError, match="fit it again"):
        batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out", fail_on_drift=0.2)


def test_events_are_told_in_order(detector: MixtureDetector, files: list[Path], tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    job: dict[str, Any] = {"fdr": 0.2, "log": lambda event, **fields: told.append((event, fields))}
    batch.score_files(detector, files, tmp_path / "out", **job)
    assert [event for event, _ in told] == ["begin", "part", "part", "cutoff", "end"]
    assert [fields["part"] for event, fields in told if event == "part"] == ["one-00000.parquet", "two-00000.parquet"]
    assert told[0][1]["parts_done"] == 0
    assert told[-1][1]["rows"] == 700
    json.dumps([fields for _, fields in told])
    told.clear()
    batch.score_files(detector, files, tmp_path / "out", **job)
    assert [event for event, _ in told] == ["begin", "cutoff", "end"]
    assert told[0][1]["units_left"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fdr": 1.0}, "fdr=1.0 must be a number in"),
        ({"threshold": float("nan")}, "threshold=nan must be a finite number"),
        ({"chunk_rows": 0}, "chunk_rows=0 must be at least 1"),
        ({"part_rows": 0}, "part_rows=0 must be at least 1"),
        ({"explain": -1}, "explain=-1 must be at least 0"),
        ({"max_bad_fraction": 2}, r"max_bad_fraction=2 must be in \[0, 1\]"),
        ({"fail_on_drift": -1.0}, "fail_on_drift=-1.0 must be a number of at least 0"),
        ({"engine": "spark"}, "engine='spark' must be one of 'local', 'ray'"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"keep": ["selected"]}, "'selected' is a column of the output already"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_options_that_make_no_sense(
    detector: MixtureDetector, files: list[Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        batch.score_files(detector, files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_columns_to_keep_have_one_type_in_all_parts(detector: MixtureDetector, tmp_path: Path) -> None:
    """Also where a part, or the beginning of a file, has nothing in them."""
    n = 300
    frame = rows_of(n, 0).assign(
        note=[None] * 200 + ["late"] * 100, count=pd.array([None] * 200 + [1] * 100, dtype="Int64"), day=pd.NaT
    )
    frame.loc[250:, "day"] = pd.Timestamp("2026-11-21")
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=50)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    keep = ["note", "count", "day"]
    for name in ("rows.parquet", "rows.csv"):
        out = tmp_path / f"out-{name}"
        batch.score_files(detector, tmp_path / name, out, keep=keep, part_rows=100, chunk_rows=40)
        found = pd.read_parquet(out)
        assert found["note"].notna().sum() == found["count"].sum() == 100
        assert found["day"].notna().sum() == 50


def test_parts_without_a_row_have_the_columns_of_the_others(detector: MixtureDetector, tmp_path: Path) -> None:
    rows_of(20, 0).drop(columns="a").assign(id=1, label=0).to_csv(tmp_path / "a.csv", index=False)
    frame = rows_of(300, 0).assign(id=np.arange(300), label=[0, 1] * 150)
    frame.to_parquet(tmp_path / "b.parquet")
    frame[:0].to_parquet(tmp_path / "c.parquet")
    out = tmp_path / "out"
    job: dict[str, Any] = {"keep": ["id", "label"], "on_bad_row": "quarantine"}
    batch.score_files(detector, sorted(tmp_path.glob("[abc].*")), out, **job)
    schemas = {path.name: pq.read_schema(path) for path in sorted(out.glob("*.parquet"))}
    assert list(schemas) == ["a-00000.parquet", "b-00000.parquet", "c-00000.parquet"]
    assert all(schema.equals(schemas["b-00000.parquet"]) for schema in schemas.values())
    assert pd.read_parquet(out)["id"].tolist() == list(range(300))
    assert 0.3 < batch.evaluate(out, "label")["auroc"] < 0.7


def test_a_job_without_a_row_cannot_be_judged(detector: MixtureDetector, tmp_path: Path) -> None:
    rows_of(3, 0).assign(label=0)[:0].to_parquet(tmp_path / "rows.parquet")
    batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out", keep=["label"])
    with pytest.raises(ValueError, match="there is no row with a score to be judged by 'label'"):
        batch.evaluate(tmp_path / "out", "label")


def test_columns_to_keep_are_as_they_were(detector: MixtureDetector, tmp_path: Path) -> None:
    n = 30
    columns = {name: pa.array(values) for name, values in rows_of(n, 0).items()}
    kept = {
        "day": pa.array([date(2026, 11, 21)] * n),
        "price": pa.array([Decimal("1.50")] * n, pa.decimal128(12, 2)),
        "kind": pa.array(["x", "y", None] * 10).dictionary_encode(),
        "tags": pa.array([["a"], []] * 15),
    }
    pq.write_table(pa.table({**columns, **kept}), tmp_path / "rows.parquet")
    trees = []
    for chunk_rows in (7, 100):
        out = tmp_path / str(chunk_rows)
        batch.score_files(detector, tmp_path / "rows.parquet", out, keep=list(kept), chunk_rows=chunk_rows)
        trees.append((out / "rows-00000.parquet").read_bytes())
    assert trees[0] == trees[1]
    found = pq.read_table(out / "rows-00000.parquet")
    for name, array in kept.items():
        assert found[name].to_pylist() == array.to_pylist()
        assert name == "kind" or found[name].type.equals(array.type)


def test_codes_of_digits_are_kept(detector: MixtureDetector, tmp_path: Path) -> None:
    codes = pd.DataFrame({"id": ["007", "008", "17"], "order": ["12345678901234567890"] * 3, "n": ["1", "2", ""]})
    rows_of(3, 0).join(codes).to_csv(tmp_path / "rows.csv", index=False)
    batch.score_files(detector, tmp_path / "rows.csv", tmp_path / "out", keep=["id", "order", "n"])
    found = pq.read_table(tmp_path / "out" / "rows-00000.parquet")
    assert found["id"].to_pylist() == ["007", "008", "17"]
    assert found["order"].to_pylist() == ["12345678901234567890"] * 3
    assert found["n"].to_pylist() == [1, 2, None]


def test_no_row_is_scored_twice_nor_its_score(
    detector: MixtureDetector, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for inputs in ([tmp_path / "*.parquet", files[0]], ["one.parquet", files[0]]):
        with pytest.raises(ValueError, match=r"one\.parquet is named twice"):
            batch.score_files(detector, inputs, tmp_path / "out")
    with pytest.raises(ValueError, match="name at least one file"):
        batch.score_files(detector, [], tmp_path / "out")
    for given, out in ((tmp_path, "out"), ("*", "out"), (tmp_path, "deep/out"), (tmp_path / "out", "out")):
        with pytest.raises(ValueError, match="lies among the inputs"):
            batch.score_files(detector, given, out)
    assert not (tmp_path / "out").exists()
    assert batch.score_files(detector, tmp_path, tmp_path / "_out").rows == 700
    assert batch.score_files(detector, tmp_path, tmp_path / "_out").complete_before
