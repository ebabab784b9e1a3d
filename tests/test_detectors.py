"""The contract of every detector, run over every family found."""

from __future__ import annotations

import inspect
import pickle
import warnings
from dataclasses import fields
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import anomgen
from anomgen import runtime
from anomgen.detector import Detector, TrainedDetector
from anomgen.families.classical import KernelDetector
from tests.toys import FAMILIES, LIKELY, NATS, TRAINED, WEIGHTED, learned, other_statistic, toy

family = pytest.mark.parametrize("family", FAMILIES)
likely = pytest.mark.parametrize("family", LIKELY)
trained = pytest.mark.parametrize("family", TRAINED)
weighted = pytest.mark.parametrize("family", WEIGHTED)


def expected_failures(detector: Detector) -> dict[str, str]:
    """A weight of 2 and a row given twice: equal in expectation only where batches are random, and two rows not one
    wherever their number counts, as for the noise, the folds and the threshold.
    """
    weighted = "sample_weight" in inspect.signature(detector.fit).parameters
    found = {"check_sample_weight_equivalence_on_dense_data": "rows are counted"} if weighted else {}
    if isinstance(detector, KernelDetector):
        # The automatic threshold of a short table comes from rows that have no kernel of their own.
        for name in ("check_outliers_train", "check_outliers_fit_predict"):
            found[name] = "training rows sit on their own kernels, so that none is flagged"
    return found


@parametrize_with_checks(
    [toy(name, random_state=None) for name in FAMILIES], expected_failed_checks=expected_failures, xfail_strict=True
)
def test_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def table(n: int = 300, d: int = 3, seed: int = 0) -> np.ndarray:
    """Dependent normal columns; every seed draws from the same distribution."""
    mixing = np.eye(d) + 0.5 * np.random.default_rng(d).normal(size=(d, d)) / np.sqrt(d)
    return np.random.default_rng(seed).normal(size=(n, d)) @ mixing + 3.0


@family
class TestScores:
    @pytest.mark.parametrize("width", [1, 7, 20, 128, 784])
    def test_a_score_depends_on_nothing_but_its_row(self, family: str, width: int) -> None:
        X = table(400, width)
        detector = toy(family, max_epochs=1).fit(X)
        scores = detector.score_samples(X)
        order = np.random.default_rng(1).permutation(len(X))
        for count in (1, 2, 3):
            with runtime.threads(count):
                assert np.array_equal(detector.score_samples(X[order]), scores[order])
                assert np.array_equal(detector.score_samples(X[17:18]), scores[17:18])
                assert np.array_equal(detector.score_samples(np.asfortranarray(X[5:300])), scores[5:300])

    def test_signs_and_thresholds_agree(self, family: str) -> None:
        X = table()
        detector = toy(family, contamination=0.1).fit(X)
        scores = detector.score_samples(X)
        assert scores.dtype == np.float64
        assert np.array_equal(detector.decision_function(X), scores - detector.offset_)
        assert np.array_equal(detector.predict(X), np.where(scores >= detector.offset_, 1, -1))
        assert (detector.predict(X) == -1).sum() == 30
        assert np.array_equal(detector.anomaly_score(X), -scores)
        assert np.array_equal(toy(family, contamination=0.1).fit_predict(X), detector.predict(X))
        # Rows of a short table are judged by models that did not see them: their own model finds few of them odd.
        assert (toy(family).fit_predict(X) == -1).sum() <= 6

    def test_set_threshold_moves_predict_without_refitting(self, family: str) -> None:
        X = table()
        detector = toy(family).fit(X)
        scores = detector.score_samples(X)
        assert (detector.set_threshold(contamination=0.2).predict(X) == -1).sum() == pytest.approx(60, abs=1)
        detector.set_threshold(float(np.median(scores)))
        assert (detector.predict(X) == -1).sum() == 150
        assert np.array_equal(detector.score_samples(X), scores)
        for wrong in ({}, {"threshold": 1.0, "contamination": 0.1}):
            with pytest.raises(ValueError, match="one of"):
                detector.set_threshold(**wrong)

    def test_scores_are_nats_in_the_users_units(self, family: str) -> None:
        rng = np.random.default_rng(0)
        X = np.stack(
            [rng.normal(size=300), rng.standard_cauchy(300), rng.poisson(4, 300), rng.integers(0, 2, 300)], axis=1
        )
        X = np.column_stack([X, np.full(300, 2.0)])
        base = toy(family).fit(X)
        scores = base.score_samples(X)
        for j, real in enumerate([True, True, False, False, False]):
            for factor in (1e-3, 8.0):
                Y = X.copy()
                Y[:, j] *= factor
                scaled = toy(family).fit(Y)
                shift = scaled.score_samples(Y) - scores
                counted = real and type(base.statistic_).density
                assert shift == pytest.approx(-np.log(factor) * counted, abs=1e-4)
                assert [r["kind"] for r in scaled.describe()] == [r["kind"] for r in base.describe()]


