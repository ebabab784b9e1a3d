"""Codes: priors that draw what they weigh, posteriors that pay what they cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from anomgen import runtime
from anomgen.nn.latent import LATENTS, Discrete, Latent, make_latent

CONTINUOUS = [kind for kind in LATENTS if kind != "discrete"]
every_kind = pytest.mark.parametrize("kind", LATENTS)
continuous = pytest.mark.parametrize("kind", CONTINUOUS)


def disturbed(kind: str, units: int = 2, seed: int = 0) -> Latent:
    """Codes of a kind whose prior has learned something."""
    with runtime.seeded(seed):
        code = make_latent(kind, units, 5, categories=3, pieces=4)
        with torch.no_grad():
            for parameter in code.parameters():
                parameter.add_(0.7 * torch.randn_like(parameter))
    return code.double()


def posterior_of(code: Latent, n: int, spread: float = 0.5, seed: int = 1) -> Tensor:
    return spread * torch.randn(code.inputs, n, generator=torch.Generator().manual_seed(seed)).double()


def draws(code: Latent, posterior: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors, each repeated `n` times, noise, and codes."""
    with runtime.seeded(3), torch.no_grad():
        posterior = posterior.repeat_interleave(n, 1)
        noise = code.noise(posterior.shape[1], posterior)
        return posterior, noise, code.draw(posterior, noise)


def test_a_code_at_mean_three_pays_for_it() -> None:
    code = Latent(1)
    assert code.divergence(torch.tensor([[3.0], [0.0]])).item() == pytest.approx(4.5)
    assert code.divergence(torch.zeros(2, 1)).item() == 0.0


def test_normal_divergence_equals_torch_distributions() -> None:
    code = disturbed("normal")
    posterior = posterior_of(code, 7, 2.0)
    mean, log_scale = code.normal(posterior)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_scale.exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(code.divergence(posterior), theirs)


@every_kind
def test_divergences_are_never_negative_and_learn(kind: str) -> None:
    code = disturbed(kind)
    posterior = posterior_of(code, 500, 3.0).requires_grad_()
    divergence = code.divergence(posterior)
    assert divergence.shape == (2, 500)
    assert divergence.min() > -1e-9
    divergence.sum().backward()
    assert posterior.grad is not None
    assert posterior.grad.isfinite().all()
    assert (posterior.grad != 0).any(1).all()
    for parameter in code.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@continuous
def test_divergence_is_the_mean_of_minus_the_log_weight(kind: str) -> None:
    code = disturbed(kind)
    posterior, n = posterior_of(code, 6), 40_000
    repeated, noise, _ = draws(code, posterior, n)
    with torch.no_grad():
        weight = code.log_weight(repeated, noise).view(2, 6, n)
        error = weight.std(2) / math.sqrt(n)
        assert ((code.divergence(posterior) + weight.mean(2)).abs() < 5 * error + 1e-9).all()


def test_discrete_divergence_equals_torch_distributions() -> None:
    code = disturbed("discrete")
    assert isinstance(code, Discrete)
    posterior = posterior_of(code, 7, 2.0)
    ours = torch.distributions.Categorical(logits=posterior.view(2, 3, 7).transpose(1, 2))
    prior = torch.distributions.Categorical(logits=code.logits[:, None])
    torch.testing.assert_close(code.divergence(posterior), torch.distributions.kl_divergence(ours, prior))


@continuous
def test_weights_turn_posterior_draws_into_prior_draws(kind: str) -> None:
    """Weights average one, and weighted codes have the quantiles of samples: density and sampling are one prior."""
    code = disturbed(kind, units=1)
    # A broad posterior covers the prior, so that weights are bounded or nearly so.
    broad = torch.tensor([0.3, 1.0, 0.0, 3.0]).double()[: code.inputs, None]
    repeated, noise, codes = draws(code, broad, 400_000)
    with runtime.seeded(5), torch.no_grad():
        weight = code.log_weight(repeated, noise)[0].exp()
        drawn = code.sample(400_000, codes)[0]
    assert weight.mean().item() == pytest.approx(1.0, abs=0.05)
    for cut in (-1.0, -0.5, 0.0, 0.2, 0.8, 1.5):
        share = (weight * (codes[0] <= cut)).mean().item()
        assert share == pytest.approx((drawn <= cut).double().mean().item(), abs=0.02), cut


