"""The command line: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen import families, tracking
from anomgen.cli.app import app
from anomgen.cli.parameters import UsageError, parse_parameters
from anomgen.data import make_payments
from tests.toys import FAMILIES

ANY = ("--allow-copies",)
SMALL = ("--set", "hidden=8", "--set", "transforms=2", "--max-epochs", "2")


def run(*arguments: Any) -> int:
    """The exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        app.meta([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from anomgen.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of payments as CSV and Parquet, and a model of its normal rows."""
    place = tmp_path_factory.mktemp("cli")
    frame, y, _ = make_payments(600, seed=0)
    frame = frame.assign(id=np.arange(600), label=y)
    frame.to_csv(place / "payments.csv", index=False)
    frame.to_parquet(place / "payments.parquet", index=False)
    options = ("--label", "label", "--normal", "0", "--set", "exclude=id")
    assert run("fit", place / "payments.csv", "--out", place / "model", *options, *SMALL) == 0
    return place


# ---------------------------------------------------------------------- commands


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_scores_shows_and_samples(
    family: str, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [f"--set={name}={value}" for name, value in (("max_epochs", 2), ("hidden", "8,8"), ("exclude", "id,label"))]
    known = {field.name for field in fields(families.get(family))}
    options = [option for option in small if option.split("=")[1] in known]
    name = family.removesuffix("Detector").lower()
    assert run("fit", folder / "payments.csv", "--model", name, "--out", tmp_path / "model", *options) == 0
    assert run("score", tmp_path / "model", folder / "payments.csv", "--out", tmp_path / "scores") == 0
    assert run("show", tmp_path / "model") == 0
    assert run("sample", tmp_path / "model", "-n", 5, "--out", tmp_path / "drawn.csv", "--allow-copies") == 0
    assert family in capsys.readouterr().out
    scores = pd.read_parquet(tmp_path / "scores" / "payments-00000.parquet")
    frame = pd.read_csv(folder / "payments.csv")
    expected = anomgen.load(tmp_path / "model").score_samples(frame)
    assert scores["score"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert len(pd.read_csv(tmp_path / "drawn.csv")) == 5


def test_rows_are_drawn_under_conditions(folder: Path, tmp_path: Path) -> None:
    options = ("--set", "exclude=id,label", "--set", "condition=category,weekday")
    assert run("fit", folder / "payments.csv", "--out", tmp_path / "model", *options, *SMALL) == 0
    assert run("score", tmp_path / "model", folder / "payments.csv", "--out", tmp_path / "scores") == 0
    category = pd.read_csv(folder / "payments.csv")["category"].iloc[0]
    given = ("--condition", f"category={category}", "--condition", "weekday=3", "--allow-copies")
    assert run("sample", tmp_path / "model", "-n", 20, "--out", tmp_path / "drawn.csv", *given) == 0
    drawn = pd.read_csv(tmp_path / "drawn.csv")
    assert set(drawn["category"]) == {category}
    assert set(drawn["weekday"]) == {3}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_fit_learns_from_normal_rows_without_their_label(
    folder: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / f"payments.{suffix}"
    options = ("--label", "label", "--normal", "0", "--set", "exclude=id", "--contamination", "0.2")
    assert run("fit", file, "--model", "flow", "--out", tmp_path / "model", *options, *SMALL) == 0
    printed = capsys.readouterr().out
    detector = anomgen.load(tmp_path / "model")
    assert "label" not in detector.feature_names_in_
    normal = anomgen.batch.read_training_rows(file, "label", 0)
    assert detector.data_digest_ == anomgen.FlowDetector(max_epochs=1, exclude=("id",)).fit(normal).data_digest_
    assert (detector.hidden, detector.transforms, detector.max_epochs) == ((8,), 2, 2)
    assert (detector.predict(normal) == -1).mean() == pytest.approx(0.2, abs=0.01)
    assert f"{len(normal):,} rows of 13 columns" in printed
    assert f"{detector.offset_:.6g}" in printed
    assert str(tmp_path / "model") in printed


def test_fit_and_score_arrays(numbers: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "rows.npz", X=numbers, kind=np.repeat(["ok", "bad"], [390, 10]))
    label = ("--label", "kind", "--normal", "ok")
    assert run("fit", tmp_path / "rows.npz", "--out", tmp_path / "model", *label, *SMALL) == 0
    assert "390 rows of 3 columns" in capsys.readouterr().out
    assert run("score", tmp_path / "model", tmp_path / "rows.npz", "--out", tmp_path / "out", *label) == 0
    assert "AUROC" in capsys.readouterr().out
    scores = pd.read_parquet(tmp_path / "out" / "rows-00000.parquet")
    assert np.array_equal(scores["score"], anomgen.load(tmp_path / "model").score_samples(numbers))


def test_score(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = (folder / "payments.csv", folder / "payments.parquet")
    options = ("--label", "label", "--keep", "id", "--keep", "hour", "--threshold", "-60", "--chunk-rows", "100")
    assert run("score", folder / "model", *inputs, "--out", tmp_path / "out", *options) == 0
    printed = capsys.readouterr().out
    scores = pd.read_parquet(tmp_path / "out")
    assert list(scores.columns) == ["row", "source", "id", "hour", "label", "score", "is_anomaly"]
    assert len(scores) == 1200
    flagged = int((scores["score"] < -60).sum())
    quality = anomgen.batch.evaluate(tmp_path / "out", "label")
    for part in (
        "1,200 rows",
        f"{flagged:,} of 1,200",
        f"{quality['auroc']:.4f}",
        f"{quality['auprc']:.4f}",
        f"{quality['recall']:.1%}",
    ):
        assert part in printed
    assert run("score", folder / "model", *inputs, "--out", tmp_path / "out") == 3
    assert run("score", folder / "model", *inputs, "--out", tmp_path / "out", "--overwrite") == 0
    assert "AUROC" not in capsys.readouterr().out


def test_show(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("show", folder / "model") == 0
    printed = capsys.readouterr().out
    detector = anomgen.load(folder / "model")
    for row in detector.describe():
        [line] = [line for line in printed.splitlines() if line.startswith(f"{row['column']} ")]
        assert row["kind"] in line
        assert row["reason"] in line
    for part in (f"{detector.offset_:.6g}", detector.data_digest_, f"anomgen {anomgen.__version__}", "likelihood"):
        assert part in printed


def test_track_and_the_registry(
    tracking_uri: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "payments.parquet"
    assert run("fit", file, "--out", "model", "--label", "label", "--experiment", "payments", *SMALL) == 0
    [logged] = mlflow.search_runs(experiment_names=["payments"], output_format="list")
    assert (logged.info.status, logged.data.params["hidden"]) == ("FINISHED", "(8,)")
    printed = capsys.readouterr().out
    assert logged.info.run_id in printed
    assert f"mlflow ui --backend-store-uri {tracking_uri}" in printed
    tracking.log_model(anomgen.load("model"), registered_model_name="pay", alias="champion")
    assert run("score", "models:/pay@champion", file, "--out", tmp_path / "out") == 0
    assert run("show", "models:/pay@champion") == 0
    assert run("score", "models:/pay@nobody", file, "--out", tmp_path / "out2") != 0


def test_nothing_is_tracked_unless_asked(tracking_uri: str, folder: Path) -> None:
    assert run("fit", folder / "payments.parquet", "--out", "model", *SMALL) == 0
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


# ---------------------------------------------------------------------- where options come from


def test_flags_over_environment_over_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "job.toml"
    fit = '[fit]\nlabel = "label"\nseed = 1\nmax-epochs = 3\nset = ["hidden=4,4", "transforms=2"]\n'
    config.write_text(f'{fit}[score]\nkeep = ["id"]\n')
    seeds = {}
    for name, flags in (("file", ()), ("environment", ()), ("flags", ("--max-epochs", 1))):
        if name == "environment":
            monkeypatch.setenv("ANOMGEN_FIT_MAX_EPOCHS", "2")
        out = tmp_path / name
        assert run("fit", folder / "payments.parquet", "--out", out, "--config", config, *flags) == 0
        detector = anomgen.load(out)
        assert detector.hidden == (4, 4)
        seeds[name] = (detector.max_epochs, detector.seed_)
    assert [epochs for epochs, _ in seeds.values()] == [3, 2, 1]
    assert {seed for _, seed in seeds.values()} == {anomgen.load(tmp_path / "file").seed_}
    assert anomgen.load(folder / "model").seed_ != anomgen.load(tmp_path / "file").seed_
    files = (tmp_path / "file", folder / "payments.csv", "--out", tmp_path / "scores")
    assert run("score", *files, "--config", config) == 0
    assert "id" in pd.read_parquet(tmp_path / "scores")


def test_a_wrong_name_in_the_file_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.toml").write_text('[fit]\nmodle = "flow"\n')
    out = ("--out", tmp_path / "model")
    assert run("fit", folder / "payments.csv", *out, "--config", tmp_path / "job.toml") == 2
    assert "modle" in capsys.readouterr().err
    assert run("fit", folder / "payments.csv", *out, "--config", tmp_path / "none.toml") == 2
    assert "none.toml" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("hidden=64,64", "hidden", (64, 64)),
        ("hidden=8", "hidden", (8,)),
        ("hidden=[8, 9]", "hidden", [8, 9]),
        ("exclude=id, name", "exclude", ("id", "name")),
        ("coupling=spline", "coupling", "spline"),
        ("learning-rate=1e-3", "learning_rate", 0.001),
        ("compile=True", "compile", True),
        ("kinds={'a': 'lattice'}", "kinds", {"a": "lattice"}),
    ],
)
def test_parameters_as_text(text: str, name: str, value: Any) -> None:
    assert parse_parameters(anomgen.FlowDetector, [text]) == {name: value}


def test_unknown_parameters_get_a_proposal() -> None:
    with pytest.raises(UsageError, match=r"no parameter 'hiden'; did you mean hidden"):
        parse_parameters(anomgen.FlowDetector, ["hiden=8"])
    with pytest.raises(UsageError, match="name=value"):
        parse_parameters(anomgen.FlowDetector, ["hidden"])
    with pytest.raises(UsageError, match="no parameter 'callbacks'"):
        parse_parameters(anomgen.FlowDetector, ["callbacks=1"])


# ---------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "--out", "new"], 2, "at least one file"),
        (["fit", "payments.csv"], 2, "--out"),
        (["fit", "payments.csv", "--out", "new", "--modell", "flow"], 2, "--model?"),
        (["fit", "payments.csv", "--out", "new", "--model", "vea"], 2, "no family is called 'vea'"),
        (["fit", "payments.csv", "--out", "new", "--model", "kernel", "--max-epochs", "3"], 2, "no such parameter"),
        (["sample", "model", "-n", "9", "--out", "x.csv", "--condition", "shop", *ANY], 2, "name=value"),
        (["sample", "model", "-n", "9", "--out", "x.csv", "--condition", "shop=a", *ANY], 3, "without condition="),
        (["sample", "model", "-n", "9", "--out", "x.csv"], 2, "--allow-copies"),
        (["fit", "payments.csv", "--out", "new", "--set", "hiden=8"], 2, "did you mean hidden"),
        (["fit", "payments.csv", "--out", "new", "--contamination", "3"], 2, "contamination=3.0"),
        (["fit", "payments.csv", "--out", "new", "--max-epochs", "x"], 2, "max-epochs"),
        (["fit", "nothing.csv", "--out", "new"], 2, "nothing.csv"),
        (["fit", "payments.csv", "--out", "model"], 2, "--overwrite"),
        (["fit", "payments.csv", "--out", "new", "--label", "lable"], 3, "'label'"),
        (["fit", "payments.csv", "--out", "new", "--label", "label", "--normal", "7"], 3, "no row has 7"),
        (["fit", "empty.csv", "--out", "new"], 3, "empty.csv"),
        (["score", "model", "--out", "new"], 2, "at least one file"),
        (["score", "nowhere", "payments.csv", "--out", "new"], 2, "nowhere does not exist"),
        (["score", "model", "other.csv", "--out", "new"], 3, "'amount' is missing"),
        (["score", "damaged", "payments.csv", "--out", "new"], 3, "damaged"),
        (["show", "other.csv"], 3, "not a saved anomgen model"),
        (["sample", "model", "-n", "0", "--out", "x.csv"], 2, "-n"),
        (["sample", "model", "-n", "9", "--out", "x.xlsx", *ANY], 3, "unknown kind of file"),
        (["nonsense"], 2, "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_told_in_a_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.copytree("model", "damaged")
    Path("damaged/config.json").write_text("{}")
    Path("empty.csv").touch()
    Path("other.csv").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.iterdir())
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if captured.err.startswith("anomgen: "):
        assert captured.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_debug_shows_where(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(anomgen.batch.SchemaError):
        app.meta(["score", str(folder / "model"), str(tmp_path / "other.csv"), "--out", str(tmp_path / "o"), "--debug"])


def test_an_interrupt_leaves_no_half_file(folder: Path, tmp_path: Path) -> None:
    payments = pd.read_parquet(folder / "payments.parquet")
    pd.concat([payments] * 900).to_parquet(tmp_path / "long.parquet", index=False)
    out = tmp_path / "out"
    scoring = start("score", folder / "model", tmp_path / "long.parquet", "--out", out)
    while scoring.poll() is None and not (out.exists() and list(out.iterdir())):
        time.sleep(0.02)
    scoring.send_signal(signal.SIGINT)
    _, told = scoring.communicate(timeout=60)
    assert scoring.returncode == 75, told
    assert "start the same job again to go on" in told
    assert "Traceback" not in told
    for path in out.glob("*.parquet"):
        assert len(pd.read_parquet(path)) > 0
    assert not list(out.rglob("*.partial"))


def test_help_is_quick_and_imports_little() -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        helping = start("--help", env={**os.environ, "COLUMNS": "100"})
        printed, told = helping.communicate(timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert helping.returncode == 0, told
    assert all(command in printed for command in ("fit", "sample", "score", "show"))
    assert min(spent) < 0.5, f"seconds of CPU for --help: {spent}"
    heavy = "{'torch', 'sklearn', 'mlflow', 'pandas', 'numpy', 'scipy', 'pyarrow'} & set(sys.modules)"
    code = f"import sys, anomgen.cli.app as a\ntry: a.app.meta(['fit', '--help'])\nfinally: assert not {heavy}, {heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--contamination" in done.stdout


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert anomgen.__version__ in capsys.readouterr().out