@likely
def test_score_is_the_mean_log_likelihood_whatever_the_statistic(family: str) -> None:
    X = table()
    by_likelihood = toy(family, statistic="likelihood").fit(X)
    by_typicality = toy(family, statistic="typicality").fit(X)
    assert by_likelihood.score(X) == pytest.approx(by_likelihood.score_samples(X).mean())
    assert by_typicality.score(X) == pytest.approx(by_likelihood.score(X))
    assert by_typicality.score_samples(X).max() <= 0


@family
class TestLearning:
    def test_a_planted_outlier_ranks_first(self, family: str) -> None:
        X = table(500)
        detector = learned(family, contamination=0.1).fit(X)
        test = np.vstack([table(200, seed=9), [[60.0, -40.0, 50.0]]])
        assert detector.score_samples(test).argmin() == 200

    def test_far_rows_score_finite_and_ever_lower(self, family: str) -> None:
        X = table(300)
        detector = toy(family).fit(X)
        far = X[:1] + np.array([0, 10.0, 1e3, 1e6, 1e12, 1e100, 1e300])[:, None]
        scores = detector.score_samples(far)
        assert np.isfinite(scores).all()
        assert (np.diff(scores) < 0).all()

    def test_every_weight_changes(self, family: str) -> None:
        X = table(300)
        detector = toy(family).fit(X)
        from anomgen.detector.state import build_model, module_arrays

        before = build_model(detector).state_dict()
        trained = {name for name, _ in detector.model_.named_parameters()}
        moved = {
            name for name, value in module_arrays(detector.model_).items() if not np.array_equal(value, before[name])
        }
        assert trained <= moved

    def test_held_out_rows_can_be_given(self, family: str) -> None:
        X = table(300)
        detector = toy(family, max_epochs=40).fit(X, X_val=table(100, seed=2))
        key = "held_out_nats" if detector.model_.nats else "held_out_loss"
        assert all(np.isfinite(entry[key]) for entry in detector.history_)
        detector = toy(family, max_epochs=40, validation_fraction=0.0).fit(X)
        assert all(key not in entry for entry in detector.history_)

    def test_the_automatic_threshold_is_read_from_rows_that_did_not_train(self, family: str) -> None:
        X = table(3100)
        detector = toy(family).fit(X)
        order = np.random.default_rng(detector.seed_).permutation(len(X))
        held = order[: round(0.1 * len(X))]
        assert (detector.predict(X[held]) == -1).sum() == pytest.approx(0.01 * len(held), abs=1)
        share = toy(family, contamination=0.01).fit(X)
        assert (share.predict(X) == -1).sum() == 31
        assert share.offset_ != detector.offset_

    def test_the_automatic_threshold_of_a_short_table_holds_on_new_rows(self, family: str) -> None:
        X, new = table(150, 8), table(2000, 8, seed=5)
        assert (learned(family, max_epochs=200, noise=0.05).fit(X).predict(new) == -1).mean() < 0.05

    def test_y_is_ignored(self, family: str) -> None:
        X = table()
        a, b = toy(family).fit(X), toy(family).fit(X, np.arange(300) % 2)
        assert np.array_equal(a.score_samples(X), b.score_samples(X))

    def test_global_state_is_left_as_found(self, family: str) -> None:
        X = table()
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
        detector = toy(family, random_state=3).fit(X)
        detector.score_samples(X)
        detector.sample(3)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert torch.get_num_threads() == before[2]

    def test_a_seed_fixes_every_bit(self, family: str) -> None:
        X = table()
        a, b, c = (toy(family, random_state=seed).fit(X) for seed in (4, 4, 5))
        assert np.array_equal(a.score_samples(X), b.score_samples(X))
        assert np.array_equal(a.sample(5), b.sample(5))
        assert not np.array_equal(a.sample(5), c.sample(5))