def test_normal_rectified_and_piecewise_samples_have_the_moments_of_their_prior() -> None:
    n = 200_000
    with runtime.seeded(0), torch.no_grad():
        normal, rectified = (
            Latent(1).sample(n, torch.zeros(1)),
            make_latent("rectified", 1, 1).sample(n, torch.zeros(1)),
        )
        piecewise = make_latent("piecewise", 1, 1, pieces=2).double()
        piecewise.logits.copy_(torch.tensor([[math.log(0.2), math.log(0.8)]]))
        halves = piecewise.sample(n, piecewise.logits)
    assert normal.mean().item() == pytest.approx(0.0, abs=0.01)
    assert normal.var().item() == pytest.approx(1.0, abs=0.02)
    assert (rectified == 0).double().mean().item() == pytest.approx(0.5, abs=0.005)
    assert rectified.mean().item() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=0.01)
    assert rectified.square().mean().item() == pytest.approx(0.5, abs=0.01)
    # Half normals: the mean of one is sqrt(2 / pi), its second moment one.
    assert halves.mean().item() == pytest.approx(0.6 * math.sqrt(2 / math.pi), abs=0.01)
    assert halves.square().mean().item() == pytest.approx(1.0, abs=0.02)


def test_horseshoe_samples_have_the_quantiles_of_their_prior() -> None:
    """A half-Cauchy size has no mean: P(|u| <= t) = E 2 Phi(t / (tau lambda)) - 1 by numerical integration."""
    code = make_latent("horseshoe", 1, 1)
    with runtime.seeded(0), torch.no_grad():
        code.log_tau.fill_(math.log(0.5))
        drawn = code.sample(200_000, code.log_tau).abs()
    for t in (0.05, 0.3, 1.0, 5.0, 50.0):
        inside = integrate.quad(
            lambda v, t=t: (2 * stats.norm.cdf(t / (0.5 * np.exp(v))) - 1) / (np.pi * np.cosh(v)), -30, 30, limit=200
        )[0]
        assert (drawn <= t).double().mean().item() == pytest.approx(inside, abs=0.005), t


def test_discrete_samples_have_the_shares_of_their_prior() -> None:
    code = disturbed("discrete")
    assert isinstance(code, Discrete)
    with runtime.seeded(0), torch.no_grad():
        drawn = code.sample(100_000, code.logits)
        torch.testing.assert_close(drawn.mean(1), code.logits.softmax(1).flatten(), atol=0.01, rtol=0.0)
        codes, log_share = code.enumerate()
    assert codes.shape == (6, 9)
    assert len(set(map(tuple, codes.t().tolist()))) == 9
    assert log_share.exp().sum().item() == pytest.approx(1.0)
    torch.testing.assert_close((codes * log_share.exp()).sum(1), code.logits.softmax(1).flatten())


def test_relaxed_categories_are_one_hot_and_cool_down() -> None:
    code = disturbed("discrete")
    assert isinstance(code, Discrete)
    posterior = posterior_of(code, 2000, 1.0).requires_grad_()
    sizes = []
    for progress in (0.0, 1.0):
        code.anneal(progress)
        with runtime.seeded(0):
            drawn = code.draw(posterior, code.noise(2000, posterior))
        torch.testing.assert_close(drawn.detach(), drawn.detach().round())
        assert (drawn.detach().view(2, 3, -1).sum(1).round() == 1).all()
        (gradient,) = torch.autograd.grad(drawn[0].sum(), posterior)
        sizes.append(gradient[:3].abs().median().item())
    assert sizes[1] < 0.5 * sizes[0]
    share = drawn.detach().view(2, 3, -1).mean(2)
    torch.testing.assert_close(share, code.mean(posterior).detach().view(2, 3, -1).mean(2), atol=0.03, rtol=0.0)


@continuous
def test_means_are_those_of_draws(kind: str) -> None:
    code = disturbed(kind)
    posterior = posterior_of(code, 4)
    _, _, codes = draws(code, posterior, 50_000)
    torch.testing.assert_close(code.mean(posterior), codes.view(2, 4, -1).mean(2), atol=0.03, rtol=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cauchy"}, "latent='cauchy'.*'normal', 'horseshoe'"),
        ({"kind": "normal", "units": 0}, "latent_dim=0.*at least 1"),
        ({"kind": "normal", "units": "many"}, "latent_dim='many'.*integer"),
        ({"kind": "piecewise", "pieces": 1}, "pieces=1.*at least 2"),
        ({"kind": "discrete", "categories": 1}, "categories=1.*at least 2"),
        ({"kind": "discrete", "units": 5}, "latent_dim=5.*categories=8.*4,096"),
    ],
)
def test_invalid_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_latent(**{"units": "auto", "dim": 3, **options})  # type: ignore[arg-type]


def test_the_number_of_units_follows_from_the_coordinates() -> None:
    assert [make_latent("normal", "auto", dim).units for dim in (1, 5, 400)] == [1, 5, 16]
    assert [make_latent("discrete", "auto", 5, categories=k).units for k in (2, 4, 8, 300)] == [8, 4, 2, 1]
