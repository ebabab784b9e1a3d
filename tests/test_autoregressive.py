"""Autoregressive models: exact densities in every order, causality, missing values, and gaps filled from both sides."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.families.autoregressive import Autoregressive, AutoregressiveDetector, ImageAutoregressive
from anomgen.generative import Space, abilities
from anomgen.nn.mixture import Mixtures, mixture_log_prob, mixture_sample
from anomgen.nn.orders import draw_orders

MIXED = Space(
    (5,),
    ("a", "a is missing", "b", "c", "d"),
    ("real", "cell", "cell", "real", "cell"),
    ((), (0.0,), (0.0, 1.0, 2.0), (), (0.0, 2.5)),
    (True, False, False, False, False),
    (0.0, 0.0, 0.0, 0.0, 0.01),
)
"""A number with gaps and its mask, four levels, a number, and two levels beside unseen ones."""

KINDS = [(b, c) for b in ("dense", "attention") for c in ("means", "mixtures")]
every_kind = pytest.mark.parametrize(("backbone", "conditional"), KINDS)
every_backbone = pytest.mark.parametrize("backbone", ["dense", "attention"])


def make(space: int | Space, *, seed: int = 0, scale: float = 0.3, **options: Any) -> Autoregressive:
    """A small model, its weights disturbed by `scale`."""
    with runtime.seeded(seed):
        model = Autoregressive(space, **{"hidden": (24, 24), "width": 16, **options})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def draw(model: Autoregressive, n: int, seed: int = 0) -> Tensor:
    with torch.no_grad(), runtime.seeded(seed):
        return model.sample(n)


def train(model: Autoregressive, z: Tensor, steps: int, rate: float = 5e-3) -> None:
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    with runtime.seeded(5):
        for _ in range(steps):
            optimizer.zero_grad()
            model.loss(z).mean().backward()
            optimizer.step()
    model.eval()


@every_kind
def test_an_output_depends_on_what_comes_before_it_in_its_order_only(backbone: str, conditional: str) -> None:
    model = make(6, backbone=backbone, conditional=conditional).double()
    x = rows(1, 6).double().t()

    def terms(x: Tensor) -> Tensor:
        return model._by_order(x.t())[:, :, 0]

    jacobian = torch.autograd.functional.jacobian(terms, x)[..., 0]
    for k, order in enumerate(model.network.orders):
        ordered = jacobian[k][order][:, order]
        assert (ordered.triu(1) == 0).all()
        assert (ordered.tril(-1) != 0).sum() >= 12


@every_kind
def test_conditionals_read_one_by_one_are_those_of_one_pass(backbone: str, conditional: str) -> None:
    model = make(MIXED, backbone=backbone, conditional=conditional)
    z = draw(model, 40)
    assert z.isnan().any()
    with torch.no_grad():
        every = model.network(model._features(z.t(), z.t().isnan()).expand(model.count, -1, -1))
        for k, order in enumerate(model.network.orders.tolist()):
            walk = model.network.walk(k, len(z))
            for place, c in enumerate(order):
                torch.testing.assert_close(
                    walk.predict(place, model.rows_out[c]), every[k][model.rows_out[c]], atol=1e-4, rtol=1e-4
                )
                walk.feed(place, model.rows_in[c], model._features_of(c, z[:, c]))


@every_kind
def test_masks_levels_and_observed_numbers_sum_and_integrate_to_one(backbone: str, conditional: str) -> None:
    space = Space(
        (3,),
        ("x", "x is missing", "c"),
        ("real", "cell", "cell"),
        ((), (0.0,), (0.0, 2.5)),
        (True, False, False),
        (0, 0, 0.01),
    )
    model = make(space, backbone=backbone, conditional=conditional)
    axis = torch.linspace(-30, 30, 6001)
    total = 0.0
    with torch.no_grad():
        for c in range(3):
            present = torch.stack([axis, torch.zeros_like(axis), torch.full_like(axis, c)], 1)
            total += model.log_prob(present).double().exp().sum().item() * 0.01
            total += model.log_prob(torch.tensor([[math.nan, 1.0, c]])).exp().item()
    assert total == pytest.approx(1.0, abs=1e-3)


def test_the_density_is_the_mean_over_orders() -> None:
    model = make(MIXED)
    z = draw(model, 50)
    with torch.no_grad():
        each = model._by_order(z).sum(1).double().exp()
        torch.testing.assert_close(model.log_prob(z).double(), each.mean(0).log(), atol=1e-5, rtol=1e-5)
    assert (each.std(0) > 0).any()


@every_kind
def test_terms_sum_to_the_density_and_missing_values_have_none(backbone: str, conditional: str) -> None:
    model = make(MIXED, backbone=backbone, conditional=conditional)
    z = draw(model, 50)
    with torch.no_grad():
        terms = model.log_prob_terms(z)
        torch.testing.assert_close(terms.sum(1), model.log_prob(z), atol=1e-4, rtol=1e-5)
        assert terms.shape == z.shape
        assert (terms[z.isnan()] == 0).all()
        assert (terms[~z.isnan()] != 0).all()
        nothing = torch.full((2, 3), math.nan)
        assert (make(3).log_prob_terms(nothing) == 0).all()


def test_a_term_tells_which_column_is_wrong() -> None:
    z = rows(2000, 3)
    z[:, 1] = z[:, 0] + 0.1 * z[:, 1]
    model = make(3, scale=0.0)
    train(model, z, 300)
    with torch.no_grad():
        terms = model.log_prob_terms(torch.tensor([[0.5, 0.5, 4.0], [0.5, 0.5, 0.0]]))
    assert terms[0].argmin() == 2
    assert terms[1].min() > -2.0


def test_masks_come_just_before_their_values_and_orders_in_pairs() -> None:
    orders = Autoregressive(MIXED, orders=5).network.orders
    assert orders.shape == (5, 5)
    for order in orders.tolist():
        assert order.index(0) == order.index(1) + 1
    plain = draw_orders([[k] for k in range(7)], 4)
    assert (plain[1] == plain[0].flip(0)).all()
    assert (plain.sort(1).values == torch.arange(7)).all()


def test_a_missing_last_column_is_summed_over_exactly() -> None:
    model = make(2, orders=1)
    first, last = model.network.orders[0].tolist()
    axis = torch.linspace(-40, 40, 8001)
    z = torch.zeros(len(axis), 2)
    z[:, first], z[:, last] = 0.7, axis
    gone = torch.zeros(1, 2)
    gone[0, first], gone[0, last] = 0.7, math.nan
    with torch.no_grad():
        summed = model.log_prob(z).double().exp().sum() * 0.01
        assert model.log_prob(gone).exp().item() == pytest.approx(summed.item(), rel=1e-3)


def test_hidden_inputs_teach_what_a_missing_column_leaves() -> None:
    z = rows(4000, 2)
    z[:, 1] = 0.9 * z[:, 0] + 0.2 * z[:, 1]
    spread = math.hypot(0.9, 0.2)
    at = torch.linspace(-2, 2, 21)
    gone = torch.stack([torch.full_like(at, math.nan), at], 1)
    truth = torch.distributions.Normal(0.0, spread).log_prob(at)
    errors = {}
    for dropout in (0.0, 0.25):
        model = make(2, scale=0.0, dropout=dropout)
        train(model, z, 400)
        with torch.no_grad():
            errors[dropout] = (model.log_prob(gone) - truth).abs().mean().item()
    assert errors[0.25] < 0.15
    assert errors[0.25] < errors[0.0]


@every_backbone
def test_samples_follow_the_density(backbone: str) -> None:
    model = make(MIXED, backbone=backbone)
    z = draw(model, 6000)
    assert z.is_contiguous()
    assert (z[:, 0].isnan() == (z[:, 1] == 1)).all()
    with torch.no_grad():
        whole = model.log_prob(z)
        for k in range(4):
            # Importance weights of one order under the mixture have mean one only if both are normalized alike.
            ratio = (model._by_order(z)[k].sum(0) - whole).exp()
            assert ratio.mean().item() == pytest.approx(1.0, abs=0.1)
        shares = torch.stack([(z[:, 2] == c).float().mean() for c in range(4)])
        first = next(k for k, order in enumerate(model.network.orders.tolist()) if order[0] == 2)
        blank = torch.full((1, 5), math.nan)
        expected = []
        for c in range(4):
            blank[0, 2] = c
            expected.append(model._by_order(blank)[first, 2, 0].exp())
        drawn = model._draw(first, torch.full((5, 6000), math.nan), torch.zeros(5, 6000, dtype=torch.bool))[0]
        own = torch.stack([(drawn[2] == c).float().mean() for c in range(4)])
    torch.testing.assert_close(own, torch.stack(expected), atol=0.03, rtol=0)
    assert shares.sum() == pytest.approx(1.0)


@every_backbone
def test_gaps_are_drawn_from_the_conditional_from_both_sides(backbone: str) -> None:
    model = make(2, backbone=backbone, scale=0.6)
    axis = torch.linspace(-15, 15, 3001)
    for gap in (0, 1):
        given = torch.full((400, 2), math.nan)
        given[:, 1 - gap] = 0.8
        with torch.no_grad(), runtime.seeded(1):
            drawn = model.sample_given(given, ~given.isnan(), particles=256)
        assert (drawn[:, 1 - gap] == given[:, 1 - gap]).all()
        grid = torch.full((len(axis), 2), 0.8)
        grid[:, gap] = axis
        with torch.no_grad():
            density = model.log_prob(grid).double().exp()
        below = density.cumsum(0) / density.sum()
        values = drawn[:, gap].sort().values
        at = below[torch.searchsorted(axis, values).clamp(max=3000)]
        distance = (at - torch.arange(1, 401) / 400).abs().max().item()
        assert distance < 0.12, (gap, distance)


@every_backbone
@pytest.mark.parametrize("dim", [1, 7, 20])
def test_a_score_depends_on_its_row_alone(backbone: str, dim: int) -> None:
    model = make(dim, backbone=backbone)
    z = rows(600, dim)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    scores = [
        runtime.map_rows(model.log_prob, [part], device=torch.device("cpu"), height=256)
        for part in (z, z[order], z[:1], z[300:411])
    ]
    assert (scores[1] == scores[0][order.numpy()]).all()
    assert scores[2] == scores[0][:1]
    assert (scores[3] == scores[0][300:411]).all()


@every_kind
def test_every_parameter_learns_and_the_fit_improves(backbone: str, conditional: str) -> None:
    model = Autoregressive(MIXED, backbone=backbone, conditional=conditional, hidden=(16, 16), width=16)
    z = draw(make(MIXED, seed=3, scale=0.8), 300)
    before = {name: p.clone() for name, p in model.named_parameters()}
    start = model.log_prob(z).mean().item()
    train(model, z, 60)
    assert model.log_prob(z).mean().item() > start + 0.3
    still = {name for name, p in model.named_parameters() if p.numel() and (p == before[name]).all()}
    assert not still, still


@every_backbone
@pytest.mark.parametrize(
    "space", [Space.real(1), Space((2,), ("a", "b"), ("cell",) * 2, ((0.0,), (0.0, 1.0)), (False,) * 2)]
)
@pytest.mark.parametrize("conditional", ["means", "mixtures"])
def test_one_number_and_no_number(backbone: str, conditional: str, space: Space) -> None:
    model = make(space, backbone=backbone, conditional=conditional)
    z = draw(model, 9)
    assert model.log_prob(z).isfinite().all()
    assert model.train().loss(z).shape == (9,)
    if space.kinds[0] == "cell":
        each = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0))
        assert model.log_prob(each).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@every_kind
def test_far_rows_lose_ever_more(backbone: str, conditional: str) -> None:
    model = make(3, backbone=backbone, conditional=conditional)
    with torch.no_grad():
        scores = model.log_prob(torch.tensor([12.0, 20.0, 50.0, 200.0, 700.0])[:, None].expand(-1, 3))
    assert scores.isfinite().all()
    assert (scores.diff() < 0).all()


def test_two_thousand_coordinates_are_drawn_in_seconds() -> None:
    model = make(2000, scale=0.0)
    assert sum(p.numel() for p in model.parameters()) < 2e6
    begun = time.process_time()
    assert draw(model, 1024).shape == (1024, 2000)
    assert time.process_time() - begun < 10


def test_mixtures_equal_torch_distributions() -> None:
    heads = Mixtures(3, 2, 4, weighted=True)
    y = torch.randn(2, 36, 50, generator=torch.Generator().manual_seed(0))
    x = rows(2 * 3 * 50, 1).view(2, 3, 50)
    logits, means, scales = (part.movedim(0, -1) for part in heads(y))
    components = torch.distributions.Normal(means, (scales / (1 + scales.abs() / math.log(1e3))).exp())
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), components)
    torch.testing.assert_close(mixture_log_prob(x, *heads(y)), mixture.log_prob(x), atol=1e-5, rtol=1e-5)
    with runtime.seeded(0):
        drawn = mixture_sample(*(part[:, :1, :1, :1].expand(-1, 1, 1, 40_000) for part in heads(y)))
    assert drawn.mean().item() == pytest.approx(mixture.mean[0, 0, 0].item(), abs=0.05)
    assert drawn.std().item() == pytest.approx(mixture.stddev[0, 0, 0].item(), rel=0.05)


@pytest.mark.parametrize(
    "changed",
    [
        {"backbone": "attention"},
        {"conditional": "mixtures"},
        {"orders": 2},
        {"hidden": (8,)},
        {"components": 3},
        {"backbone": "attention", "width": 32},
        {"backbone": "attention", "blocks": 1},
    ],
)
def test_every_option_of_size_changes_the_model(changed: dict[str, Any]) -> None:
    def shapes(**options: Any) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for p in Autoregressive(5, **{"hidden": (16, 16), **options}).parameters()]

    others = [shapes()] + ([shapes(backbone="attention")] if len(changed) > 1 else [])
    assert shapes(**changed) not in others


def test_heads_and_dropout_change_what_is_computed() -> None:
    z = rows(20, 5)
    one, four = (make(5, backbone="attention", heads=heads) for heads in (1, 4))
    four.load_state_dict(one.state_dict())
    assert not torch.allclose(one.log_prob(z), four.log_prob(z))
    losses = []
    for dropout in (0.0, 0.4):
        with runtime.seeded(2):
            losses.append(make(5, dropout=dropout).train().loss(z))
    assert not torch.allclose(*losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "rnn"}, "backbone='rnn'.*'dense', 'attention'"),
        ({"conditional": "all"}, "conditional='all'.*'means', 'mixtures'"),
        ({"orders": 0}, "orders=0.*at least 1"),
        ({"orders": "many"}, "orders='many'.*integer"),
        ({"hidden": ()}, r"hidden=\(\).*positive integers"),
        ({"width": 10, "heads": 4}, "width=10.*multiple of heads=4"),
        ({"blocks": 0}, "blocks=0.*at least 1"),
        ({"heads": True}, "heads=True.*integer"),
        ({"components": 0}, "components=0.*at least 1"),
        ({"dropout": 0.6}, r"dropout=0\.6.*at most 0\.5"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoregressive(3, **options)


def test_detector_builds_the_model_it_describes() -> None:
    options = {"backbone": "attention", "conditional": "mixtures", "orders": 3, "width": 8, "blocks": 1, "heads": 2}
    model = AutoregressiveDetector(**options, components=5, dropout=0.2).build(Space.real(3))
    assert {"log_prob", "log_prob_terms", "sample", "sample_given"} <= abilities(model)
    assert model.network.orders.shape == (3, 3)
    assert (model.mixtures.components, model.mixtures.weighted, model.dropout) == (5, True, 0.2)
    assert (model.network.width, len(model.network.blocks), model.network.blocks[0].heads) == (8, 1, 2)
    assert AutoregressiveDetector(hidden=(9,)).build(Space.real(3)).network.weights[0].shape[1] == 9


def quick(**options: Any) -> AutoregressiveDetector:
    chosen = {"max_epochs": 60, "hidden": (32, 32), "contamination": 0.05, "random_state": 0, "verbose": False}
    return AutoregressiveDetector(**{**chosen, **options})


def test_gaps_are_filled_from_either_side_and_nothing_else_changes() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=1500)
    X = np.stack([a, 2 * a + 0.3 * rng.normal(size=1500), rng.normal(size=1500)], 1)
    detector = quick().fit(X)
    test = X[:400].copy()
    test[:200, 0], test[200:, 1] = np.nan, np.nan
    filled = detector.impute(test).rows
    assert np.array_equal(filled[~np.isnan(test)], test[~np.isnan(test)])
    assert np.corrcoef(filled[:200, 0], X[:200, 0])[0, 1] > 0.9
    assert np.corrcoef(filled[200:, 1], X[200:400, 1])[0, 1] > 0.9
    assert (filled[200:, 1] - X[200:400, 1]).std() > 0.2, "draws, not means"
    assert np.array_equal(filled, detector.impute(test).rows)
    assert not np.array_equal(filled, detector.impute(test, random_state=1).rows)
    assert np.isnan(test).sum() == 400
    assert np.array_equal(detector.impute(X).rows, X)


def test_frames_keep_columns_index_and_dtypes_when_filled(mixed: pd.DataFrame) -> None:
    frame = mixed.set_index(np.arange(300) + 1000)
    frame["visits"] = frame["visits"].astype("Int64")
    frame["code"] = "left out"
    detector = quick(max_epochs=10, exclude=("code",)).fit(frame)
    gone = frame.copy()
    for j, name in enumerate(("length", "visits", "city", "seen", "weight")):
        gone.loc[gone.index[j * 20 : j * 20 + 30], name] = None
    gone.loc[gone.index[:3], "code"] = None
    filled = detector.impute(gone).rows
    assert (filled.dtypes == gone.dtypes).all()
    assert filled.index.equals(gone.index)
    assert not filled.drop(columns="code").isna().any().any()
    assert filled["code"].isna().sum() == 3
    assert set(filled["city"].unique()) <= {"Ghent", "Lyon", "Turin"}
    pd.testing.assert_frame_equal(filled.where(gone.notna()), gone.where(gone.notna()), check_dtype=False)


def test_missing_values_are_scored_as_what_is_left() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=2000)
    X = np.stack([a, a + 0.3 * rng.normal(size=2000)], 1)
    detector = quick(noise=0.0, dropout=0.25).fit(X)
    at = np.linspace(-2, 2, 9)
    left = detector.score_samples(np.stack([at, np.full(9, np.nan)], 1))
    truth = -0.5 * at**2 - 0.5 * math.log(2 * math.pi)
    assert left - left.mean() == pytest.approx(truth - truth.mean(), abs=0.3)
    X[rng.random(2000) < 0.3, 1] = np.nan
    detector = quick(noise=0.0).fit(X)
    left = detector.score_samples(np.stack([at, np.full(9, np.nan)], 1))
    assert left == pytest.approx(truth + math.log(0.3), abs=0.35)


def bumps(n: int, seed: int = 0) -> Any:
    """Images of 6 by 6 pixels with one bright bump."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:6, :6]
    centre = rng.uniform(1, 4, (2, n, 1, 1))
    bright = 255 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 3)
    return np.clip(bright + rng.normal(0, 8, bright.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def painter() -> AutoregressiveDetector:
    options = {"channels": 8, "blocks": 1, "components": 3, "max_epochs": 15, "statistic": "likelihood"}
    with pytest.warns(UserWarning, match="Likelihood on images"):
        return quick(**options, batch_size=16).fit(bumps(400))


def test_images_have_a_network_of_their_own() -> None:
    model = AutoregressiveDetector(channels=8, blocks=3, components=2).build(Space.pixels(3, 6, 5))
    assert isinstance(model, ImageAutoregressive)
    assert (model.mixture.components, model.network.left.convolution.out_channels, len(model.network.blocks)) == (
        2,
        8,
        3,
    )


def test_images_are_scored_by_their_exact_probability(painter: AutoregressiveDetector) -> None:
    new = bumps(200, seed=1)
    bits = -painter.score_samples(new) / 36 / math.log(2)
    assert 3 < bits.mean() < 7, "noise of 8 levels alone has about 5 bits a pixel"
    shuffled = np.random.default_rng(0).permuted(new.reshape(200, 36), axis=1).reshape(new.shape)
    assert painter.score_samples(shuffled).max() < np.quantile(painter.score_samples(new), 0.05)
    drawn = painter.sample(64)
    assert drawn.shape == (64, 6, 6)
    assert drawn.dtype == np.uint8
    assert painter.score_samples(drawn).mean() > painter.score_samples(shuffled).mean()


def test_missing_pixels_are_painted_in(painter: AutoregressiveDetector) -> None:
    whole = bumps(30, seed=2)
    gaps = np.zeros(whole.shape, dtype=bool)
    gaps[:10, 2:4], gaps[10:20, :, 3] = True, True
    holed = np.where(gaps, np.nan, whole)
    filled = painter.impute(holed).rows
    assert filled.dtype == holed.dtype
    assert np.array_equal(filled[~gaps], whole[~gaps])
    errors = np.abs(filled - whole)[gaps].mean()
    assert errors < 0.6 * np.abs(whole[gaps] - np.float64(whole[gaps].mean())).mean()
    assert np.array_equal(painter.impute(holed).rows, filled)
    assert not np.array_equal(painter.impute(holed, random_state=1).rows, filled)
    assert np.array_equal(painter.impute(whole).rows, whole)


@pytest.mark.parametrize("layout", ["last", "first", "flat"])
def test_gaps_are_found_in_every_layout(layout: str) -> None:
    colours = np.stack([bumps(60), bumps(60, 1), bumps(60, 2)], 1).astype(np.float64)
    moved = {"last": colours.transpose(0, 2, 3, 1), "first": colours, "flat": colours.reshape(60, -1)}[layout]
    shape = (3, 6, 6) if layout == "flat" else None
    detector = quick(image_shape=shape, channels=4, blocks=1, components=2, max_epochs=1).fit(moved)
    holed = moved.copy()
    holed.reshape(60, -1)[::7, ::5] = np.nan
    filled = detector.impute(holed).rows
    assert filled.shape == moved.shape
    assert not np.isnan(filled).any()
    assert np.array_equal(filled[~np.isnan(holed)], moved[~np.isnan(holed)])


def test_pixels_of_another_size_cannot_be_filled() -> None:
    images = bumps(60).astype(np.float64)
    detector = quick(image_size=4, channels=4, blocks=1, components=2, max_epochs=1).fit(images)
    assert np.array_equal(detector.impute(images).rows, images)
    images[3, 2, 2] = np.nan
    with pytest.raises(ValueError, match="image_size"):
        detector.impute(images)