@weighted
def test_sample_weight_zero_is_absence(family: str) -> None:
    X = table(300)
    weight = np.ones(300)
    weight[:40] = 0
    a = toy(family).fit(X, sample_weight=weight).score_samples(X)
    b = toy(family).fit(X[40:], sample_weight=weight[40:]).score_samples(X)
    assert np.array_equal(a, b)
    for wrong in (np.zeros(300), -weight):
        with pytest.raises(ValueError, match=r"[Nn]egative|zero"):
            toy(family).fit(X, sample_weight=wrong)


@trained
def test_warm_start_continues(family: str) -> None:
    X = table()
    once = toy(family).fit(X)
    more = toy(family, warm_start=True).fit(X)
    scores, encoder = more.score_samples(X), more.encoder_
    more.fit(X + 0.01)
    assert np.array_equal(scores, once.score_samples(X))
    assert more.encoder_ is encoder
    assert not np.array_equal(more.score_samples(X), scores)
    with pytest.raises(ValueError, match="features"):
        more.fit(table(d=4))


@likely
def test_robust_training_learns_little_from_scattered_anomalies(family: str) -> None:
    """Every twelfth row is anywhere; a density that learned from them as well is broader than it should be."""
    rng = np.random.default_rng(1)
    X, anywhere = table(920), rng.uniform(-12, 18, size=(80, 3))
    lead = {}
    for share in (0.0, 0.15):
        detector = learned(family, robust=share, contamination=0.08, statistic="likelihood", noise=0.1)
        scores = detector.fit(np.vstack([X, anywhere])).score_samples(np.vstack([X, anywhere]))
        lead[share] = np.median(scores[:920]) - np.median(scores[920:])
    assert lead[0.15] > lead[0.0] + 1.0


@trained
class TestPieces:
    def test_pieces_teach_like_the_whole(self, family: str) -> None:
        X, test = table(4000), table(500, seed=4)
        pieces = learned(family, max_epochs="auto")
        for start in range(0, 4000, 250):
            pieces.partial_fit(X[start : start + 250])
        whole = learned(family, max_epochs=30).fit(X)
        start = toy(family, max_epochs=1, learning_rate=1e-6).fit(X)
        # Rows of the same columns, each drawn on its own: only what binds the columns tells them apart.
        shuffled = np.random.default_rng(0).permuted(test, axis=0)
        quality = {
            who: roc_auc_score(np.repeat([1, 0], 500), detector.score_samples(np.vstack([test, shuffled])))
            for who, detector in (("pieces", pieces), ("whole", whole), ("start", start))
        }
        assert quality["pieces"] > quality["whole"] - 0.05
        assert quality["pieces"] > quality["start"] or family not in NATS
        if family in LIKELY:
            assert pieces.score(test) > whole.score(test) - 0.35
            assert pieces.score(test) > start.score(test)
        assert (pieces.predict(test) == -1).mean() == pytest.approx(0.01, abs=0.03)

    def test_few_rows_wait_until_a_score_is_asked_for(self, family: str) -> None:
        X = table(60)
        detector = toy(family)
        for row in range(0, 60, 20):
            detector.partial_fit(X[row : row + 20])
        assert not hasattr(detector, "model_")
        assert detector.score_samples(X).shape == (60,)
        assert hasattr(detector, "model_")

    def test_a_piece_that_cannot_be_used_costs_no_other(self, family: str) -> None:
        X = table(400)
        detector = toy(family).partial_fit(X[:200])
        bad = X[200:300].copy()
        bad[5, 1] = np.inf
        with pytest.raises(ValueError, match="infinity"):
            detector.partial_fit(bad)
        detector.partial_fit(X[200:])
        assert np.array_equal(
            detector.score_samples(X), toy(family).partial_fit(X[:200]).partial_fit(X[200:]).score_samples(X)
        )
        single = toy(family).partial_fit(X[:1])
        with pytest.raises(ValueError, match="1 sample"):
            single.score_samples(X)
        assert single.partial_fit(X[1:300]).score_samples(X).shape == (400,)

    def test_the_encoder_is_frozen_and_later_levels_are_unseen(self, family: str) -> None:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"c": rng.choice(["a", "b"], 300), "x": rng.normal(size=300)})
        detector = toy(family).partial_fit(frame)
        encoder = detector.encoder_
        detector.partial_fit(frame.assign(c="z"))
        assert detector.encoder_ is encoder
        assert np.isfinite(detector.score_samples(frame.assign(c="z"))).all()

    def test_gaps_may_come_later(self, family: str) -> None:
        X = table(600)
        X[450:, 1] = np.nan
        detector = toy(family).partial_fit(X[:300]).partial_fit(X[300:])
        assert np.isfinite(detector.score_samples(X)).all()
        assert np.isfinite(detector.sample(5)).all()

    def test_width_is_checked(self, family: str) -> None:
        detector = toy(family).partial_fit(table(300))
        with pytest.raises(ValueError, match="features"):
            detector.partial_fit(table(300, 4))


