"""Measure drawn rows beside those of other generators: likeness, use, copies, help for rare classes, and speed.

    fidelity   generators fitted to half of each table, compared with the other half: two-sample classifier, training on
               drawn rows in place of real ones, shapes, pairs, precision, recall, density, coverage, closest records
    copies     our generators, copies of training rows refused as exports refuse them: rows nearer to a training row
               than the held-out rows' 1 % quantile, and what the likelihood tells about membership
    rare       gradient boosting with twenty labelled anomalies, by what is done about their number
    speed      a million rows of twenty columns by the default flow, without the least likely, to Parquet: seconds and
               peak memory, beside a quarter of the rows

The tables of `fidelity` were chosen by size and kind before anything was measured; every generator has one fixed
configuration, the same rows and one thread. Peers that are not installed are named and left out (`generators.py` says
where they come from); their rows are kept below --samples, since CTGAN takes minutes a table. It ends with code 1 where
a figure is missed.

    python pipelines/benchmark_augment.py --data data --samples samples --out fidelity.csv
    python pipelines/benchmark_augment.py --only speed
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmark_tables import thin
from joblib import Parallel, delayed
from measure import DIM, Report, peak_megabytes, run_child
from measure import table as measured_rows
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from anomgen import Detector, FlowDetector, augment, load, quality
from anomgen.data import load_dataset, make_payments

PANELS = ("fidelity", "copies", "rare", "speed")
TABLES = ("payments", "annthyroid", "cardio", "cardiotocography", "pageblocks", "pima", "vowels")
KEPT = ("table", "seed", "method", "given", "rows", "seconds")


# ---------------------------------------------------------------------- rows


def halves(table: str, data: Path | None, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Halves of a table with its label as the column y, both with its share of anomalies: one trains, one does not."""
    if table == "payments":
        X, y, _ = make_payments(rows, seed=seed)
    else:
        dataset = thin(load_dataset(f"adbench_{table}", root=data), rows, seed)
        X, y = pd.DataFrame(np.asarray(dataset.X)).rename(columns=lambda k: f"x{k}"), dataset.y
    train, held_out = train_test_split(X.assign(y=y), test_size=0.5, stratify=y, random_state=seed)
    return train.reset_index(drop=True), held_out.reset_index(drop=True)


def draw(method: str, table: str, train: pd.DataFrame, seed: int, kept: Path | None) -> tuple[pd.DataFrame, float]:
    """As many rows as train, and the seconds of fit and draw; rows of peers come from `kept` where they are there."""
    digest = hashlib.sha256(pd.util.hash_pandas_object(train, index=False).to_numpy().tobytes()).hexdigest()[:16]
    given = f"{method}: {generators.GENERATORS[method]()}"
    made = {"method": given, "table": table, "train": digest, "seed": str(seed)}
    file = kept / f"{table}-{method}-{digest}-{seed}.parquet" if kept and method in generators.PEERS else None
    if file and file.is_file():
        stored = pq.read_table(file)
        known = {name.decode(): value.decode() for name, value in stored.schema.metadata.items()}
        if all(known.get(name) == value for name, value in made.items()):
            return stored.to_pandas().astype(train.dtypes), float(known["seconds"])
    start = time.perf_counter()
    rows = generators.draw(method, train, len(train), seed)
    seconds = time.perf_counter() - start
    if file:
        found = pa.Table.from_pandas(rows, preserve_index=False)
        about = {**made, "seconds": f"{seconds:.2f}"}
        pq.write_table(found.replace_schema_metadata({**found.schema.metadata, **about}), file)
    return rows, seconds


# ---------------------------------------------------------------------- fidelity


