"""Variational autoencoders: densities by a code that an encoder guesses and a decoder explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor
from torch.nn.functional import softplus

from anomgen import runtime
from anomgen.detector import ConditionalDetector, fitting
from anomgen.detector.checks import validated
from anomgen.encode import JointEncoder
from anomgen.generative import GenerativeModel, Objective, Space
from anomgen.nn import MLP, Condition, check_counts, check_number, check_widths
from anomgen.nn.latent import Discrete, make_latent
from anomgen.nn.observation import Observation
from anomgen.nn.shortcut import Shortcut

FEW = 4
"""Draws that held-out rows are judged by at most."""
ACTIVE = 0.01
"""Variance over rows of a code's posterior mean above which it says something about them (Burda et al.)."""


class VAE(GenerativeModel):
    r"""Variational autoencoder of rows ``z`` of shape ``(n, d)``.

    .. math:: \log p(z) \ge E_{q(u \mid z)} \log p(z \mid u) - KL(q(u \mid z) \,\|\, p(u))

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; with conditions among them the density is that of the others given these.
    latent, latent_dim, categories, pieces, hidden, decoder, beta, free_bits, warmup, draws, adversarial
        As in :class:`VAEDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    Examples
    --------
    >>> VAE(2, latent_dim=1, hidden=(8,)).log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    codes = True
    likelihood: Literal["exact", "bound", "estimate"] = "bound"

    bank: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        latent: str = "normal",
        latent_dim: int | Literal["auto"] = "auto",
        categories: int = 8,
        pieces: int = 8,
        hidden: Sequence[int] = (128, 128),
        decoder: str = "gaussian",
        beta: float = 1.0,
        free_bits: float = 0.0,
        warmup: float = 0.5,
        draws: int = 16,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__()
        check_counts(draws=draws)
        check_number("beta", beta, 0.0)
        check_number("free_bits", free_bits, 0.0)
        check_number("warmup", warmup, 0.0, 1.0)
        check_number("adversarial", adversarial, 0.0)
        check_widths(hidden)
        space = Space.real(space) if isinstance(space, int) else space
        self.condition, self.observation = Condition(space), Observation(space, decoder)
        self.code = make_latent(latent, latent_dim, space.modelled, categories, pieces)
        given = self.condition.width
        self.encoder = Shortcut(self.observation.inputs + given, self.code.inputs, hidden, self.code.units)
        self.decoder = Shortcut(self.code.width + given, self.observation.width, hidden[::-1], self.observation.width)
        self.discriminator = MLP(self.observation.inputs + given, 1, hidden) if adversarial else None
        self.beta, self.free_bits, self.warmup, self.adversarial = beta, free_bits, warmup, adversarial
        self.passes, self.progress = draws, 0.0
        if self.code.exact:
            self.likelihood, self.passes = "exact", categories**self.code.units
        else:
            self.register_buffer("bank", torch.randn(self.code.noises, draws, 1))

    def log_prob(self, z: Tensor) -> Tensor:
        r"""Log-likelihood of every row in nats, shape ``(n,)``: a bound, or exact for categorical codes.

        The bound is :math:`\log \tfrac1K \sum_k p(u_k) p(z \mid u_k) / q(u_k \mid z)` over the fixed noise bank.
        """
        return self._summed(z) if self.code.exact else self._bound(z, self.bank.shape[1])

    def elbo(self, z: Tensor) -> Tensor:
        """Evidence lower bound of every row under fresh noise, nats, shape ``(n,)``."""
        explained, divergence = self._terms(*self.condition.split(z))
        return explained - divergence.sum(0)

    def loss(self, z: Tensor) -> Tensor:
        """What is minimized, with the value of minus the bound in nats whatever weights the terms have."""
        x, context = self.condition.split(z)
        explained, divergence = self._terms(x, context)
        bound = divergence.sum(0) - explained
        paid = divergence
        if self.free_bits:
            free = divergence.mean(1, keepdim=True) < self.free_bits
            paid = torch.where(free, self.free_bits, divergence)
        ramp = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        objective = self.beta * ramp * paid.sum(0) - explained
        if self.discriminator is not None:
            objective = objective + self.adversarial * softplus(-self._realness(self._fake(context, len(z)), context))
        return objective + (bound - objective).detach()

    def discrimination(self, z: Tensor) -> Tensor:
        """Loss of the discriminator between rows and draws of the decoder, shape ``(n,)``."""
        x, context = self.condition.split(z)
        with torch.no_grad():
            fake = self._fake(context, len(z))
        real = self.observation.describe(x)
        return softplus(-self._realness(real, context)) + softplus(self._realness(fake, context))

    def objectives(self) -> list[Objective]:
        """The bound; against it, where asked for, a discriminator."""
        judge = [] if self.discriminator is None else list(self.discriminator.parameters())
        own = [p for p in self.parameters() if all(p is not other for other in judge)]
        return [(own, self.loss), *([(judge, self.discrimination)] if judge else [])]

    def on_epoch(self, progress: float) -> None:
        """Warm up the divergence, cool down the relaxation of categories."""
        self.progress = progress
        self.code.anneal(progress)

    def monitor(self, z: Tensor) -> Tensor:
        """Minus the likelihood that scores have, of few draws."""
        return -(self._summed(z) if self.code.exact else self._bound(z, min(FEW, self.bank.shape[1])))

    def measure(self, z: Tensor) -> dict[str, float]:
        """Number of active units: codes whose posterior mean varies from row to row."""
        varied = self.latent(z).t().var(1, correction=0) > ACTIVE
        return {"active_units": float(varied.view(self.code.units, -1).any(1).sum())}

    def complaints(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """Whether the posterior has collapsed onto the prior."""
        if not history or history[-1]["active_units"] > 0:
            return []
        return [
            f"none of the {self.code.units} latent units is active: the posterior has collapsed onto the prior, and "
            "columns are modelled as independent. Unless they are, raise max_epochs, warmup or free_bits, or lower beta"
        ]

    def latent(self, z: Tensor) -> Tensor:
        """Posterior mean of every row's code, shape ``(n, k)``; probabilities of categories where codes are these."""
        return self.code.mean(self._posterior(*self.condition.split(z))).t()

    def features(self, z: Tensor) -> Tensor:
        """The latent means: where a nearest-neighbour statistic looks for similar rows."""
        return self.latent(z)

    def reconstruct(self, z: Tensor) -> Tensor:
        """What the decoder makes of a row's latent mean, shape ``(n, d)``.

        Numbers get their expectation; a level gets its own number plus the probability of all other levels, so that the
        difference is what the reconstruction misses.
        """
        x, context = self.condition.split(z)
        outputs = self._decode(self.code.mean(self._posterior(x, context)), context)
        rows = self.observation.expected(outputs, x).t()
        return torch.cat([rows, z[:, self.condition.dim :]], 1)

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        like = self.observation.log_scale
        context = self.condition.context_for(n, condition, like)
        x = self.observation.sample(self._decode(self.code.sample(n, like), context))
        return self.condition.join(x.t(), condition).contiguous()

    def _posterior(self, x: Tensor, context: Tensor) -> Tensor:
        y: Tensor = self.encoder(_beside(self.observation.describe(x), context))
        return y.to(x.dtype)

    def _decode(self, code: Tensor, context: Tensor) -> Tensor:
        y: Tensor = self.decoder(_beside(code, context))
        return y.to(code.dtype)

    def _terms(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood given one draw ``(n,)``, and the divergence of every unit ``(units, n)``."""
        posterior = self._posterior(x, context)
        code = self.code.draw(posterior, self.code.noise(x.shape[1], x))
        return self.observation.log_prob(self._decode(code, context), x), self.code.divergence(posterior)

    def _bound(self, z: Tensor, draws: int) -> Tensor:
        x, context = self.condition.split(z)
        n, posterior = len(z), self._posterior(x, context)
        if draws > 1:
            x, context, posterior = (part.repeat(1, draws) for part in (x, context, posterior))
        noise = self.bank[:, :draws].expand(-1, -1, n).reshape(-1, draws * n)
        explained = self.observation.log_prob(self._decode(self.code.draw(posterior, noise), context), x)
        weight = explained + self.code.log_weight(posterior, noise).sum(0)
        return weight.view(draws, n).logsumexp(0) - math.log(draws) if draws > 1 else weight

    def _summed(self, z: Tensor) -> Tensor:
        x, context = self.condition.split(z)
        codes, log_share = cast(Discrete, self.code).enumerate()
        each = [
            self.observation.log_prob(self._decode(code[:, None].expand(-1, len(z)), context), x)
            for code in codes.unbind(1)
        ]
        total: Tensor = (torch.stack(each) + log_share[:, None]).logsumexp(0)
        return total

    def _fake(self, context: Tensor, n: int) -> Tensor:
        code = self.code.sample(n, self.observation.log_scale)
        return self.observation.imitate(self._decode(code, context))

    def _realness(self, described: Tensor, context: Tensor) -> Tensor:
        assert self.discriminator is not None
        logit: Tensor = self.discriminator(_beside(described, context))
        return logit[0].to(described.dtype)


def _beside(x: Tensor, context: Tensor) -> Tensor:
    return torch.cat([x, context]) if len(context) else x


class VAEDetector(TransformerMixin, ClassNamePrefixFeaturesOutMixin, ConditionalDetector):  # type: ignore[misc]
    r"""Anomaly detector on a variational autoencoder: a density by codes that rows are explained from.

    An encoder :math:`q(u \mid x)` guesses the code of a row, a decoder :math:`p(x \mid u)` explains the row by it, and
    both are trained by the evidence lower bound. Scores are the tighter importance-weighted bound over `draws` codes:

    .. math:: \log p(x) \ge E \log \frac1K \sum_{k=1}^K \frac{p(u_k)\, p(x \mid u_k)}{q(u_k \mid x)}
       \ge E_q \log p(x \mid u) - KL(q \,\|\, p) .

    The noise of the draws is fixed when the model is made, so that a row always has the same score; the bound holds on
    average over rows and such banks of noise. Numbers are explained with a learned scale each, levels by their
    probability, and missing values are left out of the sum exactly. Beyond the parameters below it takes those of
    :class:`anomgen.Detector`.

    Parameters
    ----------
    latent : {"normal", "horseshoe", "rectified", "piecewise", "discrete"}, default="normal"
        The prior of the codes.

        - ``"normal"``: standard normal.
        - ``"horseshoe"``: normal times half-Cauchy: sparse codes with heavy tails.
        - ``"rectified"``: normal cut at zero: a unit is exactly off for half of the rows.
        - ``"piecewise"``: normal on each of some pieces with learned masses: clusters and gaps.
        - ``"discrete"``: categories. Training draws them by the Gumbel-softmax; scores sum over all codes, so that they
          are exact log-likelihoods.
    latent_dim : int or "auto", default="auto"
        Units of a code. ``"auto"`` has as many as coordinates, at most 16: the divergence switches off those it does
        not need. Of categorical units, as many as make up to 256 codes.
    categories : int, default=8
        Categories of a discrete unit. ``categories ** latent_dim`` is at most 4,096.
    pieces : int, default=8
        Pieces of a piecewise prior.
    hidden : tuple of int, default=(128, 128)
        Widths of the hidden layers of the encoder; the decoder has them in reverse.
    decoder : {"gaussian", "student"}, default="gaussian"
        How a number scatters around what the decoder says: normally, or by Student's t with learned degrees of freedom,
        which forgives single values far off.
    beta : float, default=1.0
        Weight of the divergence in training; above 1 codes say less, below more. Scores have weight 1 always.
    free_bits : float, default=0.0
        Nats of divergence that every unit has free in training, so that it is not switched off early.
    warmup : float, default=0.5
        Share of the schedule over which the weight of the divergence rises from zero: codes that have found a use are
        worth their cost, while codes that cost from the first find none.
    draws : int, default=16
        Codes that the bound of a score averages over; more are tighter and slower.
    adversarial : float, default=0.0
        Weight of a second loss: a discriminator learns to tell rows from draws of the decoder, which learns to pass.

    Notes
    -----
    When to choose it: for rows of many columns that few causes move, for tables with many levels or gaps, and as a
    feature step: :meth:`transform` gives the latent means. Densities are bounds, blurred by the decoder's scales; a
    flow is sharper on a few continuous columns.

    The posterior may collapse onto the prior, after which codes say nothing. The history counts the active units,
    whose latent mean varies over rows by more than 0.01; a ``ConvergenceWarning`` says so when there is none left.

    References
    ----------
    Kingma, Welling (2013), *Auto-Encoding Variational Bayes*, arXiv:1312.6114.

    Burda, Grosse, Salakhutdinov (2015), *Importance Weighted Autoencoders*, arXiv:1509.00519 (the bound of scores, and
    active units).

    Higgins et al. (2017), *beta-VAE*, ICLR.

    Kingma et al. (2016), *Improving Variational Inference with Inverse Autoregressive Flow*, arXiv:1606.04934 (free
    bits).

    Larsen, Sonderby, Larochelle, Winther (2015), *Autoencoding beyond Pixels using a Learned Similarity Metric*,
    arXiv:1512.09300 (the adversarial loss).

    Nazabal, Olmos, Ghahramani, Valera (2018), *Handling Incomplete Heterogeneous Data using VAEs*, arXiv:1807.03653.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 0.1]])
    >>> detector = VAEDetector(latent_dim=2, hidden=(16,), max_epochs=20, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0, 0.0]]) > detector.score_samples([[6.0, -6.0, 6.0]]))
    True
    >>> detector.transform(X).shape, list(detector.get_feature_names_out())
    ((200, 2), ['vaedetector0', 'vaedetector1'])
    """

    latent: str = "normal"
    latent_dim: int | Literal["auto"] = "auto"
    categories: int = 8
    pieces: int = 8
    hidden: tuple[int, ...] = (128, 128)
    decoder: str = "gaussian"
    beta: float = 1.0
    free_bits: float = 0.0
    warmup: float = 0.5
    draws: int = 16
    adversarial: float = 0.0

    def build(self, space: Space) -> VAE:
        """Make the untrained model for rows of `space`."""
        return VAE(
            space,
            latent=self.latent,
            latent_dim=self.latent_dim,
            categories=self.categories,
            pieces=self.pieces,
            hidden=self.hidden,
            decoder=self.decoder,
            beta=self.beta,
            free_bits=self.free_bits,
            warmup=self.warmup,
            draws=self.draws,
            adversarial=self.adversarial,
        )

    def transform(self, X: Any, condition: Any = None) -> NDArray[np.float64]:
        """Latent means of rows, the features that a model further down a pipeline can learn from.

        Parameters
        ----------
        X : frame or array of shape (n, p)
        condition : value, array of shape (n,), mapping of condition to these, or frame, optional
            What the rows are given; by default means are averaged over the conditions met in training, by how likely
            each makes the row.

        Returns
        -------
        ndarray of shape (n, k), float64
            A row's features depend on nothing but the row.

        Raises
        ------
        ValueError
            As :meth:`score_samples`.
        """
        self._absorb()
        X = validated(self, X, reset=False, minimum=1)
        given = {} if condition is None else {"given": self._given(condition, len(X))}
        rows = self.encoder_.encode(X, codes=True, **given)
        model, encoder, device = cast(VAE, self.model_), self.encoder_, fitting.device_of(self.model_)

        def latent(z: Tensor) -> Tensor:
            if condition is not None or not isinstance(encoder, JointEncoder):
                return model.latent(z).double()
            own, bank = z[:, : model.condition.dim], torch.from_numpy(encoder.bank_).to(device)
            each = [torch.cat([own, c.expand(len(z), -1)], 1) for c in bank]
            shares = torch.from_numpy(np.log(encoder.shares_)).to(device)
            likely = torch.stack([model.log_prob(part) for part in each]) + shares[:, None]
            means = torch.stack([model.latent(part) for part in each])
            return (likely.softmax(0)[..., None] * means).sum(0)

        size = model.passes * sum(tensor.numel() for tensor in model.state_dict().values())
        height = runtime.tile_height(size, device)
        return runtime.map_rows(latent, [torch.from_numpy(rows.z)], device=device, height=height)

    @property
    def _n_features_out(self) -> int:
        """How many columns :meth:`transform` makes; only a fitted detector knows."""
        return cast(VAE, self.model_).code.width