@family
class TestSamples:
    def test_any_cut_of_a_seed_gives_the_same_rows(self, family: str) -> None:
        detector = toy(family).fit(table())
        long = detector.sample(1500, random_state=1)
        assert np.array_equal(detector.sample(7, random_state=1), long[:7])
        assert not np.array_equal(detector.sample(7, random_state=2), long[:7])
        with pytest.raises(ValueError, match="n_samples=0"):
            detector.sample(0)

    def test_samples_wear_the_training_rows_clothes(self, family: str, mixed: pd.DataFrame) -> None:
        detector = toy(family).fit(mixed)
        drawn = detector.sample(200)
        assert list(drawn.columns) == list(mixed.columns)
        assert (drawn.dtypes == mixed.dtypes).all()
        assert set(drawn["city"].unique()) <= set(mixed["city"].unique())
        assert 0 < drawn["weight"].isna().mean() < 0.5
        assert np.isfinite(detector.score_samples(drawn)).all()

    def test_samples_follow_the_data(self, family: str) -> None:
        X = table(1000)
        drawn = learned(family).fit(X).sample(2000)
        assert drawn.mean(axis=0) == pytest.approx(X.mean(axis=0), abs=0.35)
        assert np.cov(drawn.T) == pytest.approx(np.cov(X.T), abs=0.6)


@family
class TestCompany:
    def test_pipeline_grid_search_clone_and_cross_validation(self, family: str) -> None:
        X = np.vstack([table(200), np.random.default_rng(1).uniform(-20, 20, size=(20, 3))])
        y = np.r_[np.ones(200), -np.ones(20)]
        folds = StratifiedKFold(2, shuffle=True, random_state=0)
        pipe = make_pipeline(StandardScaler(), toy(family))
        assert cross_val_score(pipe, X, y, cv=folds, scoring="roc_auc").min() > 0.6
        grid = GridSearchCV(toy(family), {"noise": [0.05, 0.2]}, cv=folds).fit(X, y)
        assert grid.best_params_["noise"] in (0.05, 0.2)
        assert clone(toy(family, noise=0.3)).noise == 0.3
        assert roc_auc_score(y, pipe.fit(X[:200]).score_samples(X)) > 0.8

    def test_columns_from_a_transformer_in_pandas_output(self, family: str, mixed: pd.DataFrame) -> None:
        chosen = make_column_transformer(("passthrough", ["length", "city", "weight"]), verbose_feature_names_out=False)
        pipe = make_pipeline(chosen.set_output(transform="pandas"), toy(family)).fit(mixed)
        assert pipe.score_samples(mixed).shape == (300,)

    def test_pickle_and_joblib_keep_every_bit(self, family: str, tmp_path: Any, mixed: pd.DataFrame) -> None:
        detector = toy(family, statistic=other_statistic(family)).fit(mixed)
        joblib.dump(detector, tmp_path / "d.joblib")
        for copy in (pickle.loads(pickle.dumps(detector)), joblib.load(tmp_path / "d.joblib", mmap_mode="r")):
            assert np.array_equal(copy.score_samples(mixed), detector.score_samples(mixed))
            assert copy.sample(3).equals(detector.sample(3))
        assert b"torch._utils" not in pickle.dumps(detector)
        unfitted = pickle.loads(pickle.dumps(toy(family)))
        assert not unfitted.__sklearn_is_fitted__()

    def test_frames_of_other_libraries(self, family: str, mixed: pd.DataFrame) -> None:
        detector = toy(family).fit(mixed)
        other = polars.from_pandas(mixed)
        assert detector.score_samples(other) == pytest.approx(detector.score_samples(mixed), abs=1e-9)
        assert toy(family).fit(other).score_samples(mixed).shape == (300,)

    def test_save_and_load_keep_every_bit(self, family: str, tmp_path: Any, mixed: pd.DataFrame) -> None:
        options = {"statistic": other_statistic(family), "contamination": 0.05, "kinds": {"visits": "categorical"}}
        detector = toy(family, **options).fit(mixed)
        detector.set_threshold(-1.5)
        detector.save(tmp_path / "model")
        loaded = anomgen.load(tmp_path / "model")
        assert type(loaded) is type(detector)
        assert np.array_equal(loaded.score_samples(mixed), detector.score_samples(mixed))
        assert np.array_equal(loaded.predict(mixed), detector.predict(mixed))
        assert loaded.sample(4, random_state=1).equals(detector.sample(4, random_state=1))
        ours, theirs = detector.get_params(), loaded.get_params()
        assert {k: v for k, v in ours.items() if k not in ("random_state", "verbose")} == {
            k: v for k, v in theirs.items() if k not in ("random_state", "verbose")
        }
        for name in ("offset_", "seed_", "n_features_in_", "n_epochs_", "best_epoch_", "history_", "data_digest_"):
            assert getattr(loaded, name) == getattr(detector, name)
        assert list(loaded.feature_names_in_) == list(mixed.columns)
        loaded.save(tmp_path / "again")
        again = anomgen.load(tmp_path / "again")
        assert np.array_equal(again.score_samples(mixed), detector.score_samples(mixed))
        if family in TRAINED:
            loaded.partial_fit(mixed)