def measure(method: str, table: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What is told about one generator on one table under one seed."""
    torch.set_num_threads(1)
    train, held_out = halves(table, options.data, options.rows, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        rows, seconds = draw(method, table, train, seed, options.samples)
    about = {"table": table, "seed": seed, "method": method, "given": str(generators.GENERATORS[method]())}
    return about | {"rows": len(train), "seconds": round(seconds, 1)} | figures(rows, train, held_out, seed)


def figures(rows: pd.DataFrame, train: pd.DataFrame, held_out: pd.DataFrame, seed: int) -> dict[str, float]:
    """How good rows are: `off` is the distance of the two-sample AUROC from 0.5, `gap` that of two classifiers."""
    auroc = quality.two_sample_auroc(rows, held_out, seed=seed).value
    use = quality.transfer(rows, held_out, train, target="y", seed=seed)[0]
    shapes = quality.column_shapes(rows, held_out)
    return {
        "auroc": auroc,
        "off": abs(auroc - 0.5),
        "drawn": use.synthetic,
        "real": use.real,
        "gap": abs(use.real - use.synthetic),
        "shapes": float(np.mean([shape.alike for shape in shapes.values()])),
        "pairs": quality.pair_trends(rows, held_out).mean,
        **quality.prdc(rows, held_out, seed=seed)._asdict(),
        **nearness(rows, train, held_out, seed),
    }


def nearness(rows: pd.DataFrame, train: pd.DataFrame, held_out: pd.DataFrame, seed: int) -> dict[str, float]:
    """Shares of rows nearer to a training row than all but 1 %, and than half, of the held-out rows; exact copies."""
    closest = quality.closest_records(rows, train, held_out, seed=seed)
    exact = float(quality.CopyCheck(train).matches(rows).mean())
    return {"nearer than 1 %": closest.nearer, "nearer than half": closest.nearer_half, "exact": exact}


def fidelity(report: Report, options: argparse.Namespace) -> None:
    methods = [name for name in options.methods if name not in generators.missing()]
    jobs = [(method, table, seed) for seed in range(options.seeds) for table in options.tables for method in methods]
    found = pd.DataFrame(Parallel(options.jobs, verbose=5)(delayed(measure)(*job, options) for job in jobs))
    found.to_csv(options.out, index=False)
    told, tables = summary(found), found.pivot_table(["off", "gap"], "table", "method")
    for what in ("off", "gap"):
        print(f"{what} by table\n{tables[what].round(3).to_string()}\n")
    print(f"medians over {len(options.tables)} tables of means over {options.seeds} seeds\n{told.to_string()}\n")
    for method in generators.OURS:
        for what, name in (("off", "two-sample AUROC from 0.5"), ("gap", "trained on drawn from on real rows")):
            best = told.loc[told.index.isin(generators.PEERS), what]
            if method in told.index and len(best):
                figure = f"{told.loc[method, what]:.3f}; best peer {best.min():.3f} ({best.idxmin()})"
                report(f"{method}: {name}", figure, told.loc[method, what] < best.min())


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Medians over tables of the means over seeds, the likest rows first."""
    measured = [name for name in found if name not in KEPT] + ["seconds"]
    means = found.groupby(["method", "table"])[measured].mean()
    given = found.groupby("method")["given"].first()
    return means.groupby("method").median().round(3).sort_values("off").join(given)


# ---------------------------------------------------------------------- copies


def copied(method: str, table: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """How close drawn rows are to those that trained, and what the likelihood tells of membership."""
    torch.set_num_threads(1)
    train, held_out = halves(table, options.data, options.rows, seed)
    ours = generators.GENERATORS[method]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours.fit(train, seed)
    checked = {"train": train, "held_out": held_out, "allow_copies": False}
    drawn = ours.draw(len(train), seed, **checked)
    scores = [ours.detector.score_samples(part) for part in (train, held_out)]
    about = {"table": table, "seed": seed, "method": method, "refused": drawn.copies}
    return about | nearness(drawn.rows, train, held_out, seed) | {"membership": quality.membership(*scores).value}


def copies(report: Report, options: argparse.Namespace) -> None:
    methods = [name for name in options.methods if name in generators.OURS]
    jobs = [(method, table, seed) for seed in range(options.seeds) for table in options.tables for method in methods]
    found = pd.DataFrame(Parallel(options.jobs, verbose=5)(delayed(copied)(*job, options) for job in jobs))
    means = found.drop(columns="seed").groupby(["method", "table"]).mean()
    print(means.round(4).to_string())
    for method in methods:
        near = means.loc[method, "nearer than 1 %"]
        figure = f"{near.median():.2%} in the median, {near.max():.2%} at most ({near.idxmax()})"
        report(f"{method}: nearer than held-out rows' 1 %", figure, near.median() <= 0.02)


# ---------------------------------------------------------------------- rare classes


def rare(report: Report, options: argparse.Namespace) -> None:
    """What is done about twenty anomalies: `oversampling.py` measures it."""
    import oversampling

    told = oversampling.summary(pd.DataFrame(oversampling.run(options.data, seeds=options.seeds)))
    print(f"{told.round(3).to_string()}\n")
    for method in told.index.drop("ours"):
        ours, other, lead = told.loc["ours", "median"], *told.loc[method, ["median", "ours ahead by"]]
        figure = f"{ours:.3f} beside {other:.3f}; ahead by {lead:+.3f} on the median table"
        report(f"average precision: ours, {method}", figure, ours > other and lead > 0)


# ---------------------------------------------------------------------- speed


def fitted(folder: Path, detector: Detector) -> Path:
    """The folder of a model of twenty float32 columns, fitted in earnest: how many draws a band keeps depends on it."""
    rows = pd.DataFrame(measured_rows(20_000, 0), columns=[f"x{column}" for column in range(DIM)])
    detector.set_params(random_state=0, verbose=False, device="cpu").fit(rows).save(folder)
    return folder


def speed(report: Report, options: argparse.Namespace) -> None:
    """Jobs in processes of their own, so that each has its own peak."""
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        model = fitted(Path(place, "flow"), FlowDetector())
        empty = run_child(__file__, model, 0, "")["peak"]
        peaks = []
        for rows in (options.drawn // 4, options.drawn):
            told = run_child(__file__, model, rows, Path(place, str(rows)))
            peaks.append(told["peak"] - empty)
            rate = f"{rows / told['seconds']:,.0f} rows/s, {told['tried'] / rows:.2f} tried for each"
            seconds = f"{told['seconds']:.1f} s ({rate})"
            report(f"{rows:,} rows of {DIM} columns to Parquet", seconds, told["seconds"] < 60 * rows / 1e6)
            report(f"memory above the {empty:.0f} MB of a loaded model", f"{peaks[-1]:.0f} MB")
        report("growth from the one to the other", f"{peaks[1] - peaks[0]:.0f} MB", peaks[1] - peaks[0] < 70)


def child(model: str, rows: str, out: str) -> None:
    """A process whose memory is measured: an export, or a model that draws nothing."""
    detector = load(model)
    if not int(rows):
        print(json.dumps({"peak": peak_megabytes()}))
        return
    start = time.perf_counter()
    summary = augment.export(detector, int(rows), out, band="typical", allow_copies=True)
    seconds = time.perf_counter() - start
    print(json.dumps({"peak": peak_megabytes(), "seconds": seconds, "tried": summary.tried}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = list(generators.GENERATORS)
    parser.add_argument("--data", type=Path, help="folder that holds adbench/NAME.npz")
    parser.add_argument("--only", nargs="+", choices=PANELS, default=PANELS, help="some panels instead of all")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="of fidelity and copies")
    parser.add_argument("--methods", nargs="+", choices=every, default=every, help="generators; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8_000, help="at most so many rows of a table, half of which train")
    parser.add_argument("--samples", type=Path, help="folder where rows of peers are kept, and taken from if they fit")
    parser.add_argument("--drawn", type=int, default=1_000_000, help="rows drawn for speed")
    parser.add_argument("--jobs", type=int, default=1, help="generators measured at once, one thread each")
    parser.add_argument("--place", type=Path, help="folder for the rows of speed; by default a temporary one")
    parser.add_argument("--out", default="benchmark_augment.csv", help="one line for each table, seed and generator")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(*options.child)
        return 0
    stored = {"rare"} | ({"fidelity", "copies"} if set(options.tables) != {"payments"} else set())
    if stored & set(options.only) and (options.data is None or not (options.data / "adbench").is_dir()):
        parser.error("the tables: --data names their folder, datasets/README.md says how to get them")
    if options.samples:
        options.samples.mkdir(parents=True, exist_ok=True)
    for name, package in generators.missing().items() if "fidelity" in options.only else ():
        print(f"{name} is left out: pip install {package}")
    report = Report()
    for panel in options.only:
        print(f"\n{panel}", flush=True)
        globals()[panel](report, options)
    if report.missed:
        print(f"missed: {', '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
