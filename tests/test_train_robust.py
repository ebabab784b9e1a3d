"""Rows left out of training, models that know their solution, and what models report of themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from anomgen.encode import Encoded
from anomgen.generative import Space
from anomgen.train import Trainer
from anomgen.train.judge import Judge, trimmed
from tests.train_toys import TRAINER, Gaussian, Solved, contaminated


class TestRobust:
    @pytest.mark.parametrize("held", [False, True])
    def test_the_least_likely_share_does_not_train(self, held: bool) -> None:
        z = contaminated()
        rows = Encoded(z, np.zeros(len(z)), z, z)
        plain, robust = (Gaussian(2) for _ in range(2))
        for model, share in ((plain, 0.0), (robust, 0.25)):
            trainer = replace(TRAINER, robust=share, weight_decay=0.0)
            trainer.fit(model, Space.real(2), rows, held_out=rows if held else None)
        far = torch.full((1, 2), 5.0)
        with torch.no_grad():
            assert float(plain.log_prob(far)) > -8
            assert float(robust.log_prob(far)) < -12
            assert robust.log_prob(torch.zeros(1, 2)) > plain.log_prob(torch.zeros(1, 2))

    def test_given_weights_still_count(self) -> None:
        z = contaminated(0.0)
        weight = np.where(z[:, 0] > 0, 4.0, 1.0)
        rows = Encoded(z, np.zeros(len(z)), z, z)
        model = Gaussian(2)
        replace(TRAINER, robust=0.05).fit(model, Space.real(2), rows, weight=weight)
        assert model.mean.detach()[0] > 0.2

    def test_trimming_takes_the_highest_losses_and_never_all(self) -> None:
        assert trimmed(np.array([3.0, 1.0, 2.0, 5.0]), 0.5).tolist() == [0, 1, 1, 0]
        assert trimmed(np.array([3.0, 1.0]), 0.49).tolist() == [1, 1]
        assert trimmed(np.array([3.0, 1.0, 0.0]), 0.4, np.array([2.0, 3.0, 4.0])).tolist() == [0, 3, 4]

    def test_a_judge_that_trims_is_blind_to_the_worst_rows(self) -> None:
        losses = np.r_[np.ones(98), 1e6, 1e6]
        assert Judge(trim=0.02)(losses)[0] == 1.0
        judge = Judge(trim=0.02)
        judge(losses)
        assert judge(np.r_[np.ones(98), 1e9, 1e9])[1]
        assert not judge(np.r_[np.full(98, 2.0), 0.0, 0.0])[1]


class TestClosedForm:
    def test_is_solved_once_on_all_rows_without_noise(self) -> None:
        z = contaminated(0.0)
        model = Solved()
        run = Trainer(noise=0.5, verbose=False).fit(model, Space.real(2), Encoded(z, np.ones(len(z)), z, z))
        assert model.calls == [1000]
        assert model.mean.numpy() == pytest.approx(z.mean(axis=0), abs=1e-6)
        assert model.variance.numpy() == pytest.approx(z.var(axis=0) + 0.25, abs=1e-4)
        assert run.history[0]["train_nats"] == pytest.approx(1.0 + float(model.log_prob(torch.from_numpy(z)).mean()))
        assert run.info["epochs_planned"] == run.best_epoch == len(run.history) == 1

    def test_weights_and_held_out_rows_reach_it(self) -> None:
        z = contaminated(0.0)
        rows = Encoded(z, np.zeros(len(z)), z, z)
        weight = np.where(z[:, 0] > 0, 1.0, 0.0)
        model = Solved()
        run = Trainer(noise=0.0, verbose=False).fit(model, Space.real(2), rows, weight=weight, held_out=rows)
        assert model.mean[0] > 0.5
        assert run.history[0]["held_out_nats"] == pytest.approx(float(model.log_prob(torch.from_numpy(z)).mean()))

    def test_robust_rounds_leave_out_what_the_last_one_found_unlikely(self) -> None:
        z = contaminated()
        plain, robust = Solved(), Solved()
        Trainer(noise=0.0, verbose=False).fit(plain, Space.real(2), Encoded(z, np.zeros(len(z)), z, z))
        Trainer(noise=0.0, robust=0.25, verbose=False).fit(robust, Space.real(2), Encoded(z, np.zeros(len(z)), z, z))
        assert robust.calls[0] == 1000
        assert set(robust.calls[1:]) == {750}
        assert plain.mean.mean() > 0.9
        assert robust.mean.abs().mean() < 0.2


class TestSelfReports:
    def test_measures_enter_the_history_and_change_no_training(self) -> None:
        class Talkative(Gaussian):
            def measure(self, z: Tensor) -> dict[str, float]:
                return {"rows": float(len(z)), "draw": float(torch.rand(()))}

        z = contaminated(0.0, 1500)
        rows = Encoded(z, np.zeros(len(z)), z, z)
        quiet, talkative = Gaussian(2), Talkative(2)
        for model in (quiet, talkative):
            run = Trainer(max_epochs=5, verbose=False).fit(model, Space.real(2), rows)
        assert {entry["rows"] for entry in run.history} == {1000.0}
        assert torch.equal(quiet.mean, talkative.mean)

    def test_a_loss_that_is_no_likelihood_is_not_called_nats(self) -> None:
        class Other(Gaussian):
            nats = False
            judged = False

        z = contaminated(0.0)
        rows = Encoded(z, np.full(len(z), 100.0), z, z)
        run = Trainer(max_epochs=200, learning_rate=0.5, verbose=False).fit(
            Other(2), Space.real(2), rows, held_out=rows.take(np.arange(100))
        )
        assert set(run.history[0]) >= {"train_loss", "held_out_loss"}
        assert not set(run.history[0]) & {"train_nats", "held_out_nats"}
        assert run.history[0]["train_loss"] < 50
        assert run.stopped_because == "schedule"
        assert run.best_epoch == 200