@family
class TestSizes:
    @pytest.mark.parametrize(("n", "d"), [(2, 2), (30, 3), (300, 1), (40, 2000)])
    def test_odd_shapes_fit_and_score(self, family: str, n: int, d: int) -> None:
        X = table(n, d)
        detector = toy(family).fit(X)
        assert np.isfinite(detector.score_samples(X)).all()
        assert np.isfinite(detector.sample(5)).all()

    def test_duplicate_columns_stay_finite(self, family: str) -> None:
        X = table()
        X = np.hstack([X, X])
        assert np.isfinite(toy(family, max_epochs=30).fit(X).score_samples(X)).all()

    def test_every_parameter_matters_or_is_checked(self, family: str) -> None:
        """Another value of each common parameter changes a score, a threshold, the history, or is refused."""
        X = np.column_stack([table(400), np.random.default_rng(0).poisson(3, 400)])
        others = {
            "statistic": other_statistic(family),
            "contamination": 0.2,
            "kinds": {3: "categorical"},
            "exclude": (0,),
            "noise": 0.4,
            "validation_fraction": 0.3,
            "robust": 0.1,
            "random_state": 1,
        }
        if family in TRAINED:
            others |= {
                "max_epochs": 4,
                "batch_size": 50,
                "learning_rate": 1e-4,
                "weight_decay": 1.0,
                "precision": "bf16",
            }
        # A share asked for in numbers, which saves the folds; its own other value changes the threshold.
        common = {"max_epochs": 9, "contamination": 0.1}
        base = toy(family, **common).fit(X)
        for name, value in others.items():
            other = toy(family, **{**common, name: value}).fit(X)
            same = np.array_equal(other.score_samples(X), base.score_samples(X)) and other.offset_ == base.offset_
            assert not same or (name == "random_state" and not np.array_equal(other.sample(5), base.sample(5))), name
        # What these do has tests of its own.
        elsewhere = {"device", "callbacks", "verbose", "warm_start", "compile", "patience"}
        elsewhere |= {"image_shape", "image_size", "pixel_range"}
        assert {field.name for field in fields(TrainedDetector if family in TRAINED else Detector)} <= set(
            others
        ) | elsewhere


