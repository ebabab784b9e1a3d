"""Fits to files that are never in memory at once: they come to the same as fits in memory, and cannot be told apart."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen.batch import read_training_rows
from anomgen.data import FileRows, open_source
from anomgen.detector import streaming
from anomgen.detector.streaming import Dealt, survey
from anomgen.encode import Encoded
from anomgen.families.classical import MixtureDetector
from anomgen.families.flow import FlowDetector
from tests.toys import TRAINED, toy

N = 12_000
SMALL = {"sample_rows": 4000, "buffer_rows": 1000}


def table(n: int = N, seed: int = 0) -> pd.DataFrame:
    """Rows in the order of their first column: as bad an order as there is."""
    rng = np.random.default_rng(seed)
    a = np.sort(rng.normal(size=n))
    missing = np.where(rng.random(n) < 0.1, np.nan, a + rng.normal(size=n))
    kind = pd.Series(rng.choice(["x", "y", "z"], n, p=[0.6, 0.3, 0.1]))
    return pd.DataFrame({"a": a, "b": a**2 + 0.3 * rng.normal(size=n), "k": rng.poisson(3, n), "m": missing, "g": kind})


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    table().to_parquet(path, row_group_size=500, index=False)
    return path


def files(path: Path, **options: int) -> FileRows:
    return FileRows(open_source(path), **{**SMALL, **options})


def flow(**options: object) -> FlowDetector:
    return FlowDetector(**{"max_epochs": 8, "hidden": (16,), "random_state": 0, "verbose": False, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def passed(parquet: Path) -> FlowDetector:
    return flow().fit(files(parquet))


@pytest.fixture(scope="module")
def held(parquet: Path) -> FlowDetector:
    return flow().fit(open_source(parquet).read())


class TestFit:
    def test_comes_to_the_nats_of_a_fit_in_memory(self, passed: FlowDetector, held: FlowDetector) -> None:
        new = table(5000, seed=9)
        others = [flow(random_state=seed).fit(table()).score(new) for seed in (1, 2)]
        noise = np.std([held.score(new), *others], ddof=1)
        assert passed.score(new) == pytest.approx(held.score(new), abs=max(3 * noise, 0.05))
        assert np.mean(passed.predict(new) < 0) == pytest.approx(0.01, abs=0.015)

    def test_knows_of_its_rows_what_a_fit_in_memory_knows(self, passed: FlowDetector, held: FlowDetector) -> None:
        assert passed.data_digest_ == held.data_digest_
        assert np.array_equal(passed.row_sketch_, held.row_sketch_)
        assert list(passed.feature_names_in_) == list(held.feature_names_in_)
        for a, b in zip(passed.describe(), held.describe(), strict=True):
            assert a["kind"] == b["kind"]
            assert a["missing"] == pytest.approx(b["missing"], abs=0.02)

    def test_one_seed_gives_one_model(self, passed: FlowDetector, parquet: Path) -> None:
        new = table(50, seed=9)
        again = flow().fit(files(parquet))
        assert np.array_equal(again.score_samples(new), passed.score_samples(new))
        assert not np.array_equal(flow(random_state=1).fit(files(parquet)).score_samples(new), again.score_samples(new))

    def test_saves_loads_and_pickles(self, passed: FlowDetector, tmp_path: Path) -> None:
        new = table(50, seed=9)
        passed.save(tmp_path / "model")
        for twin in (anomgen.load(tmp_path / "model"), pickle.loads(pickle.dumps(passed))):
            assert np.array_equal(twin.score_samples(new), passed.score_samples(new))

    def test_few_rows_are_fitted_as_in_memory(self, parquet: Path, held: FlowDetector) -> None:
        new = table(50, seed=9)
        whole = flow().fit(open_source(parquet))
        assert np.array_equal(whole.score_samples(new), held.score_samples(new))

    def test_the_schedule_is_that_of_all_rows(self, parquet: Path) -> None:
        infos = []

        class Watch(anomgen.Callback):
            def on_fit_begin(self, run: anomgen.Run) -> None:
                infos.append(run.info)

        flow(callbacks=(Watch(),), max_epochs=1).fit(files(parquet))
        assert infos[0]["rows"] == N - 1000
        assert infos[0]["held_out_rows"] == 1000
        assert infos[0]["columns"] == 5

    def test_rows_to_hold_out_may_be_given(self, parquet: Path) -> None:
        infos = []

        class Watch(anomgen.Callback):
            def on_fit_begin(self, run: anomgen.Run) -> None:
                infos.append(run.info)

        for given in (table(300, seed=3), open_source(parquet)):
            flow(callbacks=(Watch(),), max_epochs=1).fit(files(parquet), X_val=given)
        assert [info["rows"] for info in infos] == [N, N]
        assert [info["held_out_rows"] for info in infos] == [300, N]

    def test_goes_on_from_a_model(self, parquet: Path) -> None:
        detector = flow(max_epochs=2, warm_start=True).fit(files(parquet))
        encoder, first = detector.encoder_, detector.score(table(2000, seed=9))
        detector.fit(files(parquet))
        assert detector.encoder_ is encoder
        assert detector.score(table(2000, seed=9)) > first

    def test_without_held_out_rows_the_schedule_runs_to_its_end(self, parquet: Path) -> None:
        detector = flow(max_epochs=2, validation_fraction=0.0).fit(files(parquet))
        assert "held_out_nats" not in detector.history_[-1]
        assert np.mean(detector.predict(table()) < 0) == pytest.approx(0.01, abs=0.005)

    def test_a_share_asked_for_is_flagged(self, parquet: Path) -> None:
        detector = flow(max_epochs=2, contamination=0.2).fit(files(parquet))
        assert np.mean(detector.predict(table()) < 0) == pytest.approx(0.2, abs=0.02)

    def test_the_least_likely_rows_may_be_left_out(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(8000, 2))
        X[:1200] = 6.0 + 0.1 * rng.normal(size=(1200, 2))
        pd.DataFrame(X, columns=["a", "b"]).to_parquet(tmp_path / "dirty.parquet")
        far = pd.DataFrame({"a": [6.0], "b": [6.0]})
        plain, robust = (flow(robust=share, max_epochs=10).fit(files(tmp_path / "dirty.parquet")) for share in (0, 0.2))
        assert robust.score_samples(far)[0] < plain.score_samples(far)[0] - 2

    def test_solved_models_learn_from_the_sample(self, parquet: Path) -> None:
        detector = MixtureDetector(random_state=0, verbose=False, contamination=0.1, components=2)
        detector.fit(files(parquet, sample_rows=1000), X_val=files(parquet, sample_rows=200))
        assert "held_out_nats" in detector.history_[-1]
        assert detector.reference_ is not None
        own = survey(files(parquet, sample_rows=1000), streaming._seed(detector)).sample
        assert np.mean(detector.predict(own) < 0) == pytest.approx(0.1, abs=0.002)

    def test_arrays_are_read_whole(self, tmp_path: Path) -> None:
        X = np.random.default_rng(0).normal(size=(400, 3))
        np.savez(tmp_path / "rows.npz", X=X)
        detector = flow(max_epochs=1, contamination=0.1)
        scores = detector.fit(open_source(tmp_path / "rows.npz")).score_samples(X)
        assert np.array_equal(scores, detector.fit(X).score_samples(X))


@pytest.mark.parametrize("name", TRAINED)
def test_every_family_that_trains_fits_to_files(name: str, tmp_path: Path) -> None:
    table(3000).to_parquet(tmp_path / "rows.parquet", row_group_size=500)
    detector = toy(name).fit(files(tmp_path / "rows.parquet", sample_rows=1200))
    scores = detector.score_samples(table(400, seed=9))
    far = pd.DataFrame({"a": [60.0], "b": [-900.0], "k": [90], "m": [-80.0], "g": ["z"]})
    assert np.isfinite(scores).all()
    assert detector.score_samples(far)[0] < np.median(scores)


def test_conditions_are_columns_of_the_files(parquet: Path) -> None:
    detector = flow(max_epochs=3, condition="g").fit(files(parquet))
    rows = table(50, seed=9)
    assert np.isfinite(detector.score_samples(rows, condition="x")).all()
    assert detector.sample(20, condition="z")["g"].eq("z").all()


def test_a_second_model_trains_on_the_sample(parquet: Path) -> None:
    detector = flow(max_epochs=2, statistic="ratio").fit(files(parquet))
    assert np.isfinite(detector.score_samples(table(50, seed=9))).all()


class TestFiles:
    def test_csv_and_several_files_train_as_one_table(self, tmp_path: Path, passed: FlowDetector) -> None:
        frame = table()
        frame[:5000].to_csv(tmp_path / "1.csv", index=False)
        frame[5000:].to_csv(tmp_path / "2.csv", index=False)
        detector = flow().fit(files(tmp_path))
        new = table(500, seed=9)
        assert detector.score_samples(new) == pytest.approx(passed.score_samples(new), abs=1e-3)

    def test_a_label_is_no_feature_and_chooses_the_rows(self, tmp_path: Path, held: FlowDetector) -> None:
        frame = table()
        odd = pd.DataFrame({name: frame[name].sample(frac=1.0, random_state=1).to_numpy() for name in frame})
        both = pd.concat([frame.assign(label=0), odd.assign(label=1)]).sample(frac=1.0, random_state=0)
        both.to_parquet(tmp_path / "both.parquet", index=False)
        rows = read_training_rows(tmp_path / "both.parquet", "label", "0", memory=1000)
        assert isinstance(rows, FileRows)
        assert len(rows) == N
        few = FileRows(rows.source, "label", "0", **SMALL)
        detector = flow().fit(few)
        assert list(detector.feature_names_in_) == list(table())
        assert detector.score(table(5000, seed=9)) == pytest.approx(held.score(table(5000, seed=9)), abs=0.1)
        whole = read_training_rows(tmp_path / "both.parquet", "label", "0")
        known = survey(few, 0)
        assert known.count == len(whole)
        assert known.digest == survey(FileRows(rows.source, "label", "0"), 1).digest

    def test_a_label_that_no_row_has(self, parquet: Path) -> None:
        rows = FileRows(open_source(parquet), "g", "w")
        with pytest.raises(ValueError, match="no row has w in 'g', which holds x, y, z"):
            flow().fit(rows)

    def test_tables_larger_than_the_memory_given_pass_by(self, parquet: Path, tmp_path: Path) -> None:
        assert isinstance(read_training_rows(parquet), pd.DataFrame)
        # four numbers of 8 bytes and a text
        assert isinstance(read_training_rows(parquet, memory=N * 82), pd.DataFrame)
        assert isinstance(read_training_rows(parquet, memory=N * 82 - 1), FileRows)
        table(100).to_csv(tmp_path / "a.csv", index=False)
        size = (tmp_path / "a.csv").stat().st_size
        assert isinstance(read_training_rows(tmp_path / "a.csv", memory=size), pd.DataFrame)
        assert isinstance(read_training_rows(tmp_path / "a.csv", memory=size - 1), FileRows)

    @pytest.mark.parametrize("given", [{"y": np.zeros(N)}, {"sample_weight": np.ones(N)}])
    def test_what_belongs_to_rows_has_to_be_in_the_files(self, parquet: Path, given: dict[str, np.ndarray]) -> None:
        with pytest.raises(ValueError, match="make it a column"):
            flow().fit(files(parquet), **given)

    def test_an_infinite_number_is_found_before_training(self, tmp_path: Path) -> None:
        frame = table()
        frame.loc[11_000, "b"] = np.inf
        frame.to_parquet(tmp_path / "rows.parquet", row_group_size=500)
        with pytest.raises(ValueError, match=r"rows\.parquet: column 'b', row 11000 is infinite"):
            flow().fit(files(tmp_path / "rows.parquet"))
        flow(max_epochs=1, exclude=("b",)).fit(files(tmp_path / "rows.parquet"))

    def test_files_that_grow_under_the_hands_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "rows.csv"
        table(3000).to_csv(path, index=False)
        known = streaming.survey

        def slow(rows: FileRows, *options: object) -> streaming.Survey:
            found = known(rows, *options)  # type: ignore[arg-type]
            table(3100).to_csv(path, index=False)
            return found

        monkeypatch.setattr(streaming, "survey", slow)
        with pytest.raises(ValueError, match=r"rows\.csv.* changed .* 3,000 rows"):
            flow(max_epochs=1).fit(files(path, sample_rows=1000))

    def test_the_sample_of_wide_tables_has_fewer_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anomgen.data.passing.LEAST", 100)
        monkeypatch.setattr("anomgen.data.passing.SAMPLE_CELLS", 4000)
        pd.DataFrame(np.zeros((500, 10))).add_prefix("x").to_parquet(tmp_path / "wide.parquet")
        source = open_source(tmp_path / "wide.parquet")
        assert FileRows(source).sample_rows == 400
        assert FileRows(source, sample_rows=30).sample_rows == 30

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"label": "w"}, "there is no column 'w'"),
            ({"normal": 0}, "name it with label="),
            ({"sample_rows": 1}, "must be 2 or more"),
        ],
    )
    def test_what_cannot_be(self, parquet: Path, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FileRows(open_source(parquet), **options)  # type: ignore[arg-type]


class TestSurvey:
    def test_the_sample_is_uniform_and_in_order(self, parquet: Path) -> None:
        counts = np.zeros(4)
        for seed in range(20):
            known = survey(files(parquet, sample_rows=600), seed)
            assert known.count == N
            assert len(known.sample) == 600
            assert (np.diff(known.numbers) > 0).all()
            counts += np.histogram(known.numbers, bins=4, range=(0, N))[0]
        assert counts == pytest.approx(np.full(4, 3000), abs=200)

    def test_it_holds_the_rows_it_says(self, parquet: Path) -> None:
        known = survey(files(parquet, sample_rows=600), 0)
        expected = open_source(parquet).read().iloc[known.numbers].reset_index(drop=True)
        pd.testing.assert_frame_equal(known.sample, expected)

    def test_how_files_are_cut_changes_nothing(self, parquet: Path) -> None:
        source = open_source(parquet, chunk_rows=777)
        first, second = (survey(FileRows(s, sample_rows=600), 0) for s in (source, open_source(parquet)))
        assert np.array_equal(first.numbers, second.numbers)
        assert first.digest == second.digest


class TestDealt:
    def encoded(self, n: int) -> Encoded:
        z = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
        return Encoded(z, np.zeros(n), z - 1, z + 1)

    def test_a_pass_has_every_row_once_in_an_order_of_its_own(self, tmp_path: Path) -> None:
        rows = self.encoded(1000)
        dealt = Dealt(tmp_path, 1000, rows, buffer_rows=200, seed=0)
        dealt.deal((rows.take(np.arange(start, start + 50)) for start in range(0, 1000, 50)), 1000)
        passes = [list(dealt.blocks(number)) for number in (0, 1)]
        assert len(passes[0]) == 10
        for blocks in passes:
            z = np.concatenate([block.z for block in blocks])
            assert np.array_equal(np.sort(z[:, 0]), rows.z[:, 0])
            assert np.array_equal(np.concatenate([block.low for block in blocks]), z - 1)
            assert np.array_equal(np.concatenate([block.high for block in blocks]), z + 1)
        assert not np.array_equal(passes[0][0].z, passes[1][0].z)

    def test_any_part_of_a_pass_is_a_sample_of_all_rows(self, tmp_path: Path) -> None:
        rows = self.encoded(4000)
        dealt = Dealt(tmp_path, 4000, rows, buffer_rows=800, seed=0)
        dealt.deal([rows], 4000)
        first = next(dealt.blocks(0)).z[:, 0] / 2
        assert np.histogram(first, bins=4, range=(0, 4000))[0] == pytest.approx(np.full(4, 100), abs=40)

    def test_wide_rows_are_mixed_fewer_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streaming, "BUFFER_CELLS", 100)
        assert Dealt(tmp_path, 1000, self.encoded(9), buffer_rows=200, seed=0).mixed == 50

    def test_a_disk_without_room_is_told_before_it_is_full(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="set the environment variable TMPDIR"):
            Dealt(tmp_path, 10**15, self.encoded(9), buffer_rows=200, seed=0).deal([], 10**15)

    def test_no_more_rows_are_stored_than_the_schedule_looks_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = []

        class Counts(Dealt):
            def deal(self, blocks, count: int) -> int:  # type: ignore[no-untyped-def]
                stored.append((count, super().deal(blocks, count)))
                return stored[-1][1]

        monkeypatch.setattr(streaming, "Dealt", Counts)
        table(2600).to_parquet(tmp_path / "rows.parquet")
        detector = flow(max_epochs="auto", batch_size=1, validation_fraction=0.0)
        detector.fit(files(tmp_path / "rows.parquet", sample_rows=300))
        assert detector.history_[-1]["step"] == stored[0][0] == round(40 * 2600**0.5)
        assert stored[0][0] < stored[0][1] < 2400


def test_nothing_is_left_behind(parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = []

    class Watch(anomgen.Callback):
        def on_fit_begin(self, run: anomgen.Run) -> None:
            seen.extend(path.name for path in tmp_path.glob("*/*.f32"))

    flow(max_epochs=1, callbacks=(Watch(),)).fit(files(parquet))
    assert seen
    assert not list(tmp_path.iterdir())


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