@family
class TestBadInput:
    def test_all_bad_parameters_are_named_at_once(self, family: str) -> None:
        wrong = {"contamination": 0.7, "exclude": "abc", "noise": -1, "robust": 0.5}
        if family in TRAINED:
            wrong |= {"max_epochs": 0, "precision": "int4"}
        with pytest.raises(ValueError, match=".*".join(f"{name}={value!r}" for name, value in wrong.items())):
            toy(family, **wrong).fit(table())

    def test_unknown_statistic_and_device(self, family: str) -> None:
        with pytest.raises(ValueError, match="statistic='odds' is unknown"):
            toy(family, statistic="odds").fit(table())
        with pytest.raises(ValueError, match="device='warp'"):
            toy(family, device="warp").fit(table())

    def test_wrong_columns_are_named(self, family: str, mixed: pd.DataFrame) -> None:
        detector = toy(family).fit(mixed)
        with pytest.raises(ValueError, match=r"missing columns \['city'\].*unknown columns \['town'\]"):
            detector.score_samples(mixed.rename(columns={"city": "town"}))
        with pytest.raises(ValueError, match="5 features"):
            toy(family).fit(table()).score_samples(table(d=5))

    def test_text_in_a_numeric_column(self, family: str, mixed: pd.DataFrame) -> None:
        detector = toy(family).fit(mixed)
        bad = mixed.astype({"length": object})
        bad.loc[3, "length"] = "tall"
        with pytest.raises(ValueError, match="'length' is numeric, but row 3 holds 'tall'"):
            detector.score_samples(bad)

    def test_an_unseen_level_scores_below_every_seen_one(self, family: str) -> None:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"c": rng.choice(["a", "b", "d"], 500, p=[0.6, 0.3, 0.1]), "x": rng.normal(size=500)})
        detector = learned(family, contamination=0.1).fit(frame)
        scores = {c: detector.score_samples(frame.assign(c=c)) for c in ("a", "b", "d", "new")}
        assert all((scores["new"] < scores[c]).all() for c in "abd")

    def test_empty_and_single_rows(self, family: str, mixed: pd.DataFrame) -> None:
        for empty in (mixed.iloc[:0], np.empty((0, 3))):
            with pytest.raises(ValueError, match=r"0 sample\(s\)"):
                toy(family).fit(empty)
        for single in (mixed.iloc[:1], np.ones((1, 3))):
            with pytest.raises(ValueError, match=r"1 sample\(s\)"):
                toy(family).fit(single)
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            toy(family).fit(mixed).score_samples(mixed.iloc[:0])

    def test_a_constant_table(self, family: str) -> None:
        with pytest.raises(ValueError, match="every column is constant"):
            toy(family).fit(np.ones((50, 3)))

    def test_infinite_values(self, family: str) -> None:
        X = table()
        detector = toy(family).fit(X)
        X[4, 2] = np.inf
        with pytest.raises(ValueError, match="infinity: column 2, row 4"):
            detector.score_samples(X)


class TestShell:
    def test_an_unannotated_default_is_refused(self) -> None:
        with pytest.raises(TypeError, match="noise overrides"):
            type("Silent", (Detector,), {"noise": 0.5})

    def test_fields_become_keyword_parameters(self) -> None:
        class Wide(Detector):
            width: int = 3
            noise: float = 0.7

        assert Wide().get_params()["width"] == 3
        assert Wide(width=4).noise == 0.7
        with pytest.raises(TypeError):
            Wide(4)  # type: ignore[misc]

    def test_families_from_outside_load_only_when_registered(self, tmp_path: Any) -> None:
        from anomgen.families.flow import FlowDetector

        class StrangerDetector(FlowDetector):
            pass

        X = table()
        StrangerDetector(max_epochs=1, random_state=0).fit(X).save(tmp_path / "m")
        with pytest.raises(anomgen.FormatError, match="StrangerDetector, which is not registered"):
            anomgen.load(tmp_path / "m")
        assert anomgen.register(StrangerDetector) is StrangerDetector
        assert type(anomgen.load(tmp_path / "m")) is StrangerDetector
        from anomgen import families

        assert families.get("stranger") is StrangerDetector
        families._registered.clear()
        with pytest.raises(TypeError):
            anomgen.register(int)
        with pytest.raises(ValueError, match="no family is called 'strange'"):
            families.get("strange")

    def test_entry_points_are_registered_on_request_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from importlib.metadata import EntryPoint

        from anomgen import families

        point = EntryPoint("toy", "tests.toys:OutsideDetector", "anomgen.families")
        monkeypatch.setattr(families, "entry_points", lambda group: [point] if group == point.group else [])
        assert "outside" not in families.names()
        assert families.register_entry_points() == ["OutsideDetector"]
        assert "outside" in families.names()
        families._registered.clear()

    def test_one_row_from_a_fitted_frame_detector_given_as_array_warns_only(self, numbers: np.ndarray) -> None:
        frame = pd.DataFrame(numbers, columns=list("abc"))
        detector = toy("FlowDetector").fit(frame)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scores = detector.score_samples(numbers)
        assert "feature names" in str(caught[0].message)
        assert np.array_equal(scores, detector.score_samples(frame))
